"""Keeps the garbage collector off what stays to the end: a framework's import makes a million objects, and none of them is garbage.

CPython would look through them several times while they are made, again in every full collection of a training, in which the
other ranks wait, and once more at the exit.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing(framework: str) -> Iterator[None]:
    """Collect nothing in this block, which imports `framework`, and leave what is there at its end out of all later collections.

    Does nothing where it has been imported before, or where somebody has turned the collector off.
    """
    if framework in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def leave() -> None:
    """Spare the interpreter, which is about to exit, a last look through everything: the system takes the memory back as a whole."""
    gc.freeze()
