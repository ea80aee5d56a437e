"""Clocks: wall time for logs that are compared between machines, monotonic time for durations."""

from __future__ import annotations

import datetime
import time


def now_ms() -> int:
    """Return the wall clock in whole milliseconds since 1970, the unit of the MLPerf log."""
    return time.time_ns() // 1_000_000


def iso(time_ms: int) -> str:
    """Return a wall-clock time in ms as ISO 8601 in UTC, such as `2026-11-21T06:17:00.123+00:00`."""
    return datetime.datetime.fromtimestamp(time_ms / 1000, tz=datetime.timezone.utc).isoformat(timespec="milliseconds")


class Stopwatch:
    """Seconds since it was made or last restarted, on a clock that never jumps."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def restart(self) -> float:
        """Return the seconds so far and begin anew."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        return elapsed


def human_seconds(seconds: float) -> str:
    """Return a duration as people read it: `0.42 s`, `1 min 05 s`, `2 h 03 min`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
