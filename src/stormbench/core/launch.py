"""Which rank am I, of how many, and where: one answer from the variables of whatever started this process.

Needs neither MPI nor torch, so every part of the kit agrees on it. Several launchers often left their variables at once
(mpirun inside an srun step inside a batch job); the tables here say whose count, and why.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from stormbench.core import launchers
from stormbench.core.errors import UserError, did_you_mean
from stormbench.core.launchers import LAUNCH_ID, Launch, build, number, read
from stormbench.core.slurm_step import read_step

__all__ = ["LAUNCHERS", "LAUNCH_ID", "Launch", "detect", "rank_variable", "scheduler_job"]

FIRST = (
    (launchers.TORCHRUN, "torchrun starts its ranks inside a task of any launcher below, and sets all of these anew"),
    (launchers.HOROVODRUN, "horovodrun --gloo starts its ranks by ssh or by jsrun, inside a job of any launcher below"),
    (launchers.JSRUN, "jsrun sets Open MPI's variables too, and only its own say which launcher it was"),
    (launchers.OPENMPI, "mpirun starts its daemons by srun, so Slurm's variables in its ranks describe the daemons"),
    (launchers.MVAPICH, "as Open MPI"),
    (launchers.FLUX, "a Flux instance runs inside a Slurm job, and offers PMI as well"),
    (launchers.HYDRA, "as Open MPI; MPI_LOCALRANKID tells Hydra's PMI_RANK from the one that srun --mpi=pmi2 sets"),
)
"""Before an srun step. But an MPI launcher's world of one rank gives way to a step of more: `mpirun -n 1` ran a script that called srun."""

LAST = (
    (launchers.PALS, "srun sets these too on Cray machines, where Slurm's own say more"),
    (launchers.PMI, "as PALS, with srun --mpi=pmi2"),
    (launchers.PMIX, "as PALS, with srun --mpi=pmix; they lack the world size"),
)
"""After an srun step, with which they must agree."""

LAUNCHERS = ("torchrun", "horovodrun", "jsrun", "openmpi", "mvapich", "flux", "mpich", "slurm", "pals", "pmix")
_STARTERS = {"slurm": "srun", "horovodrun": "horovodrun --gloo", "openmpi": "mpirun", "mvapich": "mpirun", "flux": "flux run",
             "mpich": "mpiexec", "pals": "mpiexec"}  # fmt: skip


def detect(environ: Mapping[str, str] | None = None, *, launcher: str | None = None) -> Launch:
    """Return this process's rank and place from `environ` (default: the process's own variables).

    With `launcher` only that one's variables are read, whatever else is set. Empty variables count as unset.

    Raises:
        UserError: the variables contradict each other, are no numbers, or a set of them is incomplete; or `launcher`
            did not start this process.
    """
    variables = {name: value.strip() for name, value in (os.environ if environ is None else environ).items() if value.strip()}
    if launcher is not None:
        return _from_launcher(variables, launcher)
    by_hand = read(variables, launchers.TORCHRUN)
    if by_hand is None:
        return _world_size_agrees(variables, _below_torchrun(variables))
    if "TORCHELASTIC_RUN_ID" in variables:
        return by_hand
    return _completed(variables, by_hand, _below_torchrun(variables))


def scheduler_job(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the batch scheduler's job id with its kind, such as `slurm-4711`, or None outside a job."""
    variables = os.environ if environ is None else environ
    kinds = (("slurm", "SLURM_JOB_ID"), ("pbs", "PBS_JOBID"), ("lsf", "LSB_JOBID"), ("flux", "FLUX_JOB_ID"), ("cobalt", "COBALT_JOBID"))
    return next((f"{kind}-{variables[name]}" for kind, name in kinds if variables.get(name)), None)


def rank_variable(launcher: str) -> str | None:
    """Return the variable that carries the rank under `launcher`: what its tasks have and their parents lack."""
    if launcher == "slurm":
        return "SLURM_PROCID"
    return next((source.rank for source, _ in (*FIRST, *LAST) if source.launcher == launcher), None)


def _below_torchrun(variables: Mapping[str, str]) -> Launch:
    """Return what the launchers other than torchrun say, in their order."""
    step = read_step(variables)
    for source, _ in FIRST[1:]:
        found = read(variables, source)
        if found is not None:
            return step if step is not None and found.world_size == 1 < step.world_size else found
    if step is not None:
        _refuse_other_ranks(variables, step)
        return step
    for source, _ in LAST:
        found = read(variables, source)
        if found is not None:
            return found
    return _single(variables)


def _single(variables: Mapping[str, str]) -> Launch:
    """Return the place of a process that no launcher started."""
    job = scheduler_job(variables)
    launch = build(variables, "none", ("rank", 0), ("world size", 1))
    return dataclasses.replace(launch, evidence=f"no launcher's variables{f', in the batch shell of job {job}' if job else ''}")


def _from_launcher(variables: Mapping[str, str], launcher: str) -> Launch:
    """Return what `launcher` alone says."""
    if launcher not in LAUNCHERS:
        raise UserError(f"launcher {launcher}: not one of {', '.join(LAUNCHERS)}{did_you_mean(launcher, LAUNCHERS)}")
    sources = [source for source, _ in (*FIRST, *LAST) if source.launcher == launcher]
    found = [read_step(variables)] if launcher == "slurm" else [read(variables, source) for source in sources]
    for launch in found:
        if launch is not None:
            return launch
    missing = "SLURM_STEP_ID" if launcher == "slurm" else sources[0].rank
    raise UserError(f"{missing} is not set, so {launcher} did not start this process; start it with {_STARTERS.get(launcher, launcher)}")


def _completed(variables: Mapping[str, str], by_hand: Launch, below: Launch) -> Launch:
    """Return RANK and WORLD_SIZE as a job script set them, with what it left out taken from the launcher underneath.

    Raises:
        UserError: they look left over from another launch: one rank only, or another rank in a world of the same size.
    """
    told = f"RANK={by_hand.rank} and WORLD_SIZE={by_hand.world_size} are set, but {below.launcher} says {below.evidence}"
    if by_hand.world_size == 1 < below.world_size:
        raise UserError(f"{told}; unset RANK and WORLD_SIZE")
    if by_hand.world_size != below.world_size:
        return by_hand
    if by_hand.rank != below.rank:
        raise UserError(f"{told}; unset RANK and WORLD_SIZE, or set them as {below.launcher} does")
    names = [field.name for field in dataclasses.fields(Launch)]
    missing = {name: getattr(below, name) for name in names if getattr(by_hand, name) in (None, ())}
    return dataclasses.replace(by_hand, **missing)


def _world_size_agrees(variables: Mapping[str, str], launch: Launch) -> Launch:
    """Return `launch` if WORLD_SIZE or LOCAL_RANK, alone in the environment, don't speak of more ranks than it knows."""
    size, local_rank = number(variables, "WORLD_SIZE", minimum=1), number(variables, "LOCAL_RANK")
    # some sites' profiles set WORLD_SIZE=1 everywhere
    if size and size[1] not in (1, launch.world_size):
        if launch.launcher == "none":
            raise UserError(f"WORLD_SIZE={size[1]} is set but RANK is not; unset WORLD_SIZE, or start with torchrun, srun or mpirun")
        told = f"WORLD_SIZE={size[1]} is set, but {launch.launcher} started {launch.world_size} ranks"
        raise UserError(f"{told} ({launch.evidence}); unset WORLD_SIZE")
    if local_rank and local_rank[1] > 0 and launch.launcher == "none":
        raise UserError(f"LOCAL_RANK={local_rank[1]} is set but RANK is not; unset LOCAL_RANK, or start with torchrun, srun or mpirun")
    return launch


def _refuse_other_ranks(variables: Mapping[str, str], step: Launch) -> None:
    """Raise if PMI, PMIx or PALS give another rank or world size than the srun step which should have set them."""
    for name, expected in (("PALS_RANKID", step.rank), ("PMI_RANK", step.rank), ("PMI_SIZE", step.world_size), ("PMIX_RANK", step.rank)):
        found = number(variables, name)
        if found and found[1] != expected:
            told = f"{name}={found[1]} contradicts srun's {step.evidence}"
            raise UserError(f"{told}; unset {name} if it is left over, or start the ranks with only one of srun and mpiexec")
