"""Tells packings that no instrument can have produced, so that a damaged attribute doesn't become a plausible-looking image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask.netcdf import Packing, Variable, filled
from stormbench.cloudmask.radiometry import Channel
from stormbench.core.errors import RunError

SPANS = {"temperature": (50.0, 1e4), "radiance": (1.0, 1e5)}
"""Least and greatest span between the smallest and the largest number that 16 bits can express, and the greatest offset.

The packings of real products span 655 K, and some ten to some thousand mW m-2 sr-1 nm-1.
"""
KELVIN = (100.0, 500.0)
"""Between these lies the median of every frame; the coldest clouds have 170 K, the hottest deserts 340 K."""
MOST_LIGHT = 10.0
"""No median radiance is this many times the solar irradiance."""
IRRADIANCE = (1e-3, 1e5)
"""Between these lies every solar irradiance in mW m-2 nm-1; those of the channels are some 1800 to 80."""
SAMPLE = 16
"""Every how many rows and columns are looked at."""


def check_packing(variable: Variable, packing: Packing, unit: str) -> None:
    """Raise RunError if numbers packed like this can't be the quantity; wider integers than those of products may span more."""
    least, most = SPANS[unit]
    span = 2**16 * abs(packing.scale) if variable.dtype.kind in "iu" and variable.dtype.itemsize == 2 else least
    if not least <= span <= most or abs(packing.offset) > most:
        found = f"scale_factor {packing.scale:g} and add_offset {packing.offset:g}"
        raise RunError(f"{variable.path}: {variable.name} has {found}, which can't be true of a {unit}; get the product anew")


def check_temperature(variable: Variable, kelvin_hw: NDArray[np.float32]) -> None:
    """Raise RunError if the median of a sample of brightness temperatures is one that no scene has."""
    sample = kelvin_hw[::SAMPLE, ::SAMPLE]
    sample = sample[np.isfinite(sample)]
    if sample.size and not KELVIN[0] <= np.median(sample) <= KELVIN[1]:
        found = f"a median of {np.median(sample):g} K"
        raise RunError(f"{variable.path}: {variable.name} has {found}, must lie in {KELVIN[0]:g} to {KELVIN[1]:g} K; get the product anew")


def check_radiance(variable: Variable, raw_hw: NDArray[Any], channel: Channel) -> None:
    """Raise RunError if the median of a sample of radiances is far more than the sun can cause, or as much below zero.

    A white surface under the sun in the zenith sends back a radiance of irradiance / pi, clouds and glint a little more.
    """
    sample = raw_hw[::SAMPLE, ::SAMPLE]
    sample = sample[~filled(sample, channel.packing.fills)]
    if not sample.size:
        return
    median = float(np.median(sample)) * channel.packing.scale + channel.packing.offset
    limit = MOST_LIGHT * float(np.nanmax(channel.irradiance))
    if not abs(median) <= limit:
        found = f"a median radiance of {median:g} where nothing sends more than {limit:g}"
        raise RunError(f"{variable.path}: {variable.name} has {found}, so its scale_factor can't be true; get the product anew")


def zenith_or_nan(variable: Variable) -> NDArray[np.float64]:
    """Return angles in degrees, NaN outside 0 to 180; raise RunError if that is where most of them lie."""
    degrees = variable.values()
    with np.errstate(invalid="ignore"):
        wrong = ~((degrees >= 0) & (degrees <= 180))
    n_given = np.count_nonzero(~np.isnan(degrees))
    n_wrong = n_given - np.count_nonzero(~wrong)
    if 2 * n_wrong > n_given:
        found = f"{n_wrong} of {n_given} angles outside 0 to 180 degrees"
        raise RunError(f"{variable.path}: {variable.name} has {found}; get the product anew")
    degrees[wrong] = np.nan
    return degrees
