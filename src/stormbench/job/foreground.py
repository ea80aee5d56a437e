"""A job in the foreground: whoever ends the command ends the job, and the command returns only once the job has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_to_its_end(words: Sequence[str], *, cwd: Path, environ: Mapping[str, str], stdin: IO[str] | None) -> tuple[int, int | None]:
    """Run a program in a session of its own, hand it the signals that would end this process, and wait for its end.

    Returns:
        its exit code, and the first signal that came.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        received.append(number)
        if process is not None:
            _signal(process.pid, number)

    previous = {number: signal.signal(number, forward) for number in ENDING}
    try:
        process = subprocess.Popen(
            list(words), stdin=stdin or subprocess.DEVNULL, cwd=cwd, env=dict(environ), start_new_session=True,
        )  # fmt: skip
        # those that came while it was being started
        for number in received:
            _signal(process.pid, number)
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        # what the job's own end has left of it
        _signal(process.pid, signal.SIGKILL)
    return code, received[0] if received else None


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
