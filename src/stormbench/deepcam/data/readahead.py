"""Threads that read samples ahead into a ring of slots, in order and never past the slots that are free. Knows no tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable

Fill = Callable[[int, int, int], None]
"""Reads the sample at a position of the order into (slot, row)."""


class ReadAhead:
    """Fills batch b, the positions from b * batch on, into slot b % slots once batch b - slots was released.

    The threads hold this object and not its owner, so an owner that is dropped can stop them.
    """

    def __init__(self, fill: Fill, *, samples: int, batch: int, slots: int, threads: int) -> None:
        self._fill = fill
        self._samples, self._batch, self._slots = samples, batch, slots
        # reentrant: the garbage collector may run `stop` in a thread that holds the lock
        self._changed = threading.Condition(threading.RLock())
        self._next = 0
        self._limit = samples
        self._released = 0
        self._done = [0] * slots
        self._errors: dict[int, BaseException] = {}
        self._threads = [threading.Thread(target=self._work, name=f"read-ahead-{i}", daemon=True) for i in range(min(threads, samples))]
        for thread in self._threads:
            thread.start()

    def size(self, number: int) -> int:
        """Return how many samples batch `number` has."""
        return min(self._batch, self._samples - number * self._batch)

    def ready(self, number: int) -> bool:
        """Return whether batch `number` is there, without an error."""
        with self._changed:
            return self._complete(number) and self._error(number) is None

    def wait(self, number: int) -> None:
        """Wait until batch `number` is there; raises what its first failed sample raised."""
        with self._changed:
            while not self._complete(number):
                self._changed.wait()
            error = self._error(number)
        if error is not None:
            raise error

    def release(self, number: int) -> None:
        """Give the slot of batch `number` back; batches are released in order."""
        with self._changed:
            self._done[number % self._slots] = 0
            self._released = number + 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the threads end after the sample they are at."""
        with self._changed:
            self._limit = 0
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join()

    def _complete(self, number: int) -> bool:
        return self._released <= number < self._released + self._slots and self._done[number % self._slots] == self.size(number)

    def _error(self, number: int) -> BaseException | None:
        failed = [position for position in self._errors if position // self._batch == number]
        return self._errors[min(failed)] if failed else None

    def _work(self) -> None:
        while (position := self._take()) is not None:
            number, row = divmod(position, self._batch)
            error: BaseException | None = None
            try:
                self._fill(position, number % self._slots, row)
            except BaseException as raised:
                error = raised
            self._finish(position, error)

    def _take(self) -> int | None:
        with self._changed:
            while self._next < self._limit and self._next // self._batch >= self._released + self._slots:
                self._changed.wait()
            if self._next >= self._limit:
                return None
            self._next += 1
            return self._next - 1

    def _finish(self, position: int, error: BaseException | None) -> None:
        number = position // self._batch
        with self._changed:
            if error is not None:
                self._errors[position] = error
                # the rest of the batch is still read, so that its first error is the same in every run
                self._limit = min(self._limit, (number + 1) * self._batch)
            self._done[number % self._slots] += 1
            self._changed.notify_all()
