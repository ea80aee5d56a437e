"""Cuts a frame into overlapping windows so that the network gives the same mask as on the whole frame, in less memory.

A pixel of the mask depends on the image up to 51 pixels away: 44 through the convolutions (2 at the first level, 4, 8 and
16 at the deeper ones, 8, 4 and 2 on the way up), and up to 7 more as pooling and up-sampling work on a grid of 8 pixels.
So windows begin on that grid, and reach 56 pixels beyond what is kept of them, except where the frame itself ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stormbench.core.errors import UserError

MULTIPLE = 8
"""The network halves an image three times, so its rows and columns are multiples of 8."""
REACH = 51
"""How far from a pixel of the mask the network looks, in pixels."""
HALO = -(-REACH // MULTIPLE) * MULTIPLE
"""Pixels around the part of a window that is kept."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A window of the padded frame, and the part of it that is kept; all in pixels, `rows` and `columns` in the frame."""

    top: int
    left: int
    height: int
    width: int
    rows: slice
    columns: slice

    @property
    def window(self) -> tuple[slice, slice]:
        """The window, in the padded frame."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is kept, in the window."""
        return (
            slice(self.rows.start - self.top, self.rows.stop - self.top),
            slice(self.columns.start - self.left, self.columns.stop - self.left),
        )


def padded(size: int) -> int:
    """Return the number of rows or columns rounded up to a multiple of 8."""
    return -(-size // MULTIPLE) * MULTIPLE


def pad(image_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image with rows below and columns to the right, up to multiples of 8, of what invalid pixels hold: 0.

    The whole frame and its windows are cut from this same array, so that the padding can't tell them apart.
    """
    height, width, channels = image_hwc.shape
    if not height or not width:
        raise UserError(f"an image of {height} x {width} pixels has nothing to predict")
    if (padded(height), padded(width)) == (height, width):
        return image_hwc
    wider_hwc = np.zeros((padded(height), padded(width), channels), image_hwc.dtype)
    wider_hwc[:height, :width] = image_hwc
    return wider_hwc


def tiles(height: int, width: int, edge: int) -> Iterator[Tile]:
    """Yield the windows of a frame of height x width pixels of which at most edge x edge pixels each are kept.

    The kept parts cover the frame, each pixel once. All windows of a frame have the same size, so that the network is
    prepared for one shape only; those at its right and lower end begin earlier instead of being smaller.

    Raises:
        UserError: `edge` is not a positive multiple of 8.
    """
    check_edge(edge)
    for top, window_height, rows in _spans(height, edge):
        for left, window_width, columns in _spans(width, edge):
            yield Tile(top=top, left=left, height=window_height, width=window_width, rows=rows, columns=columns)


def window_pixels(height: int, width: int, edge: int) -> int:
    """Return the pixels of one window, or of the padded frame where a window would be all of it."""
    return min(edge + 2 * HALO, padded(height)) * min(edge + 2 * HALO, padded(width))


def check_edge(edge: int) -> None:
    """Raise UserError unless `edge` is a positive multiple of 8."""
    if edge < MULTIPLE or edge % MULTIPLE:
        raise UserError(f"--tile {edge}: must be a multiple of {MULTIPLE}, at least {MULTIPLE}, as the network halves an image three times")


def _spans(size: int, edge: int) -> Iterator[tuple[int, int, slice]]:
    """Yield, along one axis, where each window begins, its length, and what is kept."""
    whole = padded(size)
    length = min(edge + 2 * HALO, whole)
    for start in range(0, size, edge):
        first = min(max(start - HALO, 0), whole - length)
        yield first, length, slice(start, min(start + edge, size))
