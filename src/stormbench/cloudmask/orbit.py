"""Says where a generated product lies: its times, names and offsets, the places of its pixels, and the angles on its tie points.

The satellite flies a circle of the inclination, period and local time of Sentinel-3 over a sphere.
"""

from __future__ import annotations

import datetime
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FULL_HEIGHT, FULL_WIDTH = 1200, 1500
"""Pixels of the 1 km grid of a frame of three minutes."""
TIE_COLUMNS, TIE_TRACK, TIE_STEP_M = 130, 64, 16_000
TRACK_COLUMN = 998
"""Column of the 1 km grid under the satellite: the nadir view looks farther to one side."""
FRAME_S, ROW_S = 180, 0.15
PERIOD_S = 27 * 86_400 / 385
"""385 orbits in the 27 days of a cycle."""
FRAMES_AN_ORBIT = int(PERIOD_S // FRAME_S)
DAY_LIMIT_DEG, NIGHT_LIMIT_DEG = 85.0, 95.0
"""Solar zenith angles where twilight begins and ends."""
_INCLINATION = math.radians(98.65)
_RADIUS_M, _ALTITUDE_M = 6_371_000.0, 814_500.0
_EARTH_TURN = 2 * math.pi / 86_400
_NODE_LOCAL_TIME_H = 22.0
_EPOCH = datetime.datetime(2019, 12, 3, 0, 30)
"""In northern winter the sun sets on the descending, sunlit half of the orbit near 60 degrees north."""
_OTHER_SATELLITE_S = PERIOD_S * 140 / 360
"""Sentinel-3B flies 140 degrees of the orbit apart from Sentinel-3A."""
_FIRST_RELATIVE_ORBIT, _FIRST_CYCLE, _FIRST_ABSOLUTE_ORBIT = 102, 52, 19_764


@dataclass(frozen=True, kw_only=True)
class Granule:
    """One product to generate: frame number `frame` of orbit number `orbit`, `height` x `width` pixels of 1 km from its middle.

    `reprocessing` counts products of one sensing time: each is created later than the one before.
    """

    seed: int
    orbit: int
    frame: int
    height: int = FULL_HEIGHT
    width: int = FULL_WIDTH
    reprocessing: int = 0

    @property
    def mission(self) -> str:
        return ("S3A", "S3B")[self.orbit % 2]

    @property
    def baseline(self) -> str:
        """The baseline collection: four orbits see both baselines from both satellites."""
        return ("004", "005")[(self.orbit + self.orbit // 2) % 2]

    @property
    def ascending_node(self) -> datetime.datetime:
        """UTC of the northward crossing of the equator."""
        offset = _OTHER_SATELLITE_S if self.mission == "S3B" else 0.0
        return _EPOCH + datetime.timedelta(seconds=round(self.orbit * PERIOD_S + offset))

    @property
    def start(self) -> datetime.datetime:
        return self.ascending_node + datetime.timedelta(seconds=self.frame * FRAME_S)

    @property
    def stop(self) -> datetime.datetime:
        return self.start + datetime.timedelta(seconds=FRAME_S)

    @property
    def created(self) -> datetime.datetime:
        # near real time within hours, the offline products a day or two later
        return self.start + datetime.timedelta(hours=3 if self.timeliness == "NR" else 31 + 24 * self.reprocessing, seconds=917)

    @property
    def timeliness(self) -> str:
        return "NR" if self.orbit % 4 == 3 and not self.reprocessing else "NT"

    @property
    def relative_orbit(self) -> int:
        return _FIRST_RELATIVE_ORBIT + self.orbit % 250

    @property
    def cycle(self) -> int:
        return _FIRST_CYCLE + self.orbit // 250

    @property
    def absolute_orbit(self) -> int:
        return _FIRST_ABSOLUTE_ORBIT + self.orbit

    @property
    def row_offset(self) -> int:
        """Rows of 1 km from the ascending node of the dump's first orbit, which for odd orbits is the one before."""
        return self.first_row + (self.orbit % 2) * round(PERIOD_S / ROW_S)

    @property
    def first_row(self) -> int:
        """Rows of 1 km from this orbit's ascending node."""
        return self.frame * FULL_HEIGHT + (FULL_HEIGHT - self.height) // 2

    @property
    def track_offset(self) -> int:
        return TRACK_COLUMN - (FULL_WIDTH - self.width) // 2

    @property
    def name(self) -> str:
        """The product's name, without an ending. Odd orbits leave the frame out, as products that were not cut to frames do."""
        times = "_".join(f"{time:%Y%m%dT%H%M%S}" for time in (self.start, self.stop, self.created))
        frame = f"{self.frame * FRAME_S:04d}" if self.orbit % 2 == 0 else "____"
        place = f"{FRAME_S - 1:04d}_{self.cycle:03d}_{self.relative_orbit:03d}_{frame}_LN2_O_{self.timeliness}"
        return f"{self.mission}_SL_1_RBT____{times}_{place}_{self.baseline}"


def sun(time: datetime.datetime) -> Array:
    """Return the unit vector to the sun in the frame that turns with the Earth (3,), to a degree: mean sun, circular orbit."""
    days = (time - datetime.datetime(time.year, 1, 1)).total_seconds() / 86_400
    declination = math.radians(-23.44) * math.cos(2 * math.pi * (days + 10) / 365.25)
    longitude = math.pi - 2 * math.pi * (days % 1.0)
    return _unit(np.float64(declination), np.float64(longitude))


def sun_distance_au(time: datetime.datetime) -> float:
    """Return the distance to the sun: nearest on 3 January, eccentricity 0.0167."""
    days = (time - datetime.datetime(time.year, 1, 3)).total_seconds() / 86_400
    return 1 - 0.0167 * math.cos(2 * math.pi * days / 365.25)


def _unit(latitude: Array | np.float64, longitude: Array | np.float64) -> Array:
    """Return unit vectors (3, ...) of places in radians."""
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])


def places(granule: Granule, rows: NDArray, across_m: NDArray) -> tuple[Array, Array]:
    """Return latitude and longitude in radians (rows, columns) of points `across_m` to the right of the track.

    `rows` counts rows of 1 km from the frame's first; both arguments may be fractional.
    """
    seconds = (granule.first_row + rows) * ROW_S
    angle = 2 * math.pi * seconds / PERIOD_S
    ci, si = math.cos(_INCLINATION), math.sin(_INCLINATION)
    # below the satellite, in a frame that keeps its direction, x toward the ascending node
    below = np.stack([np.cos(angle), ci * np.sin(angle), si * np.sin(angle)])
    right = np.array([0.0, si, -ci])
    away = across_m / _RADIUS_M
    x, y, z = (below[k][:, None] * np.cos(away) + right[k] * np.sin(away) for k in range(3))
    node = granule.ascending_node
    hours = node.hour + node.minute / 60 + node.second / 3600
    node_longitude = math.radians(15 * (_NODE_LOCAL_TIME_H - hours))
    longitude = np.arctan2(y, x) + (node_longitude - _EARTH_TURN * seconds)[:, None]
    return np.arcsin(np.clip(z, -1, 1)), (longitude + math.pi) % (2 * math.pi) - math.pi


def across(granule: Granule, columns: NDArray, step_m: int) -> Array:
    """Return metres to the right of the track of columns of the grid of `step_m`; they run from right to left."""
    return (granule.track_offset * 1000.0 / step_m - columns) * step_m


@functools.lru_cache(maxsize=2)
def tie_geometry(granule: Granule) -> dict[str, Array]:
    """Return the angles in degrees and the places of the tie points, each (height, 130), by the names of their variables less `_tn`.

    Tie points lie 1 km apart along the track and 16 km across it, column 64 on the track.
    """
    columns = np.arange(TIE_COLUMNS)
    x = (TIE_TRACK - columns) * float(TIE_STEP_M)
    rows = np.arange(granule.height)
    latitude, longitude = places(granule, rows, x)
    up = _unit(latitude, longitude)
    east = np.stack([-np.sin(longitude), np.cos(longitude), np.zeros_like(longitude)])
    north = np.stack([-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)])
    toward_sun = _toward_sun(granule)
    below_latitude, below_longitude = places(granule, rows, np.zeros(1))
    satellite = _unit(below_latitude, below_longitude) * (1 + _ALTITUDE_M / _RADIUS_M) - up
    distance = np.sqrt((satellite**2).sum(0))
    satellite = satellite / distance
    found = {"latitude": np.degrees(latitude), "longitude": np.degrees(longitude)}
    for name, direction in (("solar", toward_sun), ("sat", satellite)):
        cosine = (up * direction).sum(0)
        found[f"{name}_zenith"] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        found[f"{name}_azimuth"] = np.degrees(np.arctan2((east * direction).sum(0), (north * direction).sum(0))) % 360
    found["sat_path"] = distance * _RADIUS_M
    found["solar_path"] = np.full_like(distance, sun_distance_au(granule.start) * 1.495978707e11)
    found["x"] = np.broadcast_to(x, latitude.shape)
    found["y"] = np.broadcast_to((granule.row_offset + rows)[:, None] * 1000.0, latitude.shape)
    # where the sun would be seen mirrored by a level sea: the angle between the sight and the mirrored ray
    mirrored = 2 * (up * toward_sun).sum(0) * up - toward_sun
    found["glint"] = np.degrees(np.arccos(np.clip((mirrored * satellite).sum(0), -1, 1)))
    return found


def between_ties(granule: Granule, tie: Array, step_m: int) -> Array:
    """Return tie-point values (height, 130) on the grid of `step_m`, 1000 or 500, bilinear between tie points.

    The row and column of the tie grid follow from the offsets of both grids; beyond the last row of tie points the value stays.
    """
    times = 1000 // step_m
    columns = (np.arange(granule.width * times) - granule.track_offset * times) * (step_m / TIE_STEP_M) + TIE_TRACK
    left = np.clip(np.floor(columns).astype(np.intp), 0, TIE_COLUMNS - 2)
    share = columns - left
    wide = tie[:, left] * (1 - share) + tie[:, left + 1] * share
    if times == 1:
        return wide
    rows = np.minimum(np.arange(granule.height * times) / times, granule.height - 1)
    upper = np.floor(rows).astype(np.intp)
    part = (rows - upper)[:, None]
    return wide[upper] * (1 - part) + wide[np.minimum(upper + 1, granule.height - 1)] * part


def light(granule: Granule) -> str:
    """Return `day`, `night` or `twilight`: whether the whole frame has the sun well above or below the horizon, or not."""
    rows, columns = np.linspace(0, granule.height, 9), np.linspace(0, granule.width, 9)
    up = _unit(*places(granule, rows, across(granule, columns, 1000)))
    zenith = np.degrees(np.arccos((up * _toward_sun(granule)).sum(0)))
    if zenith.max() < DAY_LIMIT_DEG:
        return "day"
    return "night" if zenith.min() >= NIGHT_LIMIT_DEG else "twilight"


def _toward_sun(granule: Granule) -> Array:
    """Return the direction of the sun in the middle of the frame (3, 1, 1)."""
    return sun(granule.start + datetime.timedelta(seconds=FRAME_S / 2))[:, None, None]
