"""Makes the files of a generated product that annotate its images: places, angles, meteorology, times, and constants of the instrument."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stormbench
from stormbench.cloudmask import orbit
from stormbench.cloudmask.netcdf_write import Variable, encode
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import Pixels, edges
from stormbench.cloudmask.scene import SOLAR_IRRADIANCE
from stormbench.cloudmask.texture import Plane

SOLAR, THERMAL = ("S1", "S2", "S3", "S4", "S5", "S6"), ("S7", "S8", "S9")
GENERATED = "Generated data, no observation: it proves machinery, never accuracy."
GENERATED_BY = "stormbench cloudmask synth"
_ANGLE_FILL = {"S3A": np.nan, "S3B": -999.0}
"""What stands where tie points lie outside the swath: readers must take NaN and a number alike."""
_PLACE_FILL, _HEIGHT_FILL = -(2**31), -(2**15)
_TIME_ORIGIN = datetime.datetime(2000, 1, 1)
_METEOROLOGY = (
    "total_column_water_vapour_tx", "cloud_fraction_tx", "skin_temperature_tx", "sea_surface_temperature_tx", "total_column_ozone_tx",
    "soil_wetness_tx", "snow_albedo_tx", "snow_depth_tx", "sea_ice_fraction_tx", "surface_pressure_tx", "temperature_tx", "dew_point_tx",
)  # fmt: skip


@dataclass(frozen=True)
class Globals:
    """The global attributes of one file of a product, on the grid of `step_m`: 1000, 500, or 16000 for tie points."""

    granule: Granule
    title: str
    step_m: int

    def attributes(self) -> dict[str, Any]:
        """Return them by name. The offsets of a grid count its own rows and columns."""
        granule = self.granule
        times = 2 if self.step_m == 500 else 1
        ties = self.step_m == orbit.TIE_STEP_M
        along = 1000 if ties else self.step_m
        return {
            "title": self.title,
            "product_name": f"{granule.name}.SEN3",
            "comment": GENERATED,
            "source": f"{GENERATED_BY} {stormbench.__version__}, seed {granule.seed}",
            "institution": "LN2",
            "netCDF_version": "4",
            "creation_time": stamp(granule.created),
            "start_time": stamp(granule.start),
            "stop_time": stamp(granule.stop),
            "absolute_orbit_number": np.int32(granule.absolute_orbit),
            "resolution": f"[ {self.step_m} {along} ]",
            "start_offset": np.int32(granule.row_offset * times),
            "track_offset": np.int32(orbit.TIE_TRACK if ties else granule.track_offset * times),
        }


def stamp(time: datetime.datetime) -> str:
    """Return a time as the products write it, to the microsecond."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def places(granule: Granule, grid: Pixels, elevation_m: Plane, suffix: str, threads: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files with latitude, longitude and height of a grid's pixels and with their distances along and across the track."""
    times = 1000 // grid.step_m
    height, width = grid.unfilled.shape
    rows, across = np.arange(height) / times, orbit.across(granule, np.arange(width), grid.step_m)
    latitude, longitude = (_millionths(angle) for angle in orbit.places(granule, rows, across))
    elevation = np.rint(elevation_m).astype(np.int16).repeat(times, axis=0).repeat(times, axis=1)
    degrees = {"scale_factor": 1e-6}
    variables = [
        *_image(grid, f"latitude_{suffix}", latitude, _PLACE_FILL, {**degrees, "standard_name": "latitude", "units": "degrees_north"}),
        *_image(grid, f"longitude_{suffix}", longitude, _PLACE_FILL, {**degrees, "standard_name": "longitude", "units": "degrees_east"}),
        *_image(grid, f"elevation_{suffix}", elevation, _HEIGHT_FILL, {"standard_name": "surface_altitude", "units": "m"}),
    ]
    about = Globals(granule, f"SLSTR L1B geodetic coordinates at {grid.step_m} m", grid.step_m)
    yield f"geodetic_{suffix}.nc", encode(about.attributes(), variables, threads=threads)
    x = np.broadcast_to(np.rint(across).astype(np.int32), (height, width))
    y = np.broadcast_to(((granule.row_offset * times + np.arange(height)) * grid.step_m).astype(np.int32)[:, None], (height, width))
    variables = [
        *_image(grid, f"x_{suffix}", x, _PLACE_FILL, {"long_name": "Distance across the track, positive to its right", "units": "m"}),
        *_image(grid, f"y_{suffix}", y, _PLACE_FILL, {"long_name": "Distance along the track", "units": "m"}),
    ]
    about = Globals(granule, f"SLSTR L1B Cartesian coordinates at {grid.step_m} m", grid.step_m)
    yield f"cartesian_{suffix}.nc", encode(about.attributes(), variables, threads=threads)


def ties(granule: Granule, threads: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files on the tie grid: angles, which are missing outside the swath, places and meteorology, which aren't."""
    geometry = orbit.tie_geometry(granule)
    outside = _outside(granule)
    none = _ANGLE_FILL[granule.mission]
    angles = []
    for name in ("sat_azimuth", "sat_path", "sat_zenith", "solar_azimuth", "solar_path", "solar_zenith"):
        values = np.where(outside, none, geometry[name])
        about = {"long_name": name.replace("_", " "), "units": "m" if "path" in name else "degrees"}
        angles.append(_tie(f"{name}_tn", values, about, fill=none))
    yield "geometry_tn.nc", _tie_file(granule, "angles", angles, threads)
    geodetic = [_tie(f"{name}_tx", geometry[name], {"units": "degrees"}) for name in ("latitude", "longitude")]
    yield "geodetic_tx.nc", _tie_file(granule, "geodetic coordinates", geodetic, threads)
    cartesian = [_tie(f"{name}_tx", geometry[name], {"units": "m"}) for name in ("x", "y")]
    yield "cartesian_tx.nc", _tie_file(granule, "Cartesian coordinates", cartesian, threads)
    yield "met_tx.nc", _tie_file(granule, "meteorology", _meteorology(geometry["latitude"]), threads)


def constants(granule: Granule) -> Iterator[tuple[str, bytes]]:
    """Yield the small files: quality of each channel with the irradiances of its detectors, times of the rows, visible calibration."""

    def file(title: str, step_m: int, variables: list[Variable]) -> bytes:
        return encode(Globals(granule, f"SLSTR L1B {title}", step_m).attributes(), variables)

    levels = np.linspace(0.005, 0.02, 8, dtype=np.float32)
    calibration = []
    for channel, name in enumerate(SOLAR):
        flux = irradiance(granule, channel)
        units = {"units": "mW.m-2.nm-1", "long_name": f"Solar irradiance of channel {name} by detector"}
        quality = [
            Variable(name=f"{name}_solar_irradiance_an", dimensions=("detectors",), values=flux, attributes=units),
            Variable(name=f"{name}_radiometric_uncertainty_an", dimensions=("uncertainties",), values=levels, attributes={"units": "1"}),
        ]
        yield f"{name}_quality_an.nc", file(f"quality of channel {name}", 500, quality)
        # the short-wave infrared channels have a second stripe of four detectors, and there is an oblique view
        both = np.concatenate([flux, flux * np.float32(1.002)]) if channel >= 3 else flux
        dimensions = ("swir_detectors" if channel >= 3 else "visible_detectors", "views")
        views = np.stack([both, both * np.float32(0.998)], axis=1)
        calibration.append(Variable(name=f"{name}_solar_irradiances", dimensions=dimensions, values=views, attributes=units))
    for name in THERMAL:
        label = f"{name}_radiometric_uncertainty_in"
        noise = Variable(name=label, dimensions=("uncertainties",), values=levels * 10, attributes={"units": "K"})
        yield f"{name}_quality_in.nc", file(f"quality of channel {name}", 1000, [noise])
    yield "time_in.nc", file("times of the rows", 1000, _times(granule))
    yield "viscal.nc", file("visible calibration", 500, calibration)


def irradiance(granule: Granule, channel: int) -> NDArray[np.float32]:
    """Return the solar irradiance of a channel's four detectors in mW m-2 nm-1, which differ by up to 3 percent, at the day's distance."""
    number = np.arange(4)
    response = 1 + 0.015 * np.cos(1.7 * channel + 2.1 * number + (granule.mission == "S3B"))
    return (SOLAR_IRRADIANCE[channel] / orbit.sun_distance_au(granule.start) ** 2 * response).astype(np.float32)


def _times(granule: Granule) -> list[Variable]:
    start = round((granule.start - _TIME_ORIGIN) / datetime.timedelta(microseconds=1))
    skipped = granule.first_row - granule.frame * orbit.FULL_HEIGHT
    stamps = start + np.rint((skipped + np.arange(granule.height)) * orbit.ROW_S * 1e6).astype(np.int64)
    units = {"units": "microseconds since 2000-01-01 00:00:00", "standard_name": "time", "long_name": "Time of the row"}
    scans = {"long_name": "First scan that bears on the row"}
    return [
        Variable(name="time_stamp_i", dimensions=("rows",), values=stamps, attributes=units),
        Variable(name="Nadir_Minimal_ts_i", dimensions=("rows",), values=stamps - 75_000, attributes=units),
        Variable(name="Nadir_Maximal_ts_i", dimensions=("rows",), values=stamps + 75_000, attributes=units),
        Variable(name="Nadir_First_scan_i", dimensions=("rows",), values=np.arange(granule.height, dtype=np.int32) // 2, attributes=scans),
        Variable(name="SCANSYNC", dimensions=(), values=np.array(300_000, np.int32), attributes={"units": "microseconds"}),
        Variable(name="PIXSYNC_i", dimensions=(), values=np.array(81.74), attributes={"units": "microseconds"}),
    ]


def _outside(granule: Granule) -> NDArray[np.bool_]:
    """Return the tie columns (130,) between which no pixel lies that can be filled."""
    left, right = (int(side.min()) for side in edges(granule, 1))
    # the last pixel of 500 m is centred half a row and column beyond that of 1 km which it lies in
    columns = (np.array([left, granule.width - right - 0.5]) - granule.track_offset) * (1000 / orbit.TIE_STEP_M) + orbit.TIE_TRACK
    number = np.arange(orbit.TIE_COLUMNS)
    return (number < np.floor(columns[0])) | (number > np.floor(columns[1]) + 1)


def _meteorology(latitude_deg: NDArray[np.float64]) -> list[Variable]:
    """Return a forecast that knows of the latitude only."""
    tropics = np.cos(np.radians(latitude_deg)) ** 2
    known = {
        "total_column_water_vapour_tx": (4 + 34 * tropics**2, "kg m-2"),
        "skin_temperature_tx": (270 + 29 * tropics, "K"),
        "sea_surface_temperature_tx": (271.5 + 28 * tropics, "K"),
        "temperature_tx": (269.5 + 28 * tropics, "K"),
        "dew_point_tx": (266 + 28 * tropics, "K"),
        "surface_pressure_tx": (1013 - 8 * (1 - tropics), "hPa"),
        "cloud_fraction_tx": (np.full_like(tropics, 0.6), "1"),
        "total_column_ozone_tx": (np.full_like(tropics, 6.5e-3), "kg m-2"),
    }
    variables = []
    for name in _METEOROLOGY:
        values, units = known.get(name, (np.zeros_like(tropics), "1"))
        dimensions = ("t_single", "rows", "columns")
        variables.append(Variable(name=name, dimensions=dimensions, values=values[None].astype(np.float32), attributes={"units": units}))
    for name, speed in (("u_wind_tx", 6.0), ("v_wind_tx", -1.5)):
        wind = np.repeat((speed * (1 - tropics))[None], 5, axis=0).astype(np.float32)
        variables.append(Variable(name=name, dimensions=("t_series", "rows", "columns"), values=wind, attributes={"units": "m s-1"}))
    return variables


def _tie(name: str, values: NDArray[np.float64], about: dict[str, Any], fill: float | None = None) -> Variable:
    return Variable(name=name, dimensions=("rows", "columns"), values=np.asarray(values, np.float64), fill=fill, attributes=about)


def _tie_file(granule: Granule, what: str, variables: list[Variable], threads: int) -> bytes:
    return encode(Globals(granule, f"SLSTR L1B {what} on the tie points", orbit.TIE_STEP_M).attributes(), variables, threads=threads)


def _image(grid: Pixels, name: str, plane: NDArray[Any], fill: int, about: dict[str, Any]) -> list[Variable]:
    """Return a plane of the image and of the orphans, whose name has `_orphan` before the grid's."""
    stem, suffix = name.rsplit("_", 1)
    orphans = grid.orphans(plane, fill)
    return [
        Variable(name=name, dimensions=("rows", "columns"), values=plane, fill=fill, attributes=about),
        Variable(name=f"{stem}_orphan_{suffix}", dimensions=("rows", "orphan_pixels"), values=orphans, fill=fill, attributes=about),
    ]


def _millionths(radians: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(np.degrees(radians) * 1e6).astype(np.int32)
