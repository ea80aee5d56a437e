"""From frames to patches: the published normalisation, what counts as cloud and as valid, and where patches lie."""

from __future__ import annotations

import numpy as np
import pytest

from stormbench.cloudmask.frame import Frame
from stormbench.cloudmask.patches import LABEL, VALID, cut, grid, normalise, pack
from stormbench.core.errors import UserError


def frame(**changes: np.ndarray) -> Frame:
    values = {
        "refs_hwc": np.full((2, 3, 6), 0.75, np.float32), "bts_hwc": np.full((2, 3, 3), 281.0, np.float32),
        "bayes_hw": np.zeros((2, 3), np.uint8), "summary_hw": np.zeros((2, 3), np.uint8), "day": True,
    }  # fmt: skip
    return Frame(**{**values, **changes})


def test_channels_are_reflectances_less_a_half_and_temperatures_by_22_kelvin() -> None:
    refs = np.arange(36, dtype=np.float32).reshape(2, 3, 6) / 36
    bts = np.linspace(200, 320, 18, dtype=np.float32).reshape(2, 3, 3)
    image, _, valid = normalise(frame(refs_hwc=refs, bts_hwc=bts))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., :6], refs - 0.5, rtol=1e-6)
    np.testing.assert_allclose(image[..., 6:], (bts - 270) / 22, rtol=1e-6, atol=1e-7)
    assert valid.all()


def test_a_missing_channel_is_0_after_normalisation_and_the_pixel_does_not_count() -> None:
    refs, bts = np.full((2, 3, 6), 0.75, np.float32), np.full((2, 3, 3), 281.0, np.float32)
    refs[0, 0, 2] = np.nan
    bts[1, 1, 0] = np.nan
    bts[1, 2, 1] = np.inf
    image, _, valid = normalise(frame(refs_hwc=refs, bts_hwc=bts))
    assert [image[0, 0, 2], image[1, 1, 6], image[1, 2, 7]] == [0, 0, 0]
    assert np.isfinite(image).all()
    assert image[0, 0, 1] == 0.25
    np.testing.assert_array_equal(valid, [[False, True, True], [True, False, False]])


def test_by_night_no_reflectance_is_needed_but_all_or_none() -> None:
    refs = np.full((2, 3, 6), np.nan, np.float32)
    refs[1, 2, :5] = 0.5
    image, _, valid = normalise(frame(refs_hwc=refs, day=False))
    assert not image[0, :, :6].any()
    np.testing.assert_array_equal(valid, [[True] * 3, [True, True, False]])


@pytest.mark.parametrize(("bits", "expected"), [(0xFF, [0, 1, 1, 1, 1, 1]), (1, [0, 1, 0, 1, 0, 1]), (6, [0, 0, 1, 1, 0, 1])])
def test_cloud_is_any_of_the_bits_asked_for(bits: int, expected: list[int]) -> None:
    bayes = np.array([[0, 1, 2], [3, 8, 255]], np.uint8)
    label = normalise(frame(bayes_hw=bayes), bits)[1]
    assert label.dtype == np.uint8
    assert label.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(1200, 1500, 256, (4, 5, 88, 110)), (1200, 1500, 512, (2, 2, 88, 238)), (64, 96, 32, (2, 3, 0, 0)), (70, 33, 32, (2, 1, 3, 0))],
)
def test_as_many_patches_as_fit_lie_in_the_middle(height: int, width: int, size: int, expected: tuple[int, ...]) -> None:
    where = grid(height, width, size)
    assert (where.rows, where.columns, where.top, where.left) == expected


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"--patch_size 128: an image of 100 x 300 .* use at most 96"):
        grid(100, 300, 128)


def test_patches_are_cut_along_the_rows() -> None:
    array = np.arange(70 * 100).reshape(70, 100)
    where = grid(70, 100, 32)
    parts = cut(array, where)
    assert parts.shape == (6, 32, 32)
    for number, part in enumerate(parts):
        row, column = where.origin(number)
        np.testing.assert_array_equal(part, array[row : row + 32, column : column + 32])
    assert where.origin(4) == (35, 34)


def test_what_is_kept_is_rounded_by_less_than_the_instrument_resolves() -> None:
    random = np.random.default_rng(0)
    refs, bts = random.random((2, 3, 6)).astype(np.float32), random.uniform(190, 320, (2, 3, 3)).astype(np.float32)
    image, label, valid = normalise(frame(refs_hwc=refs, bts_hwc=bts, bayes_hw=np.array([[0, 1, 0], [0, 0, 2]], np.uint8)))
    half, bits = pack(image, label, valid)
    assert half.dtype == np.float16
    assert np.abs(half[..., 6:].astype(np.float64) * 22 + 270 - bts).max() < 0.03
    assert np.abs(half[..., :6].astype(np.float64) + 0.5 - refs).max() < 0.0005
    assert bits.tolist() == [[VALID, VALID | LABEL, VALID], [VALID, VALID, VALID | LABEL]]


def test_what_is_kept_stays_finite() -> None:
    image = np.full((1, 1, 9), 1e6, np.float32)
    half, _ = pack(image, np.zeros((1, 1), np.uint8), np.ones((1, 1), bool))
    assert np.isfinite(half).all()
