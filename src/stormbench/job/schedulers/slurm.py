"""Slurm, by squeue and scontrol alone: many clusters have no accounting database behind sacct."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stormbench.core.errors import RunError
from stormbench.job.schedulers import base
from stormbench.job.schedulers.base import Command, Scheduler, TaskState, ask
from stormbench.job.submission import Submission

STATES = {
    "PENDING": base.PENDING, "CONFIGURING": base.PENDING, "RUNNING": base.RUNNING, "SIGNALING": base.RUNNING, "RESIZING": base.RUNNING,
    "SUSPENDED": base.SUSPENDED, "STOPPED": base.SUSPENDED, "COMPLETING": base.COMPLETING, "STAGE_OUT": base.COMPLETING,
    "RESV_DEL_HOLD": base.PENDING, "REQUEUED": base.REQUEUED, "REQUEUE_FED": base.REQUEUED, "REQUEUE_HOLD": base.REQUEUED,
    "SPECIAL_EXIT": base.REQUEUED,
    "COMPLETED": base.COMPLETED, "CANCELLED": base.CANCELLED, "REVOKED": base.CANCELLED, "PREEMPTED": base.CANCELLED,
    "TIMEOUT": base.TIMEOUT, "DEADLINE": base.TIMEOUT,
    "FAILED": base.FAILED, "NODE_FAIL": base.FAILED, "BOOT_FAIL": base.FAILED, "OUT_OF_MEMORY": base.FAILED, "LAUNCH_FAILED": base.FAILED,
}  # fmt: skip
OVERRULING = ("SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_DEBUG")
"""Variables that would turn a submission into another one than the record says."""
_ID = re.compile(r"^(\d+)(?:;(\S+))?$", re.MULTILINE)
_SENTENCE = re.compile(r"^Submitted batch job (\d+)(?: on cluster (\S+))?", re.MULTILINE)
_UNKNOWN_JOB = "Invalid job id"


class Slurm(Scheduler):
    """Slurm."""

    name = "slurm"
    program = "sbatch"

    def output(self, folder: Path, n_tasks: int) -> str:
        # a % of the path itself would begin a replacement symbol
        return str(folder).replace("%", "%%") + ("/job-%A_%a.out" if n_tasks else "/job-%j.out")

    def command(self, script: Path, *, job_name: str, after: str | None, n_tasks: int, more: Sequence[str]) -> Command:
        options = [f"--dependency=afterok:{after}"] if after else []
        if n_tasks:
            options.append(f"--array=1-{n_tasks}")
        return Command(words=("sbatch", "--parsable", *options, *more, str(script)))

    def job_id(self, out: str) -> tuple[str, str | None] | None:
        # sites' wrappers print more; what --parsable prints stands alone on the last such line
        found = list(_ID.finditer(out)) or list(_SENTENCE.finditer(out))
        return (found[-1][1], found[-1][2]) if found else None

    def environment(self, own: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
        # sbatch's variables stand above the directives: they must be this config's, not those of one sourced before
        kept = {name: value for name, value in own.items() if not name.startswith("SBATCH_")}
        given = {name: value for name, value in job.items() if name.startswith("SBATCH_") and name not in OVERRULING and value.strip()}
        return {**kept, **given}

    def states(self, run: Submission) -> list[TaskState] | None:
        where = [f"--clusters={run.cluster}"] if run.cluster else []
        words = ["--noheader", "--array", "--all", "--states=all", f"--jobs={run.job_id}", "--format=%i|%T|%r"]
        answer = ask(["squeue", *where, *words], without="SQUEUE_")
        found = parse_squeue(answer.out)
        if answer.code == 0 and found:
            return found
        if answer.code != 0 and _UNKNOWN_JOB not in answer.words:
            raise RunError(f"squeue: job {run.job_id}: {answer.words}")
        second = ask(["scontrol", *where, "--oneliner", "show", "job", run.job_id])
        found = parse_scontrol(second.out) if second.code == 0 else []
        if not found and _UNKNOWN_JOB not in second.words:
            said = f" (squeue: {answer.words})" if answer.code == 0 and answer.out.strip() else ""
            raise RunError(f"scontrol: job {run.job_id}: {second.words}{said}")
        return found or None

    def cancel(self, run: Submission) -> None:
        answer = ask(["scancel", *([f"--clusters={run.cluster}"] if run.cluster else []), run.job_id], without="SCANCEL_")
        if answer.code != 0 and not re.search(rf"{_UNKNOWN_JOB}|already complet", answer.words):
            raise RunError(f"scancel: job {run.job_id}: {answer.words}")


def parse_squeue(text: str) -> list[TaskState]:
    """Return the states in what squeue prints by `%i|%T|%r`; with several clusters, it also prints their names."""
    found = []
    for line in text.splitlines():
        job, bar, rest = line.strip().partition("|")
        if bar:
            state, _, reason = rest.partition("|")
            found.append(_state(state, reason, job.partition("_")[2]))
    return _in_order(found)


def parse_scontrol(text: str) -> list[TaskState]:
    """Return the states in what `scontrol show job` prints, on one line for each job or on several."""
    found = []
    for block in re.split(r"^(?=JobId=)", text, flags=re.MULTILINE):
        state = re.search(r"\bJobState=(\S+)", block)
        reason = re.search(r"\bReason=(\S+)", block)
        task = re.search(r"\bArrayTaskId=(\S+)", block)
        if state:
            found.append(_state(state[1], reason[1] if reason else "", task[1] if task else ""))
    return _in_order(found)


def _state(state: str, reason: str, task: str) -> TaskState:
    # CANCELLED+ and "CANCELLED by 1000" are both in use
    words = re.split(r"[+\s]", state.strip().upper())
    word = STATES.get(words[0], base.UNKNOWN)
    told = "" if reason.strip() in ("None", "(null)", "") else reason.strip()
    if words[0] not in (word, "") and words[0] != told.upper():
        told = f"{words[0]} {told}".strip()
    return TaskState(state=word, reason=told, task=int(task) if task.isdigit() else None)


def _in_order(states: list[TaskState]) -> list[TaskState]:
    return sorted(states, key=lambda state: -1 if state.task is None else state.task)
