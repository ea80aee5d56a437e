"""PBS Pro's directives: the options of qsub with their grammars, and the chunks of select they add up to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stormbench.job.directives_base import Given, Request, grouped, number, read, refuse_repeats
from stormbench.job.directives_pbs_script import PREFIX, directive_words
from stormbench.job.directives_pbs_values import check, check_place, check_size, wall_time
from stormbench.job.standins.options import table

QSUB = table("A= a= C= c= e= f G? h I J= j= k= l= M= m= N= o= P= p= q= R= r= S= u= V v= W= X z version")
REPEATABLE = ("l", "W", "v")
CHUNK = ("ncpus", "mpiprocs", "ompthreads", "ngpus", "naccelerators", "accelerator_model", "mem", "vmem", "host", "vnode", "arch", "mics",
         "nchunk", "system", "scratch", "cpu_type", "gpu_type", "model")  # fmt: skip
"""Usual names inside select; sites add their own."""
JOB_WIDE = ("walltime", "cput", "pcput", "pmem", "pvmem", "file", "nice", "software", "min_walltime", "max_walltime", "filesystems",
            "storage", "wd", "jobfs", "other", "place", "select", "soft_walltime", "preempt_targets", "max_run_subjobs")  # fmt: skip
_MISSPELLED = {
    "ncpu": "ncpus", "ncups": "ncpus", "ncpsu": "ncpus", "ngpu": "ngpus", "ngups": "ngpus", "mpiproc": "mpiprocs", "mpiprcs": "mpiprocs",
    "mpi_procs": "mpiprocs", "ompthread": "ompthreads", "waltime": "walltime", "walltme": "walltime", "walltimes": "walltime",
    "wall_time": "walltime", "wallime": "walltime", "selects": "select", "places": "place",
}  # fmt: skip
"""What the usual names are mistyped as; every other unknown name may be the site's own."""


def read_script(text: str, origin: str) -> list[Given]:
    """Return the options of all `#PBS` lines, each resource of -l and attribute of -W on its own.

    Raises:
        UserError: one that qsub doesn't know, or one twice with different values.
    """
    # a comment behind a directive is not PBS's: its words would become qsub's
    given = split(read(directive_words(text, origin), PREFIX, QSUB))
    refuse_repeats([each for each in given if each.name not in ("l", "W")], REPEATABLE, "-")
    named = [Given(name=_part(each), value=each.value, where=each.where) for each in given if each.name in ("l", "W")]
    for each in named:
        if each.name == "select" and sum(other.name == "select" for other in named) > 1:
            others = [other.where for other in named if other.name == "select"]
            raise named[-1].wrong(
                f"a second select ({' and '.join(others)}) overrides the first; write one select with all chunks, joined by +"
            )
    refuse_repeats(named, (), "")
    return given


def split(given: Iterable[Given]) -> list[Given]:
    """Return the options with `-l a=1,b=2` as two, likewise -W; commas inside a value's own list stay."""
    found = []
    for each in given:
        if each.name not in ("l", "W"):
            found.append(each)
            continue
        parts = re.split(r",(?=[A-Za-z_]\w*=)", each.value) if not each.value.startswith("depend=") else [each.value]
        found += [Given(name=each.name, value=part, where=each.where) for part in parts]
    return found


def key(each: Given) -> str:
    """Return what a later layer of options replaces: the option, or one resource of it."""
    return f"{each.name} {_part(each)}" if each.name in ("l", "W") else each.name


def interpret(given: Iterable[Given]) -> Request:
    """Return what the options ask for.

    Raises:
        UserError: a value doesn't fit its option, or options contradict each other.
    """
    given = list(given)
    by_key = {key(each): each for each in given}
    select, old = by_key.get("l select"), by_key.get("l nodes")
    for each in given:
        check(each)
        if each.name == "l":
            _check_resource(each, select is not None or "l place" in by_key)
    chunks = _chunks(select) if select else _nodes(old) if old else []
    nodes = sum(count for count, _ in chunks) or 1
    ranks, cores, gpus = (_common(chunks, name) for name in ("mpiprocs", "ncpus", "ngpus"))
    walltime, array = by_key.get("l walltime"), by_key.get("J")
    if not select:
        cores = _total(by_key.get("l ncpus"))
        gpus = _total(by_key.get("l ngpus"))
    return Request(
        nodes=nodes, ranks_per_node=ranks, cores_per_rank=max(1, cores // ranks) if cores and ranks else None, gpus_per_node=gpus or 0,
        wall_s=wall_time(walltime) if walltime else None, name=by_key["N"].value if "N" in by_key else None,
        queue=by_key["q"].value if "q" in by_key else None, array=_indices(array) if array else (), options=grouped(given),
    )  # fmt: skip


def _part(each: Given) -> str:
    return each.value.partition("=")[0]


def _check_resource(each: Given, selects: bool) -> None:
    name, sign, value = each.value.partition("=")
    if name == "wd" and not sign:
        return
    if not sign or not value or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise each.wrong(f"-l {each.value}: Illegal attribute or resource value; write -l NAME=VALUE")
    _check_name(each, name)
    if selects and name in (*CHUNK, "nodes") and name != "software":
        raise each.wrong(f'-l {each.value}: "-lresource=" cannot be used with "select" or "place"; put :{each.value} into the select')
    check_size(each, name, value)
    if name == "place":
        check_place(each, value)
    if name.endswith("walltime"):
        wall_time(each)


def _check_name(each: Given, name: str) -> None:
    """Raise for a name that is a well-known one mistyped."""
    if name in _MISSPELLED:
        raise each.wrong(f"-l {each.value}: Unknown resource {name}; did you mean {_MISSPELLED[name]}?")


def _chunks(each: Given) -> list[tuple[int, dict[str, str]]]:
    """Return number and resources of each chunk in `select=2:ncpus=4:mpiprocs=2+1:ncpus=8`."""
    found = []
    for chunk in each.value.partition("=")[2].split("+"):
        first, *rest = re.split(r":(?=[A-Za-z_])", chunk)
        if not first.isdigit():
            rest, first = [first, *rest], "1"
        resources: dict[str, str] = {}
        for item in rest:
            name, sign, value = item.partition("=")
            if not sign or not value or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in resources:
                raise each.wrong(f"-l {each.value}: Illegal attribute or resource value {item!r}; write each resource once, as NAME=VALUE")
            _check_name(each, name)
            check_size(each, name, value)
            if name in JOB_WIDE:
                raise each.wrong(f"-l {each.value}: {name} belongs to the whole job; write it as -l {item}")
            if name in ("ncpus", "mpiprocs", "ngpus", "ompthreads", "naccelerators"):
                number(each, value, name, 0 if name != "mpiprocs" else 1)
            resources[name] = value
        found.append((number(each, first, "select"), resources))
    return found


def _nodes(each: Given) -> list[tuple[int, dict[str, str]]]:
    """Return number and resources of each part of the older `nodes=2:ppn=4+1:ppn=2`; parts may name hosts and properties."""
    found = []
    for part in each.value.partition("=")[2].split("+"):
        first, *rest = part.split(":")
        named = dict(item.partition("=")[::2] for item in rest)
        ranks = named.get("ppn")
        resources = {"mpiprocs": str(number(each, ranks, "ppn")), "ncpus": ranks} if ranks else {}
        found.append((number(each, first, "nodes") if first.isdigit() else 1, resources))
    return found


def _common(chunks: list[tuple[int, dict[str, str]]], name: str) -> int | None:
    """Return the value that all chunks share, or None."""
    values = {resources.get(name) for _, resources in chunks}
    value = values.pop() if len(values) == 1 else None
    return int(value) if value else None


def _total(each: Given | None) -> int | None:
    return number(each, each.value.partition("=")[2], each.value.partition("=")[0]) if each else None


def _indices(each: Given) -> tuple[int, ...]:
    low, high, step = (int(part or 1) for part in re.match(r"(\d+)-(\d+)(?::(\d+))?", each.value).groups())  # type: ignore[union-attr]
    if high <= low or step < 1 or high - low > 10**5:
        raise each.wrong(f"-J {each.value}: illegal -J value; write FIRST-LAST[:STEP] with the last above the first")
    return tuple(range(low, high + 1, step))
