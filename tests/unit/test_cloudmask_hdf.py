"""Converted files: both layouts hold what they say and read alike, the public files too; damaged ones are named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.cloudmask import hdf
from stormbench.cloudmask.frame import Frame
from stormbench.core.errors import RunError, UserError
from tests.sen3_files import name_of

STEM = name_of(0).removesuffix(".SEN3")


def frame(height: int = 8, width: int = 12, *, rads: bool = True, seed: int = 0, day: bool = True) -> Frame:
    rng = np.random.default_rng(seed)
    refs, bts, radiances = rng.random((height, width, 6)), 250 + 50 * rng.random((height, width, 3)), 100 * rng.random((height, width, 6))
    for array in (refs, bts, radiances):
        array[rng.random(array.shape) < 0.2] = np.nan
    return Frame(
        refs_hwc=refs.astype(np.float32),
        bts_hwc=bts.astype(np.float32),
        rads_hwc=radiances.astype(np.float32) if rads else None,
        bayes_hw=rng.choice(np.array([0, 1, 2, 12], np.uint8), (height, width)),
        summary_hw=rng.integers(0, 2, (height, width), np.uint8),
        day=day,
        about={"source": f"{STEM}.SEN3", "baseline": "003"},
    )


def equal(found: Frame, due: Frame, *, rtol: float) -> None:
    for name in ("refs_hwc", "bts_hwc"):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_allclose(getattr(found, name), getattr(due, name), rtol=rtol, err_msg=name)
    np.testing.assert_array_equal(found.bayes_hw, due.bayes_hw)
    np.testing.assert_array_equal(found.summary_hw, due.summary_hw)
    assert (found.bayes_hw.dtype, found.summary_hw.dtype, found.day, found.shape) == (np.uint8, np.uint8, due.day, due.shape)


@pytest.mark.parametrize(("layout", "rtol"), [("compact", 2**-11), ("published", 0)])
@pytest.mark.parametrize("height", [1, 8, 250])
def test_written_frames_are_read_back(tmp_path: Path, layout: str, rtol: float, height: int) -> None:
    due = frame(height)
    hdf.write(tmp_path / "x.hdf", due, layout)
    equal(hdf.read(tmp_path / "x.hdf"), due, rtol=rtol)
    assert hdf.read(tmp_path / "x.hdf").rads_hwc is None
    np.testing.assert_allclose(hdf.read(tmp_path / "x.hdf", ["rads"]).rads_hwc, due.rads_hwc, rtol=rtol)
    assert hdf.is_complete(tmp_path / "x.hdf")


def test_compact_layout_is_half_precision_and_bytes_in_chunks(tmp_path: Path) -> None:
    hdf.write(tmp_path / "x.hdf", frame(250, 30, rads=False))
    with h5py.File(tmp_path / "x.hdf") as file:
        assert {name: (data.shape, data.dtype.str) for name, data in file.items()} == {
            "bts": ((250, 30, 3), "<f2"), "refs": ((250, 30, 6), "<f2"), "bayes": ((250, 30, 1), "|u1"), "summary": ((250, 30, 1), "|u1"),
        }  # fmt: skip
        assert all(data.chunks for data in file.values())


def test_published_layout_has_the_types_of_the_public_files(tmp_path: Path) -> None:
    hdf.write(tmp_path / "x.hdf", frame(), "published")
    with h5py.File(tmp_path / "x.hdf") as file:
        assert {name: (data.shape, data.dtype.str, data.chunks) for name, data in file.items()} == {
            "bts": ((8, 12, 3), "<f4", None), "refs": ((8, 12, 6), "<f8", None), "rads": ((8, 12, 6), "<f4", None),
            "bayes": ((8, 12, 1), "<f8", None), "summary": ((8, 12, 1), "<f8", None),
        }  # fmt: skip


def test_full_size_compact_file_has_34_mebibytes(tmp_path: Path) -> None:
    hdf.write(tmp_path / "x.hdf", frame(1200, 1500, rads=False))
    assert 34.2 * 2**20 < (tmp_path / "x.hdf").stat().st_size < 34.6 * 2**20


@pytest.mark.parametrize("layout", hdf.LAYOUTS)
def test_attributes_tell_source_baseline_units_and_fill(tmp_path: Path, layout: str) -> None:
    hdf.write(tmp_path / "x.hdf", frame(), layout)
    with h5py.File(tmp_path / "x.hdf") as file:
        assert (file.attrs["source"], file.attrs["baseline"], file.attrs["layout"], file.attrs["day"]) == (f"{STEM}.SEN3", "003", layout, 1)
        assert [file[name].attrs["units"] for name in ("bts", "refs", "rads")] == ["K", "1", "mW m-2 sr-1 nm-1"]
        assert all(np.isnan(file[name].attrs["_FillValue"]) for name in ("bts", "refs", "rads"))
    about = hdf.read(tmp_path / "x.hdf").about
    assert (about["source"], about["baseline"]) == (f"{STEM}.SEN3", "003")


def test_same_frame_gives_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    for layout in hdf.LAYOUTS:
        hdf.write(tmp_path / "one.hdf", frame(), layout)
        time.sleep(1.1)
        hdf.write(tmp_path / "two.hdf", frame(), layout)
        assert (tmp_path / "one.hdf").read_bytes() == (tmp_path / "two.hdf").read_bytes()


def write_public(path: Path, due: Frame) -> None:
    """Write a file as the public ones are: no attributes, zeros for invalid pixels, 255 for cloud."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["bts"] = np.nan_to_num(due.bts_hwc)
        file["rads"] = np.nan_to_num(due.rads_hwc)
        file["refs"] = np.nan_to_num(due.refs_hwc).astype(np.float64)
        file["bayes"] = (due.bayes_hw[..., None] > 0) * 255.0
        file["summary"] = due.summary_hw[..., None] * 255.0


@pytest.mark.parametrize("part", ["day", "night"])
def test_public_files_are_read(tmp_path: Path, part: str) -> None:
    due = frame(day=part == "day")
    write_public(tmp_path / part / f"{STEM}.hdf", due)
    found = hdf.read(tmp_path / part / f"{STEM}.hdf", [*hdf.FIELDS, "rads"])
    np.testing.assert_array_equal(found.bayes_hw > 0, due.bayes_hw > 0)
    due.bayes_hw = found.bayes_hw
    equal(found, due, rtol=0)
    np.testing.assert_array_equal(np.isnan(found.rads_hwc), np.isnan(due.rads_hwc))
    assert (found.about["source"], found.about["baseline"], found.about["mission"]) == (f"{STEM}.SEN3", "003", "S3A")
    assert hdf.is_complete(tmp_path / part / f"{STEM}.hdf", rads=True)


def test_zeros_on_demand_for_programs_that_cannot_take_nan(tmp_path: Path) -> None:
    hdf.write(tmp_path / "x.hdf", frame(), "published", zeros=True)
    with h5py.File(tmp_path / "x.hdf") as file:
        assert not any(np.isnan(data[...]).any() for data in file.values())
        np.testing.assert_array_equal(file["refs"][...] == 0, np.isnan(frame().refs_hwc))
    equal(hdf.read(tmp_path / "x.hdf"), frame(), rtol=0)
    with pytest.raises(UserError, match="--zeros"):
        hdf.write(tmp_path / "y.hdf", frame(), "compact", zeros=True)


def test_finite_numbers_stay_finite_in_half_precision(tmp_path: Path) -> None:
    bright = frame()
    bright.refs_hwc[0, 0] = [1e5, -1e9, 65504, 0, np.nan, 1e-9]
    hdf.write(tmp_path / "x.hdf", bright)
    np.testing.assert_array_equal(hdf.read(tmp_path / "x.hdf").refs_hwc[0, 0], [65504, -65504, 65504, 0, np.nan, 0])


def test_only_the_fields_asked_for_are_read(tmp_path: Path) -> None:
    hdf.write(tmp_path / "x.hdf", frame(rads=False))
    found = hdf.read(tmp_path / "x.hdf", ["bts", "bayes"])
    assert found.bts_hwc.shape == (8, 12, 3)
    assert found.refs_hwc.shape == (0, 0, 6)
    with pytest.raises(RunError, match="no dataset rads; convert its product again, with radiances"):
        hdf.read(tmp_path / "x.hdf", ["rads"])
    with pytest.raises(UserError, match="salinity: not a field"):
        hdf.read(tmp_path / "x.hdf", ["salinity"])


def test_files_are_listed_sorted_from_flat_and_parted_folders(tmp_path: Path) -> None:
    for name in ("night/a.hdf", "day/b.hdf", "c.hdf", "day/.b.hdf.7.x.partial", "day/notes.txt", ".hidden.hdf", "day/run 2/d.hdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [str(path.relative_to(tmp_path)) for path in hdf.list_files(tmp_path)]
    assert found == ["c.hdf", "day/b.hdf", "day/run 2/d.hdf", "night/a.hdf"]
    with pytest.raises(UserError, match="no such folder"):
        hdf.list_files(tmp_path / "nowhere")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def other_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["bts"]
        file["bts"] = np.zeros((8, 11, 3))


def no_bayes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["bayes"]


def two_dimensions(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["refs"]
        file["refs"] = np.zeros((8, 12))


def text(path: Path) -> None:
    path.write_text("not HDF5")


@pytest.mark.parametrize("damage", [cut, other_shape, no_bayes, two_dimensions, text, os.unlink])
def test_damaged_files_are_named_and_not_complete(tmp_path: Path, damage) -> None:
    path = tmp_path / "x.hdf"
    hdf.write(path, frame())
    damage(path)
    assert not hdf.is_complete(path)
    with pytest.raises(RunError, match=r"x\.hdf: ") as caught:
        hdf.read(path)
    assert "\n" not in str(caught.value)


def test_file_without_its_data_is_not_complete(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf", "w") as file:
        for name, channels in hdf.CHANNELS.items():
            file.create_dataset(name, (200, 12, channels), "f4", chunks=(100, 12, channels))
    assert not hdf.is_complete(tmp_path / "x.hdf")


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    import resource
    import signal

    child = os.fork()
    if child == 0:
        # a limit on the size of files stands in for a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        code = 1
        for size in (512, 16384, 40000):
            for layout in hdf.LAYOUTS:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                try:
                    hdf.write(tmp_path / "x.hdf", frame(100, 120), layout)
                except RunError as error:
                    code = 0 if "x.hdf: can't be written (file too large)" in str(error) else 2
                if code:
                    os._exit(code)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []
