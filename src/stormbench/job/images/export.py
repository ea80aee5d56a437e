"""`stormbench images export`: a local image as a file for a cluster, .sif for apptainer or .sqsh for enroot, with image.json beside it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, UserError
from stormbench.core.files import PARTIAL_SUFFIX, reported_os_errors
from stormbench.job.images import engines, record, run
from stormbench.job.images.engines import BY_NAME, Engine
from stormbench.job.images.recipe import Image
from stormbench.job.images.select import chosen

FORMATS = {"sif": "apptainer", "sqsh": "enroot"}
"""What writes each format."""
SOURCES = {"sif": ("docker", "podman", "buildah"), "sqsh": ("docker", "podman")}
"""Whose stores each format can be made from."""
COMPRESSION = {"gzip": "-comp gzip", "zstd": "-comp zstd -Xcompression-level 3"}
"""What mksquashfs is told; its own level for zstd, 15, is slower than gzip."""
MANIFEST = "/opt/stormbench/manifest.txt"
DETAIL = """\
Writes the image to FOLDER/NAME.sif or .sqsh and records its packages and digests in FOLDER/image.json, which runs keep in their folder.
A file that is there from the same image is left as it is; after an interruption the same command goes on with what it had."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options beside those that all verbs have."""
    parser.description = DETAIL
    parser.add_argument("--format", choices=tuple(FORMATS), help="by default sif where apptainer is here, else sqsh")
    parser.add_argument("--output", metavar="FILE", help="file to write, by default FOLDER/stormbench-IMAGE_VERSION-VARIANT and the format")
    parser.add_argument(
        "--compression", choices=tuple(COMPRESSION), help="of a .sif: zstd is faster, and needs Linux 4.14 or later on the nodes"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that came from another image")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Export the image, or print the commands; tell the file and its hash."""
    image = chosen(arguments)
    form, source = sides(arguments)
    writer = BY_NAME[FORMATS[form]]
    tag = arguments.tag or image.tag
    target = target_of(arguments, tag, form)
    name = engines.reference(source, tag)
    if arguments.dry_run:
        run.show(plan(source, writer, name, tag, target, work_folder(target) / "image.tar", _partial(target), arguments.compression))
        return EXIT_DONE
    found = engines.inspect(source, name)
    require_architecture(found["architecture"], writer, tag)
    log = run.log_path(Path(arguments.folder), image.key, "export")
    with reported_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with record.locked(target):
        kept = still_good(target, found["id"], force=arguments.force)
        if kept is None:
            write(source, writer, name, tag, target, found["id"], log, arguments.compression, quiet=arguments.json)
            kept = describe(image, tag, source, writer, found, target)
            record.add(target.parent, target.name, kept)
            shutil.rmtree(work_folder(target), ignore_errors=True)
        else:
            run.note(f"{target}: is there already, from the same image {found['id'][:19]}")
    if arguments.json:
        print(json.dumps({"file": str(target), **kept}, indent=2))
    else:
        print(f"{target}: {kept['size_bytes'] / 1e9:.2f} GB, {kept['sha256']}; recorded in {target.with_name(record.NAME)}")
    return EXIT_DONE


def sides(arguments: argparse.Namespace) -> tuple[str, Engine]:
    """Return the format, and the engine whose store has the image.

    `--engine` may name either side: apptainer and enroot stand for their format.

    Raises:
        UserError: they don't fit together, or this machine lacks one of them.
    """
    given = arguments.engine
    form = arguments.format
    of_engine = next((name for name, engine in FORMATS.items() if engine == given), None)
    if of_engine is not None:
        if form not in (None, of_engine):
            raise UserError(f"--engine {given}: writes .{of_engine}, --format {form} is written by {FORMATS[form]}")
        form, given = of_engine, None
    if form is None:
        usable = [name for name, engine in FORMATS.items() if engines.state(BY_NAME[engine], engines.EXPORT)[0]]
        if not usable and not arguments.dry_run:
            raise UserError("neither apptainer, which writes .sif, nor enroot, which writes .sqsh, is here; install one, or see --dry-run")
        form = usable[0] if usable else "sif"
    elif not arguments.dry_run:
        good, why = engines.state(BY_NAME[FORMATS[form]], engines.EXPORT)
        if not good:
            raise UserError(
                f"--format {form}: {FORMATS[form]}, which writes it, isn't usable here ({why}); export on a machine that has it"
            )
    if given == "buildah" and form == "sqsh":
        raise UserError("--engine buildah: enroot imports from docker or podman alone; podman shares buildah's store: --engine podman")
    if arguments.compression and form == "sqsh":
        raise UserError("--compression: is of .sif files; enroot compresses a .sqsh by its own ENROOT_SQUASH_OPTIONS")
    return form, engines.choose(given, engines.EXPORT, dry_run=arguments.dry_run, among=SOURCES[form])


def target_of(arguments: argparse.Namespace, tag: str, form: str) -> Path:
    """Return the file to write.

    Raises:
        UserError: its name contradicts its format.
    """
    if arguments.output is None:
        return Path(arguments.folder) / f"{tag.replace('/', '_').replace(':', '_')}.{form}"
    path = Path(arguments.output).expanduser()
    if path.suffix != f".{form}":
        raise UserError(f"--output {arguments.output}: must end in .{form}, by which the job scripts know the format")
    return path


def require_architecture(name: str, writer: Engine, tag: str) -> None:
    """Make sure that the image is this machine's, as enroot and apptainer unpack and repack it.

    Raises:
        UserError: it is for another architecture, which enroot's import would mistake.
    """
    here = engines.GO_NAMES.get(platform.machine(), platform.machine())
    if writer.name == "enroot" and name and name != here:
        raise UserError(
            f"{tag}: is for {name}, this machine is {here}, and enroot imports its own machine's alone; export it on such a node"
        )


def plan(
    source: Engine, writer: Engine, name: str, tag: str, target: Path, archive: Path, partial: Path, compression: str | None = None
) -> list[run.Step]:
    """Return the commands, in order; `archive` is needed on the way from a store that apptainer can't read."""
    absolute = partial.absolute()
    if writer.name == "enroot":
        # the scheme tells the store
        scheme = {"docker": "dockerd", "podman": "podman"}[source.name]
        words = (writer.program, "import", "--output", str(absolute), f"{scheme}://{name}")
        return [run.Step(words=words, why=f"import {name} into {target.name}")]
    # its cache of layers, in the user's home, is of no use to an image that lies here anyway
    build = (writer.program, "build", "--disable-cache")
    build += (*(("--mksquashfs-args", COMPRESSION[compression]) if compression else ()), str(absolute))
    if source.name == "docker":
        return [run.Step(words=(*build, f"docker-daemon:{tag}"), why=f"convert {tag} into {target.name}")]
    save = {
        "podman": ("podman", "save", "--format", "docker-archive", "--output", str(archive), name),
        "buildah": ("buildah", "push", name, f"docker-archive:{archive}:{tag}"),
    }[source.name]
    return [
        run.Step(words=save, why=f"save {name} for apptainer"),
        run.Step(words=(*build, f"docker-archive:{archive}"), why=f"convert it into {target.name}"),
    ]


def write(
    source: Engine, writer: Engine, name: str, tag: str, target: Path, identity: str, log: Path, compression: str | None, *, quiet: bool
) -> None:
    """Run the plan, and rename the file when it is whole; a saved archive that an interrupted export left is used again."""
    work = work_folder(target)
    archive = work / f"{identity.removeprefix('sha256:')[:16]}.tar"
    unfinished = archive.with_name(f"{archive.name}{PARTIAL_SUFFIX}")
    partial = _partial(target)
    steps = plan(source, writer, name, tag, target, unfinished, partial, compression)
    with reported_os_errors(work):
        work.mkdir(exist_ok=True)
    try:
        if len(steps) == 2:
            if archive.exists():
                run.note(f"goes on with {archive}, which an earlier export has saved")
            else:
                # an engine refuses to write over what a killed one left
                unfinished.unlink(missing_ok=True)
                run.perform(steps[:1], log, quiet=quiet)
                unfinished.replace(archive)
            steps = plan(source, writer, name, tag, target, archive, partial, compression)[1:]
        run.note(f"writes {target}; log: {log}")
        run.perform(steps, log, quiet=quiet)
        with reported_os_errors(target):
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            work.rmdir()


def work_folder(target: Path) -> Path:
    """Return the folder of what an unfinished export keeps."""
    return target.with_name(f".{target.name}.work")


def _partial(target: Path) -> Path:
    # in the work folder of the target, thus in its file system; enroot and apptainer both want the file to be absent
    return work_folder(target) / f"{os.getpid()}{target.suffix}"


def still_good(target: Path, identity: str, *, force: bool) -> dict[str, Any] | None:
    """Return the record of a file that is there whole from the same image; None where it has to be written.

    Raises:
        UserError: another file is in the way.
    """
    if not target.exists():
        return None
    known = record.read(target.parent).get(target.name)
    if known and known.get("image_id") == identity and known.get("size_bytes") == target.stat().st_size:
        return known
    if not force:
        what = f"came from another image, {str(known.get('image_id'))[:19]}" if known else f"has no record in {record.NAME}"
        raise UserError(f"{target}: is there and {what}; give another --output, or --force to replace it")
    return None


def describe(image: Image, tag: str, source: Engine, writer: Engine, found: dict[str, Any], target: Path) -> dict[str, Any]:
    """Return the file's record: what it is, what is in it, and from where."""
    labels = found["labels"]
    base = {key: labels.get(f"org.opencontainers.image.base.{key}", "") for key in ("name", "digest")}
    return {
        "image": image.name, "variant": image.variant, "tag": tag, "image_id": found["id"], "digest": found["digest"], "base": base,
        "sha256": record.sha256(target), "size_bytes": target.stat().st_size,
        "exported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "by": [source.name, writer.name],
        "architecture": next((name for name, go in engines.GO_NAMES.items() if go == found["architecture"]), found["architecture"]),
        "python": image.python, "glibc": image.glibc, "cuda": image.cuda, "rocm": image.rocm, "driver": image.driver, "mpi": image.mpi,
        "labels": labels, "packages": record.packages(manifest(writer, target)),
    }  # fmt: skip


def manifest(writer: Engine, target: Path) -> str:
    """Return the manifest that is in the exported file itself."""
    if writer.name == "enroot":
        # enroot's own import needs the squashfs tools too
        return run.ask(["unsquashfs", "-cat", str(target), MANIFEST.lstrip("/")])
    return run.ask([writer.program, "exec", "--containall", "--cleanenv", "--no-home", str(target), "cat", MANIFEST])
