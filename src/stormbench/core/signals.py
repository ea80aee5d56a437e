"""Signals of a job: a polite one asks for a checkpoint, a final one ends the run with a log that says so."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from stormbench.core.errors import EXIT_FAILED, RunError

POLITE = (signal.SIGUSR1,)
"""What schedulers are told to send before the time limit: checkpoint, then stop."""
FINAL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE_S = 5.0
"""How long the main thread gets to end by itself after a final signal, before the watcher ends it."""


class Interrupted(RunError):
    """The run was ended by a signal."""


class SignalWatch:
    """While it is entered, `stop_requested` tells of a polite signal and a final one raises Interrupted.

    A main thread that waits inside a collective operation can't run Python's handlers. A watcher thread then calls
    `last_words(reason)` after a grace period, to finish the log, and leaves the process.
    """

    def __init__(self, last_words: Callable[[str], None]) -> None:
        self.stop_requested = False
        self._last_words = last_words
        self._previous: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._ended = threading.Event()

    def __enter__(self) -> SignalWatch:
        for number in (*POLITE, *FINAL):
            self._previous[number] = signal.signal(number, self._handle)
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True, name="signal watcher").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in POLITE:
            self.stop_requested = True
        else:
            raise Interrupted(reason(number))

    def _watch(self) -> None:
        while True:
            received = self._reader.recv(1)
            if not received or self._ended.is_set():
                self._reader.close()
                return
            if received[0] in FINAL:
                if not self._ended.wait(GRACE_S):
                    self._last_words(reason(received[0]))
                    os._exit(EXIT_FAILED)
                return


def reason(number: int) -> str:
    """Return the sentence for a final signal."""
    return f"ended by {signal.Signals(number).name}"
