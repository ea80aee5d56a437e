"""`stormbench images test` and `export` with the real podman, buildah and apptainer, on the image that `images build` has made."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import Build
from tests.container.engine import podman_run, run

STORMBENCH = (sys.executable, "-m", "stormbench", "images")


@pytest.fixture(scope="module")
def built(build: Build) -> str:
    return build("deepcam")


@pytest.fixture(scope="module")
def exported(built: str, apptainer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as a file, written from buildah's store under a path with blanks."""
    target = tmp_path_factory.mktemp("some exports") / "deep cam.sif"
    words = ("export", "deepcam", "--tag", built, "--engine", "buildah", "--format", "sif", "--compression", "zstd", "--output", target)
    told = json.loads(run(*STORMBENCH, *words, "--folder", target.parent, "--json").stdout)
    assert Path(told["file"]) == target
    return target


def test_two_ranks_train_in_the_image(built: str, tmp_path: Path) -> None:
    told = json.loads(run(*STORMBENCH, "test", "deepcam", "--tag", built, "--engine", "podman", "--folder", tmp_path, "--json").stdout)
    assert told["run"]["world_size"] == 2
    assert told["run"]["versions"]["torch"].endswith("+cpu")


def test_the_record_says_what_is_in_the_file(built: str, exported: Path) -> None:
    found: dict[str, Any] = json.loads(exported.with_name("image.json").read_text())["images"][exported.name]
    assert found["sha256"] == "sha256:" + hashlib.sha256(exported.read_bytes()).hexdigest()
    assert found["image_id"].removeprefix("sha256:") == run("podman", "image", "inspect", "--format", "{{.Id}}", built).stdout.strip()
    lines = podman_run(built, "sh", "-c", "cat /opt/stormbench/manifest.txt").stdout.splitlines()
    listed = {kind: dict(line.split()[1:3] for line in lines if line.startswith(f"{kind} ")) for kind in ("system", "python")}
    assert found["packages"] == listed
    assert "torch" in listed["python"]
    assert (found["variant"], found["mpi"]) == ("cpu", "openmpi")


def test_two_ranks_train_in_the_file(exported: Path, tmp_path: Path) -> None:
    told = json.loads(run(*STORMBENCH, "test", "deepcam", "--file", exported, "--folder", tmp_path, "--json").stdout)
    assert (told["engine"], told["run"]["world_size"]) == ("apptainer", 2)


def test_a_second_export_has_nothing_to_do(built: str, exported: Path) -> None:
    before = exported.stat().st_mtime_ns
    words = ("export", "deepcam", "--tag", built, "--engine", "buildah", "--format", "sif", "--output", exported)
    done = run(*STORMBENCH, *words, "--folder", exported.parent)
    assert "is there already, from the same image" in done.stderr
    assert exported.stat().st_mtime_ns == before
