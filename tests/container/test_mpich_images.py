"""The images for a Cray, whose MPICH the site's own replaces at run time. No Cray's can be had: the site's is a newer MPICH from PyPI."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.container.conftest import Build, Place
from tests.container.engine import podman_run, run
from tests.container.test_cpu_images import PREPARE, TRAIN
from tests.container.test_slurm_sif import MEET

INSIDE, SITES = "3.4.3", "4.3.2"
"""Versions of MPICH: the one in the images, and the site's."""
AT = "/opt/cray/pe/mpich"
OVER_TCP = "MPIR_CVAR_CH4_NETMOD=ofi,FI_PROVIDER=tcp"
"""Of the site's: its UCX takes emulated nodes for one, as they share a kernel."""


@pytest.fixture(scope="session")
def site_mpi(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the site's MPICH, as it lies on the nodes outside of images."""
    folder = tmp_path_factory.mktemp("cray")
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), f"mpich=={SITES}"]
    subprocess.run(words, check=True, timeout=300)
    # pip install --target leaves out what belongs into an environment's lib
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    found = folder / f"mpich-{SITES}.data" / "data"
    for program in (found / "bin").iterdir():
        program.chmod(0o755)
    folder.chmod(0o755)
    return found


@pytest.fixture
def cray(workload: str, build: Build) -> str:
    return build(workload, "mpich")


@pytest.fixture(scope="module")
def unpacked(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DeepCAM's image as a folder, which apptainer runs as it runs a SIF; a copy, as the nodes don't see what is mounted after them."""
    name, folder = build("deepcam", "mpich"), tmp_path_factory.mktemp("unpacked") / "image"
    run("cp", "-a", run("podman", "image", "mount", name).stdout.strip(), folder)
    run("podman", "image", "unmount", name)
    yield folder
    shutil.rmtree(folder)


def met(stdout: str) -> dict[str, object]:
    return json.loads(stdout.strip().splitlines()[-1])


def test_two_ranks_train_by_the_images_own_mpi(workload: str, cray: str, place: Place) -> None:
    podman_run(cray, "bash", "-c", PREPARE[workload], options=place.options)
    podman_run(cray, "mpirun", "-np", 2, *TRAIN[workload].split(), options=place.options)
    assert json.loads((place.results / "two" / "run.json").read_text())["world_size"] == 2


def test_the_sites_mpi_and_launcher_take_the_place_of_the_images_own(workload: str, cray: str, site_mpi: Path, place: Place) -> None:
    own = met(podman_run(cray, "mpirun", "-np", 2, "python", "-c", MEET, options=place.options).stdout)
    assert (own["total"], own["mpi"]) == (3, f"MPICH Version:\t{INSIDE}")
    site = [*place.options, "--volume", f"{site_mpi}:{AT}:ro", "--env", f"LD_LIBRARY_PATH={AT}/lib"]
    launch = (f"{AT}/bin/mpirun", "-np", 2)
    replaced = met(podman_run(cray, *launch, "python", "-c", MEET, options=site).stdout)
    assert (replaced["total"], replaced["mpi"]) == (3, f"MPICH Version:      {SITES}")
    if workload == "cloudmask":
        # Horovod's own code is linked with MPI too
        named = ("--env", "STORMBENCH_CLOUDMASK_STRATEGY=horovod", "--env", "LOGDIR=/results")
        words = ("stormbench", "cloudmask", "allreduce", "--max_bytes", "4096")
        done = podman_run(cray, *launch, *words, options=[*site, *named])
        assert re.search(r"horovod: .*PMI_SIZE=2.* by its MPI controller", done.stderr), done.stderr


@pytest.mark.parametrize("version", [INSIDE, SITES])
def test_ranks_on_two_nodes_meet_by_srun_and_pmi2(
    unpacked: Path, site_mpi: Path, apptainer: Path, two_nodes: Cluster, tmp_path: Path, version: str
) -> None:
    site = ("--bind", f"{site_mpi}:{AT}", "--env", f"LD_LIBRARY_PATH={AT}/lib,{OVER_TCP}") if version == SITES else ()
    inside = (apptainer, "exec", "--no-home", "--pwd", "/", *site, unpacked)
    # a folder has not the image's search path
    python = "/opt/stormbench/venv/bin/python"
    done = two_nodes.run("srun", "-N2", "--ntasks-per-node=1", "--time=1", "--mpi=pmi2", *inside, python, "-c", MEET, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = met(done.stdout)
    assert (told["hosts"], told["total"]) == (["c1", "c2"], 3)
    assert version in str(told["mpi"])
