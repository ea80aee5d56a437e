"""Splits a folder of samples into training, validation and test sets, by the permutation that gives the published split."""

from __future__ import annotations

import errno
import filecmp
import json
import math
import operator
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.core import work
from stormbench.core.errors import RunError, UserError, did_you_mean
from stormbench.core.files import atomic_path, reported_os_errors, writable_folder, write_json, write_text
from stormbench.core.progress import progress as progress_bar

SPLITS = ("train", "validation", "test")
LINKS = ("symlink", "hardlink", "copy", "move")
LIST = "files.txt"
RECORD = "split.json"


class SplitError(UserError, ValueError):
    """A number of files or a seed that can't be."""


def permutation(n: int, seed: int = 12345) -> NDArray[np.intp]:
    """Return the n positions in the sorted file list, in the order in which the sets are filled.

    NumPy's legacy RandomState, whose stream is frozen, so that seed 12345 gives the published split with any NumPy.

    Raises:
        SplitError: n isn't a whole number of at least 0, or the seed none from 0 to 4294967295.
    """
    return np.random.RandomState(_whole("seed", seed, 2**32 - 1)).permutation(_whole("n", n, np.iinfo(np.intp).max))


def boundaries(n: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> list[int]:
    """Return where each set ends in the permuted list: the floor of n times the sum of the fractions so far; the last takes the rest.

    Fractions are taken as the decimals that they print as, so that 0.8 + 0.1 is 0.9 and no file falls to another set by rounding.
    """
    exact = [Fraction(str(fraction)) for fraction in fractions]
    return [math.floor(n * sum(exact[: i + 1])) for i in range(len(exact) - 1)] + [n]


def run(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int = 12345,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    link: str = "symlink",
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Put each data-*.h5 below `input` into `output`/train, validation or test, and write each set's list, files.txt.

    Files are sorted by name, permuted by `permutation(n, seed)` and cut at `boundaries(n, fractions)`. `link` is symlink,
    hardlink, copy or move. A rerun with the same arguments continues where it stopped. The plan is recorded in split.json
    and files.txt before the first file is moved. Statistics are made separately, by summarize.

    Returns:
        `output`, `files`, `placed` (new in this run), `dry_run`, and the number of files of each set.

    Raises:
        UserError: wrong arguments, no files, two of one name, or an output that holds other files or another split.
        RunError: a file is gone, or the disk is full.
    """
    source, target = Path(input), Path(output)
    _check(source, seed, fractions, link)
    record = {"input": str(source.resolve()), "seed": seed, "fractions": [float(fraction) for fraction in fractions], "link": link}
    present = _find(source, target)
    plan = _recorded_plan(target, record) or _plan(source, sorted(present), seed, fractions)
    _check_plan(source, target, plan, present, link)
    counts = {split: len(names) for split, names in plan.items()}
    placed = 0 if dry_run else _carry_out(target, plan, present, record, progress)
    return {"output": str(target), "files": sum(counts.values()), "placed": placed, "dry_run": dry_run, **counts}


def _whole(name: str, value: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number <= most:
        raise SplitError(f"{name} {value}: must be a whole number from 0 to {most}")
    return number


def _check(source: Path, seed: int, fractions: Sequence[float], link: str) -> None:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the one that holds the data-*.h5 files")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: must be from 0 to 4294967295")
    if link not in LINKS:
        raise UserError(f"--link {link}: must be one of {', '.join(LINKS)}{did_you_mean(link, LINKS)}")
    text = " ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != len(SPLITS) or not all(math.isfinite(fraction) and fraction >= 0 for fraction in fractions):
        raise UserError(f"--fractions {text}: must be three numbers from 0 to 1, for train, validation and test")
    # thirds can't be written exactly
    if abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"--fractions {text}: their sum is {sum(fractions):g}, must be 1")


def _find(source: Path, target: Path) -> dict[str, Path]:
    """Return the data-*.h5 below `source` by name, without those that already are in the sets of `target`."""
    sets = [(target / split).resolve() for split in SPLITS]
    # in a tree that is split in place, these folders are results
    recorded = (target / RECORD).exists()
    found: dict[str, Path] = {}
    for path in sorted(source.rglob("data-*.h5")):
        if (recorded and path.parent.resolve() in sets) or not path.is_file():
            continue
        if path.name in found:
            raise UserError(f"{path}: has the same name as {found[path.name]}; rename one of them, or give a folder that holds one")
        found[path.name] = path
    return found


def _plan(source: Path, names: Sequence[str], seed: int, fractions: Sequence[float]) -> dict[str, list[str]]:
    if not names:
        raise UserError(f"{source}: no data-*.h5 files below it; give the folder that holds them")
    order, ends = permutation(len(names), seed), boundaries(len(names), fractions)
    starts = [0, *ends[:-1]]
    return {split: [names[i] for i in order[start:end]] for split, start, end in zip(SPLITS, starts, ends, strict=True)}


def _recorded_plan(target: Path, record: dict[str, Any]) -> dict[str, list[str]] | None:
    """Return the plan of an earlier run with the same arguments, or None if there was no earlier run."""
    path = target / RECORD
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        was = {name: found[name] for name in record}
        plan = {split: (target / split / LIST).read_text(encoding="utf-8").splitlines() for split in SPLITS}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path}: isn't the complete record of a split; choose an empty folder") from error
    different = [f"{name} {was[name]}, not {record[name]}" for name in record if was[name] != record[name]]
    if different:
        raise UserError(f"{path}: the split there has {', '.join(different)}; give the same arguments, or choose an empty folder")
    return plan


def _check_plan(source: Path, target: Path, plan: dict[str, list[str]], present: dict[str, Path], link: str) -> None:
    """Refuse an output folder with other samples in it, and files that came or went since the split was recorded."""
    planned = {name for names in plan.values() for name in names}
    new = sorted(present.keys() - planned)
    if new:
        raise UserError(f"{present[new[0]]}: came after the split in {target} was made; split again into an empty folder")
    for split, names in plan.items():
        expected, folder = set(names), target / split
        there = {path.name for path in folder.glob("data-*")} | {path.name for path in folder.glob("label-*")}
        foreign = sorted(there - expected)
        if foreign:
            raise UserError(f"{folder / foreign[0]}: isn't part of this split; choose an empty output folder")
        gone = sorted(expected - present.keys() - (set() if link == "symlink" else there))
        if gone:
            raise RunError(f"{gone[0]}: is neither below {source} nor in {folder}; put it back, or split again into an empty folder")


def _carry_out(target: Path, plan: dict[str, list[str]], present: dict[str, Path], record: dict[str, Any], progress: bool) -> int:
    with ExitStack() as stack:
        for folder in (target, *(target / split for split in SPLITS)):
            writable_folder(folder, "split")
            stack.enter_context(work.claimed(folder, ("data-", LIST, RECORD)))
        if not (target / RECORD).exists():
            for split, names in plan.items():
                write_text(target / split / LIST, "".join(f"{name}\n" for name in names))
            write_json(target / RECORD, {**record, "files": sum(map(len, plan.values()))})
        placed = 0
        with progress_bar(sum(map(len, plan.values())), "split", enabled=progress) as bar:
            for split, names in plan.items():
                for name in names:
                    if name in present:
                        placed += _place(present[name], target / split / name, str(record["link"]))
                    bar.advance()
    return placed


def _place(source: Path, target: Path, link: str) -> bool:
    """Put one file in its place; False if it was there already."""
    with reported_os_errors(target):
        if os.path.lexists(target):
            if _is_there(source, target, link):
                return False
            raise UserError(f"{target}: is there, but isn't {source}; choose an empty output folder")
        try:
            if link == "symlink" or (link == "move" and source.is_symlink()):
                target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
            elif link == "hardlink":
                target.hardlink_to(source.resolve())
            elif link == "move":
                source.rename(target)
            else:
                _copy(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if link == "hardlink":
                raise UserError(f"--link hardlink: {target.parent} is on another file system than {source}; use symlink or copy") from error
            _copy(source, target)
        if link == "move":
            source.unlink(missing_ok=True)
    return True


def _is_there(source: Path, target: Path, link: str) -> bool:
    """Whether `target` already is what `link` makes of `source`; a move that stopped between copy and removal is finished."""
    if link in ("symlink", "hardlink"):
        return target.exists() and target.samefile(source) and target.is_symlink() == (link == "symlink")
    if source.is_symlink():
        same = target.exists() and target.samefile(source)
    else:
        same = target.is_file() and not target.samefile(source) and filecmp.cmp(source, target, shallow=link == "copy")
    if same and link == "move":
        source.unlink()
    return same


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as path:
        shutil.copyfile(source, path)
        shutil.copystat(source, path)
