"""Converts SLSTR products, `.SEN3` folders, to HDF5 files in day and night folders; resumes where it was stopped.

    mpirun -np 8 python -m stormbench.cloudmask.convert products hdf
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stormbench.cloudmask import adjust as adjustment
from stormbench.cloudmask import chunks, hdf
from stormbench.cloudmask.product import FILES, Product, open_product
from stormbench.core import work
from stormbench.core.arguments import Parser
from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import writable_folder
from stormbench.core.progress import say

ENDING = ".SEN3"
PARTS = ("day", "night")
DEPTH = 3
"""Products lie directly below the input folder, or one or two folders deeper, as archives of several make them."""
SHOWN_FAILURES = 5


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where converted products go, and how they are to be."""

    output: Path
    layout: str
    adjust: str | tuple[float, ...]
    rads: bool
    zeros: bool
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one product: converted or skipped, then in which part; or failed, with a sentence."""

    status: str
    part: str = ""
    message: str = ""


def run(
    input_directory: str | os.PathLike[str],
    output_directory: str | os.PathLike[str],
    *,
    layout: str = hdf.COMPACT,
    adjust: str | Sequence[float] = adjustment.AUTO,
    rads: bool = False,
    zeros: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Turn each product below a folder into <output>/day/<name>.hdf or <output>/night/<name>.hdf.

    The products are shared over the ranks of mpirun or srun, or over `workers` processes, one per core by default; each
    has one product in memory, some 250 MB. Complete outputs that were made with the same settings and are not older than
    their product are kept unless `overwrite`. Broken products are reported at the end, after all others are done.

    Args:
        layout: `compact` or `published`, see hdf.py; the published one always has radiances.
        adjust: `auto`, `on`, `off` or six factors on the radiances, see adjust.py.
        rads: write radiances in compact files too.
        zeros: write 0, not NaN, for invalid pixels of published files.

    Returns:
        `converted` and `skipped` products, how many of them are `day` and `night`, and the `output_directory`.

    Raises:
        UserError: no products, a wrong option, or the output folder can't be written.
        RunError: products were broken (the others are converted), or the disk is full.
    """
    work.check(workers, "cloudmask")
    hdf.check_layout(layout, zeros)
    team = work.world()
    task = Task(
        output=Path(output_directory), layout=layout, adjust=adjustment.parse(adjust), rads=rads or layout == hdf.PUBLISHED,
        zeros=zeros, overwrite=overwrite,
    )  # fmt: skip
    source = Path(input_directory)
    with ExitStack() as stack:
        folders = team.first(lambda: _prepare(source, task, stack))
        outcomes = work.share(functools.partial(_outcome, task), folders, team=team, what="convert", workers=workers, progress=progress)
    team.first(lambda: _report(source, outcomes))
    statuses, parts = (Counter(getattr(outcome, field) for outcome in outcomes) for field in ("status", "part"))
    done = {"converted": statuses["converted"], "skipped": statuses["skipped"], "day": parts["day"], "night": parts["night"]}
    return {"output_directory": str(task.output), **done}


def find_products(source: Path) -> list[Path]:
    """Return the `.SEN3` folders directly below a folder and down to two folders deeper, sorted by name; or the folder itself.

    Of several with one name the first by path is taken: they hold the same product.

    Raises:
        UserError: no such folder, or no products there.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder with the extracted {ENDING} products")
    if source.resolve().name.endswith(ENDING):
        return [source]
    found, level = [], [source]
    for _ in range(DEPTH):
        below = [Path(entry.path) for folder in level for entry in _entries(folder) if entry.is_dir()]
        found += [path for path in below if path.name.endswith(ENDING)]
        level = [path for path in below if not path.name.endswith(ENDING)]
    if not found:
        zips = any(entry.name.endswith(".zip") for entry in _entries(source))
        fix = "extract its archives first: stormbench cloudmask extract" if zips else f"give the folder with the {ENDING} folders"
        raise UserError(f"{source}: no {ENDING} products in it or up to two folders deeper; {fix}")
    first: dict[str, Path] = {}
    for path in sorted(found):
        first.setdefault(path.name, path)
    return [first[name] for name in sorted(first)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({(error.strerror or str(error)).lower()})") from error


def _prepare(source: Path, task: Task, stack: ExitStack) -> list[Path]:
    folders = find_products(source)
    writable_folder(task.output, "the output folder")
    for part in PARTS:
        writable_folder(task.output / part, "the output folder")
        stack.enter_context(work.claimed(task.output / part, ("S3",)))
    if chunks.inflater() is None:
        say(f"convert: the package {chunks.PACKAGE} isn't installed, so HDF5 inflates the products itself, at about half the speed")
    return folders


def _outcome(task: Task, folder: Path) -> Outcome:
    """Convert one product unless its output is complete. A broken product is an outcome; a full disk raises RunError."""
    try:
        product = open_product(folder)
        targets = {part: task.output / part / f"{product.name.text}.hdf" for part in PARTS}
        if not task.overwrite:
            there = [part for part, target in targets.items() if target.exists()]
            if len(there) == 1 and _is_current(task, product, targets[there[0]]):
                return Outcome(status="skipped", part=there[0])
        frame = product.frame(adjust=task.adjust, rads=task.rads, half=task.layout == hdf.COMPACT)
    except RunError as error:
        return Outcome(status="failed", message=str(error))
    except OSError as error:
        return Outcome(status="failed", message=f"{folder}: can't be read ({(error.strerror or str(error)).lower()})")
    part, other = PARTS if frame.day else PARTS[::-1]
    hdf.write(targets[part], frame, task.layout, zeros=task.zeros)
    # left by a version of the product that had other flags
    with suppress(FileNotFoundError):
        targets[other].unlink()
    return Outcome(status="converted", part=part)


def _is_current(task: Task, product: Product, target: Path) -> bool:
    """Whether a complete output of the same settings is there that isn't older than any file it was made from."""
    try:
        written_ns = target.stat().st_mtime_ns
        if any((product.folder / name).stat().st_mtime_ns > written_ns for name in FILES):
            return False
    except OSError:
        return False
    factors = adjustment.factors_of(task.adjust, product.name)
    like = {"layout": task.layout, "adjustment": adjustment.as_text(factors)}
    return hdf.is_complete(target, like=like, rads=task.rads, zeros=task.zeros)


def _report(source: Path, outcomes: Sequence[Outcome]) -> None:
    messages = [outcome.message for outcome in outcomes if outcome.status == "failed"]
    if messages:
        more = f"; and {len(messages) - SHOWN_FAILURES} more" if len(messages) > SHOWN_FAILURES else ""
        shown = "; ".join(messages[:SHOWN_FAILURES])
        raise RunError(f"{len(messages)} of {len(outcomes)} products of {source} were not converted, the others were: {shown}{more}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit code."""
    parser = Parser(prog="python -m stormbench.cloudmask.convert", description="Convert SLSTR products to HDF5 files.")
    add_arguments(parser)
    try:
        given = parser.parse_args(arguments)
        done = run(
            given.input, given.output, layout=given.layout, adjust=given.adjust, rads=given.rads, zeros=given.zeros,
            workers=given.workers, overwrite=given.overwrite,
        )  # fmt: skip
    except StormbenchError as error:
        # ranks other than 0 raise the same error without text
        if str(error):
            print(f"convert: {error}", file=sys.stderr)
        return error.exit_code
    if work.world().rank == 0:
        counts = f"{done['converted']} converted, {done['skipped']} were complete"
        print(f"{counts}, {done['day']} by day and {done['night']} by night, in {done['output_directory']}")
    return 0


def add_arguments(parser: Any) -> None:
    """Add the options of the conversion to a parser; their names are those of `run`."""
    parser.add_argument("input", type=Path, metavar="IN", help=f"folder with {ENDING} products, also one or two folders deeper")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for day/*.hdf and night/*.hdf; made if need be")
    parser.add_argument(
        "--layout", choices=hdf.LAYOUTS, default=hdf.COMPACT,
        help="compact: half precision, about 34 MiB a product; published: that of the public files, 180 MB",
    )  # fmt: skip
    parser.add_argument(
        "--adjust", default=adjustment.AUTO, metavar="auto|on|off|F1,...,F6",
        help="factors on the radiances of S1 to S6; auto: the published ones before baseline 005, none from then on",
    )  # fmt: skip
    parser.add_argument("--rads", action="store_true", help="write radiances in compact files too")
    parser.add_argument("--zeros", action="store_true", help="write 0 for invalid pixels of published files, as public ones have")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of this rank; default all cores, 1 under mpirun or srun")
    parser.add_argument("--overwrite", action="store_true", help="convert again what is complete")


if __name__ == "__main__":
    # under its own name, so that worker processes find the functions that they are sent
    sys.exit(importlib.import_module("stormbench.cloudmask.convert").main())
