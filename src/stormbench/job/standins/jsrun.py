"""jsrun: resource sets that must fit the job's nodes, and their tasks started here with a JSM task's variables."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Mapping

from stormbench.core.errors import UserError
from stormbench.job.standins.options import Rejected, count, every, last, table
from stormbench.job.standins.plan import State
from stormbench.job.standins.ranks import Place, Scaled, scale, start

JSRUN = table(
    """
    nrs,n= tasks_per_rs,a= cpu_per_rs,c= gpu_per_rs,g= rs_per_host,r= rs_per_socket,K= latency_priority,l= launch_distribution,d= bind,b=
    np,p= env,E=
    env_eval,F= env_no_propagate,D= chdir,h= appfile,f= erf_input,U= memory_per_rs,m= smpiargs,M= exit_on_error,X= stdio_mode,e=
    stdio_input,t=
    stdio_stdout,o= stdio_stderr,k= immediate,i pre_post_exec,P= allocate_only,A= use_reservation,J= progress,Z= debug? version,V help,?
    """
)
SOCKETS = 2
"""Of a node whose LSF is jsrun's."""
_BIND = re.compile(r"none|rs|packed(:(smt:)?\d+)?|proportional-packed(:\d+)?")
_STDIO = re.compile(r"individual|collected|prepend(ed)?")
_DISTRIBUTION = re.compile(r"packed|cyclic|plane:\d+")
_LATENCY = re.compile(
    r"(?i:cpu-cpu|gpu-cpu|gpu-gpu|cpu-mem|mem-mem|memory-memory)(,(?i:cpu-cpu|gpu-cpu|gpu-gpu|cpu-mem|mem-mem|memory-memory))*"
)


def jsrun(state: State, arguments: list[str]) -> int:
    """Start the tasks of all resource sets; a task that fails ends the others."""
    options, command = JSRUN.parse(arguments)
    if not command:
        raise Rejected("No application specified to run")
    if "LSB_JOBID" not in os.environ:
        raise UserError("It is only possible to use js commands within a job allocation; run bsub first")
    _check(options)
    hosts = _hosts()
    sets, per_host, tasks = _sets(options, len(hosts))
    nodes = -(-sets // per_host)
    scaled = scale(state, sets * tasks, nodes)
    state.record("accepted")
    namespace = f"rehearsal-{uuid.uuid4().hex}"
    given = _environment(every(options, "env"), every(options, "env_no_propagate"))
    environments = [{**given, **_place(place, scaled, namespace), **state.plan.environment} for place in scaled.places()]
    prepended = (last(options, "stdio_mode") or "").startswith("prepend")
    return start(
        command, environments, stop_others=True, label=prepended, cwd=last(options, "chdir"),
        output=last(options, "stdio_stdout"), error=last(options, "stdio_stderr"),
    )  # fmt: skip


def _check(options: list[tuple[str, str]]) -> None:
    for name, pattern in (
        ("bind", _BIND),
        ("launch_distribution", _DISTRIBUTION),
        ("latency_priority", _LATENCY),
        ("stdio_mode", _STDIO),
        ("exit_on_error", re.compile("[01]")),
        ("memory_per_rs", re.compile("[1-9][0-9]*")),
    ):
        value = last(options, name)
        if value is not None and not pattern.fullmatch(value):
            raise Rejected(f"Invalid argument to --{name}: {value}")
    if last(options, "np") is not None and last(options, "tasks_per_rs") is not None:
        raise Rejected("--np and --tasks_per_rs can't be used together")


def _hosts() -> list[str]:
    """Return the job's compute nodes: jsrun places nothing on the launch node."""
    slots = os.environ.get("LSB_MCPU_HOSTS", "").split()
    hosts = [host for host in slots[::2] if not host.startswith("batch")]
    if not hosts:
        raise UserError("LSB_MCPU_HOSTS names no compute node; run jsrun in the job that bsub started")
    return hosts


def _sets(options: list[tuple[str, str]], hosts: int) -> tuple[int, int, int]:
    """Return resource sets, at most how many on a host, and tasks of each.

    Raises:
        Rejected: they don't fit the nodes.
    """
    cores, gpus = int(os.environ.get("STORMBENCH_STANDIN_CORES", "42")), int(os.environ.get("STORMBENCH_STANDIN_GPUS", "6"))

    def number(name: str, default: int, word: str, everything: int, minimum: int) -> int:
        text = last(options, name)
        if text is None:
            return default
        return everything if text == word else count(text, f"--{name}", minimum)

    cpus, gpu = number("cpu_per_rs", 1, "ALL_CPUS", cores, 1), number("gpu_per_rs", 0, "ALL_GPUS", gpus, 0)
    if cpus > cores or gpu > gpus:
        raise Rejected(f"A resource set of {cpus} CPUs and {gpu} GPUs can't fit a node, which has {cores} CPUs and {gpus} GPUs")
    packed = re.fullmatch(r"(?:proportional-)?packed:(\d+)", last(options, "bind") or "")
    if packed and int(packed[1]) > cpus:
        raise Rejected(f"--bind {packed[0]}: a task can't be bound to more CPUs than its resource set has, {cpus}")
    room = min(cores // cpus, gpus // gpu if gpu else cores)
    if last(options, "rs_per_socket") is not None:
        socket_room = min(cores // SOCKETS // cpus, gpus // SOCKETS // gpu if gpu else cores)
        per_socket = count(last(options, "rs_per_socket") or "", "--rs_per_socket")
        if per_socket > socket_room:
            told = f"{per_socket} resource sets per socket of {cpus} CPUs and {gpu} GPUs"
            raise Rejected(f"{told} don't fit a socket, which holds {socket_room}")
        room = per_socket * SOCKETS
    per_host = number("rs_per_host", room, "ALL_HOSTS", room, 1)
    if per_host > room:
        raise Rejected(
            f"{per_host} resource sets per host of {cpus} CPUs and {gpu} GPUs don't fit a node, which has {cores} CPUs and {gpus} GPUs"
            + (f", at {room // SOCKETS} per socket" if last(options, "rs_per_socket") else "")
        )
    default = hosts * per_host if last(options, "rs_per_host") else hosts
    sets = number("nrs", default, "ALL_HOSTS", hosts, 1)
    if sets > hosts * per_host:
        raise Rejected(
            f"Error initializing RM connection: {sets} resource sets asked for, but {hosts} hosts x {per_host} hold {hosts * per_host}"
        )
    np = last(options, "np")
    tasks = -(-count(np, "--np") // sets) if np else number("tasks_per_rs", 1, "", 1, 1)
    return sets, per_host, tasks


def _environment(given: list[str], dropped: list[str]) -> dict[str, str]:
    """Return the variables that all tasks share."""
    found = {name: value for name, value in os.environ.items() if name not in dropped}
    for item in given:
        name, sign, value = item.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise Rejected(f"Invalid argument to --env: {item}; write NAME or NAME=VALUE")
        if sign:
            found[name] = value
    return found


def _place(place: Place, scaled: Scaled, namespace: str) -> Mapping[str, str]:
    """Return one task's variables; all its nodes are this machine, so they carry its name."""
    values = {
        "JSM_NAMESPACE_RANK": place.rank, "JSM_NAMESPACE_SIZE": place.size, "JSM_NAMESPACE_LOCAL_RANK": place.local_rank,
        "JSM_NAMESPACE_LOCAL_SIZE": place.local_size, "OMPI_COMM_WORLD_RANK": place.rank, "OMPI_COMM_WORLD_SIZE": place.size,
        "OMPI_COMM_WORLD_LOCAL_RANK": place.local_rank, "OMPI_COMM_WORLD_LOCAL_SIZE": place.local_size, "PMIX_NAMESPACE": namespace,
        "LSB_MCPU_HOSTS": " ".join(["batch1 1", *[f"{socket.gethostname()} {scaled.per_node}"] * scaled.nodes]),
    }  # fmt: skip
    return {name: str(value) for name, value in values.items()}
