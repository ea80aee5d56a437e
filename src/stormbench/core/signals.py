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

POLITE = (signal.SIGUSR1, signal.SIGTERM)
"""Checkpoint, then stop: what schedulers send before the time limit, and what they and launchers send before they kill."""
FINAL = (signal.SIGINT, signal.SIGHUP)
GRACE_S = 5.0
"""How long the main thread gets to end by itself after a final signal, before the watcher ends it."""
POLITE_GRACE_S = 25.0
"""SIGKILL follows SIGTERM after 30 s with torchrun and Slurm: by then the log has to say something."""


class Interrupted(RunError):
    """The run was ended by a signal."""


class SignalWatch:
    """While it is entered, `stop_requested` tells of a polite signal and a final one raises Interrupted.

    SIGTERM is final until `ready` is set, as there is nothing to save, and when it comes a second time. A main thread that
    waits inside a collective operation can't run Python's handlers: a watcher thread then calls `last_words(reason)` after a
    grace period, to finish the log, and after a final signal leaves the process.
    """

    def __init__(self) -> None:
        self.ready = False
        self.last_words: Callable[[str], None] = lambda reason: None
        self.polite_grace_s = POLITE_GRACE_S
        """How long the main thread gets to notice a SIGTERM before the watcher writes last words; shorter where a launcher kills sooner."""
        self._stop = False
        self._terminations = 0
        self._previous: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._ended, self._noticed = threading.Event(), threading.Event()

    @property
    def stop_requested(self) -> bool:
        """Whether a polite signal has come; who reads this takes care of it."""
        if self._stop:
            self._noticed.set()
        return self._stop

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
        self._terminations += number == signal.SIGTERM
        if number in FINAL or (number == signal.SIGTERM and (self._terminations > 1 or not self.ready)):
            raise Interrupted(reason(number))
        self._stop = True

    def _watch(self) -> None:
        terminations = 0
        while True:
            received = self._reader.recv(1)
            if not received or self._ended.is_set():
                self._reader.close()
                return
            terminations += received[0] == signal.SIGTERM
            if received[0] in FINAL or terminations > 1:
                if not self._ended.wait(GRACE_S):
                    self.last_words(reason(received[0]))
                    os._exit(EXIT_FAILED)
                return
            if received[0] == signal.SIGTERM:
                threading.Thread(target=self._watch_termination, daemon=True, name="termination watcher").start()

    def _watch_termination(self) -> None:
        # a run that does go on to save its checkpoint overwrites these words
        if not self._noticed.wait(self.polite_grace_s) and not self._ended.is_set():
            self.last_words(reason(signal.SIGTERM))


def reason(number: int) -> str:
    """Return the sentence for a signal that ends the run."""
    return f"ended by {signal.Signals(number).name}"
