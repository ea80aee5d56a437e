"""Lets the ranks of a launch find each other through files in a folder that all of them see, where their launcher doesn't do it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stormbench.core.errors import RunError, UserError
from stormbench.core.files import reported_os_errors, write_json
from stormbench.core.launch import Launch, scheduler_job

INTERVAL_S = 0.05
PARTING_S = 10.0
PLACE = ("local_rank", "local_size", "cross_rank", "cross_size")
"""Of a rank among the others, by Horovod's names."""


class Meeting:
    """A folder of this launch alone, in which each rank leaves a note. Rank 0 removes it at the end."""

    def __init__(self, launch: Launch, shared: Path, timeout_s: float) -> None:
        """Make the folder below `shared`.

        Raises:
            UserError: the launcher gives its ranks no name in common.
        """
        job = launch.job_id or scheduler_job()
        if job is None:
            raise UserError(
                f"{launch.launcher} gives its {launch.world_size} ranks no name in common by which they could find each other; set "
                "STORMBENCH_LAUNCH_ID to a text that is new for each launch"
            )
        key = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}")
        self._launch, self._timeout_s = launch, timeout_s
        self._folder = shared / f".ranks-{key[:120]}"
        with reported_os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def leave(self, note: dict[str, Any]) -> None:
        """Leave this rank's note for the others."""
        write_json(self._folder / str(self._launch.rank), note)

    def read(self, ranks: range) -> list[dict[str, Any]]:
        """Return the notes of some ranks, once all of them are there.

        Raises:
            RunError: one did not come in time.
        """
        return [self._wait(rank) for rank in ranks]

    def refuse(self, reason: str) -> None:
        """Tell the others, as rank 0, that it can't be; returns when they have read it, or after a moment."""
        self.leave({"refused": reason})
        deadline = time.monotonic() + PARTING_S
        while any((self._folder / str(rank)).exists() for rank in range(1, self._launch.world_size)) and time.monotonic() < deadline:
            time.sleep(INTERVAL_S)
        self.end()

    def withdraw(self) -> None:
        """Take this rank's note back."""
        (self._folder / str(self._launch.rank)).unlink(missing_ok=True)

    def end(self) -> None:
        """Remove the folder, when every rank has read what it needs."""
        if self._launch.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, rank: int) -> dict[str, Any]:
        path, deadline = self._folder / str(rank), time.monotonic() + self._timeout_s
        while not path.exists():
            if time.monotonic() > deadline:
                told = f"rank {self._launch.rank}: rank {rank} did not come within {self._timeout_s:g} s"
                raise RunError(f"{told}; see its output for the cause")
            time.sleep(INTERVAL_S)
        return json.loads(path.read_text(encoding="utf-8"))


def own_name(launch: Launch) -> str:
    """Return the name or address under which the other ranks reach this process."""
    if launch.n_nodes == 1 or launch.local_size == launch.world_size:
        return "127.0.0.1"
    if launch.node_rank is not None and launch.node_rank < len(launch.hosts):
        return launch.hosts[launch.node_rank]
    return socket.gethostname()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _own_address() -> str:
    """Return the address of this host's name, as Gloo takes it."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "no address"


def _unreachable(notes: Sequence[dict[str, Any]]) -> str | None:
    """Return why ranks on other nodes can't reach one of them, if that is so."""
    if len({note["host"] for note in notes}) == 1:
        return None
    for note in notes:
        if str(note["address"]).startswith("127.") or note["address"] == "no address":
            return (
                f"--strategy horovod: {note['host']} takes its own name for {note['address']}, at which Horovod's Gloo controller can't be "
                "reached from other nodes; start the ranks with srun --mpi=pmix or mpirun, use --strategy multiworker, or give the name "
                "the network's address in /etc/hosts"
            )
    return None


def _known(reason: str) -> UserError:
    error = UserError(reason)
    error.known_to_all = True
    return error


def gloo_of_horovod(launch: Launch, shared: Path, timeout_s: float) -> Callable[[], None]:
    """Set the variables by which Horovod's Gloo controller connects the ranks, as horovodrun would, with rank 0 serving the addresses.

    Returns what is to be called when Horovod is connected.

    Raises:
        UserError: on every rank, where a node's own name is that of its loopback. Horovod 0.28 gives each process set the address
            of the host's name, whatever interface it is told to use, so other nodes would be sent to themselves.
        RunError: a rank did not come.
    """
    meeting = Meeting(launch, shared, timeout_s)
    mine = {
        "host": own_name(launch), "local_rank": launch.local_rank or 0, "local_size": launch.local_size or 1,
        "cross_rank": launch.node_rank or 0, "cross_size": launch.n_nodes or 1, "address": _own_address(),
    }  # fmt: skip
    if launch.rank == 0:
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.http.http_server import RendezvousServer

        notes = [mine, *meeting.read(range(1, launch.world_size))]
        reason = _unreachable(notes)
        if reason is not None:
            meeting.refuse(reason)
            raise _known(reason)
        server = RendezvousServer()
        mine["port"] = server.start()
        slots = {"size": launch.world_size}
        server.init(
            [
                SlotInfo(hostname=note["host"], rank=rank, **slots, **{key: note[key] for key in PLACE})
                for rank, note in enumerate(notes)
            ]
        )
        # the others begin when they find this
        meeting.leave(mine)
        served = mine
    else:
        meeting.leave(mine)
        (served,) = meeting.read(range(1))
        if "refused" in served:
            meeting.withdraw()
            raise _known(str(served["refused"]))
    os.environ.update(
        {
            "HOROVOD_HOSTNAME": str(mine["host"]), "HOROVOD_RANK": str(launch.rank), "HOROVOD_SIZE": str(launch.world_size),
            "HOROVOD_LOCAL_RANK": str(mine["local_rank"]), "HOROVOD_LOCAL_SIZE": str(mine["local_size"]),
            "HOROVOD_CROSS_RANK": str(mine["cross_rank"]), "HOROVOD_CROSS_SIZE": str(mine["cross_size"]),
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": socket.gethostbyname(str(served["host"])),
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(served["port"]), "HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo",
        }
    )  # fmt: skip
    if mine["host"] == "127.0.0.1":
        os.environ.setdefault("HOROVOD_GLOO_IFACE", "lo")
    return meeting.end
