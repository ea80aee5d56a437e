"""Paths inside a container, turned back into the host's paths that are bound there, as a rehearsed container is this machine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

_KEPT = ("PATH", "PWD", "OLDPWD", "HOME", "SHELL", "LD_LIBRARY_PATH", "LD_PRELOAD", "STORMBENCH_STANDIN", "STORMBENCH_STANDIN_JOB")
"""Variables of this machine rather than of the container."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bind:
    """A folder or file of the host, and where the container sees it."""

    source: str
    target: str


def mapped(words: Sequence[str], binds: Iterable[Bind]) -> list[str]:
    """Return the words with every path below a bind's target replaced by the one below its source.

    >>> mapped(["--data=/data/train", "/database"], [Bind(source="/scratch/d", target="/data")])
    ['--data=/scratch/d/train', '/database']
    """
    targets = {bind.target.rstrip("/"): bind.source.rstrip("/") or "/" for bind in binds if bind.target.rstrip("/")}
    if not targets:
        return list(words)
    # the longest first, and all in one pass, so that no path is mapped twice
    alternatives = "|".join(re.escape(target) for target in sorted(targets, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w./~$}}-])({alternatives})(?![\w.-])")
    return [pattern.sub(lambda match: targets[match[1]], word) for word in words]


def mapped_values(variables: Mapping[str, str], binds: Iterable[Bind]) -> dict[str, str]:
    """Return the variables with paths in their values mapped, but for those that are this machine's own."""
    binds = list(binds)
    return {name: value if name in _KEPT else mapped([value], binds)[0] for name, value in variables.items()}
