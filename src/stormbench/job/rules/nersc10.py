"""NERSC-10's rules for a run that claims to be one of its baseline or optimized runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.job import recipes
from stormbench.job.findings import Finding, error, warning
from stormbench.job.rules.names import read_name
from stormbench.job.rules.science import global_batch

if TYPE_CHECKING:
    from stormbench.job.load import Job

NO_CLAIM = "set STORMBENCH_NERSC10=no"


def _nersc10(job: Job) -> Iterator[Finding]:
    """A run that claims to be NERSC-10's keeps its rules, each breach told alone."""
    name, claim = read_name(job.path), job.config.nersc10
    in_name = name is not None and "nersc10" in name.tags
    where = job.where("STORMBENCH_NERSC10")
    if in_name and claim == "no":
        yield error(
            where,
            f"{job.said('STORMBENCH_NERSC10')}, but the file's name says nersc10; "
            "set it to baseline or optimized, or rename the file",
        )
    if not in_name and claim == "no":
        return
    if job.own_benchmark != "deepcam":
        yield error(
            job.where("STORMBENCH_BENCHMARK"),
            f"STORMBENCH_BENCHMARK={job.own_benchmark}: NERSC-10 is DeepCAM's; "
            f"set deepcam, or {NO_CLAIM}",
        )
    elif job.benchmark != "deepcam":
        # the user asks another benchmark of a config that is in order
        yield warning(where, f"a {job.benchmark} run is no NERSC-10 run, so its rules were not applied")
    elif job.workload is not None:
        yield from _nersc10_rules(job)


def _nersc10_rules(job: Job) -> Iterator[Finding]:
    workload, recipe, batch = job.workload, recipes.NERSC10, global_batch(job)
    schedule = workload.schedule()
    if batch is not None and batch != recipe.global_batch:
        yield error(
            job.where("LOCAL_BATCH_SIZE", "DGXNNODES"),
            f"global batch {batch} (ranks x LOCAL_BATCH_SIZE x accumulation), "
            f"NERSC-10 needs exactly {recipe.global_batch}; change them, or {NO_CLAIM}",
        )
    milestones = ":".join(map(str, recipe.milestones))
    betas = " ".join(f"{beta:g}" for beta in recipes.NERSC10_BETAS)
    epochs = recipes.NERSC10_EPOCHS
    rules: list[tuple[tuple[str, ...], bool, str]] = [
        (("GRADIENT_ACCUMULATION_FREQUENCY",), workload.gradient_accumulation_frequency == 1, "1"),
        (("BATCHNORM_GROUP_SIZE",), workload.batchnorm_group_size == 1, "1"),
        (("OPTIMIZER",), workload.optimizer == recipes.OPTIMIZER, recipes.OPTIMIZER),
        (("OPTIMIZER_BETAS",), workload.optimizer_betas == recipes.NERSC10_BETAS, betas),
        (("WEIGHT_DECAY",), workload.weight_decay == recipes.WEIGHT_DECAY, f"{recipes.WEIGHT_DECAY:g}"),
        (("LR_SCHEDULE_TYPE", "LR_SCHEDULE"), schedule.type == recipe.schedule, recipe.schedule),
        (("LR_MILESTONES", "LR_SCHEDULE"), schedule.milestones == recipe.milestones, milestones),
        (("LR_DECAY_RATE", "LR_SCHEDULE"), schedule.decay_rate == recipes.DECAY_RATE, f"{recipes.DECAY_RATE:g}"),
        (("LR_WARMUP_STEPS",), workload.lr_warmup_steps == recipe.warmup_steps, str(recipe.warmup_steps)),
        (("LR_WARMUP_FACTOR",), workload.lr_warmup_factor == 1, "1"),
        (("START_LR",), job.config.nersc10 != "baseline" or workload.start_lr == recipe.start_lr, f"{recipe.start_lr:g} in baseline"),
        (("TARGET_IOU",), workload.target_iou == recipes.NERSC10_TARGET, f"{recipes.NERSC10_TARGET:.2f}"),
        (("MIN_EPOCHS",), workload.min_epochs >= epochs, f"at least {epochs}"),
        (("MAX_EPOCHS",), workload.max_epochs >= epochs, f"at least {epochs}"),
        (("STORMBENCH_DISABLE_VALIDATION",), not workload.disable_validation, "0"),
        (("STORMBENCH_WIDTH",), workload.width == 1, "1"),
        (("STORMBENCH_CHANNELS",), workload.channels == tuple(range(16)), "all 16 channels in order"),
        (("DATA_FORMAT",), workload.data_format != "dummy", "hdf5 or numpy"),
    ]
    for variables, kept, needed in rules:
        if not kept:
            variable = next((name for name in variables if name in job.values), variables[0])
            yield error(job.where(variable), f"{job.said(variable)}: NERSC-10 needs {needed}; set {variables[0]} so, or {NO_CLAIM}")


RULES = (_nersc10,)
