"""Batches, seeds and the learning rate: what decides whether a run that starts will also converge, and be the run it claims to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.core.workloads import WORKLOADS
from stormbench.job import recipes
from stormbench.job.findings import Finding, error, warning
from stormbench.job.known import workload_options
from stormbench.job.memory import MOST
from stormbench.job.rules.names import read_name

if TYPE_CHECKING:
    from stormbench.job.load import Job

MAX_SEED = 2**32
TRAIN_SAMPLES = 121266
"""Of the full DeepCAM set; any other is smaller."""
FAR = 2.0
"""A rate more than this factor off the nearest recipe's is worth a warning."""
HOPELESS = 10.0
"""A rate above this many times the highest that ever converged is an error."""


def global_batch(job: Job) -> int | None:
    """Return the samples of one weight update of one instance, `MOST` at most; None where layout or workload are unknown."""
    if job.layout is None or job.workload is None:
        return None
    local = getattr(job.workload, workload_options(job.benchmark)[WORKLOADS[job.benchmark].batch].name)
    accumulation = getattr(job.workload, "gradient_accumulation_frequency", 1)
    return min(MOST, job.layout.ranks_per_instance * local * accumulation)


def _epoch(job: Job) -> Iterator[Finding]:
    """An epoch has at least one full global batch, as the last incomplete one is dropped."""
    batch = global_batch(job)
    if batch is None or job.benchmark != "deepcam" or job.workload is None:
        return
    dummy = job.workload.data_format == "dummy"
    samples = job.workload.dummy_train if dummy else TRAIN_SAMPLES
    if batch > samples:
        whose = "STORMBENCH_DUMMY_TRAIN" if dummy else "the full training set"
        where = job.where("LOCAL_BATCH_SIZE", "GRADIENT_ACCUMULATION_FREQUENCY", "DGXNNODES")
        said = f"{job.said('LOCAL_BATCH_SIZE')} x {job.said('GRADIENT_ACCUMULATION_FREQUENCY')} makes a global batch"
        yield error(where, f"{said} above the {samples} samples of {whose}, so that no epoch has a step; use at most {samples}")


def _groups(job: Job) -> Iterator[Finding]:
    """Ranks divide into batch-norm groups."""
    group = getattr(job.workload, "batchnorm_group_size", 1)
    if job.layout is not None and job.layout.ranks_per_instance % group:
        ranks = job.layout.ranks_per_instance
        where, said = job.where("BATCHNORM_GROUP_SIZE"), job.said("BATCHNORM_GROUP_SIZE")
        yield error(where, f"{said}: doesn't divide the {ranks} ranks of an instance; use 1 or a divisor of {ranks}")


def _seeds(job: Job) -> Iterator[Finding]:
    """The seeds of all trials and instances stay below 2**32."""
    if job.workload is None or job.layout is None:
        return
    trials = job.config.trials * job.layout.instances
    for name, seed in (("SEED", job.workload.seed), ("STORMBENCH_SEEDS", max(job.config.seeds, default=0))):
        if seed + trials >= MAX_SEED:
            yield error(
                job.where(name), f"{name}={seed} + {trials} trials reaches 2**32, the end of seeds; use a seed below {MAX_SEED - trials}"
            )


def _wireup(job: Job) -> Iterator[Finding]:
    """The way ranks find each other suits their number and their GPUs."""
    method = getattr(job.workload, "wireup_method", "auto")
    if job.layout is None:
        return
    where, said = job.where("WIREUP_METHOD"), job.said("WIREUP_METHOD")
    if method == "dummy" and job.layout.ranks > 1:
        yield error(where, f"{said}: is one process alone, but the job has {job.layout.ranks} ranks; use WIREUP_METHOD=auto")
    if method.startswith("nccl-") and not job.layout.gpus_per_node:
        gpus = f"{job.said('STORMBENCH_GPU_VENDOR')} and {job.said('STORMBENCH_GPUS_PER_NODE')}"
        # a published config says nothing of its system
        known = any(name in job.values for name in ("STORMBENCH_GPU_VENDOR", "STORMBENCH_GPUS_PER_NODE", "STORMBENCH_CORES_PER_NODE"))
        told = f"{said}: NCCL needs NVIDIA or AMD GPUs, the system has {gpus}; use WIREUP_METHOD=auto or gloo"
        yield error(where, told) if known else warning(where, f"{told}, or set STORMBENCH_GPU_VENDOR")


def _learning_rate(job: Job) -> Iterator[Finding]:
    """Optimizer, rate and schedule against the nearest recipe that is known to converge."""
    workload, batch = job.workload, global_batch(job)
    if job.benchmark != "deepcam" or workload is None or batch is None or workload.width < 1:
        return
    recipe = recipes.nearest(batch)
    factor = workload.lr_warmup_factor if workload.lr_warmup_steps else 1.0
    peak = workload.start_lr * factor
    where, said = job.where("START_LR"), job.said("START_LR")
    reached = f"{said} x LR_WARMUP_FACTOR={factor:g}" if factor != 1 else said
    known = f"the recipe known to converge at global batch {recipe.global_batch} has {recipe.start_lr:g}"
    if peak == 0:
        yield error(where, f"{said}: the network would never learn; {known}")
    elif peak > HOPELESS * recipes.HIGHEST_RATE:
        yield error(
            where, f"{reached}: above {HOPELESS * recipes.HIGHEST_RATE:g}, ten times the highest rate known to converge; {known}, use that"
        )
    elif not 1 / FAR <= peak / recipe.start_lr * (1 + 1e-9) <= FAR * (1 + 2e-9):
        yield warning(where, f"{reached} is more than {FAR:g}x off at global batch {batch}: {known}")
    if workload.optimizer != recipes.OPTIMIZER:
        yield warning(
            job.where("OPTIMIZER"),
            f"{job.said('OPTIMIZER')}: all recipes known to converge use LAMB, "
            "plain Adam did not converge at their rates",
        )
    if batch == recipe.global_batch:
        yield from _recipe(job, recipe)


def _recipe(job: Job, recipe: recipes.Recipe) -> Iterator[Finding]:
    """Warn of what differs from the recipe of this very global batch."""
    workload = job.workload
    schedule = workload.schedule()
    same = schedule.type == recipe.schedule and (
        schedule.t_max == recipe.t_max
        if recipe.t_max is not None
        else schedule.milestones == recipe.milestones and schedule.decay_rate == recipes.DECAY_RATE
    )
    at = f"the recipe known to converge at global batch {recipe.global_batch} has"
    if not same:
        names = ["LR_SCHEDULE", "LR_T_MAX", "LR_MILESTONES", "LR_SCHEDULE_TYPE"]
        if schedule.type == recipe.schedule and recipe.t_max is None and schedule.milestones == recipe.milestones:
            names.insert(1, "LR_DECAY_RATE")
        set_by = next((name for name in names if name in job.values), None)
        what = job.said(set_by) if set_by else "no learning-rate schedule"
        yield warning(job.where(set_by or "START_LR"), f"{what}: {at} {recipe.words}")
    if workload.lr_warmup_steps != recipe.warmup_steps:
        yield warning(job.where("LR_WARMUP_STEPS"), f"{job.said('LR_WARMUP_STEPS')}: {at} {recipe.warmup_steps}")
    if workload.weight_decay != recipes.WEIGHT_DECAY:
        yield warning(job.where("WEIGHT_DECAY"), f"{job.said('WEIGHT_DECAY')}: {at} {recipes.WEIGHT_DECAY:g}")


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


NO_CLAIM = "set STORMBENCH_NERSC10=no"


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


RULES = (_epoch, _groups, _seeds, _wireup, _learning_rate, _nersc10)
