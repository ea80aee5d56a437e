"""The doctor's checks of folders, node and network, each on a prepared machine in both verdicts."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from stormbench.job.checks import folders, network, node
from stormbench.job.checks.result import NOT_APPLICABLE, OK, PROBLEM, WARNING
from tests.machines import GB, Make, make_job, prepare, program, put


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return prepare(tmp_path)


@pytest.mark.parametrize(("free", "verdict"), [(0.5 * GB, PROBLEM), (5 * GB, WARNING), (50 * GB, OK)])
def test_a_runtime_needs_space_for_images(make: Make, free: float, verdict: str) -> None:
    job = make_job(STORMBENCH_RUNTIME="apptainer", CONT="docker://x")
    found = folders.runtime_space(make(job, {"APPTAINER_TMPDIR": "/tmp/a b"}, free=free))
    assert found.verdict == verdict
    assert f"APPTAINER_TMPDIR /tmp/a b: {'500 MB' if free < GB else f'{free / GB:.1f} GB'} free" in found.found


@pytest.mark.parametrize(
    ("image", "free", "verdict"),
    [("docker://x", 5 * GB, WARNING), ("docker://x", 50 * GB, OK), ("/image.sif", 5 * GB, OK), ("/image.sif", 0.5 * GB, PROBLEM)],
)
def test_the_scratch_folder_of_a_node_needs_space_for_an_image_that_is_fetched(make: Make, image: str, free: float, verdict: str) -> None:
    job = make_job(STORMBENCH_RUNTIME="apptainer", CONT=image, STORMBENCH_SCRATCH="/raid/scratch", STORMBENCH_SCHEDULER="local")
    roomy = {"space": lambda path: (int(free if path == Path("/") else 500 * GB), int(500 * GB))}
    environ = {"TMPDIR": "/tmp", "APPTAINER_CACHEDIR": "/tmp"}
    found = folders.runtime_space(make(job, environ, **roomy))
    assert (found.verdict, "STORMBENCH_SCRATCH /raid/scratch" in found.found) == (verdict, True)
    # on a login node it is nobody's scratch
    queued = make_job(STORMBENCH_RUNTIME="apptainer", CONT=image, STORMBENCH_SCRATCH="/raid/scratch")
    assert "STORMBENCH_SCRATCH" not in folders.runtime_space(make(queued, environ, **roomy)).found


def test_a_scratch_folder_that_cannot_be_made_is_a_problem(make: Make, tmp_path: Path) -> None:
    def verdict(path: Path, **more: str) -> tuple[str, str]:
        found = folders.scratch_folder(make(make_job(STORMBENCH_SCRATCH=str(path), STORMBENCH_SCHEDULER="local", **more)))
        return found.verdict, found.found

    assert verdict(tmp_path / "new" / "folder") == (OK, f"STORMBENCH_SCRATCH={tmp_path}/new/folder: can be made in {tmp_path}")
    file = put(tmp_path / "file")
    assert verdict(file / "x") == (PROBLEM, f"STORMBENCH_SCRATCH={file}/x (config_x_1x1x1.sh:3): {file} is a file, not a folder")
    # even root can't write there
    assert verdict(Path("/proc/scratch"))[0] == PROBLEM
    assert folders.scratch_folder(make(make_job(STORMBENCH_SCRATCH="/proc/x"))).verdict == NOT_APPLICABLE
    assert folders.scratch_folder(make()).verdict == NOT_APPLICABLE


def test_the_runtimes_own_variables_say_which_folders_count(make: Make) -> None:
    environ = {"ENROOT_DATA_PATH": "/raid/data", "SINGULARITY_CACHEDIR": "/raid/cache", "TMPDIR": "/raid/tmp"}
    enroot = folders.runtime_folders(make(make_job(STORMBENCH_RUNTIME="pyxis"), environ))
    assert (enroot["ENROOT_DATA_PATH"], enroot["ENROOT_TEMP_PATH"]) == (Path("/raid/data"), Path("/raid/tmp"))
    apptainer = folders.runtime_folders(make(make_job(STORMBENCH_RUNTIME="apptainer"), environ))
    assert (apptainer["SINGULARITY_CACHEDIR"], apptainer["APPTAINER_TMPDIR"]) == (Path("/raid/cache"), Path("/raid/tmp"))


@pytest.mark.parametrize(("kind", "verdict"), [("lustre", WARNING), ("nfs4", WARNING), ("fuse.sshfs", WARNING), ("xfs", OK), ("tmpfs", OK)])
def test_temporary_folders_belong_on_the_node(make: Make, tmp_path: Path, kind: str, verdict: str) -> None:
    put(tmp_path / "root/proc/mounts", f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040scratch {kind} rw 0 0\n")
    (tmp_path / "my scratch").mkdir()
    found = folders.temporary_on_network(make(environ={"TMPDIR": f"{tmp_path}/my scratch/new"}))
    assert (found.verdict, kind in found.found) == (verdict, True)


@pytest.mark.parametrize(("total", "verdict"), [(64 * 10**6, WARNING), (32 * GB, OK)])
def test_shared_memory_holds_at_least_a_gigabyte(make: Make, tmp_path: Path, total: float, verdict: str) -> None:
    assert folders.shared_memory(make()).verdict == PROBLEM
    (tmp_path / "root/dev/shm").mkdir(parents=True)
    assert folders.shared_memory(make(free=total)).verdict == verdict


def test_whether_the_file_caches_can_be_dropped(make: Make, tmp_path: Path) -> None:
    job = make_job(CLEAR_CACHES="1", STORMBENCH_SCHEDULER="local")
    assert folders.page_cache(make()).verdict == NOT_APPLICABLE
    program(tmp_path / "bin", "sudo", "exit 1")
    assert folders.page_cache(make(job)).verdict == WARNING
    program(tmp_path / "bin", "sudo", '[ "$1" = -n ]')
    assert folders.page_cache(make(job)).verdict == OK
    put(tmp_path / "root/proc/sys/vm/drop_caches")
    assert folders.page_cache(make()).verdict == OK


def test_sudo_is_not_asked_where_the_job_would_not_use_it(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "sudo", f"touch {shlex.quote(str(tmp_path / 'asked'))}")
    folders.page_cache(make(make_job(STORMBENCH_SCHEDULER="local")))
    assert not (tmp_path / "asked").exists()


def test_the_log_folder_must_be_writable_and_roomy(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "file")
    local = {"STORMBENCH_SCHEDULER": "local"}
    assert folders.log_folder(make(make_job(**local, LOGDIR=f"{tmp_path}/file/logs"))).verdict == PROBLEM
    assert folders.log_folder(make(make_job(LOGDIR=f"{tmp_path}/file/logs"))).verdict == WARNING
    job = make_job(**local, LOGDIR="logs/new")
    assert folders.log_folder(make(job)).found == f"LOGDIR={tmp_path}/work/logs/new: writable, 500.0 GB free"
    assert [folders.log_folder(make(job, free=free)).verdict for free in (0.5 * GB, 5 * GB)] == [PROBLEM, WARNING]


def test_the_data_folder_must_be_complete(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_SCHEDULER="local", DATADIR=str(tmp_path / "data"))
    assert folders.data_folder(make(job)).verdict == PROBLEM
    put(tmp_path / "data/train/data-1.h5")
    (tmp_path / "data/validation").mkdir()
    assert "validation/ with samples, stats.h5 missing" in folders.data_folder(make(job)).found
    put(tmp_path / "data/validation/data-2.h5")
    put(tmp_path / "data/stats.h5")
    assert folders.data_folder(make(job)).verdict == OK
    cloudmask = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_BENCHMARK="cloudmask", DATADIR=str(tmp_path / "data"))
    assert folders.data_folder(make(cloudmask)).verdict == PROBLEM
    put(tmp_path / "data/day/product.hdf")
    assert folders.data_folder(make(cloudmask)).verdict == OK
    assert folders.data_folder(make(make_job(DATA_FORMAT="dummy"))).verdict == NOT_APPLICABLE


@pytest.mark.parametrize(("version", "verdict"), [("5.2.15(1)-release", OK), ("4.4.20(1)-release", OK), ("4.2.46(2)-release", PROBLEM)])
def test_bash_must_be_late_enough(make: Make, tmp_path: Path, version: str, verdict: str) -> None:
    program(tmp_path / "bin", "bash", f"printf '{version}'")
    assert node.bash(make()).verdict == verdict


@pytest.mark.parametrize(("soft", "verdict"), [("unlimited", OK), (str(8 * 2**30), WARNING), ("65536", PROBLEM)])
def test_infiniband_needs_locked_memory(make: Make, tmp_path: Path, soft: str, verdict: str) -> None:
    assert node.locked_memory(make()).verdict == NOT_APPLICABLE
    (tmp_path / "root/sys/class/infiniband/mlx5_0").mkdir(parents=True)
    put(tmp_path / "root/proc/self/limits", f"Max locked memory   {soft}   unlimited   bytes\n")
    assert node.locked_memory(make()).verdict == verdict


@pytest.mark.parametrize("card", ["sys/class/net/hsn0", "sys/class/cxi/cxi0"])
def test_slingshot_needs_locked_memory(make: Make, tmp_path: Path, card: str) -> None:
    (tmp_path / "root" / card).mkdir(parents=True)
    found = node.locked_memory(make())
    assert (found.verdict, "Slingshot" in found.found) == (PROBLEM, True)


def test_the_limit_of_open_files(make: Make, tmp_path: Path) -> None:
    assert node.open_files(make()).verdict == OK
    put(tmp_path / "root/proc/self/limits", "Max open files  256  4096  files\n")
    assert node.open_files(make()).remedy == "run: ulimit -n 4096"


def test_the_node_must_have_the_configs_cores(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "root/sys/devices/system/cpu/online", "0-63,128-191\n")
    assert node.cores(make()).found == "128 cores"
    job = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_CORES_PER_NODE="256")
    found = node.cores(make(job))
    assert (found.verdict, found.found) == (PROBLEM, "128 cores, STORMBENCH_CORES_PER_NODE=256 (config_x_1x1x1.sh:4)")


def test_the_node_must_have_the_configs_gpus(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_GPUS_PER_NODE="4", STORMBENCH_GPU_VENDOR="nvidia")
    assert (node.gpus(make()).verdict, node.gpus(make(job)).verdict) == (NOT_APPLICABLE, PROBLEM)
    program(tmp_path / "bin", "nvidia-smi", "for i in 1 2; do echo 'NVIDIA A100-SXM4-40GB, 40960 MiB'; done")
    found = node.gpus(make(job))
    assert found.verdict == PROBLEM
    assert "2 GPUs by nvidia-smi: NVIDIA A100-SXM4-40GB, 40960 MiB; STORMBENCH_GPUS_PER_NODE=4 (config_x_1x1x1.sh:4)" in found.found
    program(tmp_path / "bin", "nvidia-smi", "for i in 1 2 3 4; do echo 'NVIDIA A100-SXM4-40GB, 40960 MiB'; done")
    assert node.gpus(make(job)).verdict == OK
    program(tmp_path / "bin", "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert "version mismatch" in node.gpus(make(job)).found


def test_gpus_of_amd_are_counted(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "rocm-smi", "printf 'device,Card series\\ncard0,MI250X\\ncard1,MI250X\\n'")
    job = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_GPUS_PER_NODE="2", STORMBENCH_GPU_VENDOR="amd")
    assert node.gpus(make(job)).verdict == OK


@pytest.mark.parametrize(("version", "verdict"), [("550.54.15", OK), ("470.82.01", WARNING)])
def test_the_driver_must_fit_the_images(make: Make, tmp_path: Path, version: str, verdict: str) -> None:
    job = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_RUNTIME="apptainer", STORMBENCH_GPU_VENDOR="nvidia")
    assert node.gpu_driver(make(job)).verdict == PROBLEM
    put(
        tmp_path / "root/proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Mar  5 2024\nGCC version: 12\n",
    )
    assert node.gpu_driver(make(job)).verdict == verdict
    assert version in node.gpu_driver(make(job)).found


def test_numactl_is_looked_for_where_ranks_are_bound(make: Make, tmp_path: Path) -> None:
    assert node.numactl(make()).verdict == WARNING
    assert node.numactl(make(make_job(STORMBENCH_BIND="none"))).verdict == NOT_APPLICABLE
    program(tmp_path / "bin", "numactl", "exit 0")
    assert node.numactl(make()).verdict == OK


def test_a_job_without_a_container_needs_its_python_packages(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_SCHEDULER="local")
    assert node.python_packages(make(job, installed=lambda name: True)).verdict == OK
    missing = node.python_packages(make(job, installed=lambda name: name != "torch"))
    assert (missing.verdict, missing.found) == (PROBLEM, "this Python has no torch")
    venv = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_VENV=str(tmp_path / "venv"))
    assert node.python_packages(make(venv)).verdict == PROBLEM
    for name in ("bin/python", "lib/python3.11/site-packages/torch/__init__.py", "lib/python3.11/site-packages/mlperf_logging/__init__.py"):
        put(tmp_path / "venv" / name)
    assert node.python_packages(make(venv)).verdict == OK
    assert node.python_packages(make(make_job(STORMBENCH_RUNTIME="pyxis"))).verdict == NOT_APPLICABLE


def test_the_hosts_name_must_resolve_to_an_address_for_others(make: Make) -> None:
    several = make_job(STORMBENCH_SCHEDULER="local", DGXNNODES="2")
    assert network.host_name(make(host="localhost")).verdict == OK
    assert network.host_name(make(several, host="localhost")).verdict == PROBLEM
    assert network.host_name(make(several, host="10.1.2.3")).verdict == OK
    assert network.host_name(make(host="no-such-host.invalid")).verdict == WARNING
    assert network.host_name(make(several, host="no-such-host.invalid")).verdict == PROBLEM


def test_interfaces_that_ranks_meet_over_must_be_up(make: Make, tmp_path: Path) -> None:
    net = tmp_path / "root/sys/class/net"
    several = {"STORMBENCH_SCHEDULER": "local", "DGXNNODES": "2"}
    put(net / "lo/flags", "0x8\n")
    assert "lo is down" in network.interfaces(make()).found
    put(net / "lo/flags", "0x9\n")
    assert network.interfaces(make()).verdict == OK
    assert network.interfaces(make(make_job(**several))).verdict == PROBLEM
    put(net / "hsn0/flags", "0x1003\n")
    assert network.interfaces(make(make_job(**several, NCCL_SOCKET_IFNAME="hsn"))).verdict == OK
    assert network.interfaces(make(make_job(**several, NCCL_SOCKET_IFNAME="=hsn"))).verdict == PROBLEM
    assert network.interfaces(make(make_job(**several, NCCL_SOCKET_IFNAME="ib0"))).verdict == PROBLEM


def test_the_network_cards_of_the_config_must_be_there(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_NICS="mlx5_0 mlx5_1:1")
    (tmp_path / "root/sys/class/infiniband/mlx5_0").mkdir(parents=True)
    found = network.cards(make(job))
    assert (found.verdict, "names mlx5_1, /sys/class/infiniband has mlx5_0" in found.found) == (PROBLEM, True)
    (tmp_path / "root/sys/class/infiniband/mlx5_1").mkdir()
    assert network.cards(make(job)).verdict == OK
