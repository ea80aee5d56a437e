"""This machine as its own scheduler: the script runs detached in a session of its own; docker is one of its steps."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stormbench.core.errors import RunError, UserError
from stormbench.job.schedulers import base
from stormbench.job.schedulers.base import Command, Scheduler, TaskState
from stormbench.job.submission import Submission, last_line, this_host

OUTPUT = "job.out"
GRACE_S = 60.0
"""How long a cancelled job has for its checkpoint and its container; its script gives the workload 40 s."""


class Local(Scheduler):
    """Runs a job here; `name` is local or docker."""

    program = "bash"

    def __init__(self, name: str) -> None:
        self.kind = name

    def found(self) -> bool:
        return all(shutil.which(program) for program in self._programs())

    def missing(self) -> str:
        """Return the first program that is missing."""
        return next(program for program in self._programs() if not shutil.which(program))

    def output(self, folder: Path, n_tasks: int) -> None:
        return None

    def command(self, script: Path, *, job_name: str, after: str | None, n_tasks: int, more: Sequence[str]) -> Command:
        if n_tasks:
            raise UserError(
                f"--array: STORMBENCH_SCHEDULER={self.kind} has no job arrays; submit once for each seed with SEED=N in the environment, "
                "or set NEXP for several trials in one job"
            )
        if after:
            raise UserError(f"--after {after}: STORMBENCH_SCHEDULER={self.kind} has no queue that waits; submit it when that run has ended")
        if more:
            raise UserError(f"{' '.join(more)}: STORMBENCH_SCHEDULER={self.kind} has no program that takes options; leave them out")
        return Command(words=("bash", str(script)))

    def job_id(self, out: str) -> tuple[str, str | None] | None:
        return (out.strip(), None) if out.strip().isdigit() else None

    def environment(self, own: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
        environ = dict(own)
        bin_folder = str(Path(sys.executable).parent)
        # a stormbench that was called by its path finds itself and torchrun again in the job
        if self.kind == "local" and shutil.which("stormbench", path=environ.get("PATH")) is None:
            environ["PATH"] = os.pathsep.join([bin_folder, environ["PATH"]] if environ.get("PATH") else [bin_folder])
            environ.setdefault("PYTHON", sys.executable)
        return environ

    def start(self, command: Command, folder: Path, environ: Mapping[str, str]) -> tuple[str, str]:
        """Start the script; return its process id and start time.

        Raises:
            RunError: it can't be started.
        """
        try:
            with open(folder / OUTPUT, "ab") as out:
                process = subprocess.Popen(
                    list(command.words), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=dict(environ),
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise RunError(f"{command}: can't be started ({(error.strerror or str(error)).lower()})") from error
        # it isn't waited for: it goes on after this command
        process.returncode = 0
        return str(process.pid), start_time(process.pid) or ""

    def states(self, run: Submission) -> list[TaskState] | None:
        if run.host not in (None, this_host()):
            return [TaskState(state=base.UNKNOWN, reason=f"it was started on {run.host}; ask there")] if not run.progress.ended else None
        if _runs(run):
            return [TaskState(state=base.RUNNING)]
        if run.progress.ended:
            return None
        return [TaskState(state=base.FAILED, reason=last_line(run.folder / OUTPUT) or "ended without its last words")]

    def cancel(self, run: Submission) -> None:
        if run.host not in (None, this_host()):
            raise UserError(f"{run.folder}: the run was started on {run.host}; cancel it there")
        if not _runs(run):
            return
        pid = int(run.job_id)
        _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while _group_lives(pid):
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
                break
            time.sleep(0.05)

    def _programs(self) -> tuple[str, ...]:
        return ("bash", "docker") if self.kind == "docker" else ("bash",)


def start_time(pid: int) -> str | None:
    """Return when a process started, in whatever form tells two with the same id apart; None if it doesn't run."""
    try:
        # behind the name, which may hold anything, stand the state, and 19 fields on the start in ticks since boot
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _told_by_ps(pid)
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _told_by_ps(pid: int) -> str | None:
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _runs(run: Submission) -> bool:
    """Whether the run's own process is there, and not another one with its number."""
    return run.job_id.isdigit() and start_time(int(run.job_id)) == run.started


def _group_lives(group: int) -> bool:
    """Whether a process of the group is left; dead ones that nobody has waited for don't count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if fields[2] == str(group) and fields[0] not in "ZX":
                return True
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
