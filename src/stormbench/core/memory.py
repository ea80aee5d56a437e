"""How much memory this process may still take, by the machine and by the limits that a job or a container sets."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the memory in bytes that can be taken before the kernel has to end something, or None where nothing tells.

    That is the smallest of what the machine has to spare, what is left of the control groups that this process is in
    (versions 1 and 2; files in the cache don't count, as they give way), and what is left of its own limit (ulimit -v).
    """
    found = [_machine(), *_groups(), _own_limit()]
    return min((value for value in found if value is not None), default=None)


def _machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _groups() -> list[int]:
    """Return what is left of each control group from this process's own up to the root."""
    found = []
    with contextlib.suppress(OSError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if not path:
                continue
            if controllers == "":
                top, names = CGROUP, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                top, names = CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # in a container the path may be the host's, and its own group the mounted root
            folder = top / path.lstrip("/")
            for group in dict.fromkeys([folder, *folder.parents]):
                if group == top or top in group.parents:
                    found.append(_left(group, *names))
    return [value for value in found if value is not None]


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        most = int((group / limit).read_text())
        used = int((group / usage).read_text())
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
    with contextlib.suppress(OSError, ValueError):
        pairs = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used -= int(pairs.get(cache, 0))
    return max(most - used, 0)


def _own_limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        return max(limit - int((PROC / "self/statm").read_text().split()[0]) * resource.getpagesize(), 0)
    return limit
