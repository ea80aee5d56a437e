"""`stormbench images export`: one whole file with its record, from each engine's store, also after failures and beside another export."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import engines as standins
from tests.kits import Call, command

NAME = "stormbench-deepcam:0.1.0-cpu"
SIF, SQSH = "stormbench-deepcam_0.1.0-cpu.sif", "stormbench-deepcam_0.1.0-cpu.sqsh"
LABELS = {"org.opencontainers.image.base.name": "debian:1", "org.opencontainers.image.base.digest": "sha256:" + "e" * 64}


@pytest.fixture
def here(tmp_path: Path, images: Call) -> Path:
    """A machine with all engines, and the image in their stores."""
    standins.install(tmp_path / "bin")
    standins.put_image(tmp_path / "state", NAME, labels=LABELS)
    return tmp_path


def record(here: Path, name: str) -> dict[str, object]:
    return json.loads((here / "images/image.json").read_text())["images"][name]


@pytest.mark.parametrize(
    ("form", "engine", "last"),
    [
        ("sif", "docker", f"docker-daemon:{NAME}"),
        ("sif", "podman", "docker-archive:"),
        ("sif", "buildah", "docker-archive:"),
        ("sqsh", "docker", f"dockerd://{NAME}"),
        ("sqsh", "podman", f"podman://localhost/{NAME}"),
    ],
)
def test_a_file_appears_whole_with_its_record(here: Path, images: Call, form: str, engine: str, last: str) -> None:
    done = images("export", "deepcam", "--format", form, "--engine", engine, "--json")
    assert done.returncode == 0, done.stderr
    path = here / "images" / (SIF if form == "sif" else SQSH)
    found = record(here, path.name)
    assert found["sha256"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["size_bytes"] == path.stat().st_size
    assert found["image_id"] == "sha256:" + hashlib.sha256(b"one").hexdigest()
    assert found["base"] == {"name": "debian:1", "digest": "sha256:" + "e" * 64}
    assert found["packages"] == {
        "system": {"libc6": "2.36-9", "openmpi-bin": "4.1.4-3"}, "python": {"torch": "2.13.0+cpu", "numpy": "2.4.6"},
    }  # fmt: skip
    assert (found["architecture"], found["mpi"], found["glibc"]) == ("x86_64", "openmpi", "2.36")
    assert json.loads(done.stdout)["file"] == f"images/{path.name}"
    writing = [words for words in standins.calls(here / "state") if words[:2] in (["apptainer", "build"], ["enroot", "import"])]
    assert writing[0][-1].startswith(last)
    assert {item.name for item in path.parent.iterdir() if not item.name.endswith(".lock")} == {path.name, "image.json", "logs"}


def test_the_printed_commands_are_those_that_export(here: Path, images: Call) -> None:
    for form in ("sif", "sqsh"):
        done = images("export", "deepcam", "--format", form, "--engine", "podman", "--dry-run")
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            (here / "images" / f".{SIF if form == 'sif' else SQSH}.work").mkdir(parents=True, exist_ok=True)
            ran = subprocess.run(
                ["/bin/sh", "-c", line], cwd=here, env=command(here), capture_output=True, text=True, timeout=60, check=False
            )
            assert ran.returncode == 0, f"{line}: {ran.stderr}"


def test_files_of_one_folder_share_its_record_and_are_not_made_twice(here: Path, images: Call) -> None:
    assert images("export", "deepcam", "--engine", "podman", "--format", "sif").returncode == 0
    assert images("export", "deepcam", "--engine", "enroot").returncode == 0
    assert set(json.loads((here / "images/image.json").read_text())["images"]) == {SIF, SQSH}
    before = (here / "images" / SIF).stat().st_mtime_ns, len(standins.calls(here / "state"))
    done = images("export", "deepcam", "--engine", "podman", "--format", "sif")
    assert "is there already, from the same image" in done.stderr
    more = standins.calls(here / "state")[before[1] :]
    assert [words[1] for words in more if words[1] not in ("image",)] == []
    assert (here / "images" / SIF).stat().st_mtime_ns == before[0]


def test_a_file_from_another_image_is_replaced_only_by_force(here: Path, images: Call) -> None:
    assert images("export", "deepcam", "--engine", "podman", "--format", "sif").returncode == 0
    identity = standins.put_image(here / "state", NAME, "two")
    done = images("export", "deepcam", "--engine", "podman", "--format", "sif")
    assert done.returncode == 2
    assert "is there and came from another image" in done.stderr
    assert images("export", "deepcam", "--engine", "podman", "--format", "sif", "--force").returncode == 0
    assert record(here, SIF)["image_id"] == identity
    assert '"two"' in (here / "images" / SIF).read_text()


def test_a_file_without_a_record_is_not_written_over(here: Path, images: Call) -> None:
    (here / "images").mkdir()
    (here / "images" / SIF).write_text("mine")
    done = images("export", "deepcam", "--format", "sif")
    assert (done.returncode, (here / "images" / SIF).read_text()) == (2, "mine")
    assert "has no record in image.json; give another --output, or --force" in done.stderr


def test_a_file_that_was_cut_is_written_again(here: Path, images: Call) -> None:
    assert images("export", "deepcam", "--format", "sqsh").returncode == 0
    whole = (here / "images" / SQSH).read_bytes()
    (here / "images" / SQSH).write_bytes(whole[:9])
    assert images("export", "deepcam", "--format", "sqsh", "--force").returncode == 0
    assert (here / "images" / SQSH).read_bytes() == whole


def test_the_compression_is_apptainers(here: Path, images: Call) -> None:
    assert images("export", "deepcam", "--format", "sif", "--compression", "zstd").returncode == 0
    (call,) = [words for words in standins.calls(here / "state", "apptainer") if words[1] == "build"]
    assert call[2:5] == ["--disable-cache", "--mksquashfs-args", "-comp zstd -Xcompression-level 3"]


def test_after_a_failure_the_saved_archive_is_used_again(here: Path, images: Call) -> None:
    done = images("export", "deepcam", "--engine", "podman", "--format", "sif", FAIL="apptainer build")
    assert done.returncode == 1
    assert "this command ended with exit code 125: apptainer build" in done.stderr
    assert "then it did not: no space left" in done.stderr
    assert not (here / "images" / SIF).exists()
    done = images("export", "deepcam", "--engine", "podman", "--format", "sif")
    assert done.returncode == 0, done.stderr
    assert "goes on with" in done.stderr
    assert len([words for words in standins.calls(here / "state") if words[1] == "save"]) == 1
    assert not (here / "images" / f".{SIF}.work").exists()


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_killed_export_is_finished_by_the_same_command(here: Path, images: Call, engine: str) -> None:
    words = [sys.executable, "-m", "stormbench", "images", "export", "deepcam", "--engine", engine, "--format", "sif"]
    process = subprocess.Popen(words, env=command(here, SLOW="30"), cwd=here, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (here / "state/slow").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    os.kill(int((here / "state/slow").read_text()), signal.SIGKILL)
    assert not (here / "images" / SIF).exists()
    done = images(*words[4:])
    assert done.returncode == 0, done.stderr
    assert record(here, SIF)["size_bytes"] == (here / "images" / SIF).stat().st_size
    assert not (here / "images" / f".{SIF}.work").exists()


def test_two_at_once_make_one_whole_file(here: Path, images: Call) -> None:
    words = [sys.executable, "-m", "stormbench", "images", "export", "deepcam", "--engine", "podman", "--format", "sif"]
    both = [subprocess.Popen(words, env=command(here, SLOW="0.5"), cwd=here, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum("is there already" in text for text in told) == 1
    assert record(here, SIF)["sha256"] == "sha256:" + hashlib.sha256((here / "images" / SIF).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--engine", "enroot", "--format", "sif"], "--engine enroot: writes .sqsh, --format sif is written by apptainer"),
        (["--engine", "buildah", "--format", "sqsh"], "--engine buildah: enroot imports from docker or podman alone"),
        (["--output", "x.img", "--format", "sif"], "--output x.img: must end in .sif"),
        (["--format", "sqsh", "--compression", "zstd"], "--compression: is of .sif files"),
        (["--format", "tar"], "--format tar: must be one of sif, sqsh"),
        (["--tag", "stormbench-deepcam:other"], "stormbench-deepcam:other: docker has no such image; build it first"),
    ],
)
def test_a_mistake_is_one_sentence(here: Path, images: Call, words: list[str], sentence: str) -> None:
    done = images("export", "deepcam", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_writer_the_reason_is_told(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "podman")
    assert "neither apptainer, which writes .sif, nor enroot" in images("export", "deepcam").stderr
    done = images("export", "deepcam", "--format", "sqsh")
    assert (done.returncode, "--format sqsh: enroot, which writes it, isn't usable here (not on PATH)" in done.stderr) == (2, True)


def test_enroot_is_not_given_another_machines_image(here: Path, images: Call) -> None:
    standins.put_image(here / "state", NAME, architecture="s390x")
    done = images("export", "deepcam", "--format", "sqsh")
    assert done.returncode == 2
    assert "is for s390x, this machine is" in done.stderr


def test_a_damaged_record_is_told(here: Path, images: Call) -> None:
    (here / "images").mkdir()
    (here / "images/image.json").write_text("{")
    (here / "images" / SIF).write_text("x")
    done = images("export", "deepcam", "--format", "sif")
    assert done.returncode == 1
    assert "images/image.json: is damaged" in done.stderr


def test_an_image_is_tried_with_two_ranks_and_nothing_but_two_folders_to_write(here: Path, images: Call) -> None:
    done = images("test", "deepcam", "--engine", "podman", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [step["step"] for step in told["steps"]] == ["health check", "make data", "train with 2 ranks"]
    assert told["run"]["world_size"] == 2
    for call in [words for words in standins.calls(here / "state") if words[1] == "run"]:
        assert {"--rm", "--read-only"} <= set(call)
        assert call[call.index("--network") + 1] == "none"
        folder = Path(call[call.index("--volume") + 1].partition(":")[0]).parent
        assert not folder.exists()


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"OUTCOME": "failed"}, "the training ended as failed"),
    ({"WORLD": "1"}, "the training ran on 1 rank(s), not on 2"),
    ({"FAIL": "docker run"}, "health check: this command ended with exit code 125: docker run"),
])  # fmt: skip
def test_an_image_that_breaks_its_promise_fails(here: Path, images: Call, variables: dict[str, str], sentence: str) -> None:
    done = images("test", "deepcam", **variables)
    assert done.returncode == 1
    assert sentence in done.stderr


@pytest.mark.parametrize("form", ["sif", "sqsh"])
def test_an_exported_file_is_tried_by_what_runs_it(here: Path, images: Call, form: str) -> None:
    assert images("export", "deepcam", "--format", form).returncode == 0
    done = images("test", "deepcam", "--file", here / "images" / (SIF if form == "sif" else SQSH))
    assert done.returncode == 0, done.stderr
    used = [words[1] for words in standins.calls(here / "state", "apptainer" if form == "sif" else "enroot")]
    # the export's own comes first; enroot's container is removed at the end
    assert used[-3:] == ["exec"] * 3 if form == "sif" else used[-5:] == ["create", "start", "start", "start", "remove"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--file", "x.tar"], "--file x.tar: must be a .sif or .sqsh file"),
        (["--file", "x.sif"], "--file x.sif: no such file; write it with stormbench images export"),
        (["--file", "x.sif", "--engine", "docker"], "--file x.sif: is run by apptainer, --engine docker can't"),
        (["--engine", "apptainer"], "--engine apptainer: runs files; export the image and give it with --file"),
        (["--engine", "buildah"], "--engine buildah: buildah starts no containers of a finished image"),
        (["--device"], "--device: deepcam-cpu is for CPUs"),
    ],
)
def test_a_mistake_in_a_trial_is_one_sentence(here: Path, images: Call, words: list[str], sentence: str) -> None:
    done = images("test", "deepcam", *words)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_gpu_image_gets_the_devices_only_when_asked(images: Call) -> None:
    for engine, words in (("docker", "--gpus all"), ("podman", "--device nvidia.com/gpu=all")):
        base = ["test", "deepcam", "--variant", "cuda", "--engine", engine, "--dry-run"]
        assert words not in images(*base).stdout
        assert words in images(*base, "--device").stdout
    assert "--device /dev/kfd" in images("test", "deepcam", "--variant", "rocm", "--engine", "docker", "--dry-run", "--device").stdout
    assert " --nv " in images("test", "deepcam", "--variant", "cuda", "--file", "x.sif", "--dry-run", "--device").stdout
