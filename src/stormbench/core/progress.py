"""Progress: a bar on a terminal, plain lines elsewhere, nothing on ranks other than 0; never a reason for the work to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN_LINES = 10
"""How many plain lines a whole task prints where there is no terminal."""
UNWRITABLE = (OSError, ValueError)
"""What a stream raises that is full, has lost its reader, or is closed."""


class Progress:
    """Counts finished items of `total`; `advance` also takes figures to show beside the count."""

    def __init__(self, total: int, what: str, *, enabled: bool = True) -> None:
        self.total, self.what, self.done = total, what, 0
        self._enabled = enabled
        self._bar: Any = None
        if enabled and _on_terminal():
            from tqdm import tqdm

            with suppress(*UNWRITABLE):
                self._bar = tqdm(total=total, desc=what, dynamic_ncols=True, leave=False, mininterval=0.2)

    def advance(self, items: int = 1, **figures: float | str) -> None:
        """Count `items` more and show `figures`, such as loss="0.312"."""
        before, self.done = self.done, self.done + items
        if self._bar is not None:
            with suppress(*UNWRITABLE):
                if figures:
                    self._bar.set_postfix(figures, refresh=False)
                self._bar.update(items)
        elif self._enabled and self.total and before * PLAIN_LINES // self.total != self.done * PLAIN_LINES // self.total:
            text = " ".join(f"{name}={value}" for name, value in figures.items())
            say(f"{self.what}: {self.done}/{self.total} {text}".rstrip())

    def close(self) -> None:
        if self._bar is not None:
            with suppress(*UNWRITABLE):
                self._bar.close()


def say(text: str) -> None:
    """Print a line for the user to standard error, above a bar if there is one; where it is closed or full, the line is lost."""
    # without it, print would take standard output, which belongs to results
    if sys.stderr is None:
        return
    with suppress(*UNWRITABLE):
        if _on_terminal():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def show_result(text: str) -> None:
    """Print to standard output what is recorded in a file too, so that a closed or full output takes nothing from the work's outcome."""
    try:
        print(text, flush=True)
    except UNWRITABLE:
        discard(sys.stdout)


def discard(stream: TextIO | None) -> None:
    """Send what `stream` still holds, and all that follows, to nowhere: the interpreter would complain of it at exit."""
    if stream is None:
        return
    with suppress(*UNWRITABLE), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _on_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@contextmanager
def progress(total: int, what: str, *, enabled: bool = True) -> Iterator[Progress]:
    """Yield a Progress that is closed at the end."""
    bar = Progress(total, what, enabled=enabled)
    try:
        yield bar
    finally:
        bar.close()
