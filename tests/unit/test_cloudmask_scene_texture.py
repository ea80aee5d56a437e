"""Random fields: their spectrum, their moments, and that frames of one orbit join without a seam."""

from __future__ import annotations

import numpy as np
import pytest

from stormbench.cloudmask.texture import fractal


def slope(field_hw: np.ndarray, first: int, last: int) -> float:
    """Return the exponent of the mean power spectrum along rows between two wavenumbers."""
    power = np.mean(np.abs(np.fft.rfft(field_hw * np.hanning(field_hw.shape[1]), axis=1)) ** 2, axis=0)
    number = np.arange(first, last)
    return float(np.polyfit(np.log(number), np.log(power[number]), 1)[0])


@pytest.mark.parametrize("hurst", [1 / 3, 0.5, 0.7])
def test_power_falls_as_the_law_says(hurst: float) -> None:
    field_hw = fractal((1, 2), 5000, 512, 1024, coarsest=8, hurst=hurst)
    # from waves of 170 pixels, less than the largest nodes, to waves of 8
    assert slope(field_hw, 6, 128) == pytest.approx(-(2 * hurst + 1), abs=0.25)


def test_mean_is_0_and_variance_1_over_many_fields() -> None:
    fields = np.stack([fractal((3, number), 0, 96, 128, coarsest=5, hurst=0.5) for number in range(200)])
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.var() == pytest.approx(1, abs=0.08)
    # everywhere in the frame, its edges too
    assert np.abs(fields.var(axis=0).mean(axis=0) - 1).max() < 0.3


@pytest.mark.parametrize("first_row", [0, 7, 1200, 53_999])
def test_frames_that_overlap_agree_to_the_last_bit(first_row: int) -> None:
    whole = fractal((9, 4), first_row, 300, 70, coarsest=6)
    for start, height in ((0, 100), (100, 200), (33, 64), (299, 1)):
        part = fractal((9, 4), first_row + start, height, 70, coarsest=6)
        np.testing.assert_array_equal(part, whole[start : start + height])


def test_another_key_is_another_field() -> None:
    assert not np.array_equal(fractal((1, 1), 0, 40, 40, coarsest=3), fractal((1, 2), 0, 40, 40, coarsest=3))


def test_a_coarse_field_is_smooth() -> None:
    fine, coarse = (fractal((1, 1), 0, 200, 200, coarsest=6, finest=finest) for finest in (0, 4))
    assert np.abs(np.diff(coarse, axis=1)).max() < 0.4 * np.abs(np.diff(fine, axis=1)).max()


@pytest.mark.parametrize(("height", "width", "coarsest"), [(1, 1, 0), (1, 50, 8), (33, 2, 3)])
def test_any_size_can_be_drawn(height: int, width: int, coarsest: int) -> None:
    field_hw = fractal((0,), 12, height, width, coarsest=coarsest)
    assert (field_hw.shape, field_hw.dtype) == ((height, width), np.float32)
    assert np.isfinite(field_hw).all()
