"""stats.h5: exact figures of all files, whatever their number, format, and the number of processes; broken files are named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.deepcam import summarize
from stormbench.deepcam.data import stats
from tests.conftest import BIN, clean_environment
from tests.deepcam_files import mpirun, write_sample


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray:
    """Five samples in nested folders below tmp_path/in; returns (5, h, w, 16)."""
    rng = np.random.default_rng(4)
    image_nhwc = rng.normal(1e5, 300.0, (5, 20, 30, 16)).astype(np.float32)
    for i, image_hwc in enumerate(image_nhwc):
        write_sample(tmp_path / "in" / ("a" if i % 2 else "b") / f"data-{i}.h5", image_hwc)
    return image_nhwc


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in file["climate"].items()}


def test_figures_are_those_of_all_pixels_in_float64(tmp_path: Path, images: np.ndarray) -> None:
    summarize.run(tmp_path / "in", workers=1, progress=False)
    found, values = read(tmp_path / "in" / "stats.h5"), images.reshape(-1, 16).astype(np.float64)
    assert found["count"] == len(values) and found["count"].dtype == np.int64
    expected = {"mean": values.mean(0), "sqmean": (values**2).mean(0), "minval": values.min(0), "maxval": values.max(0)}
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == ((16,), np.float32)
        np.testing.assert_array_max_ulp(found[name], value.astype(np.float32), maxulp=1)
    np.testing.assert_array_equal(found["minval"], expected["minval"].astype(np.float32))


def test_loader_reads_the_result(tmp_path: Path, images: np.ndarray) -> None:
    summarize.run(tmp_path / "in", workers=1, progress=False)
    np.testing.assert_array_equal(stats.read(tmp_path / "in" / "stats.h5").maxval, images.max(axis=(0, 1, 2)))


@pytest.mark.parametrize("workers", [2, 5])
def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, images: np.ndarray, workers: int) -> None:
    summarize.run(tmp_path / "in", output=tmp_path / "one.h5", workers=1, progress=False)
    summarize.run(tmp_path / "in", output=tmp_path / "many.h5", workers=workers, progress=False)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


def test_bytes_are_the_same_from_numpy_files(tmp_path: Path, images: np.ndarray) -> None:
    for i, image_hwc in enumerate(images):
        np.save(tmp_path / f"data-{i}.npy", image_hwc)
        np.save(tmp_path / f"label-{i}.npy", np.zeros((20, 30), np.int32))
    summarize.run(tmp_path / "in", output=tmp_path / "h5.h5", workers=1, progress=False)
    for i in range(5):
        for h5 in (tmp_path / "in").rglob(f"data-{i}.h5"):
            h5.unlink()
    summarize.run(tmp_path, output=tmp_path / "npy.h5", workers=1, progress=False)
    assert (tmp_path / "h5.h5").read_bytes() == (tmp_path / "npy.h5").read_bytes()


def test_bytes_are_the_same_from_two_mpi_ranks(tmp_path: Path, images: np.ndarray) -> None:
    summarize.run(tmp_path / "in", output=tmp_path / "one.h5", workers=1, progress=False)
    code = f"from stormbench.deepcam import summarize as s; s.run({str(tmp_path / 'in')!r}, output={str(tmp_path / 'two.h5')!r})"
    done = mpirun(2, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_reported_with_file_and_channel(tmp_path: Path, images: np.ndarray, value: float) -> None:
    image_hwc = images[0].copy()
    image_hwc[3, 5, 10] = value
    write_sample(tmp_path / "in" / "b" / "data-7.h5", image_hwc)
    with pytest.raises(RunError, match=r"data-7\.h5: channel 10 \(PRECT\) isn't finite"):
        summarize.run(tmp_path / "in", workers=2, progress=False)
    assert not (tmp_path / "in" / "stats.h5").exists()


def test_truncated_file_is_named(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "in" / "a" / "data-3.h5"
    os.truncate(path, 5000)
    with pytest.raises(RunError, match=r"data-3\.h5: "):
        summarize.run(tmp_path / "in", workers=1, progress=False)


def test_sample_of_other_channels_is_refused(tmp_path: Path) -> None:
    write_sample(tmp_path / "data-0.h5", np.ones((4, 4, 3), np.float32))
    with pytest.raises(RunError, match="has 3 channels, must have 16"):
        summarize.run(tmp_path, workers=1, progress=False)


def test_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data-\*\.h5 or data-\*\.npy files below it"):
        summarize.run(tmp_path, progress=False)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        summarize.run(tmp_path / "nowhere", progress=False)


def test_rerun_replaces_the_result(tmp_path: Path, images: np.ndarray) -> None:
    target = tmp_path / "in" / "stats.h5"
    target.write_bytes(b"half a file")
    summarize.run(tmp_path / "in", workers=1, progress=False)
    assert read(target)["count"] == 5 * 20 * 30


def test_launcher_with_ranks_that_mpi_cannot_see_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    import subprocess

    code = f"from stormbench.deepcam import summarize as s; s.run({str(tmp_path / 'in')!r})"
    environment = clean_environment(SLURM_STEP_NUM_TASKS="4", PATH=str(BIN))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "the launcher started 4 ranks, but mpi4py sees only one" in done.stderr
