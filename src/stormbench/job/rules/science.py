"""Batches, seeds and the learning rate: what decides whether a run that starts will also converge, and be the run it claims to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stormbench.core.workloads import WORKLOADS
from stormbench.job import recipes
from stormbench.job.findings import Finding, counted, error, warning
from stormbench.job.known import foreign_to, workload_options
from stormbench.job.memory import MOST
from stormbench.job.values import exact

if TYPE_CHECKING:
    from stormbench.job.load import Job

MAX_SEED = 2**32
TRAIN_SAMPLES = 121266
"""Of the full DeepCAM set; any other is smaller."""
FAR = 2.0
"""A rate more than this factor off the nearest recipe's is worth a warning."""
HOPELESS = 10.0
"""A rate above this many times the highest that ever converged is an error."""
HIGHEST = round(HOPELESS * recipes.HIGHEST_RATE, 12)
CLOUDMASK_PRODUCTS, CLOUDMASK_FRAME = 970, (1024, 1280)
"""Of the published training set: 970 frames, each cut to this many pixels and into 20 patches of 256 x 256."""


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


def _patches(job: Job) -> Iterator[Finding]:
    """CloudMask's epoch has a step too: the published set has 19,400 patches before the split."""
    batch = global_batch(job)
    if batch is None or job.benchmark != "cloudmask" or job.workload is None:
        return
    height, width = (edge // job.workload.patch_size for edge in CLOUDMASK_FRAME)
    all_patches = CLOUDMASK_PRODUCTS * height * width
    patches = int(all_patches * job.workload.train_split)
    if batch > patches:
        # a config for DeepCAM has the ranks that DeepCAM needs
        tell = error if job.own_benchmark == "cloudmask" else warning
        said = f"global batch {batch}, {counted(job.layout.ranks_per_instance, 'rank')} x {job.said('STORMBENCH_CLOUDMASK_BATCH_SIZE')}" \
            if job.layout is not None else f"global batch {batch}"
        yield tell(
            job.where("STORMBENCH_CLOUDMASK_BATCH_SIZE", "DGXNNODES"),
            f"{said}, is above the {patches} training patches ({exact(job.workload.train_split)} of {all_patches}) of the published set, "
            "so that no epoch has a step; use fewer ranks or a smaller batch",
        )


def _benchmark(job: Job) -> Iterator[Finding]:
    """A config made for one workload says nothing of the other's hyperparameters."""
    if job.benchmark == job.own_benchmark or any(name in foreign_to(job.own_benchmark) for name in job.own):
        return
    yield warning(
        job.where("STORMBENCH_BENCHMARK"),
        f"the config is for {job.own_benchmark}: its layout is kept, but the hyperparameters are {job.benchmark}'s defaults, which nobody "
        f"chose for this size; export them, or use a config for {job.benchmark}",
    )


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


def _fixed_settings(job: Job) -> Iterator[Finding]:
    """CloudMask's rules fix seed and patch size at the defaults; runs with others are for science, and nobody may submit them."""
    # of a config for DeepCAM it is told already that its hyperparameters weren't chosen for this
    if job.own_benchmark != "cloudmask" or job.benchmark != "cloudmask" or job.workload is None:
        return
    options = workload_options("cloudmask")
    found = [("STORMBENCH_CLOUDMASK_PATCH_SIZE", [job.workload.patch_size]), ("SEED", [job.workload.seed])]
    for name, values in [*found, ("STORMBENCH_SEEDS", job.config.seeds)]:
        fixed = options["SEED" if name == "STORMBENCH_SEEDS" else name].default
        if any(value != fixed for value in values):
            told = f"{job.said(name)}: the rules of the Science benchmark fix it at {fixed}, so that this will be no submission; "
            yield warning(job.where(name), told + (f"unset {name} for one" if name in job.values else f"use {fixed} for one"))


def _distinct_seeds(job: Job) -> Iterator[Finding]:
    """Each job of an array has a seed of its own, else two of them are one run."""
    twice = next((seed for position, seed in enumerate(job.config.seeds) if seed in job.config.seeds[:position]), None)
    if twice is not None:
        told = f"{job.said('STORMBENCH_SEEDS')}: {twice} is given twice, and both jobs would be the same run; give each its own"
        yield error(job.where("STORMBENCH_SEEDS"), told)


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
    reached = f"{said} x {job.said('LR_WARMUP_FACTOR')}" if factor != 1 else said
    known = f"the recipe known to converge at global batch {recipe.global_batch} has {recipe.start_lr:g}"
    if peak == 0:
        yield error(where, f"{said}: the network would never learn; {known}")
    elif peak > HIGHEST:
        yield error(where, f"{reached}: above {exact(HIGHEST)}, ten times the highest rate known to converge; {known}, use that")
    elif not 1 / FAR <= peak / recipe.start_lr * (1 + 1e-9) <= FAR * (1 + 2e-9):
        yield warning(where, f"{reached} is more than {FAR:g}x off at global batch {batch}: {known}")
    if schedule_without_steps(workload):
        yield warning(
            job.where("LR_SCHEDULE", "LR_SCHEDULE_TYPE"),
            f"{job.said('LR_SCHEDULE' if 'LR_SCHEDULE' in job.values else 'LR_SCHEDULE_TYPE')}: without LR_MILESTONES the rate never "
            f"decays; the recipe known to converge at global batch {recipe.global_batch} has {recipe.words}",
        )
    if workload.optimizer != recipes.OPTIMIZER:
        yield warning(
            job.where("OPTIMIZER"),
            f"{job.said('OPTIMIZER')}: all recipes known to converge use LAMB, "
            "plain Adam did not converge at their rates",
        )
    if batch == recipe.global_batch:
        yield from _recipe(job, recipe)


def schedule_without_steps(workload: Any) -> bool:
    """Whether the schedule is multistep, but has no step."""
    schedule = workload.schedule()
    return schedule.type == "multistep" and not schedule.milestones


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
    if not same and not schedule_without_steps(workload):
        names = ["LR_SCHEDULE", "LR_T_MAX", "LR_MILESTONES", "LR_SCHEDULE_TYPE"]
        if schedule.type != recipe.schedule:
            names = ["LR_SCHEDULE_TYPE", "LR_SCHEDULE"]
        elif schedule.type == recipe.schedule and recipe.t_max is None and schedule.milestones == recipe.milestones:
            names.insert(1, "LR_DECAY_RATE")
        set_by = next((name for name in names if name in job.values), None)
        what = job.said(set_by) if set_by else "no learning-rate schedule"
        yield warning(job.where(set_by or "START_LR"), f"{what}: {at} {recipe.words}")
    if workload.lr_warmup_steps != recipe.warmup_steps:
        yield warning(job.where("LR_WARMUP_STEPS"), f"{job.said('LR_WARMUP_STEPS')}: {at} {recipe.warmup_steps}")
    if workload.weight_decay != recipes.WEIGHT_DECAY:
        yield warning(job.where("WEIGHT_DECAY"), f"{job.said('WEIGHT_DECAY')}: {at} {recipes.WEIGHT_DECAY:g}")


RULES = (_epoch, _patches, _groups, _seeds, _fixed_settings, _distinct_seeds, _wireup, _benchmark, _learning_rate)
