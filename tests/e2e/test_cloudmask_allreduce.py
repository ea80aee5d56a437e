"""The all-reduce test of CloudMask's jobs: sums over real ranks, by whatever will carry the gradients, and a failure when one is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from tests.cloudmask_files import mpirun
from tests.conftest import clean_environment

WRONG = """
import sys
from stormbench.core import allreduce
right = allreduce.expected_sum
allreduce.expected_sum = lambda ranks, number: right(ranks, number) + 1
from stormbench.cli import main
sys.exit(main(["cloudmask", "allreduce", "--max_bytes", "4096"]))
"""
WORDS = ("-m", "stormbench", "cloudmask", "allreduce", "--max_bytes", "65536")


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[2:]]


@pytest.mark.parametrize("strategy", ["horovod", "multiworker"])
def test_two_ranks_sum_and_print_one_table(tmp_path: Path, strategy: str) -> None:
    launcher = mpirun(2)
    if launcher is None:
        pytest.skip("Horovod isn't installed, whose mpirun starts the ranks")
    environ = clean_environment(LOGDIR=str(tmp_path), STORMBENCH_CLOUDMASK_STRATEGY=strategy)
    done = subprocess.run([*launcher, sys.executable, *WORDS], capture_output=True, text=True, env=environ, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in rows(done.stdout)] == ["4096", "65536"]
    assert all(float(row[2]) >= 0 for row in rows(done.stdout))
    assert f"{strategy}: as asked for" in done.stderr
    assert list(tmp_path.iterdir()) == [], "what ranks meet by is removed"


def test_several_devices_of_one_process_are_ranks_too(tmp_path: Path) -> None:
    environ = clean_environment(LOGDIR=str(tmp_path), STORMBENCH_CLOUDMASK_REPLICAS="3")
    done = subprocess.run([sys.executable, *WORDS], capture_output=True, text=True, env=environ, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (len(rows(done.stdout)), "mirrored" in done.stderr) == (2, True)


def test_a_wrong_sum_is_a_failure_that_names_size_and_ranks(tmp_path: Path) -> None:
    environ = clean_environment(LOGDIR=str(tmp_path), STORMBENCH_CLOUDMASK_STRATEGY="none")
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, env=environ, check=False, timeout=200)
    assert done.returncode == 1
    assert "all-reduce of 4096 bytes over 1 ranks: a sum is wrong" in done.stderr
    assert "Traceback" not in done.stderr
