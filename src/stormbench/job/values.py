"""The values of job options that have a grammar of their own: wall times, site limits, lists of cores, cards and names."""

from __future__ import annotations

import re

from stormbench.core.options import BLANKS, words_of

MAX_WALLTIME_S = 366 * 86400
_LIMIT_NAMES = ("nodes", "gpus", "minutes", "min_nodes")
WALLTIME = "(?=.*[1-9])([0-9]+|([0-9]+-)?[0-9]+:[0-5][0-9]:[0-5][0-9])"
"""This and the next are the schema's patterns: a wall time, a rank's cores, a QoS's limits, a mount, the name of a folder."""
RANK_CORES = "[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*"
LIMITS = "[A-Za-z0-9_][A-Za-z0-9_.+-]*:LIMIT(,LIMIT)*".replace("LIMIT", f"({'|'.join(_LIMIT_NAMES)})=[0-9]+")
MOUNT = r"/[^:\s]*:/[^:\s]*(:[A-Za-z,]+)?"
NAME = r"(?!\.)[^/]{1,200}"
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def parse_walltime(text: str) -> int:
    """Return seconds for `90` (minutes), `01:30:00` or `1-12:00:00`.

    Raises:
        ValueError: anything else. `1:30` is refused as Slurm reads it as minutes and seconds, LSF as hours and minutes.
    """
    text = text.strip(BLANKS)
    if not text.isascii():
        raise ValueError("must be minutes, HH:MM:SS or D-HH:MM:SS")
    if text.isdigit():
        seconds = 60 * int(text)
    else:
        match = _CLOCK.fullmatch(text)
        if match is None:
            two = " (two fields mean minutes and seconds to Slurm, hours and minutes to LSF)" if re.fullmatch(r"\d+:\d+", text) else ""
            raise ValueError(f"must be minutes, HH:MM:SS or D-HH:MM:SS{two}")
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        if minutes > 59 or rest > 59 or (match[1] and hours > 23):
            raise ValueError("must be minutes, HH:MM:SS or D-HH:MM:SS, with minutes and seconds below 60")
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not 60 <= seconds <= MAX_WALLTIME_S:
        raise ValueError("must be at least one minute and at most 366 days")
    return seconds


def clock(seconds: int) -> str:
    """Return HH:MM:SS, with as many hours as it takes."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def exact(number: float) -> str:
    """Return a number with all its digits, as a config would write it."""
    return f"{number:.15g}"


def parse_names(text: str) -> tuple[str, ...]:
    """Return the words of a list separated by blanks."""
    return tuple(words_of(text))


def parse_mounts(text: str) -> tuple[str, ...]:
    """Return the mounts of a container, each `/source:/destination`, perhaps with options behind a further colon.

    Raises:
        ValueError: one is of another form, or one of its paths is relative, which no two runtimes take for the same folder.
    """
    mounts = tuple(words_of(text))
    for mount in mounts:
        if not re.fullmatch(MOUNT, mount):
            raise ValueError(f"{mount} must be SRC:DST or SRC:DST:OPTIONS with absolute paths, such as /scratch/data:/data:ro")
    return mounts


def parse_name(text: str) -> str:
    """Return the name of a folder, or a part of one.

    Raises:
        ValueError: it is no plain name, so that the folder would lie elsewhere.
    """
    if not re.fullmatch(NAME, text, re.DOTALL) or "\0" in text:
        raise ValueError("must be a plain file name of at most 200 characters, without / or a leading dot")
    return text


def parse_rank_cores(text: str) -> tuple[str, ...]:
    """Return one list of cores for each local rank, such as `0-7,64-71`.

    Raises:
        ValueError: a word is no such list, or a range runs backwards.
    """
    words = tuple(words_of(text))
    for word in words:
        ranges = [part.split("-") for part in word.split(",")] if re.fullmatch(RANK_CORES, word) else []
        if not ranges or any(int(part[0]) > int(part[-1]) for part in ranges):
            raise ValueError(f"{word} must be a list of cores such as 0-7,64-71; write one for each local rank, separated by blanks")
    return words


def parse_limits(text: str) -> tuple[tuple[str, dict[str, int]], ...]:
    """Return (QoS or queue, {limit: value}) pairs of `short:nodes=32,minutes=20 standard:nodes=1024`.

    Raises:
        ValueError: a word doesn't fit, or names an unknown limit.
    """
    found = []
    for word in words_of(text):
        name, colon, rest = word.partition(":")
        limits: dict[str, int] = {}
        for item in rest.split(","):
            key, _, value = item.partition("=")
            if not colon or not _WORD.fullmatch(name) or key not in _LIMIT_NAMES or not (value.isascii() and value.isdigit()):
                raise ValueError(f"{word} must be NAME:LIMIT=NUMBER,... with limits {', '.join(_LIMIT_NAMES)}")
            limits[key] = int(value)
        found.append((name, limits))
    return tuple(found)
