"""Joins the ranks of a launch into one process group, each with its device, and says in one line which path was taken and why.

One process alone needs no group, and everything here works without one. torch is imported only when ranks connect.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stormbench.core import garbage
from stormbench.core.errors import RunError, UserError, did_you_mean
from stormbench.core.files import writable_folder
from stormbench.core.launch import Launch, detect
from stormbench.deepcam.config import WIREUP_METHODS
from stormbench.deepcam.host import host_identity, interface_towards, interfaces, network_identity
from stormbench.deepcam.placement import Record, decide
from stormbench.deepcam.rendezvous import Rendezvous
from stormbench.deepcam.wire import Wire, any_rank, barrier, from_rank0, gather, peer_errors, reported, sum_over_ranks

if TYPE_CHECKING:
    import torch

__all__ = ["METHODS", "Wire", "any_rank", "barrier", "connect", "from_rank0", "gather", "peer_errors", "sum_over_ranks"]

METHODS = WIREUP_METHODS

_OPTION = "--wireup_method"
_LAUNCHER_OF = {"nccl-slurm": "slurm", "nccl-openmpi": "openmpi", "nccl-slurm-pmi": "slurm"}


def connect(
    method: str = "auto", *, shared_folder: Path, timeout_s: float = 600.0, environ: Mapping[str, str] | None = None
) -> Wire:  # fmt: skip
    """Return this rank's Wire once all ranks of the launch have met.

    `shared_folder` is one that all nodes see, such as the run folder; rank 0 tells its address there while the ranks meet.
    `timeout_s` bounds the meeting, and later each collective operation. `environ` replaces the process's own variables.

    Raises:
        UserError: the method is unknown or not possible here, the launcher's variables contradict each other, or a node has
            more ranks than GPUs.
        RunError: a rank did not come in time, only some ranks see a GPU, or the connection failed.
    """
    with garbage.importing("torch"):
        import torch

    variables = dict(os.environ if environ is None else environ)
    if method not in METHODS:
        raise UserError(f"{_OPTION} {method}: not one of {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    launch = _launch(method, variables)
    _require_backend(method)
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = f"{launch.launcher}: {launch.evidence}"
    if launch.world_size == 1:
        device = _use(0 if n_gpus else None)
        path = f"{method}: one process without communication, on {_named(device)} ({why})"
        return Wire(rank=0, world_size=1, local_rank=0, local_size=1, n_nodes=1, device=device, backend=None, path=path)
    if method == "mpi":
        return _connect_mpi(launch, timeout_s, why)
    return _connect_by_store(method, launch, Path(shared_folder), timeout_s, variables, n_gpus, why)


def _launch(method: str, variables: Mapping[str, str]) -> Launch:
    """Return the rank from the launcher that `method` names; refuse if another one, further in, says otherwise."""
    launch = detect(variables)
    wanted = _LAUNCHER_OF.get(method)
    if wanted is not None:
        named = detect(variables, launcher=wanted)
        if (named.rank, named.world_size) != (launch.rank, launch.world_size):
            told = f"{_OPTION} {method}: {wanted} says {named.evidence}, but {launch.launcher}, inside it, {launch.evidence}"
            raise UserError(f"{told}; use {_OPTION} auto, or start with {wanted} alone")
        launch = named
    if method == "nccl-slurm-pmi" and not any(variables.get(name) for name in ("PMIX_RANK", "PMI_RANK")):
        told = f"{_OPTION} {method}: neither PMIX_RANK nor PMI_RANK is set"
        raise UserError(f"{told}; start with srun --mpi=pmix, or use {_OPTION} nccl-slurm")
    if method == "dummy" and launch.world_size > 1:
        told = f"{_OPTION} dummy: is for one process alone, but {launch.launcher} started {launch.world_size} ranks ({launch.evidence})"
        raise UserError(f"{told}; use {_OPTION} auto, or start one rank")
    return launch


def _require_backend(method: str) -> None:
    """Raise if this torch, or this machine, can't do what `method` asks for."""
    import torch
    import torch.distributed as dist

    if method.startswith("nccl"):
        reason = None
        if not torch.cuda.is_available():
            reason = "this process sees no GPU" if torch.backends.cuda.is_built() else "it was built without CUDA"
        elif not dist.is_nccl_available():
            reason = "it was built without NCCL"
        if reason:
            told = f"{_OPTION} {method}: needs CUDA and NCCL, but with torch {torch.__version__} {reason}"
            raise UserError(f"{told}; use {_OPTION} auto or gloo")
    if method == "mpi" and not dist.is_mpi_available():
        raise UserError(f"{_OPTION} mpi: torch {torch.__version__} was built without MPI; use {_OPTION} gloo, or nccl-openmpi on GPUs")


def _connect_by_store(
    method: str, launch: Launch, folder: Path, timeout_s: float, variables: Mapping[str, str], n_gpus: int, why: str
) -> Wire:  # fmt: skip
    """Meet at rank 0's store, agree on backend and places, and form the group."""
    import torch.distributed as dist

    if launch.rank == 0:
        writable_folder(folder, "the folder in which ranks meet")
    with reported(launch.rank, every=True):
        meeting = Rendezvous(launch, folder, timeout_s, variables, by_file=method == "nccl-file")
        try:
            verdict = meeting.agree(_record(launch, n_gpus), lambda records: decide(method, records, has_nccl=dist.is_nccl_available()))
        finally:
            meeting.close()
        place, backend = verdict["places"][launch.rank], verdict["backend"]
        device = _use(place["gpu"])
        if backend == "gloo":
            _choose_interface(verdict["networks"], verdict["addresses"][1 if launch.rank == 0 else 0])
        dist.init_process_group(
            backend, store=dist.PrefixStore("stormbench/group", meeting.store), rank=launch.rank, world_size=launch.world_size,
            timeout=timedelta(seconds=timeout_s), device_id=device if backend == "nccl" else None,
        )  # fmt: skip
    where = f"{launch.world_size} ranks on {verdict['n_nodes']} node{'s' if verdict['n_nodes'] > 1 else ''}"
    path = f"{method}: {backend} on {_named(device)}, {where}, {verdict['why']} ({why}; {meeting.how})"
    return Wire(
        rank=launch.rank, world_size=launch.world_size, local_rank=place["local_rank"], local_size=place["local_size"],
        n_nodes=verdict["n_nodes"], device=device, backend=backend, path=path, _store=meeting.store,
    )  # fmt: skip


def _record(launch: Launch, n_gpus: int) -> Record:
    """Return what this rank tells the others of itself."""
    import torch

    uuids = [str(getattr(torch.cuda.get_device_properties(index), "uuid", "")) for index in range(n_gpus)]
    return {
        "local_rank": launch.local_rank,
        "local_size": launch.local_size,
        "host": host_identity(),
        "network": network_identity(),
        "name": socket.gethostname(),
        "gpus": uuids,
        "address": next(iter(interfaces().values()), None),
    }


def _connect_mpi(launch: Launch, timeout_s: float, why: str) -> Wire:
    """Form the group by MPI, which knows the ranks itself; they must be those that the launcher's variables told."""
    import torch
    import torch.distributed as dist

    if launch.local_rank is None or launch.local_size is None:
        raise UserError(f"{_OPTION} mpi: {launch.launcher} doesn't tell the rank within the node ({launch.evidence}); use {_OPTION} gloo")
    with reported(launch.rank, every=True):
        dist.init_process_group("mpi", timeout=timedelta(seconds=timeout_s))
        if (dist.get_rank(), dist.get_world_size()) != (launch.rank, launch.world_size):
            told = f"MPI says rank {dist.get_rank()} of {dist.get_world_size()}, but {why}"
            raise RunError(f"{told}; the launcher's MPI is not the one that torch was built with")
        n_nodes = torch.tensor(int(launch.local_rank == 0))
        dist.all_reduce(n_nodes)
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = _use(launch.local_rank % n_gpus if n_gpus else None)
    return Wire(
        rank=launch.rank, world_size=launch.world_size, local_rank=launch.local_rank, local_size=launch.local_size,
        n_nodes=int(n_nodes), device=device, backend="mpi", path=f"mpi: MPI on {_named(device)}, as asked ({why})",
    )  # fmt: skip


def _use(gpu: int | None) -> torch.device:
    """Return the device, made the current one if it is a GPU."""
    import torch

    if gpu is None:
        return torch.device("cpu")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def _named(device: torch.device) -> str:
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "CPU"


def _choose_interface(n_networks: int, peer: str | None) -> None:
    """Tell Gloo its interface unless the user did: by itself it takes the host name's, which may resolve to nothing or to loopback."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    names = {name for _, name in socket.if_nameindex()}
    chosen = "lo" if n_networks == 1 and "lo" in names else (interface_towards(peer) if peer else None)
    if chosen:
        os.environ["GLOO_SOCKET_IFNAME"] = chosen
