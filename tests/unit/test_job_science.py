"""NERSC-10's rules, the recipes that are known to converge, and the memory that a batch takes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stormbench.job import memory, recipes
from stormbench.job.findings import ERROR, WARNING, Finding
from stormbench.job.load import load
from tests.mutations import NAME, write_config

Found = Callable[..., tuple[Finding, ...]]
NERSC10 = {
    "STORMBENCH_NERSC10": "baseline", "DGXNNODES": "64", "DGXNGPU": "4", "LOCAL_BATCH_SIZE": "8", "GRADIENT_ACCUMULATION_FREQUENCY": "1",
    "START_LR": "0.0055", "LR_SCHEDULE_TYPE": "multistep", "LR_T_MAX": None, "LR_MILESTONES": "800", "LR_DECAY_RATE": "0.1",
    "LR_WARMUP_STEPS": "400", "LR_WARMUP_FACTOR": "1", "TARGET_IOU": "0.80", "MIN_EPOCHS": "16", "DATA_FORMAT": "hdf5", "DATADIR": "/",
    "SBATCH_QOS": "large", "SBATCH_GPUS": "256",
}  # fmt: skip
NERSC10_NAME = "config_TEST_64x4x8_nersc10.sh"


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


@pytest.mark.parametrize("changes", [{}, {"STORMBENCH_NERSC10": "optimized", "START_LR": "0.006"}], ids=["baseline", "optimized"])
def test_nothing_is_said_of_a_nersc10_run_by_the_rules(found: Found, changes: dict[str, str]) -> None:
    assert found(NERSC10_NAME, **{**NERSC10, **changes}) == ()


NERSC10_BREACHES = {
    "LOCAL_BATCH_SIZE": ("4", "global batch 1024 .* needs exactly 2048"),
    "GRADIENT_ACCUMULATION_FREQUENCY": ("2", "needs 1;"),
    "BATCHNORM_GROUP_SIZE": ("2", "needs 1;"),
    "OPTIMIZER": ("AdamW", "needs LAMB;"),
    "OPTIMIZER_BETAS": ("0.9 0.99", "needs 0.9 0.999;"),
    "WEIGHT_DECAY": ("0.1", "needs 0.01;"),
    "LR_MILESTONES": ("900", "needs 800;"),
    "LR_DECAY_RATE": ("0.2", "needs 0.1;"),
    "LR_WARMUP_STEPS": ("300", "needs 400;"),
    "LR_WARMUP_FACTOR": ("2", "needs 1;"),
    "START_LR": ("0.005", "needs 0.0055 in baseline;"),
    "TARGET_IOU": ("0.82", "needs 0.80;"),
    "MIN_EPOCHS": ("15", "needs at least 16;"),
    "STORMBENCH_DISABLE_VALIDATION": ("1", "needs 0;"),
    "STORMBENCH_WIDTH": ("0.5", "needs 1;"),
    "STORMBENCH_CHANNELS": ("0 1 2 10", "needs all 16 channels in order;"),
    "DATA_FORMAT": ("dummy", "needs hdf5 or numpy;"),
}


@pytest.mark.parametrize("variable", NERSC10_BREACHES)
def test_each_nersc10_rule_is_enforced(found: Found, tmp_path: Path, variable: str) -> None:
    value, pattern = NERSC10_BREACHES[variable]
    findings = [
        finding
        for finding in found(NERSC10_NAME, **{**NERSC10, variable: value})
        if "NERSC-10 needs" in finding.text and finding.where.endswith(f":{line_of(tmp_path / NERSC10_NAME, variable)}")
    ]
    assert [finding.level for finding in findings] == [ERROR]
    assert re.search(pattern, findings[0].text)


def test_nersc10_needs_its_schedule(found: Found) -> None:
    findings = found(NERSC10_NAME, **{**NERSC10, "LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "9000", "LR_MILESTONES": None})
    assert any("LR_SCHEDULE_TYPE=cosine_annealing: NERSC-10 needs multistep" in finding.text for finding in findings)


def test_a_run_of_few_epochs_is_no_nersc10_run(found: Found) -> None:
    findings = found(NERSC10_NAME, **{**NERSC10, "MIN_EPOCHS": "10", "MAX_EPOCHS": "10"})
    told = [finding.text.split(":")[0] for finding in findings if "at least 16" in finding.text]
    assert told == ["MIN_EPOCHS=10", "MAX_EPOCHS=10"]


def test_a_name_that_claims_nersc10_alone_is_wrong(found: Found) -> None:
    findings = found(NERSC10_NAME, **{**NERSC10, "STORMBENCH_NERSC10": "no"})
    assert [finding.level for finding in findings] == [ERROR]
    assert "the file's name says nersc10" in findings[0].text


def test_another_benchmark_asked_of_a_nersc10_config_is_no_error(found: Found) -> None:
    findings = found(NERSC10_NAME, overrides={"STORMBENCH_BENCHMARK": "cloudmask"}, **NERSC10)
    assert [finding.level for finding in findings] == [WARNING, WARNING]
    assert any("no NERSC-10 run" in finding.text for finding in findings)


def test_nersc10_is_deepcam(found: Found) -> None:
    findings = found("config_TEST_2x4x32.sh", STORMBENCH_BENCHMARK="cloudmask", STORMBENCH_NERSC10="baseline")
    assert any("NERSC-10 is DeepCAM's" in finding.text for finding in findings)


def test_cloudmasks_patches_must_fit_too(found: Found) -> None:
    cloudmask = {"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/", "STORMBENCH_GPU_MEMORY": "4", "SEED": "1234"}
    assert found("config_TEST_2x4x28.sh", STORMBENCH_CLOUDMASK_BATCH_SIZE="28", **cloudmask) == ()
    findings = found("config_TEST_2x4x29.sh", STORMBENCH_CLOUDMASK_BATCH_SIZE="29", **cloudmask)
    assert [finding.level for finding in findings] == [ERROR]
    assert findings[0].text.endswith("set STORMBENCH_CLOUDMASK_BATCH_SIZE to at most 28")


def test_what_cloudmasks_rules_fix_is_told_where_a_config_has_another(found: Found) -> None:
    cloudmask = {"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/", "STORMBENCH_CLOUDMASK_BATCH_SIZE": "2"}
    name = "config_TEST_2x4x2.sh"
    assert found(name, SEED="1234", STORMBENCH_CLOUDMASK_PATCH_SIZE="256", **cloudmask) == ()
    for variable, value in (("SEED", "7"), ("STORMBENCH_CLOUDMASK_PATCH_SIZE", "512"), ("STORMBENCH_SEEDS", "1234 5")):
        (finding,) = found(name, **{"SEED": "1234", variable: value}, **cloudmask)
        assert finding.level == WARNING
        fixed = 256 if "PATCH" in variable else 1234
        assert f"{variable}={value}: the rules of the Science benchmark fix it at {fixed}" in finding.text


def test_a_global_batch_above_the_whole_training_set_is_refused(found: Found) -> None:
    findings = found(DATA_FORMAT="hdf5", DATADIR="/", GRADIENT_ACCUMULATION_FREQUENCY="10000")
    assert any("above the 121266 samples of the full training set" in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("need", "available", "largest"),
    [
        (memory.deepcam(), 16, 2),
        (memory.deepcam(mixed=True), 16, 4),
        (memory.deepcam(), 0.5, 0),
        (memory.deepcam(width=0.5), 16, 5),
    ],
)
def test_the_largest_batch_is_the_last_that_fits(need: memory.Need, available: float, largest: int) -> None:
    assert need.largest(available) == largest
    assert largest == 0 or need.total(largest) <= available
    assert need.total(largest + 1) > available


def test_the_measured_memory_is_the_estimated_one() -> None:
    assert memory.deepcam().total(1) == pytest.approx(6.5)
    assert memory.deepcam().largest(80) >= 8


def test_the_unets_layers_add_up() -> None:
    """By hand, for 8 x 8 pixels: 298 numbers a pixel at full size, 608, 1216 and 640 at each halving."""
    assert memory.unet_kept(8) == 298 * 64 + 608 * 16 + 1216 * 4 + 640 * 1
    assert 4 * memory.unet_kept(256) / 1e9 == pytest.approx(0.14, abs=0.001)


@pytest.mark.parametrize(("batch", "nearest"), [(1, 128), (128, 128), (181, 128), (182, 256), (1020, 1024), (2048, 2048), (10**9, 2048)])
def test_the_nearest_recipe_is_nearest_by_ratio(batch: int, nearest: int) -> None:
    assert recipes.nearest(batch).global_batch == nearest


def test_additional_arguments_are_held_against_the_rules_too(found: Found, tmp_path: Path) -> None:
    findings = found(NERSC10_NAME, **{**NERSC10, "ADDITIONAL_ARGS": "--start-lr 0.006 --gradient_accumulation_frequency=2"})
    where = f"{tmp_path / NERSC10_NAME}:{line_of(tmp_path / NERSC10_NAME, 'ADDITIONAL_ARGS')}"
    told = [(finding.where, finding.text.partition(":")[0]) for finding in findings if "NERSC-10 needs" in finding.text]
    # in the words that the user wrote, not those of a variable that the config may set otherwise
    assert (where, "--start_lr 0.006 in ADDITIONAL_ARGS") in told
    assert (where, "--gradient_accumulation_frequency 2 in ADDITIONAL_ARGS") in told


@pytest.mark.parametrize("words", ["--strat_lr 1", "--start_lr x", "--help", "more"])
def test_additional_arguments_that_the_workload_would_refuse_are_an_error(found: Found, words: str) -> None:
    (finding,) = found(ADDITIONAL_ARGS=words)
    assert finding.level == ERROR
    assert finding.text.startswith(f"ADDITIONAL_ARGS={words}: ")
