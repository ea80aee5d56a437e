"""From a product to a frame: each formula by numbers computed by hand, and whole products against the definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stormbench.cloudmask.adjust import FACTORS, factors_of
from stormbench.cloudmask.names import parse
from stormbench.cloudmask.product import Grid, read_frame, reflectance, tie_position
from stormbench.core.errors import RunError, UserError
from tests import sen3_files
from tests.sen3_files import FILL, MASKS, NAME, Scene

FINE = Grid(step_along=500, step_across=500, start_offset=152894, track_offset=1996)
TIES = Grid(step_along=1000, step_across=16000, start_offset=76447, track_offset=64)


def plain(height: int = 4, width: int = 8, *, zenith: float = 60.0) -> Scene:
    """A product whose every number is easy: radiance 100, irradiance 1000 and 2000 by detector, 300 K, one zenith."""
    fine = (2 * height, 2 * width)
    return Scene(
        light=np.full((6, *fine), 10000, np.int16),
        detector=np.zeros(fine, np.uint8),
        irradiance=np.tile([1000.0, 2000.0], (6, 1)),
        heat=np.full((3, height, width), 1627, np.int16),
        zenith=np.full((height + 1, 130), zenith),
        confidence=np.full((height, width), MASKS["day"], np.uint16),
        bayes=np.zeros((height, width), np.uint8),
        scale=(0.01,) * 6,
        offset=(0.0,) * 6,
    )


def frame_of(tmp_path: Path, content: Scene, *, adjust: str = "off", rads: bool = False, name: str = NAME):
    return read_frame(sen3_files.write(tmp_path / name, content), adjust=adjust, rads=rads)


def test_reflectance_by_hand() -> None:
    # pi x 100 / (1000 x cos 60)
    assert reflectance(100.0, 1000.0, 60.0) == pytest.approx(0.2 * math.pi, rel=1e-12)
    assert reflectance(50.0, 1830.0, 0.0) == pytest.approx(math.pi * 50 / 1830, rel=1e-12)


@pytest.mark.parametrize(
    ("radiance", "irradiance", "zenith"),
    [(100, 1000, 90), (100, 1000, 120), (100, 1000, 90.0), (100, 0, 30), (math.nan, 1000, 30), (1, math.nan, 30), (1, 1, math.nan)],
)
def test_no_reflectance_without_sun_light_or_numbers(radiance: float, irradiance: float, zenith: float) -> None:
    assert np.isnan(reflectance(radiance, irradiance, zenith))


def test_reflectance_broadcasts_and_keeps_the_type() -> None:
    found = reflectance(np.array([100, 200], np.float32), np.float32(1000), np.array([[60], [89.9], [90]], np.float32))
    assert (found.shape, found.dtype) == ((3, 2), np.float32)
    np.testing.assert_allclose(found[1], math.pi * np.array([0.1, 0.2]) / math.cos(math.radians(89.9)), rtol=1e-4)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize(
    ("row", "col", "tie_row", "tie_col"),
    [(0, 1996, 0.0, 64.0), (1, 1996, 0.5, 64.0), (2399, 1996, 1199.5, 64.0), (0, 0, 0.0, 1.625), (10, 2999, 5.0, 95.34375)],
)
def test_tie_position_by_hand(row: int, col: int, tie_row: float, tie_col: float) -> None:
    assert tie_position(row, col, FINE, TIES) == (tie_row, tie_col)


def test_tie_position_of_a_grid_that_starts_elsewhere() -> None:
    later = Grid(step_along=500, step_across=500, start_offset=152894 + 7, track_offset=1996 + 16)
    assert tie_position(1, 2012, later, TIES) == (4.0, 64.0)
    coarse = Grid(step_along=1000, step_across=1000, start_offset=76447, track_offset=998)
    assert tie_position(3, 998 + 16, coarse, TIES) == (3.0, 65.0)


def test_values_of_an_easy_product(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, plain(), rads=True)
    np.testing.assert_allclose(frame.refs_hwc, 0.2 * math.pi, rtol=1e-6)
    np.testing.assert_allclose(frame.rads_hwc, 100.0, rtol=1e-6)
    np.testing.assert_allclose(frame.bts_hwc, 300.0, rtol=1e-6)
    assert (frame.refs_hwc.shape, frame.refs_hwc.dtype, frame.bts_hwc.shape) == ((4, 8, 6), np.float32, (4, 8, 3))


def test_each_pixel_has_the_irradiance_of_its_own_detector(tmp_path: Path) -> None:
    content = plain()
    content.detector[0:2, 2] = 1
    refs = frame_of(tmp_path, content).refs_hwc
    # half of the block's pixels by a detector under twice the irradiance
    np.testing.assert_allclose(refs[0, 1], 0.15 * math.pi, rtol=1e-6)
    np.testing.assert_allclose(refs[1, 1], 0.2 * math.pi, rtol=1e-6)


def test_zenith_is_bilinear_between_tie_points_at_the_offsets_of_both_grids(tmp_path: Path) -> None:
    content = plain(height=4, width=8)
    content.fine = {"start_offset": 152894 + 2, "track_offset": 8}
    # in tie steps from the first row and from the track: 30 + 4 x row + 16 x column
    content.zenith = 30 + 4.0 * np.arange(5)[:, None] + 16.0 * (np.arange(130)[None] - 64)
    content.zenith = np.clip(content.zenith, 0, 180)
    refs = frame_of(tmp_path, content).refs_hwc
    # 500 m rows 2 and 3 lie at tie rows 2 and 2.5, columns 8 and 9 at 64 and 64 + 1/32
    zeniths = [30 + 4 * row + 16 * col for row in (2.0, 2.5) for col in (0.0, 1 / 32)]
    mean = sum(math.pi * 0.1 / math.cos(math.radians(zenith)) for zenith in zeniths) / 4
    np.testing.assert_allclose(refs[1, 4], mean, rtol=2e-6)


def test_last_half_row_has_the_angle_of_the_last_tie_row(tmp_path: Path) -> None:
    content = plain(height=4)
    content.zenith = np.repeat([[60.0], [60.0], [60.0], [30.0]], 130, axis=1)
    refs = frame_of(tmp_path, content).refs_hwc
    np.testing.assert_allclose(refs[3], 0.1 * math.pi / math.cos(math.radians(30)), rtol=1e-6)


def test_pixels_next_to_a_missing_tie_point_have_no_reflectance(tmp_path: Path) -> None:
    content = plain(height=4, width=40)
    content.fine = {"start_offset": 152894, "track_offset": 0}
    content.zenith[:, 66:] = np.nan
    content.zenith[:, 68:] = -999.0
    refs = frame_of(tmp_path, content).refs_hwc
    # tie column 65 lies at 500 m column 32, column 66 at 64: from column 33 on a missing point is needed
    assert np.isfinite(refs[:, :16]).all()
    np.testing.assert_allclose(refs[:, 16], 0.2 * math.pi, rtol=1e-6)
    assert np.isnan(refs[:, 17:]).all()


def test_no_reflectance_where_the_sun_is_down_but_radiance_still(tmp_path: Path) -> None:
    content = plain()
    content.zenith[:] = 89.0
    content.zenith[2:] = 90.0
    frame = frame_of(tmp_path, content, rads=True)
    np.testing.assert_allclose(frame.refs_hwc[0, 0], math.pi * 0.1 / math.cos(math.radians(89)), rtol=1e-6)
    # rows 2 and 3 lie at 89 and 89.5 degrees
    lower = [1 / math.cos(math.radians(zenith)) for zenith in (89.0, 89.5)]
    np.testing.assert_allclose(frame.refs_hwc[1, 0], math.pi * 0.1 * sum(lower) / 2, rtol=1e-6)
    assert np.isnan(frame.refs_hwc[2:]).all()
    np.testing.assert_allclose(frame.rads_hwc, 100, rtol=1e-6)


def test_blocks_are_means_over_their_valid_pixels(tmp_path: Path) -> None:
    content = plain()
    content.light[0, 0:2, 0:2] = [[10000, 20000], [30000, FILL]]
    content.light[1, 0:2, 0:2] = FILL
    content.detector[0, 2] = 255
    frame = frame_of(tmp_path, content, rads=True)
    np.testing.assert_allclose(frame.rads_hwc[0, 0], [200.0, math.nan, 100, 100, 100, 100], rtol=1e-6)
    np.testing.assert_allclose(frame.refs_hwc[0, 0, 0], 0.4 * math.pi, rtol=1e-6)
    assert np.isnan(frame.refs_hwc[0, 0, 1])
    np.testing.assert_allclose(frame.refs_hwc[0, 1], 0.2 * math.pi, rtol=1e-6)


def test_value_that_no_detector_saw_counts_as_invalid(tmp_path: Path) -> None:
    content = plain()
    content.detector[0:2, 0:2] = 255
    content.light[:, 0, 2] = 30000
    content.detector[0, 2] = 255
    frame = frame_of(tmp_path, content)
    assert np.isnan(frame.refs_hwc[0, 0]).all()
    np.testing.assert_allclose(frame.refs_hwc[0, 1], 0.2 * math.pi, rtol=1e-6)


def test_offset_belongs_to_every_valid_pixel(tmp_path: Path) -> None:
    content = plain()
    content.offset = (50.0,) * 6
    content.light[:, 0, 0] = FILL
    frame = frame_of(tmp_path, content, rads=True)
    np.testing.assert_allclose(frame.rads_hwc, 150, rtol=1e-6)
    np.testing.assert_allclose(frame.refs_hwc, 0.3 * math.pi, rtol=1e-6)


def test_small_radiance_over_a_large_offset_keeps_its_digits(tmp_path: Path) -> None:
    content = plain()
    content.scale, content.offset = (0.01278,) * 6, (403.6,) * 6
    content.light[:] = -31542
    frame = frame_of(tmp_path, content, rads=True)
    # -31542 x 0.01278 + 403.6
    np.testing.assert_allclose(frame.rads_hwc, 0.49324, rtol=1e-6)
    np.testing.assert_allclose(frame.refs_hwc, math.pi * 0.49324 / 500, rtol=1e-6)


def test_detector_without_an_irradiance_in_one_channel_has_no_reflectance_there(tmp_path: Path) -> None:
    content = plain()
    content.irradiance[2, 0] = 0.0
    content.detector[:, 2:] = 1
    refs = frame_of(tmp_path, content).refs_hwc
    assert np.isnan(refs[:, 0, 2]).all()
    np.testing.assert_allclose(refs[:, 1, 2], 0.1 * math.pi, rtol=1e-6)
    np.testing.assert_allclose(refs[:, 0, 3], 0.2 * math.pi, rtol=1e-6)


@pytest.mark.parametrize(("baseline", "factors"), [("003", FACTORS), ("004", FACTORS), ("005", (1.0,) * 6), ("011", (1.0,) * 6)])
def test_radiances_are_adjusted_before_baseline_005_only(tmp_path: Path, baseline: str, factors: tuple[float, ...]) -> None:
    frame = frame_of(tmp_path, plain(), adjust="auto", rads=True, name=NAME.replace("_003.", f"_{baseline}."))
    np.testing.assert_allclose(frame.rads_hwc[0, 0], 100 * np.array(factors), rtol=1e-6)
    np.testing.assert_allclose(frame.refs_hwc[0, 0], 0.2 * math.pi * np.array(factors), rtol=1e-6)
    assert frame.about["baseline"] == baseline
    assert frame.about["adjustment"] == " ".join(f"{factor:g}" for factor in factors)


def test_factors_are_the_published_ones_and_can_be_chosen() -> None:
    old, new = parse(NAME), parse(NAME.replace("_003.", "_005."))
    assert FACTORS == (0.97, 0.98, 0.98, 1.0, 1.11, 1.13)
    assert factors_of("on", new) == FACTORS
    assert factors_of("off", old) == (1.0,) * 6
    assert factors_of("1,2,3,4,5,6", old) == factors_of([1, 2, 3, 4, 5, 6], new) == (1, 2, 3, 4, 5, 6)
    for wrong in ("always", "1,2,3", "1,2,3,4,5,x", "0,1,1,1,1,1", "nan,1,1,1,1,1"):
        with pytest.raises(UserError, match="--adjust"):
            factors_of(wrong, old)
    with pytest.raises(RunError, match="baseline C01 is no number"):
        factors_of("auto", parse(NAME.replace("_003.", "_C01.")))


def test_flags_are_read_by_their_meanings(tmp_path: Path) -> None:
    content = plain()
    content.confidence[0, :2] |= MASKS["summary_cloud"]
    content.confidence[1, :] |= MASKS["summary_pointing"]
    content.bayes[2, :4] = [1, 2, 4, 12]
    frame = frame_of(tmp_path, content)
    expected = np.zeros((4, 8))
    expected[0, :2] = 1
    np.testing.assert_array_equal(frame.summary_hw, expected)
    np.testing.assert_array_equal(frame.bayes_hw, content.bayes)
    assert (frame.summary_hw.dtype, frame.bayes_hw.dtype, frame.day) == (np.uint8, np.uint8, True)
    assert frame.about["bayes_bits"] == "single_low=1 single_moderate=2 dual_low=4 dual_moderate=8"


def test_bits_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = plain()
    moved = {"summary_cloud": 1, "day": 2, "unfilled": 4}
    monkeypatch.setattr(sen3_files, "MASKS", moved)
    content.confidence = np.array([[3, 2, 2 + 4, 2]], np.uint16).repeat(4, axis=0).repeat(2, axis=1)
    frame = frame_of(tmp_path, content)
    np.testing.assert_array_equal(frame.summary_hw[0], [1, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(np.isnan(frame.bts_hwc[0, :, 0]), [0, 0, 0, 0, 1, 1, 0, 0])
    assert frame.day


def test_one_pixel_without_the_day_bit_makes_it_night(tmp_path: Path) -> None:
    content = plain()
    content.confidence[3, 7] = MASKS["twilight"]
    assert not frame_of(tmp_path, content).day


def test_invalid_temperatures_stay_invalid_and_unfilled_pixels_are(tmp_path: Path) -> None:
    content = plain()
    content.heat[1, 0, 0] = FILL
    content.confidence[2, 5] |= MASKS["unfilled"]
    content.confidence[3, 5] |= MASKS["cosmetic"] | MASKS["duplicate"]
    bts = frame_of(tmp_path, content).bts_hwc
    np.testing.assert_allclose(bts[0, 0], [300, math.nan, 300], rtol=1e-6)
    assert np.isnan(bts[2, 5]).all()
    np.testing.assert_allclose(bts[3, 5], 300, rtol=1e-6)


@pytest.mark.parametrize("zenith", [(20.0, 60.0), (80.0, 95.0), (89.0, 91.0), (95.0, 130.0)])
def test_whole_product_is_what_the_definitions_give(tmp_path: Path, zenith: tuple[float, float]) -> None:
    content = sen3_files.scene(height=19, width=40, zenith=zenith)
    frame = frame_of(tmp_path, content, adjust="auto", rads=True)
    refs, rads = sen3_files.expected(content, FACTORS)
    np.testing.assert_array_equal(np.isnan(frame.refs_hwc), np.isnan(refs))
    np.testing.assert_allclose(frame.refs_hwc, refs, rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose(frame.rads_hwc, rads, rtol=2e-6, atol=1e-7)
    heat = np.where(content.heat == FILL, np.nan, content.heat * 0.01 + 283.73)
    np.testing.assert_allclose(frame.bts_hwc, np.moveaxis(heat, 0, -1), rtol=1e-6)


def test_half_precision_frame_holds_the_rounded_numbers(tmp_path: Path) -> None:
    from stormbench.cloudmask.product import open_product

    folder = sen3_files.write(tmp_path / NAME, sen3_files.scene(height=7))
    full, half = open_product(folder).frame(rads=True), open_product(folder).frame(rads=True, half=True)
    for one, other in ((full.refs_hwc, half.refs_hwc), (full.bts_hwc, half.bts_hwc), (full.rads_hwc, half.rads_hwc)):
        assert other.dtype == np.float16
        np.testing.assert_array_equal(one.astype(np.float16), other)
