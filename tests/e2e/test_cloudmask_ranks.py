"""Training on several ranks: the same numbers as on one, every patch once, and no rank that waits in vain for another.

Ranks of Horovod are those of a real MPI; without Horovod these tests are skipped, and TensorFlow's own strategies are tested alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stormbench.core.verdict import read_events
from tests.cloudmask_files import mpirun, needs_horovod, write_uneven_products
from tests.conftest import BIN, clean_environment, metrics, record

pytest.importorskip("tensorflow")

GLOBAL_BATCH, N_PRODUCTS = 12, 7
MORE = ("--patch-size", 32, "--clip-offset", 4, "--width", 0.1, "--epochs", 2, "--split", "random", "--logging_frequency", 1,
        "--intra_threads", 1, "--timeout", 120)  # fmt: skip

PROGRAM = """
import sys
import numpy as np
from stormbench import cli
from stormbench.cloudmask import adam, assemble, data, strategies
from stormbench.core.errors import RunError

what, target = sys.argv[1:3]
if what == "hidden":
    # an import of a name that is None fails, and so does a look for its package
    sys.modules["horovod"] = None
if what == "apart":
    # every rank keeps its own gradients: what Horovod's optimizer wrappers do under Keras 3
    strategies.Horovod.add_up = lambda self, tensors: tensors
kept = []
build = assemble.build
def building(config, origins, world, found):
    parts, notes = build(config, origins, world, found)
    kept.append((parts, world))
    if what == "broken" and world.rank == 1:
        read, count = data.PatchSet.read_product, []
        def broken(self, position):
            count.append(position)
            if len(count) > 6:
                raise RunError(f"{self.products[position].header.path}: is broken")
            return read(self, position)
        data.PatchSet.read_product = broken
    return parts, notes
assemble.build = building
code = cli.main(sys.argv[3:])
parts, world = kept[0]
np.savez(f"{target}/rank{world.rank}.npz", *adam.values(parts.weights))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "hdf"
    write_uneven_products(folder, N_PRODUCTS)
    return folder


def words(products: Path, output: Path, ranks: int, *more: object) -> list[str]:
    local = GLOBAL_BATCH // ranks
    return [str(word) for word in ("cloudmask", "train", products, output, "--run_tag", "run", "--batch-size", local, *MORE, *more)]


def run(launcher: list[str], command: list[str], *program: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", PROGRAM, *program] if program else [sys.executable, "-m", "stormbench"]
    return subprocess.run([*launcher, *start, *command], capture_output=True, text=True, timeout=400, env=clean_environment(), check=False)


def weights(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "checkpoints" / "cloudmask_1.npz") as file:
        return [file[f"weight_{number}"] for number in range(sum(name.startswith("weight_") for name in file.files))]


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value of its tensor."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def one(products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one")
    done = run([], words(products, output, 1))
    assert done.returncode == 0, done.stderr
    return output / "run"


def assert_same(folder: Path, one: Path) -> None:
    assert difference(weights(folder), weights(one)) < 1e-5
    for mine, theirs in zip(metrics(folder, "epoch"), metrics(one, "epoch"), strict=True):
        for name in ("train_patches", "test_patches", "train_pixels", "test_pixels", "step"):
            assert mine[name] == theirs[name], name
        for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3), name
    assert metrics(one, "epoch")[0]["train_patches"] % GLOBAL_BATCH, "the files are to be uneven"


@needs_horovod
def test_ranks_of_horovod_train_to_the_weights_of_one_rank(products: Path, one: Path, tmp_path: Path) -> None:
    ranks = 3
    launcher = mpirun(ranks)
    assert launcher
    done = run(launcher, words(products, tmp_path, ranks, "--strategy", "horovod"), "whole", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    held = [[file[name] for name in file.files] for file in (np.load(tmp_path / f"rank{rank}.npz") for rank in range(ranks))]
    for other in held[1:]:
        assert difference(other, held[0]) == 0
    kept = record(tmp_path / "run")
    assert (kept["strategy"], kept["world_size"], kept["global_batch_size"]) == ("horovod", ranks, GLOBAL_BATCH)
    values = {event["key"]: event["value"] for event in read_events(tmp_path / "run" / "result_1.txt")}
    assert (values["number_of_ranks"], values["global_batch_size"]) == (ranks, GLOBAL_BATCH)


@needs_horovod
def test_without_the_averaging_ranks_drift_apart(products: Path, one: Path, tmp_path: Path) -> None:
    launcher = mpirun(2)
    assert launcher
    done = run(launcher, words(products, tmp_path, 2, "--strategy", "horovod", "--epochs", 1), "apart", str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = ([file[name] for name in file.files] for file in (np.load(tmp_path / f"rank{rank}.npz") for rank in range(2)))
    assert difference(first, second) > 1e-3
    assert difference(first, weights(one)) > 1e-3


@needs_horovod
def test_a_rank_that_meets_bad_data_ends_all_with_one_sentence(products: Path, tmp_path: Path) -> None:
    launcher = mpirun(2)
    assert launcher
    command = words(products, tmp_path, 2, "--strategy", "horovod", "--no-cache")
    done = run(launcher, command, "broken", str(tmp_path))
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("stormbench: rank 1: ")
    assert told[0].endswith(".hdf: is broken")
    assert "Traceback" not in done.stderr
    assert_aborted(tmp_path / "run", "is broken")


def assert_aborted(folder: Path, reason: str) -> None:
    last = read_events(folder / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert reason in last["metadata"]["reason"]
    kept = record(folder)
    assert kept["outcome"] == "failed"
    assert reason in kept["trials"]["1"]["reason"]


def started(launcher: list[str], command: list[str], folder: Path, steps: int) -> tuple[subprocess.Popen[str], dict[int, int]]:
    """Start ranks, wait until they have trained some steps, and return the launcher and the ranks' processes by rank."""
    start = [*launcher, sys.executable, "-m", "stormbench", *command]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment())
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 300
    while not path.exists() or path.read_text().count('"kind": "step"') < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks = {}
    for pid in children(process.pid):
        if b"cloudmask\0train" in Path(f"/proc/{pid}/cmdline").read_bytes():
            pairs = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
            ranks[int(pairs["OMPI_COMM_WORLD_RANK"])] = pid
    return process, ranks


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def wait_until_gone(pids: Any) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"processes are left: {list(pids)}"
        time.sleep(0.05)


@needs_horovod
def test_a_killed_rank_ends_the_others_and_fewer_ranks_go_on_to_the_same_weights(products: Path, one: Path, tmp_path: Path) -> None:
    launcher = mpirun(2)
    assert launcher
    command = words(products, tmp_path, 2, "--save_frequency", 1)
    process, ranks = started(launcher, command, tmp_path / "run", 4)
    os.kill(ranks[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    wait_until_gone(ranks.values())
    assert_aborted(tmp_path / "run", "SIGTERM")
    done = run([], words(products, tmp_path, 1))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    values = {event["key"]: event["value"] for event in read_events(tmp_path / "run" / "result_1.txt")}
    assert values["resumed_number_of_ranks"] == 1


@needs_horovod
def test_horovodrun_with_gloo_trains_to_the_weights_of_one_rank(products: Path, one: Path, tmp_path: Path) -> None:
    path = shutil.which("horovodrun", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert path, "Horovod brings horovodrun"
    done = run([path, "--gloo", "-np", "2", "-H", "localhost:2"], words(products, tmp_path, 2), "whole", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    first, second = ([file[name] for name in file.files] for file in (np.load(tmp_path / f"rank{rank}.npz") for rank in range(2)))
    assert difference(first, second) == 0
    told = record(tmp_path / "run")["notes"][1:]
    assert any(note.startswith("horovod: ") and "horovodrun: HOROVOD_RANK=0" in note and "Gloo controller" in note for note in told), told


@needs_horovod
def test_the_gloo_controller_serves_ranks_of_mpirun_too(products: Path, one: Path, tmp_path: Path) -> None:
    launcher = mpirun(2)
    assert launcher
    done = run([*launcher, "-x", "HOROVOD_CONTROLLER=gloo"], words(products, tmp_path, 2, "--strategy", "horovod"))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    assert any("by its Gloo controller" in note for note in record(tmp_path / "run")["notes"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_horovod_several_ranks_train_by_tensorflows_workers(products: Path, one: Path, tmp_path: Path) -> None:
    launcher = [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
    done = run(launcher, words(products, tmp_path, 2), "hidden", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    assert record(tmp_path / "run")["strategy"] == "multiworker"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0.npz", "rank1.npz", "run"]
    assert any("multiworker: 2 ranks, and Horovod isn't installed" in note for note in record(tmp_path / "run")["notes"])


def test_several_ranks_with_no_strategy_are_refused_once(products: Path, tmp_path: Path) -> None:
    launcher = [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
    done = run(launcher, words(products, tmp_path, 2, "--strategy", "none"))
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(told) == 1, done.stderr
    assert "--strategy none: is for one process, but openmpi started 2" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_the_devices_of_one_process_train_to_the_weights_of_one(products: Path, one: Path, tmp_path: Path) -> None:
    done = run([], words(products, tmp_path, 3, "--replicas", 3))
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    assert (record(tmp_path / "run")["strategy"], record(tmp_path / "run")["world_size"]) == ("mirrored", 3)


@needs_horovod
def test_wrong_input_is_told_once_and_not_by_every_rank(products: Path, tmp_path: Path) -> None:
    launcher = mpirun(2)
    assert launcher
    done = run(launcher, words(products, tmp_path, 2, "--patch-size", 128))
    assert done.returncode == 2
    assert done.stderr.count("has no patch of this size") == 1
    assert "Traceback" not in done.stderr
