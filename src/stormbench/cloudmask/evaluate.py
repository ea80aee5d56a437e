"""Scores the network on the test split: every process takes its part of the patches, each patch counts exactly once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import metrics
from stormbench.cloudmask.cache import Store
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.loader import Loader
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.step import Steps
from stormbench.core.clocks import Stopwatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The summed vector of scores over the whole test split, see metrics.py, and how it was made."""

    vector: NDArray[np.float64]
    patches: int
    seconds: float


def evaluate(
    steps: Steps, store: Store, own: NDArray[np.int64], world: World, config: TrainConfig, stop: Callable[[], bool]
) -> Evaluation | None:
    """Score the `own` patches of each process and add up. Returns None on every process where `stop` became true on one. Collective.

    Raises:
        RunError: a file can't be read, on whatever process.
    """
    watch = Stopwatch()
    scores = world.together(lambda: _score(steps, store, own, world, config, stop))
    if world.any(int(scores is None)):
        return None
    assert scores is not None
    return Evaluation(vector=world.sum(scores), patches=len(store.patch_set), seconds=watch.seconds())


def _score(
    steps: Steps, store: Store, own: NDArray[np.int64], world: World, config: TrainConfig, stop: Callable[[], bool]
) -> NDArray[np.float64] | None:
    batch, devices = config.batch_size, world.replicas
    starts = range(0, len(own), batch * devices)
    plan = [[own[start + batch * device : start + batch * (device + 1)] for device in range(devices)] for start in starts]
    total = np.zeros(metrics.SIZE)
    full = batch if world.fixed_batches or config.xla else None
    with Loader(store, plan, threads=config.data_threads, full=full) as loader:
        for _ in plan:
            if stop():
                return None
            for vector in steps.score(loader.next()):
                total += vector.numpy().astype(np.float64)
    return total
