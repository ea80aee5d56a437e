"""DeepCAM's part of the all-reduce test of a job: the sums by torch.distributed."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from stormbench.core import allreduce
from stormbench.core.errors import EXIT_DONE
from stormbench.deepcam.wire import Wire, any_rank, barrier
from stormbench.deepcam.wireup import connect


def run(arguments: argparse.Namespace) -> int:
    """Sum buffers of 4 kB up to the given size over all ranks; the table comes from rank 0.

    Raises:
        RunError: a sum is wrong, on whatever rank.
    """
    folder = Path(os.environ.get("LOGDIR") or ".")
    method = os.environ.get("WIREUP_METHOD") or "auto"
    with connect(method, shared_folder=folder, timeout_s=arguments.timeout) as wire:
        rows = allreduce.measure(
            arguments.max_bytes, wire.world_size, lambda n_floats, number: _round(wire, n_floats, number),
            lambda flag: bool(any_rank(wire, int(flag))),
        )  # fmt: skip
        if wire.rank == 0:
            allreduce.show(wire.path, rows)
    return EXIT_DONE


def _round(wire: Wire, n_floats: int, number: int) -> tuple[float, bool]:
    import torch
    import torch.distributed as dist

    values = torch.full((n_floats,), float(wire.rank + 1 + number), device=wire.device)
    barrier(wire)
    begin = time.perf_counter()
    if wire.backend is not None:
        dist.all_reduce(values)
    if wire.device.type == "cuda":
        torch.cuda.synchronize(wire.device)
    seconds = time.perf_counter() - begin
    expected = allreduce.expected_sum(wire.world_size, number)
    return seconds, bool(torch.allclose(values, torch.full_like(values, expected)))
