"""Says what a generated product's image pixels come from: swath edges, lost scans, cosmetic and duplicate pixels, and orphans.

The instrument scans on cones, so its pixels fall on the image grid unevenly: some image pixels get none and repeat a neighbour's
(cosmetic), some get two, of which one is kept (duplicate) and the other listed beside the image (orphan).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import orbit, weather
from stormbench.cloudmask.orbit import Granule

DETECTORS = {1000: 2, 500: 4}
"""Detectors that see a grid, by its step in metres; each writes every second or fourth row."""
NO_DETECTOR, NO_INDEX = 255, 65_535
DUPLICATE_SHARE = 0.03
ORPHANS_A_COLUMN = 187 / 1500
_EDGE = 0.019
"""Share of the columns beyond the swath, on either side."""
_EDGES_STREAM, _GRID_STREAM = 1, {1000: 2, 500: 3}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The pixels of one grid, (h, w) each.

    `cosmetic_at` holds row, column, and the column whose pixel is repeated there, of every cosmetic pixel. `orphan_columns` (h, n)
    has the columns of the pixels that orphans fell on, first as many as there are in a row, then -1.
    """

    step_m: int
    unfilled: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    """Rows (h, 1) whose packets were lost; they are unfilled too."""
    cosmetic_at: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    duplicate: NDArray[np.bool_]
    detector: NDArray[np.uint8]
    scan: NDArray[np.uint16]
    pixel: NDArray[np.uint16]
    orphan_columns: NDArray[np.intp]

    def repeat(self, plane_hw: NDArray[Any]) -> NDArray[Any]:
        """Let the cosmetic pixels of a plane, in place, hold what the pixels that they repeat hold; return the plane."""
        rows, columns, sources = self.cosmetic_at
        plane_hw[rows, columns] = plane_hw[rows, sources]
        return plane_hw

    def orphans(self, plane_hw: NDArray[Any], none: float) -> NDArray[Any]:
        """Return what a plane holds at the orphans (h, n), and `none` where a row has no more of them."""
        rows = np.arange(len(plane_hw))[:, None]
        return np.where(self.orphan_columns >= 0, plane_hw[rows, self.orphan_columns], plane_hw.dtype.type(none))


@functools.lru_cache(maxsize=2)
def pixels(granule: Granule, step_m: int) -> Pixels:
    """Return the pixels of the grid of 1000 or 500 m, the same for all products of one sensing time."""
    times = 1000 // step_m
    height, width = granule.height * times, granule.width * times
    columns = np.arange(width)
    across = orbit.across(granule, columns, step_m)
    lost = np.repeat(_lost_rows(granule), times)[:, None]
    left, right = edges(granule, times)
    unfilled = (columns < left) | (columns >= width - right) | lost
    chance = weather.noise(granule, _GRID_STREAM[step_m]).random((height, width), np.float32)
    # pixels lie farther apart toward the ends of the scan
    cosmetic = chance < (0.03 + 0.25 * (across / 1e6) ** 2).astype(np.float32)
    cosmetic &= ~unfilled
    source = np.where(cosmetic | unfilled, -1, columns)
    np.maximum.accumulate(source, axis=1, out=source)
    cosmetic &= source >= 0
    rows, at = np.nonzero(cosmetic)
    cosmetic_at = (rows, at, source[rows, at])
    duplicate = (chance > 1 - DUPLICATE_SHARE) & ~unfilled
    cone = np.rint(12 * times * (across / 500_000) ** 2).astype(np.int64)
    lines = granule.first_row * times + np.arange(height)[:, None] + cone
    found = Pixels(
        step_m=step_m, unfilled=unfilled, lost=lost, cosmetic_at=cosmetic_at, duplicate=duplicate,
        detector=(lines % DETECTORS[step_m]).astype(np.uint8),
        scan=(lines // DETECTORS[step_m] % NO_INDEX).astype(np.uint16),
        pixel=np.broadcast_to(columns * 7 // 8 + 100, (height, width)).astype(np.uint16),
        orphan_columns=_orphans(duplicate, round(ORPHANS_A_COLUMN * width)),
    )  # fmt: skip
    for plane, none in ((found.detector, NO_DETECTOR), (found.scan, NO_INDEX), (found.pixel, NO_INDEX)):
        found.repeat(plane)[unfilled] = none
    return found


def edges(granule: Granule, times: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many pixels beyond the swath each row has on the left and on the right, (h, 1) each; the edges are ragged."""
    rng = weather.noise(granule, _EDGES_STREAM)
    rows = granule.first_row + np.arange(granule.height)
    base = max(2, round(_EDGE * granule.width))
    sides = []
    for phase in (0, 20):
        wave = base + np.rint(1.4 * np.sin((rows + phase) / 37)).astype(np.int64) + rng.integers(0, 2, len(rows))
        # on the fine grid an edge may cut a pixel of 1 km in two
        halves = rng.integers(0, 2, 2 * len(rows))
        sides.append(wave if times == 1 else np.repeat(wave, 2) * 2 + halves)
    return sides[0][:, None], sides[1][:, None]


def _lost_rows(granule: Granule) -> NDArray[np.bool_]:
    """Return the rows of 1 km that were lost: every fourth frame has a gap."""
    rows = np.arange(granule.height)
    middle = granule.height // 3
    return (granule.frame % 4 == 0) & (rows >= middle) & (rows < middle + max(1, granule.height // 150))


def _orphans(duplicate: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    rows, columns = np.nonzero(duplicate)
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    found = np.full((len(duplicate), count), -1, np.intp)
    fits = place < count
    found[rows[fits], place[fits]] = columns[fits]
    return found
