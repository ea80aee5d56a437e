"""What all schedulers have in common: one word for each state of a job, and a careful way to call their programs."""

from __future__ import annotations

import abc
import dataclasses
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from stormbench.core.errors import RunError, UserError
from stormbench.job.submission import Submission

LIMIT_S = 60.0
"""How long a scheduler's program may take."""
PENDING, RUNNING, SUSPENDED, COMPLETING, REQUEUED = "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED"
COMPLETED, FAILED, CANCELLED, TIMEOUT, STOPPED, UNKNOWN = "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "STOPPED", "UNKNOWN"
UNDER_WAY = (PENDING, RUNNING, SUSPENDED, COMPLETING, REQUEUED)
"""STOPPED has written a checkpoint from which the job can be continued; UNKNOWN is neither under way nor ended."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskState:
    """The state of a job, or of one task of a job array, as one word with the scheduler's reason."""

    state: str
    reason: str = ""
    task: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A submission: the words of the command, and the file that it reads from its standard input, if any."""

    words: tuple[str, ...]
    stdin: Path | None = None

    def __str__(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words) + (f" < {shlex.quote(str(self.stdin))}" if self.stdin else "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a program said."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All it said on one line, its complaints first."""
        return " ".join(f"{self.err}\n{self.out}".split()) or f"exit code {self.code}, without a word"


class Scheduler(abc.ABC):
    """One scheduler. `program` is what submits."""

    name: ClassVar[str]
    program: ClassVar[str]

    @abc.abstractmethod
    def output(self, folder: Path, n_tasks: int) -> str | None:
        """Return the file for the scheduler's output, in the scheduler's own pattern; `n_tasks` is 0 outside an array."""

    @abc.abstractmethod
    def command(self, script: Path, *, job_name: str, after: str | None, n_tasks: int, more: Sequence[str]) -> Command:
        """Return how to submit `script`.

        Raises:
            UserError: this scheduler can't do what is asked.
        """

    @abc.abstractmethod
    def job_id(self, out: str) -> tuple[str, str | None] | None:
        """Return the job's id and cluster from what the submission printed, or None if there is none in it."""

    @abc.abstractmethod
    def states(self, run: Submission) -> list[TaskState] | None:
        """Return the state of the job, or of each task of an array; None if the scheduler doesn't know it any more.

        Raises:
            RunError: the scheduler doesn't answer.
        """

    @abc.abstractmethod
    def cancel(self, run: Submission) -> None:
        """End the job with all its tasks; one that has ended meanwhile is no error.

        Raises:
            RunError: the scheduler refuses.
        """

    def environment(self, own: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the submission, from the caller's own and the job's variables."""
        return dict(own)

    def found(self) -> bool:
        """Whether jobs can be submitted from this machine."""
        return shutil.which(self.program) is not None


def call(
    words: Sequence[str], *, stdin: Path | None = None, environ: Mapping[str, str] | None = None, limit_s: float = LIMIT_S, hint: str = ""
) -> Answer:
    """Run a scheduler's program to its end.

    Raises:
        UserError: it isn't on this machine.
        RunError: it doesn't answer in time, or can't be started. `hint` says what to do then.
    """
    try:
        with open(stdin or os.devnull, "rb") as stream:
            done = subprocess.run(
                list(words), stdin=stream, capture_output=True, timeout=limit_s, check=False,
                env=dict(os.environ if environ is None else environ),
            )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{words[0]}: not found on this machine; run this on a login node of the system") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{words[0]}: no answer in {limit_s:g} s, the scheduler may be overloaded; {hint or 'try again later'}") from None
    except OSError as error:
        raise RunError(f"{words[0]}: can't be started ({(error.strerror or str(error)).lower()})") from error
    return Answer(code=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode(errors="replace"))


def ask(words: Sequence[str], *, without: str = "") -> Answer:
    """Run a program that is to be read, in English and without the variables that begin with `without`.

    Raises:
        as `call` does.
    """
    kept = {name: value for name, value in os.environ.items() if not (without and name.startswith(without))}
    return call(words, environ={**kept, "LC_ALL": "C"})
