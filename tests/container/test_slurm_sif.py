"""The SIF images under a real Slurm, with MPI between ranks on two nodes that have networks of their own."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from stormbench.core.verdict import read_events
from tests.cluster.slurm import Cluster
from tests.cluster.test_slurm_jobs import ONE_RANK_A_NODE, Job, assert_only_the_target_is_missed, logged, result_lines
from tests.container.conftest import Build, Place
from tests.container.engine import ROOT, podman_run
from tests.container.test_cpu_images import PREPARE

ON_CPUS = f"{ONE_RANK_A_NODE}export STORMBENCH_GPU_VENDOR=none STORMBENCH_RUNTIME=apptainer\n"
CLOUDMASK = """\
export STORMBENCH_BENCHMARK=cloudmask STORMBENCH_CLOUDMASK_BATCH_SIZE=2 STORMBENCH_CLOUDMASK_EPOCHS=1 STORMBENCH_CLOUDMASK_PATCH_SIZE=32
export STORMBENCH_CLOUDMASK_CLIP_OFFSET=4 STORMBENCH_WIDTH=0.1 STORMBENCH_CLOUDMASK_STRATEGY=horovod STORMBENCH_MPI=pmix
export CHECK_COMPLIANCE=0 ADDITIONAL_ARGS="--split random"
"""
LET_IN = 'while read -r name; do export "APPTAINERENV_$name=${!name}"; done < <(compgen -e | grep -E "^(PMIX|SLURM)_"); exec "$@"'
MEET = """\
from mpi4py import MPI
import json, socket
world = MPI.COMM_WORLD
hosts = world.allgather(socket.gethostname())
total = world.allreduce(world.rank + 1)
if world.rank == 0:
    print(json.dumps({"hosts": hosts, "total": total, "mpi": MPI.Get_library_version().strip("\\0").splitlines()[0]}))
"""


def test_ranks_on_two_nodes_meet_by_the_images_own_mpi(sif: Path, apptainer: Path, two_nodes: Cluster, tmp_path: Path) -> None:
    inside = (apptainer, "exec", "--no-home", "--cleanenv", "--pwd", "/", sif)
    # pmix tells a rank its place by variables, which must come in
    words = ("srun", "-N2", "--ntasks-per-node=1", "--mpi=pmix", "bash", "-c", LET_IN, "bash")
    done = two_nodes.run(*words, *inside, "python", "-c", MEET, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["mpi"].startswith("Open MPI")
    assert (told["hosts"], told["total"]) == (["c1", "c2"], 3)


def test_deepcam_trains_on_two_nodes_by_run_sub(
    pack: Callable[[str], Path], apptainer: Path, two_nodes: Cluster, data: Path, tmp_path: Path
) -> None:
    sif = pack("deepcam")
    extra = f"{ON_CPUS}export CONT={shlex.quote(str(sif))} STORMBENCH_SCRATCH={tmp_path} PATH={apptainer.parent}:$PATH\n"
    job = Job(two_nodes, tmp_path / "with blank", data, extra)
    printed = job.to_the_end()
    folder = job.run_folder()
    assert_only_the_target_is_missed(folder / "result_1.txt")
    assert (logged(folder / "result_1.txt", "num_workers"), logged(folder / "result_1.txt", "number_of_nodes")) == ([2], [2])
    assert len(result_lines(printed)) == 1


def test_deepcams_data_are_converted_on_two_nodes_by_mpi(
    pack: Callable[[str], Path], apptainer: Path, two_nodes: Cluster, data: Path, tmp_path: Path
) -> None:
    sif = pack("deepcam")
    exports = {
        "DATA_IN": data, "DATA_OUT": tmp_path / "numpy", "NUM_TASKS": "1", "STORMBENCH_MPI": "pmix", "STORMBENCH_RUNTIME": "apptainer",
        "CONT": sif, "STORMBENCH_SCRATCH": tmp_path, "PATH": f"{apptainer.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    lines = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in exports.items())
    command = f"export {lines} && sbatch --parsable --exclusive -N 2 --output=init.out {shlex.quote(str(ROOT / 'init_datasets.sub'))}"
    job = two_nodes.run("bash", "-c", command, folder=tmp_path).stdout.strip()
    assert two_nodes.ended(job) == "COMPLETED", (tmp_path / "init.out").read_text()
    assert len(list((tmp_path / "numpy").glob("*/data-*.npy"))) == sum(1 for _ in data.glob("[tv]*/data-*.h5"))


def test_cloudmask_trains_on_two_nodes_by_horovod_and_mpi(
    build: Build, pack: Callable[[str], Path], apptainer: Path, two_nodes: Cluster, tmp_path: Path
) -> None:
    sif = pack("cloudmask")
    place = Place(tmp_path)
    podman_run(build("cloudmask"), "bash", "-c", PREPARE["cloudmask"], options=place.options)
    extra = f"{ON_CPUS}{CLOUDMASK}export CONT={shlex.quote(str(sif))} STORMBENCH_SCRATCH={tmp_path} PATH={apptainer.parent}:$PATH\n"
    job = Job(two_nodes, tmp_path / "job", place.scratch / "data", extra)
    printed = job.to_the_end()
    folder = job.run_folder()
    kept = json.loads((folder / "run.json").read_text())
    assert (kept["strategy"], kept["world_size"]) == ("horovod", 2), printed
    assert any(event["key"] == "number_of_nodes" and event["value"] == 2 for event in read_events(folder / "result_1.txt"))
