"""From packed radiances on the 500 m grid to reflectances and radiances on the 1 km grid, band of rows by band of rows.

A band fits in the processor's cache, and every step is one pass of NumPy over it into a buffer that is there already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stormbench.cloudmask.geometry import SunElevation
from stormbench.cloudmask.half import halved
from stormbench.cloudmask.netcdf import Packing, filled

BAND_ROWS = 16
"""Rows of the 500 m grid that are worked on at a time: 48,000 pixels of a full product, some 200 KB a buffer."""
NO_DETECTOR = 255


def reflectance(radiance: ArrayLike, irradiance: ArrayLike, solar_zenith_deg: ArrayLike) -> NDArray[Any]:
    """Return pi x radiance / (irradiance x cos(zenith)), the share of the sun's light that a surface sends back.

    Radiance is in mW m-2 sr-1 nm-1, irradiance in mW m-2 nm-1 on a plane across the sun's rays, zenith in degrees;
    the three broadcast. NaN where the zenith is 90 degrees or more, as no light falls in, where the irradiance isn't
    above 0, and where an input is NaN. The result has the inputs' floating type, at least float32.
    """
    light, flux, zenith = (np.asarray(value) for value in (radiance, irradiance, solar_zenith_deg))
    kind = np.result_type(light.dtype, flux.dtype, zenith.dtype, np.float32)
    # the sine of the elevation is exact near the horizon, where the cosine of the zenith loses its digits
    down = np.sin(np.radians(90 - zenith.astype(kind)))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        known = (np.abs(zenith) < 90) & (flux > 0)
        return np.where(known, kind.type(np.pi) * light / (flux * down), np.nan).astype(kind)


def sun_factor(elevation: SunElevation, detector_hw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 1 / cos(solar zenith) for the 500 m pixels (h, w), and 0 where there is no reflectance.

    There is none where the sun is down, its height isn't known, or no detector saw the pixel.
    """
    factor = np.empty(detector_hw.shape, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(factor), BAND_ROWS):
            band = factor[start : start + BAND_ROWS]
            height = elevation.rows(start, start + len(band))
            height *= np.float32(math.pi / 180)
            np.sin(height, out=height)
            np.divide(1, height, out=band)
            # NaN is not above the limit either
            dark = ~(height > np.finfo(np.float32).tiny)
            dark |= detector_hw[start : start + BAND_ROWS] == NO_DETECTOR
            np.copyto(band, 0, where=dark)
    return factor


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What turns the stored numbers of one channel into physical ones."""

    packing: Packing
    adjustment: float
    """Factor on the radiance that older baselines need."""
    irradiance: NDArray[np.float64]
    """Solar irradiance by detector in mW m-2 nm-1, NaN where it isn't known."""


class BlockMeans:
    """Means over the valid pixels of 2 x 2 blocks; keeps its buffers from channel to channel."""

    def __init__(self, detector_hw: NDArray[np.uint8], n_detectors: int, factor_hw: NDArray[np.float32]) -> None:
        self._detector, self._n_detectors, self._factor = detector_hw, n_detectors, factor_hw
        self._seen = factor_hw > 0
        rows, cols = min(BAND_ROWS, len(factor_hw)), factor_hw.shape[1]
        self._light, self._gain = (np.empty((rows, cols), np.float32) for _ in range(2))
        self._bad, self._good = (np.empty((rows, cols), np.bool_) for _ in range(2))
        self._pairs = np.empty((rows, cols // 2), np.intp)
        self._half_sum = np.empty((rows // 2, cols), np.float32)
        self._half_count = np.empty((rows // 2, cols), np.uint8)
        self._lit = [bool(self._seen[start : start + BAND_ROWS].any()) for start in range(0, len(factor_hw), BAND_ROWS)]

    @property
    def any_light(self) -> bool:
        """Whether any pixel can have a reflectance."""
        return any(self._lit)

    def reflectances(self, raw_hw: NDArray[Any], channel: Channel, out_hw: NDArray[np.float32]) -> None:
        """Write the reflectances (h / 2, w / 2) of one channel's stored numbers (h, w) to `out_hw`; NaN where none is valid."""
        table, unknown = _gain_pairs(channel, self._n_detectors)
        for band, start in enumerate(range(0, len(raw_hw), BAND_ROWS)):
            out = out_hw[start // 2 : (start + BAND_ROWS) // 2]
            if not self._lit[band]:
                out.fill(np.nan)
                continue
            raw, factor, detector = (part[start : start + BAND_ROWS] for part in (raw_hw, self._factor, self._detector))
            light, gain, pairs = self._light[: len(raw)], self._gain[: len(raw)], self._pairs[: len(raw)]
            bad, good = self._bad[: len(raw)], self._good[: len(raw)]
            _in_scales(raw, channel.packing, light)
            # two neighbouring detector numbers are one 16-bit number: half as many look-ups
            np.copyto(pairs, detector.view(np.uint16))
            np.take(table, pairs, out=gain.view(np.float64), mode="clip")
            light *= gain
            light *= factor
            filled(raw, channel.packing.fills, out=bad)
            if unknown.any():
                bad |= unknown[detector]
            # seen in the light and not bad: of truth values, true is the greater
            np.greater(self._seen[start : start + BAND_ROWS], bad, out=good)
            self._mean(light, bad, good, out)

    def radiances(self, raw_hw: NDArray[Any], channel: Channel, out_hw: NDArray[np.float32]) -> None:
        """Write the radiances (h / 2, w / 2) of one channel's stored numbers (h, w) to `out_hw`; NaN where none is valid."""
        scale = np.float32(channel.packing.scale * channel.adjustment)
        for start in range(0, len(raw_hw), BAND_ROWS):
            raw, out = raw_hw[start : start + BAND_ROWS], out_hw[start // 2 : (start + BAND_ROWS) // 2]
            light, bad = self._light[: len(raw)], self._bad[: len(raw)]
            _in_scales(raw, channel.packing, light)
            light *= scale
            filled(raw, channel.packing.fills, out=bad)
            self._mean(light, bad, ~bad, out)

    def _mean(self, light: NDArray[np.float32], bad: NDArray[np.bool_], good: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
        """Write the mean of `light` over the good pixels of each block; pixels that are neither good nor bad hold 0."""
        np.copyto(light, 0, where=bad)
        half = len(light) // 2
        total, count, flags = self._half_sum[:half], self._half_count[:half], good.view(np.uint8)
        # whole rows first: columns cost more, and are then half as many
        np.add(light[0::2], light[1::2], out=total)
        np.add(flags[0::2], flags[1::2], out=count)
        np.add(total[:, 0::2], total[:, 1::2], out=out)
        with np.errstate(invalid="ignore"):
            # 0 / 0 is NaN, which is what a block without a valid pixel is to have
            out /= count[:, 0::2] + count[:, 1::2]


def _in_scales(raw: NDArray[Any], packing: Packing, out: NDArray[np.float32]) -> None:
    """Write the physical numbers divided by the scale: stored + offset / scale.

    Offsets may be thousands of scales, and a small radiance then is the difference of two large numbers. The whole scales
    are added first, which single precision does exactly, and then the rest.
    """
    np.copyto(out, raw, casting="unsafe")
    shift = packing.offset / packing.scale
    for part in (round(shift), shift - round(shift)):
        if part:
            out += np.float32(part)


def interleaved(planes_chw: NDArray[np.float32], dtype: np.dtype) -> NDArray[Any]:
    """Return planes (c, h, w) as (h, w, c) in float32 or float16."""
    n_channels, height, width = planes_chw.shape
    image_hwc = np.empty((height, width, n_channels), dtype)
    for start in range(0, height, BAND_ROWS):
        # all channels of some rows together: each part of the image goes through the cache once
        band = image_hwc[start : start + BAND_ROWS]
        for channel in range(n_channels):
            plane = planes_chw[channel, start : start + BAND_ROWS]
            if dtype == np.float16:
                halved(plane, out=band[..., channel])
            else:
                band[..., channel] = plane
    return image_hwc


def _gain_pairs(channel: Channel, n_detectors: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return pi x scale x adjustment / irradiance for every pair of detector numbers, and which of the product's have no irradiance.

    Each element of the table is two float32 in the bytes of one float64; it is indexed by the pair's 16 bits.
    """
    flux = np.full(NO_DETECTOR, np.nan)
    flux[: len(channel.irradiance)] = channel.irradiance
    known = flux > 0
    gains = np.zeros(NO_DETECTOR + 1, np.float32)
    gains[:-1][known] = math.pi * channel.packing.scale * channel.adjustment / flux[known]
    pairs = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    unknown = np.zeros(NO_DETECTOR + 1, np.bool_)
    unknown[:n_detectors] = ~known[:n_detectors]
    return gains[pairs].view(np.float64).ravel(), unknown
