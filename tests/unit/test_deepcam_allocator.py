"""The allocator setting: memory that was freed is used again without asking the kernel for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from stormbench.core import allocator
if sys.argv[1] == "tuned":
    assert allocator.tune()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):
    faults()
print(faults())
"""


def faults_of_a_later_block(how: str) -> int:
    """Return the page faults of filling a block of 64 MiB after others were freed, in a process of its own."""
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_tuned_memory_is_reused_with_hardly_a_page_fault() -> None:
    # with transparent huge pages a block of 64 MiB takes 32 faults, otherwise 16384
    assert faults_of_a_later_block("tuned") < 16 < faults_of_a_later_block("stock")
