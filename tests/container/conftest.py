"""The images of the container tests, built once by the command that a site would type, with secrets that must leave no trace."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stormbench.job.images.recipe import read_toml
from tests.cluster.slurm import Cluster
from tests.cluster.slurm import why_impossible as why_no_slurm
from tests.container import engine
from tests.container.engine import CACHE, ROOT, run

QUICK = "-comp zstd -Xcompression-level 1"
"""For mksquashfs: tests read an image once."""
MARK = "trace-of-the-site-3f1c"
"""Stands in every secret; no layer may have it."""
WORKLOADS = ("deepcam", "cloudmask")
VARIANTS = ("cpu", "mpich")
STRANGER = 4242
"""A user that no image knows."""
Build = Callable[..., str]


class Place:
    """The two folders of a run that can be written."""

    def __init__(self, folder: Path) -> None:
        self.results, self.scratch = folder / "results", folder / "scratch"
        for path in (self.results, self.scratch):
            path.mkdir()
            path.chmod(0o777)

    @property
    def options(self) -> list[str]:
        """Read-only root, nothing of it in memory instead, and a user that the image doesn't know."""
        own = ["--read-only", "--read-only-tmpfs=false", "--user", f"{STRANGER}:{STRANGER}", "--env", "OMP_NUM_THREADS=1"]
        return [*own, "--volume", f"{self.results}:/results", "--volume", f"{self.scratch}:/scratch"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


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
    """Return a function that builds an image in one of its variants for CPUs, once in a session, and returns its name."""
    done: dict[str, str] = {}
    folder = tmp_path_factory.mktemp("builds")

    def build_once(image: str, variant: str = "cpu") -> str:
        key = f"{image}-{variant}"
        if key not in done:
            wheels = engine.wheelhouse(key)
            if image == "cloudmask":
                with_horovod(wheels, variant)
            tag = f"stormbench-{image}:tests-{variant}"
            words = [sys.executable, "-m", "stormbench", "images", "build", image, "--variant", variant, "--engine", "buildah"]
            words += ["--tag", tag]
            words += ["--base", engine.base_image(), "--network", "host", "--wheelhouse", str(wheels), "--folder", str(folder), *secrets]
            told = json.loads(run(*words, "--json", "--kit", ROOT).stdout)
            print(f"{tag}: built in {told['seconds']} s")
            # other tests on this machine may build meanwhile
            done[key] = f"localhost/{tag}-{os.getpid()}"
            run("podman", "tag", told["id"].removeprefix("sha256:"), done[key])
        return done[key]

    yield build_once
    for name in done.values():
        # with one name alone it would take them all
        run("podman", "untag", name, name, check=False)
    engine.forget_old_layers()


def with_horovod(wheels: Path, variant: str) -> None:
    """Put Horovod into the wheelhouse: the wheel, where this machine has built one for the image's Python and MPI, else what builds it."""
    if list(wheels.glob("horovod-*")):
        return
    constraints = (ROOT / "docker" / "constraints" / f"cloudmask-{variant}.txt").read_text()
    tensorflow = re.findall(r"^tensorflow-cpu==(\S+)", constraints, re.MULTILINE)[0]
    own = f"horovod-*-tf{tensorflow}-cp{engine.PYTHON.replace('.', '')}_linux_x86_64-Open-MPI-4.1.4-cpu/horovod-*.whl"
    built = list((CACHE / "wheels").glob(own)) if variant == "cpu" else []
    if built:
        shutil.copy(built[0], wheels)
    else:
        run("bash", ROOT / "docker" / "horovod-wheel.sh", "--fetch", wheels, engine.PYTHON)


@pytest.fixture(scope="session", params=WORKLOADS)
def workload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def image(workload: str, build: Build) -> str:
    return build(workload)


@pytest.fixture(scope="session", params=[(workload, variant) for workload in WORKLOADS for variant in VARIANTS], ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Workload and variant of every image for CPUs."""
    return request.param


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


@pytest.fixture(scope="session")
def two_nodes(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of its own, with two nodes."""
    why = why_no_slurm()
    if why and os.environ.get("CI"):
        pytest.fail(f"CI is set, so these tests must run: {why}")
    if why:
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("slurm"), nodes=("c1", "c2"), cpus=2) as running:
        yield running


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
        layers, partial = folder / "layers", kept.with_suffix(f".{os.getpid()}.partial")
        # apptainer compresses the layers of an archive before it unpacks them; these it takes as they are, in a third of the time
        run("podman", "push", "--quiet", "--compression-format", "zstd", image, f"oci:{layers}")
        build_sif(apptainer, workload, "oci", layers, partial)
        shutil.rmtree(layers)
        partial.rename(kept)
    link = folder / f"{workload} image.sif"
    os.link(kept, link) if kept.stat().st_dev == folder.stat().st_dev else shutil.copy(kept, link)
    return link


def build_sif(apptainer: Path, workload: str, bootstrap: str, base: Path, target: Path) -> None:
    """Build apptainer's recipe, with little compression, as tests read an image once."""
    words = [apptainer, "build", "--disable-cache", "--force", "--mksquashfs-args", QUICK]
    words += ["--build-arg", f"BOOTSTRAP={bootstrap}", "--build-arg", f"BASE={base}", target, f"apptainer/{workload}.def"]
    engine.run_as_whole_root(words, ROOT)
