"""The ranks of a training run and what they tell each other, whatever carries it: one process, Horovod, or TensorFlow's strategies."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stormbench.core.errors import EXIT_FAILED, EXIT_USER, RunError, StormbenchError, UserError
from stormbench.core.progress import say

T = TypeVar("T")
Batch = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]
"""Images (n, size, size, 9), mask bits (n, size, size), and 1 for day, 0 for night (n)."""


class World:
    """This process among those of its launch. As it is, it is one process on one device; strategies.py has the others.

    A process trains on `replicas` devices. Each of them, over all processes, is a rank of the batch arithmetic: there are
    `size` of them, and one update takes `size` local batches.
    """

    strategy = "none"
    fixed_batches = False
    """Whether every batch needs the full number of patches, as a step that is traced anew would disturb the others."""

    def __init__(
        self, *, rank: int = 0, processes: int = 1, local_rank: int = 0, local_processes: int = 1, n_nodes: int = 1,
        replicas: int = 1, gpus: int = 0, path: str = "",
    ) -> None:  # fmt: skip
        self.rank, self.processes = rank, processes
        self.local_rank, self.local_processes, self.n_nodes = local_rank, local_processes, n_nodes
        self.replicas, self.gpus = replicas, gpus
        self.path = path
        """One line: how the ranks train together, and why so."""
        self.watchdog = Watchdog()

    @property
    def size(self) -> int:
        """Ranks, each with a local batch."""
        return self.processes * self.replicas

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which variables are made."""
        return contextlib.nullcontext()

    def compiled(self, body: Callable[..., Any], batch: Sequence[Any], scalars: Sequence[Any]) -> Callable[..., list[Any]]:
        """Return `body` as a graph, called with a list of one batch for each device, then scalars; it returns a list likewise.

        `batch` and `scalars` are the tensors' specifications.
        """
        import tensorflow as tf

        function = tf.function(body, input_signature=[*batch, *scalars], autograph=False)
        return lambda batches, *values: [function(*batches[0], *values)]

    def add_up(self, tensors: list[Any]) -> list[Any]:
        """Return the sums of the tensors over all ranks. For use in a compiled body; every rank must come here."""
        return tensors

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Give every process the values that the variables have on process 0."""

    def gather(self, value: T) -> list[T]:
        """Return every process's `value`, any small picklable object, by rank, on all of them. Collective."""
        return [value]

    def close(self, *, failed: bool = False) -> None:
        """Leave the others. With `failed` nobody is waited for."""

    def first(self, value: T) -> T:
        """Return process 0's value on all processes. Collective."""
        return self.gather(value if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def any(self, flag: int) -> int:
        """Return the largest flag of all processes. Collective."""
        return max(self.gather(int(flag)))

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of small arrays over all processes, added in the order of ranks. Collective."""
        return np.sum(self.gather(np.asarray(values, np.float64)), axis=0)

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every process, without communication in it, and go on only if it went well on all of them.

        Raises:
            StormbenchError: of the lowest rank that failed, on all of them.
        """
        failure: StormbenchError | None = None
        try:
            result = work()
        except StormbenchError as error:
            failure = error
        self.agree(failure)
        return result

    def agree(self, failure: StormbenchError | None) -> None:
        """Raise the failure of the lowest rank that has one, on every process. Collective."""
        reports = self.gather(None if failure is None else (failure.exit_code, str(failure)))
        found = next(((rank, report) for rank, report in enumerate(reports) if report is not None), None)
        if found is None:
            return
        rank, (code, text) = found
        same = all(report == reports[rank] for report in reports)
        error = (UserError if code == EXIT_USER else RunError)(text if same else f"rank {rank}: {text}")
        error.known_to_all = True
        raise error from failure


class Watchdog:
    """Ends this process where the others don't answer: a collective operation can't be interrupted from within.

    `last_words(reason)` may be set to finish the log first.
    """

    def __init__(self, timeout_s: float = 600.0) -> None:
        self.timeout_s = timeout_s
        self.last_words: Callable[[str], None] = lambda reason: None

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Guard a block that waits for other ranks."""
        timer = threading.Timer(self.timeout_s, self._give_up, (what,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, what: str) -> None:
        reason = f"a peer went away or did not answer within {self.timeout_s:g} s ({what}); see the other ranks' output for the cause"
        self.last_words(reason)
        say(f"stormbench: {reason}")
        os._exit(EXIT_FAILED)
