"""Runs the driver's bash over a config, confined and timed, and collects what it tells through pipes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping

from stormbench.job.confine import confinement
from stormbench.job.driver import ALLOWED, BUILTINS, DRIVER

TIME_LIMIT_S = 5.0
GRACE_S = 0.3
"""How long the pipes may stay open after bash has ended; whoever holds them then is a process that the config left behind."""
OUTPUT_LIMIT = 16 * 2**20
Triple = tuple[str, str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ran:
    """What a config did. `commands` are (file, line, command), `found` (kind, name, value); `code` is None at the time limit."""

    commands: list[Triple]
    refused: str
    found: list[Triple]
    errors: str
    code: int | None
    left_behind: bool

    @property
    def to_its_end(self) -> bool:
        return not self.refused and bool(self.found) and self.found[-1][0] == "end"


def run(path: str, base: Mapping[str, str], read: set[str]) -> Ran:
    """Source the config at `path` with the variables of `base`, and nothing else, in the environment; `read` are files known by text."""
    bash = shutil.which("bash") or "/bin/bash"
    pipes = [os.pipe() for _ in range(4)]
    readers, writers = [pipe[0] for pipe in pipes], [pipe[1] for pipe in pipes]
    called = path if "/" in path else f"./{path}"
    own = {
        "STORMBENCH_CONFIG_": called, "STORMBENCH_READ_": "\n".join(called if name == path else name for name in read),
        "STORMBENCH_TRACE_": str(writers[0]),
        "STORMBENCH_REFUSED_": str(writers[1]), "STORMBENCH_RESULT_": str(writers[2]),
        "STORMBENCH_ALLOWED_": " ".join(ALLOWED), "STORMBENCH_BUILTINS_": " ".join(BUILTINS),
    }  # fmt: skip
    try:
        process = subprocess.Popen(
            # no file may grow, and nothing may run on for long
            [bash, "--noprofile", "--norc", "-c", f"ulimit -f 0 -c 0 -t {int(TIME_LIMIT_S) + 1}; {DRIVER}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writers[3], env={**base, **own}, pass_fds=writers[:3],
            # what is called there was made ready before the fork
            start_new_session=True, preexec_fn=confinement(),  # noqa: PLW1509
        )  # fmt: skip
    finally:
        for writer in writers:
            os.close(writer)
    try:
        received, ended, left_behind = _collect(process, readers)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            os.close(reader)
    trace, refused, result, errors = received
    commands = [(path if file == called else file, line, text) for file, line, text in _triples(trace) if file != "environment"]
    return Ran(
        commands=commands, refused=_text(refused), found=_triples(result),
        errors=_text(errors).replace(f"{called}: line ", f"{path}: line "),
        code=process.returncode if ended else None, left_behind=left_behind,
    )  # fmt: skip


def _collect(process: subprocess.Popen[bytes], readers: list[int]) -> tuple[list[bytes], bool, bool]:
    """Read all pipes to their ends; returns what came, whether bash ended within the limits, and whether others hold the pipes on."""
    received = [bytearray() for _ in readers]
    deadline, left_behind = time.monotonic() + TIME_LIMIT_S, False
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, selectors.EVENT_READ, number)
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline or sum(map(len, received)) > OUTPUT_LIMIT:
                break
            for key, _ in selector.select(timeout=min(0.05, deadline - now)):
                piece = os.read(key.fd, 65536)
                received[key.data] += piece
                if not piece:
                    selector.unregister(key.fd)
            if ended_at is None and process.poll() is not None:
                ended_at = time.monotonic()
            if ended_at is not None and time.monotonic() > ended_at + GRACE_S and selector.get_map():
                left_behind = True
                break
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
    return [bytes(item) for item in received], process.poll() is not None, left_behind


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _triples(data: bytes) -> list[Triple]:
    words = _text(data).split("\0")
    return list(zip(words[0::3], words[1::3], words[2::3], strict=False))
