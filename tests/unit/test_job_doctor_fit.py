"""The doctor's checks that tell when an image and a node don't fit, from image.json or labels, each in both verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stormbench.core import imagerecord
from stormbench.job.checks import CHECKS, container, examine, fit
from stormbench.job.checks.result import NOT_APPLICABLE, OK, PROBLEM, WARNING
from tests.machines import Make, make_job, prepare, program, put, sif

CUDA = {"image": "deepcam", "variant": "cuda", "cuda": "13.1", "driver": "590", "glibc": "2.39", "mpi": "hpcx", "architecture": "x86_64"}
ROCM = {"image": "deepcam", "variant": "rocm", "rocm": "6.4", "driver": "6.2", "glibc": "2.39", "mpi": "mpich"}
CPU = {"image": "cloudmask", "variant": "cpu", "glibc": "2.36", "mpi": "openmpi", "cuda": None, "rocm": None, "driver": None}
NVIDIA = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Nov 1 00:00:00 UTC 2026\n"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return prepare(tmp_path)


def exported(tmp_path: Path, record: dict[str, Any], name: str = "image.sif") -> str:
    """An exported image and its record beside it; returns CONT."""
    (tmp_path / name).write_bytes(sif(b"02"))
    (tmp_path / "image.json").write_text(json.dumps({"format": 1, "images": {name: record}}))
    return str(tmp_path / name)


def on_node(cont: str, vendor: str = "none", **more: str) -> Any:
    """A job of one machine, which is the node."""
    own = {"CONT": cont, "STORMBENCH_RUNTIME": "apptainer", "STORMBENCH_SCHEDULER": "local", "STORMBENCH_GPU_VENDOR": vendor}
    return make_job(**{**own, **more})


@pytest.mark.parametrize(
    ("driver", "verdict"),
    [("590.48.01", OK), ("595.10", OK), ("580.95.05", PROBLEM), ("1000.1", OK), (None, PROBLEM)],
)
def test_cuda_needs_its_driver(make: Make, tmp_path: Path, driver: str | None, verdict: str) -> None:
    if driver:
        put(tmp_path / "root/proc/driver/nvidia/version", NVIDIA.format(driver))
    found = fit.accelerator(make(on_node(exported(tmp_path, CUDA), "nvidia")))
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict == PROBLEM)
    if driver == "580.95.05":
        assert f"needs driver 590 or later by {tmp_path}/image.json; the node has 580.95.05" in found.found


@pytest.mark.parametrize(("driver", "verdict"), [("6.10.5", OK), ("6.1.9", PROBLEM), ("", OK), (None, PROBLEM)])
def test_rocm_needs_its_driver(make: Make, tmp_path: Path, driver: str | None, verdict: str) -> None:
    if driver is not None:
        # the driver that comes with the kernel tells no version
        put(tmp_path / "root/sys/module/amdgpu" / ("version" if driver else "srcversion"), driver)
    assert fit.accelerator(make(on_node(exported(tmp_path, ROCM), "amd"))).verdict == verdict


@pytest.mark.parametrize(
    ("record", "vendor", "verdict", "remedy"),
    [
        (CUDA, "amd", PROBLEM, "stormbench images build deepcam --variant rocm"),
        (ROCM, "nvidia", PROBLEM, "stormbench images build deepcam --variant cuda"),
        (CPU, "nvidia", PROBLEM, "stormbench images build cloudmask --variant cuda"),
        (CUDA, "none", PROBLEM, "use the variant cpu"),
        (CPU, "none", OK, ""),
    ],
)
def test_the_kind_of_gpu_must_be_the_jobs_even_on_a_login_node(
    make: Make, tmp_path: Path, record: dict[str, Any], vendor: str, verdict: str, remedy: str
) -> None:
    job = on_node(exported(tmp_path, record), vendor, STORMBENCH_SCHEDULER="slurm")
    found = fit.accelerator(make(job))
    assert found.verdict == verdict
    assert remedy in found.remedy


def test_a_driver_is_looked_for_on_nodes_only(make: Make, tmp_path: Path) -> None:
    job = on_node(exported(tmp_path, CUDA), "nvidia", STORMBENCH_SCHEDULER="slurm")
    assert fit.accelerator(make(job)).verdict == NOT_APPLICABLE
    assert fit.accelerator(make(job, {"SLURMD_NODENAME": "n1"})).verdict == PROBLEM


@pytest.mark.parametrize(("node", "verdict"), [("2.31", OK), ("2.36", OK), ("2.36.1", WARNING), ("2.40", WARNING), ("", NOT_APPLICABLE)])
def test_the_nodes_libraries_need_a_c_library_as_new(make: Make, tmp_path: Path, node: str, verdict: str) -> None:
    program(tmp_path / "bin", "getconf", f"[ $1 = GNU_LIBC_VERSION ] && echo 'glibc {node}'" if node else "exit 1")
    job = on_node(exported(tmp_path, {**CPU, "mpi": "mpich"}), STORMBENCH_MODULES="cray-mpich-abi")
    found = fit.c_library(make(job))
    assert found.verdict == verdict
    if verdict == WARNING:
        assert f"CONT has glibc 2.36 by {tmp_path}/image.json, the node {node}: the MPI of the node may not load in it" in found.found


def test_an_image_that_gets_nothing_of_the_nodes_has_no_such_trouble(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "getconf", "echo glibc 2.99")
    assert fit.c_library(make(on_node(exported(tmp_path, CPU)))).verdict == OK


@pytest.mark.parametrize(
    ("kind", "variables", "verdict"),
    [
        ("openmpi", {"STORMBENCH_MPI": "pmix"}, OK),
        ("hpcx", {"STORMBENCH_MPI": "pmix_v4"}, OK),
        ("mpich", {"STORMBENCH_MPI": "pmix"}, PROBLEM),
        ("mpich", {"STORMBENCH_MPI": "pmi2"}, OK),
        ("openmpi", {"STORMBENCH_MPI": "pmi2"}, PROBLEM),
        ("openmpi", {"STORMBENCH_MPI": "cray_shasta"}, PROBLEM),
        ("openmpi", {}, OK),
        ("mpich", {"STORMBENCH_MODULES": "cray-mpich-abi"}, OK),
        ("openmpi", {"STORMBENCH_MODULES": "cray-mpich-abi"}, PROBLEM),
        ("hpcx", {"STORMBENCH_MOUNTS": "/opt/cray:/opt/cray"}, PROBLEM),
        ("mpich", {"STORMBENCH_SCHEDULER": "lsf"}, PROBLEM),
        ("openmpi", {"STORMBENCH_SCHEDULER": "lsf"}, OK),
        ("openmpi", {"STORMBENCH_MPI": "pmi2", "STORMBENCH_SCHEDULER": "local"}, OK),
        ("unheard", {"STORMBENCH_MPI": "pmix"}, NOT_APPLICABLE),
    ],
)
def test_the_kind_of_mpi_must_be_what_starts_the_ranks(
    make: Make, tmp_path: Path, kind: str, variables: dict[str, str], verdict: str
) -> None:
    cont = exported(tmp_path, {**CPU, "mpi": kind})
    given = {"STORMBENCH_SCHEDULER": "slurm", "STORMBENCH_BENCHMARK": "cloudmask", **variables}
    found = fit.mpi(make(on_node(cont, **given)))
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict == PROBLEM)
    if verdict == PROBLEM:
        # DeepCAM's ranks meet without MPI: for it, only its tools need one
        assert fit.mpi(make(on_node(cont, **{**given, "STORMBENCH_BENCHMARK": "deepcam"}))).verdict == WARNING


def test_labels_tell_where_there_is_no_record(make: Make, tmp_path: Path) -> None:
    labels = json.dumps({imagerecord.LABEL + name: value for name, value in CUDA.items()} | {"org.opencontainers.image.title": "x"})
    program(
        tmp_path / "bin",
        "docker",
        f"case \"$*\" in 'image inspect --format {{{{json .Config.Labels}}}} hpc/x:1') echo '{labels}' ;; *) exit 9 ;; esac",
    )
    docker = make_job(CONT="hpc/x:1", STORMBENCH_RUNTIME="docker", STORMBENCH_SCHEDULER="docker", STORMBENCH_GPU_VENDOR="amd")
    assert "CONT is for CUDA 13.1 by the labels of hpc/x:1, the job's GPUs are amd's" in fit.accelerator(make(docker)).found
    (tmp_path / "own.sif").write_bytes(sif(b"02"))
    told = json.dumps({"data": {"attributes": {"labels": json.loads(labels)}}, "type": "container"})
    program(tmp_path / "bin", "apptainer", f"[ \"$*\" = 'inspect --json --labels {tmp_path}/own.sif' ] && echo '{told}'")
    assert "CUDA 13.1 by the labels of" in fit.accelerator(make(on_node(str(tmp_path / "own.sif"), "amd"))).found


@pytest.mark.parametrize("text", [None, "{", "[]", '{"images": {"other.sif": {}}}', '{"images": 3}'])
def test_an_image_of_which_nothing_is_known_is_no_problem(make: Make, tmp_path: Path, text: str | None) -> None:
    (tmp_path / "image.sif").write_bytes(sif(b"02"))
    if text is not None:
        (tmp_path / "image.json").write_text(text)
    machine = make(on_node(str(tmp_path / "image.sif"), "nvidia"))
    for check in (fit.accelerator, fit.c_library, fit.mpi):
        assert check(machine).verdict == NOT_APPLICABLE
    for job in (make_job(), make_job(STORMBENCH_RUNTIME="pyxis"), make_job(CONT="nvcr.io#x/y:1", STORMBENCH_RUNTIME="pyxis"), None):
        assert fit.accelerator(make(job)).verdict == NOT_APPLICABLE


def test_the_record_tells_the_architecture_that_the_file_does_not(make: Make, tmp_path: Path) -> None:
    cont = exported(tmp_path, {**CUDA, "architecture": "aarch64"}, "image.sqsh")
    (tmp_path / "image.sqsh").write_bytes(b"hsqs")
    found = container.image(make(on_node(cont, "nvidia")))
    assert (found.verdict, f"aarch64 by {tmp_path}/image.json, the node is x86_64" in found.found) == (PROBLEM, True)


def test_the_doctor_makes_these_checks(make: Make, tmp_path: Path) -> None:
    checks = tuple(check for check in CHECKS if check[2] in (fit.accelerator, fit.c_library, fit.mpi))
    results = examine(make(on_node(exported(tmp_path, CUDA), "amd")), checks)
    assert [result.check for result in results] == ["image and GPU", "image and C library", "image and MPI"]
    assert results[0].verdict == PROBLEM


MANIFEST = "image cloudmask-cpu\nsystem libc6 2.36-9\npython keras 3.1\n"
RECORD = {**CPU, "tag": "x:1", "image_id": "sha256:1", "digest": "sha256:2", "base": {"name": "b", "digest": ""}, "sha256": "sha256:3"}


def run_in(tmp_path: Path, images: dict[str, Any] | str | None, **environ: str) -> dict[str, Any] | None:
    """What run.json says of the image of a run that was in CloudMask's."""
    if images is not None:
        (tmp_path / "image.json").write_text(images if isinstance(images, str) else json.dumps({"format": 1, "images": images}))
    (tmp_path / "manifest.txt").write_text(MANIFEST)
    return imagerecord.of_run(tmp_path, {"STORMBENCH_IMAGE": "cloudmask.cpu", **environ}, tmp_path / "manifest.txt")


def test_a_run_folder_records_its_images_digests(tmp_path: Path) -> None:
    found = run_in(tmp_path, {"a.sif": RECORD, "b.sif": {**RECORD, "sha256": "sha256:4"}, "c.sif": CUDA}, CONT="/images/b.sif")
    assert found is not None
    assert (found["file"], found["sha256"], found["image_id"], found["digest"]) == ("b.sif", "sha256:4", "sha256:1", "sha256:2")
    assert found["packages_in"] == "image.json"


def test_the_only_image_of_the_variant_is_taken_where_its_name_is_unknown(tmp_path: Path) -> None:
    found = run_in(tmp_path, {"a.sif": RECORD, "c.sif": CUDA})
    assert found is not None
    assert found["file"] == "a.sif"


@pytest.mark.parametrize("images", [None, {}, {"a.sif": RECORD, "b.sif": RECORD}, {"c.sif": CUDA}])
def test_without_its_record_the_image_itself_is_asked_for_its_packages(tmp_path: Path, images: dict[str, Any] | None) -> None:
    found = run_in(tmp_path, images)
    assert found == {
        "container": None, "variant": "cloudmask.cpu", "packages": {"system": {"libc6": "2.36-9"}, "python": {"keras": "3.1"}},
    }  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}', '{"images": {"a.sif": 3}}'])
def test_a_damaged_record_ends_no_run(tmp_path: Path, text: str) -> None:
    found = run_in(tmp_path, text)
    assert found is not None
    assert found["unknown"].startswith("image.json can't be read")


def test_outside_an_image_there_is_nothing_to_record(tmp_path: Path) -> None:
    assert imagerecord.of_run(tmp_path, {}) is None
