"""Runs a submitted script in the foreground as a scheduler would: warned and stopped at its limit, requeued, cancelled, cleaned up."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from stormbench.core.files import atomic_path
from stormbench.job.standins.options import Rejected
from stormbench.job.standins.plan import INSIDE, State
from stormbench.job.standins.ranks import GRACE_S, code_of, open_output

Job = dict[str, Any]
"""A job as JSON: scheduler, name, words, cwd, variables, nodes, ranks_per_node, cores_per_rank, gpus_per_node, wall_s, array, output,
error, append, shell, warning [signal, seconds before the limit, whether only to the script], depends [[kind, id]], queue,
submitted_from, parent (the job it was submitted from)."""

MAX_RESTARTS = 100
_PR_SET_CHILD_SUBREAPER = 36


def script_text(path: str) -> str:
    """Return a job script's text; bytes that are no UTF-8 come through as they are.

    Raises:
        OSError: it can't be read.
    """
    return Path(path).read_bytes().decode("utf-8", "surrogateescape")


def take(state: State, text: str, job: Job) -> str:
    """Keep a copy of the script, as schedulers do, and return the job's id.

    Raises:
        Rejected: it depends on a job that doesn't exist.
    """
    known = state.jobs()
    for kind, other in job["depends"]:
        if other not in known:
            raise Rejected(f"Job dependency problem: {kind}:{other}, but there is no job {other}")
    number = state.new_job({**job, "state": "PENDING", "code": None})
    with atomic_path(state.kept("scripts", number)) as path:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(0o755)
    return number


def run_all(state: State, number: str) -> int:
    """Run the job and then those that were submitted from inside it; return the exit code of the last that ran.

    Inside another job it only waits in the queue: the one that runs that job takes it up afterwards.
    """
    if INSIDE in os.environ:
        print(f"rehearsal: job {number} runs after job {os.environ[INSIDE]}", file=sys.stderr, flush=True)
        return 0
    code = _run(state, number)
    while True:
        waiting = [other for other, job in state.jobs().items() if job["state"] == "PENDING" and job["parent"] is not None]
        claimed = next((other for other in waiting if _claim(state, other)), None)
        if claimed is None:
            return code
        code = _run(state, claimed)


def end(state: State, kind: str, number: str) -> bool:
    """Ask the runner of a job to cancel or requeue it; return whether the job was there to be asked."""
    job = state.jobs().get(number)
    if job is None or job["state"] not in ("PENDING", "RUNNING"):
        return False
    if job["state"] == "PENDING" and kind == "cancel":
        state.set_job(number, {"state": "CANCELLED", "code": 1})
    else:
        state.mark(kind, number).touch()
    return True


def _claim(state: State, number: str) -> bool:
    with contextlib.suppress(FileExistsError):
        state.mark("claimed", number).touch(exist_ok=False)
        return True
    return False


def _run(state: State, number: str) -> int:
    """Run every index of the job, each as often as it requeues itself; return the highest code."""
    job = state.jobs()[number]
    failed = [other for kind, other in job["depends"] if kind in ("afterok", "done") and state.jobs()[other]["code"] not in (0, None)]
    if failed:
        state.set_job(number, {"state": "CANCELLED", "code": 1})
        print(f"rehearsal: job {number} doesn't run, as it depends on job {failed[0]}, which failed", file=sys.stderr, flush=True)
        return 1
    scheduler = importlib.import_module(f"stormbench.job.standins.{job['scheduler']}")
    codes = []
    for index in job["array"] or [None]:
        for restarts in range(MAX_RESTARTS):
            environment = {**scheduler.environment(state, job, number, index, restarts), INSIDE: number}
            state.set_job(number, {"state": "RUNNING", "restarts": restarts})
            outcome, code = _Attempt(state, job, number, index, restarts, environment).run()
            if outcome != "REQUEUED":
                break
        codes.append(code)
        state.set_job(number, {"state": outcome, "code": max(codes)})
        if outcome == "CANCELLED":
            break
    return max(codes)


class _Attempt:
    """One start of the script, until it and all that it started are gone."""

    def __init__(self, state: State, job: Job, number: str, index: int | None, restarts: int, environment: Mapping[str, str]) -> None:
        self._state, self._job, self._number = state, job, number
        self._environment = dict(environment)
        self._append = job["append"] or restarts > 0
        self._paths = [_expanded(job[name], number, index, job["name"]) for name in ("output", "error")]
        self._received: list[int] = []

    def run(self) -> tuple[str, int]:
        """Return the outcome (COMPLETED, FAILED, CANCELLED, TIMEOUT or REQUEUED) and the exit code."""
        # what the script leaves behind becomes this process's child, where it can be found
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        script = str(self._state.kept("scripts", self._number))
        command = [*([self._job["shell"]] if self._job["shell"] else []), script, *self._job["words"]]
        if self._job["scheduler"] == "slurm":
            # the script's own process id, which tells a batch script from a shell in an allocation
            command = ["/bin/sh", "-c", 'SLURM_TASK_PID=$$ exec "$@"', "sh", *command]
        # who is told that the job has started may end it at once
        with contextlib.ExitStack() as files, self._listening():
            out, err = (files.enter_context(open_output(path, "ab" if self._append else "wb")) if path else None for path in self._paths)
            merged = out is not None and err is None
            process = subprocess.Popen(
                command, env=self._environment, cwd=self._job["cwd"], stdin=subprocess.DEVNULL, start_new_session=True,
                stdout=subprocess.PIPE if out else None, stderr=subprocess.STDOUT if merged else subprocess.PIPE if err else None,
            )  # fmt: skip
            threads = [
                threading.Thread(target=_copy, args=(pipe, to, file), daemon=True)
                for pipe, to, file in ((process.stdout, sys.stdout, out), (process.stderr, sys.stderr, err))
                if pipe is not None
            ]
            for thread in threads:
                thread.start()
            outcome = self._watch(process)
            _clean_up(self._number)
            for thread in threads:
                thread.join(5.0)
        code = code_of(process.returncode)
        if outcome is None:
            return ("COMPLETED" if code == 0 else "FAILED"), code
        return outcome, code or 1

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Note the signals that come in this block, where the script is there to be ended or told."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        previous = {number: signal.signal(number, lambda received, _: self._received.append(received)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        """Wait for the script; return why it was ended, if it was."""
        started = time.monotonic()
        outcome: str | None = None
        deadline = 0.0
        warned = self._job["warning"] is None or not self._job["wall_s"]
        while process.poll() is None:
            now = time.monotonic() - started
            if not warned and now >= self._job["wall_s"] - self._job["warning"][1]:
                warned = True
                self._warn(process.pid)
            if outcome is None:
                outcome = self._reason(now, process.pid)
                if outcome is not None:
                    deadline = now + GRACE_S
                    _signal_group(process.pid, signal.SIGTERM)
            elif now > deadline:
                _signal_group(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        # the script may be done by the time its own request to be requeued is seen
        return outcome or self._reason(0.0, process.pid)

    def _reason(self, now: float, pid: int) -> str | None:
        """Return why the job must end now, if it must; hand on those signals that are only messages."""
        while self._received:
            number = self._received.pop(0)
            if number not in (signal.SIGUSR1, signal.SIGUSR2):
                return "CANCELLED"
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        for kind, outcome in (("cancel", "CANCELLED"), ("requeue", "REQUEUED")):
            mark = self._state.mark(kind, self._number)
            if mark.exists():
                mark.unlink()
                return outcome
        return "TIMEOUT" if self._job["wall_s"] and now >= self._job["wall_s"] else None

    def _warn(self, pid: int) -> None:
        """Send the signal that the job asked for before its limit: to the script, or to what it started."""
        name, _, only_script = self._job["warning"]
        number = int(name) if str(name).isdigit() else getattr(signal, f"SIG{name.upper().removeprefix('SIG')}")
        for target in [pid] if only_script else _children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, number)


def _expanded(path: str | None, number: str, index: int | None, name: str) -> str | None:
    """Return an output file's name with the schedulers' patterns written out."""
    if path is None:
        return None
    values = {
        "%%": "%",
        "%j": number,
        "%J": number,
        "%A": number,
        "%a": str(index or 0),
        "%I": str(index or 0),
        "%x": name,
        "%u": os.environ.get("USER", "user"),
    }
    for pattern, value in values.items():
        path = path.replace(pattern, value)
    return path.replace("^array_index^", str(index or 0))


def _copy(pipe: IO[bytes], terminal: Any, file: IO[bytes] | None) -> None:
    """Copy what the script writes to the terminal and to its file, as it comes."""
    while chunk := os.read(pipe.fileno(), 65536):
        with contextlib.suppress(OSError, ValueError):
            terminal.buffer.write(chunk)
            terminal.flush()
        if file is not None:
            file.write(chunk)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _parents() -> dict[int, int]:
    """Return the parent of each process on this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                found[int(folder.name)] = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return found


def _children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    parents = _parents()
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def _clean_up(number: str) -> None:
    """End what the script left running: politely, then surely."""
    for ending, wait_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        deadline = time.monotonic() + wait_s
        left = _children(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, ending)
        while left and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            left = _children(os.getpid())
            time.sleep(0.02)
        if not left:
            return
    print(f"rehearsal: job {number} left processes that can't be ended: {_children(os.getpid())}", file=sys.stderr)
