"""Slurm's short forms, `nid[001-004,010]` and `4(x3),2`, written out: nodes and ranks per node become known without `scontrol`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from stormbench.core.errors import UserError

MAX_HOSTS = 1_000_000
"""Far above any machine; a longer list is a typing error that would fill the memory."""

_NAME = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?", re.ASCII)
_REPEATED = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?", re.ASCII)


def expand(text: str, origin: str = "hostlist") -> list[str]:
    """Return the host names of the Slurm hostlist expression `text`, in its order, with their zero padding.

    A name may hold several bracketed sets (`gpu-[01-02]-x[3-4]`); the last one varies fastest. `origin` is the
    variable it came from, for the message.

    Raises:
        UserError: the expression can't be read, or names more than `MAX_HOSTS` hosts.
    """
    hosts: list[str] = []
    for element in _split(text.strip(), origin):
        sets = [_alternatives(part, text, origin) for part in re.split(r"(\[[^\]]*\])", element) if part]
        count = 1
        for alternatives in sets:
            count *= len(alternatives)
        if len(hosts) + count > MAX_HOSTS:
            raise UserError(f"{origin}={_short(text)}: names more than {MAX_HOSTS} hosts; correct the expression")
        hosts.extend("".join(parts) for parts in itertools.product(*sets))
    return hosts


def expand_counts(text: str, origin: str = "tasks per node") -> list[int]:
    """Return the number for each node of an expression such as `4(x3),2`, here `[4, 4, 4, 2]`.

    Raises:
        UserError: the expression can't be read, or has more than `MAX_HOSTS` nodes.
    """
    counts: list[int] = []
    for element in text.strip().split(","):
        match = _REPEATED.fullmatch(element)
        if match is None:
            raise UserError(f"{origin}={_short(text)}: {element!r} is not a number of tasks such as 4 or 4(x3); correct it")
        repeats = int(match[2] or 1)
        if len(counts) + repeats > MAX_HOSTS:
            raise UserError(f"{origin}={_short(text)}: has more than {MAX_HOSTS} nodes; correct the expression")
        counts.extend([int(match[1])] * repeats)
    return counts


def fold(numbers: Iterable[int]) -> str:
    """Return `numbers` sorted and in ranges, such as `0,3-7,12`: the short form for ranks in messages."""
    folded: list[str] = []
    # within a run of consecutive numbers, value minus position stays the same
    for _, group in itertools.groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        folded.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(folded)


def _split(text: str, origin: str) -> list[str]:
    """Split at the commas outside brackets."""
    elements = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if not elements or ",".join(elements) != text:
        raise UserError(f"{origin}={_short(text)}: is not a hostlist such as nid[001-004,010]; correct its brackets and commas")
    return elements


def _alternatives(part: str, text: str, origin: str) -> list[str]:
    """Return what stands for `part`: a literal alone, or every number of a bracketed set."""
    if not part.startswith("["):
        if _NAME.fullmatch(part) is None:
            raise UserError(f"{origin}={_short(text)}: {part!r} is not part of a host name; correct the expression")
        return [part]
    numbers: list[str] = []
    for piece in part[1:-1].split(","):
        match = _RANGE.fullmatch(piece)
        if match is None:
            raise UserError(f"{origin}={_short(text)}: {piece!r} is not a number or a range such as 001-004; correct the expression")
        low, high = match[1], match[2] or match[1]
        if int(high) < int(low):
            raise UserError(f"{origin}={_short(text)}: the range {piece} runs backwards; write the lower number first")
        if len(numbers) + int(high) - int(low) + 1 > MAX_HOSTS:
            raise UserError(f"{origin}={_short(text)}: names more than {MAX_HOSTS} hosts; correct the expression")
        numbers.extend(str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
    return numbers


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
