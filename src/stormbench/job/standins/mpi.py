"""MPI's launchers and torchrun: mpiexec as PALS and Hydra have it, mpirun as Open MPI does, with their ranks started here."""

from __future__ import annotations

import os
import re
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.launchers import LAUNCH_ID
from stormbench.job.standins.options import Rejected, count, every, last, table
from stormbench.job.standins.plan import State
from stormbench.job.standins.ranks import Place, scale, start

MPIEXEC = table(
    """
    n,np= ppn,perhost,N= hostfile,f,machinefile= hosts,host= cpu-bind= mem-bind= gpu-bind= depth,d= env=? genv=? genvall genvlist=
    genvnone envall
    envlist= envnone line-buffer l,prepend-rank,label no-transfer,no_transfer rlimits= wdir,w= umask= exclusive,x shared verbose,v
    launcher= rmk= iface=
    bind-to= map-by= errfile-pattern= outfile-pattern= order-nodes= info disable-auto-cleanup pmi= transfer network= no-vni
    single-node-vni
    """,
    "either",
)
MPIRUN = table(
    """
    np,n,c= N,npernode,pernode= hostfile,machinefile,default-hostfile= H,host= map-by= bind-to= rank-by= oversubscribe nooversubscribe
    use-hwthread-cpus x=
    allow-run-as-root mca== gmca== wdir,wd= tag-output timestamp-output l,label output-filename= report-bindings display-map
    display-allocation
    stdin= prefix= quiet,q verbose,v timeout= personality= merge-stderr-to-stdout nolocal novm enable-recovery tune= do-not-launch
    """,
    "either",
)
TORCHRUN = table(
    """
    nnodes= nproc_per_node,nproc-per-node= node_rank,node-rank= master_addr,master-addr= master_port,master-port= rdzv_id,rdzv-id=
    rdzv_backend,rdzv-backend=
    rdzv_endpoint,rdzv-endpoint= rdzv_conf,rdzv-conf= standalone max_restarts,max-restarts= monitor_interval,monitor-interval=
    start_method,start-method=
    role= module,m no_python,no-python run_path,run-path log_dir,log-dir= redirects,r= tee,t= local_addr,local-addr=
    signals_to_handle,signals-to-handle=
    """
)
_BIND_TO = re.compile(
    r"(none|hwthread|core|l1cache|l2cache|l3cache|socket|package|numa|board|user:\S+|map=\S+)(:(overload-allowed|if-supported))*"
)
_MAP_BY = re.compile(
    r"(ppr:\d+:\w+|slot|hwthread|core|l[123]cache|socket|package|numa|board|node|seq|dist)?(:(pe=\d+|oversubscribe|nooversubscribe|span|\w+=\d+))*",
    re.IGNORECASE,
)
_MPIEXEC_MAP_BY = re.compile(r"(hwthread|core|l[1-5]u?(cache)?|socket|numa|board|machine|node|(pci|gpu|ib|en|eth|hfi)\d*)(:\w+)?")
_LISTED = re.compile(r"none|(list|mask):[\w,-]+(:[\w,-]+)*")
"""Of memory and GPUs to each local rank in turn, as in list:0:0:1:1 or list:0-2:3-5."""
_CPU_BIND = re.compile(r"((verbose|v),)?(none|depth|core|numa|socket|thread|user|rank|list:[\d,:-]+|mask:\S+|map_cpu:\S+)")


def mpiexec(state: State, arguments: list[str]) -> int:
    """Start ranks as on a machine with PALS; hosts come from --hostfile, else from PBS."""
    options, command = _read(MPIEXEC, arguments)
    hosts = _hosts(options, os.environ.get("PBS_NODEFILE"))
    each = count(last(options, "ppn") or "", "--ppn") if last(options, "ppn") is not None else None
    ranks = count(last(options, "n") or "", "-n") if last(options, "n") is not None else len(hosts) * (each or 1)
    each = each or -(-ranks // len(hosts))
    if ranks > each * len(hosts):
        raise Rejected(f"-n {ranks} is more than --ppn {each} x {len(hosts)} hosts; ask for at most {each * len(hosts)} ranks")
    bindings = {"cpu-bind": _CPU_BIND, "mem-bind": _LISTED, "gpu-bind": _LISTED, "map-by": _MPIEXEC_MAP_BY}
    for name, value in options:
        if name in bindings and not bindings[name].fullmatch(value):
            kind = {"cpu-bind": "CPU", "mem-bind": "memory", "gpu-bind": "GPU", "map-by": "rank"}[name]
            raise Rejected(f"invalid {kind} binding: --{name} {value}")
    if last(options, "depth") is not None:
        count(last(options, "depth") or "", "--depth")
    scaled = scale(state, ranks, min(len(hosts), -(-ranks // each)))
    shared = _shared(state, options)
    launch = str(uuid.uuid4())

    def place(at: Place) -> dict[str, str]:
        values = {
            "PALS_RANKID": at.rank, "PALS_NODEID": at.node, "PALS_LOCAL_RANKID": at.local_rank, "PALS_LOCAL_SIZE": at.local_size,
            "PALS_APID": launch,
            "PALS_DEPTH": last(options, "depth") or 1, "PMI_RANK": at.rank, "PMI_SIZE": at.size, "PMI_LOCAL_RANK": at.local_rank,
            "PMI_LOCAL_SIZE": at.local_size, "PMI_UNIVERSE_SIZE": at.size, "PMI_JOBID": launch,
        }  # fmt: skip
        return {name: str(value) for name, value in values.items()}

    state.record("accepted")
    environments = [{**shared, **place(at), **state.plan.environment} for at in scaled.places()]
    return start(command, environments, stop_others=True, label=last(options, "l") is not None, cwd=last(options, "wdir"))


def mpirun(state: State, arguments: list[str]) -> int:
    """Start ranks as Open MPI does; hosts come from --hostfile or --host, else this machine."""
    options, command = _read(MPIRUN, arguments)
    slots = _slots(options)
    for name, pattern in (("bind-to", _BIND_TO), ("map-by", _MAP_BY)):
        value = last(options, name)
        if value is not None and not pattern.fullmatch(value):
            raise Rejected(f"--{name} {value}: the policy is not recognized")
    if os.getuid() == 0 and last(options, "allow-run-as-root") is None and os.environ.get("OMPI_ALLOW_RUN_AS_ROOT") != "1":
        raise UserError("mpirun has detected an attempt to run as root; add --allow-run-as-root where that is meant, as in a container")
    given = last(options, "np")
    ranks = count(given, "-np") if given is not None else sum(slots.values())
    per_node = re.match(r"(?i)ppr:(\d+):node", last(options, "map-by") or "")
    crowded = last(options, "oversubscribe") is not None or "oversubscribe" in (last(options, "map-by") or "").lower()
    listed = last(options, "hostfile") is not None or last(options, "H") is not None
    room = int(per_node[1]) * len(slots) if per_node else sum(slots.values())
    if ranks > room and not crowded and (listed or per_node):
        raise UserError(
            f"There are not enough slots available in the system to satisfy the {ranks} slots that were requested; there are {room}"
        )
    each = int(per_node[1]) if per_node else max(1, -(-ranks // len(slots)), *slots.values()) if listed else ranks
    scaled = scale(state, ranks, max(1, -(-ranks // each)))
    shared = _shared(state, options)
    launch = uuid.uuid4().hex

    def place(at: Place) -> dict[str, str]:
        values = {
            "OMPI_COMM_WORLD_RANK": at.rank, "OMPI_COMM_WORLD_SIZE": at.size, "OMPI_COMM_WORLD_LOCAL_RANK": at.local_rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": at.local_size, "OMPI_COMM_WORLD_NODE_RANK": at.local_rank, "OMPI_UNIVERSE_SIZE": at.size,
        }  # fmt: skip
        # PMIX_NAMESPACE would tell launches apart, but an MPI library that sees it looks for a server which isn't there
        return {LAUNCH_ID: f"mpirun-{launch}", **{name: str(value) for name, value in values.items()}}

    state.record("accepted")
    environments = [{**shared, **place(at), **state.plan.environment} for at in scaled.places()]
    return start(command, environments, stop_others=True, label=last(options, "tag-output") is not None, cwd=last(options, "wdir"))


def torchrun(state: State, arguments: list[str]) -> int:
    """Start one node's ranks as torchrun does: alone, or once in each task of an srun step that may itself be scaled down."""
    options, command = TORCHRUN.parse(arguments)
    if not command:
        raise Rejected("the following arguments are required: training_script")
    steps = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    text = last(options, "nproc_per_node") or "1"
    per_node = (os.cpu_count() or 1) if text in ("auto", "cpu", "gpu") else count(text, "--nproc_per_node")
    asked = count((last(options, "nnodes") or "1").rpartition(":")[2], "--nnodes")
    nodes = min(asked, steps)
    node = int(os.environ.get("SLURM_NODEID", "0")) if nodes > 1 else 0
    scale(state, asked * per_node, asked)
    here = max(1, min(per_node, state.plan.ranks // nodes))
    state.scaling = {"asked_ranks": asked * per_node, "asked_nodes": asked, "ranks": here * nodes, "nodes": nodes}
    address = "127.0.0.1" if nodes == 1 else socket.gethostname()
    port = last(options, "master_port") or (last(options, "rdzv_endpoint") or "").rpartition(":")[2] or str(20000 + os.getpid() % 20000)
    interpreter = (
        [] if last(options, "no_python") is not None else [sys.executable, *(["-m"] if last(options, "module") is not None else [])]
    )

    def place(index: int) -> dict[str, str]:
        values = {
            "RANK": node * here + index, "WORLD_SIZE": nodes * here, "LOCAL_RANK": index, "LOCAL_WORLD_SIZE": here, "GROUP_RANK": node,
            "GROUP_WORLD_SIZE": nodes, "MASTER_ADDR": address, "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": last(options, "rdzv_id") or "none",
            "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "ROLE_RANK": node * here + index,
            "ROLE_WORLD_SIZE": nodes * here,
        }  # fmt: skip
        return {name: str(value) for name, value in values.items()}

    state.record("accepted")
    return start(
        [*interpreter, *command], [{**os.environ, **place(index), **state.plan.environment} for index in range(here)], stop_others=True
    )


def _read(known: object, arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return options and command; `:` would begin a second program, which job scripts here never have."""
    options, command = known.parse(arguments)  # type: ignore[attr-defined]
    if not command:
        raise Rejected("no executable specified")
    return options, command


def _hosts(options: list[tuple[str, str]], default: str | None) -> list[str]:
    """Return the hosts of --hosts, of the host file, or this one, each once."""
    listed = last(options, "hosts")
    if listed is not None:
        return list(dict.fromkeys(host.partition(":")[0] for host in listed.split(",")))
    file = last(options, "hostfile") or default
    if file is None:
        return [socket.gethostname()]
    try:
        lines = [
            line.split()[0].partition(":")[0]
            for line in Path(file).read_text(encoding="utf-8").splitlines()
            if line.strip() and line[0] != "#"
        ]
    except OSError as error:
        raise UserError(f"unable to open hostfile {file}: {error.strerror}") from error
    if not lines:
        raise UserError(f"hostfile {file} names no host")
    return list(dict.fromkeys(lines))


def _slots(options: list[tuple[str, str]]) -> dict[str, int]:
    """Return the slots of each host as Open MPI counts them: slots=N, or one for each line."""
    found: dict[str, int] = {}
    listed, file = last(options, "H"), last(options, "hostfile")
    if listed is not None:
        for item in listed.split(","):
            host, _, slots = item.partition(":")
            found[host] = found.get(host, 0) + int(slots or 1)
        return found
    if file is None:
        return {socket.gethostname(): os.cpu_count() or 1}
    _hosts(options, None)
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            slots = next((word.partition("=")[2] for word in words[1:] if word.startswith("slots=")), "1")
            found[words[0]] = found.get(words[0], 0) + count(slots, f"{file}: slots")
    return found


def _shared(state: State, options: list[tuple[str, str]]) -> Mapping[str, str]:
    """Return the variables that all ranks of a launch get."""
    bare = {name for name, _ in options} & {"genvnone", "envnone"}
    found = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} if bare else dict(os.environ)
    for name in ("env", "genv", "x"):
        for item in every(options, name):
            bare_name, sign, value = item.partition("=")
            if not re.fullmatch(r"[A-Za-z_]\w*", bare_name):
                raise Rejected(f"-{name} {item}: not the name of a variable")
            if sign:
                found[bare_name] = value
            elif bare_name in os.environ:
                found[bare_name] = os.environ[bare_name]
            else:
                print(f"{state.program}: warning: could not find environment variable {bare_name!r}", file=sys.stderr)
    for each in every(options, "genvlist") + every(options, "envlist"):
        found |= {name: os.environ[name] for name in each.split(",") if name in os.environ}
    return found
