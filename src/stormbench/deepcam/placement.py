"""From what every rank reports of itself: which backend all take, and on which node and GPU each one is. Pure functions, run by rank 0."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stormbench.core.errors import RunError, UserError
from stormbench.core.hostlist import fold

Record = dict[str, Any]
"""Of one rank: local_rank, local_size (None if unknown), host, network (see `host`), name, gpus (UUIDs of the visible ones), address."""


def decide(method: str, records: list[Record], *, has_nccl: bool) -> Record:
    """Return the verdict for all ranks: backend, gpu (whether ranks compute on GPUs), places, n_nodes, networks, addresses, why.

    `records` are in the order of ranks, and so are `places`, each with local_rank, local_size and gpu (an index, or None).

    Raises:
        UserError: a node has more ranks than GPUs.
        RunError: only some ranks see a GPU and the method doesn't name Gloo: a run at a hundredth of the speed would be no favour.
    """
    places = _places(records)
    without = [rank for rank, record in enumerate(records) if not record["gpus"]]
    if without and len(without) < len(records) and method != "gloo":
        nodes = ", ".join(sorted({records[rank]["name"] for rank in without})[:8])
        told = f"ranks {fold(without)} on {nodes} see no GPU while the others do"
        raise RunError(f"{told}; leave that node out, or take --wireup_method gloo to run on CPUs")
    if not without:
        _assign_gpus(records, places)
    backend = "gloo" if without or method == "gloo" or not has_nccl else "nccl"
    return {
        "backend": backend,
        "gpu": not without,
        "places": places,
        "n_nodes": sum(place["local_rank"] == 0 for place in places),
        "networks": len({record["network"] for record in records}),
        "addresses": _two_networks(records),
        "why": _why(method, without, has_nccl),
    }


def _places(records: list[Record]) -> list[Record]:
    """Return local rank and size of each rank: as the launcher says, or counted per host where it leaves a rank in the dark."""
    if all(record["local_rank"] is not None and record["local_size"] is not None for record in records):
        return [{"local_rank": record["local_rank"], "local_size": record["local_size"], "gpu": None} for record in records]
    sizes = Counter(record["host"] for record in records)
    seen: Counter[str] = Counter()
    places = []
    for record in records:
        places.append({"local_rank": seen[record["host"]], "local_size": sizes[record["host"]], "gpu": None})
        seen[record["host"]] += 1
    return places


def _assign_gpus(records: list[Record], places: list[Record]) -> None:
    """Give each rank the index of its GPU among those it sees, and refuse to share one."""
    owner: dict[tuple[str, str], int] = {}
    fix = "start at most one rank per GPU, or hide the GPUs (CUDA_VISIBLE_DEVICES= ) to run on CPUs"
    for rank, (record, place) in enumerate(zip(records, places, strict=True)):
        n_gpus, n_ranks = len(record["gpus"]), place["local_size"]
        # a rank that sees one GPU was given it by the launcher (CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, a cgroup)
        if 1 < n_gpus < n_ranks:
            raise UserError(f"{n_ranks} ranks on node {record['name']}, but rank {rank} sees {n_gpus} GPUs there; {fix}")
        place["gpu"] = 0 if n_gpus == 1 else place["local_rank"]
        gpu = record["gpus"][place["gpu"]]
        if gpu and owner.setdefault((record["host"], gpu), rank) != rank:
            told = f"ranks {owner[record['host'], gpu]} and {rank} on node {record['name']} would share the GPU {gpu}"
            raise UserError(f"{told}: more ranks than GPUs there; {fix}")


def _two_networks(records: list[Record]) -> list[str | None]:
    """Return the addresses of rank 0 and of the first rank elsewhere: one of them is on the other side for every rank."""
    far = next((record for record in records if record["network"] != records[0]["network"]), records[0])
    return [records[0]["address"], far["address"]]


def _why(method: str, without: list[int], has_nccl: bool) -> str:
    if method != "auto":
        return "as asked"
    if without:
        return "no rank sees a GPU"
    return "every rank has a GPU" if has_nccl else "every rank has a GPU, but torch was built without NCCL"
