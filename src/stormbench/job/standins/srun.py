"""srun: reads its options as srun 22.05 with pyxis does, and starts the step's ranks here with a step's variables."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.hostlist import expand
from stormbench.job.directives_base import Given
from stormbench.job.directives_slurm import COMMON, PYXIS, check
from stormbench.job.standins.containers import workspace
from stormbench.job.standins.mapping import Bind, mapped, mapped_values
from stormbench.job.standins.options import Rejected, count, every, last, table
from stormbench.job.standins.plan import State
from stormbench.job.standins.ranks import Place, Scaled, scale, start

SRUN = table(
    COMMON
    + PYXIS
    + """
    accel-bind= bcast? bcast-exclude= compress? cpu-bind,cpu_bind= disable-status,X epilog= exact het-group= immediate,I? jobid=
    kill-on-bad-exit,K? label,l mpi= msg-timeout= multi-prog no-allocate,Z overlap preserve-env,E prolog= pty quit-on-interrupt
    relative,r= resv-ports?
    send-libs? slurmd-debug= task-epilog= task-prolog= threads,T= unbuffered,u wait,W= environment=
    """
)
_INPUT = {
    "ntasks": "SLURM_NTASKS",
    "ntasks-per-node": "SLURM_NTASKS_PER_NODE",
    "cpus-per-task": "SRUN_CPUS_PER_TASK",
    "mpi": "SLURM_MPI_TYPE",
    "kill-on-bad-exit": "SLURM_KILL_BAD_EXIT",
    "nodes": "SLURM_JOB_NUM_NODES",
    "gpus-per-task": "SLURM_GPUS_PER_TASK",
}
"""What srun reads from its environment; since 22.05 not SLURM_CPUS_PER_TASK."""
_FLAG = "(q|quiet|v|verbose)"
_CPU_BIND = re.compile(
    rf"({_FLAG},)*(no|none|rank|sockets|cores|threads|ldoms|boards|rank_ldom|help|(map|mask)_(cpu|ldom):[^\s]+|{_FLAG})(,{_FLAG})*"
)
_GPU_BIND = re.compile(r"(v|verbose)?,?(none|closest|single:\d+|per_task:\d+|map_gpu:[\d,x*]+|mask_gpu:[\w,]+)")
_MPI = ("none", "pmi2", "pmix", "pmix_v2", "pmix_v3", "pmix_v4", "pmix_v5", "pspmix", "cray_shasta", "openmpi", "list")
_MOUNT_FLAGS = {
    "ro",
    "rw",
    "x-create=dir",
    "x-create=file",
    "x-create=auto",
    "rbind",
    "bind",
    "none",
    "nosuid",
    "nodev",
    "noexec",
    "private",
    "slave",
    "rprivate",
    "rslave",
}


def srun(state: State, arguments: list[str]) -> int:
    """Start a step; return the highest exit code of its ranks."""
    options, command = SRUN.parse(arguments)
    if not command:
        raise Rejected("No command given to execute.")
    given = {name: os.environ[variable] for name, variable in _INPUT.items() if os.environ.get(variable)}
    # a job's own count of tasks doesn't bind a step that says how many it wants per node or on how many nodes
    if {"nodes", "ntasks-per-node"} & {name for name, _ in options}:
        given.pop("ntasks", None)
    asked = {**given, **dict(options)}
    _check(options)
    nodes, ranks = _size(asked, dict(options))
    _fits(asked, nodes, ranks)
    binds = _container(state, options, asked)
    job = os.environ.get("SLURM_JOB_ID", "1000")
    step = _step(state, job)
    scaled = scale(state, ranks, nodes)
    if "container-name" in asked:
        for node in range(scaled.nodes):
            state.enroot(f"pyxis_{asked['container-name'].partition(':')[0]}", node).touch()
    state.record("accepted")
    output, error = (last(options, name) for name in ("output", "error"))
    environments = [_environment(state, place, scaled, asked, job, step, binds) for place in scaled.places()]
    kill = asked.get("kill-on-bad-exit") not in (None, "0")
    return start(
        mapped(command, binds), environments, stop_others=kill, label="label" in asked, output=_named(output, job, step),
        error=_named(error, job, step),
        append=asked.get("open-mode", "t").startswith("a"), cwd=_folder(asked, binds),
    )  # fmt: skip


def _check(options: list[tuple[str, str]]) -> None:
    """Check values as sbatch's, then what only srun has."""
    for name, value in options:
        check(Given(name=name, value=value, where=f"--{name}"))
        if name == "cpu-bind" and not _CPU_BIND.fullmatch(value):
            raise Rejected(f"unrecognized --cpu-bind argument {value!r}")
        if name == "gpu-bind" and not _GPU_BIND.fullmatch(value):
            raise Rejected(f"Invalid --gpu-bind argument: {value}")
        if name == "accel-bind" and not re.fullmatch("[gmnv]+", value):
            raise Rejected(f"Invalid --accel-bind specification: {value!r}")
        if name == "mpi" and value not in _MPI:
            raise Rejected(f"MPI plugin '{value}' not found; srun --mpi=list shows those that are there")
        if name == "kill-on-bad-exit" and value not in ("", "0", "1"):
            raise Rejected(f"Invalid --kill-on-bad-exit specification: {value!r}")
        if name == "wait":
            count(value, "--wait", 0)


def _size(asked: Mapping[str, str], options: Mapping[str, str]) -> tuple[int, int]:
    """Return the step's nodes and ranks."""
    held = int(os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or 0)
    nodes = int((asked.get("nodes") or str(held or 1)).partition("-")[0])
    each = int(asked["ntasks-per-node"]) if "ntasks-per-node" in asked else None
    listed = options.get("nodelist")
    if listed and "nodes" not in options:
        nodes = len(expand(listed, "--nodelist"))
    if held and nodes > held:
        raise Rejected(f"Only allocated {held} nodes asked for {nodes}")
    if listed and held and set(expand(listed, "--nodelist")) - set(expand(os.environ.get("SLURM_JOB_NODELIST", listed))):
        raise Rejected(f"Unable to create step: Requested nodes not in this job's allocation: {listed}")
    if "relative" in options and count(options["relative"], "--relative", 0) + nodes > max(held, 1):
        raise Rejected(f"--relative={options['relative']} and {nodes} nodes are beyond the allocation of {held} nodes")
    if "ntasks" in asked:
        ranks = int(asked["ntasks"])
        if each and "ntasks" in options and ranks > nodes * each:
            raise Rejected(f"Requested {ranks} tasks, more than {nodes} nodes x --ntasks-per-node={each}")
        # srun warns and takes fewer nodes
        return min(nodes, ranks), ranks
    return nodes, nodes * (each or 1)


def _fits(asked: Mapping[str, str], nodes: int, ranks: int) -> None:
    """Raise if a node of the job can't hold its ranks, as far as the job said what it has."""
    each = -(-ranks // nodes)
    whole = os.environ.get("STORMBENCH_STANDIN_WHOLE_NODES") == "1"
    cores, gpus = os.environ.get("SLURM_CPUS_ON_NODE"), os.environ.get("SLURM_GPUS_ON_NODE")
    if (
        cores
        and not whole
        and "SLURM_CPUS_PER_TASK" in os.environ
        and "overcommit" not in asked
        and each * int(asked.get("cpus-per-task", 1)) > int(cores)
    ):
        told = f"{each} tasks x {asked.get('cpus-per-task', 1)} cores on a node that has {cores} in this job"
        raise Rejected(f"Unable to create step for job {os.environ.get('SLURM_JOB_ID')}: More processors requested than permitted ({told})")
    if gpus and "gpus-per-task" in asked and each * int(asked["gpus-per-task"].rpartition(":")[2]) > int(gpus):
        told = f"{each} tasks x {asked['gpus-per-task']} GPUs on a node that has {gpus} in this job"
        raise Rejected(
            f"Unable to create step for job {os.environ.get('SLURM_JOB_ID')}: Invalid generic resource (gres) specification ({told})"
        )


def _container(state: State, options: list[tuple[str, str]], asked: Mapping[str, str]) -> list[Bind]:
    """Check pyxis' options; return the container's mounts, none without a container."""
    image, name = asked.get("container-image"), asked.get("container-name")
    own = [option for option, _ in options if option.startswith("container-") or option.startswith("no-container-")]
    if not own:
        return []
    if image is None and name is None:
        raise Rejected(f"pyxis: --{own[0]} without --container-image or --container-name has no effect; name the image")
    if image is not None and image.endswith((".sqsh", ".squashfs")):
        if not image.startswith(("/", "./")):
            raise Rejected(f"pyxis: --container-image={image}: a file must begin with / or ./, else it is a registry's name")
        if not Path(image).is_file():
            raise Rejected(f"pyxis: container start failed: No such file or directory: {image}")
    for value in every(options, "container-env"):
        bad = next((each for each in value.split(",") if not re.fullmatch(r"[A-Za-z_]\w*", each)), None)
        if bad is not None:
            raise Rejected(f"pyxis: --container-env: {bad!r} is not the name of a variable; write names only, separated by commas")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+(:(auto|create|exec|no_exec))?", name):
        raise Rejected(f"pyxis: --container-name={name}: invalid name or flag")
    if image is None and name is not None and not state.enroot(f"pyxis_{name.partition(':')[0]}", 0).exists():
        raise Rejected(f"pyxis: error: the container {name} doesn't exist; start it once with --container-image")
    mounts = [_mount(each) for value in every(options, "container-mounts") for each in value.split(",")]
    return workspace(state, mounts)


def _mount(text: str) -> Bind:
    source, _, rest = text.partition(":")
    target, _, flags = rest.partition(":")
    target = target or source
    if not source.startswith(("/", "./", "tmpfs")) or not target.startswith("/"):
        raise Rejected(f"pyxis: --container-mounts: invalid format: {text}; write SRC:DST[:FLAGS] with absolute paths")
    if flags and set(re.split(r"[+]", flags)) - _MOUNT_FLAGS:
        raise Rejected(f"pyxis: --container-mounts: invalid flags {flags!r} in {text}; use ro or rw")
    if source != "tmpfs" and not Path(source).exists():
        raise Rejected(f"pyxis: couldn't start container: mount: {source}: No such file or directory")
    return Bind(source=source, target=target)


def _folder(asked: Mapping[str, str], binds: list[Bind]) -> str | None:
    folder = asked.get("container-workdir") if "container-workdir" in asked else asked.get("chdir")
    return mapped([folder], binds)[0] if folder else None


def _named(path: str | None, job: str, step: int) -> str | None:
    return path.replace("%j", job).replace("%J", f"{job}.{step}").replace("%s", str(step)) if path else None


def _step(state: State, job: str) -> int:
    """Return the number of this step, counted from 0 in each start of the job."""
    folder = state.kept(
        "steps", f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}.{os.environ.get('SLURM_ARRAY_TASK_ID', '')}", "0"
    ).parent
    number = 0
    while True:
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


def _environment(
    state: State, place: Place, scaled: Scaled, asked: Mapping[str, str], job: str, step: int, binds: list[Bind]
) -> dict[str, str]:  # fmt: skip
    """Return a rank's variables: those of a step of the scaled size, all of whose nodes are this machine."""
    # ranks may call each other by these names, so they must be this host's; the job's own list keeps its full length
    hosts = ",".join([socket.gethostname()] * scaled.nodes)
    per_node = str(scaled.per_node) + (f"(x{scaled.nodes})" if scaled.nodes > 1 else "")
    values: dict[str, object] = {
        "SLURM_PROCID": place.rank, "SLURM_LOCALID": place.local_rank, "SLURM_NODEID": place.node, "SLURM_NTASKS": place.size,
        "SLURM_NPROCS": place.size, "SLURM_STEP_ID": step, "SLURM_STEPID": step, "SLURM_STEP_NUM_TASKS": place.size,
        "SLURM_STEP_NUM_NODES": scaled.nodes, "SLURM_STEP_NODELIST": hosts, "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_TASKS_PER_NODE": per_node,
        "SLURM_NNODES": scaled.nodes, "SLURM_JOB_ID": job, "SLURM_JOBID": job, "SLURMD_NODENAME": socket.gethostname(),
        "SLURM_GTIDS": ",".join(str(place.node * scaled.per_node + index) for index in range(scaled.per_node)),
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "SLURM_SRUN_COMM_HOST": "127.0.0.1", "SLURM_TASK_PID": os.getpid(),
    }  # fmt: skip
    if "cpus-per-task" in asked:
        values["SLURM_CPUS_PER_TASK"] = asked["cpus-per-task"]
    mpi = asked.get("mpi", "none")
    if mpi == "pmi2":
        values |= {"PMI_RANK": place.rank, "PMI_SIZE": place.size}
    elif mpi.startswith("pmix"):
        values |= {"PMIX_RANK": place.rank, "PMIX_NAMESPACE": f"slurm.pmix.{job}.{step}"}
    inherited = dict(os.environ)
    if "ntasks-per-node" in asked:
        inherited["SLURM_NTASKS_PER_NODE"] = str(scaled.per_node)
    rank = {**inherited, **{name: str(value) for name, value in values.items()}}
    export = asked.get("export", "ALL")
    if export != "ALL" and not export.startswith("ALL,"):
        names = {name.partition("=")[0] for name in export.split(",")}
        rank = {
            name: value
            for name, value in rank.items()
            if name in names or name.startswith(("SLURM", "PMI", "STORMBENCH_STANDIN")) or name == "PATH"
        }
    rank |= dict(item.split("=", 1) for item in export.split(",") if "=" in item)
    return {**mapped_values(rank, binds), **state.plan.environment}
