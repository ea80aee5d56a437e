"""Runs the commands of container engines, or prints them exactly; their output is kept in a log, and a failure told with its end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from stormbench.core.errors import RunError, UserError
from stormbench.core.files import reported_os_errors
from stormbench.core.progress import say

TOLD_LINES = 12
"""How many of its last lines a failed command is told with."""
GRACE_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a plan; `why` says in a few words what it is for, `folder` where it runs if not here."""

    words: tuple[str, ...]
    why: str
    folder: Path | None = None

    @property
    def text(self) -> str:
        """The command as it can be pasted into a shell."""
        text = shlex.join(self.words)
        return f"(cd {shlex.quote(str(self.folder))} && {text})" if self.folder else text


def show(steps: Sequence[Step]) -> None:
    """Print the plan as lines of a shell script."""
    for step in steps:
        print(f"# {step.why}\n{step.text}")


def perform(steps: Sequence[Step], log: Path, *, quiet: bool = False) -> None:
    """Run the steps one after the other; everything that they print is kept in `log`.

    Raises:
        RunError: one of them failed.
    """
    for step in steps:
        run(step, log, quiet=quiet)


def run(step: Step, log: Path, *, quiet: bool = False) -> None:
    """Run one command with its output shown on standard error and kept in `log`.

    Raises:
        RunError: it failed; the sentence has the command, its last lines and the log's path.
        UserError: its program isn't there.
    """
    with reported_os_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("a", encoding="utf-8", errors="replace")
    last: list[str] = []
    with stream, told_to_end():
        stream.write(f"$ {step.text}\n")
        stream.flush()
        process = start(step)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                with reported_os_errors(log):
                    stream.write(line)
                    stream.flush()
                last = [*last, line.rstrip()][-TOLD_LINES:]
                if not quiet:
                    say(line.rstrip())
            code = process.wait()
        except BaseException:
            end(process)
            raise
    if code != 0:
        told = "".join(f"\n    {line}" for line in last if line)
        ended = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise RunError(f"{step.why}: this command {ended}: {step.text}{told or ' and printed nothing'}\nall of its output is in {log}")


@contextlib.contextmanager
def told_to_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: the engine is ended too, and secrets and unfinished files are removed."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(step: Step) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, so that Ctrl-C reaches it through `end`."""
    try:
        return subprocess.Popen(
            step.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            cwd=step.folder, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{step.words[0]}: can't be started ({why}); install it or choose another --engine") from error


def end(process: subprocess.Popen[str]) -> None:
    """End a command and its children: politely, so that an engine removes its container, then for good."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            return


def ask(words: Sequence[str], *, limit_s: float = 120.0, called: str | None = None) -> str:
    """Return what a command prints; an error names it by its words, or as `called`.

    Raises:
        RunError: it failed, or gave no answer in time.
    """
    command = called or shlex.join(words)
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{command}: no answer in {limit_s:g} s") from None
    except OSError as error:
        raise RunError(f"{command}: can't be started ({(error.strerror or str(error)).lower()})") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()
        raise RunError(f"{command}: exit code {done.returncode}: {' / '.join(said[-3:])}")
    return done.stdout


def answers(words: Sequence[str], *, limit_s: float = 15.0) -> tuple[bool, str]:
    """Return whether a command ends well, and the first line of what it prints, or the last of why it doesn't."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {limit_s:g} s"
    except OSError as error:
        return False, (error.strerror or str(error)).lower()
    if done.returncode == 0:
        return True, next(iter(done.stdout.strip().splitlines()), "")
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return False, said[-1].strip() if said else f"exit code {done.returncode}"


def log_path(folder: Path, key: str, verb: str) -> Path:
    """Return a log's path that no other run of the command has: two at once must not share one."""
    return folder / "logs" / f"{key}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def note(text: str) -> None:
    """Tell what is being done."""
    say(f"stormbench images: {text}")
