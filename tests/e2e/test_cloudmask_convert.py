"""The conversion as a program: alone, under mpirun, on a full disk, and killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stormbench.cloudmask import convert
from tests import sen3_files
from tests.conftest import clean_environment
from tests.deepcam_files import mpirun
from tests.sen3_files import name_of, scene

COUNT = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products large enough that a run can be caught in the middle."""
    folder = tmp_path_factory.mktemp("made") / "products"
    content = scene(400, 500)
    for number in range(COUNT):
        content.light += np.where(content.light == sen3_files.FILL, 0, 1).astype(np.int16)
        sen3_files.write(folder / name_of(number), content)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed conversion of one process writes."""
    target = tmp_path_factory.mktemp("whole") / "hdf"
    convert.run(source, target, workers=1, progress=False)
    return contents(target)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "stormbench.cloudmask.convert", *map(str, words)]


def program(*words: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, *command(*words)], capture_output=True, text=True, env=clean_environment(), check=False, timeout=240)


def test_two_mpi_ranks_share_the_products_and_only_rank_0_speaks(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    done = mpirun(2, *command(source, tmp_path / "hdf"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{COUNT} converted, 0 were complete, {COUNT} by day and 0 by night, in {tmp_path / 'hdf'}"]
    assert contents(tmp_path / "hdf") == whole


def test_mpi_ranks_report_a_broken_product_once_and_fail(source: Path, tmp_path: Path) -> None:
    for folder in source.iterdir():
        (tmp_path / "in" / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (tmp_path / "in" / folder.name / path.name).symlink_to(path)
    (tmp_path / "in" / name_of(1) / "S2_quality_an.nc").unlink()
    done = mpirun(2, *command(tmp_path / "in", tmp_path / "hdf"))
    assert done.returncode == 1
    assert done.stderr.count(f"convert: 1 of {COUNT} products of {tmp_path / 'in'} were not converted") == 1
    assert "Traceback" not in done.stderr
    assert len(contents(tmp_path / "hdf")) == COUNT - 1


def test_run_killed_in_the_middle_is_resumed_to_the_same_bytes(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    target = tmp_path / "hdf"
    words = command(source, target, "--workers=2")
    child = subprocess.Popen(words, start_new_session=True, env=clean_environment(), stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list(target.glob("day/*.hdf"))) < 2:
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    finished = list(target.glob("day/*.hdf"))
    assert 2 <= len(finished) < COUNT, "it was done before it could be killed: make the products larger"
    for path in finished:
        assert path.read_bytes() == whole[str(path.relative_to(target))]
    done = program(source, target)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT - len(finished)} converted, {len(finished)} were complete" in done.stdout
    assert contents(target) == whole


def test_two_conversions_at_once_do_not_disturb_each_other(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    words = command(source, tmp_path / "hdf", "--overwrite", "--workers=1")
    both = [subprocess.Popen(words, env=clean_environment(), stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert contents(tmp_path / "hdf") == whole


def test_full_disk_ends_the_run_with_one_sentence_and_no_half_file(source: Path, tmp_path: Path) -> None:
    # a limit on the size of files stands in for a full disk: the kernel refuses the write in the same way
    limited = ("bash", "-c", 'trap "" XFSZ; ulimit -f 1000; exec "$@"', "bash")
    done = program(source, tmp_path / "hdf", "--workers=1", prefix=limited)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ".hdf: can't be written (file too large)" in done.stderr
    assert contents(tmp_path / "hdf") == {}


def test_mistakes_on_the_command_line_end_with_code_2(source: Path, tmp_path: Path) -> None:
    done = program(source, tmp_path / "hdf", "--layuot=compact")
    assert done.returncode == 2
    assert "--layuot is not an option of this command; did you mean --layout?" in done.stderr
    done = program(source, tmp_path / "hdf", "--adjust=sometimes")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "hdf").exists()
