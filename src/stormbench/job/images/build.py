"""`stormbench images build`: one image in one variant, by docker, podman, buildah or apptainer."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stormbench
from stormbench.core.errors import EXIT_DONE, RunError, UserError
from stormbench.core.files import PARTIAL_SUFFIX
from stormbench.core.imagerecord import LABEL
from stormbench.job.images import engines, lock, record, run, site
from stormbench.job.images.engines import Engine
from stormbench.job.images.export import describe
from stormbench.job.images.recipe import TOOLKIT, Image, kit_folder
from stormbench.job.images.select import chosen

BINFMT = Path("/proc/sys/fs/binfmt_misc")
DETAIL = """\
Builds with the first of docker (with buildx), podman, buildah and apptainer that is usable here; --dry_run prints the exact command.
The base image is pinned by docker/images.lock. Without any network, give --base, --wheelhouse and --apt_mirror what the site has."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options beside those that all verbs have."""
    parser.description = DETAIL
    parser.add_argument("--base", metavar="IMAGE", help="base image in place of the recipe's, such as a site's mirror of it")
    parser.add_argument(
        "--toolkit", metavar="IMAGE", help="image with CUDA's compiler in place of the recipe's; scratch where the wheelhouse has Horovod"
    )
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
    if foreign and not arguments.dry_run and engine.name != "apptainer":
        require_emulation(arguments.arch)
    base, digest = (arguments.base, "") if arguments.base else lock.base_with_digest(kit, image.base)
    own = site.site_of(arguments, image, os.environ)
    tag, folder = arguments.tag or image.tag, Path(arguments.folder)
    values = build_arguments(image, base, digest, arguments.base, kit)
    if TOOLKIT in values:
        values[TOOLKIT] = arguments.toolkit or lock.base_with_digest(kit, values[TOOLKIT])[0]
    elif arguments.toolkit:
        raise UserError(f"--toolkit {arguments.toolkit}: nothing of {image.key} is compiled for CUDA; leave it out")
    if engine.name == "apptainer" and arguments.toolkit:
        raise UserError(f"--toolkit {arguments.toolkit}: apptainer's builds mount no image; give a wheelhouse with a wheel of Horovod")
    if engine.name == "apptainer" and (foreign or arguments.network or arguments.no_cache):
        raise UserError("--arch, --network, --no_cache: apptainer's builds have none of them; leave them out, or take docker or podman")
    target = folder / f"{tag.replace('/', '_').replace(':', '_')}.sif"
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    log = run.log_path(folder, image.key, "build")
    started = time.monotonic()
    with site.secret_files(own, dry_run=arguments.dry_run) as secrets:
        if engine.name == "apptainer":
            step = _apptainer(engine, image, kit, partial, values, secrets, own.wheelhouse)
        else:
            step = build_step(engine, image, kit, tag, values, secrets, own.wheelhouse, foreign, arguments.network, arguments.no_cache)
        if arguments.dry_run:
            run.show([step])
            return EXIT_DONE
        given = ", ".join([*own.given, *(["wheelhouse"] if own.wheelhouse else [])])
        run.note(f"{engine.name} builds {tag} on {base}{f' with {given} of the site' if given else ''}; log: {log}")
        try:
            run.perform([step], log, quiet=arguments.json)
            if engine.name == "apptainer":
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    told: dict[str, Any] = {
        "image": image.name, "variant": image.variant, "engine": engine.name, "base": base, "base_digest": digest, "log": str(log),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    if engine.name == "apptainer":
        labels_of = {"org.opencontainers.image.base.name": values["BASE_NAME"], "org.opencontainers.image.base.digest": digest}
        known = {"id": "", "digest": "", "architecture": platform.machine(), "labels": labels_of}
        written = describe(image, tag, engine, engine, known, target)
        record.add(folder, target.name, written)
        told |= {"file": str(target), "size_bytes": written["size_bytes"], "id": written["sha256"]}
    else:
        found = engines.inspect(engine, engines.reference(engine, tag))
        told |= {"tag": tag, "id": found["id"], "size_bytes": found["size_bytes"]}
    report(image, told, as_json=arguments.json)
    return EXIT_DONE


def build_arguments(image: Image, base: str, digest: str, other_base: str | None, kit: Path) -> dict[str, str]:
    """Return the build arguments that every recipe takes, and the image's own."""
    own = {"VERSION": stormbench.__version__, "REVISION": revision(kit), "SOURCE": source(kit), **image.arguments}
    return {"BASE": base, "BASE_NAME": other_base or image.base, "BASE_DIGEST": digest, **own}


def build_step(
    engine: Engine,
    image: Image,
    kit: Path,
    tag: str,
    values: Mapping[str, str],
    secrets: Mapping[str, Path],
    wheelhouse: Path | None,
    foreign: str | None,
    network: str | None,
    no_cache: bool,
) -> run.Step:
    """Return the command of docker, podman or buildah; `foreign` is another architecture's name, else None."""
    words = {
        # BuildKit, as the older builder of docker knows neither secrets nor further contexts
        "docker": ["docker", "buildx", "build", "--load"],
        # the OCI format has no health checks
        "podman": ["podman", "build", "--format", "docker"],
        # without --force-rm it leaves a container of each stage that begins with nothing
        "buildah": ["buildah", "build", "--format", "docker", "--layers", "--force-rm"],
    }[engine.name]
    words += ["--file", str(kit / image.recipe), "--tag", tag]
    words += [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, value in labels(image).items() for word in ("--label", f"{LABEL}{name}={value}")]
    words += [word for name, path in secrets.items() for word in ("--secret", f"id={name},src={path}")]
    words += ["--build-context", f"wheelhouse={wheelhouse}"] if wheelhouse else []
    words += ["--platform", f"linux/{foreign}"] if foreign else []
    words += ["--network", network] if network else []
    words += ["--no-cache"] if no_cache else []
    return run.Step(words=(*words, str(kit)), why=f"build {tag}")


def labels(image: Image) -> dict[str, str]:
    """Return what an image's labels say for the doctor, under the names that image.json has."""
    found = {"image": image.name, "variant": image.variant, "python": image.python, "glibc": image.glibc, "mpi": image.mpi}
    return found | {name: value for name, value in (("cuda", image.cuda), ("rocm", image.rocm), ("driver", image.driver)) if value}


def _apptainer(
    engine: Engine, image: Image, kit: Path, target: Path, values: Mapping[str, str], secrets: Mapping[str, Path], wheelhouse: Path | None
) -> run.Step:
    """Return apptainer's command: its recipe is a .def file, secrets and wheels are mounts of its build, and the result is a file."""
    words = [engine.program, "build"]
    if os.geteuid() != 0:
        words.append("--fakeroot")
    values = {**values, "BASE": without_tag(values["BASE"])}
    kinds = {".sif": "localimage", ".tar": "docker-archive"}
    local = kinds.get(Path(values["BASE"]).suffix)
    if local:
        # its cache of layers, in the user's home, is of no use to a base that lies here anyway
        words.append("--disable-cache")
        values["BOOTSTRAP"] = local
    words += [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for name, path in secrets.items() for word in ("--bind", f"{path}:/run/secrets/{name}")]
    words += ["--bind", f"{wheelhouse}:/wheelhouse"] if wheelhouse else []
    # the recipe's paths begin in the kit's folder
    recipe = str(Path("apptainer") / f"{image.name}.def")
    return run.Step(words=(*words, str(target.absolute()), recipe), why=f"build {image.tag} as a .sif", folder=kit)


def without_tag(base: str) -> str:
    """Return a base's name without its tag where it has a digest: apptainer takes only one of them."""
    name, at, digest = base.partition("@")
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}@{digest}" if at else base


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


def source(kit: Path) -> str:
    """Return the address of the checkout's repository without a user or a password; empty where there is none."""
    try:
        url = run.ask(["git", "-C", str(kit), "remote", "get-url", "origin"], limit_s=10).strip()
    except RunError:
        return ""
    # of https://USER:PASSWORD@HOST/PATH; git@HOST:PATH has only a name that all share
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", url)


def report(image: Image, told: dict[str, Any], *, as_json: bool) -> None:
    """Tell what was built, and whether it keeps its limit of size."""
    size, name = told["size_bytes"], told.get("tag") or told["file"]
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        facts = [f"{size / 1e9:.2f} GB"] if size else []
        print(", ".join([f"{name}: built by {told['engine']} in {told['seconds']:.0f} s", *facts, told["id"]]))
    if size and size > image.max_size_gb * 1e9:
        run.note(f"{name} has {size / 1e9:.2f} GB, its limit in images.toml is {image.max_size_gb:g} GB")
