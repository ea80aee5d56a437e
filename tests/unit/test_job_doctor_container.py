"""The doctor's checks of container runtimes and images, each on a prepared machine in both verdicts."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbench.job.checks import container, folders, images
from stormbench.job.checks.result import NOT_APPLICABLE, OK, PROBLEM, WARNING
from tests.machines import GB, Make, elf, make_job, prepare, program, put, sif


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return prepare(tmp_path)


@pytest.mark.parametrize(("code", "name"), [(b"02", "x86_64"), (b"04", "aarch64"), (b"06", "ppc64le"), (b"00", None), (b"\xff\xff", None)])
def test_a_sif_header_tells_the_architecture(code: bytes, name: str | None) -> None:
    assert images.sif_architecture(sif(code)) == name


@pytest.mark.parametrize(
    ("header", "name"), [(elf(62), "x86_64"), (elf(183), "aarch64"), (elf(21), "ppc64le"), (elf(21, False), "ppc64"), (b"\x7fELF", None)]
)
def test_an_elf_header_tells_the_architecture(header: bytes, name: str | None) -> None:
    assert images.elf_architecture(header) == name


@given(st.binary(max_size=64))
def test_no_bytes_break_the_reading_of_headers(data: bytes) -> None:
    assert images.sif_architecture(data) is None
    assert images.elf_architecture(data) is None or data.startswith(b"\x7fELF")


def test_an_image_for_another_architecture_is_a_problem(make: Make, tmp_path: Path) -> None:
    image = tmp_path / "an image.sif"
    image.write_bytes(sif(b"04"))
    job = make_job(CONT=str(image), STORMBENCH_RUNTIME="apptainer", STORMBENCH_SCHEDULER="local")
    found = container.image(make(job))
    assert found.verdict == PROBLEM
    assert "aarch64 by its SIF header, the node is x86_64" in found.found
    assert found.remedy == "build or pull the image for x86_64"
    assert container.image(make(job, architecture="aarch64")).verdict == OK


def test_on_a_login_node_the_image_is_compared_with_the_nodes_architecture(make: Make, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.write_bytes(sif(b"04"))
    job = make_job(CONT=str(image), STORMBENCH_RUNTIME="apptainer", STORMBENCH_ARCH="aarch64")
    assert container.image(make(job)).verdict == OK


def test_the_architecture_of_a_folder_image_is_its_programs(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "image/bin/sh")
    (tmp_path / "image/bin/sh").write_bytes(elf(183))
    assert (
        container.image(make(make_job(CONT=str(tmp_path / "image"), STORMBENCH_RUNTIME="apptainer", STORMBENCH_SCHEDULER="local"))).verdict
        == PROBLEM
    )


def test_the_architecture_of_a_squashfs_image_is_its_programs(make: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    put(tree / "bin/sh")
    (tree / "bin/sh").write_bytes(elf(183))
    try:
        subprocess.run(["mksquashfs", tree, tmp_path / "image.sqsh", "-quiet", "-no-progress"], check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("squashfs-tools are not installed")
    job = make_job(CONT=str(tmp_path / "image.sqsh"), STORMBENCH_RUNTIME="pyxis", STORMBENCH_SCHEDULER="local")
    found = container.image(make(job, {"PATH": os.environ["PATH"]}))
    assert (found.verdict, "aarch64 by its /bin/sh" in found.found) == (PROBLEM, True)
    assert container.image(make(job)).found.endswith("unsquashfs, which reads a .sqsh, is not on this machine")


def test_docker_is_asked_for_the_architecture_of_its_images(make: Make, tmp_path: Path) -> None:
    program(
        tmp_path / "bin", "docker", 'case "$*" in "image inspect --format {{.Architecture}} hpc/deepcam:1") echo arm64 ;; *) exit 9 ;; esac'
    )
    job = make_job(CONT="hpc/deepcam:1", STORMBENCH_RUNTIME="docker", STORMBENCH_SCHEDULER="docker")
    assert container.image(make(job)).verdict == PROBLEM
    assert container.image(make(job, architecture="aarch64")).verdict == OK


def test_a_missing_image_is_a_problem_where_it_is_meant_to_be_and_a_warning_elsewhere(make: Make) -> None:
    job = make_job(CONT="/no/image.sqsh", STORMBENCH_RUNTIME="pyxis", STORMBENCH_HOSTS="login*.example.org")
    assert container.image(make(job)).verdict == WARNING
    assert container.image(make(job, host="login3.example.org")).verdict == PROBLEM
    assert container.image(make(make_job(STORMBENCH_RUNTIME="pyxis", STORMBENCH_SCHEDULER="local"))).verdict == PROBLEM
    assert container.image(make(make_job())).verdict == NOT_APPLICABLE


def test_the_runtimes_program_must_be_on_the_node(make: Make, tmp_path: Path) -> None:
    here = make_job(STORMBENCH_RUNTIME="apptainer", STORMBENCH_SCHEDULER="local")
    elsewhere = make_job(STORMBENCH_RUNTIME="apptainer")
    assert container.runtime(make(here)).verdict == PROBLEM
    assert container.runtime(make(elsewhere)).verdict == NOT_APPLICABLE
    program(tmp_path / "bin", "singularity", "exit 0")
    assert container.runtime(make(here)).verdict == OK
    assert container.runtime(make()).found == "apptainer"


@pytest.mark.parametrize(("help_text", "verdict"), [("--container-image=[USER@]", OK), ("--nodes=N", PROBLEM)])
def test_pyxis_must_be_plugged_into_srun(make: Make, tmp_path: Path, help_text: str, verdict: str) -> None:
    program(tmp_path / "bin", "srun", f"echo '{help_text}'")
    program(tmp_path / "bin", "enroot", "exit 0")
    assert container.runtime(make(make_job(STORMBENCH_RUNTIME="pyxis"))).verdict == verdict


def test_a_docker_service_that_does_not_answer_is_a_problem(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_RUNTIME="docker", STORMBENCH_SCHEDULER="docker")
    program(tmp_path / "bin", "docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
    found = container.runtime(make(job))
    assert (found.verdict, found.found) == (PROBLEM, "docker doesn't answer: Cannot connect to the Docker daemon")
    program(tmp_path / "bin", "docker", "echo 27.1")
    assert container.runtime(make(job)).verdict == OK


@pytest.mark.parametrize(
    ("sysctl", "value", "uid", "verdict"),
    [
        ("user/max_user_namespaces", "96365", 1000, OK),
        ("user/max_user_namespaces", "0", 1000, PROBLEM),
        ("kernel/unprivileged_userns_clone", "0", 1000, PROBLEM),
        ("kernel/unprivileged_userns_clone", "0", 0, OK),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", 1000, WARNING),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", 0, OK),
    ],
)
def test_rootless_runtimes_need_user_namespaces(make: Make, tmp_path: Path, sysctl: str, value: str, uid: int, verdict: str) -> None:
    put(tmp_path / "root/proc/sys/user/max_user_namespaces", "1000\n")
    put(tmp_path / "root/proc/sys" / sysctl, value + "\n")
    job = make_job(STORMBENCH_RUNTIME="pyxis", STORMBENCH_SCHEDULER="local")
    found = container.user_namespaces(make(job, uid=uid))
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != OK)


def test_a_setuid_apptainer_needs_no_user_namespaces(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "root/proc/sys/user/max_user_namespaces", "0\n")
    program(tmp_path / "bin", "apptainer", "exit 0")
    job = make_job(STORMBENCH_RUNTIME="apptainer", STORMBENCH_SCHEDULER="local")
    assert container.user_namespaces(make(job)).verdict == PROBLEM
    starter = put(tmp_path / "libexec/apptainer/bin/starter-suid")
    starter.chmod(0o755 | stat.S_ISUID)
    assert container.user_namespaces(make(job)).verdict == OK


def test_python_packages_of_the_host_may_leak_into_a_container(make: Make, tmp_path: Path) -> None:
    job = make_job(STORMBENCH_RUNTIME="apptainer", STORMBENCH_SCHEDULER="local")
    assert container.host_python(make(job)).verdict == OK
    found = container.host_python(make(job, {"PYTHONPATH": "/opt/site", "PYTHONUSERBASE": "/opt/user"}))
    assert (found.verdict, found.remedy) == (WARNING, "before submitting, run: unset PYTHONPATH PYTHONUSERBASE")
    put(tmp_path / "home/.local/lib/python3.11/site-packages/numpy.py")
    assert container.host_python(make(job)).remedy == "before submitting, run: export PYTHONNOUSERSITE=1"
    assert container.host_python(make(job, {"PYTHONNOUSERSITE": "1"})).verdict == OK
    assert container.host_python(make(make_job(), {"PYTHONPATH": "/opt/site"})).verdict == NOT_APPLICABLE


def test_what_the_job_names_must_be_mounted_in_the_container(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "work/tuned.json")
    common = {"STORMBENCH_RUNTIME": "pyxis", "STORMBENCH_SCHEDULER": "local"}
    assert container.mounts(make(make_job(**common))).verdict == OK
    entry = make_job(**common, STORMBENCH_ENTRY=f"{tmp_path}/work/run.sh")
    assert container.mounts(make(entry)).verdict == PROBLEM
    assert (
        container.mounts(make(make_job(**common, STORMBENCH_ENTRY="/kit/run.sh", STORMBENCH_MOUNTS=f"{tmp_path}/work:/kit:ro"))).verdict
        == OK
    )
    relative = container.mounts(make(make_job(**common, ADDITIONAL_ARGS="--config=./tuned.json")))
    assert (relative.verdict, "config_x_1x1x1.sh:5" in relative.found) == (WARNING, True)
    assert container.mounts(make(make_job(**common, ADDITIONAL_ARGS="--seed 1/2"))).verdict == OK
    assert container.mounts(make(make_job(**common, STORMBENCH_MOUNTS="/no/such:/x"))).verdict == PROBLEM


def test_stopped_containers_of_earlier_jobs_are_named(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "enroot", "printf 'NAME PID COMM\\npyxis_stormbench-17\\nstormbench-18 412 bash\\nmine\\n'")
    found = container.stale_containers(make(make_job(STORMBENCH_RUNTIME="pyxis")))
    assert (found.verdict, found.found) == (WARNING, "left by earlier jobs: pyxis_stormbench-17")
    program(tmp_path / "bin", "docker", "printf 'stormbench-3\\tExited (0)\\nstormbench-4\\tUp 2 hours\\n'")
    assert container.stale_containers(make(make_job(STORMBENCH_RUNTIME="docker"))).remedy.endswith("docker rm stormbench-3")
    program(tmp_path / "bin", "docker", "exit 0")
    assert container.stale_containers(make(make_job(STORMBENCH_RUNTIME="docker"))).verdict == OK


def test_a_sif_image_needs_no_space_to_unpack(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(sif(b"02"))
    assert folders.runtime_space(make(make_job(STORMBENCH_RUNTIME="apptainer", CONT=str(tmp_path / "x.sif")), free=5 * GB)).verdict == OK


def test_a_squashfs_image_needs_three_times_its_size(make: Make, tmp_path: Path) -> None:
    with (tmp_path / "x.sqsh").open("wb") as stream:
        stream.truncate(10 * GB)
    job = make_job(STORMBENCH_RUNTIME="pyxis", CONT=str(tmp_path / "x.sqsh"))
    assert folders.runtime_space(make(job, free=29 * GB)).verdict == WARNING
    assert folders.runtime_space(make(job, free=31 * GB)).verdict == OK
