"""What carries the ranks' sums: Horovod, or TensorFlow's own strategies on the devices of one process or of several."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stormbench.cloudmask.ranks import World
from stormbench.core.errors import RunError

T = TypeVar("T")
_TELLING = re.compile(r"Horovod|[Cc]onnection|timed? ?out|[Pp]eer|failed")
PIECE = 4096
"""Bytes of an object that TensorFlow's strategies exchange at a time: of one size, so that their graph is traced once."""


class Horovod(World):
    """Ranks that are processes of mpirun, srun or horovodrun. Horovod has been initialised before.

    Horovod's optimizer wrappers and callbacks don't know the variables of Keras 3, and pass over them in silence, so nothing
    of them is used: gradients go through `grouped_allreduce`, and `broadcast_variables` gets TensorFlow's own variables.
    """

    strategy = "horovod"

    def __init__(self, hvd: Any, **place: Any) -> None:
        super().__init__(rank=hvd.rank(), processes=hvd.size(), **place)
        self._hvd = hvd

    def compiled(self, body: Callable[..., Any], batch: Sequence[Any], scalars: Sequence[Any]) -> Callable[..., list[Any]]:
        """Return `body` as a graph, see World; waiting for the others is watched."""
        function = super().compiled(body, batch, scalars)

        def watched(batches: Any, *values: Any) -> list[Any]:
            with self.watchdog.waiting("in a training step"), peer_errors(self.rank):
                return function(batches, *values)

        return watched

    def add_up(self, tensors: list[Any]) -> list[Any]:
        """Return the sums over all ranks, exchanged as one group so that they are rounded alike in every run."""
        return self._hvd.grouped_allreduce(tensors, op=self._hvd.Sum)

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Give every process rank 0's values."""
        with self.watchdog.waiting("in sending weights"), peer_errors(self.rank):
            self._hvd.broadcast_variables(variables, root_rank=0)

    def gather(self, value: T) -> list[T]:
        """Return every rank's value."""
        with self.watchdog.waiting("in an exchange between ranks"), peer_errors(self.rank):
            return self._hvd.allgather_object(value)

    def close(self, *, failed: bool = False) -> None:
        """Shut Horovod down, unless a peer may be gone, for whom it would wait."""
        if not failed:
            self._hvd.shutdown()


class Strategy(World):
    """The devices of a tf.distribute strategy: MirroredStrategy's in one process, or also those of the other workers."""

    fixed_batches = True

    def __init__(self, strategy: Any, name: str, **place: Any) -> None:
        super().__init__(**place)
        self._strategy = strategy
        self.strategy = name

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the strategy's scope; variables made in it are process 0's on all."""
        return self._strategy.scope()

    def compiled(self, body: Callable[..., Any], batch: Sequence[Any], scalars: Sequence[Any]) -> Callable[..., list[Any]]:
        """Return `body` as a graph that runs on each device of this process with its own batch, see World."""
        strategy = self._strategy

        @tf.function(autograph=False)
        def function(parts: Any, *values: Any) -> Any:
            return strategy.run(body, args=(*parts, *values))

        def call(batches: Any, *values: Any) -> list[Any]:
            first = self.rank * self.replicas
            parts = [
                strategy.experimental_distribute_values_from_function(
                    lambda context, part=part: tf.constant(batches[context.replica_id_in_sync_group - first][part])
                )
                for part in range(len(batch))
            ]
            tensors = [tf.constant(value, spec.dtype) for value, spec in zip(values, scalars, strict=True)]
            with self.watchdog.waiting("in a step"), peer_errors(self.rank):
                return list(strategy.experimental_local_results(function(tuple(parts), *tensors)))

        return call

    def add_up(self, tensors: list[Any]) -> list[Any]:
        """Return the sums over all devices."""
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)

    def gather(self, value: T) -> list[T]:
        """Return every process's value."""
        if self.processes == 1:
            return [value]
        # one byte in each number: the collectives know few types
        data = np.frombuffer(pickle.dumps(value), np.uint8).astype(np.int32)
        rows: list[NDArray[np.int32]] = []
        longest = 0
        with self.watchdog.waiting("in an exchange between ranks"), peer_errors(self.rank):
            while not rows or sum(row.shape[1] for row in rows) < longest:
                piece = data[len(rows) * PIECE :][:PIECE]
                told = self._pieces(np.concatenate([[len(data)], np.pad(piece, (0, PIECE - len(piece)))]).astype(np.int32))
                sizes = told[:, 0]
                longest = int(sizes.max())
                rows.append(told[:, 1:])
        whole = np.concatenate(rows, axis=1).astype(np.uint8)
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(whole, sizes, strict=True)]

    def _pieces(self, row: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the processes' rows stacked."""
        values = self._strategy.experimental_distribute_values_from_function(lambda context: tf.constant(row[None]))
        gathered = self._strategy.experimental_local_results(self._exchange(values))[0]
        return gathered.numpy()[:: self.replicas]

    @functools.cached_property
    def _exchange(self) -> Callable[[Any], Any]:
        def body(row: Any) -> Any:
            # the copy is on the device of its replica, as the collective wants it
            return tf.distribute.get_replica_context().all_gather(tf.identity(row), axis=0)

        return tf.function(lambda values: self._strategy.run(body, args=(values,)), autograph=False)


@contextlib.contextmanager
def peer_errors(rank: int) -> Iterator[None]:
    """Turn the failure of an exchange in this block into a RunError; other errors pass.

    Raises:
        RunError: a peer died or left.
    """
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
    try:
        yield
    except Exception as error:
        text = str(error)
        if not (isinstance(error, gone) or type(error).__name__ == "HorovodInternalError" or "Horovod" in text):
            raise
        lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
        # TensorFlow puts the place in the graph before the cause
        telling = next((line for line in reversed(lines) if _TELLING.search(line)), lines[0])
        first = re.sub(r"\{\{.*?\}\}\s*", "", telling)[:200]
        told = f"rank {rank}: a peer went away or did not answer in time ({first})"
        raise RunError(f"{told}; see the other ranks' output for the cause") from error
