"""The all-reduce test of a job: sums over all ranks at growing sizes, checked and timed, before node-hours go into training."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from stormbench.core.errors import EXIT_DONE, RunError
from stormbench.core.progress import say
from stormbench.core.tables import text_table
from stormbench.deepcam.wire import Wire, any_rank, barrier
from stormbench.deepcam.wireup import connect

ROUNDS = 5


def run(arguments: argparse.Namespace) -> int:
    """Sum buffers of 4 kB up to the given size over all ranks; the table comes from rank 0.

    Raises:
        RunError: a sum is wrong, on whatever rank.
    """
    folder = Path(os.environ.get("LOGDIR") or ".")
    method = os.environ.get("WIREUP_METHOD") or "auto"
    with connect(method, shared_folder=folder, timeout_s=arguments.timeout) as wire:
        rows = []
        size = 4096
        while size <= arguments.max_bytes:
            rows.append(_measured(wire, size))
            size *= 16
        if wire.rank == 0:
            say(wire.path)
            print(text_table(("bytes", "ms", "bus bandwidth, GB/s"), rows), flush=True)
    return EXIT_DONE


def _measured(wire: Wire, size: int) -> tuple[str, str, str]:
    """Return size, median time and bus bandwidth: 2 (n - 1) / n x size / time, as NCCL's tests count it."""
    import torch
    import torch.distributed as dist

    seconds = []
    wrong = False
    for number in range(ROUNDS + 1):
        values = torch.full((size // 4,), float(wire.rank + 1 + number), device=wire.device)
        barrier(wire)
        begin = time.perf_counter()
        if wire.backend is not None:
            dist.all_reduce(values)
        if wire.device.type == "cuda":
            torch.cuda.synchronize(wire.device)
        seconds.append(time.perf_counter() - begin)
        expected = wire.world_size * (wire.world_size + 1) / 2 + wire.world_size * number
        wrong = wrong or not bool(torch.allclose(values, torch.full_like(values, expected)))
    if any_rank(wire, int(wrong)):
        raise RunError(f"all-reduce of {size} bytes over {wire.world_size} ranks: a sum is wrong; the network or its library is broken")
    # the first round builds connections
    median = sorted(seconds[1:])[ROUNDS // 2]
    bus = 2 * (wire.world_size - 1) / wire.world_size * size / median / 1e9
    return str(size), f"{median * 1e3:.3f}", f"{bus:.3f}"
