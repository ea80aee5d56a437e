"""The cluster of all tests in this folder, started once; after each test no job of it is left."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.slurm import Cluster, why_impossible


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes, n1 to n4, with fake GPUs. Without Slurm on this machine the tests are skipped, but never where CI vouches for them."""
    why = why_impossible()
    if why and os.environ.get("CI"):
        pytest.fail(f"CI is set, so these tests must run: {why}")
    if why:
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, idle again after the test."""
    yield cluster
    cluster.cancel_all()
