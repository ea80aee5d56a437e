"""Where a result comes from: command, versions, source revision, host. Everything here ends up in run.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import stormbench

PACKAGES = ("stormbench", "numpy", "torch", "h5py", "mlperf-logging", "mpi4py", "apex", "nvidia-dali-cuda120", "nvidia-dali-cuda130",
            "tensorrt", "torch-tensorrt", "tensorflow", "tensorflow-cpu", "keras", "horovod")  # fmt: skip


def command_line() -> str:
    """Return the command as it could be typed again, with the program by its short name."""
    program = "stormbench" if Path(sys.argv[0]).name in ("stormbench", "__main__.py") else sys.argv[0]
    return shlex.join([program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found.setdefault("stormbench", stormbench.__version__)
    return found


def git_commit() -> str | None:
    """Return the commit that the code came from, with `+changes` where the tree differs from it.

    An image carries the revision in STORMBENCH_GIT_COMMIT, since it holds no git folder. None where neither is known.
    """
    given = os.environ.get("STORMBENCH_GIT_COMMIT", "").strip()
    if given:
        return given
    root = Path(stormbench.__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def host() -> dict[str, Any]:
    """Return the host's name, system, processor, cores that this process may use, and memory in GiB."""
    return {
        "name": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def describe_host() -> str:
    """Return the host in a few words, the default of submission_platform."""
    return f"{socket.gethostname()}: {processor()}, {usable_cores()} cores"


def usable_cores() -> int:
    """Return the number of cores that the scheduler's binding leaves to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's model name, or the architecture where the system doesn't tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model", "cpu\t")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
