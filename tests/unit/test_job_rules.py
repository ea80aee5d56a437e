"""The rules between a config's values: each breach gets one sentence at the line that causes it, and the limit itself is allowed."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from stormbench.job.findings import ERROR, WARNING, Finding
from stormbench.job.load import load
from stormbench.job.rules.sbatch import slurm_seconds
from tests.mutations import GOOD, NAME, write_config

Found = Callable[..., tuple[Finding, ...]]
WEAK = "config_TEST_2x1x4x2_weak.sh"
WEAK_CHANGES = {"TRAINING_INSTANCE_SIZE": "4", "GRADIENT_ACCUMULATION_FREQUENCY": "16"}
CPU = {
    "STORMBENCH_GPU_VENDOR": "none", "STORMBENCH_GPUS_PER_NODE": "0", "SBATCH_GPUS": None, "SBATCH_GPUS_PER_NODE": None,
    "PRECISION_MODE": "fp32",
}  # fmt: skip
DOCKER = {"STORMBENCH_RUNTIME": "docker", "STORMBENCH_SCHEDULER": "docker", "CONT": "image"}
LSF = {"STORMBENCH_SCHEDULER": "lsf"}


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Findings of the good config with some variables changed, or removed by None, under another name perhaps."""

    def check(name: str = NAME, /, overrides: dict[str, str] | None = None, **changes: str | None) -> tuple[Finding, ...]:
        path = write_config(tmp_path, name, **changes)
        return load(path, {"PATH": os.environ["PATH"]}, overrides).findings

    return check


def line_of(path: Path, variable: str) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(f"export {variable}="))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param(NAME, {}, id="the good config"),
        pytest.param("config_TEST_2x4x2_tag_two.sh", {}, id="tags"),
        pytest.param(NAME, {"DGXSYSTEM": "TEST_2x4x2"}, id="DGXSYSTEM is the whole stem"),
        pytest.param(WEAK, WEAK_CHANGES, id="weak scaling"),
        pytest.param("config_TEST_2x1x4x2_weak_more.sh", WEAK_CHANGES, id="weak scaling with a tag"),
        pytest.param("config_TEST_1x1x2.sh", {**CPU, "DGXNNODES": "1", "DGXNGPU": "1", "GRADIENT_ACCUMULATION_FREQUENCY": "64",
                     "STORMBENCH_RANK_CORES": None, "STORMBENCH_NICS": None, "WIREUP_METHOD": "dummy"}, id="one rank alone"),
        pytest.param(NAME, {"OMP_NUM_THREADS": "16,2", "MAX_THREADS": "16", "STORMBENCH_NUM_THREADS": "16"}, id="threads to the last core"),
        pytest.param(NAME, {"STORMBENCH_RANK_CORES": "0-3,8-11 4-7 12 16-20"}, id="core lists that interleave"),
        pytest.param(NAME, {"STORMBENCH_NICS": "hsn0"}, id="one card for all"),
        pytest.param(NAME, {"WALLTIME": "720", "SBATCH_TIMELIMIT": "12:00:00"}, id="wall time at the limit"),
        pytest.param(NAME, {"WALLTIME": "61", "SBATCH_TIMELIMIT": "1:00:59"}, id="Slurm's rounding to minutes"),
        pytest.param(NAME, {"SBATCH_GPUS": "a100:8"}, id="GPUs with their type"),
        pytest.param(NAME, {"BATCHNORM_GROUP_SIZE": "8"}, id="batch norm over all ranks"),
        pytest.param(NAME, {"SEED": str(2**32 - 6)}, id="the last seed that leaves room"),
        pytest.param(NAME, {"START_LR": "0.0031"}, id="twice the recipe's rate"),
        pytest.param(NAME, {"START_LR": "0.000775"}, id="half the recipe's rate"),
        pytest.param(NAME, {"OPTIMIZER": "AdamW", "STORMBENCH_WIDTH": "0.25", "START_LR": "1"}, id="a narrow network has no recipe"),
        pytest.param(NAME, {"STORMBENCH_RUNTIME": "pyxis", "CONT": "registry/image:tag"}, id="an image of a registry"),
    ],
)  # fmt: skip
def test_nothing_is_said_of(found: Found, name: str, changes: dict[str, str | None]) -> None:
    assert found(name, **changes) == ()


BREACHES = [
    # file name
    (ERROR, "DGXSYSTEM", "DGXSYSTEM=OTHER, .* says TEST; change DGXSYSTEM to TEST", {"DGXSYSTEM": "OTHER"}),
    (ERROR, None, "DGXSYSTEM is not set, .* says TEST", {"DGXSYSTEM": None}),
    (ERROR, "DGXNNODES", "DGXNNODES=3, .* says 2 nodes; change DGXNNODES to 2, or rename the file to config_TEST_3x4x2.sh",
     {"DGXNNODES": "3"}),
    (ERROR, None, r"DGXNNODES=1 \(the default\), .* says 2 nodes", {"DGXNNODES": None}),
    (ERROR, "DGXNGPU", "DGXNGPU=2, .* says 4 accelerators .* config_TEST_2x2x2.sh", {"DGXNGPU": "2"}),
    (ERROR, "LOCAL_BATCH_SIZE", "LOCAL_BATCH_SIZE=4, .* says local batch 2; .* config_TEST_2x4x4.sh", {"LOCAL_BATCH_SIZE": "4"}),
    (ERROR, "TRAINING_INSTANCE_SIZE", "makes 2 instances, but the file's name isn't a weak-scaling one", {"TRAINING_INSTANCE_SIZE": "4"}),
    # GPUs, cores, cards
    (ERROR, "DGXNGPU", "DGXNGPU=4: a node has STORMBENCH_GPUS_PER_NODE=2; use at most 2", {"STORMBENCH_GPUS_PER_NODE": "2"}),
    (ERROR, "DGXNGPU", "6 GPUs of a node don't divide by 4 ranks; use one of 1, 2, 3, 6", {"STORMBENCH_GPUS_PER_NODE": "6"}),
    (WARNING, "DGXNGPU", "a node has 8 GPUs, so 4 of them stay idle", {"STORMBENCH_GPUS_PER_NODE": "8"}),
    (ERROR, "STORMBENCH_CORES_PER_RANK", "4 ranks x 17 cores is above the 64 cores .* at most 16", {"STORMBENCH_CORES_PER_RANK": "17"}),
    (ERROR, "DGXNGPU", "DGXNGPU=4: more ranks than the 2 cores", {"STORMBENCH_CORES_PER_NODE": "2"}),
    (ERROR, "OMP_NUM_THREADS", "4 ranks x 32 threads is above the 64 cores .* at most 16", {"OMP_NUM_THREADS": "32"}),
    (ERROR, "OMP_NUM_THREADS", "OMP_NUM_THREADS=all: must be a whole number", {"OMP_NUM_THREADS": "all"}),
    (ERROR, "OMP_NUM_THREADS", "OMP_NUM_THREADS=0: must be a whole number, at least 1", {"OMP_NUM_THREADS": "0"}),
    (ERROR, "STORMBENCH_NUM_THREADS", "4 ranks x 17 threads is above", {"STORMBENCH_NUM_THREADS": "17"}),
    (ERROR, "MAX_THREADS", "MAX_THREADS=17: 4 ranks x 17 threads is above", {"MAX_THREADS": "17"}),
    (ERROR, "STORMBENCH_RANK_CORES", "has 2 lists of cores for DGXNGPU=4", {"STORMBENCH_RANK_CORES": "0-15 16-31"}),
    (ERROR, "STORMBENCH_RANK_CORES", "ranks 0 and 2 share core 7", {"STORMBENCH_RANK_CORES": "0-3,6-9 4,5 7 20"}),
    (ERROR, "STORMBENCH_RANK_CORES", "ranks 0 and 3 share core 5",
     {"STORMBENCH_RANK_CORES": "0-999999999999 1000000000000 1000000000001 5"}),
    (ERROR, "STORMBENCH_NICS", "3 cards for DGXNGPU=4; name 1, 4, or", {"STORMBENCH_NICS": "a b c"}),
    (ERROR, "SBATCH_GPUS", "the layout is 2 nodes x 4 GPUs, .* set SBATCH_GPUS=8", {"SBATCH_GPUS": "16"}),
    (ERROR, "SBATCH_GPUS_PER_NODE", "the layout is 4 GPUs per node", {"SBATCH_GPUS_PER_NODE": "a100:2"}),
    (ERROR, "SBATCH_TIMELIMIT", "SBATCH_TIMELIMIT=60: contradicts WALLTIME=02:00:00", {"SBATCH_TIMELIMIT": "60"}),
    (ERROR, "SBATCH_TIMELIMIT", "SBATCH_TIMELIMIT=soon: not a time limit", {"SBATCH_TIMELIMIT": "soon"}),
    # scheduler, runtime, launcher, image
    (ERROR, "STORMBENCH_RUNTIME", "pyxis needs slurm", {**LSF, "STORMBENCH_RUNTIME": "pyxis", "CONT": "x"}),
    (ERROR, "STORMBENCH_RUNTIME", "shifter needs slurm", {"STORMBENCH_SCHEDULER": "pbs", "STORMBENCH_RUNTIME": "shifter", "CONT": "x"}),
    (ERROR, "STORMBENCH_RUNTIME", "podman-hpc needs slurm", {**LSF, "STORMBENCH_RUNTIME": "podman-hpc", "CONT": "x"}),
    (ERROR, "STORMBENCH_RUNTIME", "docker runs only under", {"STORMBENCH_RUNTIME": "docker", "CONT": "x"}),
    (ERROR, "STORMBENCH_RUNTIME", "the scheduler docker needs the runtime docker", {"STORMBENCH_SCHEDULER": "docker"}),
    (ERROR, "DGXNNODES", "STORMBENCH_SCHEDULER=docker has one node", DOCKER),
    (ERROR, "DGXNNODES", "STORMBENCH_SCHEDULER=local has one node", {"STORMBENCH_SCHEDULER": "local"}),
    (ERROR, "STORMBENCH_LAUNCHER", "srun needs STORMBENCH_SCHEDULER=slurm, which is lsf", {**LSF, "STORMBENCH_LAUNCHER": "srun"}),
    (ERROR, "STORMBENCH_LAUNCHER", "jsrun needs STORMBENCH_SCHEDULER=lsf, which is slurm", {"STORMBENCH_LAUNCHER": "jsrun"}),
    (ERROR, "STORMBENCH_LAUNCHER", "mpirun needs STORMBENCH_SCHEDULER=local or docker, which is slurm", {"STORMBENCH_LAUNCHER": "mpirun"}),
    (ERROR, "STORMBENCH_LAUNCHER", "torchrun needs STORMBENCH_SCHEDULER=slurm or local", {**LSF, "STORMBENCH_LAUNCHER": "torchrun"}),
    (ERROR, None, "WALLTIME is not set, and slurm needs it", {"WALLTIME": None, "SBATCH_TIMELIMIT": None}),
    (ERROR, "STORMBENCH_WARNING", "the job would stop at its start; set STORMBENCH_WARNING to at most 3600",
     {"STORMBENCH_WARNING": "7200"}),
    (WARNING, "STORMBENCH_WARNING", "less than half of it is left", {"STORMBENCH_WARNING": "3601"}),
    (ERROR, "WALLTIME", "LSF takes whole minutes; set 02:01:00", {**LSF, "WALLTIME": "02:00:30"}),
    (WARNING, "STORMBENCH_WARNING", "so it becomes 120 s", {**LSF, "STORMBENCH_WARNING": "90"}),
    (WARNING, "STORMBENCH_RUNTIME", "CONT is not set, so the pyxis job will ask", {"STORMBENCH_RUNTIME": "pyxis"}),
    (WARNING, "CONT", "CONT=image has no effect", {"CONT": "image"}),
    (ERROR, "CONT", "begins with neither / nor ./; write ./x.sqsh", {"STORMBENCH_RUNTIME": "pyxis", "CONT": "x.sqsh"}),
    # limits of the QoS, memory
    (ERROR, "DGXNNODES", "2 nodes is above the 1 that SBATCH_QOS=a allows; use SBATCH_QOS=b, or change DGXNNODES",
     {"SBATCH_QOS": "a", "STORMBENCH_LIMITS": "a:nodes=1 b:nodes=2"}),
    (ERROR, "DGXNNODES", "8 GPUs is above the 7 .* no other known one", {"SBATCH_QOS": "a", "STORMBENCH_LIMITS": "a:gpus=7 b:nodes=1"}),
    (ERROR, "WALLTIME", "120 minutes is above the 30 that SBATCH_QOS=debug allows; use SBATCH_QOS=regular", {"SBATCH_QOS": "debug"}),
    (ERROR, "DGXNNODES", "2 nodes is below the 4 that SBATCH_QOS=large allows; use SBATCH_QOS=regular", {"SBATCH_QOS": "large"}),
    (WARNING, "SBATCH_QOS", "only those of debug, regular, large; did you mean regular", {"SBATCH_QOS": "regulr"}),
    (ERROR, "WALLTIME", "the 30 that SBATCH_PARTITION=debug allows", {"SBATCH_QOS": None, "SBATCH_PARTITION": "debug"}),
    (ERROR, "WALLTIME", "the 30 that STORMBENCH_QUEUE=debug allows", {**LSF, "STORMBENCH_QUEUE": "debug"}),
    (ERROR, "LOCAL_BATCH_SIZE", "needs about 7.06 GB, but a GPU has 6 GB .* at most 1$", {"STORMBENCH_GPU_MEMORY": "6"}),
    (ERROR, "LOCAL_BATCH_SIZE", "a rank has 10 GB, 40 GB .* over 4 ranks; set LOCAL_BATCH_SIZE to at most 1",
     {**CPU, "STORMBENCH_NODE_MEMORY": "40"}),
    # batches, seeds, rates
    (ERROR, "BATCHNORM_GROUP_SIZE", "doesn't divide the 8 ranks", {"BATCHNORM_GROUP_SIZE": "3"}),
    (ERROR, "SEED", r"SEED=4294967291 \+ 5 trials reaches 2\*\*32", {"SEED": str(2**32 - 5)}),
    (ERROR, "STORMBENCH_SEEDS", "STORMBENCH_SEEDS=4294967295", {"STORMBENCH_SEEDS": "1 4294967295"}),
    (ERROR, "WIREUP_METHOD", "one process alone, but the job has 8 ranks", {"WIREUP_METHOD": "dummy"}),
    (ERROR, "WIREUP_METHOD", "NCCL needs NVIDIA or AMD GPUs", {**CPU, "WIREUP_METHOD": "nccl-slurm"}),
    (ERROR, "LOCAL_BATCH_SIZE", "global batch above the 64 samples of STORMBENCH_DUMMY_TRAIN", {"STORMBENCH_DUMMY_TRAIN": "64"}),
    (WARNING, "START_LR", "more than 2x off at global batch 128: .* has 0.00155", {"START_LR": "0.00311"}),
    (WARNING, "START_LR", "more than 2x off", {"START_LR": "0.0007"}),
    (WARNING, "START_LR", "START_LR=0.00155 x LR_WARMUP_FACTOR=4 is more than 2x off", {"LR_WARMUP_STEPS": "10", "LR_WARMUP_FACTOR": "4"}),
    (ERROR, "START_LR", "above 0.055, ten times the highest rate", {"START_LR": "0.056"}),
    (ERROR, "START_LR", "the network would never learn", {"START_LR": "0"}),
    (WARNING, "OPTIMIZER", "OPTIMIZER=Adam: all recipes known to converge use LAMB", {"OPTIMIZER": "Adam"}),
    (WARNING, "LR_T_MAX", "LR_T_MAX=8000: .* at global batch 128 has cosine_annealing with LR_T_MAX=9000", {"LR_T_MAX": "8000"}),
    (WARNING, "LR_WARMUP_STEPS", "LR_WARMUP_STEPS=100: .* has 0", {"LR_WARMUP_STEPS": "100"}),
    (WARNING, "WEIGHT_DECAY", "WEIGHT_DECAY=0.1: .* has 0.01", {"WEIGHT_DECAY": "0.1"}),
    # what the job sets itself, and what nobody confirmed
    (WARNING, "EXPERIMENT_ID", "has no effect: the job sets EXPERIMENT_ID itself", {"EXPERIMENT_ID": "3"}),
    (WARNING, "STORMBENCH_UNVERIFIED", "no site document confirms", {"STORMBENCH_UNVERIFIED": "1"}),
    # paths, on a machine that the config isn't meant for
    (WARNING, None, "DATADIR is not set", {"DATA_FORMAT": "hdf5"}),
    (WARNING, "DATADIR", "DATADIR=/nonexistent: no such folder here", {"DATA_FORMAT": "hdf5", "DATADIR": "/nonexistent"}),
    (WARNING, "DATADIR", "DATADIR=/dev/null: no such folder here", {"DATA_FORMAT": "hdf5", "DATADIR": "/dev/null"}),
    (WARNING, "LOGDIR", "/dev/null is no folder that can be written", {"LOGDIR": "/dev/null/logs"}),
    (WARNING, "CONT", "CONT=/none/x.sif: no such image", {"STORMBENCH_RUNTIME": "apptainer", "CONT": "/none/x.sif"}),
    (WARNING, "STORMBENCH_VENV", "no such virtual environment", {"STORMBENCH_VENV": "/nonexistent"}),
    (WARNING, "STORMBENCH_MOUNTS", "STORMBENCH_MOUNTS=/none: no such mount's source", {"STORMBENCH_MOUNTS": "/tmp:/a /none:/b:ro"}),
]  # fmt: skip


@pytest.mark.parametrize(("level", "variable", "pattern", "changes"), BREACHES, ids=[f"{row[1]}: {row[2]:.40}" for row in BREACHES])
def test_a_breach_is_told_once_where_it_is(
    found: Found, tmp_path: Path, level: str, variable: str | None, pattern: str, changes: dict[str, str | None]
) -> None:
    findings = [finding for finding in found(**changes) if re.search(pattern, finding.text)]
    assert len(findings) == 1
    path = tmp_path / NAME
    assert findings[0].level == level
    assert findings[0].where == (f"{path}:{line_of(path, variable)}" if variable else str(path))


@pytest.mark.parametrize(
    ("name", "changes", "level", "text"),
    [
        ("config_TEST_2x4.sh", {}, WARNING, "outside the grammar"),
        ("config_TEST_1x2x4x2.sh", {}, WARNING, "outside the grammar"),
        ("run.sh", {}, WARNING, "outside the grammar"),
        (WEAK, {}, ERROR, "TRAINING_INSTANCE_SIZE is not set; set it to 4 ranks"),
        ("config_TEST_2x4x2_weak.sh", {}, ERROR, "TRAINING_INSTANCE_SIZE is not set"),
        ("config_TEST_1x2x4x2_weak.sh", WEAK_CHANGES, ERROR, "2 instances of 1 node, but the file's name says 1 of 2; change it to 8"),
        ("config_TEST_4x1x4x2_weak.sh", WEAK_CHANGES, ERROR, "DGXNNODES=2, but the file's name says 4 instances x 1 = 4 nodes"),
    ],
)
def test_the_name_is_held_against_the_grammar(found: Found, name: str, changes: dict[str, str | None], level: str, text: str) -> None:
    findings = [finding for finding in found(name, **changes) if text in finding.text]
    assert [finding.level for finding in findings] == [level]


def test_the_names_batch_is_that_of_the_configs_own_benchmark(found: Found) -> None:
    own = found("config_TEST_2x4x16.sh", STORMBENCH_BENCHMARK="cloudmask", STORMBENCH_CLOUDMASK_BATCH_SIZE="16", DATADIR="/", SEED="1234")
    overridden = found(overrides={"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/"})
    assert own == ()
    # no word on the name; only that nobody chose the hyperparameters
    assert ["hyperparameters are cloudmask's defaults" in finding.text for finding in overridden] == [True]


def test_a_benchmark_that_the_shell_exports_does_not_change_what_the_name_means(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    job = load(path, {"PATH": os.environ["PATH"], "STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/"})
    assert (job.benchmark, job.own_benchmark) == ("cloudmask", "deepcam")
    assert ["the file's name" in finding.text for finding in job.findings] == [False]


def test_a_config_sourced_before_in_the_same_shell_is_still_its_own_origin(tmp_path: Path) -> None:
    path = write_config(tmp_path, DGXNNODES="3")
    job = load(path, {"PATH": os.environ["PATH"], "DGXNNODES": "3", "EXPERIMENT_ID": "2"})
    assert job.where("DGXNNODES") == f"{path}:{line_of(path, 'DGXNNODES')}"
    assert "DGXNNODES" in job.own
    assert "EXPERIMENT_ID" not in job.own


@pytest.mark.parametrize("host", ["*", socket.gethostname(), f"nowhere {socket.gethostname().split('.')[0][:2]}*"])
def test_a_missing_path_is_an_error_on_the_machine_it_is_meant_for(found: Found, host: str) -> None:
    findings = found(STORMBENCH_HOSTS=host, STORMBENCH_VENV="/nonexistent", LOGDIR="/dev/null/x", STORMBENCH_MOUNTS="/none:/x")
    assert [finding.level for finding in findings] == [ERROR] * 3


def test_a_missing_path_is_an_error_for_a_local_job(found: Found) -> None:
    findings = found(STORMBENCH_SCHEDULER="local", STORMBENCH_VENV="/nonexistent")
    assert [finding.level for finding in findings if "STORMBENCH_VENV" in finding.text] == [ERROR]


def test_a_log_folder_that_can_be_made_is_right(found: Found, tmp_path: Path) -> None:
    assert found(STORMBENCH_HOSTS="*", LOGDIR=str(tmp_path / "not" / "yet")) == ()


def test_on_this_machine_too_many_cores_are_only_worth_a_warning(found: Found) -> None:
    cores = os.cpu_count() or 1
    unknown = {"STORMBENCH_CORES_PER_NODE": "0", "STORMBENCH_CORES_PER_RANK": "0"}
    findings = found(STORMBENCH_SCHEDULER="local", OMP_NUM_THREADS=str(cores), **unknown)
    assert [finding.level for finding in findings if finding.text.startswith("OMP_NUM_THREADS")] == [WARNING]


def test_nothing_is_compared_with_the_default_of_a_wrong_value(found: Found) -> None:
    findings = found(DGXNGPU="2147483648")
    assert [finding.text for finding in findings] == ["DGXNGPU=2147483648: must be at least 1, at most 1024"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("90:30", 5430), ("1:30:00", 5400), ("1-0", 86400), ("1-2:03", 93780), ("1-2:03:04", 93784),
        ("x", None), ("1:2:3:4", None), ("", None),
    ],
)
def test_slurms_time_limits_are_read_as_slurm_does(text: str, seconds: int | None) -> None:
    assert slurm_seconds(text) == seconds


@pytest.mark.parametrize("text", ["02", "+2", " 2", "2 "])
@pytest.mark.parametrize("name", ["DGXNNODES", "NEXP", "SEED"])
def test_a_whole_number_that_shells_read_otherwise_is_an_error(found: Found, name: str, text: str) -> None:
    errors = [finding.text for finding in found(**{name: text}) if finding.level == ERROR]
    assert [error for error in errors if error.startswith(f"{name}={text!r}: ") and error.endswith("; write 2")]


def test_nccl_without_a_word_on_gpus_is_only_worth_a_warning(found: Found) -> None:
    unsaid = dict.fromkeys((name for name in GOOD if name.startswith(("STORMBENCH_GPU", "STORMBENCH_CORES", "SBATCH_"))), None)
    told = [(finding.level, finding.text) for finding in found(**unsaid, WIREUP_METHOD="nccl-slurm-pmi") if "NCCL needs" in finding.text]
    assert [level for level, _ in told] == [WARNING]


def test_a_name_in_small_letters_gets_its_suggestion(found: Found) -> None:
    (finding,) = found(max_threads="4")
    assert finding.text == "max_threads is not a variable of this kit; did you mean MAX_THREADS?"
