"""Draws one generated climate sample: latitude-dependent backgrounds, red noise, cyclones, atmospheric rivers and decoys.

It stands in for simulation output where there is none, so that the whole pipeline can be run; it proves machinery, never accuracy.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stormbench.deepcam.data.stats import CHANNELS

Plane = NDArray[np.float32]

BACKGROUND, CYCLONE, RIVER = 0, 1, 2
FULL_HEIGHT, FULL_WIDTH = 768, 1152

CYCLONE_RADIUS = (5.5, 8.7)
RIVER_LENGTH = (110.0, 175.0)
RIVER_WIDTH = (13.0, 20.0)
"""Pixels at full size; with the counts below they give the published class frequencies there."""
CYCLONES_A_SAMPLE, RIVERS_A_SAMPLE = 2.5, 4.2
SMALLEST_RADIUS = 3.2
"""A cyclone of fewer pixels can't be told from noise by a network of output stride 16."""
AMPLITUDE = 3.0
"""Height of a storm's signature in standard deviations of the background."""
RIVER_GROWTH = 0.75

# channel: standard deviation of the background in its unit, then the share of the signature of
# a cyclone's core, an atmospheric river, and a decoy in units of AMPLITUDE standard deviations
_RECIPE: dict[str, tuple[float, float, float, float]] = {
    "TMQ": (5.0, 1.2, 1.0, 1.0),  # kg/m2
    "U850": (6.0, 0.0, 0.0, 0.0),  # m/s
    "V850": (5.0, 0.0, 0.0, 0.0),  # m/s
    "UBOT": (4.5, 0.0, 0.0, 0.0),  # m/s
    "VBOT": (4.0, 0.0, 0.0, 0.0),  # m/s
    "QREFHT": (1.2e-3, 0.6, 0.5, 0.5),  # kg/kg
    "PS": (40.0, 0.0, 0.0, 0.0),  # Pa, what is left after the pressure at sea level
    "PSL": (450.0, -2.0, 0.0, 0.0),  # Pa
    "T200": (2.0, 1.4, 0.0, 0.0),  # K
    "T500": (2.5, 1.4, 0.2, 0.0),  # K
    "PRECT": (0.8, 1.2, 0.8, 0.6),  # natural logarithm of m/s
    "TS": (3.0, -0.2, 0.0, 0.0),  # K
    "TREFHT": (0.8, 0.4, 0.4, 0.0),  # K, what is left after the surface temperature
    "Z1000": (4.0, 0.0, 0.0, 0.0),  # m, what is left after the surface pressure
    "Z200": (70.0, -0.5, 0.0, 0.0),  # m
    "ZBOT": (0.6, 0.3, 0.0, 0.0),  # m
}
_WIND_850, _WIND_BOTTOM = 1.6, 1.5
_RIVER_WIND_850, _RIVER_WIND_BOTTOM = 0.9, 0.6


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A global frame of `height` x `width` pixels, row 0 at the south pole, periodic in longitude; `storm_scale` enlarges storms."""

    height: int
    width: int
    storm_scale: float

    @property
    def unit(self) -> float:
        """Pixels of this frame for one pixel of a storm at full size."""
        return frame_factor(self.height, self.width) * self.storm_scale

    @property
    def river_unit(self) -> float:
        """The same for rivers, which have pixels enough at smaller scales, and would fill a small frame."""
        return frame_factor(self.height, self.width) * self.storm_scale**RIVER_GROWTH

    @property
    def latitude_deg(self) -> NDArray[np.float64]:
        return (np.arange(self.height) + 0.5) * 180.0 / self.height - 90.0

    def row(self, latitude_deg: float) -> float:
        return (latitude_deg + 90.0) / 180.0 * self.height - 0.5


def frame_factor(height: int, width: int) -> float:
    """Return the size of a frame as a fraction of the full 768 x 1152."""
    return min(height / FULL_HEIGHT, width / FULL_WIDTH)


def default_storm_scale(height: int, width: int) -> float:
    """Return 1 where storms are large enough to be learnt, else what makes the smallest cyclone SMALLEST_RADIUS pixels."""
    return max(1.0, SMALLEST_RADIUS / (CYCLONE_RADIUS[0] * frame_factor(height, width)))


def draw(rng: np.random.Generator, terrain_m: Plane, grid: Grid, index: int) -> tuple[Plane, NDArray[np.int32]]:
    """Draw sample number `index`: image_hwc float32 in SI units, and label_hw int32.

    `index` only spreads the numbers of storms evenly over a set, so that the share of samples without a cyclone,
    which score 1 for that class, is the same in each set.
    """
    shape = (len(CHANNELS), grid.height, grid.width)
    image_chw = np.empty(shape, np.float32)
    for plane in image_chw:
        red_noise(rng, grid, out=plane)
    label_hw = np.zeros(shape[1:], np.int32)
    _draw_decoys(rng, image_chw, grid)
    _draw_rivers(rng, image_chw, label_hw, grid, index)
    _draw_cyclones(rng, image_chw, label_hw, grid, index)
    _to_units(image_chw, terrain_m, grid)
    return np.ascontiguousarray(np.moveaxis(image_chw, 0, 2)), label_hw


def terrain(rng: np.random.Generator, grid: Grid) -> Plane:
    """Return surface heights in m: smooth mountains on about a third of the frame, sea elsewhere."""
    height_m = np.zeros((grid.height, grid.width), np.float32)
    add_smooth_noise(rng, height_m, max(4.0, grid.height / 8), 1200.0)
    return np.maximum(height_m - 500.0, 0.0, out=height_m)


def red_noise(rng: np.random.Generator, grid: Grid, *, out: Plane) -> None:
    """Fill `out` with noise of variance near 1 at planetary, synoptic and meso scales plus a white tenth."""
    rng.standard_normal(out=out, dtype=np.float32)
    out *= 0.1
    # the last two are 14 and 5 pixels where a cyclone has a radius of about 3
    add_smooth_noise(rng, out, grid.height / 6, 0.55)
    add_smooth_noise(rng, out, 31.0 * grid.unit, 0.65)
    add_smooth_noise(rng, out, 11.0 * grid.unit, 0.5)


def add_smooth_noise(rng: np.random.Generator, plane_hw: Plane, spacing_px: float, deviation: float) -> None:
    """Add to `plane_hw` cubic B-splines on a grid of white noise, spaced `spacing_px`, with standard deviation `deviation`.

    A cubic B-spline's mean square is 151/315 an axis, so the square of two axes' is the field's variance.
    """
    height, width = plane_hw.shape
    rows, row_weights, n_rows = _spline(height, min(spacing_px, height), False)
    columns, column_weights, n_columns = _spline(width, min(spacing_px, width), True)
    coarse = rng.standard_normal((n_rows, n_columns), dtype=np.float32)
    coarse *= np.float32(deviation / (151 / 315))
    # sums in a fixed order, not a matrix product: BLAS may round differently with the number of threads
    middle = sum(coarse[:, columns[k]] * column_weights[k] for k in range(4))
    for k in range(4):
        plane_hw += middle[rows[k]] * row_weights[k][:, None]


@functools.lru_cache(maxsize=64)
def _spline(n: int, spacing: float, periodic: bool) -> tuple[NDArray[np.intp], Plane, int]:
    """Return for n pixels the 4 node indices (4, n), their cubic B-spline weights (4, n), and the number of nodes."""
    nodes = max(1, round(n / spacing)) if periodic else math.ceil(n / spacing) + 3
    position = np.arange(n) * (nodes / n if periodic else 1.0 / spacing)
    base = np.floor(position).astype(np.intp)
    t = position - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    indices = base + np.arange(4)[:, None]
    return indices % nodes, weights.astype(np.float32), nodes


def storm_count(index: int, mean: float, *, at_least: int = 0) -> int:
    """Return how many storms sample `index` gets: evenly spread from `at_least`, with `mean` on average over any run of indices.

    The golden ratio's multiples fill the unit interval evenly (Weyl), so every share is nearly exact.
    """
    even = (0.5 + index * 0.6180339887498949) % 1.0
    return max(at_least, math.floor(at_least + even * (2 * (mean - at_least) + 1)))


def _plateau(distance: NDArray[np.floating], half_width: float | NDArray[np.floating]) -> Plane:
    """Return 1 inside, 0 outside, 1/2 at `half_width`, where the label ends: edges steep enough to be learnt."""
    return np.exp(-math.log(2.0) * (distance / half_width) ** 4).astype(np.float32)


def _window(grid: Grid, row: float, column: float, rows: float, columns: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows within the frame and the columns, not yet wrapped, around a centre."""
    first, last = max(0, math.floor(row - rows)), min(grid.height, math.ceil(row + rows) + 1)
    half = min(columns, (grid.width - 1) / 2)
    return np.arange(first, max(first, last)), np.arange(math.ceil(column - half), math.floor(column + half) + 1)


def _add(image_chw: Plane, name: str, where: tuple[NDArray[np.intp], ...], signature: NDArray[np.floating], share: float) -> None:
    if share:
        image_chw[CHANNELS.index(name)][where] += (AMPLITUDE * share * signature).astype(np.float32)


def _draw_decoys(rng: np.random.Generator, image_chw: Plane, grid: Grid) -> None:
    """Add moist round blobs, as wide as rivers but with neither their length nor their wind."""
    for _ in range(max(1, round(1.5 * _mean_count(RIVERS_A_SAMPLE, grid)))):
        radius = rng.uniform(*RIVER_WIDTH) * grid.river_unit * rng.uniform(0.7, 1.1)
        row, column = grid.row(rng.uniform(-65, 65)), rng.uniform(0, grid.width)
        rows, columns = _window(grid, row, column, 2.5 * radius, 2.5 * radius)
        blob = _plateau(np.hypot(rows[:, None] - row, columns - column), radius)
        where = np.ix_(rows, columns % grid.width)
        for name, (_, _, _, share) in _RECIPE.items():
            _add(image_chw, name, where, blob, share)


def _draw_rivers(rng: np.random.Generator, image_chw: Plane, label_hw: NDArray[np.int32], grid: Grid, index: int) -> None:
    """Add long moist filaments that leave the tropics eastward and poleward, with wind along them, and label them."""
    for _ in range(storm_count(index, _mean_count(RIVERS_A_SAMPLE, grid), at_least=1)):
        length = min(rng.uniform(*RIVER_LENGTH) * grid.river_unit, 0.6 * grid.width)
        half_width = rng.uniform(*RIVER_WIDTH) * grid.river_unit / 2
        hemisphere = 1 if rng.random() < 0.5 else -1
        start = grid.row(hemisphere * rng.uniform(12, 25))
        # it ends between 40 and 60 degrees of latitude, or earlier where that would make it too steep
        rise = hemisphere * min(abs(grid.row(hemisphere * rng.uniform(40, 60)) - start), 0.6 * length)
        run = math.sqrt(length**2 - rise**2)
        bend = rng.uniform(-0.12, 0.12) * length
        west = rng.uniform(0, grid.width)
        margin = 2.5 * half_width
        rows, columns = _window(grid, start + rise / 2, west + run / 2, abs(rise) / 2 + abs(bend) + margin, run / 2 + margin)
        t = np.clip((columns - west) / run, 0.0, 1.0)
        slope = (rise + bend * np.pi * np.cos(np.pi * t)) / run
        across = (rows[:, None] - (start + rise * t + bend * np.sin(np.pi * t))) / np.hypot(1.0, slope)
        beyond = np.maximum(np.maximum(west - columns, columns - west - run), 0.0)
        distance = np.hypot(across, beyond)
        river = _plateau(distance, half_width)
        where = np.ix_(rows, columns % grid.width)
        for name, (_, _, share, _) in _RECIPE.items():
            _add(image_chw, name, where, river, share)
        east, north = 1.0 / np.hypot(1.0, slope), slope / np.hypot(1.0, slope)
        for level, strength in (("850", _RIVER_WIND_850), ("BOT", _RIVER_WIND_BOTTOM)):
            _add(image_chw, f"U{level}", where, river * east, strength)
            _add(image_chw, f"V{level}", where, river * north, strength)
        label_hw[where] = np.where(distance < half_width, RIVER, label_hw[where])


def _draw_cyclones(rng: np.random.Generator, image_chw: Plane, label_hw: NDArray[np.int32], grid: Grid, index: int) -> None:
    """Add tropical cyclones: low pressure, warm and moist cores, and winds that turn cyclonically; label them."""
    for _ in range(storm_count(index, _mean_count(CYCLONES_A_SAMPLE, grid))):
        radius = rng.uniform(*CYCLONE_RADIUS) * grid.unit
        hemisphere = 1 if rng.random() < 0.6 else -1
        row, column = grid.row(hemisphere * rng.uniform(8, 32)), rng.uniform(0, grid.width)
        rows, columns = _window(grid, row, column, 5 * radius, 5 * radius)
        north, east = (rows[:, None] - row) / radius, (columns - column)[None, :] / radius
        distance = np.hypot(north, east)
        core = _plateau(distance, 1.0)
        where = np.ix_(rows, columns % grid.width)
        for name, (_, share, _, _) in _RECIPE.items():
            _add(image_chw, name, where, core, share)
        # a Gaussian-cut Rankine-like vortex, fastest near the label's edge; counter-clockwise in the north, clockwise in the south
        speed = hemisphere * np.exp(0.5 - 0.5 * distance**2)
        for level, strength in (("850", _WIND_850), ("BOT", _WIND_BOTTOM)):
            _add(image_chw, f"U{level}", where, -speed * north, strength)
            _add(image_chw, f"V{level}", where, speed * east, strength)
        label_hw[where] = np.where(distance < 1.0, CYCLONE, label_hw[where])


def _mean_count(full: float, grid: Grid) -> float:
    """Return the mean number of storms: `full` at full size, fewer where they are enlarged, so that they keep room."""
    return full / grid.storm_scale**0.7


def _to_units(image_chw: Plane, terrain_m: Plane, grid: Grid) -> None:
    """Turn standard deviations into SI units in place: scale, add the climate of each latitude, tie pressure to height."""
    plane = dict(zip(CHANNELS, image_chw, strict=True))
    for name, (deviation, *_) in _RECIPE.items():
        plane[name] *= np.float32(deviation)
    for name, climate in _climate(grid.latitude_deg).items():
        plane[name] += climate.astype(np.float32)[:, None]
    np.clip(plane["TMQ"], 0.2, 80.0, out=plane["TMQ"])
    np.clip(plane["QREFHT"], 1e-5, 0.03, out=plane["QREFHT"])
    np.exp(np.minimum(plane["PRECT"], -12.5), out=plane["PRECT"])
    # hydrostatic: 11.9 Pa a metre of air near the ground
    plane["Z1000"] += (plane["PSL"] - 1.0e5) / 11.9
    plane["PS"] += plane["PSL"] - 11.5 * terrain_m
    plane["TS"] -= 0.0065 * terrain_m
    plane["TREFHT"] += plane["TS"]


def _climate(latitude_deg: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel at each latitude, in its unit (PRECT: logarithm)."""
    c, a = np.cos(np.radians(latitude_deg)), np.abs(latitude_deg)
    trades, westerlies = np.exp(-((a - 12) / 12) ** 2), np.exp(-((a - 45) / 15) ** 2)
    surface_pa = 1.0132e5 + 700 * np.exp(-((a - 30) / 12) ** 2) - 1200 * np.exp(-((a - 62) / 12) ** 2)
    zonal = 9 * westerlies - 6 * trades
    return {
        "TMQ": 3 + 35 * c**4,
        "U850": zonal,
        "UBOT": 0.6 * zonal,
        "VBOT": -1.5 * trades * np.sign(latitude_deg),
        "QREFHT": 0.001 + 0.015 * c**4,
        "PSL": surface_pa,
        "T200": 222 - 6 * c**2,
        "T500": 240 + 27 * c**2,
        "PRECT": -17.3 + 0.8 * np.exp(-((a / 10) ** 2)) + 0.5 * westerlies,
        "TS": 248 + 52 * c**2,
        "TREFHT": np.full_like(c, -0.8),
        "Z200": 11000 + 1350 * c**2,
        "ZBOT": 54 + 11 * c**2,
    }
