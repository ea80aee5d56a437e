"""Several hosts on one machine: each has its own name, /etc/hosts and network address, joined by a private bridge.

Nothing of the machine itself is changed, and everything is gone when the processes that hold the namespaces end. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.213.7"
# set -e: a kernel without one of these must be told by its own error, not by a test that hangs later
_BECOME = 'set -e; hostname "$1"; mount --bind "$2" /etc/hosts; ip link set lo up; echo ready; exec sleep infinity'


@dataclass(frozen=True, kw_only=True)
class Host:
    """One emulated host; `holder` keeps its namespaces alive."""

    name: str
    address: str
    holder: subprocess.Popen[str]

    def inside(self, *words: str, folder: Path = Path("/")) -> list[str]:
        """Return the command line that runs `words` on this host in `folder`, as the very process that is started."""
        enter = ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--mount", "--"]
        # entering a mount namespace leads to its root folder, so the working folder is set after it
        return [*enter, "env", f"--chdir={folder}", *words]


def bring_up(names: Sequence[str], folder: Path) -> list[Host]:
    """Return one host for each name; all reach each other, and nothing else. The first one has the bridge.

    Raises:
        RuntimeError: this kernel or container doesn't allow it; the text is the failed program's own.
    """
    hosts: list[Host] = []
    try:
        for number, name in enumerate(names, start=1):
            hosts.append(_host(name, number, names, folder))
        switch = hosts[0]
        _ip(switch, "link add bridge0 type bridge")
        _ip(switch, f"address add {switch.address}/24 dev bridge0")
        _ip(switch, "link set bridge0 up")
        for host in hosts[1:]:
            _ip(switch, f"link add to-{host.name} type veth peer name eth0 netns {host.holder.pid}")
            _ip(switch, f"link set to-{host.name} master bridge0 up")
            _ip(host, f"address add {host.address}/24 dev eth0")
            _ip(host, "link set eth0 up")
    except BaseException:
        take_down(hosts)
        raise
    return hosts


def take_down(hosts: Sequence[Host]) -> None:
    """End the hosts; their network goes with the last process in them."""
    for host in hosts:
        host.holder.kill()
        host.holder.communicate()


def child_of_tests(*words: str) -> list[str]:
    """Return the command line of a process that ends with the one that starts it, even if that is killed."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *words]


def _host(name: str, number: int, names: Sequence[str], folder: Path) -> Host:
    table = folder / f"hosts-{name}"
    # as Debian installs it: a host's own name leads to loopback, which must not be what it tells the others
    at = {other: "127.0.1.1" if other == name else f"{NETWORK}.{i}" for i, other in enumerate(names, start=1)}
    table.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {other}\n" for other, address in at.items()))
    command = child_of_tests("unshare", "--net", "--uts", "--mount", "sh", "-c", _BECOME, "sh", name, str(table))
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert holder.stdout is not None
    if holder.stdout.readline() != "ready\n":
        holder.kill()
        raise RuntimeError(f"no namespaces for host {name}: {holder.communicate()[1].strip()}")
    return Host(name=name, address=f"{NETWORK}.{number}", holder=holder)


def _ip(host: Host, words: str) -> None:
    done = subprocess.run(host.inside("ip", *words.split()), capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {words} on {host.name}: {done.stderr.strip()}")
