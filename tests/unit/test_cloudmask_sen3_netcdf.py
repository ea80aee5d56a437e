"""Files written through h5py are NetCDF-4 to NetCDF's own library and to xarray."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray

from stormbench.cloudmask.netcdf_write import Variable, encode, threads_for

VALUES = np.arange(700 * 90, dtype=np.int16).reshape(700, 90) - 9000
GLOBALS = {"title": "a title", "start_offset": np.int32(7), "empty": "", **{f"note_{n}": "of twenty" for n in range(20)}}


def variables() -> list[Variable]:
    packing = {"scale_factor": 0.01, "add_offset": 283.73, "units": "K"}
    return [
        Variable(name="image", dimensions=("rows", "columns"), values=VALUES, fill=-9000, attributes=packing),
        Variable(name="orphans", dimensions=("rows", "orphan_pixels"), values=VALUES[:, :33], fill=-9000, attributes=packing),
        Variable(name="flux", dimensions=("detectors",), values=np.float32([1, 2, 3, 4])),
        Variable(name="scan", dimensions=(), values=np.array(5, np.int32), attributes={"flag_masks": np.uint8([1, 2, 4])}),
        Variable(name="bits", dimensions=("rows", "columns"), values=(VALUES % 7).astype(np.uint8)),
        Variable(name="cube", dimensions=("times", "rows", "columns"), values=np.zeros((2, 700, 90), np.float32), fill=np.nan),
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("netcdf") / "file.nc"
    path.write_bytes(encode(GLOBALS, variables()))
    return path


def test_netcdf_s_own_library_reads_it(path: Path) -> None:
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        sizes = {name: len(dimension) for name, dimension in file.dimensions.items()}
        assert sizes == {"rows": 700, "columns": 90, "orphan_pixels": 33, "detectors": 4, "times": 2}
        assert list(file.variables) == ["image", "orphans", "flux", "scan", "bits", "cube"]
        assert file["image"].dimensions == ("rows", "columns")
        np.testing.assert_array_equal(file["image"][...], VALUES)
        np.testing.assert_array_equal(file["orphans"][...], VALUES[:, :33])
        np.testing.assert_array_equal(file["bits"][...], VALUES % 7)
        assert (file["scan"][...], file["scan"].dimensions) == (5, ())
        assert file["scan"].flag_masks.tolist() == [1, 2, 4]
        assert (file.title, file.start_offset, file.note_19) == ("a title", 7, "of twenty")
        assert file["image"].chunking() == [600, 90]
        assert file["cube"].chunking() == [1, 600, 90]


def test_netcdf_s_own_library_adds_to_it(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.nc"
    copy.write_bytes(path.read_bytes())
    with netCDF4.Dataset(copy, "a") as file:
        file.createVariable("more", "f4", ("rows",))[:] = 1
    with netCDF4.Dataset(copy) as file:
        assert file["more"][...].sum() == 700


def test_xarray_unpacks_it_and_finds_the_fill(path: Path) -> None:
    with xarray.open_dataset(path) as file:
        assert file.image.dims == ("rows", "columns")
        assert np.isnan(file.image.values[0, 0])
        assert file.image.values[1, 0] == pytest.approx((90 - 9000) * 0.01 + 283.73)
        assert file.attrs["title"] == "a title"


def test_bytes_are_the_same_at_another_time_and_with_other_threads(path: Path) -> None:
    time.sleep(1.1)
    assert encode(GLOBALS, variables(), threads=3) == path.read_bytes()


def test_chunks_are_shuffled_and_deflated_and_hold_no_times(path: Path) -> None:
    with h5py.File(path) as file:
        assert (file["image"].shuffle, file["image"].compression) == (True, "gzip")
        assert h5py.h5g.get_objinfo(file["image"].id).mtime == 0


def test_dimension_of_two_sizes_is_refused() -> None:
    one, other = (Variable(name=name, dimensions=("rows",), values=np.zeros(n)) for name, n in (("a", 3), ("b", 4)))
    with pytest.raises(ValueError, match="b: dimension rows is 4, elsewhere 3"):
        encode({}, [one, other])


def test_processes_share_the_threads_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [threads_for(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
