"""Scheduler, runtime, launcher, image and wall time: which go together, and what each needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.job.config import LAUNCHERS_OF, RUNTIMES_OF
from stormbench.job.findings import Finding, error, warning
from stormbench.job.rules.paths import is_file_path
from stormbench.job.values import clock

if TYPE_CHECKING:
    from stormbench.job.load import Job

QUEUED = ("slurm", "lsf", "pbs")
SLURM_RUNTIMES = tuple(name for name in RUNTIMES_OF["slurm"] if sum(name in others for others in RUNTIMES_OF.values()) == 1)
"""These are started through srun's plugins and options."""


def _combinations(job: Job) -> Iterator[Finding]:
    """Runtimes and launchers that belong to one scheduler."""
    config = job.config
    scheduler, runtime = config.scheduler, config.runtime
    where = job.where("STORMBENCH_RUNTIME", "STORMBENCH_SCHEDULER")
    both = f"{job.said('STORMBENCH_RUNTIME')} with {job.said('STORMBENCH_SCHEDULER')}"
    if runtime in SLURM_RUNTIMES and scheduler != "slurm":
        yield error(where, f"{both}: {runtime} needs slurm; use apptainer or none, or STORMBENCH_SCHEDULER=slurm")
    if runtime == "docker" and scheduler not in ("docker", "local"):
        yield error(where, f"{both}: docker runs only under the schedulers docker and local; use apptainer or another runtime of the site")
    if scheduler == "docker" and runtime != "docker":
        yield error(
            where, f"{both}: the scheduler docker needs the runtime docker; set STORMBENCH_RUNTIME=docker, or STORMBENCH_SCHEDULER=local"
        )
    if scheduler in ("local", "docker") and config.nodes > 1:
        yield error(
            job.where("DGXNNODES"),
            f"{job.said('DGXNNODES')}: {job.said('STORMBENCH_SCHEDULER')} has one node; "
            "set DGXNNODES=1, or name the scheduler",
        )
    if config.launcher not in LAUNCHERS_OF[scheduler]:
        needed = " or ".join(name for name, known in LAUNCHERS_OF.items() if config.launcher in known)
        yield error(
            job.where("STORMBENCH_LAUNCHER"),
            f"{job.said('STORMBENCH_LAUNCHER')}: {config.launcher} needs STORMBENCH_SCHEDULER={needed}, "
            f"which is {scheduler}; use STORMBENCH_LAUNCHER=auto",
        )


def _wall_time(job: Job) -> Iterator[Finding]:
    """A queued job needs a limit, and the warning before it must leave time to work."""
    config = job.config
    wall_s, where = config.walltime, job.where("WALLTIME")
    if wall_s is None:
        # a wrong value has its own finding
        if config.scheduler in QUEUED and not job.values.get("WALLTIME", "").strip():
            yield error(where, f"WALLTIME is not set, and {config.scheduler} needs it; set minutes or HH:MM:SS")
        return
    # what is not told is fitted to the limit
    warning_where, warning_s = job.where("STORMBENCH_WARNING", "WALLTIME"), config.warning_s or 0
    said = f"{job.said('STORMBENCH_WARNING')} s before {job.said('WALLTIME')}, which is {wall_s} s"
    if warning_s >= wall_s:
        yield error(
            warning_where, f"{said}: the job would stop at its start; set STORMBENCH_WARNING to at most {wall_s // 2}, or raise WALLTIME"
        )
    elif warning_s > wall_s / 2:
        yield warning(warning_where, f"{said}: less than half of it is left to work; lower STORMBENCH_WARNING or raise WALLTIME")
    if config.scheduler == "lsf":
        if wall_s % 60:
            minutes = -(-wall_s // 60)
            yield error(where, f"{job.said('WALLTIME')}: LSF takes whole minutes; set {clock(60 * minutes)}")
        if warning_s % 60:
            yield warning(
                warning_where, f"{job.said('STORMBENCH_WARNING')}: LSF warns by whole minutes, so it becomes {60 * -(-warning_s // 60)} s"
            )


def _image(job: Job) -> Iterator[Finding]:
    """A runtime needs an image, and an image a runtime."""
    config = job.config
    image = (config.container or "").strip()
    if config.runtime == "none":
        if image:
            yield warning(
                job.where("CONT"), f"CONT={image} has no effect: {job.said('STORMBENCH_RUNTIME')} runs on the node itself; name the runtime"
            )
    elif not image:
        yield warning(
            job.where("STORMBENCH_RUNTIME"), f"CONT is not set, so the {config.runtime} job will ask for it at run time; export CONT=IMAGE"
        )
    elif not is_file_path(image) and (wrong := re.search(r"[\s;'\"`$|&<>()\\]", image)):
        yield error(job.where("CONT"), f"CONT={image}: no registry has an image with {wrong[0]!r} in its name; write REGISTRY/NAME:TAG")
    elif config.runtime == "pyxis" and image.endswith(".sqsh") and not image.startswith(("/", "./")):
        yield error(
            job.where("CONT"), f"CONT={image}: pyxis takes this for a registry's name, as it begins with neither / nor ./; write ./{image}"
        )


RULES = (_combinations, _wall_time, _image)
