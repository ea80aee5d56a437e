"""What memory is left: the machine's, a container's or a job's, and the process's own limit, whichever is least."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stormbench.core import memory
from tests.conftest import clean_environment

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB to spare and no limits."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/job\n")
    return tmp_path


def write(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_machine_without_limits_gives_what_it_has_to_spare(machine: Path) -> None:
    assert memory.available_bytes() == 8 * GIB


def test_group_of_version_2_gives_what_is_left_of_its_limit_with_its_file_cache(machine: Path) -> None:
    write(machine / "cgroup/job/memory.max", 4 * GIB)
    write(machine / "cgroup/job/memory.current", 3 * GIB)
    write(machine / "cgroup/job/memory.stat", f"anon {GIB}\ninactive_file {2 * GIB}")
    assert memory.available_bytes() == 3 * GIB


def test_group_without_a_limit_leaves_it_to_the_one_above(machine: Path) -> None:
    write(machine / "cgroup/job/memory.max", "max")
    write(machine / "cgroup/job/memory.current", GIB)
    write(machine / "cgroup/memory.max", 2 * GIB)
    write(machine / "cgroup/memory.current", GIB)
    assert memory.available_bytes() == GIB


def test_group_of_version_1_counts_too(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "9:cpu,cpuacct:/x\n5:memory:/slurm/job_7\n")
    write(machine / "cgroup/memory/slurm/job_7/memory.limit_in_bytes", 2 * GIB)
    write(machine / "cgroup/memory/slurm/job_7/memory.usage_in_bytes", GIB // 2)
    assert memory.available_bytes() == 3 * GIB // 2


def test_container_whose_group_is_the_mounted_root(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/system.slice/docker-4711.scope\n")
    write(machine / "cgroup/memory.max", GIB)
    write(machine / "cgroup/memory.current", GIB // 4)
    assert memory.available_bytes() == 3 * GIB // 4


def test_group_that_is_over_its_limit_leaves_nothing(machine: Path) -> None:
    write(machine / "cgroup/job/memory.max", GIB)
    write(machine / "cgroup/job/memory.current", 2 * GIB)
    assert memory.available_bytes() == 0


def test_nothing_that_tells_is_no_number(machine: Path) -> None:
    for path in ("proc/meminfo", "proc/self/cgroup"):
        (machine / path).unlink()
    assert memory.available_bytes() is None


def test_limit_of_the_process_counts() -> None:
    code = "from stormbench.core.memory import available_bytes; print(available_bytes())"
    limited = ["bash", "-c", 'ulimit -v 1000000; exec "$@"', "bash", sys.executable, "-c", code]
    done = subprocess.run(limited, capture_output=True, text=True, env=clean_environment(), check=True)
    assert 0 < int(done.stdout) < 1_000_000 * 1024
