"""run.sub as users submit it, under a real Slurm of four nodes: from a sourced config to judged results, whatever happens on the way."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.verdict import judge, read_events
from tests.cluster.slurm import Cluster, processes_with, wait_until
from tests.conftest import metrics, record
from tests.e2e.test_train import assert_same_weights

ROOT = Path(__file__).parents[2]
RUN_SUB = ROOT / "run.sub"
SYSTEM = """\
# A test system: nodes of four cores with two fake GPUs each. Runs at a twentieth of the network's width on generated frames.
export DGXSYSTEM=EMU DGXNNODES=2 DGXNGPU=2 LOCAL_BATCH_SIZE=2 WALLTIME=10 SEED=40 NEXP=1
export STORMBENCH_GPUS_PER_NODE=2 STORMBENCH_GPU_VENDOR=nvidia STORMBENCH_CORES_PER_NODE=4 STORMBENCH_CORES_PER_RANK=1
export SBATCH_GPUS=$((DGXNNODES * DGXNGPU)) SBATCH_GPUS_PER_NODE=$DGXNGPU SBATCH_TIMELIMIT=$WALLTIME SBATCH_EXCLUSIVE=exclusive
export STORMBENCH_WIDTH=0.05 MAX_EPOCHS=1 TARGET_IOU=1 OMP_NUM_THREADS=1 MAX_THREADS=1
"""


ONE_RANK_A_NODE = "export DGXNGPU=1 SBATCH_GPUS=2 SBATCH_GPUS_PER_NODE=1\n"
"""Added to a config where two ranks show what four do."""


class Job:
    """One submission of run.sub: its folder, and what came of it."""

    def __init__(self, slurm: Cluster, folder: Path, data: Path, extra: str = "", words: str = "") -> None:
        self.slurm, self.folder = slurm, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config_EMU_2x2x2.sh"
        self.config.write_text(SYSTEM + extra)
        self.output = folder / "job.out"
        self.results = folder / "results"
        exports = f"export DATADIR={shlex.quote(str(data))} LOGDIR={shlex.quote(str(self.results))}"
        self.before = f"source {shlex.quote(str(self.config))} && {exports}"
        self.submit = f"{self.before} && sbatch --parsable --output={shlex.quote(str(self.output))} {words} {shlex.quote(str(RUN_SUB))}"

    def submitted(self) -> str:
        done = self.slurm.run("bash", "-c", self.submit, folder=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def to_the_end(self, state: str = "COMPLETED") -> str:
        """Submit, wait, and return what the job printed."""
        found = self.slurm.ended(self.submitted())
        printed = self.output.read_text()
        assert found == state, printed
        return printed

    def run_folder(self, suffix: str = "") -> Path:
        return next(path for path in self.results.iterdir() if path.is_dir() and path.name.endswith(suffix))


def result_lines(printed: str) -> list[list[str]]:
    return [line.split(",") for line in printed.splitlines() if line.startswith("RESULT,")]


def logged(log: Path, key: str) -> list[Any]:
    return [event["value"] for event in read_events(log) if event["key"] == key]


def assert_only_the_target_is_missed(log: Path) -> None:
    verdict = judge(log)
    assert verdict.verdict == "complete, target missed", verdict
    assert all("eval_accuracy" in complaint for complaint in verdict.complaints)


def state_of(folder: Path) -> list[str]:
    """Return what the job has noted of its trials' ends, its restarts and its own end."""
    beginnings = ("started ", "begun ", "refused ")
    return [line for line in (folder / "job_state").read_text().splitlines() if not line.startswith(beginnings)]


def steps_logged(job: Job, least: int) -> bool:
    """Whether any run of the job has logged that many steps; a job that has ended before will log none."""
    printed = job.output.read_text() if job.output.exists() else ""
    assert "exit code" not in printed, printed
    files = job.results.glob("*/metrics.jsonl")
    return any(sum('"step"' in line for line in file.read_text().splitlines()) >= least for file in files)


def test_a_sourced_config_and_plain_sbatch_run_two_trials_to_their_verdicts(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export NEXP=2 NCCL_TEST=1 CLEAR_CACHES=1\n")
    printed = job.to_the_end()
    assert [line[:3] for line in result_lines(printed)] == [["RESULT", "DEEPCAM", "40"], ["RESULT", "DEEPCAM", "41"]]
    folder = job.run_folder()
    for trial, seed in ((1, 40), (2, 41)):
        log = folder / f"result_{trial}.txt"
        assert_only_the_target_is_missed(log)
        assert logged(log, "seed") == [seed]
        assert (logged(log, "number_of_nodes"), logged(log, "num_workers"), logged(log, "global_batch_size")) == ([2], [4], [8])
        assert (folder / f"trial_{trial}.out").read_text().count("RESULT,") == 1
    assert (folder / "job.sh").read_text() == RUN_SUB.read_text()
    assert state_of(folder) == ["seed 40", "trial 1 seed 40 code 0", "trial 2 seed 41 code 0", "done 0"]
    assert "bus bandwidth" in printed
    # the log must agree with what the script saw on the nodes
    cleared = logged(folder / "result_1.txt", "cache_clear")
    assert cleared == ["cache_clear is logged as false" not in printed]
    assert list(folder.glob(".stop*")) + list(folder.glob(".launcher*")) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [("-N 3 --gpus=6", "3 node(s)"), ("-t 5", "time limit is 00:05:00")],
)
def test_another_allocation_than_the_configs_stops_at_once_with_the_command_to_use(
    slurm: Cluster, data: Path, tmp_path: Path, words: str, why: str
) -> None:
    job = Job(slurm, tmp_path, data, words=words)
    printed = job.to_the_end("FAILED")
    assert why in printed
    assert not job.results.exists(), "nothing may have been started"
    command = re.search(r"use: (sbatch -N 2 -t 10 \S+)$", printed, re.MULTILINE)
    assert command, printed
    tried = slurm.run("bash", "-c", f"{job.before} && {command[1].replace('sbatch', 'sbatch --test-only')}", folder=tmp_path)
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize(
    ("extra", "words", "expected"),
    [
        # a type in one place and none in the other is refused by Slurm itself
        ("unset SBATCH_GPUS SBATCH_GPUS_PER_NODE\nexport STORMBENCH_GPU_REQUEST=gres STORMBENCH_GPU_TYPE=fake\n",
         "-N 2 -c 2 --gres=gpu:fake:1 --exclusive=user", "sbatch --gres=gpu:fake:2 -N 2 -t 10"),
        ("unset SBATCH_GPUS SBATCH_GPUS_PER_NODE\n", "-N 2 -c 2 --exclusive=user", "sbatch --gpus-per-node=2 -N 2 -t 10"),
        ("", "-N 3 --gpus=6 -p other", "sbatch -N 2 -t 10 -p other"),
    ],
)  # fmt: skip
def test_the_command_to_use_asks_for_gpus_as_the_system_does_and_keeps_the_submissions_own_options(
    slurm: Cluster, data: Path, tmp_path: Path, extra: str, words: str, expected: str
) -> None:
    job = Job(slurm, tmp_path, data, extra, words=words)
    printed = job.to_the_end("FAILED")
    command = re.search(rf"use: ({re.escape(expected)} \S+)$", printed, re.MULTILINE)
    assert command, printed
    tried = slurm.run("bash", "-c", f"{job.before} && {command[1].replace('sbatch', 'sbatch --test-only', 1)}", folder=tmp_path)
    assert tried.returncode == 0, tried.stderr


def test_cores_that_the_nodes_do_not_have_are_missed_before_the_first_step(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    printed = Job(slurm, tmp_path, data, "export STORMBENCH_CORES_PER_RANK=3\n").to_the_end("FAILED")
    assert "the job has 4 core(s) of a node, the config needs 6 (2 ranks x 3); that is all of the node" in printed


def test_an_interactive_allocation_of_single_cores_stops_with_the_command_to_use(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "unset SBATCH_EXCLUSIVE\n")
    done = slurm.run("bash", "-c", f"{job.before} && salloc -N 2 -t 10 {shlex.quote(str(RUN_SUB))}", folder=tmp_path)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert "the job has 1 core(s) of a node, the config needs 2 (2 ranks x 1); use: salloc -N 2 -t 10 --exclusive --gpus-per-node=2" in told


def test_without_a_config_it_says_what_to_source(slurm: Cluster, tmp_path: Path) -> None:
    done = slurm.run("sbatch", "--parsable", "--output=job.out", str(RUN_SUB), folder=tmp_path)
    assert slurm.ended(done.stdout.strip()) == "FAILED"
    told = (tmp_path / "job.out").read_text()
    assert told == "stormbench: DGXNNODES is not set; source a config first: source configs/config_X.sh && sbatch run.sub\n"


def test_an_unknown_partition_is_slurms_own_error_at_submission(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export SBATCH_PARTITION=nowhere\n")
    done = slurm.run("bash", "-c", job.submit, folder=tmp_path)
    assert done.returncode != 0
    assert "invalid partition" in done.stderr.lower()


def test_a_path_with_a_space_a_quote_and_a_semicolon(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "it's a; $(folder)", data, ONE_RANK_A_NODE)
    printed = job.to_the_end()
    assert_only_the_target_is_missed(job.run_folder() / "result_1.txt")
    assert f"run folder {job.run_folder()}" in printed


def test_a_trial_that_fails_fails_the_job_though_the_next_one_ends_well(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    broken = program(tmp_path, "if os.environ.get('EXPERIMENT_ID') == '1': sys.exit('the first trial breaks')\n")
    job = Job(slurm, tmp_path, data, ONE_RANK_A_NODE + f"export NEXP=2 PATH={shlex.quote(str(broken))}:$PATH\n")
    printed = job.to_the_end("FAILED")
    assert "1 of 2 trial(s) failed or are non-compliant" in printed
    assert [line[2] for line in result_lines(printed)] == ["41"]
    assert "trial 1 seed 40 code 1" in (job.run_folder() / "job_state").read_text()


def test_input_that_the_workload_refuses_ends_the_job_at_its_first_trial(slurm: Cluster, own_data: Path, tmp_path: Path) -> None:
    (own_data / "stats.h5").unlink()
    printed = Job(slurm, tmp_path, own_data, "export NEXP=3\n").to_the_end("FAILED")
    assert "trial 1: the workload refused its input" in printed
    assert "trial 2 of 3" not in printed


def test_scancel_in_mid_trial_leaves_no_process_and_a_log_that_says_aborted(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export MAX_EPOCHS=2000 LOGGING_FREQUENCY=1\n")
    number = job.submitted()
    wait_until(lambda: steps_logged(job, 2), "no step is logged")
    assert processes_with("SLURM_JOB_ID", number)
    slurm.ask("scancel", number)
    assert slurm.ended(number) == "CANCELLED"
    wait_until(lambda: not processes_with("SLURM_JOB_ID", number), "processes are left")
    folder = job.run_folder()
    last = read_events(folder / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert "trial 1" not in (folder / "job_state").read_text(), "a cancelled trial is not done"


def test_warned_before_its_limit_the_job_queues_itself_again_and_ends_with_the_same_numbers(
    slurm: Cluster, data: Path, tmp_path: Path
) -> None:  # fmt: skip
    long = ONE_RANK_A_NODE + "export MAX_EPOCHS=6 LOGGING_FREQUENCY=1 STORMBENCH_DETERMINISTIC=1 RUN_TAG=run\n"
    whole = Job(slurm, tmp_path / "whole", data, long)
    whole.to_the_end()
    # Slurm's own signal, as near to the start as it will go: a limit of two minutes, a warning 110 s before
    early = "export WALLTIME=2 SBATCH_TIMELIMIT=2 SBATCH_SIGNAL=B:USR1@110 STORMBENCH_WARNING=110\n"
    cut = Job(slurm, tmp_path / "cut", data, long + early)
    cut.config.write_text(cut.config.read_text() + f"export PATH={shlex.quote(str(program(tmp_path, SLOW)))}:$PATH\n")
    number = cut.submitted()
    slurm.release(number, TimeLimit="10")
    assert slurm.ended(number) == "COMPLETED", cut.output.read_text()
    printed = cut.output.read_text()
    assert "the time limit is near" in printed
    assert "continued 1 time(s)" in printed
    assert "no valid MLPerf" in printed
    assert [line[-1] for line in result_lines(printed)] == ["continued=1"]
    assert state_of(cut.results / "run")[1:] == ["restarts 1", "trial 1 seed 40 code 0", "done 0"]
    assert record(cut.results / "run")["trials"]["1"]["attempt"] == 2
    assert_same_weights(whole.results / "run", cut.results / "run")
    same = ("epoch", "iou", "train_loss", "validation_loss", "train_samples")
    first, second = ([{key: line[key] for key in same} for line in metrics(job.results / "run", "epoch")] for job in (whole, cut))
    assert first == second


def test_a_limit_shorter_than_the_usual_warning_does_not_stop_the_job_at_its_start(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    printed = Job(slurm, tmp_path, data, ONE_RANK_A_NODE + "export WALLTIME=4 SBATCH_TIMELIMIT=4\n").to_the_end()
    assert "the time limit is near" not in printed


def test_the_command_of_the_published_kits_works_without_any_variable_of_this_one(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    names = "DGXSYSTEM=X DGXNNODES=2 DGXNGPU=2 WALLTIME=00:04:00 LOCAL_BATCH_SIZE=2 MAX_EPOCHS=1 TARGET_IOU=1 STORMBENCH_WIDTH=0.05"
    says = program(tmp_path, "print('cores of a rank:', os.environ['SLURM_CPUS_PER_TASK'])\n")
    exports = f"export OMP_NUM_THREADS=1 DATADIR={shlex.quote(str(data))} LOGDIR={shlex.quote(str(tmp_path / 'results'))} {names}"
    exports += f" PATH={shlex.quote(str(says))}:$PATH"
    submit = f'{exports} && sbatch --parsable --output=job.out -N ${{DGXNNODES}} -t ${{WALLTIME}} {shlex.quote(str(RUN_SUB))}'
    done = slurm.run("bash", "-c", submit, folder=tmp_path)
    assert slurm.ended(done.stdout.strip()) == "COMPLETED", (tmp_path / "job.out").read_text()
    log = next((tmp_path / "results").glob("*/result_1.txt"))
    assert_only_the_target_is_missed(log)
    assert (logged(log, "num_workers"), logged(log, "number_of_nodes")) == ([4], [2])
    # the ranks share the node's four cores, though nothing says how many it has
    assert (tmp_path / "job.out").read_text().count("cores of a rank: 2\n") == 4


def program(folder: Path, change: str) -> Path:
    """Return a folder with a stormbench that has been changed for its training."""
    (folder / "changed").mkdir()
    path = folder / "changed" / "stormbench"
    lines = [
        "#!/usr/bin/env python3",
        "import os, sys, time",
        "from stormbench.cli import entry",
        "if sys.argv[1:3] == ['deepcam', 'train']:",
    ]
    path.write_text("\n".join([*lines, *("    " + line for line in change.splitlines()), "entry()", ""]))
    path.chmod(0o755)
    return folder / "changed"


SLOW = """\
from stormbench.deepcam import trainer
one_epoch = trainer.Trainer._train_epoch
def waits(self):
    time.sleep(4)
    return one_epoch(self)
trainer.Trainer._train_epoch = waits
"""


def test_weak_scaling_runs_two_models_side_by_side_each_with_its_seed_log_and_result(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export TRAINING_INSTANCE_SIZE=2\n")
    printed = job.to_the_end()
    assert sorted(line[2] for line in result_lines(printed)) == ["40", "41"]
    times = []
    for suffix, seed in (("-i1", 40), ("-i2", 41)):
        log = job.run_folder(suffix) / "result_1.txt"
        assert_only_the_target_is_missed(log)
        assert (logged(log, "seed"), logged(log, "num_workers"), logged(log, "number_of_nodes")) == ([seed], [2], [1])
        times.append([next(e["time_ms"] for e in read_events(log) if e["key"] == key) for key in ("init_start", "run_stop")])
    assert max(begin for begin, _ in times) < min(end for _, end in times), "the models did not train at the same time"
    hosts = {record(job.run_folder(suffix))["host"]["name"] for suffix in ("-i1", "-i2")}
    assert len(hosts) == 2


def test_torchrun_on_each_node_is_another_launcher_of_the_same_ranks(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export STORMBENCH_LAUNCHER=torchrun\n")
    job.to_the_end()
    log = job.run_folder() / "result_1.txt"
    assert_only_the_target_is_missed(log)
    assert (logged(log, "num_workers"), logged(log, "number_of_nodes")) == ([4], [2])
    assert any("torchrun: RANK=0" in note for note in record(job.run_folder())["notes"])


def test_an_array_gives_each_job_its_seed_and_folder(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, ONE_RANK_A_NODE + "unset SEED\nexport STORMBENCH_SEEDS='7 9'\n", words="--array=1-2")
    number = job.submitted()
    wait_until(lambda: not slurm.ask("squeue", "--noheader", f"--jobs={number}"), "the array doesn't end")
    seeds = sorted(logged(path, "seed")[0] for path in job.results.glob("*/result_1.txt"))
    assert seeds == [7, 9]
    assert len(list(job.results.iterdir())) == 2


def test_a_dependency_waits_for_success(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    first = Job(slurm, tmp_path / "first", data, ONE_RANK_A_NODE)
    number = first.submitted()
    second = Job(slurm, tmp_path / "second", data, ONE_RANK_A_NODE, words=f"--dependency=afterok:{number}")
    after = second.submitted()
    assert slurm.state(after) == "PENDING"
    assert slurm.ended(after) == "COMPLETED"
    ended = next(e["time_ms"] for e in read_events(first.run_folder() / "result_1.txt") if e["key"] == "run_stop")
    begun = next(e["time_ms"] for e in read_events(second.run_folder() / "result_1.txt") if e["key"] == "init_start")
    assert ended < begun


@pytest.mark.parametrize(
    "allocate",
    ["salloc --exclusive -N2 -t 10 --gpus-per-node=1", "srun --exclusive -N2 --ntasks-per-node=1 -t 10 --gpus-per-node=1 --pty"],
)
def test_it_runs_inside_an_interactive_allocation(slurm: Cluster, data: Path, tmp_path: Path, allocate: str) -> None:
    job = Job(slurm, tmp_path, data, ONE_RANK_A_NODE)
    # script gives srun --pty the terminal that a user has
    command = f"{job.before} && {allocate} {shlex.quote(str(RUN_SUB))}"
    done = slurm.run("script", "-qec", f"bash -c {shlex.quote(command)}", "/dev/null", folder=tmp_path)
    assert "all 1 trial(s) done" in done.stdout, done.stdout
    assert_only_the_target_is_missed(job.run_folder() / "result_1.txt")


def test_an_allocation_without_gpus_is_no_slow_run_on_cpus_but_the_command_to_use(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data)
    done = slurm.run("bash", "-c", f"{job.before} && salloc --exclusive -N2 -t 10 {shlex.quote(str(RUN_SUB))}", folder=tmp_path)
    assert done.returncode == 2
    told = re.search(r"the job has 0 GPU\(s\) of a node, the config needs DGXNGPU=2; use: (salloc .*)$", done.stderr, re.MULTILINE)
    assert told, done.stderr
    # whole nodes come with --exclusive, which this allocation had
    done = slurm.run("bash", "-c", f"{job.before} && {told[1].replace('salloc', 'salloc --exclusive')}", folder=tmp_path)
    assert "all 1 trial(s) done" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("made", "told"),
    [("mkdir in", "has neither train/ nor validation/"), ("mkdir -p in/train", "has no stats.h5, which training needs")],
)
def test_init_datasets_refuses_a_folder_that_is_no_data_set(slurm: Cluster, tmp_path: Path, made: str, told: str) -> None:
    command = f"{made} && DATA_IN=in DATA_OUT=out sbatch --parsable --output=init.out {shlex.quote(str(ROOT / 'init_datasets.sub'))}"
    done = slurm.run("bash", "-c", command, folder=tmp_path)
    assert slurm.ended(done.stdout.strip()) == "FAILED"
    assert told in (tmp_path / "init.out").read_text()
    assert not (tmp_path / "out").exists()


def test_init_datasets_converts_once_and_finishes_what_was_interrupted(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    exports = f"export DATA_IN={shlex.quote(str(data))} DATA_OUT={shlex.quote(str(tmp_path / 'numpy'))} NUM_TASKS=2 STORMBENCH_MPI=pmix"
    command = f"{exports} && sbatch --parsable --exclusive -N 2 --output=init.out {shlex.quote(str(ROOT / 'init_datasets.sub'))}"

    def converted() -> dict[str, int]:
        done = slurm.run("bash", "-c", command, folder=tmp_path)
        assert slurm.ended(done.stdout.strip()) == "COMPLETED", (tmp_path / "init.out").read_text()
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "numpy").glob("*/*.npy")}

    first = converted()
    assert len(first) == 2 * sum(1 for _ in data.glob("[tv]*/data-*.h5"))
    lost = min((tmp_path / "numpy" / "train").glob("data-*.npy"))
    lost.unlink()
    second = converted()
    again = {name.split("-", 1)[1] for name, time in second.items() if time != first[name]}
    assert again == {lost.name.removeprefix("data-")}, "only the sample that was lost is made again"
    assert (tmp_path / "numpy" / "stats.h5").read_bytes() == (data / "stats.h5").read_bytes()


def test_submit_status_logs_and_cancel(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, data, "export MAX_EPOCHS=2000 LOGGING_FREQUENCY=1\n")

    def stormbench(*words: str) -> Any:
        return slurm.run("stormbench", *words, folder=tmp_path, DATADIR=str(data), LOGDIR=str(job.results))

    done = stormbench("submit", str(job.config), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wait_until(lambda: steps_logged(job, 2), "no step is logged")
    folder = str(job.run_folder())
    status = stormbench("status", folder)
    assert (status.returncode, "RUNNING" in status.stdout) == (0, True), status.stdout + status.stderr
    assert "trial 1 of 1" in stormbench("logs", folder).stdout
    assert stormbench("cancel", folder).returncode == 0
    assert slurm.ended(str(told["job_id"])) == "CANCELLED"
    status = stormbench("status", folder)
    assert (status.returncode, "CANCELLED" in status.stdout) == (1, True), status.stdout + status.stderr
