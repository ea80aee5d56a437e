"""Half precision: NumPy's numbers, faster, and nothing finite becomes infinite."""

from __future__ import annotations

import numpy as np
import pytest

from stormbench.cloudmask.half import BLOCK, halved

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)].astype(np.float32)


def test_every_half_number_is_kept() -> None:
    np.testing.assert_array_equal(halved(FINITE), FINITE.astype(np.float16))
    assert np.array_equal(np.signbit(halved(FINITE)), np.signbit(FINITE))


@pytest.mark.parametrize("towards", [-np.inf, 0, np.inf])
def test_numbers_on_and_beside_ties_are_rounded_as_numpy_does(towards: float) -> None:
    ordered = np.sort(FINITE)
    ties = ((ordered[:-1].astype(np.float64) + ordered[1:]) / 2).astype(np.float32)
    ties = ties[np.abs(ties) > 6.2e-5]
    values = np.nextafter(ties, np.float32(towards)) if towards else ties
    np.testing.assert_array_equal(halved(values), values.astype(np.float16))


def test_random_numbers_of_all_sizes_are_within_half_a_unit() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=3 * BLOCK + 7) * 10.0 ** rng.uniform(-9, 4, 3 * BLOCK + 7)).astype(np.float32).clip(-65504, 65504)
    unit = np.maximum(np.spacing(np.abs(halved(values))).astype(np.float64), 2.0**-24)
    assert (np.abs(halved(values).astype(np.float64) - values) <= 0.5001 * unit).all()
    large = np.abs(values) > 6.2e-5
    np.testing.assert_array_equal(halved(values)[large], values[large].astype(np.float16))


def test_nan_stays_nan_and_the_largest_are_kept_finite() -> None:
    found = halved(np.array([np.nan, 65504, 65519, 65520, 1e5, 3e38, np.inf, -1e6], np.float32))
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], [65504] * 6 + [-65504])


def test_shape_and_strided_output_are_those_asked_for() -> None:
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    assert halved(values).shape == (2, 3, 4)
    image = np.full((3, 4, 6), -1, np.float16)
    halved(values[1], out=image[..., 2])
    np.testing.assert_array_equal(image[..., 2], values[1])
    np.testing.assert_array_equal(image[..., 3], -1)
