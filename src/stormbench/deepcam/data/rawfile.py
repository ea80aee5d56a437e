"""Reads values that lie in a file as they are used in memory: straight into the caller's buffer, with the interpreter lock released."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from stormbench.core.errors import RunError
from stormbench.deepcam.data.sample import Load


def loader(path: Path, descriptor: int, offset: int, itemsize: int) -> Load:
    """Return a `Load` for values of `itemsize` bytes that begin `offset` bytes into the open file."""

    def load(position: int, piece: np.ndarray) -> None:
        _fill(path, descriptor, offset + position * itemsize, piece)

    return load


def in_memory(values: np.ndarray) -> Load:
    """Return a `Load` that takes from an array."""
    flat = values.reshape(-1)

    def load(position: int, piece: np.ndarray) -> None:
        np.copyto(piece, flat[position : position + piece.size], casting="same_kind")

    return load


def truncated(path: Path, size: int, expected: int) -> RunError:
    """Return the error for a file that ends early."""
    return RunError(f"{path}: truncated, {size} of {expected} bytes are there; copy or convert the file again")


def _fill(path: Path, descriptor: int, offset: int, piece: np.ndarray) -> None:
    # one call reads a piece as a rule; signals and some network file systems return less
    got = os.preadv(descriptor, [piece.data], offset)
    if got == piece.nbytes:
        return
    rest = piece.data.cast("B")
    while got < len(rest):
        more = os.preadv(descriptor, [rest[got:]], offset + got)
        if more == 0:
            raise truncated(path, os.fstat(descriptor).st_size, offset + len(rest))
        got += more
