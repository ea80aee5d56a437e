"""The all-reduce test of a job: sums over all ranks at growing sizes, checked and timed, before node-hours go into training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stormbench.core.errors import RunError
from stormbench.core.progress import say
from stormbench.core.tables import text_table
from stormbench.core.tools import positive

ROUNDS = 5
SMALLEST, GROWTH = 4096, 16


def add_parser(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the subcommand `allreduce` with the options that its workload's `run` gets."""
    test = commands.add_parser(
        "allreduce",
        help="test the network between all ranks",
        description="Sum buffers of growing size over all ranks of a launch, check the sums and print the bandwidth. Jobs with NCCL_TEST=1 "
        "run it before their first trial.",
    )
    test.add_argument("--max_bytes", type=positive, default=2**26, metavar="BYTES", help="the largest buffer (default 64 MiB)")
    test.add_argument("--timeout", type=float, default=120.0, metavar="S", help="how long ranks wait for each other (default 120)")
    test.set_defaults(run=run)


def expected_sum(ranks: int, number: int) -> float:
    """Return what each element of the sum must be where rank r of `ranks` gives r + 1 + `number`."""
    return ranks * (ranks + 1) / 2 + ranks * number


def measure(
    max_bytes: int, ranks: int, round_of: Callable[[int, int], tuple[float, bool]], any_rank: Callable[[bool], bool]
) -> list[tuple[str, str, str]]:
    """Return size, median time and bus bandwidth of each size from 4 kB up to `max_bytes`.

    The bandwidth is 2 (n - 1) / n x size / time, as NCCL's tests count it. `round_of(n_floats, number)` does one sum, whose
    rank r gives r + 1 + `number`, and returns its seconds and whether every element was right; `any_rank` tells whether a
    flag is set on any of the ranks.

    Raises:
        RunError: a sum is wrong, on whatever rank.
    """
    rows = []
    size = SMALLEST
    while size <= max_bytes:
        rounds = [round_of(size // 4, number) for number in range(ROUNDS + 1)]
        if any_rank(not all(right for _, right in rounds)):
            raise RunError(f"all-reduce of {size} bytes over {ranks} ranks: a sum is wrong; the network or its library is broken")
        # the first round builds connections
        median = sorted(seconds for seconds, _ in rounds[1:])[ROUNDS // 2]
        bus = 2 * (ranks - 1) / ranks * size / median / 1e9
        rows.append((str(size), f"{median * 1e3:.3f}", f"{bus:.3f}"))
        size *= GROWTH
    return rows


def show(path: str, rows: list[tuple[str, str, str]]) -> None:
    """Print how the ranks were connected, and the table."""
    say(path)
    print(text_table(("bytes", "ms", "bus bandwidth, GB/s"), rows), flush=True)
