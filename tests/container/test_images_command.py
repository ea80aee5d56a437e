"""`stormbench images test` and `export` with the real podman, buildah and apptainer, on the image that `images build` has made."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import Build
from tests.container.engine import base_image, run

SMALL = f"localhost/stormbench-small:tests-{os.getpid()}"
"""Other tests on this machine may make theirs meanwhile."""
MANIFEST = "image deepcam-cpu\nsystem libc6 2.36-9\npython torch 2.13.0+cpu\n"
STORMBENCH = (sys.executable, "-m", "stormbench", "images")


@pytest.fixture(scope="module")
def built(build: Build) -> str:
    return build("deepcam")


@pytest.fixture(scope="module")
def small(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of the base with no more than a manifest: what an export does is the same, and takes seconds."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "manifest.txt").write_text(MANIFEST)
    (folder / "Dockerfile").write_text(
        f"FROM {base_image()}\nCOPY manifest.txt /opt/stormbench/manifest.txt\nLABEL org.stormbench.mpi=openmpi\n"
    )
    run("buildah", "build", "--format", "docker", "--tag", SMALL, folder)
    yield SMALL
    run("podman", "rmi", SMALL, check=False)


@pytest.fixture(scope="module", params=["podman", "buildah"])
def exported(request: pytest.FixtureRequest, small: str, apptainer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The engine, and the file that was written from its store under a path with blanks."""
    target = tmp_path_factory.mktemp("some exports") / "deep cam.sif"
    words = ("export", "deepcam", "--tag", small, "--engine", request.param, "--format", "sif", "--compression", "zstd", "--output", target)
    told = json.loads(run(*STORMBENCH, *words, "--folder", target.parent, "--json").stdout)
    assert Path(told["file"]) == target
    return str(request.param), target


def test_two_ranks_train_in_the_image(built: str, tmp_path: Path) -> None:
    told = json.loads(run(*STORMBENCH, "test", "deepcam", "--tag", built, "--engine", "podman", "--folder", tmp_path, "--json").stdout)
    assert told["run"]["world_size"] == 2
    assert told["run"]["versions"]["torch"].endswith("+cpu")


def test_two_ranks_train_in_the_file(pack: Callable[[str], Path], tmp_path: Path) -> None:
    told = json.loads(run(*STORMBENCH, "test", "cloudmask", "--file", pack("cloudmask"), "--folder", tmp_path, "--json").stdout)
    assert (told["engine"], told["run"]["world_size"]) == ("apptainer", 2)


def test_the_record_says_what_is_in_the_file(small: str, exported: tuple[str, Path]) -> None:
    _, path = exported
    found: dict[str, Any] = json.loads(path.with_name("image.json").read_text())["images"][path.name]
    assert found["sha256"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["image_id"].removeprefix("sha256:") == run("podman", "image", "inspect", "--format", "{{.Id}}", small).stdout.strip()
    assert found["packages"] == {"system": {"libc6": "2.36-9"}, "python": {"torch": "2.13.0+cpu"}}
    assert found["labels"]["org.stormbench.mpi"] == "openmpi"
    assert found["architecture"] == os.uname().machine


def test_the_file_is_one_that_apptainer_runs(exported: tuple[str, Path], apptainer: Path) -> None:
    assert run(apptainer, "exec", "--containall", exported[1], "cat", "/opt/stormbench/manifest.txt").stdout == MANIFEST


def test_a_second_export_has_nothing_to_do(small: str, exported: tuple[str, Path]) -> None:
    engine, path = exported
    before = path.stat().st_mtime_ns
    done = run(
        *STORMBENCH, "export", "deepcam", "--tag", small, "--engine", engine, "--format", "sif", "--output", path, "--folder", path.parent
    )
    assert "is there already, from the same image" in done.stderr
    assert path.stat().st_mtime_ns == before
