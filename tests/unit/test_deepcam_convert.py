"""HDF5 to NumPy: exact values in the right layout; broken inputs are named and the rest is done; a killed run is resumed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.core import work
from stormbench.core.errors import RunError, UserError
from stormbench.deepcam import convert
from stormbench.deepcam.data import npy
from tests.conftest import clean_environment
from tests.deepcam_files import mpirun, write_sample

SHAPE = (16, 24, 16)


def sample(index: int, label_type: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([9, index])
    return rng.normal(0, 1e4, SHAPE).astype(np.float32), rng.integers(0, 3, SHAPE[:2]).astype(label_type)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for index in range(6):
        write_sample(tmp_path / "hdf5" / f"data-2000-01-0{index + 1}-00-0.h5", *sample(index))
    return tmp_path / "hdf5"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(source: Path, target: Path, *more: str) -> list[str]:
    module = "stormbench.deepcam.convert"
    return [sys.executable, "-m", module, f"--input_directory={source}", f"--output_directory={target}", *more]


def test_values_and_layout_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    done = convert.run(source, tmp_path / "npy", workers=1, progress=False)
    assert (done["converted"], done["skipped"]) == (6, 0)
    assert len(contents(tmp_path / "npy")) == 12
    for index in range(6):
        image_hwc, label_hw = sample(index)
        data = tmp_path / "npy" / f"data-2000-01-0{index + 1}-00-0.npy"
        label = npy.label_path(data)
        np.testing.assert_array_equal(np.load(data), image_hwc)
        np.testing.assert_array_equal(np.load(label), label_hw)
        assert (np.load(data).dtype, np.load(label).dtype) == (np.float32, np.int64)
        for path, array in ((data, image_hwc), (label, label_hw)):
            np.save(tmp_path / "reference.npy", array)
            assert path.read_bytes() == (tmp_path / "reference.npy").read_bytes()


@pytest.mark.parametrize("options", [{"chunks": (4, 24, 16), "compression": "gzip"}, {"dtype": np.float64}, {"dtype": ">f4"}])
def test_any_storage_of_the_source_gives_the_same_file(source: Path, tmp_path: Path, options: dict) -> None:
    for index, path in enumerate(sorted(source.iterdir())):
        write_sample(tmp_path / "other" / path.name, *sample(index), **options)
    convert.run(source, tmp_path / "a", workers=1, progress=False)
    convert.run(tmp_path / "other", tmp_path / "b", workers=1, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_two_mpi_ranks_share_the_files_and_only_rank_0_speaks(source: Path, tmp_path: Path) -> None:
    convert.run(source, tmp_path / "alone", workers=1, progress=False)
    done = mpirun(2, *command(source, tmp_path / "ranks"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"6 converted, 0 were complete, in {tmp_path / 'ranks'}"]
    assert contents(tmp_path / "ranks") == contents(tmp_path / "alone")


def test_mpi_ranks_report_a_broken_file_once_and_fail(source: Path, tmp_path: Path) -> None:
    broken = sorted(source.iterdir())[1]
    os.truncate(broken, 3000)
    done = mpirun(2, *command(source, tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.count(f"convert: 1 of 6 files of {source} were not converted") == 1
    assert "Traceback" not in done.stderr
    assert len(contents(tmp_path / "out")) == 10


def test_worker_processes_give_the_same_files(source: Path, tmp_path: Path) -> None:
    convert.run(source, tmp_path / "one", workers=1, progress=False)
    convert.run(source, tmp_path / "three", workers=3, progress=False)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["climate/data"][1, 2, 3] = np.nan


def wrong_label(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["climate/labels_0"][1, 2] = 3


def no_labels(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["climate/labels_0"]


def misshapen(path: Path) -> None:
    write_sample(path, np.zeros((16, 16, 16), np.float32))


def few_channels(path: Path) -> None:
    write_sample(path, np.zeros((16, 24, 4), np.float32))


def not_hdf5(path: Path) -> None:
    path.write_text("hello")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize("damage", [nan, wrong_label, no_labels, misshapen, few_channels, not_hdf5, truncated])
@pytest.mark.parametrize("position", [0, 4])
def test_broken_input_is_reported_and_all_others_are_converted(source: Path, tmp_path: Path, damage, position: int) -> None:
    path = sorted(source.iterdir())[position]
    damage(path)
    with pytest.raises(RunError, match=r"1 of 6 files of .* were not converted") as caught:
        convert.run(source, tmp_path / "npy", workers=1, progress=False)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    names = contents(tmp_path / "npy").keys()
    assert len(names) == 10
    assert f"{path.stem}.npy" not in names


def test_complete_outputs_are_kept_and_damaged_ones_redone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "npy"
    convert.run(source, target, workers=1, progress=False)
    before = contents(target)
    times = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    names = sorted(before)
    os.truncate(target / names[0], 1000)
    (target / names[7]).unlink()
    done = convert.run(source, target, workers=1, progress=False)
    assert (done["converted"], done["skipped"]) == (2, 4)
    assert contents(target) == before
    unchanged = [name for name, time_ns in times.items() if (target / name).stat().st_mtime_ns == time_ns]
    assert len(unchanged) == 8


def test_source_that_changed_is_converted_again(source: Path, tmp_path: Path) -> None:
    convert.run(source, tmp_path / "npy", workers=1, progress=False)
    path = sorted(source.iterdir())[2]
    write_sample(path, *sample(99))
    assert convert.run(source, tmp_path / "npy", workers=1, progress=False)["converted"] == 1
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / f"{path.stem}.npy"), sample(99)[0])


def test_overwrite_converts_all_again(source: Path, tmp_path: Path) -> None:
    convert.run(source, tmp_path / "npy", workers=1, progress=False)
    done = convert.run(source, tmp_path / "npy", workers=1, overwrite=True, progress=False)
    assert (done["converted"], done["skipped"]) == (6, 0)


def test_run_killed_in_the_middle_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "hdf5", tmp_path / "npy"
    image_hwc = np.random.default_rng(1).normal(size=(384, 576, 16)).astype(np.float32)
    for index in range(12):
        write_sample(source / f"data-{index:02d}.h5", image_hwc + np.float32(index))
    convert.run(source, tmp_path / "whole", workers=1, progress=False)
    child = subprocess.Popen(command(source, target, "--workers=2"), start_new_session=True, env=clean_environment())
    # a sample is done when both of its files are there
    while child.poll() is None and not any((target / path.name.replace("data", "label")).exists() for path in target.glob("data-*.npy")):
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done_before = {path.name for path in target.glob("*.npy")}
    assert len(done_before) < 24, "it was done before it could be killed: make the files larger"
    for name in done_before:
        assert (target / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (target / ".data-00.npy.1.x.partial").write_bytes(b"left behind")
    done = convert.run(source, target, workers=1, progress=False)
    assert done["skipped"] >= 1
    assert contents(target) == contents(tmp_path / "whole")


def test_unfinished_files_of_a_live_conversion_and_of_others_are_left_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "npy"
    target.mkdir()
    foreign, live = target / ".thesis.partial", target / ".data-x.npy.1.x.partial"
    for path in (foreign, live):
        path.write_bytes(b"being written")
    with open(target / work.LOCK_NAME, "w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        convert.run(source, target, workers=1, progress=False)
    assert live.exists()
    convert.run(source, target, workers=1, progress=False)
    assert not live.exists()
    assert foreign.exists()


def test_two_conversions_at_once_do_not_disturb_each_other(source: Path, tmp_path: Path) -> None:
    both = [subprocess.Popen(command(source, tmp_path / "npy", "--overwrite", "--workers=1"), env=clean_environment()) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    convert.run(source, tmp_path / "alone", workers=1, progress=False)
    assert contents(tmp_path / "npy") == contents(tmp_path / "alone")


def test_worker_that_dies_ends_the_run_with_its_file_and_signal(source: Path) -> None:
    with pytest.raises(RunError, match=r"data-2000-01-0\d.*ended with SIGKILL"):
        work.share(os_kill, sorted(source.iterdir()), team=work.Team(), what="die", workers=2, progress=False)


def os_kill(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_statistics_are_copied_to_the_place_where_the_loader_looks(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    source.rename(tmp_path / "cam" / "train")
    (tmp_path / "cam" / "stats.h5").write_bytes(b"statistics")
    convert.run(tmp_path / "cam" / "train", tmp_path / "npy" / "train", workers=1, progress=False)
    assert (tmp_path / "npy" / "stats.h5").read_bytes() == b"statistics"
    (tmp_path / "cam" / "train" / "stats.h5").write_bytes(b"inner")
    convert.run(tmp_path / "cam" / "train", tmp_path / "flat", workers=1, progress=False)
    assert (tmp_path / "flat" / "stats.h5").read_bytes() == b"inner"


def test_folder_above_the_sets_is_refused_with_their_names(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    source.rename(tmp_path / "cam" / "train")
    with pytest.raises(UserError, match=r"no data-.* files; convert .*cam/train one by one"):
        convert.run(tmp_path / "cam", tmp_path / "npy", progress=False)
    assert not (tmp_path / "npy").exists()


def test_missing_input_and_unwritable_output_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input_directory .*nowhere: no such file or directory"):
        convert.run(tmp_path / "nowhere", tmp_path / "npy", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_directory .*file: the folder can't be written"):
        convert.run(source, tmp_path / "file", progress=False)


def test_full_disk_ends_the_run_with_one_sentence_and_no_half_file(source: Path, tmp_path: Path) -> None:
    # a limit on the size of files stands in for a full disk: the kernel refuses the write in the same way
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 16; exec "$@"', "bash", *command(source, tmp_path / "npy", "--workers=1")]
    done = subprocess.run(limited, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "data-2000-01-01-00-0.npy: can't be written" in done.stderr
    assert contents(tmp_path / "npy") == {}


def test_unknown_option_ends_with_code_2_and_a_suggestion(source: Path) -> None:
    done = subprocess.run(command(source, source, "--overwirte"), capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 2
    assert "--overwirte is not an option of this command; did you mean --overwrite?" in done.stderr
