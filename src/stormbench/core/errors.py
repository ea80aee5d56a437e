"""The errors that end a command, each with its exit code, so that one place can print one sentence and leave."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER = 2
EXIT_STOPPED = 75
"""Stopped as asked with a checkpoint written; 75 is EX_TEMPFAIL of sysexits.h, "try again later"."""


class StormbenchError(Exception):
    """An ending that is understood: its text is one sentence for the user, with no traceback.

    Use the subclasses; `exit_code` is the process's exit code.
    """

    exit_code = EXIT_FAILED
    known_to_all = False
    """Whether every rank of a launch raises it, so that one of them need tell it."""


class UserError(StormbenchError):
    """What the user gave is wrong: the sentence names the value, the limit, where it came from, and the fix."""

    exit_code = EXIT_USER


class RunError(StormbenchError):
    """The input was right, but the work failed: a broken data file, a full disk, a peer that died."""

    exit_code = EXIT_FAILED


class Stopped(StormbenchError):
    """Stopped as asked, with a checkpoint from which the same command continues."""

    exit_code = EXIT_STOPPED


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
