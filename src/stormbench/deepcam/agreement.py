"""Failures that all ranks learn of: a rank that can't go on says so, and why, before the others wait for it in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from stormbench.core.errors import EXIT_USER, RunError, StormbenchError, UserError
from stormbench.deepcam.wire import Wire, any_rank, gather

FINE, STOP, FAILED = 0, 1, 2
T = TypeVar("T")


def agree(wire: Wire, mine: int, failure: StormbenchError | None = None) -> int:
    """Return the gravest state of all ranks: FINE or STOP. Collective.

    Raises:
        StormbenchError: some rank brought FAILED; every rank raises the lowest such rank's error, with its number.
    """
    worst = any_rank(wire, mine)
    if worst != FAILED:
        return worst
    reports = gather(wire, None if failure is None else (failure.exit_code, str(failure)))
    rank, (code, text) = next((rank, report) for rank, report in enumerate(reports) if report is not None)
    same = all(report == reports[rank] for report in reports)
    kind = UserError if code == EXIT_USER else RunError
    error = kind(text if same else f"rank {rank}: {text}")
    error.known_to_all = True
    raise error from failure


def together(wire: Wire, work: Callable[[], T]) -> T:
    """Do `work` on every rank, without communication in it, and go on only if it went well on all of them."""
    failure: StormbenchError | None = None
    try:
        result = work()
    except StormbenchError as error:
        failure = error
    agree(wire, FAILED if failure is not None else FINE, failure)
    return result
