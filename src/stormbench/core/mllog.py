"""The MLPerf log of one trial, written by rank 0 in the order that the checker demands, complete also when the run fails."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import stormbench
from stormbench.core.clocks import now_ms
from stormbench.core.errors import RunError
from stormbench.core.files import reported_os_errors

SUCCESS = "success"
ABORTED = "aborted"
TARGET_MISSED = "target missed"
"""The reason of a run that did all its work without reaching the target; MLPerf's status for it is `aborted`."""


class _StrictFileHandler(logging.FileHandler):
    """A file handler that reports a failed write, where the standard one would print it and go on without the line."""

    failure: RunError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.INFO:
            # the logger catches what the line's own emit raised and reports it by a second record
            raise self.failure or RunError(f"{self.baseFilename}: {record.getMessage().strip()}")
        try:
            with reported_os_errors(self.baseFilename):
                stream: Any = self.stream
                stream.write(self.format(record) + "\n")
                stream.flush()
        except RunError as error:
            self.failure = error
            raise


class RunLog:
    """Writes `:::MLLOG` lines to a file; intervals still open when the run ends badly are closed by `abort`.

    With `path` None (every rank but 0) all methods do nothing. `append` continues a log after `keep_bytes`, so that a
    run that was stopped has one log, in order, with nothing twice.
    """

    def __init__(self, path: Path | None, *, append: bool = False, keep_bytes: int | None = None) -> None:
        self.path = path
        self._open: list[tuple[str, dict[str, Any]]] = []
        self._ended = False
        self._logger: Any = None
        if path is None:
            return
        from mlperf_logging.mllog import mllog

        with reported_os_errors(path):
            if append and keep_bytes is not None:
                os.truncate(path, keep_bytes)
            self._handler = _StrictFileHandler(path, mode="a" if append else "w", encoding="utf-8")
        sink = logging.Logger(f"stormbench.{path}", level=logging.INFO)
        sink.addHandler(self._handler)
        # the root is trimmed from each line's file name by a regular expression: a path may hold its special characters
        root = re.escape(str(Path(stormbench.__file__).parent.parent))
        self._logger = mllog.MLLogger(logger=sink, root_dir=root)

    def event(self, key: str, value: Any = None, time_ms: int | None = None, **metadata: Any) -> None:
        """Log a point in time; a value that JSON can't hold is a RunError, never a silently missing line."""
        self._write("event", key, value, metadata, time_ms)

    def start(self, key: str, value: Any = None, began_ms: int | None = None, **metadata: Any) -> None:
        """Open the interval `<key>_start`; `key` is given without the ending. It may have begun before the log could be opened."""
        self._write("start", f"{key}_start", value, metadata, began_ms)
        self.reopen(key, **metadata)

    def stop(self, key: str, value: Any = None, **metadata: Any) -> None:
        """Close the innermost open interval `key`, with the metadata it was opened with and what is added here."""
        if self._logger is None:
            return
        for position in range(len(self._open) - 1, -1, -1):
            name, opened = self._open[position]
            if name == key:
                del self._open[position]
                self._write("end", f"{key}_stop", value, {**opened, **metadata})
                return
        raise RunError(f"the log's interval {key} was closed without having been opened")

    def reopen(self, key: str, **metadata: Any) -> None:
        """Mark an interval as open that an earlier part of this log, before a stop, has opened."""
        if self._logger is not None:
            self._open.append((key, metadata))

    def end(self, status: str, ended_ms: int | None = None, **metadata: Any) -> None:
        """Close every open interval, `run` last and with its status, and refuse anything after it. It may have ended before."""
        if self._ended:
            return
        for key, opened in reversed([item for item in self._open if item[0] != "run"]):
            self._write("end", f"{key}_stop", None, opened)
        self._write("end", "run_stop", None, {"status": status, **metadata}, ended_ms)
        self._open.clear()
        self._ended = True

    def abort(self, reason: str) -> None:
        """Say in the log that the run failed. A log that can't be written any more is left as it is."""
        with contextlib.suppress(RunError):
            self.end(ABORTED, reason=reason)

    @property
    def open_intervals(self) -> list[tuple[str, dict[str, Any]]]:
        """The intervals that are open now, outermost first: what a checkpoint must remember of the log."""
        return list(self._open)

    def position(self) -> int:
        """Return the log's length in bytes, for a checkpoint."""
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def close(self) -> None:
        if self._logger is not None:
            self._handler.close()

    def _write(self, kind: str, key: str, value: Any, metadata: dict[str, Any], time_ms: int | None = None) -> None:
        if self._logger is None or self._ended:
            return
        method = {"event": self._logger.event, "start": self._logger.start, "end": self._logger.end}[kind]
        method(key=key, value=value, metadata=metadata, time_ms=time_ms or now_ms(), stack_offset=3)
