"""Checks of the network: the ranks meet under the node's name, over an interface that is up, through the cards that the config names."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from stormbench.job.checks.machine import Machine, on_nodes_only
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning

IFF_UP = 1


def host_name(machine: Machine) -> Result:
    """Tell whether the machine's own name leads to an address that other nodes can use."""
    several = machine.job is not None and machine.job.config.nodes > 1 and machine.runs_the_job
    verdict = problem if several else warning
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(machine.host, None, proto=socket.IPPROTO_TCP)}
    except OSError as error:
        return verdict(
            f"{machine.host} doesn't resolve ({error.strerror or error})",
            "add the name to /etc/hosts or to DNS, or set MASTER_ADDR to an address of the node",
        )
    addresses = ", ".join(sorted(found))
    if several and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        return problem(
            f"{machine.host} is {addresses}, which other nodes take for themselves",
            "let /etc/hosts give the node's own address, or set MASTER_ADDR",
        )
    return ok(f"{machine.host} is {addresses}")


def interfaces(machine: Machine) -> Result:
    """Tell which interfaces are up, and whether NCCL_SOCKET_IFNAME names one of them."""
    if not machine.runs_the_job:
        return on_nodes_only()
    up = [name for name in machine.names("sys/class/net") if _is_up(machine, name)]
    others = [name for name in up if name != "lo"]
    if "lo" not in up:
        return problem("the loopback interface lo is down, so ranks of one node can't meet", "run: ip link set lo up")
    several = machine.job is not None and machine.job.config.nodes > 1
    if not others:
        if several:
            return problem(
                "no interface but lo is up, and the job has several nodes", "ask the administrator to bring the node's network up"
            )
        return ok("lo is up, no other; enough for one node")
    wanted = machine.value("NCCL_SOCKET_IFNAME")
    if wanted and not wanted.startswith("^") and not any(_names(word, name) for word in wanted.split(",") for name in up):
        return problem(
            f"NCCL_SOCKET_IFNAME={wanted}, but only {', '.join(up)} are up", f"set NCCL_SOCKET_IFNAME to one of {', '.join(others)}"
        )
    return ok(f"{', '.join(up)} are up")


def _is_up(machine: Machine, name: str) -> bool:
    flags = machine.read(f"sys/class/net/{name}/flags")
    with contextlib.suppress(ValueError):
        return bool(int((flags or "0").strip(), 16) & IFF_UP)
    return False


def _names(word: str, interface: str) -> bool:
    """Whether NCCL takes `word` for the interface: `=eth0` is the exact name, `eth` a beginning."""
    return interface == word[1:] if word.startswith("=") else interface.startswith(word.partition(":")[0])


def cards(machine: Machine) -> Result:
    """Compare the InfiniBand cards with those that the config gives to the ranks."""
    found = machine.names("sys/class/infiniband")
    wanted = machine.job.config.nics if machine.job is not None else ()
    if not machine.runs_the_job:
        return on_nodes_only() if wanted else not_applicable("the config names no network card")
    missing = [name.partition(":")[0] for name in wanted if name.partition(":")[0] not in found]
    if missing:
        where = machine.job.where("STORMBENCH_NICS") if machine.job is not None else ""
        return problem(
            f"STORMBENCH_NICS ({where}) names {', '.join(missing)}, /sys/class/infiniband has {', '.join(found) or 'none'}",
            "correct STORMBENCH_NICS in the system's file, or leave it out",
        )
    return ok(", ".join(found)) if found else not_applicable("no InfiniBand card is here")
