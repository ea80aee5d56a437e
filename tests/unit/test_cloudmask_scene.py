"""Scenes: realistic spectra, and channels, flags and Bayesian mask that agree with one another as observations do."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from stormbench.cloudmask import orbit, scene, weather
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.scene import BAYES, CLOUD_TESTS, CONFIDENCE, Scene

NIGHT, TWILIGHT, DAY = range(4, 8), (10,), range(12, 20)
S1, S2, S3, S4, S5, S6 = range(6)
S7, S8, S9 = range(3)


@functools.cache
def drawn(orbit_number: int, frame: int, height: int = 96, width: int = 128, seed: int = 3) -> Scene:
    return scene.draw(Granule(seed=seed, orbit=orbit_number, frame=frame, height=height, width=width))


@functools.cache
def pooled(frames: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The pixels of many scenes, flat."""
    scenes = [drawn(number, frame) for number in range(3) for frame in frames]
    planes = {
        "refs": [s.reflectance_chw.reshape(6, -1) for s in scenes],
        "kelvin": [s.brightness_chw.reshape(3, -1) for s in scenes],
        "bayes": [s.bayes_hw.ravel() for s in scenes],
        "confidence": [s.confidence_hw.ravel() for s in scenes],
        "cloud": [s.cloud_hw.ravel() for s in scenes],
        "probability": [s.probability_hw.ravel() for s in scenes],
        "surface": [s.surface_k.ravel() for s in scenes],
    }
    return {name: np.concatenate(parts, axis=-1) for name, parts in planes.items()}


def has(word: np.ndarray, names: tuple[str, ...], name: str) -> np.ndarray:
    return word & (1 << names.index(name)) > 0


def test_planck_s_law_has_its_known_values_and_its_inverse() -> None:
    # 2 h c^2 / (l^5 (exp(h c / l k T) - 1)) by hand for 300 K at 10.854 um, in W m-2 sr-1 um-1
    h, c, k, wavelength = 6.62607015e-34, 2.99792458e8, 1.380649e-23, 10.854e-6
    expected = 2 * h * c**2 / wavelength**5 / (math.exp(h * c / (wavelength * k * 300)) - 1) * 1e-6
    assert scene.planck(np.float32([300]), 10.854)[0] == pytest.approx(expected, rel=1e-5)
    kelvin = np.linspace(190, 330, 50, dtype=np.float32)
    for wavelength_um in scene.WAVELENGTH_UM[6:]:
        np.testing.assert_allclose(scene.temperature(scene.planck(kelvin, wavelength_um), wavelength_um), kelvin, rtol=2e-6)


def test_flags_are_those_of_the_product_specification() -> None:
    assert {name: 1 << place for place, name in enumerate(CONFIDENCE) if name != "spare"} == {
        "coastline": 1, "ocean": 2, "tidal": 4, "land": 8, "inland_water": 16, "unfilled": 32, "cosmetic": 256, "duplicate": 512,
        "day": 1024, "twilight": 2048, "sun_glint": 4096, "snow": 8192, "summary_cloud": 16384, "summary_pointing": 32768,
    }  # fmt: skip
    assert [scene.bit(BAYES, name) for name in BAYES[:4]] == [1, 2, 4, 8]
    assert (CLOUD_TESTS.index("1.37_threshold"), CLOUD_TESTS.index("gross_cloud"), CLOUD_TESTS.index("thermal_histogram")) == (1, 7, 13)


def test_values_are_plausible() -> None:
    for frames in (NIGHT, TWILIGHT, DAY):
        found = pooled(tuple(frames))
        assert np.isfinite(found["refs"]).all()
        assert np.isfinite(found["kelvin"]).all()
        assert 0 <= found["refs"].min() < found["refs"].max() < 1.6
        assert 185 < found["kelvin"].min() < found["kelvin"].max() < 330


def test_clear_and_cloudy_sky_are_about_as_frequent() -> None:
    for frames in (NIGHT, DAY):
        assert 0.4 < np.mean(pooled(tuple(frames))["bayes"] > 0) < 0.7


def test_same_granule_draws_the_same_scene_and_another_seed_another() -> None:
    again = scene.draw(Granule(seed=3, orbit=0, frame=12, height=96, width=128))
    np.testing.assert_array_equal(again.brightness_chw, drawn(0, 12).brightness_chw)
    assert not np.array_equal(drawn(0, 12).bayes_hw, drawn(0, 12, seed=4).bayes_hw)


def test_reprocessed_granule_shows_the_same_scene() -> None:
    again = scene.draw(Granule(seed=3, orbit=0, frame=12, height=96, width=128, reprocessing=1))
    np.testing.assert_array_equal(again.reflectance_chw, drawn(0, 12).reflectance_chw)


def test_next_frame_continues_the_clouds() -> None:
    above, below = (Granule(seed=3, orbit=0, frame=frame, height=1200, width=40) for frame in (12, 13))
    fields = [weather.field(granule, weather.LOW, hurst=1 / 3) for granule in (above, below)]
    seam = np.abs(fields[1][0] - fields[0][-1])
    inside = np.abs(np.diff(fields[0], axis=0))
    assert seam.mean() < 1.5 * inside.mean()


def test_brightness_of_clouds_has_the_spectrum_of_turbulence() -> None:
    """Observed cloud radiances fall as k ** -5/3 to k ** -2 between some 10 and 200 km."""
    field_hw = scene.draw(Granule(seed=3, orbit=0, frame=14, height=512, width=1024)).reflectance_chw[S3]
    power = np.mean(np.abs(np.fft.rfft((field_hw - field_hw.mean()) * np.hanning(1024), axis=1)) ** 2, axis=0)
    number = np.arange(8, 100)
    assert -2.4 < np.polyfit(np.log(number), np.log(power[number]), 1)[0] < -1.3


def test_bayesian_bits_are_those_of_the_probabilities() -> None:
    found = drawn(0, 12)
    single, dual = found.probability_hw, found.probability_dual_hw
    np.testing.assert_array_equal(has(found.bayes_hw, BAYES, "single_low"), single > 0.5)
    np.testing.assert_array_equal(has(found.bayes_hw, BAYES, "single_moderate"), single > 0.9)
    np.testing.assert_array_equal(has(found.bayes_hw, BAYES, "dual_low"), dual > 0.5)
    np.testing.assert_array_equal(has(found.bayes_hw, BAYES, "dual_moderate"), dual > 0.9)
    assert found.bayes_hw.max() <= 15


def test_oblique_view_covers_the_middle_of_the_swath_only() -> None:
    granule = Granule(seed=3, orbit=0, frame=12, height=32, width=1500)
    reached = np.isfinite(scene.draw(granule).probability_dual_hw)
    assert (reached == reached[0]).all()
    columns = np.flatnonzero(reached[0])
    # 370 km to both sides of the track, which is column 998
    assert (columns[0], columns[-1]) == (628, 1368)


def test_day_twilight_and_night_follow_the_sun() -> None:
    for frame in (4, 10, 11, 12):
        granule = Granule(seed=3, orbit=0, frame=frame, height=96, width=128)
        zenith = orbit.between_ties(granule, orbit.tie_geometry(granule)["solar_zenith"], 1000)
        confidence = drawn(0, frame).confidence_hw
        np.testing.assert_array_equal(has(confidence, CONFIDENCE, "day"), zenith < 85)
        np.testing.assert_array_equal(has(confidence, CONFIDENCE, "twilight"), (zenith >= 85) & (zenith < 95))


def test_each_pixel_is_land_or_ocean_and_coasts_lie_between() -> None:
    for frame in (9, 12, 15):
        confidence = drawn(0, frame).confidence_hw
        land, ocean, coast = (has(confidence, CONFIDENCE, name) for name in ("land", "ocean", "coastline"))
        np.testing.assert_array_equal(land, ~ocean)
        beside = np.zeros_like(land)
        beside[1:] |= land[1:] != land[:-1]
        beside[:-1] |= land[1:] != land[:-1]
        beside[:, 1:] |= land[:, 1:] != land[:, :-1]
        beside[:, :-1] |= land[:, 1:] != land[:, :-1]
        np.testing.assert_array_equal(coast, beside)
        assert not (has(confidence, CONFIDENCE, "snow") & ocean).any()


def test_clouds_are_brighter_and_colder_than_clear_sky() -> None:
    day = pooled(tuple(DAY))
    cloud = day["bayes"] > 0
    for channel in range(6):
        assert day["refs"][channel][cloud].mean() > day["refs"][channel][~cloud].mean() + 0.04
    for frames in (NIGHT, DAY):
        found = pooled(tuple(frames))
        cloud = found["bayes"] > 0
        assert found["kelvin"][S8][cloud].mean() < found["kelvin"][S8][~cloud].mean() - 4


def test_clear_seas_have_their_surface_s_temperature_less_the_vapour_s_effect() -> None:
    day = pooled(tuple(DAY))
    clear = (day["probability"] < 0.05) & has(day["confidence"], CONFIDENCE, "ocean")
    deficit = day["surface"][clear] - day["kelvin"][S8][clear]
    assert 0 < np.median(deficit) < 6
    # the vapour absorbs more at 12 um
    assert np.median(day["kelvin"][S8][clear] - day["kelvin"][S9][clear]) > 0.2


def test_sunlight_warms_3_7_um_by_day_only() -> None:
    day, night = pooled(tuple(DAY)), pooled(tuple(NIGHT))
    difference = [np.median((found["kelvin"][S7] - found["kelvin"][S8])[found["bayes"] > 3]) for found in (day, night)]
    assert difference[0] > difference[1] + 5


def test_ice_clouds_show_at_1_4_um_and_are_dark_at_2_2_um() -> None:
    day = pooled(tuple(DAY))
    ice = day["refs"][S4] > 0.15
    water = (day["bayes"] > 0) & (day["refs"][S4] < 0.01) & (day["refs"][S1] > 0.5)
    assert ice.sum() > 500
    assert water.sum() > 500
    ratio = day["refs"][S6] / day["refs"][S1]
    assert np.median(ratio[ice]) < np.median(ratio[water])
    assert np.median(day["kelvin"][S8][ice]) < np.median(day["kelvin"][S8][water]) - 10


@pytest.mark.parametrize(("frames", "share"), [(tuple(DAY), 0.8), (tuple(NIGHT), 0.7)])
def test_summary_of_the_threshold_tests_mostly_agrees_with_the_bayesian_mask(frames: tuple[int, ...], share: float) -> None:
    found = pooled(frames)
    summary = has(found["confidence"], CONFIDENCE, "summary_cloud")
    np.testing.assert_array_equal(summary, found["cloud"] > 0)
    assert share < np.mean(summary == (found["bayes"] > 0)) < 0.99


def best_threshold(values: np.ndarray, cloud: np.ndarray) -> float:
    """Return the accuracy of the best threshold on one channel, in either sense."""
    scores = [np.mean((values > limit) == cloud) for limit in np.quantile(values, np.linspace(0, 1, 101))]
    return max(*scores, *(1 - score for score in scores))


def test_no_threshold_on_one_channel_finds_the_clouds() -> None:
    found = pooled((*NIGHT, *TWILIGHT, *DAY))
    cloud = found["bayes"] > 0
    for plane in (*found["refs"], *found["kelvin"]):
        assert best_threshold(plane, cloud) < 0.9
    day = pooled(tuple(DAY))
    for plane in (*day["refs"], *day["kelvin"]):
        assert best_threshold(plane, day["bayes"] > 0) < 0.93


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 1500), (1200, 33)])
def test_any_size_can_be_drawn(height: int, width: int) -> None:
    found = scene.draw(Granule(seed=1, orbit=0, frame=12, height=height, width=width))
    assert found.reflectance_chw.shape == (6, height, width)
    assert 0.05 < np.mean(found.bayes_hw > 0) < 0.99
