"""A Slurm job whose ranks run inside a real image, through a real apptainer: what they write goes to mounts, the image stays as it is."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.cluster.test_slurm_jobs import Job, assert_only_the_target_is_missed, logged, result_lines
from tests.conftest import clean_environment, record

ROOT = Path(__file__).parents[2]
# the image is thin: the machine's own programs and this Python are mounted into it, everything else is the image's
MOUNTED = sorted({"/usr", str(ROOT), str(Path(sys.base_prefix).resolve()), str(Path(sys.prefix).resolve())})


@pytest.fixture(scope="session")
def image(apptainer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SIF with the kit's entry at its place, and a search path that finds stormbench."""
    folder = tmp_path_factory.mktemp("image")
    tree = folder / "tree"
    folders = ("usr", "proc", "sys", "dev", "tmp", "var/tmp", "etc", "root", "workspace", "data", "results", "scratch")
    for name in (*folders, ".singularity.d/env"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for mounted in MOUNTED:
        (tree / mounted.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tree / "etc" / name)
    shutil.copy(ROOT / "run_and_time.sh", tree / "workspace" / "run_and_time.sh")
    environment = tree / ".singularity.d" / "env" / "90-environment.sh"
    environment.write_text(f"#!/bin/sh\nexport PATH={shlex.quote(str(Path(sys.executable).parent))}:/usr/bin:/bin INSIDE_THE_IMAGE=yes\n")
    environment.chmod(0o755)
    target = folder / "kit.sif"
    words = [str(apptainer), "build", str(target), str(tree)]
    done = subprocess.run(words, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_two_nodes_train_inside_the_image_and_leave_nothing_on_the_nodes(
    slurm: Cluster, data: Path, apptainer: Path, image: Path, tmp_path: Path
) -> None:
    mounts = " ".join(f"{path}:{path}:ro" for path in MOUNTED)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    extra = (
        f"export STORMBENCH_RUNTIME=apptainer CONT={image} STORMBENCH_MOUNTS={shlex.quote(mounts)} STORMBENCH_SCRATCH={scratch}\n"
        f"export STORMBENCH_GPU_VENDOR=none PATH={apptainer.parent}:$PATH PYTHONPATH=/nowhere/that/leaks\n"
    )
    before = image.read_bytes()
    # the working folder has a blank, which the mounts must survive
    job = Job(slurm, tmp_path / "with blank", data, extra)
    printed = job.to_the_end()
    folder = job.run_folder()
    assert_only_the_target_is_missed(folder / "result_1.txt")
    assert (logged(folder / "result_1.txt", "num_workers"), logged(folder / "result_1.txt", "number_of_nodes")) == ([4], [2])
    kept = record(folder)
    assert kept["config"]["data_dir_prefix"] == "/data"
    assert kept["config"]["output_dir"] == "/results"
    assert len(result_lines(printed)) == 1
    assert list(scratch.iterdir()) == [], "the job's scratch folder is left"
    assert image.read_bytes() == before


def test_an_image_that_is_not_there_stops_the_job_before_any_trial(slurm: Cluster, data: Path, apptainer: Path, tmp_path: Path) -> None:
    extra = f"export STORMBENCH_RUNTIME=apptainer CONT={tmp_path}/no.sif PATH={apptainer.parent}:$PATH\n"
    printed = Job(slurm, tmp_path / "job", data, extra).to_the_end("FAILED")
    assert f"CONT={tmp_path}/no.sif: no such image" in printed
    assert "trial 1" not in printed
