"""The all-reduce test: a table from sums that were checked, and a failure when one is wrong."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stormbench.core.errors import RunError
from stormbench.deepcam import allreduce
from tests.conftest import clean_environment


def test_two_ranks_sum_and_print_one_table(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stormbench")
    words = (*torchrun, "deepcam", "allreduce", "--max_bytes", "65536")
    environ = clean_environment(LOGDIR=str(tmp_path))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["4096", "65536"]
    assert all(float(row[2]) > 0 for row in rows)
    assert "2 ranks on 1 node" in done.stderr
    assert list(tmp_path.iterdir()) == [], "what ranks meet by is removed"


def test_a_wrong_sum_is_a_failure_that_names_size_and_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    full_like = torch.full_like
    monkeypatch.setattr(torch, "full_like", lambda values, expected: full_like(values, expected + 1))
    with pytest.raises(RunError, match=r"all-reduce of 4096 bytes over 1 ranks: a sum is wrong"):
        allreduce.run(argparse.Namespace(max_bytes=4096, timeout=10.0))
