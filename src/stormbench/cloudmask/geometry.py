"""Where the pixels of an image lie between tie points, and how high the sun stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TIE_MARGIN = 1.0
"""Tie steps beyond the outermost tie point at which its angle still holds; the last 500 m row lies half a step beyond."""

LOW_SUN = 1.0
"""Elevation in degrees below which single precision would show in reflectances."""


@dataclass(frozen=True)
class Grid:
    """A raster of a product: the steps between its points in metres, and where it lies, in its own steps.

    Row 0 is `start_offset` rows after the start of the orbit; the ground track crosses at column `track_offset`.
    """

    step_along: float
    step_across: float
    start_offset: float
    track_offset: float


def tie_position(row: ArrayLike, col: ArrayLike, image_grid: Grid, tie_grid: Grid) -> tuple[Any, Any]:
    """Return the position on the tie grid of pixels of the image grid, as fractional row and column in float64.

    Both grids count along-track steps from the start of the orbit and across-track steps from the ground track:
    (row + start) x step is the same distance in both, and so is (col - track) x step.
    """
    along = image_grid.step_along / tie_grid.step_along
    across = image_grid.step_across / tie_grid.step_across
    tie_row = (np.asarray(row, np.float64) + image_grid.start_offset) * along - tie_grid.start_offset
    tie_col = (np.asarray(col, np.float64) - image_grid.track_offset) * across + tie_grid.track_offset
    return tie_row, tie_col


class SunElevation:
    """Elevation of the sun over an image, 90 degrees less the zenith that is given on tie points.

    Bilinear between tie points, NaN where one that is needed is NaN. Pixels less than TIE_MARGIN steps outside get the
    value at the edge, those farther outside NaN.
    """

    def __init__(self, zenith_deg: NDArray[np.float64], image_shape: tuple[int, int], image_grid: Grid, tie_grid: Grid) -> None:
        rows, cols = tie_position(np.arange(image_shape[0]), np.arange(image_shape[1]), image_grid, tie_grid)
        self._rows = _between(rows, zenith_deg.shape[0])
        self._cols = _between(cols, zenith_deg.shape[1])
        self._elevation = 90 - zenith_deg

    @property
    def inside(self) -> bool:
        """Whether any pixel of the image lies within the tie grid."""
        return bool(np.isfinite(self._rows[2]).any() and np.isfinite(self._cols[2]).any())

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the degrees (stop - start, columns) in image rows start to stop - 1."""
        low, high, fraction = (part[start:stop] for part in self._rows)
        first = int(low.min())
        ties = self._elevation[first : int(high.max()) + 1]
        if not (ties < LOW_SUN).any():
            # the sine of a small angle needs all its digits, those of others are well off with half as many
            ties = ties.astype(np.float32)
        # across first: neighbouring image rows share their tie rows
        between = self._across(ties)
        below, above = between[low - first], between[high - first]
        above -= below
        above *= fraction.astype(ties.dtype)[:, None]
        above += below
        return above.astype(np.float32, copy=False)

    def _across(self, ties: NDArray[Any]) -> NDArray[Any]:
        low, high, fraction = self._cols
        left, right = (np.take(ties, index, axis=1, mode="clip") for index in (low, high))
        right -= left
        right *= fraction.astype(ties.dtype)
        right += left
        return right


def _between(position: NDArray[np.float64], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the tie point before, the one after, and how far between them each position is, NaN if outside.

    A position on a tie point has that point on both sides, so that a missing neighbour doesn't matter.
    """
    outside = (position < -TIE_MARGIN) | (position > count - 1 + TIE_MARGIN)
    clamped = np.clip(position, 0, count - 1)
    low = np.floor(clamped).astype(np.intp)
    fraction = clamped - low
    high = np.minimum(low + (fraction > 0), count - 1)
    return low, high, np.where(outside, np.nan, fraction)
