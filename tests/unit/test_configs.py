"""The shipped configs: short, silent, clean shell that leaves nothing behind, with the recipes that are known to converge."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stormbench.core.workloads import WORKLOADS
from stormbench.job.known import foreign_to, passes
from stormbench.job.load import Job, load
from stormbench.job.source import source_config
from tests.shipped import BARE, CONFIGS, NAMES, ROOT, Exported, sourced

FILES = sorted([*CONFIGS.glob("*.sh"), *CONFIGS.glob("systems/*.sh"), CONFIGS / "data.sh.example"])
OF_THE_USER = {
    "SBATCH_ACCOUNT": "mine", "CONT": "image.sif", "DATADIR": "/data", "LOGDIR": "/results", "SEED": "7", "NEXP": "3",
    "STORMBENCH_VENV": "/venv", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive",
}  # fmt: skip
COSINE = {"LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "9000", "LR_ETA_MIN": "0"}
MULTISTEP = {"LR_SCHEDULE_TYPE": "multistep", "LR_DECAY_RATE": "0.1"}
RECIPES = {
    128: {"START_LR": "0.00155", "LR_WARMUP_STEPS": "0", **COSINE},
    256: {"START_LR": "0.002", "LR_WARMUP_STEPS": "0", "LR_MILESTONES": "4096 8192", **MULTISTEP},
    512: {"START_LR": "0.004", "LR_WARMUP_STEPS": "100", "LR_MILESTONES": "2048 4096", **MULTISTEP},
    1024: {"START_LR": "0.004", "LR_WARMUP_STEPS": "200", "LR_MILESTONES": "1100 4096", **MULTISTEP},
    2048: {"START_LR": "0.0055", "LR_WARMUP_STEPS": "400", "LR_MILESTONES": "800", **MULTISTEP},
}
"""What is published to converge with LAMB and weight decay 0.01, by global batch."""
SCHEDULE = ("START_LR", "LR_WARMUP_STEPS", "LR_SCHEDULE_TYPE", "LR_T_MAX", "LR_ETA_MIN", "LR_MILESTONES", "LR_DECAY_RATE")
HYPERPARAMETERS = (
    "LOCAL_BATCH_SIZE", "OPTIMIZER", "START_LR", "WEIGHT_DECAY", "LR_SCHEDULE_TYPE", "LR_WARMUP_STEPS", "LR_WARMUP_FACTOR", "MAX_THREADS",
    "GRADIENT_ACCUMULATION_FREQUENCY", "BATCHNORM_GROUP_SIZE", "TARGET_IOU", "MAX_EPOCHS", "MIN_EPOCHS", "PRECISION_MODE", "DATA_FORMAT",
)  # fmt: skip
NEAREST_RECIPE = {"config_Summit_85x6x2": 1024}
"""Six GPUs a node make no batch of the table; the nearest one's recipe is taken."""


@pytest.fixture(scope="module")
def jobs(shipped: Path) -> dict[tuple[str, str], Job]:
    """Each config loaded in a bare environment, as it is and for each benchmark."""
    overrides = {"": {}, **{benchmark: {"STORMBENCH_BENCHMARK": benchmark} for benchmark in WORKLOADS}}
    return {(name, key): load(shipped / f"{name}.sh", BARE, above) for name in NAMES for key, above in overrides.items()}


def test_there_is_a_config_for_every_system_that_the_kit_names() -> None:
    systems = {name.split("_")[1] for name in NAMES}
    assert systems == {
        "DGXA100", "DGX", "DGX2", "Perlmutter", "CirrusGPU", "CirrusEX", "ARCHER2", "ARCHER2GPU", "Summit", "Polaris", "Frontier",
        "Rivanna", "PEARL", "EPCC-CLX", "EPCC-ICX", "local",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_at_most_30_lines_and_first_says_what_it_runs(name: str) -> None:
    lines = (CONFIGS / f"{name}.sh").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    assert lines[0] == "# shellcheck shell=bash"
    assert lines[1].startswith("# ") and len(lines[1]) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_shell_accepts_the_syntax(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False).stderr == ""


def test_shellcheck_has_no_complaint() -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, "-x", *map(str, FILES)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_a_config_is_sourced_silently_from_any_folder_also_one_with_a_blank(shipped: Path, alone: dict[str, Exported]) -> None:
    assert all(exported["DGXSYSTEM"] == name.split("_")[1] for name, exported in alone.items())
    name = "config_DGXA100_16x8x1"
    assert sourced(Path(f"{name}.sh"), cwd=shipped) == alone[name]
    assert sourced(Path(f"configs/{name}.sh"), cwd=shipped.parent) == alone[name]


def test_zsh_sources_the_same(shipped: Path, alone: dict[str, Exported]) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    for name in NAMES:
        command = [zsh, "-f", "-euc", 'source "$1"; exec env -0', "zsh", str(shipped / f"{name}.sh")]
        done = subprocess.run(command, env=BARE, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        exported = dict(item.split("=", 1) for item in done.stdout.split("\0") if item)
        assert {key: value for key, value in exported.items() if key in alone[name]} == alone[name]


@pytest.mark.parametrize("second", NAMES)
def test_nothing_of_a_config_stays_when_another_is_sourced_after_it(second: str, shipped: Path, alone: dict[str, Exported]) -> None:
    # one of each system, so that every variable that any of them sets has its turn
    before = [*{name.split("_")[1]: name for name in NAMES if name != second}.values(), "config_local_1x1x2_demo"]
    assert sourced(*(shipped / f"{name}.sh" for name in before), shipped / f"{second}.sh") == alone[second]


@pytest.mark.parametrize(
    ("first", "second"),
    [("config_Polaris_2x4x4_debug", "config_Summit_85x6x2"), ("config_DGXA100_4x2x8x8_weak", "config_DGXA100_16x8x1"),
     ("config_Perlmutter_256x4x2_nersc10", "config_EPCC-ICX_1x4x32"), ("config_PEARL_1x16x32", "config_DGXA100_256x8x1"),
     ("config_CirrusGPU_16x4x2_gb2048", "config_local_1x1x2_demo")],
)  # fmt: skip
def test_a_pair_of_configs_gives_what_the_second_gives_alone(first: str, second: str, shipped: Path, alone: dict[str, Exported]) -> None:
    assert sourced(shipped / f"{first}.sh", shipped / f"{second}.sh") == alone[second] != alone[first]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_the_users_own_stays(name: str, shipped: Path, alone: dict[str, Exported]) -> None:
    assert sourced(shipped / f"{name}.sh", environ=OF_THE_USER) == {**alone[name], **OF_THE_USER}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_variables_of_the_kit_is_set_and_all_of_them_are_exported(name: str, shipped: Path) -> None:
    found = source_config(shipped / f"{name}.sh", {}, BARE)
    assert [variable for variable in found.exported if not passes(variable)] == []
    assert found.unexported == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_carries_the_variables_of_its_own_benchmark_only(name: str, alone: dict[str, Exported]) -> None:
    benchmark = alone[name].get("STORMBENCH_BENCHMARK", "deepcam")
    assert foreign_to(benchmark) & set(alone[name]) == set()


@pytest.mark.parametrize("name", [name for name in NAMES if "_local_" not in name])
def test_a_deepcam_config_names_every_hyperparameter(name: str, alone: dict[str, Exported]) -> None:
    exported = alone[name]
    if exported["STORMBENCH_BENCHMARK"] == "deepcam":
        assert [variable for variable in HYPERPARAMETERS if variable not in exported] == []
    else:
        assert exported["STORMBENCH_CLOUDMASK_BATCH_SIZE"] == "32"


def test_lamb_runs_follow_the_recipe_of_their_global_batch(alone: dict[str, Exported]) -> None:
    seen = set()
    for name, exported in alone.items():
        if exported.get("OPTIMIZER") != "LAMB":
            continue
        ranks = int(exported.get("TRAINING_INSTANCE_SIZE", 0)) or int(exported["DGXNNODES"]) * int(exported["DGXNGPU"])
        batch = ranks * int(exported["LOCAL_BATCH_SIZE"]) * int(exported["GRADIENT_ACCUMULATION_FREQUENCY"])
        batch = NEAREST_RECIPE.get(name, batch)
        seen.add(batch)
        assert {variable: exported[variable] for variable in SCHEDULE if variable in exported} == RECIPES[batch], name
        assert (exported["WEIGHT_DECAY"], exported["LR_WARMUP_FACTOR"], exported["BATCHNORM_GROUP_SIZE"]) == ("0.01", "1", "1"), name
    assert seen == set(RECIPES)


@pytest.mark.parametrize("name", [name for name in NAMES if "_demo" not in name])
def test_the_comment_gives_the_global_batch_and_the_ranks_of_the_run(name: str, alone: dict[str, Exported]) -> None:
    exported = alone[name]
    text = " ".join(line.lstrip("# ") for line in (CONFIGS / f"{name}.sh").read_text(encoding="utf-8").splitlines()[1:4])
    ranks = int(exported.get("TRAINING_INSTANCE_SIZE", 0)) or int(exported["DGXNNODES"]) * int(exported["DGXNGPU"])
    local = exported.get("LOCAL_BATCH_SIZE") or exported["STORMBENCH_CLOUDMASK_BATCH_SIZE"]
    batch = ranks * int(local) * int(exported.get("GRADIENT_ACCUMULATION_FREQUENCY", 1))
    assert f"global batch {batch} ({ranks} x {local}" in text
    assert f"{ranks} ranks" in text or {1: "one rank", 2: "Two ranks"}.get(ranks, "?") in text


def test_only_runs_that_keep_its_rules_claim_to_be_nersc10(alone: dict[str, Exported]) -> None:
    claims = {name: exported for name, exported in alone.items() if exported.get("STORMBENCH_NERSC10", "no") != "no"}
    assert sorted(claims) == ["config_ARCHER2_256x8x1_nersc10", "config_Perlmutter_256x4x2_nersc10", "config_Perlmutter_512x4x1_nersc10"]
    for exported in claims.values():
        assert int(exported["DGXNNODES"]) * int(exported["DGXNGPU"]) * int(exported["LOCAL_BATCH_SIZE"]) == 2048
        assert (exported["GRADIENT_ACCUMULATION_FREQUENCY"], exported["TARGET_IOU"], exported["MIN_EPOCHS"]) == ("1", "0.80", "16")


@pytest.mark.parametrize("name", NAMES)
def test_plain_sbatch_asks_for_the_gpus_and_the_time_of_the_config(name: str, alone: dict[str, Exported]) -> None:
    exported = alone[name]
    if exported["STORMBENCH_SCHEDULER"] != "slurm":
        assert not [variable for variable in exported if variable.startswith("SBATCH_")]
        return
    assert exported["SBATCH_TIMELIMIT"] == exported["WALLTIME"]
    gpus, nodes = int(exported.get("STORMBENCH_GPUS_PER_NODE", 0)), int(exported["DGXNNODES"])
    if gpus and nodes > 1:
        assert int(exported["SBATCH_GPUS"]) == nodes * gpus
    if gpus:
        each = exported.get("SBATCH_GPUS_PER_NODE") or exported["SBATCH_GRES"].rsplit(":", 1)[1]
        assert int(each) == gpus


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_an_account_or_a_path_of_somebodys(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    of_sites = r"(?<![\w./}])/(?:work|home|lus|mnt/lustre|global|eagle|projects?|gpfs|pscratch|scratch|users?)\b[\w/.-]*"
    assert set(re.findall(of_sites, text)) <= {"/home"}
    assert not re.search(r"--account|#BSUB -P|-A [a-z]\w*\d", text)
    if path.name != "data.sh.example":
        assert not re.search(r"export (SBATCH_ACCOUNT|DATADIR|LOGDIR|CONT)\b", text)


def test_the_demo_keeps_its_values(alone: dict[str, Exported]) -> None:
    assert alone["config_local_1x1x2_demo"].items() >= {
        "DGXSYSTEM": "local", "DGXNNODES": "1", "DGXNGPU": "1", "LOCAL_BATCH_SIZE": "2", "LOCAL_VALIDATION_BATCH_SIZE": "4",
        "STORMBENCH_WIDTH": "0.25", "OPTIMIZER": "AdamW", "START_LR": "0.002", "WEIGHT_DECAY": "0.01", "LR_WARMUP_STEPS": "96",
        "LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "480", "MAX_EPOCHS": "6", "TARGET_IOU": "0.82",
    }.items()  # fmt: skip


def test_polaris_gives_the_queue_that_fits_the_size(jobs: dict[tuple[str, str], Job]) -> None:
    for name, queue, minutes in (("config_Polaris_32x4x1", "prod", 1440), ("config_Polaris_2x4x4_debug", "debug", 60)):
        config = jobs[name, ""].config
        assert config.queue == queue
        assert dict(config.limits)[queue]["minutes"] == minutes


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_no_error_in_a_bare_environment(name: str, jobs: dict[tuple[str, str], Job]) -> None:
    assert [str(finding) for finding in jobs[name, ""].errors] == []


@pytest.mark.parametrize("benchmark", WORKLOADS)
@pytest.mark.parametrize("name", NAMES)
def test_a_config_serves_both_benchmarks(name: str, benchmark: str, jobs: dict[tuple[str, str], Job]) -> None:
    job = jobs[name, benchmark]
    assert [str(finding) for finding in job.errors] == []
    assert job.workload is not None and job.benchmark == benchmark


@pytest.mark.parametrize("name", NAMES)
def test_the_only_warnings_are_about_what_a_user_adds_or_nobody_confirmed(name: str, jobs: dict[tuple[str, str], Job]) -> None:
    expected = r"DATADIR|CONT\b|LOGDIR|STORMBENCH_MOUNTS|UNVERIFIED|unverified|no site document"
    if jobs[name, ""].config.scheduler == "local":
        # this machine may have fewer cores than the one it is meant for
        expected += r"|cores? of this machine"
    assert [str(finding) for finding in jobs[name, ""].warnings if not re.search(expected, finding.text)] == []


@pytest.mark.parametrize("nodes", ["x16", "", "-1", "16 nodes"])
def test_a_wrong_number_of_nodes_is_left_to_the_checks(nodes: str, shipped: Path, tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(shipped, configs)
    path = configs / "config_DGXA100_16x8x1.sh"
    path.write_text(path.read_text(encoding="utf-8").replace("DGXNNODES=16", f"DGXNNODES='{nodes}'"), encoding="utf-8")
    assert "SBATCH_GPUS" not in sourced(path)
