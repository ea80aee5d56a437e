"""Ranks against the node they stand on: GPUs, cores, threads, core lists, network cards."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.job.findings import Finding, error, warning

if TYPE_CHECKING:
    from stormbench.job.load import Job


THREADS_PER_CORE = 4
"""Hardware threads of a core at most, as on POWER9 with SMT4."""


def _gpus(job: Job) -> Iterator[Finding]:
    """A rank has one GPU or an equal share of several; none has to do without."""
    config = job.config
    ranks, gpus = config.ranks_per_node, config.gpus_per_node
    if config.gpu_vendor == "none" or not gpus:
        return
    where, said = job.where("DGXNGPU"), job.said("DGXNGPU")
    if ranks > gpus:
        yield error(where, f"{said}: a node has {job.said('STORMBENCH_GPUS_PER_NODE')}; use at most {gpus} ranks per node")
    elif gpus % ranks:
        fits = ", ".join(str(number) for number in range(1, gpus + 1) if gpus % number == 0)
        yield error(where, f"{said}: {gpus} GPUs of a node don't divide by {ranks} ranks; use one of {fits}")
    elif ranks < gpus:
        yield warning(where, f"{said}: a node has {gpus} GPUs, so {gpus - ranks} of them stay idle; use {gpus} ranks per node")


def _cores(job: Job) -> Iterator[Finding]:
    """Ranks and their threads fit in the node's cores."""
    config = job.config
    cores, ranks = config.cores_per_node, config.ranks_per_node
    limit, level = f"the {cores} cores of a node (STORMBENCH_CORES_PER_NODE)", error
    if not cores:
        if config.scheduler != "local":
            return
        cores, level = os.cpu_count() or 1, warning
        limit = f"the {cores} cores of this machine"
    if ranks > cores:
        yield level(job.where("DGXNGPU"), f"{job.said('DGXNGPU')}: more ranks than {limit}; use at most {cores}")
    if config.cores_per_rank * ranks > cores:
        yield level(
            job.where("STORMBENCH_CORES_PER_RANK"),
            f"{job.said('STORMBENCH_CORES_PER_RANK')}: {ranks} ranks x {config.cores_per_rank} cores is above {limit}; "
            f"use at most {cores // ranks}",
        )
    for name, threads in _threads(job):
        if threads * ranks > cores:
            fix = f"use at most {cores // ranks} threads" if ranks <= cores else "use fewer ranks"
            yield level(job.where(name), f"{job.said(name)}: {ranks} ranks x {threads} threads is above {limit}; {fix}")


def _threads(job: Job) -> Iterator[tuple[str, int]]:
    """Yield the variables that set threads, with the threads of one rank; defaults don't count, as the workload fits them to the cores."""
    first = job.values.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isascii() and first.isdigit() and len(first) < 10:
        yield "OMP_NUM_THREADS", int(first)
    for name, field in (("STORMBENCH_NUM_THREADS", "num_threads"), ("MAX_THREADS", "data_num_threads")):
        if job.values.get(name, "").strip():
            yield name, getattr(job.workload, field, 0)


def _omp_threads(job: Job) -> Iterator[Finding]:
    """OMP_NUM_THREADS is passed through unchecked, but a wrong one makes every rank take all cores."""
    text = job.values.get("OMP_NUM_THREADS", "")
    # OpenMP takes one number for each level of nesting
    if text.strip() and not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", word) for word in text.split(",")):
        yield error(
            job.where("OMP_NUM_THREADS"), f"OMP_NUM_THREADS={text}: must be a whole number, at least 1; set the threads of one rank"
        )


def _core_lists(job: Job) -> Iterator[Finding]:
    """Each rank has its own list of cores."""
    lists, ranks = job.config.rank_cores, job.config.ranks_per_node
    if not lists:
        return
    where = job.where("STORMBENCH_RANK_CORES")
    if len(lists) != ranks:
        yield error(
            where, f"STORMBENCH_RANK_CORES has {len(lists)} lists of cores for {job.said('DGXNGPU')}; write one for each local rank"
        )
    # ranges are compared by their ends: a list such as 0-999999999 must not be spelled out
    ranges = sorted((*_ends(part), rank) for rank, cores in enumerate(lists) for part in cores.split(","))
    widest = ranges[0]
    for one in itertools.islice(ranges, 1, None):
        if one[0] <= widest[1] and one[2] != widest[2]:
            yield error(
                where, f"STORMBENCH_RANK_CORES: ranks {widest[2]} and {one[2]} share core {one[0]}; give each rank cores of its own"
            )
            return
        widest = max(widest, one, key=lambda item: item[1])
    highest, cores = max(last for _, last, _ in ranges), job.config.cores_per_node
    if cores and highest >= cores:
        told = f"STORMBENCH_RANK_CORES names core {highest}, but {job.said('STORMBENCH_CORES_PER_NODE')} are 0 to {cores - 1}"
        if highest >= THREADS_PER_CORE * cores:
            yield error(where, f"{told}; name cores of the node")
        else:
            yield warning(where, f"{told}; numbers above are hardware threads at best, which share a core with another rank's or its own")


def _ends(part: str) -> tuple[int, int]:
    first, _, last = part.partition("-")
    return int(first), int(last or first)


def _cards(job: Job) -> Iterator[Finding]:
    """Network cards are shared out evenly."""
    cards, ranks = len(job.config.nics), job.config.ranks_per_node
    if cards and ranks % cards:
        fix = f"name 1, {ranks}, or a number that divides {ranks}"
        yield error(job.where("STORMBENCH_NICS"), f"STORMBENCH_NICS names {cards} cards for {job.said('DGXNGPU')}; {fix}")


RULES = (_gpus, _cores, _omp_threads, _core_lists, _cards)
