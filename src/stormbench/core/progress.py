"""Progress: a bar on a terminal, plain lines elsewhere, nothing on ranks other than 0."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_LINES = 10
"""How many plain lines a whole task prints where there is no terminal."""


class Progress:
    """Counts finished items of `total`; `advance` also takes figures to show beside the count."""

    def __init__(self, total: int, what: str, *, enabled: bool = True) -> None:
        self.total, self.what, self.done = total, what, 0
        self._enabled = enabled
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, dynamic_ncols=True, leave=False, mininterval=0.2)

    def advance(self, items: int = 1, **figures: float | str) -> None:
        """Count `items` more and show `figures`, such as loss="0.312"."""
        before, self.done = self.done, self.done + items
        if self._bar is not None:
            if figures:
                self._bar.set_postfix(figures, refresh=False)
            self._bar.update(items)
        elif self._enabled and self.total and before * PLAIN_LINES // self.total != self.done * PLAIN_LINES // self.total:
            text = " ".join(f"{name}={value}" for name, value in figures.items())
            say(f"{self.what}: {self.done}/{self.total} {text}".rstrip())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def say(text: str) -> None:
    """Print a line for the user to standard error, above a bar if there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, what: str, *, enabled: bool = True) -> Iterator[Progress]:
    """Yield a Progress that is closed at the end."""
    bar = Progress(total, what, enabled=enabled)
    try:
        yield bar
    finally:
        bar.close()
