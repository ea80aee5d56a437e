"""PBS Pro and OpenPBS, and Torque as far as it is alike: qstat's full listing, in which every version has the same lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stormbench.core.errors import RunError, UserError
from stormbench.job.schedulers import base
from stormbench.job.schedulers.base import Command, Scheduler, TaskState, ask
from stormbench.job.submission import Submission

STATES = {
    "Q": base.PENDING, "W": base.PENDING, "H": base.PENDING, "T": base.PENDING, "R": base.RUNNING, "B": base.RUNNING,
    "S": base.SUSPENDED, "U": base.SUSPENDED, "E": base.COMPLETING,
}  # fmt: skip
FINISHED = ("F", "X", "C")
DELETED_SUBSTATE = "91"
_ID = re.compile(r"^(\d+(?:\[\])?(?:\.[\w.-]+)?)$", re.MULTILINE)
_GONE = re.compile(r"Unknown Job|has finished|Job ID invalid|history", re.IGNORECASE)
_WALLTIME, _KILLED = "-29", ("265", "271")
"""Exit status of a job over its wall time, and of one ended by KILL or TERM (256 and the signal)."""


class Pbs(Scheduler):
    """PBS."""

    name = "pbs"
    program = "qsub"

    def output(self, folder: Path, n_tasks: int) -> str:
        # there is no symbol for the job's id; below a folder each job names its own file
        return f"{folder}/"

    def command(self, script: Path, *, job_name: str, after: str | None, n_tasks: int, more: Sequence[str]) -> Command:
        if n_tasks == 1:
            raise UserError("--array: PBS has no job array of one job; give two seeds or more, or SEED=N in the environment instead")
        options = ["-W", f"depend=afterok:{after}"] if after else []
        if n_tasks:
            options += ["-J", f"1-{n_tasks}"]
        # Slurm and LSF hand on the environment of the submission too
        return Command(words=("qsub", "-V", *options, *more, str(script)))

    def job_id(self, out: str) -> tuple[str, str | None] | None:
        found = _ID.findall(out.replace("\r", ""))
        return (found[-1], None) if found else None

    def states(self, run: Submission) -> list[TaskState] | None:
        tasks = ["-t"] if run.array else []
        answer = ask(["qstat", "-x", "-f", *tasks, run.job_id])
        found = parse_qstat(answer.out)
        # Torque prints XML for -x, and servers without a history refuse it
        if not found:
            answer = ask(["qstat", "-f", *tasks, run.job_id])
            found = parse_qstat(answer.out)
        if found:
            return found
        # what can't be read is no word of the job's end
        if not _GONE.search(answer.words):
            raise RunError(f"qstat: job {run.job_id}: {answer.words}")
        return None

    def cancel(self, run: Submission) -> None:
        answer = ask(["qdel", run.job_id])
        if answer.code != 0 and not re.search(r"Unknown Job|has finished|invalid state", answer.words, re.IGNORECASE):
            raise RunError(f"qdel: job {run.job_id}: {answer.words}")


def parse_qstat(text: str) -> list[TaskState]:
    """Return the states in a full listing; of an array its tasks, or the array itself where they aren't listed."""
    whole: list[TaskState] = []
    tasks: list[TaskState] = []
    # long values go on behind a tab
    for block in re.split(r"^Job Id: ?", text.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
        lines = block.splitlines()
        values = {name.strip(): value.strip() for name, equals, value in (line.partition(" = ") for line in lines[1:]) if equals}
        index = re.match(r"\d+(?:\[(\d+)\]|-(\d+))", lines[0].strip())
        if "job_state" in values:
            state = _state(values, (index[1] or index[2]) if index else None)
            (whole if state.task is None else tasks).append(state)
    return sorted(tasks, key=lambda state: state.task or 0) or whole


def _state(values: dict[str, str], index: str | None) -> TaskState:
    state, code, comment = values["job_state"], values.get("Exit_status", values.get("exit_status", "")), values.get("comment", "")
    task = int(index) if index is not None else None
    if state not in FINISHED:
        return TaskState(state=STATES.get(state, base.UNKNOWN), reason=comment if state in ("Q", "W", "H", "S", "U") else "", task=task)
    if code in _KILLED or values.get("substate") == DELETED_SUBSTATE or (not code and state == "F"):
        return TaskState(state=base.CANCELLED, reason=comment, task=task)
    if code == _WALLTIME:
        return TaskState(state=base.TIMEOUT, reason="over its wall time", task=task)
    # the entry of a finished task of an array has no exit status in some versions
    failed = code not in ("0", "")
    return TaskState(state=base.FAILED if failed else base.COMPLETED, reason=f"exit code {code}" if failed else "", task=task)
