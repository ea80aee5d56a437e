"""Draws the weather of a generated product: seas and land, vapour and dust, and two layers of cloud, as fields on the 1 km grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.texture import Plane, fractal

LOW, HIGH, DETAIL, TOP, LAND, WARMTH, VAPOUR, DOUBT, DUST = range(9)
"""Numbers of the random fields."""
OCEAN, GROUND, SNOW, LAKE = range(4)
_FIELDS_STREAM, _NOISE_STREAM = 0, 1
_LAND_ABOVE, _LOW_ABOVE, _HIGH_ABOVE, _DUST_ABOVE = 0.45, 0.15, 0.75, 0.2
"""Where a field of mean 0 and variance 1 is land, low cloud, high cloud and dust: 33, 44, 23 and 42% of the world."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The surface: its `kind`, temperatures of surface and air, and the column of water vapour above it in g/cm2."""

    kind: NDArray[np.uint8]
    surface_k: Plane
    air_k: Plane
    elevation_m: Plane
    vapour: Plane
    coast: NDArray[np.bool_]
    tidal: NDArray[np.bool_]
    warmth: Plane


@dataclass(frozen=True, kw_only=True)
class Clouds:
    """The layers of low and high cloud: optical depth in the visible, temperature and height of the top; and the share of dust."""

    low_depth: Plane
    high_depth: Plane
    low_k: Plane
    high_k: Plane
    low_km: Plane
    dust: Plane


def noise(granule: Granule, number: int) -> np.random.Generator:
    """Return the generator of one of a granule's streams of independent noise; reprocessed products share it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((granule.seed, granule.orbit, _NOISE_STREAM, granule.frame, number))))


def coarsest_of(granule: Granule) -> int:
    """Return the exponent of the largest clouds: 256 km, and less in small frames, so that each holds clear and cloudy pixels."""
    return int(np.clip(math.log2(min(granule.height, granule.width) / 3), 2, 8))


def field(granule: Granule, number: int, *, largest: int = 8, hurst: float, finest: int = 0) -> Plane:
    """Return random field `number` (h, w), with structures of at most 2**largest km, less in small frames, and of 2**finest km at least."""
    coarsest = min(coarsest_of(granule), largest)
    key = (granule.seed, granule.orbit, _FIELDS_STREAM, number)
    size = (granule.first_row, granule.height, granule.width)
    return fractal(key, *size, coarsest=coarsest, finest=min(finest, coarsest), hurst=hurst)


def ground(granule: Granule, latitude: Plane, sun: Plane) -> Ground:
    """Seas and snowy northern winter land with lakes, whose temperatures fall toward the poles and, on land, with height."""
    height = field(granule, LAND, hurst=0.6) - np.float32(_LAND_ABOVE)
    warmth = field(granule, WARMTH, hurst=0.5, finest=1)
    land = height > 0
    lake = land & (warmth > 1.7)
    tropics = np.cos(np.radians(latitude)) ** 2
    elevation_m = 900 * np.maximum(height, 0)
    air_k = 269.5 + 28 * tropics
    ground_k = 269 + 31 * tropics - 9 * np.sin(np.radians(latitude)) + 2.5 * warmth - 0.0065 * elevation_m
    ground_k += np.where(sun > 0, 14 * sun, np.float32(-4))
    sea_k = np.maximum(271.5 + 28 * tropics + 0.9 * warmth, 271.35)
    snow = land & ~lake & (ground_k < 271.5)
    kind = np.select([lake, snow, land], [LAKE, SNOW, GROUND], OCEAN).astype(np.uint8)
    surface_k = np.where(land & ~lake, ground_k, sea_k).astype(np.float32)
    vapour = (0.4 + 3.4 * tropics**2) * np.exp(0.2 * field(granule, VAPOUR, hurst=0.6, finest=2))
    coast = np.zeros_like(land)
    along, across = land[1:] != land[:-1], land[:, 1:] != land[:, :-1]
    for side, change in ((coast[1:], along), (coast[:-1], along), (coast[:, 1:], across), (coast[:, :-1], across)):
        np.logical_or(side, change, out=side)
    tidal = ~land & (height > -0.05)
    return Ground(
        kind=kind, surface_k=surface_k, air_k=air_k.astype(np.float32), elevation_m=elevation_m, vapour=vapour.astype(np.float32),
        coast=coast, tidal=tidal, warmth=warmth,
    )  # fmt: skip


def clouds(granule: Granule, ground: Ground, latitude: Plane) -> Clouds:
    """A low layer of water cloud with broken edges and a high one of thin ice cloud; optical depths grow from nothing at the edges."""
    detail = field(granule, DETAIL, largest=5, hurst=0.2)
    top = field(granule, TOP, hurst=0.6, finest=2)
    low = np.maximum(field(granule, LOW, hurst=1 / 3) - _LOW_ABOVE, 0)
    high = np.maximum(field(granule, HIGH, hurst=0.5) - _HIGH_ABOVE, 0)
    low_depth = 17 * low ** np.float32(1.15) * np.exp(0.4 * detail)
    high_depth = 2.8 * high * np.exp(0.3 * detail)
    # km; fog and stratus lie in the coldest air, below an inversion on winter land
    height_km = np.clip(1.4 * np.exp(0.55 * top), 0.25, 5)
    low_k = ground.air_k - 6.3 * height_km
    high_k = np.clip(222 + 7 * top + 8 * np.cos(np.radians(latitude)), 200, 250)
    # dust and smoke, smooth and thin, that no mask takes for cloud
    dust = np.maximum(field(granule, DUST, hurst=0.7, finest=3) - np.float32(_DUST_ABOVE), 0)
    return Clouds(
        low_depth=low_depth, high_depth=high_depth, low_k=low_k, high_k=high_k.astype(np.float32), low_km=height_km, dust=dust
    )  # fmt: skip
