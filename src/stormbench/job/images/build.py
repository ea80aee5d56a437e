"""`stormbench images build`: one image in one variant, by docker, podman, buildah or apptainer."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stormbench import __version__
from stormbench.core.errors import EXIT_DONE, RunError, UserError
from stormbench.job.checks.fit import LABEL
from stormbench.job.images import engines, lock, run, site
from stormbench.job.images.engines import Engine
from stormbench.job.images.recipe import Image, kit_folder
from stormbench.job.images.select import chosen

BINFMT = Path("/proc/sys/fs/binfmt_misc")
DETAIL = """\
Builds with the first of docker (with buildx), podman, buildah and apptainer that is usable here; --dry_run prints the exact command.
The base image is pinned by docker/images.lock. Without any network, give --base, --wheelhouse and --apt_mirror what the site has."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options beside those that all verbs have."""
    parser.description = DETAIL
    parser.add_argument("--base", metavar="IMAGE", help="base image in place of the recipe's, such as a site's mirror of it")
    parser.add_argument("--arch", metavar="NAME", help="x86_64 or aarch64, by default this machine's")
    parser.add_argument("--network", metavar="NAME", help="network of the build's steps, as the engine names it, such as host or none")
    parser.add_argument("--no_cache", action="store_true", help="take no layer of an earlier build")
    site.add_options(parser)
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Build the image, or print the command; tell its name, id and size."""
    image = chosen(arguments)
    kit = kit_folder(arguments.kit)
    engine = engines.choose(arguments.engine, engines.BUILD, dry_run=arguments.dry_run)
    foreign = engines.foreign(image.architectures, arguments.arch)
    if foreign and not arguments.dry_run:
        require_emulation(arguments.arch)
    base, digest = (arguments.base, "") if arguments.base else lock.base_with_digest(kit, image.base)
    own = site.site_of(arguments, image, os.environ)
    tag = arguments.tag or image.tag
    values = build_arguments(image, base, digest, arguments.base, revision(kit))
    log = run.log_path(Path(arguments.folder), image.key, "build")
    started = time.monotonic()
    with site.secret_files(own, dry_run=arguments.dry_run) as secrets:
        more = {"platform": foreign, "network": arguments.network, "no_cache": arguments.no_cache, "folder": Path(arguments.folder)}
        step = build_step(engine, image, kit, tag, values, secrets, own.wheelhouse, **more)
        if arguments.dry_run:
            run.show([step])
            return EXIT_DONE
        given = ", ".join([*own.given, *(["wheelhouse"] if own.wheelhouse else [])])
        run.note(f"{engine.name} builds {tag} on {base}{f' with {given} of the site' if given else ''}; log: {log}")
        run.perform([step], log, quiet=arguments.json)
    report(engine, image, tag, base, digest, log, time.monotonic() - started, as_json=arguments.json, folder=Path(arguments.folder))
    return EXIT_DONE


def build_arguments(image: Image, base: str, digest: str, other_base: str | None, commit: str) -> dict[str, str]:
    """Return the build arguments that every recipe takes, and the image's own."""
    return {
        "BASE": base, "BASE_NAME": other_base or image.base, "BASE_DIGEST": digest, "VERSION": __version__, "REVISION": commit,
        **image.arguments,
    }  # fmt: skip


def build_step(
    engine: Engine,
    image: Image,
    kit: Path,
    tag: str,
    values: Mapping[str, str],
    secrets: Mapping[str, Path],
    wheelhouse: Path | None,
    *,
    platform: str | None,
    network: str | None,
    no_cache: bool,
    folder: Path,
) -> run.Step:
    """Return the engine's command."""
    if engine.name == "apptainer":
        return _apptainer(engine, image, kit, values, secrets, wheelhouse, platform, folder)
    words = {
        # BuildKit, as the older builder of docker knows neither secrets nor further contexts
        "docker": ["docker", "buildx", "build", "--load"],
        # the OCI format has no health checks
        "podman": ["podman", "build", "--format", "docker"],
        "buildah": ["buildah", "build", "--format", "docker", "--layers"],
    }[engine.name]
    words += ["--file", str(kit / image.recipe), "--tag", tag]
    words += [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, value in labels(image).items() for word in ("--label", f"{LABEL}{name}={value}")]
    words += [word for name, path in secrets.items() for word in ("--secret", f"id={name},src={path}")]
    words += ["--build-context", f"wheelhouse={wheelhouse}"] if wheelhouse else []
    words += ["--platform", f"linux/{platform}"] if platform else []
    words += ["--network", network] if network else []
    words += ["--no-cache"] if no_cache else []
    return run.Step(words=(*words, str(kit)), why=f"build {tag}")


def labels(image: Image) -> dict[str, str]:
    """Return what an image's labels say for the doctor, under the names that image.json has."""
    found = {"image": image.name, "variant": image.variant, "python": image.python, "glibc": image.glibc, "mpi": image.mpi}
    return found | {name: value for name, value in (("cuda", image.cuda), ("rocm", image.rocm), ("driver", image.driver)) if value}


def _apptainer(
    engine: Engine, image: Image, kit: Path, values: Mapping[str, str], secrets: Mapping[str, Path], wheelhouse: Path | None,
    platform: str | None, folder: Path,
) -> run.Step:  # fmt: skip
    """Return apptainer's command: its recipe is a .def file, secrets and wheels are mounts of its build, and the result is a file."""
    if platform:
        raise UserError(
            f"--arch: apptainer builds for its own machine alone; for linux/{platform} take such a machine, or docker or podman"
        )
    target = folder / f"{image.tag.replace(':', '_')}.sif"
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    words = [engine.program, "build", "--force"]
    if os.geteuid() != 0:
        words.append("--fakeroot")
    words += [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, path in secrets.items() for word in ("--bind", f"{path}:/run/secrets/{name}")]
    words += ["--bind", f"{wheelhouse}:/wheelhouse"] if wheelhouse else []
    recipe = kit / "apptainer" / f"{image.name}.def"

    def finish() -> None:
        partial.replace(target)

    folder.mkdir(parents=True, exist_ok=True)
    return run.Step(words=(*words, str(partial), str(recipe)), why=f"build {target}", action=finish)


def require_emulation(architecture: str | None, folder: Path = BINFMT) -> None:
    """Make sure that this kernel runs programs of another architecture.

    Raises:
        UserError: it doesn't.
    """
    if architecture and not any((folder / name).exists() for name in (f"qemu-{architecture}", f"qemu-{architecture}-static")):
        raise UserError(
            f"--arch {architecture}: this kernel runs no programs of it ({folder}/qemu-{architecture} is absent); "
            "install qemu-user-static, or build on such a machine"
        )


def revision(kit: Path) -> str:
    """Return the checkout's commit, with `+changes` where its files differ from it; `unknown` where there is no git."""
    try:
        commit = run.ask(["git", "-C", str(kit), "rev-parse", "HEAD"], limit_s=10).strip()
        changed = run.ask(["git", "-C", str(kit), "status", "--porcelain", "--untracked-files=no"], limit_s=10).strip()
    except RunError:
        return "unknown"
    return commit + ("+changes" if changed else "")


def report(
    engine: Engine, image: Image, tag: str, base: str, digest: str, log: Path, seconds: float, *, as_json: bool, folder: Path
) -> None:
    """Tell what was built, and whether it keeps its limit of size."""
    told: dict[str, Any] = {
        "image": image.name, "variant": image.variant, "engine": engine.name, "base": base, "base_digest": digest, "log": str(log),
        "seconds": round(seconds, 1),
    }  # fmt: skip
    if engine.name == "apptainer":
        path = folder / f"{image.tag.replace(':', '_')}.sif"
        told |= {"file": str(path), "size_bytes": path.stat().st_size}
    else:
        found = engines.inspect(engine, engines.reference(engine, tag))
        told |= {"tag": tag, "id": found["id"], "size_bytes": found["size_bytes"]}
    size = told["size_bytes"]
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        facts = [f"{size / 1e9:.2f} GB"] if size else []
        facts += [told["id"]] if "id" in told else []
        print(", ".join([f"{told.get('tag') or told.get('file')}: built by {engine.name} in {seconds:.0f} s", *facts]))
    if size and size > image.max_size_gb * 1e9:
        run.note(f"{tag} has {size / 1e9:.2f} GB, its limit in images.toml is {image.max_size_gb:g} GB")
