"""Generated products: real readers accept their files, and the facts' formulas give back the scene that they were made from."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from stormbench.cloudmask import annotation, orbit, product, scene, sen3
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import Pixels, pixels
from stormbench.cloudmask.scene import CONFIDENCE, Scene

HEIGHT, WIDTH = 96, 128
# day from before baseline 005, twilight from 005 on by the other satellite, night
CASES = {"day": (0, 12), "twilight": (1, 10), "night": (2, 8)}
FACTORS = {"004": (0.97, 0.98, 0.98, 1.0, 1.11, 1.13), "005": (1.0,) * 6}


@dataclass
class Made:
    """A product on disk and what it was made from."""

    folder: Path
    granule: Granule
    scene: Scene
    coarse: Pixels
    fine: Pixels

    def variable(self, file: str, name: str) -> np.ndarray:
        """Return a variable as it is stored."""
        with netCDF4.Dataset(self.folder / file) as dataset:
            dataset.set_auto_maskandscale(False)
            return dataset[name][...]

    def attributes(self, file: str, name: str | None = None) -> dict[str, Any]:
        with netCDF4.Dataset(self.folder / file) as dataset:
            return dict((dataset if name is None else dataset[name]).__dict__)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    found = {}
    for light, (number, frame) in CASES.items():
        granule = Granule(seed=2, orbit=number, frame=frame, height=HEIGHT, width=WIDTH)
        assert orbit.light(granule) == light
        folder = tmp_path_factory.mktemp("sen3") / f"{granule.name}.SEN3"
        folder.mkdir()
        drawn = scene.draw(granule)
        for name, content in sen3.files(granule, drawn):
            (folder / name).write_bytes(content)
        found[light] = Made(folder, granule, drawn, pixels(granule, 1000), pixels(granule, 500))
    return found


@pytest.fixture(params=list(CASES))
def one(made: dict[str, Made], request: pytest.FixtureRequest) -> Made:
    return made[request.param]


def test_all_files_of_a_product_are_there(one: Made) -> None:
    expected = {
        *(f"S{n}_{kind}_an.nc" for n in range(1, 7) for kind in ("radiance", "quality")),
        *(f"S{n}_{kind}_in.nc" for n in range(7, 10) for kind in ("BT", "quality")),
        *(f"{kind}_{grid}.nc" for kind in ("flags", "indices", "geodetic", "cartesian") for grid in ("in", "an")),
        "geometry_tn.nc", "geodetic_tx.nc", "cartesian_tx.nc", "met_tx.nc", "time_in.nc", "viscal.nc",
    }  # fmt: skip
    assert {path.name for path in one.folder.iterdir()} == expected == set(sen3.FILES)


def test_variables_have_the_names_types_and_dimensions_of_real_ones(one: Made) -> None:
    with netCDF4.Dataset(one.folder / "S3_radiance_an.nc") as file:
        assert file.data_model == "NETCDF4"
        shapes = {name: (str(v.dtype), v.dimensions, v.shape) for name, v in file.variables.items()}
        assert file["S3_radiance_an"].filters() == {**file["S3_radiance_an"].filters(), "zlib": True, "shuffle": True}
    image, orphans = (2 * HEIGHT, 2 * WIDTH), (2 * HEIGHT, 32)
    assert shapes == {
        "S3_radiance_an": ("int16", ("rows", "columns"), image),
        "S3_exception_an": ("uint8", ("rows", "columns"), image),
        "S3_radiance_orphan_an": ("int16", ("rows", "orphan_pixels"), orphans),
        "S3_exception_orphan_an": ("uint8", ("rows", "orphan_pixels"), orphans),
    }
    with netCDF4.Dataset(one.folder / "flags_in.nc") as file:
        kinds = {name: str(file[name].dtype) for name in ("confidence_in", "cloud_in", "bayes_in", "probability_cloud_single_in")}
    assert kinds == {"confidence_in": "uint16", "cloud_in": "uint16", "bayes_in": "uint8", "probability_cloud_single_in": "float32"}
    with netCDF4.Dataset(one.folder / "S8_BT_in.nc") as file:
        assert {"S8_BT_in", "S8_exception_in", "S8_BT_orphan_in", "S8_exception_orphan_in"} == set(file.variables)
    assert one.variable("geometry_tn.nc", "solar_zenith_tn").shape == (HEIGHT, 130)
    assert one.variable("S5_quality_an.nc", "S5_solar_irradiance_an").shape == (4,)


def test_full_size_grids_have_the_published_shapes_and_offsets() -> None:
    granule = Granule(seed=2, orbit=0, frame=12)
    for step, shape in ((1000, (1200, 1500)), (500, (2400, 3000))):
        assert pixels(granule, step).unfilled.shape == shape
    assert [pixels(granule, step).orphan_columns.shape[1] for step in (1000, 500)] == [187, 374]
    about = {step: annotation.Globals(granule, "", step).attributes() for step in (1000, 500, 16_000)}
    assert [(about[step]["track_offset"], about[step]["resolution"]) for step in about] == [
        (998, "[ 1000 1000 ]"), (1996, "[ 500 500 ]"), (64, "[ 16000 1000 ]"),
    ]  # fmt: skip


def test_global_attributes_place_each_grid(one: Made) -> None:
    grids = {"S1_radiance_an.nc": (2, "[ 500 500 ]"), "S7_BT_in.nc": (1, "[ 1000 1000 ]"), "geometry_tn.nc": (1, "[ 16000 1000 ]")}
    for file, (times, resolution) in grids.items():
        about = one.attributes(file)
        assert about["start_offset"] == one.granule.row_offset * times > 0
        assert about["track_offset"] == (64 if "tn" in file else one.granule.track_offset * times)
        assert about["resolution"] == resolution
        assert about["start_time"] == f"{one.granule.start:%Y-%m-%dT%H:%M:%S}.000000Z"
        assert about["product_name"] == one.folder.name


def test_every_file_says_that_it_is_generated(one: Made) -> None:
    for name in sen3.FILES:
        about = one.attributes(name)
        assert "proves machinery, never accuracy" in about["comment"]
        assert about["source"].startswith("stormbench cloudmask synth")


def test_flags_carry_their_masks_and_meanings(one: Made) -> None:
    about = one.attributes("flags_in.nc", "confidence_in")
    found = dict(zip(about["flag_meanings"].split(), about["flag_masks"].tolist(), strict=True))
    assert (found["coastline"], found["unfilled"], found["cosmetic"], found["day"], found["summary_cloud"]) == (1, 32, 256, 1024, 16384)
    about = one.attributes("flags_in.nc", "bayes_in")
    assert about["flag_meanings"].split()[:4] == ["single_low", "single_moderate", "dual_low", "dual_moderate"]
    about = one.attributes("S2_radiance_an.nc", "S2_exception_an")
    assert dict(zip(about["flag_meanings"].split(), about["flag_masks"].tolist(), strict=True))["saturation"] == 16


def unpacked(one: Made, file: str, name: str) -> np.ndarray:
    about, stored = one.attributes(file, name), one.variable(file, name)
    assert about["_FillValue"] == -32768
    assert about["add_offset"] != 0
    return np.where(stored == -32768, np.nan, stored * about["scale_factor"] + about["add_offset"])


def test_radiance_in_the_file_follows_the_formula(made: dict[str, Made]) -> None:
    """reflectance x irradiance of the pixel's own detector x cos(zenith) / pi, divided by the factor of old baselines."""
    for light in ("day", "twilight"):
        one = made[light]
        zenith = one.variable("geometry_tn.nc", "solar_zenith_tn")
        detector = one.variable("indices_an.nc", "detector_an")
        for channel, row, column in ((0, 20, 30), (2, 101, 200), (4, 60, 131), (5, 150, 77)):
            name = f"S{channel + 1}"
            irradiance = one.variable(f"{name}_quality_an.nc", f"{name}_solar_irradiance_an")
            assert len(set(irradiance.tolist())) == 4
            # the tie points around the pixel, by the offsets of both grids
            line, place = row / 2, (column - 2 * one.granule.track_offset) / 32 + 64
            top, left = int(line), int(place)
            ties = zenith[top : top + 2, left : left + 2]
            angle = np.array([1 - line + top, line - top]) @ ties @ np.array([1 - place + left, place - left])
            if angle > 89.5 or detector[row, column] == 255:
                continue
            light_hw = unpacked(one, f"{name}_radiance_an.nc", f"{name}_radiance_an")
            white = irradiance[detector[row, column]] * math.cos(math.radians(angle)) / math.pi / FACTORS[one.granule.baseline][channel]
            reflectance = light_hw[row, column] / white
            # the source of a cosmetic pixel lies up to a few columns to its left
            columns = slice(max(0, column // 2 - 3), column // 2 + 1)
            drawn = one.scene.reflectance_chw[channel, row // 2, columns]
            assert drawn.min() * 0.7 - 0.02 < reflectance < drawn.max() * 1.3 + 0.02, (light, name)


@pytest.mark.parametrize("light", ["day", "twilight", "night"])
def test_conversion_gives_the_reflectances_back_to_the_packing_s_quantum(made: dict[str, Made], light: str) -> None:
    one = made[light]
    sun = sen3.light(one.granule, one.scene, one.fine)
    frame = product.read_frame(one.folder)
    assert frame.day is (light == "day")
    for channel in range(6):
        radiance, exception = sen3.radiance(one.granule, one.scene, sun, channel)
        with np.errstate(divide="ignore", invalid="ignore"):
            irradiance = np.append(sen3.irradiance(one.granule, channel), np.full(252, np.nan))[one.fine.detector]
            unit = math.pi * FACTORS[one.granule.baseline][channel] / (irradiance * sun.cosine_hw)
            valid = (exception == 0) & (sun.cosine_hw > 0)
            blocks = [
                np.where(valid, plane, np.nan).reshape(HEIGHT, 2, WIDTH, 2)
                for plane in (radiance * unit, unit * sen3.packing(channel)[0] / 2)
            ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected, quantum = np.nanmean(blocks[0], axis=(1, 3)), np.nanmax(blocks[1], axis=(1, 3))
        found = frame.refs_hwc[..., channel]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        with np.errstate(invalid="ignore"):
            assert not (np.abs(found - expected) > 1.05 * quantum + 1e-5).any()
    share = np.isfinite(frame.refs_hwc).mean()
    assert {"day": share > 0.9, "twilight": 0.2 < share < 0.9, "night": share == 0}[light]


@pytest.mark.parametrize("light", ["day", "twilight"])
def test_mean_of_the_reflectances_is_the_scene_s(made: dict[str, Made], light: str) -> None:
    one = made[light]
    frame = product.read_frame(one.folder)
    difference = frame.refs_hwc - one.scene.reflectance_chw.transpose(1, 2, 0)
    assert np.abs(np.nanmean(difference, axis=(0, 1))).max() < 0.004
    assert np.nanquantile(np.abs(difference), 0.9) < 0.06


def test_brightness_temperatures_are_the_scene_s_to_half_a_hundredth_kelvin(one: Made) -> None:
    frame = product.read_frame(one.folder)
    own = np.ones((HEIGHT, WIDTH), bool)
    own[one.coarse.cosmetic_at[:2]] = False
    for channel in range(3):
        found, drawn = frame.bts_hwc[..., channel], one.scene.brightness_chw[channel]
        good = np.isfinite(found) & own
        assert good.mean() > 0.85
        assert np.abs(found - drawn)[good].max() < 0.0051
        assert np.isnan(found[one.coarse.unfilled]).all()


def test_satpy_reads_the_same_reflectances_and_temperatures(made: dict[str, Made]) -> None:
    import satpy

    for light in ("day", "twilight"):
        one = made[light]
        known = ("radiance", "BT", "geodetic_in", "geodetic_an", "flags_in", "geometry_tn")
        files = [str(path) for path in one.folder.glob("*.nc") if any(word in path.name for word in known)]
        seen = satpy.Scene(files, reader="slstr_l1b")
        names = [f"S{n}" for n in range(1, 7)]
        seen.load(names, calibration="reflectance")
        seen.load(["S7", "S8", "S9"])
        flags = satpy.DataQuery(name="bayes", view="nadir", stripe="i", resolution=1000)
        seen.load([flags])
        seen.load(["solar_zenith_angle"], resolution=1000)
        frame = product.read_frame(one.folder)
        cosine = sen3.light(one.granule, one.scene, one.fine).cosine_hw
        for channel, name in enumerate(names):
            assert seen[name].attrs["units"] == "%"
            with np.errstate(divide="ignore", invalid="ignore"):
                # satpy applies the factors of old baselines to all, and leaves the sun's height out
                factor = FACTORS[one.granule.baseline][channel] / FACTORS["004"][channel]
                fine = np.where(cosine > 0, seen[name].values * factor / 100 / cosine, np.nan)
            fine[one.fine.detector == 255] = np.nan
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                expected = np.nanmean(fine.reshape(HEIGHT, 2, WIDTH, 2), axis=(1, 3))
            np.testing.assert_allclose(frame.refs_hwc[..., channel], expected, rtol=2e-5, atol=2e-5)
        for channel, name in enumerate(("S7", "S8", "S9")):
            values = np.where(one.coarse.unfilled, np.nan, seen[name].values)
            np.testing.assert_allclose(frame.bts_hwc[..., channel], values, atol=1e-3)
        np.testing.assert_array_equal(seen[flags].values, frame.bayes_hw)
        assert str(seen.start_time.replace(tzinfo=None)) == str(one.granule.start)
        zenith = orbit.between_ties(one.granule, orbit.tie_geometry(one.granule)["solar_zenith"], 1000)
        # its spline goes through the tie points, every 16 columns, and waves toward the swath's edges
        difference = np.abs(seen["solar_zenith_angle"].values - zenith)
        assert difference[:, 8:-8:16].max() < 0.01
        assert difference[:, 48:80].max() < 0.2


def test_unfilled_edges_are_ragged_and_cut_some_pixels_of_1_km_in_two(one: Made) -> None:
    assert one.coarse.unfilled[:, 0].all()
    assert one.coarse.unfilled[:, -1].all()
    for side in (one.coarse.unfilled, one.coarse.unfilled[:, ::-1]):
        filled = side[~one.coarse.lost[:, 0]]
        assert len(set(np.argmin(filled, axis=1).tolist())) > 1
    halves = one.fine.unfilled.reshape(HEIGHT, 2, WIDTH, 2).sum(axis=(1, 3))
    assert {0, 4} < set(halves.ravel().tolist())
    for file, name, unfilled in (("S1_radiance_an.nc", "S1_{}_an", one.fine.unfilled), ("S9_BT_in.nc", "S9_{}_in", one.coarse.unfilled)):
        kind = file.split("_")[1]
        assert (one.variable(file, name.format(kind))[unfilled] == -32768).all()
        assert (one.variable(file, name.format("exception"))[unfilled] & 128 > 0).all()
    assert (one.variable("indices_an.nc", "detector_an")[one.fine.unfilled] == 255).all()
    assert (one.variable("flags_in.nc", "bayes_in")[one.coarse.unfilled] == 0).all()


def test_lost_packets_leave_rows_without_a_measurement(made: dict[str, Made]) -> None:
    for light, lost in (("day", True), ("twilight", False), ("night", True)):
        rows = made[light].fine.lost[:, 0]
        assert rows.any() == lost
        exceptions = made[light].variable("S2_radiance_an.nc", "S2_exception_an")
        assert (exceptions[rows] & 1 > 0).all()


def test_flags_of_pixels_are_those_of_the_grid(one: Made) -> None:
    for suffix, grid in (("in", one.coarse), ("an", one.fine)):
        confidence = one.variable(f"flags_{suffix}.nc", f"confidence_{suffix}")
        cosmetic = np.zeros_like(grid.unfilled)
        cosmetic[grid.cosmetic_at[:2]] = True
        for name, expected in (("unfilled", grid.unfilled), ("cosmetic", cosmetic), ("duplicate", grid.duplicate)):
            assert expected.any()
            np.testing.assert_array_equal(confidence & scene.bit(CONFIDENCE, name) > 0, expected)
        summary = confidence & scene.bit(CONFIDENCE, "summary_cloud") > 0
        np.testing.assert_array_equal(summary, one.variable(f"flags_{suffix}.nc", f"cloud_{suffix}") > 0)


def test_day_bit_is_on_unfilled_pixels_too(made: dict[str, Made]) -> None:
    assert (made["day"].variable("flags_in.nc", "confidence_in") & 1024 > 0).all()


def test_cosmetic_pixels_repeat_a_neighbour_to_their_left(one: Made) -> None:
    for file, name, grid in (("S8_BT_in.nc", "S8_{}_in", one.coarse), ("indices_an.nc", "detector_an", one.fine)):
        plane = one.variable(file, name.format("BT"))
        rows, columns, sources = grid.cosmetic_at
        assert (sources < columns).all()
        valid = plane[rows, sources] != -32768
        valid &= plane[rows, columns] != -32768
        assert valid.mean() > 0.9
        np.testing.assert_array_equal(plane[rows, columns][valid], plane[rows, sources][valid])


def test_orphans_lie_beside_the_duplicates(one: Made) -> None:
    counts = (one.coarse.orphan_columns >= 0).sum(axis=1)
    np.testing.assert_array_equal(counts, np.minimum(one.coarse.duplicate.sum(axis=1), one.coarse.orphan_columns.shape[1]))
    image, orphans = (one.variable("S7_BT_in.nc", name) for name in ("S7_BT_in", "S7_BT_orphan_in"))
    for row in range(0, HEIGHT, 7):
        np.testing.assert_array_equal(orphans[row, : counts[row]], image[row, one.coarse.duplicate[row]])
        assert (orphans[row, counts[row] :] == -32768).all()


def test_detectors_take_turns_along_the_track(one: Made) -> None:
    detector = one.variable("indices_an.nc", "detector_an")
    assert set(np.unique(detector).tolist()) == {0, 1, 2, 3, 255}
    assert set(np.unique(one.variable("indices_in.nc", "detector_in")).tolist()) == {0, 1, 255}
    own = np.ones_like(one.fine.unfilled)
    own[one.fine.cosmetic_at[:2]] = False
    own &= ~one.fine.unfilled
    both = own[1:] & own[:-1]
    np.testing.assert_array_equal(detector[1:][both], (detector[:-1][both] + 1) % 4)


def test_zenith_is_missing_outside_the_swath_as_nan_or_as_a_number(made: dict[str, Made]) -> None:
    for light, fill in (("day", np.nan), ("twilight", -999.0)):
        zenith = made[light].variable("geometry_tn.nc", "solar_zenith_tn")
        about = made[light].attributes("geometry_tn.nc", "solar_zenith_tn")
        np.testing.assert_array_equal(about["_FillValue"], fill)
        missing = np.isnan(zenith) if np.isnan(fill) else zenith == fill
        columns = np.flatnonzero(~missing[0])
        assert (missing == missing[0]).all()
        # columns 1 to 126 of the image at most, (column - 312) / 16 + 64
        assert (columns[0], columns[-1]) == (44, 53)


def test_dark_instrument_s_noise_is_there_where_the_sun_is_down(made: dict[str, Made]) -> None:
    one = made["night"]
    radiance = unpacked(one, "S3_radiance_an.nc", "S3_radiance_an")
    values = radiance[np.isfinite(radiance)]
    assert values.size > 0.9 * radiance.size
    assert 0 < np.std(values) < 0.1
    assert (values < 0).any()


def test_places_times_and_distances_agree(one: Made) -> None:
    latitude = one.variable("geodetic_in.nc", "latitude_in") * one.attributes("geodetic_in.nc", "latitude_in")["scale_factor"]
    ties = one.variable("geodetic_tx.nc", "latitude_tx")
    # column 64 of the tie grid lies on the track, 312 columns left of the image's first; 16 columns are one tie point
    np.testing.assert_allclose(latitude[:, 8], ties[:, 45], atol=1e-6)
    x, y = (one.variable("cartesian_in.nc", name) for name in ("x_in", "y_in"))
    assert (x[0, 0], x[0, 1]) == (312_000, 311_000)
    assert (y[:, 0] == (one.granule.row_offset + np.arange(HEIGHT)) * 1000).all()
    assert (np.diff(one.variable("cartesian_tx.nc", "x_tx")[0]) == -16_000).all()
    fine = one.variable("geodetic_an.nc", "latitude_an") * 1e-6
    np.testing.assert_allclose(fine[::2, ::2], latitude, atol=1.1e-6)
    stamps = one.variable("time_in.nc", "time_stamp_i")
    np.testing.assert_array_equal(np.diff(stamps), 150_000)
    with netCDF4.Dataset(one.folder / "time_in.nc") as file:
        first = netCDF4.num2date(stamps[0], file["time_stamp_i"].units)
    # the middle 96 of the 1200 rows of three minutes
    assert (np.datetime64(first.isoformat()) - np.datetime64(one.granule.start)) / np.timedelta64(1, "s") == pytest.approx(552 * 0.15)


def test_public_reader_finds_the_meteorology_that_it_asks_for(one: Made) -> None:
    with netCDF4.Dataset(one.folder / "met_tx.nc") as file:
        for name in (
            "total_column_water_vapour_tx", "cloud_fraction_tx", "skin_temperature_tx", "sea_surface_temperature_tx", "soil_wetness_tx",
            "total_column_ozone_tx", "snow_albedo_tx", "snow_depth_tx", "sea_ice_fraction_tx", "surface_pressure_tx",
        ):  # fmt: skip
            assert file[name].shape == (1, HEIGHT, 130)


def test_products_of_one_sensing_time_hold_the_same_measurements(made: dict[str, Made]) -> None:
    one = made["day"]
    again = Granule(seed=2, orbit=0, frame=12, height=HEIGHT, width=WIDTH, reprocessing=1)
    contents = dict(sen3.files(again, scene.draw(again)))
    with netCDF4.Dataset("image", memory=contents["S1_radiance_an.nc"]) as file:
        file.set_auto_maskandscale(False)
        np.testing.assert_array_equal(file["S1_radiance_an"][...], one.variable("S1_radiance_an.nc", "S1_radiance_an"))
        assert file.creation_time > one.attributes("S1_radiance_an.nc")["creation_time"]


def test_bytes_do_not_depend_on_the_number_of_threads(made: dict[str, Made]) -> None:
    one = made["twilight"]
    for name, content in sen3.files(one.granule, one.scene, threads=3):
        assert content == (one.folder / name).read_bytes(), name
