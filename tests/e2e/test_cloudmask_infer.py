"""Inference as users run it: killed and continued to the same files, shared by MPI ranks, on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import sen3_files
from tests.cloudmask_masks import mask_files, product_name, read_mask, write_frames, write_model
from tests.conftest import Run, clean_environment
from tests.deepcam_files import mpirun

PRODUCTS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, products, and the masks of an unbroken run."""
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "model.keras")
    write_frames(folder / "hdf", PRODUCTS)
    return folder


@pytest.fixture(scope="module")
def unbroken(world: Path, stormbench: Run) -> dict[str, bytes]:
    done = stormbench("cloudmask", "inference", world / "model.keras", world / "hdf", world / "unbroken", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["predicted"], record["products"]) == (PRODUCTS, PRODUCTS)
    return mask_files(world / "unbroken")


def command(world: Path, output: Path, *more: str) -> list[str]:
    words = (sys.executable, "-m", "stormbench", "cloudmask", "inference", world / "model.keras", world / "hdf", output, *more)
    return [str(word) for word in words]


def test_killed_run_is_finished_to_the_same_files(world: Path, unbroken: dict[str, bytes], tmp_path: Path, stormbench: Run) -> None:
    # a run that was done before it could be killed shows nothing: the next one may be slower
    for attempt in range(5):
        output = tmp_path / f"masks{attempt}"
        words = command(world, output, "--threads=1")
        child = subprocess.Popen(words, start_new_session=True, env=clean_environment(), stderr=subprocess.DEVNULL)
        while child.poll() is None and len(mask_files(output)) < 2:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        before = mask_files(output)
        if len(before) < PRODUCTS:
            break
    assert 2 <= len(before) < PRODUCTS
    assert all(unbroken[name] == content for name, content in before.items())
    (output / f".{product_name(1)}.h5.1.x.partial").write_bytes(b"left behind")
    done = stormbench("cloudmask", "inference", world / "model.keras", world / "hdf", output, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == len(before)
    assert mask_files(output) == unbroken
    assert not list(output.glob(".*.partial"))


def test_mpi_ranks_share_the_products_and_score_all_of_them(world: Path, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    done = mpirun(2, *command(world, tmp_path / "masks", "--json", "--workers=0", "--threads=1"))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    alone = json.loads((world / "unbroken" / "inference.json").read_text())
    assert (record["num_ranks"], record["predicted"]) == (2, PRODUCTS)
    assert record["row"]["num_ranks"] == 2
    assert all(record[name] == alone[name] for name in ("accuracy", "balanced_accuracy", "f1", "counts", "day", "night"))
    assert mask_files(tmp_path / "masks").keys() == unbroken.keys()
    for name in unbroken:
        np.testing.assert_allclose(read_mask(tmp_path / "masks" / name), read_mask(world / "unbroken" / name), rtol=0, atol=1e-5)


def test_raw_and_converted_products_whole_or_in_windows_give_the_same_masks(world: Path, tmp_path: Path, stormbench: Run) -> None:
    for number in range(2):
        sen3_files.write(tmp_path / "raw" / sen3_files.name_of(number), sen3_files.scene(130, 86, seed=number))
    converted = stormbench("cloudmask", "convert-hdf", tmp_path / "raw", tmp_path / "hdf")
    assert converted.returncode == 0, converted.stderr
    ways = {"raw": (tmp_path / "raw", "whole"), "hdf": (tmp_path / "hdf", "whole"), "tiled": (tmp_path / "raw", "48")}
    for name, (data, tile) in ways.items():
        done = stormbench("cloudmask", "inference", world / "model.keras", data, tmp_path / name, "--tile", tile)
        assert done.returncode == 0, done.stderr
    masks = mask_files(tmp_path / "raw")
    assert len(masks) == 2
    assert mask_files(tmp_path / "hdf") == masks
    for name in masks:
        whole, tiled = read_mask(tmp_path / "raw" / name), read_mask(tmp_path / "tiled" / name)
        assert (whole.shape, whole.dtype) == ((1, 130, 86, 1), np.float32)
        np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


def test_two_runs_at_once_leave_whole_masks(world: Path, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "masks"
    environment = clean_environment()
    runs = [subprocess.Popen(command(world, output, "--threads=1"), env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(timeout=240) for run in runs] == [0, 0]
    assert mask_files(output) == unbroken
    assert json.loads((output / "inference.json").read_text())["products"] == PRODUCTS
    assert not list(output.glob(".*.partial"))


def test_broken_product_is_named_with_code_1_and_the_others_are_done(world: Path, unbroken: dict, tmp_path: Path, stormbench: Run) -> None:
    shutil.copytree(world / "hdf", tmp_path / "hdf")
    broken = next((tmp_path / "hdf").rglob(f"{product_name(3)}.hdf"))
    os.truncate(broken, broken.stat().st_size // 2)
    done = stormbench("cloudmask", "inference", world / "model.keras", tmp_path / "hdf", tmp_path / "masks", "--threads", 1)
    assert done.returncode == 1
    assert f"1 of {PRODUCTS} products of {tmp_path / 'hdf'} have no mask, the others are done: {broken}" in done.stderr
    assert "Traceback" not in done.stderr
    assert mask_files(tmp_path / "masks") == {name: content for name, content in unbroken.items() if product_name(3) not in name}


def test_full_disk_ends_the_run_with_one_sentence_and_no_half_mask(world: Path, tmp_path: Path) -> None:
    # a limit on the size of files stands in for a full disk: the kernel refuses the write in the same way
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "bash", *command(world, tmp_path / "masks", "--workers=0")]
    done = subprocess.run(limited, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{product_name(0)}.h5: " in done.stderr
    assert mask_files(tmp_path / "masks") == {}


def test_summary_for_people_and_mistakes(world: Path, unbroken: dict[str, bytes], stormbench: Run, tmp_path: Path) -> None:
    done = stormbench("cloudmask", "inference", world / "model.keras", world / "hdf", world / "unbroken")
    assert done.returncode == 0, done.stderr
    assert "0 predicted, 10 were complete, 0 failed" in done.stdout
    assert "against the Bayesian mask" in done.stdout
    wrong = stormbench("cloudmask", "inference", tmp_path / "no.keras", world / "hdf", tmp_path / "masks")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no.keras: can't be read (no such file or directory); give a trained model" in wrong.stderr
