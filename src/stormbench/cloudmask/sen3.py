"""Makes the files of a generated product, a `.SEN3` folder of SLSTR level 1: the images here, the rest by `annotation`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import annotation, orbit, weather
from stormbench.cloudmask.annotation import GENERATED, SOLAR, THERMAL, Globals, irradiance
from stormbench.cloudmask.netcdf_write import Variable, encode
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import NO_DETECTOR, NO_INDEX, Pixels, pixels
from stormbench.cloudmask.scene import BAYES, CLOUD_TESTS, CONFIDENCE, SOLAR_IRRADIANCE, Scene, bit, together
from stormbench.cloudmask.texture import Plane

EXCEPTIONS = (
    "ISP_absent", "pixel_absent", "not_decompressed", "no_signal", "saturation", "invalid_radiance", "no_parameters", "unfilled_pixel",
)  # fmt: skip
POINTING = (
    "FlipMirrorAbsoluteError", "FlipMirrorIntegratedError", "FlipMirrorRMSError",
    "ScanMirrorAbsoluteError", "ScanMirrorIntegratedError", "ScanMirrorRMSError", "ScanTimeError", "Platform_Mode",
)  # fmt: skip
FILL = -32_768
UNFILLED = 128
"""Exception of pixels without a measurement; real products give it as the fill value too."""
ADJUSTMENT = (0.97, 0.98, 0.98, 1.0, 1.11, 1.13)
"""Factors that radiances of baselines before 005 need: such products hold radiances that are divided by them."""
BRIGHTNESS_SCALE, BRIGHTNESS_OFFSET = 0.01, 283.73
_TOP_SHARE, _BOTTOM_SHARE = 1.4, -0.02
"""The packing's range, as shares of the radiance of a white surface under the sun in the zenith."""
_SATURATION_SHARE = (1.15, 1.15, 0.8, 1.15, 1.15, 1.15)
_SATURATION_K = 311.0
"""Of S7, on hot ground."""
_TEXTURE, _NOISE, _DARK_NOISE = 0.06, 0.0015, 5e-5
"""Standard deviations at 500 m: of a cloud's albedo, and of the instrument, under the sun in the zenith and in the dark."""
_LEAST_LIGHT = 0.004
"""Cosine of the zenith below which the light of a rising sun is lost in the noise, whose share would be divided by it."""
_SHARE_OF_BAD_PIXELS = 2e-4
_NOISE_STREAM, _BAD_STREAM = 4, 10
_GRIDS = {1000: ("in", "1km TIR grid, nadir view"), 500: ("an", "0.5km stripe A grid, nadir view")}

FILES = (
    *(f"{name}_{kind}_an.nc" for name in SOLAR for kind in ("radiance", "quality")),
    *(f"{name}_{kind}_in.nc" for name in THERMAL for kind in ("BT", "quality")),
    *(f"{kind}_{grid}.nc" for grid in ("in", "an") for kind in ("flags", "indices", "geodetic", "cartesian")),
    "geometry_tn.nc", "geodetic_tx.nc", "cartesian_tx.nc", "met_tx.nc", "time_in.nc", "viscal.nc",
)  # fmt: skip
"""All files of a generated product but its manifest."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """What all solar channels share on the 500 m grid (2h, 2w).

    The cosine of the zenith, 0 where the sun is down; the texture of the clouds as a factor on reflectances; the standard deviation
    of the instrument's noise; white noise, somewhat larger than the grid; and where light is too little to be measured.
    """

    grid: Pixels
    cosine_hw: Plane
    texture_hw: Plane
    deviation_hw: Plane
    noise_hw: Plane
    dim_hw: NDArray[np.bool_]


def files(granule: Granule, scene: Scene, *, threads: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each of FILES."""
    coarse, fine = pixels(granule, 1000), pixels(granule, 500)
    sun = light(granule, scene, fine)
    for channel, name in enumerate(SOLAR):
        yield f"{name}_radiance_an.nc", _solar(granule, scene, sun, channel, threads)
    for channel, name in enumerate(THERMAL):
        yield f"{name}_BT_in.nc", _thermal(granule, scene, coarse, channel, threads)
    for grid in (coarse, fine):
        suffix = _GRIDS[grid.step_m][0]
        yield f"flags_{suffix}.nc", _flags(granule, scene, grid, threads)
        yield f"indices_{suffix}.nc", _indices(granule, grid, threads)
        yield from annotation.places(granule, grid, scene.elevation_m, suffix, threads)
    yield from annotation.ties(granule, threads)
    yield from annotation.constants(granule)


def light(granule: Granule, scene: Scene, fine: Pixels) -> Light:
    """Return what all solar channels need."""
    zenith = orbit.between_ties(granule, orbit.tie_geometry(granule)["solar_zenith"], 500)
    cosine = np.where(zenith < 90, np.cos(np.radians(zenith)), 0).astype(np.float32)
    shape = tuple(size + len(SOLAR) + 1 for size in cosine.shape)
    noise = weather.noise(granule, _NOISE_STREAM).standard_normal(shape, np.float32)
    texture = 1 + np.float32(_TEXTURE) * doubled(scene.cloud_share_hw) * noise[: cosine.shape[0], : cosine.shape[1]]
    # photons come unevenly: their noise grows with the square root of the light
    deviation = np.float32(_NOISE) * np.sqrt(cosine) + np.float32(_DARK_NOISE)
    dim = (cosine > 0) & (cosine < _LEAST_LIGHT)
    return Light(grid=fine, cosine_hw=cosine, texture_hw=texture, deviation_hw=deviation, noise_hw=noise, dim_hw=dim)


def doubled(plane_hw: NDArray[Any]) -> NDArray[Any]:
    """Return a plane of 1 km pixels on the 500 m grid, each 2 x 2 times."""
    return plane_hw.repeat(2, axis=0).repeat(2, axis=1)


def radiance(granule: Granule, scene: Scene, sun: Light, channel: int) -> tuple[Plane, NDArray[np.uint8]]:
    """Return a channel's radiance (2h, 2w) in mW m-2 sr-1 nm-1 as the file is to hold it, and the exceptions, 0 where it is valid.

    radiance = reflectance x irradiance of the pixel's detector x cos(zenith) / pi, divided by the adjustment factor for the baselines
    that need it; the noise of the dark instrument where the sun is down.
    """
    grid = sun.grid
    height, width = sun.cosine_hw.shape
    # shifted, so that no two channels have the same
    own = sun.noise_hw[channel + 1 : channel + 1 + height, channel + 1 : channel + 1 + width]
    light_hw = doubled(scene.reflectance_chw[channel])
    light_hw *= sun.texture_hw
    grid.repeat(light_hw)
    light_hw *= sun.cosine_hw
    light_hw += sun.deviation_hw * own
    exception = _bad(granule, _BAD_STREAM + channel, grid)
    exception |= (light_hw > _SATURATION_SHARE[channel]) * np.uint8(bit(EXCEPTIONS, "saturation"))
    exception |= sun.dim_hw * np.uint8(bit(EXCEPTIONS, "no_signal"))
    exception[grid.unfilled] |= UNFILLED
    white = np.zeros(256, np.float32)
    white[: len(irradiance(granule, channel))] = irradiance(granule, channel) / (math.pi * adjustment(granule)[channel])
    light_hw *= white[grid.detector]
    return light_hw, exception


def adjustment(granule: Granule) -> tuple[float, ...]:
    """Return the factors by which this product's radiances have to be multiplied, S1 to S6."""
    return ADJUSTMENT if int(granule.baseline) < 5 else (1.0,) * len(SOLAR)


def packing(channel: int) -> tuple[float, float]:
    """Return scale and offset of a solar channel's radiances, round numbers as real ones are."""
    white = SOLAR_IRRADIANCE[channel] / math.pi
    return float(f"{(_TOP_SHARE - _BOTTOM_SHARE) * white / 65_000:.4g}"), float(f"{(_TOP_SHARE + _BOTTOM_SHARE) / 2 * white:.4g}")


def packed(values_hw: Plane, scale: float, offset: float, invalid: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Return values as stored: the nearest whole number of (value - offset) / scale, FILL where invalid."""
    scaled = values_hw - np.float32(offset)
    scaled /= np.float32(scale)
    whole = np.clip(np.rint(scaled, out=scaled), -32_767, 32_767, out=scaled).astype(np.int16)
    whole[invalid] = FILL
    return whole


def _bad(granule: Granule, stream: int, grid: Pixels) -> NDArray[np.uint8]:
    """Return exceptions of lost packets and of a few scattered pixels that were measured badly."""
    rng = weather.noise(granule, stream)
    exception = np.zeros(grid.unfilled.shape, np.uint8)
    for name in ("invalid_radiance", "pixel_absent"):
        exception.ravel()[rng.integers(0, exception.size, max(2, round(_SHARE_OF_BAD_PIXELS * exception.size)))] = bit(EXCEPTIONS, name)
    exception |= grid.lost * np.uint8(bit(EXCEPTIONS, "ISP_absent"))
    return exception


def _solar(granule: Granule, scene: Scene, sun: Light, channel: int, threads: int) -> bytes:
    values, exception = radiance(granule, scene, sun, channel)
    scale, offset = packing(channel)
    about = {"standard_name": "toa_upwelling_spectral_radiance", "units": "mW.m-2.sr-1.nm-1", "scale_factor": scale, "add_offset": offset}
    whole = packed(values, scale, offset, exception > 0)
    return _measurement(granule, SOLAR[channel], "radiance", sun.grid, whole, exception, about, threads)


def _thermal(granule: Granule, scene: Scene, grid: Pixels, channel: int, threads: int) -> bytes:
    kelvin = grid.repeat(scene.brightness_chw[channel].copy())
    exception = _bad(granule, _BAD_STREAM + len(SOLAR) + channel, grid)
    if channel == 0:
        exception |= (kelvin > _SATURATION_K) * np.uint8(bit(EXCEPTIONS, "saturation"))
    exception[grid.unfilled] |= UNFILLED
    about = {
        "standard_name": "toa_brightness_temperature", "units": "K", "scale_factor": BRIGHTNESS_SCALE, "add_offset": BRIGHTNESS_OFFSET,
    }  # fmt: skip
    whole = packed(kelvin, BRIGHTNESS_SCALE, BRIGHTNESS_OFFSET, exception > 0)
    return _measurement(granule, THERMAL[channel], "BT", grid, whole, exception, about, threads)


def _measurement(
    granule: Granule, channel: str, kind: str, grid: Pixels, whole: NDArray[np.int16], exception: NDArray[np.uint8],
    about: Mapping[str, Any], threads: int,
) -> bytes:  # fmt: skip
    """Return a file of measurements and exceptions, of the image and of the orphans."""
    suffix, where = _GRIDS[grid.step_m]
    quantity = {"radiance": "radiance", "BT": "brightness temperature"}[kind]
    flags = {"standard_name": f"{about['standard_name']}_status_flag", **_meanings(EXCEPTIONS, np.uint8)}
    variables = []
    for infix, dimension, part in (("", "columns", lambda plane, none: plane), ("_orphan", "orphan_pixels", grid.orphans)):
        pixel = "orphan pixel" if infix else "pixel"
        for name, plane, fill, attributes in (
            (f"{channel}_{kind}", whole, FILL, {**about, "long_name": f"Gridded {pixel} {quantity} for channel {channel} ({where})"}),
            (f"{channel}_exception", exception, UNFILLED, flags),
        ):
            values = part(plane, fill)
            variables.append(
                Variable(name=f"{name}{infix}_{suffix}", dimensions=("rows", dimension), values=values, fill=fill, attributes=attributes)
            )
    title = f"SLSTR L1B {quantity} of channel {channel} at {grid.step_m} m"
    return encode(Globals(granule, title, grid.step_m).attributes(), variables, threads=threads)


def _meanings(names: tuple[str, ...], kind: type) -> dict[str, Any]:
    return {"flag_masks": (1 << np.arange(len(names))).astype(kind), "flag_meanings": " ".join(names)}


def _flags(granule: Granule, scene: Scene, grid: Pixels, threads: int) -> bytes:
    """Return the flags of a grid. A cosmetic pixel has the clouds of the pixel that it repeats, an unfilled one none."""
    suffix = _GRIDS[grid.step_m][0]
    on_grid = doubled if grid.step_m == 500 else np.copy
    summary = bit(CONFIDENCE, "summary_cloud")
    cloud, bayes = (grid.repeat(on_grid(plane)) for plane in (scene.cloud_hw, scene.bayes_hw))
    cloud[grid.unfilled] = 0
    bayes[grid.unfilled] = 0
    cosmetic = np.zeros_like(grid.unfilled)
    cosmetic[grid.cosmetic_at[:2]] = True
    confidence = on_grid(scene.confidence_hw) & ~summary
    confidence |= together(CONFIDENCE, {"unfilled": grid.unfilled, "cosmetic": cosmetic, "duplicate": grid.duplicate})
    confidence |= np.where(cloud > 0, summary, np.uint16(0))
    variables = []
    for name, plane, names in (
        ("confidence", confidence, CONFIDENCE),
        ("cloud", cloud, CLOUD_TESTS),
        ("pointing", np.zeros(confidence.shape, np.uint8), POINTING),
        ("bayes", bayes, BAYES),
    ):
        about = {"standard_name": f"{name}_status_flag", **_meanings(names, plane.dtype.type)}
        for infix, dimension, values in (("", "columns", plane), ("_orphan", "orphan_pixels", grid.orphans(plane, 0))):
            dimensions = ("rows", dimension)
            variables.append(Variable(name=f"{name}{infix}_{suffix}", dimensions=dimensions, values=values, attributes=about))
    if grid.step_m == 1000:
        for view, plane in (("single", scene.probability_hw), ("dual", scene.probability_dual_hw)):
            chance = grid.repeat(plane.copy())
            chance[grid.unfilled] = np.nan
            about = {"long_name": f"Probability of cloud from the {view} view", "units": "1", "comment": GENERATED}
            name = f"probability_cloud_{view}_{suffix}"
            variables.append(Variable(name=name, dimensions=("rows", "columns"), values=chance, fill=np.nan, attributes=about))
    return encode(Globals(granule, f"SLSTR L1B flags at {grid.step_m} m", grid.step_m).attributes(), variables, threads=threads)


def _indices(granule: Granule, grid: Pixels, threads: int) -> bytes:
    suffix = _GRIDS[grid.step_m][0]
    first = np.array(0, np.int32)
    variables = [Variable(name=f"l0_scan_offset_{suffix}", dimensions=(), values=first, attributes={"long_name": "First L0 scan"})]
    for name, plane, none in (("detector", grid.detector, NO_DETECTOR), ("scan", grid.scan, NO_INDEX), ("pixel", grid.pixel, NO_INDEX)):
        about = {"long_name": f"Instrument {name} number"}
        for infix, dimension, values in (("", "columns", plane), ("_orphan", "orphan_pixels", grid.orphans(plane, none))):
            dimensions = ("rows", dimension)
            variables.append(Variable(name=f"{name}{infix}_{suffix}", dimensions=dimensions, values=values, fill=none, attributes=about))
    title = f"SLSTR L1B indices of instrument pixels at {grid.step_m} m"
    return encode(Globals(granule, title, grid.step_m).attributes(), variables, threads=threads)
