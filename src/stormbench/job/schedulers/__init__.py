"""The schedulers by name: how each takes a job script, tells of a job, and ends it."""

from __future__ import annotations

from stormbench.job.schedulers.base import Scheduler


def by_name(name: str) -> Scheduler:
    """Return the scheduler called `name`, one of those in `job.config.SCHEDULERS`."""
    # only the one that is used is imported
    if name == "slurm":
        from stormbench.job.schedulers.slurm import Slurm

        return Slurm()
    if name == "lsf":
        from stormbench.job.schedulers.lsf import Lsf

        return Lsf()
    if name == "pbs":
        from stormbench.job.schedulers.pbs import Pbs

        return Pbs()
    from stormbench.job.schedulers.local import Local

    return Local(name)
