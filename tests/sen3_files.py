"""Small SLSTR products for tests, real NetCDF-4 files written without the program's own writers, and what they must become.

`expected` computes every pixel by itself in Python's own floats, straight from the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np

NAME = "S3A_SL_1_RBT____20190101T101500_20190101T101800_20190102T120000_0179_039_374_2340_LN2_O_NT_003.SEN3"
REFS, BTS = ("S1", "S2", "S3", "S4", "S5", "S6"), ("S7", "S8", "S9")
FILL = -32768
MASKS = {
    "coastline": 1, "ocean": 2, "tidal": 4, "land": 8, "inland_water": 16, "unfilled": 32, "cosmetic": 256, "duplicate": 512,
    "day": 1024, "twilight": 2048, "sun_glint": 4096, "snow": 8192, "summary_cloud": 16384, "summary_pointing": 32768,
}  # fmt: skip
FACTORS = (0.97, 0.98, 0.98, 1.0, 1.11, 1.13)


def name_of(number: int, *, baseline: str = "003", mission: str = "S3A") -> str:
    """Return a product's name; each number is another sensing time."""
    times = f"20190101T{10 + number // 20:02d}{number % 20 * 3:02d}00_20190101T{10 + number // 20:02d}{number % 20 * 3:02d}59"
    return f"{mission}_SL_1_RBT____{times}_20190102T120000_0179_039_374_{number:04d}_LN2_O_NT_{baseline}.SEN3"


@dataclass
class Scene:
    """What a product's files hold, packed; change what a test needs changed, then `write` it."""

    light: np.ndarray
    """Stored radiances (6, 2h, 2w)."""
    detector: np.ndarray
    irradiance: np.ndarray
    """(6, detectors)."""
    heat: np.ndarray
    """Stored brightness temperatures (3, h, w)."""
    zenith: np.ndarray
    confidence: np.ndarray
    bayes: np.ndarray
    scale: tuple[float, ...] = (0.02, 0.015, 0.012, 0.004, 0.003, 0.001)
    offset: tuple[float, ...] = (0.0, 0.5, 0.0, -0.1, 0.0, 0.2)
    fine: dict[str, float] = field(default_factory=lambda: {"start_offset": 152894, "track_offset": 1996})
    tie: dict[str, float] = field(default_factory=lambda: {"start_offset": 76447, "track_offset": 64})


def scene(height: int = 6, width: int = 40, *, seed: int = 0, zenith: tuple[float, float] = (30.0, 60.0)) -> Scene:
    """Return a scene with random numbers, some of them missing, and zeniths around the range given."""
    rng = np.random.default_rng([7, seed])
    light = rng.integers(50, 20000, (6, 2 * height, 2 * width)).astype(np.int16)
    light[rng.random(light.shape) < 0.1] = FILL
    light[:, :4, :6] = FILL
    detector = rng.integers(0, 4, light.shape[1:]).astype(np.uint8)
    detector[rng.random(detector.shape) < 0.03] = 255
    heat = rng.integers(-8000, 3000, (3, height, width)).astype(np.int16)
    heat[rng.random(heat.shape) < 0.1] = FILL
    # tie columns 63 to 67 span the image, so that the zenith takes its whole range there
    tie_shape = (height + 1, 130)
    steps = np.add.outer(np.linspace(0, 0.2, tie_shape[0]), (np.arange(tie_shape[1]) - 63) / 5)
    angles = np.clip(zenith[0] + (zenith[1] - zenith[0]) * steps + rng.normal(0, 0.01, tie_shape), 1, 179)
    confidence = np.full((height, width), MASKS["day"] | MASKS["ocean"], np.uint16)
    confidence[rng.random(confidence.shape) < 0.3] |= MASKS["summary_cloud"] | MASKS["summary_pointing"]
    bayes = rng.choice(np.array([0, 0, 1, 2, 3, 12], np.uint8), (height, width))
    return Scene(
        light=light,
        detector=detector,
        irradiance=np.outer([1830.0, 1525.0, 955.0, 366.0, 247.0, 78.0], [1.0, 0.98, 1.03, 0.9]),
        heat=heat,
        zenith=angles,
        confidence=confidence,
        bayes=bayes,
        fine={"start_offset": 152894, "track_offset": width - 7},
    )


def write(folder: Path, content: Scene, *, writer: str = "netCDF4", **storage: Any) -> Path:
    """Write the files of a product, by netCDF4-python or by h5py; `storage` goes to their create functions."""
    folder.mkdir(parents=True)
    put = {"netCDF4": _by_netcdf4, "h5py": _by_h5py}[writer]
    rows, cols = content.heat.shape[1:]
    fine = {**content.fine, "resolution": "[ 500 500 ]", "start_time": "2019-01-01T10:15:00.000000Z"}
    coarse = {name: content.fine[name] // 2 for name in ("start_offset", "track_offset")} | {"resolution": "[ 1000 1000 ]"}
    tie = {**content.tie, "resolution": "[ 16000 1000 ]"}
    for index, channel in enumerate(REFS):
        scale, offset = np.float64(content.scale[index]), np.float64(content.offset[index])
        packed = {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(FILL)}
        radiance = (f"{channel}_radiance_an", ("rows", "columns"), content.light[index], packed)
        orphans = (f"{channel}_radiance_orphan_an", ("rows", "orphan_pixels"), content.light[index][:, :2], packed)
        exception = (f"{channel}_exception_an", ("rows", "columns"), np.zeros((2 * rows, 2 * cols), np.uint8), {})
        put(folder / f"{channel}_radiance_an.nc", fine, [radiance, orphans, exception], storage)
        flux = (f"{channel}_solar_irradiance_an", ("detectors",), content.irradiance[index], {})
        put(folder / f"{channel}_quality_an.nc", fine, [flux], {})
    for index, channel in enumerate(BTS):
        packed = {"scale_factor": np.float32(0.01), "add_offset": np.float32(283.73), "_FillValue": np.int16(FILL), "units": "K"}
        put(folder / f"{channel}_BT_in.nc", coarse, [(f"{channel}_BT_in", ("rows", "columns"), content.heat[index], packed)], storage)
    put(folder / "indices_an.nc", fine, [("detector_an", ("rows", "columns"), content.detector, {"_FillValue": np.uint8(255)})], storage)
    put(folder / "geometry_tn.nc", tie, [("solar_zenith_tn", ("rows", "columns"), content.zenith, {"_FillValue": np.float64(-999.0)})], {})
    flags = {"flag_masks": np.array(list(MASKS.values()), np.uint16), "flag_meanings": " ".join(MASKS)}
    bayes = {"flag_masks": np.array([1, 2, 4, 8], np.uint8), "flag_meanings": "single_low single_moderate dual_low dual_moderate"}
    masks = [("confidence_in", ("rows", "columns"), content.confidence, flags), ("bayes_in", ("rows", "columns"), content.bayes, bayes)]
    put(folder / "flags_in.nc", coarse, masks, storage)
    return folder


Variables = Iterable[tuple[str, tuple[str, ...], np.ndarray, dict[str, Any]]]


def _by_netcdf4(path: Path, attributes: dict[str, Any], variables: Variables, storage: dict[str, Any]) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        file.setncatts(attributes)
        for name, dimensions, array, extra in variables:
            for dimension, size in zip(dimensions, array.shape, strict=True):
                if dimension not in file.dimensions:
                    file.createDimension(dimension, size)
            others = {key: value for key, value in extra.items() if key != "_FillValue"}
            fill = extra.get("_FillValue")
            variable = file.createVariable(name, array.dtype, dimensions, fill_value=fill, **_fitting(storage, array.shape))
            variable.set_auto_maskandscale(False)
            variable.setncatts(others)
            variable[...] = array


def _by_h5py(path: Path, attributes: dict[str, Any], variables: Variables, storage: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for key, value in attributes.items():
            file.attrs[key] = np.bytes_(value) if isinstance(value, str) else np.array([value], np.int32)
        for name, _, array, extra in variables:
            dataset = file.create_dataset(name, data=array, **_fitting(storage, array.shape))
            for key, value in extra.items():
                dataset.attrs[key] = np.bytes_(value) if isinstance(value, str) else np.atleast_1d(value)


def _fitting(storage: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the options with no chunk larger than the array."""
    fitted = {}
    for key, value in storage.items():
        fitted[key] = tuple(min(pair) for pair in zip(value, shape, strict=True)) if key in ("chunks", "chunksizes") else value
    return fitted


def zenith_at(content: Scene, row: int, col: int) -> float:
    """Return the solar zenith of one 500 m pixel in degrees, or NaN."""
    tie_row = (row + content.fine["start_offset"]) * (500 / 1000) - content.tie["start_offset"]
    tie_col = (col - content.fine["track_offset"]) * (500 / 16000) + content.tie["track_offset"]
    last_row, last_col = content.zenith.shape[0] - 1, content.zenith.shape[1] - 1
    tie_row, tie_col = min(max(tie_row, 0.0), last_row), min(max(tie_col, 0.0), last_col)
    total = 0.0
    for near_row in {math.floor(tie_row), math.ceil(tie_row)}:
        for near_col in {math.floor(tie_col), math.ceil(tie_col)}:
            weight = (1 - abs(tie_row - near_row)) * (1 - abs(tie_col - near_col))
            angle = float(content.zenith[near_row, near_col])
            total += weight * (math.nan if angle == -999.0 else angle)
    return total


def expected(content: Scene, factors: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return reflectances and radiances (h, w, 6) in float64, from the definitions, one pixel at a time."""
    n_channels, rows, cols = content.light.shape
    refs, rads = (np.full((rows // 2, cols // 2, n_channels), np.nan) for _ in range(2))
    zeniths = [[zenith_at(content, row, col) for col in range(cols)] for row in range(rows)]
    for channel in range(n_channels):
        for row, col in np.ndindex(rows // 2, cols // 2):
            reflected, seen = [], []
            for y, x in ((2 * row, 2 * col), (2 * row, 2 * col + 1), (2 * row + 1, 2 * col), (2 * row + 1, 2 * col + 1)):
                stored, detector, zenith = int(content.light[channel, y, x]), int(content.detector[y, x]), zeniths[y][x]
                if stored == FILL:
                    continue
                radiance = (stored * content.scale[channel] + content.offset[channel]) * factors[channel]
                seen.append(radiance)
                if detector != 255 and zenith < 90:
                    flux = float(content.irradiance[channel, detector])
                    reflected.append(math.pi * radiance / (flux * math.cos(math.radians(zenith))))
            if reflected:
                refs[row, col, channel] = sum(reflected) / len(reflected)
            if seen:
                rads[row, col, channel] = sum(seen) / len(seen)
    return refs, rads


def change(path: Path, how: Callable[[h5py.File], None]) -> None:
    """Change a file in place."""
    with h5py.File(path, "r+") as file:
        how(file)
