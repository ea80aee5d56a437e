"""Prepares batches in threads while the network computes, in the order of the plan, and counts how long it was waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask.cache import Store
from stormbench.cloudmask.data import zeros
from stormbench.cloudmask.ranks import Batch
from stormbench.core.clocks import Stopwatch

AHEAD = 2
"""Steps prepared ahead for each thread, one of them in work."""


class Loader:
    """Use it as a context manager; `next` gives the batches of one step: a list with one for each device of the process.

    `plan` holds for each step and device the patches to take, any number of them. With `full` every batch is filled up to
    that many with patches in which no pixel counts; an empty one gets at least one such patch.
    """

    def __init__(self, store: Store, plan: Sequence[Sequence[NDArray[np.int64]]], *, threads: int, full: int | None = None) -> None:
        self._store, self._plan, self._full = store, plan, full
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._pending: deque[Future[list[Batch]]] = deque()
        self._submitted = 0
        self._depth = AHEAD * threads
        self.waited_s = 0.0
        """Seconds in which the caller waited for data; set it to 0 to count anew."""

    def __enter__(self) -> Loader:
        self._submit()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> list[Batch]:
        """Return the next step's batches.

        Raises:
            RunError: a file can't be read.
            StopIteration: the plan is done.
        """
        if not self._pending:
            raise StopIteration
        future = self._pending.popleft()
        self._submit()
        watch = Stopwatch()
        try:
            return future.result()
        finally:
            self.waited_s += watch.seconds()

    def _submit(self) -> None:
        while self._submitted < len(self._plan) and len(self._pending) < self._depth:
            self._pending.append(self._pool.submit(self._step, self._submitted))
            self._submitted += 1

    def _step(self, number: int) -> list[Batch]:
        return [self._batch(chosen) for chosen in self._plan[number]]

    def _batch(self, chosen: NDArray[np.int64]) -> Batch:
        images, bits, day = zeros(self._full or max(1, len(chosen)), self._store.patch_set.patch_size)
        for position, number in enumerate(chosen):
            images[position], bits[position] = self._store.patch(int(number))
            day[position] = self._store.patch_set.is_day(int(number))
        return images, bits, day
