"""This host as the other ranks see it: its addresses, the interface towards a peer, and a name for the launch's address file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.launch import Launch, rank_variable, scheduler_job

_SIOCGIFADDR = 0x8915
"""Linux ioctl: IPv4 address of an interface."""


def host_identity() -> str:
    """Return a text that is equal in all processes on this machine, in whatever container, and differs between machines."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


def network_identity() -> str:
    """Return a text that is equal in processes that share one loopback interface: same machine and same network namespace."""
    try:
        namespace = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        namespace = 0
    return f"{host_identity()}/{namespace}"


def interfaces() -> dict[str, str]:
    """Return the IPv4 address of each interface that has one, loopback left out."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                found[name] = socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    return {name: address for name, address in found.items() if not address.startswith("127.")}


def addresses(launch: Launch, environ: Mapping[str, str]) -> list[str]:
    """Return names and addresses under which other nodes may reach this one, the likeliest first.

    MASTER_ADDR, then the node's name as the launcher writes it, the host's name, and the address of each interface.
    """
    node = launch.hosts[launch.node_rank] if launch.node_rank is not None and launch.node_rank < len(launch.hosts) else None
    names = (environ.get("MASTER_ADDR", "").strip(), node, environ.get("SLURMD_NODENAME"), socket.gethostname())
    return list(dict.fromkeys([*(name for name in names if name), *interfaces().values()]))


def interface_towards(address: str) -> str | None:
    """Return the name of the interface through which `address` is reached, or None if it can't be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # connecting a datagram socket sends nothing; it only chooses the route
        probe.connect((address, 9))
        own = probe.getsockname()[0]
        return next((name for name, at in interfaces().items() if at == own), None)
    return None


def reachable(address: str, port: int, timeout_s: float = 2.0) -> bool:
    """Return whether something listens there."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except (OSError, UnicodeError):
        return False


def file_name(launch: Launch, environ: Mapping[str, str]) -> str:
    """Return the name of the file in which rank 0 of `launch` tells its address: equal on its ranks, unlike any other launch's."""
    key = launch.job_id or f"{scheduler_job(environ) or 'launch'}-{environ.get('MASTER_PORT', '')}-{_starter(launch, environ)}"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", key)[:60]
    return f".rendezvous-{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def _starter(launch: Launch, environ: Mapping[str, str]) -> str:
    """Return what tells this launch from others if the launcher doesn't: the process that started its ranks, if all are on one node.

    That is the nearest ancestor without the launcher's rank variable: not the parent, which may be a shell of each rank.
    """
    variable = rank_variable(launch.launcher)
    if variable is None or launch.local_size not in (None, launch.world_size):
        return "nodes"
    pid = os.getppid()
    # a process that can't be read is another user's, so none of this launch's ranks
    while pid > 1 and variable.encode() in _inherited(pid):
        pid = int(_stat(pid)[1])
    return f"{socket.gethostname()}.{pid}.{_stat(pid)[19]}"


def _inherited(pid: int) -> set[bytes]:
    """Return the names of the variables with which the process started."""
    try:
        return {entry.partition(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
    except OSError:
        return set()


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name: [1] is the parent, [19] the start time; zeros if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20
