"""CloudMask under a real Slurm on two nodes: training with Horovod's two controllers, and conversion shared over the ranks of srun."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stormbench.cloudmask import hdf
from tests.cloudmask_files import needs_horovod, write_uneven_products
from tests.cluster.slurm import Cluster, processes_with, wait_until
from tests.conftest import Run, record
from tests.e2e.test_cloudmask_ranks import assert_same

pytest.importorskip("tensorflow")

PROGRAM = (sys.executable, "-m", "stormbench")
GLOBAL_BATCH = 12
FOUR_RANKS = ("srun", "-N2", "--ntasks-per-node=2")
PMIX = ("--mpi=pmix",)
MORE = ("--patch-size", 32, "--clip-offset", 4, "--width", 0.1, "--split", "random", "--logging_frequency", 1, "--intra_threads", 1,
        "--timeout", 120, "--run_tag", "run")  # fmt: skip
NOTING = """
import os, sys
from stormbench import cli
from stormbench.cloudmask import convert

whole = convert._outcome
def noted(task, folder):
    with open("seen", "a") as stream:
        stream.write(f"{os.environ['SLURM_PROCID']} {os.uname().nodename} {folder.name}\\n")
    return whole(task, folder)
convert._outcome = noted
sys.exit(cli.main(sys.argv[1:]))
"""
"""Converts, and notes which rank on which node took which product."""


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cloudmask") / "hdf"
    write_uneven_products(folder, 7)
    return folder


def words(products: Path, output: Path, ranks: int, *more: object) -> tuple[object, ...]:
    return (*PROGRAM, "cloudmask", "train", products, output, "--batch-size", GLOBAL_BATCH // ranks, *MORE, *more)


@pytest.fixture(scope="module")
def one(cluster: Cluster, products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process on one node."""
    output = tmp_path_factory.mktemp("one")
    done = cluster.run("srun", "-n1", *words(products, output, 1, "--epochs", 2), folder=output)
    assert done.returncode == 0, done.stderr
    assert record(output / "run")["strategy"] == "none"
    return output / "run"


def path_of(run: Path) -> str:
    """Return the line in which the run tells how its ranks train together."""
    return next(note for note in record(run)["notes"] if note.startswith(("horovod: ", "multiworker: ")))


@needs_horovod
def test_four_ranks_on_two_nodes_train_to_the_weights_of_one(slurm: Cluster, products: Path, one: Path, tmp_path: Path) -> None:
    done = slurm.run(*FOUR_RANKS, *PMIX, *words(products, tmp_path, 4, "--epochs", 2, "--strategy", "horovod"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    kept = record(tmp_path / "run")
    assert (kept["strategy"], kept["world_size"], kept["nodes"]) == ("horovod", 4, 2)
    assert path_of(tmp_path / "run").endswith("by its MPI controller")
    assert "slurm: SLURM_PROCID=0" in path_of(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@needs_horovod
def test_plain_srun_on_one_node_connects_horovod_by_gloo(slurm: Cluster, products: Path, one: Path, tmp_path: Path) -> None:
    done = slurm.run("srun", "-N1", "-n2", *words(products, tmp_path, 2, "--epochs", 2, "--strategy", "horovod"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    assert path_of(tmp_path / "run").endswith("by its Gloo controller")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@needs_horovod
def test_nodes_that_gloo_can_not_reach_are_named_at_once(slurm: Cluster, products: Path, tmp_path: Path) -> None:
    # as on any Debian machine, the nodes' own names stand for 127.0.1.1 in /etc/hosts
    done = slurm.run("srun", "-N2", "-n2", *words(products, tmp_path, 2, "--strategy", "horovod"), folder=tmp_path)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(told) == 1, done.stderr
    assert "n1 takes its own name for 127.0.1.1" in told[0]
    assert "srun --mpi=pmix" in told[0]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_tensorflows_workers_on_two_nodes_train_to_the_weights_of_one(slurm: Cluster, products: Path, one: Path, tmp_path: Path) -> None:
    command = words(products, tmp_path, 2, "--epochs", 2, "--strategy", "multiworker")
    done = slurm.run("srun", "-N2", "-n2", *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", one)
    assert (record(tmp_path / "run")["strategy"], record(tmp_path / "run")["nodes"]) == ("multiworker", 2)


@needs_horovod
def test_a_signal_stops_all_ranks_with_75_and_the_same_srun_goes_on_to_the_same_numbers(
    slurm: Cluster, products: Path, one: Path, tmp_path: Path
) -> None:
    command = ("srun", "-N2", "-n2", "--job-name=stopped", *PMIX, *words(products, tmp_path, 2, "--epochs", 2))
    process = slurm.start(*command, folder=tmp_path)
    job = slurm.job_named("stopped")
    path = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: process.poll() is not None or (path.exists() and '"kind": "step"' in path.read_text()), "no step is trained")
    slurm.ask("scancel", "--signal=USR1", job)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert record(tmp_path / "run")["outcome"] == "stopped"
    assert len([line for line in stderr.splitlines() if "continues it" in line]) == 1, "one rank tells it for all"
    done = slurm.run(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "run")["trials"]["1"]["attempt"] == 2
    assert_same(tmp_path / "run", one)


@needs_horovod
def test_scancel_ends_every_rank_and_the_run_says_so(slurm: Cluster, products: Path, tmp_path: Path) -> None:
    process = slurm.start(
        "srun", "-N2", "-n2", "--job-name=cancelled", *PMIX, *words(products, tmp_path, 2, "--epochs", 1000), folder=tmp_path
    )
    job = slurm.job_named("cancelled")
    path = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: process.poll() is not None or (path.exists() and '"kind": "step"' in path.read_text()), "no step is trained")
    slurm.ask("scancel", job)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    wait_until(lambda: not processes_with("SLURM_JOB_ID", job), "ranks are left")
    assert record(tmp_path / "run")["outcome"] in ("stopped", "failed")


def test_the_ranks_of_srun_share_the_products_to_convert(slurm: Cluster, stormbench: Run, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    made = stormbench("cloudmask", "synth", tmp_path / "sen3", "--products", 5, "--height", 32, "--width", 48)
    assert made.returncode == 0, made.stderr
    command = ("cloudmask", "convert-hdf", tmp_path / "sen3", tmp_path / "hdf")
    done = slurm.run("srun", "-N2", "--ntasks-per-node=2", *PMIX, sys.executable, "-c", NOTING, *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    names = sorted(path.name for path in (tmp_path / "sen3").glob("*.SEN3"))
    assert sorted(name for _, _, name in seen) == names, "each product is converted once"
    assert {rank for rank, _, _ in seen} == {"0", "1", "2", "3"}
    assert {node for _, node, _ in seen} == {"n1", "n2"}
    # the same files as one process makes
    alone = stormbench("cloudmask", "convert-hdf", tmp_path / "sen3", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    for path in hdf.list_files(tmp_path / "alone"):
        other = tmp_path / "hdf" / path.relative_to(tmp_path / "alone")
        first, second = hdf.read(path), hdf.read(other)
        np.testing.assert_array_equal(first.refs_hwc, second.refs_hwc)
        np.testing.assert_array_equal(first.bts_hwc, second.bts_hwc)
    assert len(hdf.list_files(tmp_path / "hdf")) == len(names) == 5
