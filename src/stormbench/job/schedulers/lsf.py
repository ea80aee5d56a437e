"""LSF: `bsub < job.sh`, bjobs in the form that can be chosen, or where its version has none of that, its plain table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stormbench.core.errors import RunError
from stormbench.job.schedulers import base
from stormbench.job.schedulers.base import Command, Scheduler, TaskState, ask
from stormbench.job.submission import Submission

STATES = {
    "PEND": base.PENDING, "WAIT": base.PENDING, "PROV": base.PENDING, "FWD_PEND": base.PENDING, "RUN": base.RUNNING,
    "PSUSP": base.SUSPENDED, "USUSP": base.SUSPENDED, "SSUSP": base.SUSPENDED,
    "DONE": base.COMPLETED, "EXIT": base.FAILED, "ZOMBI": base.FAILED, "UNKWN": base.UNKNOWN,
}  # fmt: skip
FORMAT = "jobindex stat exit_code exit_reason pend_reason delimiter='|'"
_SUBMITTED = re.compile(r"Job <(\d+)> is submitted")
_LIMIT = re.compile(r"TERM_(RUNLIMIT|CPULIMIT|DEADLINE)")
_KILLED = re.compile(r"TERM_(OWNER|ADMIN|FORCE_OWNER|FORCE_ADMIN|REMOVE)")
_BY_SIGNAL = ("130", "143")


class Lsf(Scheduler):
    """IBM Spectrum LSF."""

    name = "lsf"
    program = "bsub"

    def output(self, folder: Path, n_tasks: int) -> str:
        return f"{folder}/" + ("job-%J_%I.out" if n_tasks else "job-%J.out")

    def command(self, script: Path, *, job_name: str, after: str | None, n_tasks: int, more: Sequence[str]) -> Command:
        options = ["-w", f"done({after})"] if after else []
        if n_tasks:
            options += ["-J", f"{job_name}[1-{n_tasks}]"]
        # only from its standard input does every bsub read directives
        return Command(words=("bsub", *options, *more), stdin=script)

    def job_id(self, out: str) -> tuple[str, str | None] | None:
        found = _SUBMITTED.findall(out)
        return (found[-1], None) if found else None

    def states(self, run: Submission) -> list[TaskState] | None:
        answer = ask(["bjobs", "-a", "-noheader", "-o", FORMAT, run.job_id])
        found = parse_chosen(answer.out)
        if found:
            return found
        if not _not_found(answer.words):
            answer = ask(["bjobs", "-a", "-w", run.job_id])
            found = parse_table(answer.out)
            if found:
                return found
        if _not_found(answer.words):
            return None
        raise RunError(f"bjobs: job {run.job_id}: {answer.words}")

    def cancel(self, run: Submission) -> None:
        answer = ask(["bkill", run.job_id])
        if answer.code != 0 and not re.search(r"already finished|No matching job|is not found", answer.words):
            raise RunError(f"bkill: job {run.job_id}: {answer.words}")


def parse_chosen(text: str) -> list[TaskState]:
    """Return the states in what bjobs prints by FORMAT."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) == 5 and fields[1] in STATES:
            index, state, code, why, waiting = ("" if field == "-" else field for field in fields)
            found.append(_state(state, code, why, waiting, index))
    return sorted(found, key=lambda state: state.task or 0)


def parse_table(text: str) -> list[TaskState]:
    """Return the states in bjobs' plain table, whose third column has the state and whose job name ends in an array's [index]."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[0].isdigit() and fields[2] in STATES:
            index = re.search(r"\[(\d+)\]", line)
            found.append(_state(fields[2], "", "", "", index[1] if index else ""))
    return sorted(found, key=lambda state: state.task or 0)


def _state(state: str, code: str, why: str, waiting: str, index: str) -> TaskState:
    word = STATES[state]
    if state == "EXIT" and _LIMIT.search(why):
        word = base.TIMEOUT
    elif state == "EXIT" and (_KILLED.search(why) or code in _BY_SIGNAL):
        word = base.CANCELLED
    reason = waiting if word == base.PENDING else why or (f"exit code {code}" if word == base.FAILED and code else "")
    return TaskState(state=word, reason=reason.rstrip(";"), task=int(index) if index.isdigit() and index != "0" else None)


def _not_found(words: str) -> bool:
    return bool(re.search(r"is not found|No matching job|No (unfinished )?job found", words))
