"""Turns the weather of a generated product into what the instrument sees of it: nine channels, and the flags that follow from them.

The formulas are the simplest with the right behaviour: a two-stream albedo in the solar channels, grey layers and Planck's law in
the thermal ones. It stands in for observations where there are none, to run the whole pipeline; it proves machinery, never accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import orbit, weather
from stormbench.cloudmask.orbit import DAY_LIMIT_DEG, NIGHT_LIMIT_DEG, Granule
from stormbench.cloudmask.texture import Plane
from stormbench.cloudmask.weather import DOUBT, GROUND, LAKE, OCEAN, SNOW, Clouds, Ground, field, noise

SOLAR_IRRADIANCE = (1837.39, 1525.94, 956.17, 365.90, 248.33, 78.33)
"""Of S1 to S6 at one astronomical unit, mW m-2 nm-1."""
WAVELENGTH_UM = (0.555, 0.659, 0.865, 1.375, 1.61, 2.25, 3.742, 10.854, 12.023)
NOISE_K = (0.08, 0.05, 0.05)
CONFIDENCE = (
    "coastline", "ocean", "tidal", "land", "inland_water", "unfilled", "spare", "spare",
    "cosmetic", "duplicate", "day", "twilight", "sun_glint", "snow", "summary_cloud", "summary_pointing",
)  # fmt: skip
CLOUD_TESTS = (
    "visible", "1.37_threshold", "1.6_small_histogram", "1.6_large_histogram", "2.25_small_histogram", "2.25_large_histogram",
    "11_spatial_coherence", "gross_cloud", "thin_cirrus", "medium_high", "fog_low_stratus", "11_12_view_difference",
    "3.7_11_view_difference", "thermal_histogram", "spare", "spare",
)  # fmt: skip
BAYES = ("single_low", "single_moderate", "dual_low", "dual_moderate", "spare", "spare", "spare", "spare")
LOW_PROBABILITY, MODERATE_PROBABILITY = 0.5, 0.9
"""Cloud probabilities from which the Bayesian mask sets the bits `low` and `moderate`."""
OBLIQUE_HALF_SWATH_M = 370_000.0
OPTICAL_DEPTH_SEEN = 0.3
"""Optical depth that the Bayesian mask takes for cloud every other time."""

# reflectance of ocean, ground, snow and lakes in S1 to S7
_ALBEDO = np.array(
    [
        (0.030, 0.020, 0.012, 0.010, 0.008, 0.005, 0.02),
        (0.085, 0.090, 0.270, 0.260, 0.250, 0.160, 0.06),
        (0.820, 0.800, 0.720, 0.450, 0.120, 0.060, 0.03),
        (0.050, 0.035, 0.015, 0.010, 0.008, 0.005, 0.02),
    ],
    np.float32,
)
_AIR = (0.050, 0.025, 0.008, 0.0, 0.0, 0.0)
_DUST_ALBEDO = (0.060, 0.070, 0.075, 0.012, 0.070, 0.055)
_WATER_CLOUD = (1.0, 1.0, 1.0, 1.0, 0.85, 0.70)
_ICE_CLOUD = (1.0, 1.0, 1.0, 0.80, 0.35, 0.22)
_VAPOUR_AT_1_4_UM = 5.0
"""Absorption in S4 a g/cm2 of water vapour above what is seen: none but the driest air lets the ground be seen."""
_VAPOUR_DEPTH_KM = 2.2
# S7 to S9: absorption a unit of visible optical depth of water and ice cloud, and a g/cm2 of water vapour
_WATER_ABSORPTION, _ICE_ABSORPTION, _VAPOUR_ABSORPTION = (0.45, 0.55, 0.62), (0.35, 0.42, 0.56), (0.030, 0.050, 0.085)
_SUN_AT_3_7_UM = 10.9
"""W m-2 um-1."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A frame on the 1 km grid before the instrument's gaps and repetitions, all (height, width) or with channels in front.

    `reflectance_chw` is that of S1 to S6 wherever the sun is, `brightness_chw` that of S7 to S9 in K, `surface_k` the temperature of
    the sea or the ground, `cloud_share_hw` the albedo of the clouds, and `probability_dual_hw` NaN where the oblique view doesn't reach.
    """

    reflectance_chw: Plane
    brightness_chw: Plane
    surface_k: Plane
    elevation_m: Plane
    vapour_hw: Plane
    cloud_share_hw: Plane
    confidence_hw: NDArray[np.uint16]
    cloud_hw: NDArray[np.uint16]
    bayes_hw: NDArray[np.uint8]
    probability_hw: Plane
    probability_dual_hw: Plane


def draw(granule: Granule) -> Scene:
    """Draw a granule's scene: the same for the same seed, orbit, frame and size, and continuous from frame to frame at full height."""
    angles = orbit.tie_geometry(granule)
    latitude, zenith, sight, glint = (
        orbit.between_ties(granule, angles[name], 1000).astype(np.float32) for name in ("latitude", "solar_zenith", "sat_zenith", "glint")
    )
    sun = np.maximum(np.cos(np.radians(zenith)), 0).astype(np.float32)
    slant = (1 / np.cos(np.radians(sight))).astype(np.float32)
    ground = weather.ground(granule, latitude, sun)
    clouds = weather.clouds(granule, ground, latitude)
    reflectance_chw, share = _reflectances(ground, clouds, sun, glint)
    brightness_chw = _brightness(granule, ground, clouds, sun, slant)
    confidence_hw = _confidence(ground, zenith, glint)
    cloud_hw = _threshold_tests(reflectance_chw, brightness_chw, ground, confidence_hw)
    confidence_hw |= np.where(cloud_hw > 0, bit(CONFIDENCE, "summary_cloud"), np.uint16(0))
    probability, dual = _probabilities(granule, clouds)
    bayes_hw = np.zeros(latitude.shape, np.uint8)
    for name, values in (("single", probability), ("dual", dual)):
        bayes_hw |= np.where(values > LOW_PROBABILITY, bit(BAYES, f"{name}_low"), 0).astype(np.uint8)
        bayes_hw |= np.where(values > MODERATE_PROBABILITY, bit(BAYES, f"{name}_moderate"), 0).astype(np.uint8)
    return Scene(
        reflectance_chw=reflectance_chw, brightness_chw=brightness_chw, surface_k=ground.surface_k, elevation_m=ground.elevation_m,
        vapour_hw=ground.vapour, cloud_share_hw=share, confidence_hw=confidence_hw, cloud_hw=cloud_hw, bayes_hw=bayes_hw,
        probability_hw=probability, probability_dual_hw=dual,
    )  # fmt: skip


def bit(names: tuple[str, ...], name: str) -> np.uint16:
    """Return the mask of a named flag."""
    return np.uint16(1 << names.index(name))


def _reflectances(ground: Ground, clouds: Clouds, sun: Plane, glint: Plane) -> tuple[Plane, Plane]:
    """Return S1 to S6 (6, h, w) and the albedo of the clouds: the two-stream solution of layers that don't absorb, over the surface."""
    path = 1.4 * np.clip(sun, 0.1, 1) + 0.3
    low, high = (0.15 * depth / (0.15 * depth + path) for depth in (clouds.low_depth, clouds.high_depth))
    below_low, below_high = (1 - low) ** 2, (1 - high) ** 2
    mirror = np.where(ground.kind == OCEAN, 0.22 * np.exp(-((glint / 9) ** 2)), np.float32(0))
    varied = np.where(ground.kind == GROUND, np.clip(1 + 0.25 * ground.warmth, 0.4, 1.8), np.float32(1))
    haze = np.minimum(0.7 / np.maximum(sun, 0.1), 5)
    above_cloud = np.exp(-clouds.low_km / _VAPOUR_DEPTH_KM)
    reflectance_chw = np.empty((6, *sun.shape), np.float32)
    for channel in range(6):
        surface = _ALBEDO[:, channel][ground.kind] * varied + mirror
        cloud = low * np.float32(_WATER_CLOUD[channel])
        if channel == 3:
            surface = surface * np.exp(-_VAPOUR_AT_1_4_UM * ground.vapour)
            cloud = cloud * np.exp(-_VAPOUR_AT_1_4_UM * ground.vapour * above_cloud)
        middle = surface * below_low + cloud + haze * np.float32(_AIR[channel]) + clouds.dust * np.float32(_DUST_ALBEDO[channel])
        reflectance_chw[channel] = middle * below_high + high * np.float32(_ICE_CLOUD[channel])
    return reflectance_chw, (1 - (1 - low) * (1 - high)).astype(np.float32)


def _brightness(granule: Granule, ground: Ground, clouds: Clouds, sun: Plane, slant: Plane) -> Plane:
    """Return S7 to S9 (3, h, w) in K: each layer lets pass part of the radiance from below and adds its own; S7 reflects the sun too."""
    brightness_chw = np.empty((3, *sun.shape), np.float32)
    rng = noise(granule, 0)
    for number in range(3):
        wavelength = WAVELENGTH_UM[6 + number]
        radiance = planck(ground.surface_k, wavelength)
        vapour = np.exp(-np.float32(_VAPOUR_ABSORPTION[number]) * ground.vapour * slant)
        radiance = radiance * vapour + planck(ground.air_k - 12, wavelength) * (1 - vapour)
        water = 1 - np.exp(-np.float32(_WATER_ABSORPTION[number]) * clouds.low_depth * slant)
        ice = 1 - np.exp(-np.float32(_ICE_ABSORPTION[number]) * clouds.high_depth * slant)
        if number == 0:
            # small droplets scatter 3.7 um: they emit less than black and reflect the sun
            bright = _ALBEDO[:, 6][ground.kind] * (1 - water) ** 2 + 0.10 * water
            sunlight = _SUN_AT_3_7_UM / math.pi * sun * (bright * (1 - ice) ** 2 + 0.04 * ice)
            water = np.float32(0.85) * water
        radiance = radiance * (1 - water) + planck(clouds.low_k, wavelength) * water
        radiance = radiance * (1 - ice) + planck(clouds.high_k, wavelength) * ice
        if number == 0:
            radiance = radiance + sunlight
        brightness_chw[number] = temperature(radiance, wavelength)
        brightness_chw[number] += np.float32(NOISE_K[number]) * rng.standard_normal(sun.shape, np.float32)
    return brightness_chw


def planck(kelvin: Plane, wavelength_um: float) -> Plane:
    """Return the radiance of a black body in W m-2 sr-1 um-1 (Planck's law)."""
    return np.float32(1.191043e8 / wavelength_um**5) / np.expm1(np.float32(14_387.77 / wavelength_um) / kelvin)


def temperature(radiance: Plane, wavelength_um: float) -> Plane:
    """Return the temperature in K of the black body with this radiance, the inverse of `planck`."""
    return np.float32(14_387.77 / wavelength_um) / np.log1p(np.float32(1.191043e8 / wavelength_um**5) / radiance)


def _confidence(ground: Ground, zenith: Plane, glint: Plane) -> NDArray[np.uint16]:
    """Return the flags of the surface and the light; those of the pixels themselves and of the cloud tests come later."""
    water, lake = ground.kind == OCEAN, ground.kind == LAKE
    day = zenith < DAY_LIMIT_DEG
    flags = {
        "coastline": ground.coast, "ocean": water, "tidal": ground.tidal, "land": ~water, "inland_water": lake, "day": day,
        "twilight": ~day & (zenith < NIGHT_LIMIT_DEG), "sun_glint": day & water & (glint < 20), "snow": ground.kind == SNOW,
    }  # fmt: skip
    return together(CONFIDENCE, flags)


def together(names: tuple[str, ...], flags: dict[str, NDArray[np.bool_]]) -> NDArray[np.uint16]:
    """Return the named flags as one bit each of a word."""
    word = np.zeros(next(iter(flags.values())).shape, np.uint16)
    for name, values in flags.items():
        word |= values * bit(names, name)
    return word


def _threshold_tests(reflectance_chw: Plane, brightness_chw: Plane, ground: Ground, confidence: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the bits of the threshold tests, each from the channels as it would be from observations."""
    day = confidence & bit(CONFIDENCE, "day") > 0
    sea = (ground.kind == OCEAN) | (ground.kind == LAKE)
    dull = confidence & bit(CONFIDENCE, "sun_glint") == 0
    s7, s8, s9 = brightness_chw
    rough = np.zeros(s8.shape, bool)
    rough[1:, 1:] = np.maximum(np.abs(s8[1:, 1:] - s8[:-1, 1:]), np.abs(s8[1:, 1:] - s8[1:, :-1])) > 0.9
    flags = {
        "visible": day & dull & np.where(sea, reflectance_chw[2] > 0.12, (reflectance_chw[1] > 0.35) & (ground.kind != SNOW)),
        "1.37_threshold": day & (reflectance_chw[3] > 0.03),
        "1.6_small_histogram": day & dull & (reflectance_chw[4] > np.where(sea, np.float32(0.12), np.float32(0.5))),
        "11_spatial_coherence": sea & rough,
        "gross_cloud": s9 < ground.air_k - np.where(sea, np.float32(8), np.float32(28)),
        "thin_cirrus": s8 - s9 > 1.3 + 0.9 * ground.vapour,
        "medium_high": ~day & (s7 - s8 > 2.5),
        "fog_low_stratus": ~day & (s8 - s7 > 0.6),
    }  # fmt: skip
    return together(CLOUD_TESTS, flags)


def _probabilities(granule: Granule, clouds: Clouds) -> tuple[Plane, Plane]:
    """Return the probabilities of cloud from the nadir view alone and from both views, which is surer, NaN where there is one view only."""
    depth = clouds.low_depth + 2 * clouds.high_depth
    doubt = field(granule, DOUBT, largest=4, hurst=0.3)
    evidence = 2.4 * np.log(np.maximum(depth, 0.002) / np.float32(OPTICAL_DEPTH_SEEN))
    dual = 1 / (1 + np.exp(-1.3 * evidence - 0.3 * doubt))
    dual[:, np.abs(orbit.across(granule, np.arange(granule.width), 1000)) > OBLIQUE_HALF_SWATH_M] = np.nan
    return 1 / (1 + np.exp(-evidence - 0.5 * doubt)), dual
