"""`stormbench images constraints`: the exact versions of an image's Python packages, checked without a network and renewed with one.

A file has two parts: what was chosen, which a renewal keeps, and what pip resolved from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, RunError, UserError
from stormbench.core.files import write_text
from stormbench.core.tables import show
from stormbench.job.images import recipe, run
from stormbench.job.images.recipe import Image, kit_folder, read_images

CHOSEN, RESOLVED = "# Chosen; a renewal keeps these:", "# Resolved from these:"
ALONE = "# resolved alone"
"""Ends the line of a chosen package whose own dependencies pip can't be asked for; they are chosen too."""
OF_BASE = "# From the base image: "
"""Begins the line of the required packages that a vendor's base image brings in versions of its own."""
OF_GPUS = re.compile(r"(nvidia|cuda|cupy|triton|pytorch-triton|tensorrt|torch-tensorrt|intel-extension)(-.*)?|.*-cu1\d|.*rocm.*")
LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<versions>(?:,?(?:==|!=)[A-Za-z0-9.+!_-]+)+)")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
"""PyPI's torch is the build for CUDA."""
OLDEST_GLIBC = 5
"""Wheels are built for C libraries from 2.5 on; pip wants each that will do to be named."""
LIMIT_S = 900.0
LEFT_OUT = ("pip", "setuptools", "wheel", "stormbench")
"""Belong to the environment rather than to the image's promise."""
DETAIL = """\
Without --write nothing is asked or changed: each file must pin every package that its image's requirements name, once, and a CPU image must
name none for GPUs. --write resolves the requirements again with pip, which keeps what was chosen; what it can't find is reported, and the
file stays. --dry_run prints pip's command."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.description = DETAIL
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="deepcam or cloudmask; by default all")
    parser.add_argument("--variant", metavar="NAME", help="one variant of it; by default all")
    parser.add_argument("--write", action="store_true", help="resolve with pip, and renew the files")
    parser.add_argument("--dry_run", action="store_true", help="print pip's commands and run none")
    parser.add_argument("--kit", metavar="DIR", help="the kit's checkout, by default the one of this program")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Check or renew the files of the chosen images; 1 where one is wrong or can't be resolved."""
    kit = kit_folder(arguments.kit)
    images = read_images(kit)
    if arguments.image is not None:
        chosen = [image for image in images if image.name == arguments.image]
        images = chosen or [recipe.choose(images, arguments.image, arguments.variant or "")]
    if arguments.variant is not None:
        if arguments.image is None:
            raise UserError(
                f"--variant {arguments.variant}: of which image? name it too: stormbench images constraints IMAGE --variant NAME"
            )
        images = [recipe.choose(images, arguments.image, arguments.variant)]
    if arguments.dry_run:
        run.show([step(kit, image, Path(tempfile.gettempdir()) / "stormbench-constraints") for image in images])
        return EXIT_DONE
    rows = [_renew(kit, image) if arguments.write else _check(kit, image) for image in images]
    show(rows, as_json=arguments.json)
    return EXIT_DONE if all(row["state"] == "ok" for row in rows) else EXIT_FAILED


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path: Path) -> dict[str, str]:
    """Return the pins of a constraints file by canonical name: `==1.2` or `==1.2,!=1.2+cpu`.

    Raises:
        UserError: a line is no exact version, or a package is there twice.
    """
    pins: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None or match["versions"].count("==") != 1:
            raise UserError(f"{path}:{number}: {text!r} must be NAME==VERSION, one exact version")
        name = canonical(match["name"])
        if name in pins:
            raise UserError(f"{path}:{number}: {name} is there twice; keep one of {pins[name]} and {match['versions']}")
        pins[name] = match["versions"]
    return pins


def required(path: Path) -> list[str]:
    """Return the canonical names that a requirements file asks for."""
    found = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if text:
            match = _REQUIREMENT.match(text)
            if match is None:
                raise UserError(f"{path}:{number}: {text!r} names no package")
            found.append(canonical(match[1]))
    return found


def of_base(path: Path) -> list[str]:
    """Return the canonical names of the packages that the base image brings."""
    return [canonical(name) for line in _text(path).splitlines() if line.startswith(OF_BASE) for name in line.removeprefix(OF_BASE).split()]


def wrong(kit: Path, image: Image) -> list[str]:
    """Return what is wrong with an image's constraints, a sentence each."""
    path = kit / image.constraints
    try:
        pins = read(path)
        names = required(kit / image.requirements)
        given = of_base(path)
    except UserError as error:
        return [str(error)]
    found = [f"{path}: {name} of {image.requirements} has no version" for name in names if name not in pins and name not in given]
    found += [f"{path}: {name} is pinned, and said to come from the base image" for name in given if name in pins]
    if image.accelerator == "none":
        found += [f"{path}: {name} is for GPUs, and {image.key} for CPUs" for name in pins if OF_GPUS.fullmatch(name)]
        torch = pins.get("torch")
        if torch and "+cpu" not in torch:
            found.append(f"{path}: torch{torch} is PyPI's build for CUDA; pin the CPU's, torch{torch}+cpu")
    doubled = [name for name in set(names) if names.count(name) > 1]
    return found + [f"{kit / image.requirements}: {name} is there twice" for name in doubled]


def step(kit: Path, image: Image, folder: Path) -> run.Step:
    """Return pip's command for an image: nothing is installed, and only metadata is fetched where the index has it apart.

    Raises:
        UserError: the file of constraints has no part of chosen versions.
    """
    _, chosen, alone = parts(kit / image.constraints)
    given = [*alone, *of_base(kit / image.constraints)]
    machine = image.architectures[0]
    words = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--retries", "1"]
    words += ["--report", str(folder / "report.json"), "--constraint", str(folder / "chosen.txt"), "--target", str(folder / "none")]
    words += ["--only-binary", ":all:", "--python-version", image.python]
    minor = int(image.glibc.partition(".")[2])
    tags = [f"manylinux_2_{number}" for number in range(minor, OLDEST_GLIBC - 1, -1)] + ["manylinux2014", "manylinux2010", "manylinux1"]
    words += [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    names = [canonical(LINE.match(line)["name"]) for line in chosen]  # type: ignore[index]
    if of_base(kit / image.constraints):
        # all they need is the base image's own
        words.append("--no-deps")
    if image.accelerator == "none" and "torch" in names:
        words += ["--extra-index-url", TORCH_FOR_CPUS]
    wanted = {canonical(_REQUIREMENT.match(text)[1]): text for text in _requirements(kit / image.requirements)}  # type: ignore[index]
    # what was chosen beside the requirements is needed by those that are resolved alone
    wanted |= {name: name for name in names if name not in wanted}
    words += [text for name, text in wanted.items() if name not in given]
    return run.Step(words=tuple(words), why=f"resolve {image.key} with what is chosen in {image.constraints}")


def parts(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the first comment lines, the chosen lines, and the names among these that are resolved alone.

    Raises:
        UserError: there is no part of chosen versions.
    """
    lines = _text(path).splitlines()
    if CHOSEN not in lines:
        raise UserError(f"{path}: has no line {CHOSEN!r}, after which a renewal finds the versions to keep")
    start = lines.index(CHOSEN)
    end = lines.index(RESOLVED) if RESOLVED in lines else len(lines)
    chosen = [line for line in lines[start + 1 : end] if line.strip()]
    alone = [canonical(LINE.match(line)["name"]) for line in chosen if line.endswith(ALONE)]  # type: ignore[index]
    return lines[:start], chosen, alone


def resolve(kit: Path, image: Image) -> dict[str, str]:
    """Return what pip resolves, by canonical name, the environment's own tools left out.

    Raises:
        RunError: pip can't.
    """
    _, chosen, alone = parts(kit / image.constraints)
    with tempfile.TemporaryDirectory(prefix="stormbench-constraints-") as folder:
        # a name that is not asked for limits nothing
        write_text(Path(folder) / "chosen.txt", "".join(line.partition("#")[0].strip() + "\n" for line in chosen))
        run.ask(step(kit, image, Path(folder)).words, limit_s=LIMIT_S, called="pip")
        try:
            installed = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))["install"]
            found = {canonical(item["metadata"]["name"]): str(item["metadata"]["version"]) for item in installed}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunError(f"pip's report can't be read ({type(error).__name__}: {error})") from error
    return {name: version for name, version in found.items() if name not in LEFT_OUT and name not in alone}


def text_of(head: Iterable[str], chosen: Iterable[str], found: dict[str, str]) -> str:
    """Return the file: the chosen lines as they were, then all else that was resolved, sorted."""
    chosen = list(chosen)
    names = {canonical(LINE.match(line)["name"]) for line in chosen}  # type: ignore[index]
    rest = [f"{name}=={version}" for name, version in sorted(found.items()) if name not in names]
    return "\n".join([*head, CHOSEN, *chosen, "", RESOLVED, *rest, ""])


def _check(kit: Path, image: Image) -> dict[str, Any]:
    found = wrong(kit, image)
    told = "; ".join(found) or f"{len(read(kit / image.constraints))} packages"
    return {"image": image.key, "state": "wrong" if found else "ok", "told": told}


def _renew(kit: Path, image: Image) -> dict[str, Any]:
    path = kit / image.constraints
    run.note(f"{image.key}: pip resolves, which takes a minute")
    try:
        head, chosen, _ = parts(path)
        text = text_of(head, chosen, resolve(kit, image))
    except (RunError, UserError) as error:
        return {"image": image.key, "state": "not resolved", "told": f"{path} stays as it was: {error}"}
    changed = text != path.read_text(encoding="utf-8")
    if changed:
        write_text(path, text)
    return {**_check(kit, image)} | ({"told": f"{path}: renewed"} if changed and not wrong(kit, image) else {})


def _requirements(path: Path) -> list[str]:
    return [text for line in _text(path).splitlines() if (text := line.partition("#")[0].strip())]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
