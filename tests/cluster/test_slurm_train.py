"""Training under a real Slurm, on two nodes with networks of their own, started as users start it: srun, sbatch, mpirun in a job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.verdict import judge, read_events
from tests.cluster.slurm import Cluster, processes_with, wait_until
from tests.conftest import metrics, record
from tests.e2e.test_train import assert_same_weights, train_words, wait_for_steps

PROGRAM = (sys.executable, "-m", "stormbench")
FOUR_RANKS = ("srun", "-N2", "--ntasks-per-node=2")
EPOCH = ("--max_epochs", 1, "--target_iou", 1)
LONG = ("--max_epochs", 8, "--target_iou", 1, "--local_batch_size", 1, "--logging_frequency", 1)
SCRIPT = Path(__file__).parents[2] / "run_and_time.sh"


def wire_path(run: Path) -> str:
    """Return the line in which the run tells how its ranks met."""
    return next(note for note in record(run)["notes"] if note.startswith("auto: "))


def logged(run: Path, key: str) -> list[Any]:
    return [event["value"] for event in read_events(run / "result_1.txt") if event["key"] == key]


def logged_at(run: Path, key: str) -> int:
    return next(event["time_ms"] for event in read_events(run / "result_1.txt") if event["key"] == key)


def assert_complete(run: Path, *, ranks: int, nodes: int) -> None:
    """The run's record, its log and the official checker agree that this many ranks trained to the end."""
    kept = record(run)
    assert (kept["world_size"], kept["nodes"], kept["outcome"]) == (ranks, nodes, "target missed")
    assert logged(run, "number_of_nodes") == [nodes]
    assert logged(run, "num_workers") == [ranks]
    verdict = judge(run / "result_1.txt")
    assert verdict.verdict == "complete, target missed"
    assert all("eval_accuracy" in complaint for complaint in verdict.complaints)
    assert list(run.parent.glob(".rendezvous*")) == []


def words_of_shell(*words: object) -> str:
    return shlex.join(map(str, words))


def batch(slurm: Cluster, folder: Path, script: str, tasks_per_node: int = 2, **environ: str) -> str:
    """Run a job script on two nodes to its end, and return what it printed."""
    (folder / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
    submit = ("sbatch", "--parsable", "-N2", f"--ntasks-per-node={tasks_per_node}", "--output=job.out", "job.sh")
    submitted = slurm.run(*submit, folder=folder, **environ)
    assert submitted.returncode == 0, submitted.stderr
    state = slurm.ended(submitted.stdout.strip())
    printed = (folder / "job.out").read_text()
    assert state == "COMPLETED", printed
    return printed


@pytest.fixture(scope="module")
def unbroken(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four ranks on two nodes by plain srun."""
    output = tmp_path_factory.mktemp("unbroken")
    done = cluster.run(*FOUR_RANKS, *PROGRAM, *train_words(data, output, *LONG), folder=output)
    assert done.returncode == 0, done.stderr
    (output / "stderr").write_text(done.stderr)
    return output / "run"


def test_the_two_nodes_are_two_hosts(slurm: Cluster, tmp_path: Path) -> None:
    done = slurm.run(*FOUR_RANKS, "sh", "-c", "echo $(hostname) $(readlink /proc/self/ns/net)", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [line.split() for line in done.stdout.splitlines()]
    assert sorted(name for name, _ in seen) == ["n1", "n1", "n2", "n2"]
    assert len({network for _, network in seen}) == 2


def test_four_ranks_of_plain_srun_find_each_other_over_the_network(unbroken: Path) -> None:
    assert_complete(unbroken, ranks=4, nodes=2)
    path = wire_path(unbroken)
    assert "gloo on CPU, 4 ranks on 2 nodes" in path
    assert "slurm: SLURM_PROCID=0" in path
    assert record(unbroken)["host"]["name"] == "n1"


def test_four_ranks_of_srun_with_pmix_find_each_other(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    only_with_pmix = ("sh", "-c", '[ -n "$PMIX_RANK" ] && exec "$0" "$@"')
    done = slurm.run(*FOUR_RANKS, "--mpi=pmix", *only_with_pmix, *PROGRAM, *train_words(data, tmp_path, *EPOCH), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_complete(tmp_path / "run", ranks=4, nodes=2)


def test_a_job_script_that_sets_nothing_runs_by_run_and_time(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    environ = {"DATADIR": str(data), "LOGDIR": str(tmp_path), "STORMBENCH_WIDTH": "0.05", "MAX_EPOCHS": "1", "RUN_TAG": "run", "SEED": "77",
               "LOCAL_BATCH_SIZE": "2", "TARGET_IOU": "1"}  # fmt: skip
    printed = batch(slurm, tmp_path, f"srun {SCRIPT}", **environ)
    assert_complete(tmp_path / "run", ranks=4, nodes=2)
    assert [line.split(",")[:3] for line in printed.splitlines() if line.startswith("RESULT")] == [["RESULT", "DEEPCAM", "77"]]


def test_the_batch_shell_itself_is_one_process_whatever_tasks_the_job_has(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    words = train_words(data, tmp_path, *EPOCH)
    printed = batch(slurm, tmp_path, f"echo tasks $SLURM_NTASKS rank $SLURM_PROCID\nexec {words_of_shell(*PROGRAM, *words)}")
    assert "tasks 4 rank 0" in printed
    assert_complete(tmp_path / "run", ranks=1, nodes=1)


def test_mpirun_in_a_job_of_one_task_per_node_starts_its_own_ranks(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    mpirun = ("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "--map-by", "node", "-np", 3)
    batch(slurm, tmp_path, words_of_shell(*mpirun, *PROGRAM, *train_words(data, tmp_path, *EPOCH)), tasks_per_node=1)
    assert_complete(tmp_path / "run", ranks=3, nodes=2)
    assert "openmpi: OMPI_COMM_WORLD_RANK=0" in wire_path(tmp_path / "run")


def test_two_steps_at_once_in_one_job_and_folder_do_not_mix(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    step = ("srun", "-N2", "-n2", "--ntasks-per-node=1", "--exact", *PROGRAM, *train_words(data, tmp_path, *EPOCH))
    one, other = (words_of_shell(*step, "--run_tag", tag, "--seed", seed) for tag, seed in (("one", 5), ("other", 6)))
    batch(slurm, tmp_path, f"{one} & first=$!\n{other}; code=$?\nwait $first && exit $code")
    for tag, seed in (("one", 5), ("other", 6)):
        assert_complete(tmp_path / tag, ranks=2, nodes=2)
        assert logged(tmp_path / tag, "seed") == [seed]
    begun, ended = ([logged_at(tmp_path / tag, key) for tag in ("one", "other")] for key in ("init_start", "run_stop"))
    assert max(begun) < min(ended), "the steps did not run at the same time"


def test_scancel_ends_every_rank_and_the_log_says_aborted(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    words = train_words(data, tmp_path, *LONG, "--max_epochs", 1000)
    process = slurm.start("srun", "-N2", "-n2", "--job-name=cancelled", *PROGRAM, *words, folder=tmp_path)
    job = slurm.job_named("cancelled")
    wait_for_steps(tmp_path / "run", 2)
    assert len(processes_with("SLURM_JOB_ID", job)) >= 2
    slurm.ask("scancel", job)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    wait_until(lambda: not processes_with("SLURM_JOB_ID", job), "ranks are left")
    last = read_events(tmp_path / "run" / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert record(tmp_path / "run")["outcome"] in ("stopped", "failed")


def test_a_signal_before_the_limit_stops_all_ranks_and_the_same_srun_goes_on_to_the_same_bits(
    slurm: Cluster, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    _, _, *words = train_words(data, tmp_path, *LONG)
    command = (*FOUR_RANKS, "--job-name=stopped", SCRIPT, *words)
    process = slurm.start(*command, folder=tmp_path)
    job = slurm.job_named("stopped")
    wait_for_steps(tmp_path / "run", 2)
    slurm.ask("scancel", "--signal=USR1", job)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert record(tmp_path / "run")["outcome"] == "stopped"
    assert len(metrics(tmp_path / "run", "epoch")) < 8
    told = [line for line in stderr.splitlines() if "continues it" in line]
    assert len(told) == 1, "one rank tells it for all"
    assert "--run_tag run continues it" in told[0]
    done = slurm.run(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "run")["trials"]["1"]["attempt"] == 2
    assert_same_weights(unbroken, tmp_path / "run")
    # over four ranks, unlike two, the order of a sum shows in its last bits
    same = ("epoch", "iou", "class_iou", "train_loss", "validation_loss", "train_samples")
    first, second = ([{key: line[key] for key in same} for line in metrics(run, "epoch")] for run in (unbroken, tmp_path / "run"))
    assert first == second
