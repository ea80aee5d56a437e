"""Splits products into training and test set so that neighbours stay on one side, and writes the split down for every later run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from stormbench.cloudmask import names
from stormbench.cloudmask.names import ProductName
from stormbench.core.errors import UserError
from stormbench.core.files import write_json

FILE_NAME = "split.json"
FORMAT = 1
BLOCK_PRODUCTS = 10
"""Products of three minutes that make a block of time: half an hour, a third of an orbit."""
LEAST_BLOCKS = 5
"""Few products are cut into shorter blocks, so that the shares can be met."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Product names without endings, sorted, of both sides; and how they came there."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    method: str
    """orbit, time or random."""
    train_split: float
    """The share asked for; whole groups meet it roughly."""
    seed: int
    duplicates: tuple[str, ...] = ()
    """Products left out because another version of the same sensing time is in."""
    note: str = ""


def make(stems: Sequence[str], *, method: str, train_split: float, seed: int, asked_for: bool = True) -> Split:
    """Split products by name.

    Groups are put to the test side in random order as long as they bring its size nearer to the share wanted; both sides
    get at least one. With `orbit` a group is an orbit of a satellite, with `time` a block of consecutive products, with
    `random` a product. Where there are fewer than two orbits, blocks of time are taken unless orbits were `asked_for`.

    Raises:
        UserError: fewer than two products, names that tell no orbit or time, one sensing time, or one orbit where orbits were
            asked for.
    """
    kept, duplicates = without_duplicates(stems)
    if len(kept) < 2:
        raise UserError(f"{len(kept)} product(s) can't be split into training and test set; give at least two of different sensing times")
    note = ""
    if method == "random":
        groups = [[stem] for stem in kept]
    else:
        parsed = [_parsed(stem, method) for stem in kept]
        groups = by_orbit(parsed) if method == "orbit" else by_time(parsed)
        if len(groups) < 2 and method == "orbit":
            if asked_for:
                raise UserError(f"--split orbit: all {len(kept)} products are of one orbit; use --split time or random")
            method, groups = "time", by_time(parsed)
            note = f"all {len(kept)} products are of one orbit, so they were split by blocks of time"
    if len(groups) < 2:
        raise UserError(f"--split {method}: all {len(kept)} products are of one sensing time; use --split random, or more products")
    test = _choose(groups, train_split, seed)
    return Split(
        train=tuple(sorted(set(kept) - test)), test=tuple(sorted(test)), method=method, train_split=train_split, seed=seed,
        duplicates=tuple(duplicates), note=note,
    )  # fmt: skip


def without_duplicates(stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the products to use, sorted, and those left out: of each sensing time the newest version stays.

    Files that are not named as products stay, unless the same name comes twice.
    """
    best: dict[Any, tuple[Any, str]] = {}
    for stem in sorted(set(stems)):
        key: Any = stem
        rank: tuple[Any, ...] = (stem,)
        with contextlib.suppress(UserError):
            name = names.parse(stem)
            key, rank = name.sensing, (name.baseline, name.created, stem)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, stem)
    kept = sorted(stem for _, stem in best.values())
    return kept, sorted(set(stems) - set(kept))


def by_orbit(products: Sequence[ProductName]) -> list[list[str]]:
    """Return the products of each orbit, which mission, cycle and relative orbit tell, in order of time."""
    groups: dict[Any, list[ProductName]] = {}
    for name in sorted(products, key=_time):
        groups.setdefault((name.mission, name.cycle, name.relative_orbit), []).append(name)
    return [[name.text for name in group] for group in groups.values()]


def by_time(products: Sequence[ProductName]) -> list[list[str]]:
    """Return blocks of consecutive products of about equal size; what was seen at the same time stays together."""
    # satellites fly in formation: the order is that of time, whichever they are
    moments: dict[datetime, list[str]] = {}
    for name in sorted(products, key=_time):
        moments.setdefault(name.start, []).append(name.text)
    ordered = list(moments.values())
    n_blocks = min(len(ordered), max(LEAST_BLOCKS, math.ceil(len(ordered) / BLOCK_PRODUCTS)))
    edges = [len(ordered) * block // n_blocks for block in range(n_blocks + 1)]
    return [[text for moment in ordered[start:stop] for text in moment] for start, stop in itertools.pairwise(edges)]


def _choose(groups: Sequence[Sequence[str]], train_split: float, seed: int) -> set[str]:
    """Return the test products: whole groups, as near to the share as random order brings them."""
    total = sum(map(len, groups))
    wanted = min(max(round(total * (1 - train_split)), 1), total - 1)
    test: set[str] = set()
    order = np.random.default_rng(seed).permutation(len(groups))
    for number in order:
        group = groups[number]
        if abs(len(test) + len(group) - wanted) < abs(len(test) - wanted) and len(test) + len(group) < total:
            test.update(group)
    if not test:
        # every group is more than twice what is wanted
        test.update(sorted(groups, key=len)[0])
    return test


def _parsed(stem: str, method: str) -> ProductName:
    try:
        return names.parse(stem)
    except UserError as error:
        raise UserError(f"--split {method}: {error}; rename the file, or use --split random") from error


def _time(name: ProductName) -> tuple[datetime, str]:
    return name.start, name.text


def write(path: Path, split: Split) -> None:
    """Write the manifest."""
    write_json(path, {"format": FORMAT, **dataclasses.asdict(split)})


def read(path: Path) -> Split:
    """Read a manifest.

    Raises:
        UserError: it is missing, damaged, or names a product twice.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as the manifest of a split ({error}); remove it to have it made anew") from error
    try:
        if found.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        lists = {key: tuple(map(str, found[key])) for key in ("train", "test", "duplicates")}
        split = Split(**{**found, **lists})
        if len({*split.train, *split.test}) != len(split.train) + len(split.test) or not split.train or not split.test:
            raise ValueError("a product stands there twice, or one side is empty")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the manifest of a split ({error}); remove it to have it made anew") from error
    return split


def check_fits(path: Path, split: Split, *, train_split: float, method: str, origins: Mapping[str, str], stems: Sequence[str]) -> str:
    """Return what is to be said of a manifest that is reused.

    Raises:
        UserError: an option that was given says otherwise, or products of it are missing.
    """
    if "train_split" in origins and train_split != split.train_split:
        raise UserError(f"{origins['train_split']}: {path} was made with {split.train_split:g}; leave the option out, or remove the file")
    if "split" in origins and method != split.method and not split.note:
        raise UserError(f"{origins['split']}: {path} was made by {split.method}; leave the option out, or remove the file")
    there = set(stems)
    missing = [stem for stem in (*split.train, *split.test) if stem not in there]
    if missing:
        total = len(split.train) + len(split.test)
        raise UserError(
            f"{path}: {len(missing)} of its {total} products are not in the data folder, such as {missing[0]}; "
            "restore them, or remove the file to split anew"
        )
    more = len(there - {*split.train, *split.test, *split.duplicates})
    return f"split: reused from {path}" + (f"; {more} products that it doesn't name are left out" if more else "")
