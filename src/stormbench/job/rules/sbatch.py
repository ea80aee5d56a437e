"""What sbatch reads from the environment: it must ask for the very allocation that the job is laid out for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.core.errors import did_you_mean
from stormbench.job.findings import Finding, error, warning

if TYPE_CHECKING:
    from stormbench.job.load import Job

_GPUS = re.compile(r"(?:[A-Za-z0-9_.-]+:)?([0-9]{1,9})")
_SLURM_TIME = re.compile(r"(?:(\d{1,4})-(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?|(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?)", re.ASCII)
_GRES = re.compile(r"gpu:(?:[A-Za-z0-9_.-]+:)?([0-9]{1,9})(?:\([^)]*\))?")
_READ = (
    "ACCOUNT ACCTG_FREQ ARRAY_INX BATCH CLUSTERS CONSTRAINT CONTAINER CONTAINER_ID CORE_SPEC CPU_FREQ_REQ CPUS_PER_GPU DEBUG DELAY_BOOT "
    "DISTRIBUTION ERROR EXCLUSIVE EXPORT GET_USER_ENV GPU_BIND GPU_FREQ GPUS GPUS_PER_NODE GPUS_PER_TASK GRES GRES_FLAGS HINT IGNORE_PBS "
    "INPUT JOB_NAME MEM_BIND MEM_PER_CPU MEM_PER_GPU MEM_PER_NODE NETWORK NO_KILL NO_REQUEUE OPEN_MODE OUTPUT OVERCOMMIT PARTITION POWER "
    "PROFILE QOS REQ_SWITCH REQUEUE RESERVATION SIGNAL SPREAD_JOB THREAD_SPEC THREADS_PER_CORE TIMELIMIT TRES_BIND TRES_PER_TASK "
    "USE_MIN_NODES WAIT WAIT_ALL_NODES WAIT4SWITCH WCKEY"
)  # fmt: skip
READ_BY_SBATCH = frozenset(f"SBATCH_{name}" for name in _READ.split())
"""The input environment variables of sbatch's manual."""


def _sbatch(job: Job) -> Iterator[Finding]:
    """What sbatch reads from the environment asks for the very allocation that the job is laid out for."""
    layout = job.layout
    if layout is None or job.config.scheduler != "slurm":
        return
    for name, wanted, what in (
        ("SBATCH_GPUS", layout.gpus, f"{layout.nodes} nodes x {layout.gpus_per_node} GPUs"),
        ("SBATCH_GPUS_PER_NODE", layout.gpus_per_node, f"{layout.gpus_per_node} GPUs per node"),
        ("SBATCH_GRES", layout.gpus_per_node, f"{layout.gpus_per_node} GPUs per node"),
    ):
        text = job.values.get(name, "").strip()
        if name == "SBATCH_GRES":
            # other resources may stand beside the GPUs
            text = next((item for item in text.split(",") if item.split(":")[0] == "gpu"), "")
        match = (_GRES if name == "SBATCH_GRES" else _GPUS).fullmatch(text)
        if text and (match is None or int(match[1]) != wanted):
            right = f"{text.rstrip('0123456789').rstrip(':')}:{wanted}" if name == "SBATCH_GRES" else wanted
            fix = f"set {name}={right} or remove it" if wanted else "remove it"
            yield error(job.where(name), f"{name}={job.values[name]}: the layout is {what}, so sbatch would ask for something else; {fix}")
    text = job.values.get("SBATCH_TIMELIMIT", "").strip()
    if text and layout.wall_s is not None:
        seconds = slurm_seconds(text)
        if seconds is None:
            yield error(job.where("SBATCH_TIMELIMIT"), f"SBATCH_TIMELIMIT={text}: not a time limit of Slurm's; set it to $WALLTIME")
        # Slurm itself counts in whole minutes, rounded up
        elif -(-seconds // 60) != -(-layout.wall_s // 60):
            yield error(
                job.where("SBATCH_TIMELIMIT"),
                f"SBATCH_TIMELIMIT={text}: contradicts {job.said('WALLTIME')}; "
                "set it to $WALLTIME or remove it",
            )


def slurm_seconds(text: str) -> int | None:
    """Return the seconds of `minutes`, `minutes:seconds`, `h:mm:ss`, `d-h`, `d-h:mm` or `d-h:mm:ss`; None for anything else."""
    match = _SLURM_TIME.fullmatch(text)
    if match is None:
        return None
    parts = [int(part or 0) for part in match.groups()]
    if match[1] is not None:
        return ((parts[0] * 24 + parts[1]) * 60 + parts[2]) * 60 + parts[3]
    if match[7] is not None:
        return (parts[4] * 60 + parts[5]) * 60 + parts[6]
    return parts[4] * 60 + parts[5]


def _unread(job: Job) -> Iterator[Finding]:
    """A variable that sbatch doesn't read asks for nothing."""
    for name in sorted(job.own):
        if name.startswith("SBATCH_") and name not in READ_BY_SBATCH:
            if name in ("SBATCH_NODES", "SBATCH_NNODES"):
                fix = 'sbatch takes the number of nodes from -N alone; remove it and submit with sbatch -N "$DGXNNODES"'
            else:
                fix = f"sbatch reads no variable of this name{did_you_mean(name, READ_BY_SBATCH) or '; remove it'}"
            yield warning(job.where(name), f"{job.said(name)} has no effect: {fix}")


def _account(job: Job) -> Iterator[Finding]:
    """NERSC charges GPU nodes to accounts of their own."""
    account = job.values.get("SBATCH_ACCOUNT", "").strip()
    if (job.config.system or "").split("_")[0] == "Perlmutter" and job.config.gpus_per_node and account and not account.endswith("_g"):
        told = f"SBATCH_ACCOUNT={account}: on Perlmutter the account of a GPU job ends in _g; use {account}_g"
        yield warning(job.where("SBATCH_ACCOUNT"), told)


RULES = (_sbatch, _unread, _account)
