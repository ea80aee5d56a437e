"""The ranks of a rehearsed launch: scaled down to what the plan allows, started as real processes, signalled and waited for together."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from stormbench.job.standins.options import Rejected
from stormbench.job.standins.plan import State

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
GRACE_S = 30.0
"""Between SIGTERM and SIGKILL for ranks whose sibling failed, as Slurm's KillWait."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where one rank stands in the scaled launch."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled:
    """A launch as asked for, and as it runs here."""

    asked_ranks: int
    asked_nodes: int
    nodes: int
    per_node: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    def places(self) -> list[Place]:
        """Return the places of all ranks, node by node."""
        return [
            Place(
                rank=rank,
                size=self.ranks,
                local_rank=rank % self.per_node,
                local_size=self.per_node,
                node=rank // self.per_node,
                nodes=self.nodes,
            )
            for rank in range(self.ranks)
        ]


def scale(state: State, asked_ranks: int, asked_nodes: int) -> Scaled:
    """Scale a launch down to the plan's ranks, keep that for the record, and say so once for each shape."""
    nodes = min(asked_nodes, state.plan.ranks, asked_ranks)
    per_node = min(-(-asked_ranks // asked_nodes), max(1, state.plan.ranks // nodes))
    scaled = Scaled(asked_ranks=asked_ranks, asked_nodes=asked_nodes, nodes=nodes, per_node=per_node)
    state.scaling = {"asked_ranks": asked_ranks, "asked_nodes": asked_nodes, "ranks": scaled.ranks, "nodes": nodes}
    many, some = ("" if asked_ranks == 1 else "s"), ("" if asked_nodes == 1 else "s")
    runs = "1 runs" if scaled.ranks == 1 else f"{scaled.ranks} run"
    told = f"{state.program} asked for {asked_ranks} rank{many} on {asked_nodes} node{some}; {runs} here"
    state.say_once(f"{state.program}-{asked_ranks}-{asked_nodes}", told)
    return scaled


def start(
    command: Sequence[str], environments: Sequence[dict[str, str]], *, stop_others: bool, label: bool = False, cwd: str | None = None,
    output: str | None = None, error: str | None = None, append: bool = False,
) -> int:  # fmt: skip
    """Run `command` once in each environment; return the highest exit code when all have ended.

    `stop_others` ends the other ranks when one fails. `output` and `error` are files for all ranks.

    Raises:
        Rejected: the command or the folder doesn't exist.
    """
    with contextlib.ExitStack() as files:
        mode = "ab" if append else "wb"
        out: IO[bytes] | None = files.enter_context(open_output(output, mode)) if output else None
        err: IO[bytes] | None = files.enter_context(open_output(error, mode)) if error else out
        group = _Group()
        with group.forwarding():
            for index, environment in enumerate(environments):
                group.add(index, command, environment, cwd, out, err, label)
            return group.wait(stop_others)


def run_child(command: Sequence[str], environment: dict[str, str], cwd: str | None, started: Callable[[int], None]) -> int:
    """Run one process that hears the signals sent to this one; `started` is told its id."""
    group = _Group()
    with group.forwarding():
        group.add(0, command, environment, cwd, None, None, False)
        started(group.processes[0].pid)
        return group.wait(False)


def open_output(path: str, mode: str) -> IO[bytes]:
    """Open an output file.

    Raises:
        Rejected: its folder doesn't exist, or it can't be written.
    """
    try:
        return open(path, mode, buffering=0)
    except OSError as error:
        raise Rejected(f"Could not open stdout file {path}: {error.strerror}") from error


def code_of(returncode: int) -> int:
    """Return the exit code that a shell shows for a process."""
    return 128 - returncode if returncode < 0 else returncode


class _Group:
    """The processes of one launch, each in a session of its own, as on a node of its own."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._received: list[int] = []

    def add(
        self, index: int, command: Sequence[str], environment: dict[str, str], cwd: str | None, out: Any, err: Any, label: bool
    ) -> None:  # fmt: skip
        pipe = subprocess.PIPE if label else None
        # only rank 0 reads the terminal, as srun and mpiexec have it by default
        stdin = None if index == 0 else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                list(command), env=environment, cwd=cwd, stdin=stdin, stdout=pipe or out, stderr=pipe or err, start_new_session=True
            )
        except OSError as error:
            self.send(signal.SIGKILL)
            missing = cwd if cwd and not Path(cwd).is_dir() else command[0]
            raise Rejected(f"{missing}: {error.strerror} (error {error.errno}); no rank could be started with it") from error
        self.processes.append(process)
        # those that came while ranks were still being started
        for number in self._received:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        if label:
            for stream, to in ((process.stdout, out or sys.stdout.buffer), (process.stderr, err or sys.stderr.buffer)):
                thread = threading.Thread(target=_labelled, args=(stream, to, index), daemon=True)
                thread.start()
                self._threads.append(thread)

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Hand signals on to all processes of all ranks meanwhile."""
        previous = {number: signal.signal(number, lambda received, _: self._forward(received)) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int) -> None:
        self._received.append(number)
        self.send(number)

    def send(self, number: int) -> None:
        """Send a signal to every process of every rank that still runs."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)

    def wait(self, stop_others: bool) -> int:
        """Return the highest exit code; a rank that a signal ended counts as 128 and the signal's number."""
        codes: dict[int, int] = {}
        deadline: float | None = None
        first: int | None = None
        while len(codes) < len(self.processes):
            for index, process in enumerate(self.processes):
                if index not in codes and process.poll() is not None:
                    codes[index] = code_of(process.returncode)
                    if codes[index] and stop_others and deadline is None and len(codes) < len(self.processes):
                        first, deadline = codes[index], time.monotonic() + GRACE_S
                        self.send(signal.SIGTERM)
            if deadline is not None and time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.02)
        for thread in self._threads:
            thread.join(2.0)
        # those that were stopped because of it say nothing of the cause
        return max(codes.values()) if first is None else first


def _labelled(stream: IO[bytes], to: IO[bytes], rank: int) -> None:
    for line in stream:
        to.write(f"{rank}: ".encode() + line)
        to.flush()
