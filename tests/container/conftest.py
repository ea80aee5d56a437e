"""The images of the container tests, built once by the command that a site would type, with secrets that must leave no trace."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stormbench.job.images.recipe import read_toml
from tests.container import engine
from tests.container.engine import CACHE, ROOT, run

MARK = "trace-of-the-site-3f1c"
"""Stands in every secret; no layer may have it."""
WORKLOADS = ("deepcam", "cloudmask")
Build = Callable[[str], str]


@pytest.fixture(scope="session")
def tools() -> None:
    """Container tools. Without them the tests are skipped, but never where CI vouches for a machine that could have them."""
    why, installable = engine.why_impossible()
    if why and installable and os.environ.get("CI"):
        pytest.fail(f"CI is set, so these tests must run: {why}")
    if why:
        pytest.skip(why)


@pytest.fixture(scope="session")
def promises() -> dict[str, Any]:
    """What images.toml promises, by image and variant."""
    return read_toml(ROOT / "docker" / "images.toml")


@pytest.fixture(scope="session")
def secrets(tools: None, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a site: an index that is closed, certificates, a package mirror and a proxy's exceptions."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "pip.conf").write_text(f"# {MARK}\n[global]\nno-index = true\n")
    (folder / "proxy").write_text(f"no_proxy=localhost,{MARK}.example\n")
    mirror = engine.debian_mirror()
    (folder / "sources.list").write_text(f"# {MARK}\ndeb {mirror} bookworm main\n")
    words = ["--pip_conf", folder / "pip.conf", "--proxy", folder / "proxy", "--apt_mirror", folder / "sources.list"]
    trusted = engine.certificates()
    if trusted:
        (folder / "ca.pem").write_text(f"# {MARK}\n{trusted.read_text()}")
        words += ["--ca", folder / "ca.pem"]
    return [str(word) for word in words]


@pytest.fixture(scope="session")
def build(tools: None, secrets: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Return a function that builds an image in its CPU variant, once in a session, and returns its name."""
    done: dict[str, str] = {}
    folder = tmp_path_factory.mktemp("builds")

    def build_once(image: str) -> str:
        if image not in done:
            wheels = engine.wheelhouse(f"{image}-cpu")
            if image == "cloudmask":
                wheels = with_horovod(wheels)
            tag = f"stormbench-{image}:tests"
            words = [sys.executable, "-m", "stormbench", "images", "build", image, "--variant", "cpu", "--engine", "buildah", "--tag", tag]
            words += ["--base", engine.base_image(), "--network", "host", "--wheelhouse", str(wheels), "--folder", str(folder), *secrets]
            told = json.loads(run(*words, "--json", "--kit", ROOT).stdout)
            print(f"{tag}: built in {told['seconds']} s")
            # other tests on this machine may build meanwhile
            done[image] = f"localhost/{tag}-{os.getpid()}"
            run("podman", "tag", told["id"].removeprefix("sha256:"), done[image])
        return done[image]

    yield build_once
    for name in done.values():
        # with one name alone it would take them all
        run("podman", "untag", name, name, check=False)
    engine.forget_old_layers()


def with_horovod(wheels: Path) -> Path:
    """Return the folder with Horovod's wheel in it, where this machine has built one for the image's Python and MPI."""
    built = sorted((CACHE / "wheels").glob(f"horovod-*-cp{engine.PYTHON.replace('.', '')}_linux_x86_64-Open-MPI-4.1.4-cpu/horovod-*.whl"))
    for wheel in built:
        if not (wheels / wheel.name).exists():
            shutil.copy(wheel, wheels)
    return wheels


@pytest.fixture(scope="session", params=WORKLOADS)
def workload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def image(workload: str, build: Build) -> str:
    return build(workload)


@pytest.fixture(scope="session")
def pack(build: Build, apptainer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives an image as a SIF by apptainer's recipe, from the OCI image; under a path with blanks."""
    done: dict[str, Path] = {}

    def pack_once(workload: str) -> Path:
        if workload not in done:
            done[workload] = packed(workload, build(workload), apptainer, tmp_path_factory.mktemp("a folder with blanks"))
        return done[workload]

    return pack_once


@pytest.fixture(scope="session")
def sif(workload: str, pack: Callable[[str], Path]) -> Path:
    return pack(workload)


def packed(workload: str, image: str, apptainer: Path, folder: Path) -> Path:
    """Return a link in the folder to the SIF of an image, which is made only if the cache lacks it."""
    identity = run("podman", "image", "inspect", "--format", "{{.Id}}", image).stdout.strip()
    recipe = ROOT / "apptainer" / f"{workload}.def"
    mark = hashlib.sha256(f"{identity}{recipe.read_text()}".encode()).hexdigest()[:16]
    kept = CACHE / "sif" / f"{workload}-{mark}.sif"
    if not kept.exists():
        for older in kept.parent.glob(f"{workload}-*.sif"):
            older.unlink()
        kept.parent.mkdir(parents=True, exist_ok=True)
        archive, partial = folder / "image.tar", kept.with_suffix(f".{os.getpid()}.partial")
        run("podman", "save", "--quiet", "--format", "docker-archive", "--output", archive, image)
        build_sif(apptainer, workload, "docker-archive", archive, partial)
        archive.unlink()
        partial.rename(kept)
    link = folder / f"{workload} image.sif"
    os.link(kept, link) if kept.stat().st_dev == folder.stat().st_dev else shutil.copy(kept, link)
    return link


def build_sif(apptainer: Path, workload: str, bootstrap: str, base: Path, target: Path, *options: str) -> str:
    """Build apptainer's recipe, with little compression, as tests read an image once; return what was printed."""
    words = [apptainer, "build", "--force", "--mksquashfs-args", "-comp zstd -Xcompression-level 1"]
    words += ["--build-arg", f"BOOTSTRAP={bootstrap}", "--build-arg", f"BASE={base}", *options, target, f"apptainer/{workload}.def"]
    done = engine.run_as_whole_root(words, ROOT)
    return done.stdout + done.stderr
