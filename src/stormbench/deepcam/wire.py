"""A rank's connection to the others and the few exchanges that a trainer needs, all of which work in a process alone too."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from stormbench.core.errors import RunError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_GROUP_ERRORS = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|process group", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """This rank's connection to the others. Use it as a context manager, or call `close`."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    """Ranks on this node."""
    n_nodes: int
    device: torch.device
    backend: str | None
    """nccl, gloo, mpi, or None for a process alone."""
    path: str
    """One line: which path was taken, and why."""
    _store: Any = field(default=None, repr=False)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(failed=error is not None)

    def close(self, *, failed: bool = False) -> None:
        """Leave the group. With `failed` nobody is waited for: peers that are gone would never answer."""
        import torch.distributed as dist

        if self.backend is None or not dist.is_initialized():
            return
        if failed and self.backend == "nccl" and hasattr(dist.distributed_c10d, "_abort_process_group"):
            dist.distributed_c10d._abort_process_group()
            return
        if not failed and self._store is not None:
            _leave_together(self._store, self.rank, self.world_size)
        dist.destroy_process_group()


def _leave_together(store: Any, rank: int, world_size: int, limit_s: float = 10.0) -> None:
    """Keep rank 0, which hosts the store, until the others have done with it: NCCL's watchdogs complain of a store that is gone."""
    with contextlib.suppress(RuntimeError):
        store.add("left", 1)
        deadline = time.monotonic() + limit_s
        while rank == 0 and store.add("left", 0) < world_size and time.monotonic() < deadline:
            time.sleep(0.01)


@contextlib.contextmanager
def peer_errors(wire: Wire) -> Iterator[None]:
    """Turn the failure of a collective operation in this block, such as DDP's in backward, into a RunError; other errors pass.

    Raises:
        RunError: a peer died or didn't answer in time.
    """
    with reported(wire.rank):
        yield


@contextlib.contextmanager
def reported(rank: int, *, every: bool = False) -> Iterator[None]:
    """Turn torch's errors of communication in this block into a RunError; with `every`, any RuntimeError."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not (every or isinstance(error, dist.DistError) or _GROUP_ERRORS.search(str(error))):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        told = f"rank {rank}: a peer went away or did not answer in time ({first})"
        raise RunError(f"{told}; see the other ranks' output for the cause") from error


def any_rank(wire: Wire, flag: int) -> int:
    """Return the largest `flag` of all ranks: non-zero if any rank wants to stop. Collective; all ranks must call it."""
    import torch
    import torch.distributed as dist

    if wire.backend is None:
        return flag
    with peer_errors(wire):
        value = torch.tensor(flag, dtype=torch.int64, device=_exchange_device(wire))
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)


def sum_over_ranks(wire: Wire, tensor: torch.Tensor) -> torch.Tensor:
    """Return the element-wise sum of `tensor`, of any shape, over all ranks, on its own device; `tensor` stays as it is. Collective."""
    import torch.distributed as dist

    total = tensor.detach().clone().contiguous()
    if wire.backend is None:
        return total
    with peer_errors(wire):
        total = total.to(_exchange_device(wire))
        dist.all_reduce(total)
        return total.to(tensor.device)


def gather(wire: Wire, value: T) -> list[T]:
    """Return every rank's `value`, any small picklable object, in the order of ranks, on all ranks. Collective."""
    import torch.distributed as dist

    if wire.backend is None:
        return [value]
    values: list[Any] = [None] * wire.world_size
    with peer_errors(wire):
        dist.all_gather_object(values, value)
    return values


def gather_to_rank0(wire: Wire, value: T) -> list[T] | None:
    """Return every rank's `value` in the order of ranks on rank 0, None elsewhere: for what is too much to hold everywhere. Collective."""
    import torch.distributed as dist

    if wire.backend is None:
        return [value]
    values: list[Any] | None = [None] * wire.world_size if wire.rank == 0 else None
    with peer_errors(wire):
        dist.gather_object(value, values, dst=0)
    return values


def from_rank0(wire: Wire, value: T) -> T:
    """Return rank 0's `value`, any small picklable object, on all ranks: a run's name, a seed. Collective."""
    import torch.distributed as dist

    if wire.backend is None:
        return value
    values: list[Any] = [value]
    with peer_errors(wire):
        dist.broadcast_object_list(values, src=0, device=_exchange_device(wire))
    return values[0]


def barrier(wire: Wire) -> None:
    """Return when all ranks have come here. Collective."""
    any_rank(wire, 0)


def _exchange_device(wire: Wire) -> torch.device:
    """Return where small tensors are exchanged: NCCL knows GPUs only, the others are quicker from the CPU."""
    import torch

    return wire.device if wire.backend == "nccl" else torch.device("cpu")
