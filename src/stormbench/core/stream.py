"""Yields what worker processes make of a list of items, one after the other, while the caller works on those before.

The workers run ahead by a few results only, so that memory holds no more of them than the caller can use soon.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stormbench.core.work import ask, end_child, start_child

AHEAD = 1
"""Results that wait for the caller beside those that each worker has under way."""


@contextlib.contextmanager
def stream(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int, ahead: int = AHEAD
) -> Iterator[Iterator[tuple[Any, Any]]]:
    """Enter to start the workers; yields an iterator of (item, function(item)) in the order in which they get done.

    The workers get ready at once, and take their first items when the iterator is first asked. `function` must be importable,
    as for `work.share`. With 0 workers it is called by the iterator itself. What it raises, the iterator raises. Leaving the
    block ends the workers, whatever they are doing.
    """
    if workers < 1 or not items:
        yield ((item, function(item)) for item in items)
        return
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    done: queue.SimpleQueue[tuple[Any, Any, Exception | None]] = queue.SimpleQueue()
    count = min(workers, len(items))
    # one for each result that is under way, waiting, or in the caller's hands
    room = threading.Semaphore(count + ahead)
    closing = threading.Event()

    def serve(child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(queue.Empty):
            while room.acquire() and not closing.is_set():
                item = waiting.get_nowait()
                try:
                    done.put((item, ask(child, item), None))
                except Exception as error:
                    done.put((item, None, error))
                    return

    def results() -> Iterator[tuple[Any, Any]]:
        for thread in threads:
            thread.start()
        for _ in items:
            item, result, error = done.get()
            if error is not None:
                raise error
            yield item, result
            # the caller has asked for the next one, so it has let go of this one
            del result
            room.release()

    children = [start_child(function) for _ in range(count)]
    threads = [threading.Thread(target=serve, args=(child,), daemon=True) for child in children]
    try:
        yield results()
    finally:
        closing.set()
        for _ in threads:
            room.release()
        for child, thread in zip(children, threads, strict=True):
            end_child(child, at_once=thread.is_alive())
