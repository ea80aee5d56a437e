"""Slurm's directives: the options of sbatch 22.05 with their grammars, and the nodes, ranks, cores and GPUs they add up to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from stormbench.job.directives_base import Given, Request, agreed, directive_words, grouped, number, read, refuse_repeats
from stormbench.job.standins.options import table

COMMON = """
account,A= acctg-freq= bb= bbf= begin,b= chdir,D= cluster-constraint= clusters,M= comment= constraint,C= container= contiguous
core-spec,S=
cores-per-socket= cpu-freq= cpus-per-gpu= cpus-per-task,c= deadline= delay-boot= dependency,d= distribution,m= error,e= exclude,x=
exclusive?
export= extra-node-info,B= gid= gpu-bind= gpu-freq= gpus,G= gpus-per-node= gpus-per-socket= gpus-per-task= gres= gres-flags= help,h hint=
hold,H input,i= job-name,J= licenses,L= mail-type= mail-user= mcs-label= mem= mem-bind= mem-per-cpu= mem-per-gpu= mincpus= network= nice?
no-kill,k? nodefile,F= nodelist,w= nodes,N= ntasks,n= ntasks-per-core= ntasks-per-gpu= ntasks-per-node= ntasks-per-socket= open-mode=
output,o=
overcommit,O oversubscribe,s partition,p= power= prefer= priority= profile= propagate? qos,q= quiet,Q reboot reservation= signal=
sockets-per-node= spread-job switches= test-only thread-spec= threads-per-core= time,t= time-min= tmp= uid= usage use-min-nodes verbose,v
version,V wckey=
"""
PYXIS = """
container-image= container-mounts= container-workdir= container-name= container-save= container-mount-home no-container-mount-home
container-remap-root no-container-remap-root container-entrypoint no-container-entrypoint container-entrypoint-log container-writable
container-readonly container-env= image= module= volume=
"""
"""Added to sbatch and srun by the plug-ins of pyxis and Shifter."""
SBATCH = table(
    COMMON
    + PYXIS
    + "array,a= batch= export-file= get-user-env? ignore-pbs kill-on-invalid-dep= no-requeue parsable requeue wait,W wait-all-nodes= wrap="
)
REPEATABLE = ("verbose", "quiet")
MAX_ARRAY = 1001
_TIMES = (r"(?P<m>\d+)", r"(?P<m>\d+):(?P<s>\d+)", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)", r"(?P<d>\d+)-(?P<h>\d+)",
          r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d+)", r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)")  # fmt: skip
_CHOICES = {
    "exclusive": ("", "exclusive", "oversubscribe", "user", "mcs"),
    "open-mode": ("append", "truncate", "a", "t"),
    "hint": ("compute_bound", "memory_bound", "multithread", "nomultithread", "help"),
    "kill-on-invalid-dep": ("yes", "no"),
    "wait-all-nodes": ("0", "1"),
}
_WHEN = r"(now|today|tomorrow|midnight|noon|fika|elevenses|teatime|\d)[\w:+./-]*"
_GRES = r"(gres[:/])?[A-Za-z_]\w*(:[\w.-]*[A-Za-z][\w.-]*)?([:=]\d+[KMGTPkmgtp]?)?"
_GRAMMAR = {
    "mem": r"\d+[KMGTkmgt]?[Bb]?", "mem-per-cpu": r"\d+[KMGTkmgt]?[Bb]?", "mem-per-gpu": r"\d+[KMGTkmgt]?[Bb]?",
    "tmp": r"\d+[KMGTkmgt]?[Bb]?",
    "signal": r"([RB]{1,2}:)?(?!\d{4})([A-Za-z][A-Za-z0-9+]*|\d+)(@\d{1,5})?",
    "dependency": r"singleton|\w+(:\d+(_\d+)?([+]\d+)?)+([,?].+)?",
    "nodes": r"\d+(-\d+)?", "gres": rf"none|{_GRES}(,{_GRES})*", "job-name": r".+", "partition": r"[^\s]+",
    "qos": r"[^\s]+",
    "account": r"[^\s]+", "nodelist": r"[^\s]+", "begin": _WHEN, "deadline": _WHEN,
    "mail-type": r"(?i:(NONE|BEGIN|END|FAIL|REQUEUE|ALL|INVALID_DEPEND|STAGE_OUT|TIME_LIMIT(_\d\d)?|ARRAY_TASKS)(,|$))+",
    "distribution": r"(block|cyclic|arbitrary|plane=\d+|\*)(:(block|cyclic|fcyclic|\*)){0,2}(,(no)?pack)?",
}  # fmt: skip
_COUNTS = ("ntasks", "ntasks-per-node", "cpus-per-task", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu", "cpus-per-gpu",
           "sockets-per-node", "cores-per-socket", "threads-per-core", "mincpus", "core-spec")  # fmt: skip
_SIGNALS = ["HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT", "STOP", "TSTP", "TTIN", "TTOU"]


def read_script(text: str, origin: str) -> list[Given]:
    """Return the options of all `#SBATCH` lines.

    Raises:
        UserError: one that sbatch doesn't know, or one twice with different values.
    """
    given = read(directive_words(text, "#SBATCH", origin), "#SBATCH", SBATCH)
    refuse_repeats(given, REPEATABLE, "--")
    return given


def interpret(given: Iterable[Given]) -> Request:
    """Return what the options ask for.

    Raises:
        UserError: a value doesn't fit its option, or options contradict each other.
    """
    given = list(given)
    for each in given:
        check(each)
    by_name = {each.name: each for each in given}
    nodes, ranks = _tasks(by_name)
    nodes, gpus = _gpus(by_name, nodes)
    cores = _counted(by_name, "cpus-per-task")
    # without a number of nodes sbatch takes one, whatever the description says
    asked: dict[str, int | None] = {"nodes": nodes or 1, "ranks_per_node": ranks, "cores_per_rank": cores, "gpus_per_node": gpus}
    layout = agreed(by_name.get("comment"), asked)
    array = by_name.get("array")
    time = by_name.get("time")
    return Request(
        nodes=nodes or 1, ranks_per_node=layout["ranks_per_node"],
        cores_per_rank=layout["cores_per_rank"], gpus_per_node=layout["gpus_per_node"] or 0, wall_s=wall_time(time) if time else None,
        name=_value(by_name, "job-name"), queue=_value(by_name, "partition"), array=array_indices(array) if array else (),
        options=grouped(given),
    )  # fmt: skip


def check(each: Given) -> None:
    """Check one value against its option's grammar, where that is known.

    Raises:
        UserError: it doesn't fit.
    """
    choices, pattern = _CHOICES.get(each.name), _GRAMMAR.get(each.name)
    if choices and each.value not in choices:
        raise each.wrong(f"Invalid --{each.name} specification: {each.value!r}; use {', '.join(choice for choice in choices if choice)}")
    if pattern and not re.fullmatch(pattern, each.value, re.ASCII):
        raise each.wrong(f"Invalid --{each.name} specification: {each.value!r}")
    if each.name in _COUNTS:
        number(each, each.value, f"--{each.name}")
    if each.name in ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"):
        for part in each.value.split(","):
            gpu_count(each, part)
    if each.name in ("time", "time-min"):
        wall_time(each)
    if each.name == "signal":
        _check_signal(each)


def wall_time(each: Given) -> int | None:
    """Return seconds for M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None for no limit.

    Raises:
        UserError: it is none of them, or zero.
    """
    if each.value.lower() in ("infinite", "unlimited", "-1"):
        return None
    for pattern in _TIMES:
        match = re.fullmatch(pattern, each.value, re.ASCII)
        if match:
            parts = {"d": 0, "h": 0, "m": 0, "s": 0, **{name: int(text) for name, text in match.groupdict().items()}}
            seconds = ((parts["d"] * 24 + parts["h"]) * 60 + parts["m"]) * 60 + parts["s"]
            if seconds:
                return seconds
    raise each.wrong(f"Invalid --{each.name} specification: {each.value!r}; write M, M:S, H:M:S, D-H, D-H:M or D-H:M:S")


def array_indices(each: Given) -> tuple[int, ...]:
    """Return the indices of `1-4`, `0,6,16-32` or `0-15:4`, with `%2` for at most two at once.

    Raises:
        UserError: it can't be read, or is too long.
    """
    found: list[int] = []
    body, percent, limit = each.value.partition("%")
    for part in body.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", part, re.ASCII)
        low, high, step = (int(match[1]), int(match[2] or match[1]), int(match[3] or 1)) if match else (1, 0, 1)
        if low > high or step < 1 or (percent and not limit.isdigit()) or (high - low) // step >= MAX_ARRAY:
            raise each.wrong(f"Invalid --array specification: {each.value!r}; write 1-4, 0,6,9 or 0-15:4, of at most {MAX_ARRAY} indices")
        found += range(low, high + 1, step)
    return tuple(dict.fromkeys(found))


def gpu_count(each: Given, text: str) -> int:
    """Return N of `N`, `TYPE:N` or `TYPE`.

    Raises:
        UserError: it can't be read.
    """
    match = re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*(?::(\d{1,6}))?|(\d{1,6})", text, re.ASCII)
    if match is None:
        raise each.wrong(f"Invalid --{each.name} specification: {each.value!r}; write NUMBER or TYPE:NUMBER")
    return int(match[1] or match[2] or 1)


def _gpu_sum(each: Given, text: str) -> int:
    return sum(gpu_count(each, part) for part in text.split(","))


def _check_signal(each: Given) -> None:
    name, _, seconds = each.value.partition(":")[2].partition("@") if ":" in each.value else each.value.partition("@")
    known = 0 < int(name) < 65 if name.isdigit() else name.upper().removeprefix("SIG") in _SIGNALS
    if not known or int(seconds or 0) > 65535:
        raise each.wrong(f"Invalid --signal specification: {each.value!r}; write [B:]SIGNAL[@SECONDS], with at most 65535 s")


def _value(by_name: Mapping[str, Given], name: str) -> str | None:
    return by_name[name].value if name in by_name else None


def _counted(by_name: Mapping[str, Given], name: str, read_as: Callable[[Given, str], int] | None = None) -> int | None:
    each = by_name.get(name)
    if each is None:
        return None
    return read_as(each, each.value) if read_as else number(each, each.value, f"--{name}")


def _tasks(by_name: Mapping[str, Given]) -> tuple[int | None, int | None]:
    """Return nodes and ranks per node of --nodes, --ntasks and --ntasks-per-node."""
    nodes = None
    if "nodes" in by_name:
        low, _, high = by_name["nodes"].value.partition("-")
        nodes = number(by_name["nodes"], low, "--nodes")
        if high and int(high) < nodes:
            raise by_name["nodes"].wrong(f"Invalid --nodes specification: {by_name['nodes'].value!r} runs backwards")
    total, each = _counted(by_name, "ntasks"), _counted(by_name, "ntasks-per-node")
    if total is None:
        return nodes, each
    if nodes is None:
        nodes = -(-total // each) if each else None
        return nodes, each
    if each and total > nodes * each:
        told = f"--ntasks={total} is more than --nodes={nodes} x --ntasks-per-node={each}"
        raise by_name["ntasks"].wrong(f"{told}; leave one of them out")
    if total < nodes:
        raise by_name["ntasks"].wrong(f"--ntasks={total} is fewer than --nodes={nodes}; each node needs a task")
    return nodes, each or (total // nodes if total % nodes == 0 else None)


def _gpus(by_name: Mapping[str, Given], nodes: int | None) -> tuple[int | None, int | None]:
    """Return nodes, which the total of GPUs may tell, and the GPUs of a node."""
    per_node, total = (_counted(by_name, name, _gpu_sum) for name in ("gpus-per-node", "gpus"))
    if "gres" in by_name:
        parts = [
            part.partition("gpu")[2].lstrip(":=") or "1"
            for part in by_name["gres"].value.split(",")
            if re.match(r"(gres:)?gpu(?=[:=]|$)", part)
        ]
        gres = sum(gpu_count(by_name["gres"], part) for part in parts) if parts else None
        if None not in (gres, per_node) and gres != per_node:
            raise by_name["gres"].wrong(f"--gres asks for {gres} GPUs a node, --gpus-per-node for {per_node}; keep one of them")
        per_node = per_node if gres is None else gres
    if total is None:
        return nodes, per_node
    if per_node and nodes is None:
        nodes = -(-total // per_node)
    if nodes is None:
        raise by_name["gpus"].wrong(f"--gpus={total} alone leaves the number of nodes open; add --nodes or --gpus-per-node")
    if total % nodes or (per_node and total != nodes * per_node):
        told = (
            f"--gpus={total} is not {nodes} nodes x {per_node} GPUs" if per_node else f"--gpus={total} doesn't divide among {nodes} nodes"
        )
        raise by_name["gpus"].wrong(f"{told}; make them agree")
    return nodes, total // nodes
