"""Products to files: found at any depth, sorted into day and night, resumed, and a broken one costs only itself."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.cloudmask import convert, hdf
from stormbench.core.errors import RunError, UserError
from tests import sen3_files
from tests.sen3_files import MASKS, change, name_of, scene

PARTS = ("day", "night", "day", "day", "night")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five products in a folder, two of them by night; read-only by agreement."""
    folder = tmp_path_factory.mktemp("made") / "products"
    for number, part in enumerate(PARTS):
        content = scene(seed=number, zenith=(30, 60) if part == "day" else (85, 100))
        if part == "night":
            content.confidence[number] &= np.uint16(0xFFFF - MASKS["day"])
        sen3_files.write(folder / name_of(number, baseline="003" if number < 3 else "005"), content, zlib=True)
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "products"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hdf_name(number: int) -> str:
    return name_of(number, baseline="003" if number < 3 else "005").replace(".SEN3", ".hdf")


def test_products_go_to_day_and_night_under_their_names(made: Path, tmp_path: Path) -> None:
    done = convert.run(made, tmp_path / "hdf", workers=1, progress=False)
    assert done == {"output_directory": str(tmp_path / "hdf"), "converted": 5, "skipped": 0, "day": 3, "night": 2}
    assert sorted(contents(tmp_path / "hdf")) == sorted(f"{part}/{hdf_name(number)}" for number, part in enumerate(PARTS))


def test_files_hold_what_the_definitions_give(made: Path, tmp_path: Path) -> None:
    convert.run(made, tmp_path / "hdf", workers=1, layout="published", progress=False)
    for number, part in enumerate(PARTS):
        content = scene(seed=number, zenith=(30, 60) if part == "day" else (85, 100))
        refs, rads = sen3_files.expected(content, sen3_files.FACTORS if number < 3 else (1.0,) * 6)
        with h5py.File(tmp_path / "hdf" / part / hdf_name(number)) as file:
            np.testing.assert_allclose(file["refs"][...], refs, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(file["rads"][...], rads, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(file["bayes"][..., 0], content.bayes)
            np.testing.assert_array_equal(file["summary"][..., 0], (content.confidence & MASKS["summary_cloud"]) > 0)
            assert file.attrs["baseline"] == ("003" if number < 3 else "005")


def test_both_layouts_read_as_the_same_frame(made: Path, tmp_path: Path) -> None:
    convert.run(made, tmp_path / "a", workers=1, progress=False)
    convert.run(made, tmp_path / "b", workers=1, layout="published", progress=False)
    for one, other in zip(hdf.list_files(tmp_path / "a"), hdf.list_files(tmp_path / "b"), strict=True):
        half, full = hdf.read(one), hdf.read(other)
        np.testing.assert_array_equal(half.refs_hwc, full.refs_hwc.astype(np.float16))
        np.testing.assert_array_equal(half.bts_hwc, full.bts_hwc.astype(np.float16))
        np.testing.assert_array_equal(half.bayes_hw, full.bayes_hw)
        assert {**half.about, "layout": ""} == {**full.about, "layout": ""}


def test_products_are_found_up_to_two_folders_deeper_and_once_each(source: Path, tmp_path: Path) -> None:
    (source / "2019" / "01").mkdir(parents=True)
    (source / "too" / "far" / "down").mkdir(parents=True)
    folders = sorted(path for path in source.iterdir() if path.name.endswith(".SEN3"))
    folders[0].rename(source / "2019" / folders[0].name)
    folders[1].rename(source / "2019" / "01" / folders[1].name)
    folders[2].rename(source / "too" / "far" / "down" / folders[2].name)
    shutil.copytree(folders[3], source / "2019" / folders[3].name)
    (source / "notes.SEN3").write_text("a file")
    found = convert.find_products(source)
    assert [path.name for path in found] == [folders[index].name for index in (0, 1, 3, 4)]
    assert convert.find_products(folders[4]) == [folders[4]]


def test_worker_processes_give_the_same_files(made: Path, tmp_path: Path) -> None:
    convert.run(made, tmp_path / "one", workers=1, progress=False)
    convert.run(made, tmp_path / "two", workers=2, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_complete_outputs_are_kept_and_others_made_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "hdf"
    convert.run(source, target, workers=1, progress=False)
    before = contents(target)
    names = sorted(before)
    os.truncate(target / names[0], 3000)
    (target / names[1]).unlink()
    times = {name: (target / name).stat().st_mtime_ns for name in names[2:]}
    done = convert.run(source, target, workers=1, progress=False)
    assert (done["converted"], done["skipped"], done["day"], done["night"]) == (2, 3, 3, 2)
    assert contents(target) == before
    assert {name: (target / name).stat().st_mtime_ns for name in names[2:]} == times


def test_overwrite_makes_all_again(made: Path, tmp_path: Path) -> None:
    convert.run(made, tmp_path / "hdf", workers=1, progress=False)
    assert convert.run(made, tmp_path / "hdf", workers=1, overwrite=True, progress=False)["converted"] == 5


def test_other_settings_and_changed_products_make_files_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "hdf"

    def converted(**options) -> int:
        return convert.run(source, target, workers=1, progress=False, **options)["converted"]

    assert converted() == 5
    assert converted(adjust="off") == 3, "those of baseline 005 have no adjustment anyway"
    assert converted(adjust="off", rads=True) == 5
    assert converted(adjust="off", layout="published") == 5
    assert converted(adjust="off", layout="published", zeros=True) == 5
    assert converted() == 5
    assert converted() == 0
    time.sleep(0.01)
    (source / name_of(1) / "flags_in.nc").touch()
    assert converted() == 1


def test_product_that_turned_from_night_to_day_moves(source: Path, tmp_path: Path) -> None:
    convert.run(source, tmp_path / "hdf", workers=1, progress=False)

    def lighten(file: h5py.File) -> None:
        file["confidence_in"][...] = file["confidence_in"][...] | MASKS["day"]

    change(source / name_of(1) / "flags_in.nc", lighten)
    done = convert.run(source, tmp_path / "hdf", workers=1, progress=False)
    assert (done["converted"], done["day"], done["night"]) == (1, 4, 1)
    assert (tmp_path / "hdf" / "day" / hdf_name(1)).exists()
    assert not (tmp_path / "hdf" / "night" / hdf_name(1)).exists()


def test_file_left_in_the_other_folder_is_removed(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "hdf"
    convert.run(made, target, workers=1, progress=False)
    before = contents(target)
    for number, part in ((0, "night"), (1, "day")):
        shutil.copy(target / PARTS[number] / hdf_name(number), target / part / hdf_name(number))
    done = convert.run(made, target, workers=1, progress=False)
    assert (done["converted"], done["skipped"], done["day"], done["night"]) == (2, 3, 3, 2)
    assert contents(target) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_products_are_reported_at_the_end_and_all_others_done(source: Path, tmp_path: Path, workers: int) -> None:
    (source / name_of(0) / "S3_radiance_an.nc").unlink()
    os.truncate(source / name_of(2) / "S8_BT_in.nc", 500)
    (source / "S3A_SL_2_LST____.SEN3").mkdir()
    with pytest.raises(RunError, match=r"^3 of 6 products of .* were not converted, the others were: ") as caught:
        convert.run(source, tmp_path / "hdf", workers=workers, progress=False)
    message = str(caught.value)
    assert all(name in message for name in ("S3_radiance_an.nc: the file is missing", "S8_BT_in.nc: can't be read", "S3A_SL_2_LST____"))
    assert "\n" not in message
    names = sorted(f"{PARTS[number]}/{hdf_name(number)}" for number in (1, 3, 4))
    assert sorted(contents(tmp_path / "hdf")) == names


def test_unfinished_files_of_a_killed_run_are_removed(made: Path, tmp_path: Path) -> None:
    for part in ("day", "night"):
        (tmp_path / "hdf" / part).mkdir(parents=True)
        (tmp_path / "hdf" / part / f".{hdf_name(0)}.7.x.partial").write_bytes(b"left behind")
    convert.run(made, tmp_path / "hdf", workers=1, progress=False)
    assert len(contents(tmp_path / "hdf")) == 5


def test_wrong_input_is_refused_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"layout": "new"}, "--layout new: must be one of compact, published"),
        ({"adjust": "maybe"}, "--adjust maybe: must be auto, on, off or six numbers"),
        ({"zeros": True}, "--zeros: goes with --layout published only"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            convert.run(made, tmp_path / "hdf", progress=False, **options)
    with pytest.raises(UserError, match="no such folder"):
        convert.run(tmp_path / "nowhere", tmp_path / "hdf", progress=False)
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"no \.SEN3 products .*extract its archives first"):
        convert.run(tmp_path / "zips", tmp_path / "hdf", progress=False)
    assert not (tmp_path / "hdf").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the folder can't be written"):
        convert.run(made, tmp_path / "file", progress=False)
