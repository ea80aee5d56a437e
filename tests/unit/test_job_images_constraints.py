"""Each image's constraints: complete, exact, without GPU packages in CPU images, in step with pyproject.toml, and renewed by real pip."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from stormbench.core.errors import UserError
from stormbench.job.images import constraints, recipe
from tests.kits import Call, kit_with

ROOT = Path(__file__).parents[2]
IMAGES = recipe.read_images(ROOT)
EXTRAS = {"deepcam": ("deepcam", "report", "mpi"), "cloudmask": ("cloudmask-data", "cloudmask", "report", "mpi")}
PROJECT = recipe.read_toml(ROOT / "pyproject.toml")["project"]
SAME = {"tensorflow": "tensorflow-cpu"}
"""Packages of which one stands for the other, by platform."""


def wanted(image: recipe.Image) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS[image.name] for text in PROJECT["optional-dependencies"][extra])]
    found = [Requirement(text) for text in texts]
    environment = {"python_version": image.python, "sys_platform": "linux", "platform_machine": image.architectures[0]}
    return [item for item in found if item.name != "stormbench" and (item.marker is None or item.marker.evaluate(environment))]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.key)
def test_the_shipped_constraints_are_right(image: recipe.Image) -> None:
    assert constraints.wrong(ROOT, image) == []


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.key)
def test_what_pyproject_asks_for_is_required_and_pinned_within_its_bounds(image: recipe.Image) -> None:
    names = constraints.required(ROOT / image.requirements)
    pins = constraints.read(ROOT / image.constraints)
    given = constraints.of_base(ROOT / image.constraints)
    for item in wanted(image):
        name = constraints.canonical(item.name)
        own = next((each for each in (name, SAME.get(name), *(key for key, value in SAME.items() if value == name)) if each in names), None)
        if own is None or own in given:
            # a vendor's image brings torch and numpy in versions of its own
            assert image.base.startswith(("nvcr.io/", "docker.io/rocm/")), f"{item} is missing in {image.requirements}"
            continue
        version = pins[own].partition(",")[0].removeprefix("==")
        assert item.specifier.contains(version, prereleases=True), f"{item}: {version} in {image.constraints}"


@pytest.mark.parametrize("image", [image for image in IMAGES if image.accelerator == "none"], ids=lambda image: image.key)
def test_cpu_images_have_the_versions_that_the_tests_use(image: recipe.Image) -> None:
    pins = constraints.read(ROOT / image.constraints)
    for name, version in constraints.read(ROOT / "constraints.txt").items():
        if name in pins:
            assert SpecifierSet(version).contains(pins[name].removeprefix("==")), name


def test_the_cuda_13_set_is_coherent() -> None:
    pins = constraints.read(ROOT / "docker/constraints/deepcam-cuda-pypi.txt")
    # torch-tensorrt 2.13 wants torch 2.13 and TensorRT 11.0; torch and DALI are of one CUDA
    assert pins["torch"].startswith("==2.13.")
    assert pins["torch-tensorrt"].startswith("==2.13.")
    assert {pins[name] for name in pins if name.startswith("tensorrt")} == {"==11.0.0.114"}
    assert "nvidia-dali-cuda130" in pins
    assert not [name for name in pins if name.endswith("-cu12")]
    assert constraints.read(ROOT / "docker/constraints/cloudmask-cuda.txt").keys() & {"nvidia-cudnn-cu12", "nvidia-nccl-cu12"}


def a_kit(tmp_path: Path, text: str, required: str = "alpha\nbeta\n", line: str = "") -> tuple[Path, recipe.Image]:
    kit = kit_with(tmp_path, line)
    (kit / "docker/requirements/x-cpu.txt").write_text(required)
    (kit / "docker/constraints/x-cpu.txt").write_text(text)
    return kit, recipe.read_images(kit)[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("alpha==1\n", "beta of docker/requirements/x-cpu.txt has no version"),
        ("alpha==1\nbeta>=2\n", "x-cpu.txt:2: 'beta>=2' must be NAME==VERSION"),
        ("alpha==1\nbeta==2\nAlpha==1\n", "x-cpu.txt:3: alpha is there twice"),
        ("alpha==1\nbeta==2\nnvidia-nccl-cu12==2\n", "nvidia-nccl-cu12 is for GPUs, and x-cpu for CPUs"),
        ("alpha==1\nbeta==2\ntriton==3\n", "triton is for GPUs"),
        ("alpha==1\nbeta==2\ncuda-toolkit==13\n", "cuda-toolkit is for GPUs"),
        ("alpha==1\nbeta==2\ntorch==2.13.0\n", "torch==2.13.0 is PyPI's build for CUDA; pin the CPU's, torch==2.13.0+cpu"),
        ("# From the base image: beta\nalpha==1\nbeta==2\n", "beta is pinned, and said to come from the base image"),
    ],
)
def test_wrong_constraints_are_told_with_their_place(images: Call, tmp_path: Path, text: str, sentence: str) -> None:
    kit, _ = a_kit(tmp_path, text)
    done = images("constraints", "x", "--kit", kit, "--json")
    assert done.returncode == 1
    assert sentence in json.loads(done.stdout)[0]["told"]


def test_right_constraints_are_right(images: Call, tmp_path: Path) -> None:
    kit, _ = a_kit(tmp_path, "# x\nalpha==1 # why\nbeta==2,!=2+cpu\ntorch==2.13.0+cpu\n")
    assert images("constraints", "x", "--kit", kit).returncode == 0


def test_the_same_package_is_no_gpus_in_an_image_for_gpus(tmp_path: Path) -> None:
    kit, image = a_kit(tmp_path, "alpha==1\nbeta==2\nnvidia-nccl-cu12==2\n", line='cuda = "12.5"')
    assert constraints.wrong(kit, image) == []


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A wheel of one empty module that needs others, as an index serves it."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """pip's settings for an index of these wheels alone."""
    wheel(tmp_path / "index", "alpha", "1.0", "gamma>=1")
    wheel(tmp_path / "index", "alpha", "2.0", "gamma>=1", "delta")
    wheel(tmp_path / "index", "beta", "3.1")
    wheel(tmp_path / "index", "gamma", "1.5")
    wheel(tmp_path / "index", "gamma", "2.5")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_CONFIG_FILE": "/dev/null"}


def test_a_renewal_keeps_what_was_chosen_and_pins_what_it_needs(images: Call, tmp_path: Path, index: dict[str, str]) -> None:
    head = "# Of x.\n# Chosen; a renewal keeps these:\nalpha==1.0 # delta is not for us\n"
    kit, _ = a_kit(tmp_path, head + "\n# Resolved from these:\nbeta==3.0\ngone==1\n")
    done = images("constraints", "x", "--kit", kit, "--write", **index)
    assert done.returncode == 0, done.stdout + done.stderr
    path = kit / "docker/constraints/x-cpu.txt"
    assert path.read_text() == head + "\n# Resolved from these:\nbeta==3.1\ngamma==2.5\n"
    # a second renewal finds nothing to change
    before = path.stat().st_mtime_ns
    assert images("constraints", "x", "--kit", kit, "--write", **index).returncode == 0
    assert path.stat().st_mtime_ns == before


def test_what_pip_does_not_find_is_told_and_the_file_stays(images: Call, tmp_path: Path, index: dict[str, str]) -> None:
    text = "# Chosen; a renewal keeps these:\nalpha==2.0\nbeta==3.1\n"
    kit, _ = a_kit(tmp_path, text)
    done = images("constraints", "x", "--kit", kit, "--write", "--json", **index)
    row = json.loads(done.stdout)[0]
    assert (done.returncode, row["state"]) == (1, "not resolved")
    assert "delta" in row["told"]
    assert (kit / "docker/constraints/x-cpu.txt").read_text() == text


def test_a_package_resolved_alone_is_not_asked_for(images: Call, tmp_path: Path, index: dict[str, str]) -> None:
    text = "# Chosen; a renewal keeps these:\nalpha==2.0 # resolved alone\ngamma==1.5\n"
    kit, _ = a_kit(tmp_path, text)
    assert images("constraints", "x", "--kit", kit, "--write", **index).returncode == 0
    assert (kit / "docker/constraints/x-cpu.txt").read_text() == text + "\n# Resolved from these:\nbeta==3.1\n"


def test_a_file_without_chosen_versions_is_not_renewed(tmp_path: Path) -> None:
    kit, image = a_kit(tmp_path, "alpha==1\nbeta==2\n")
    with pytest.raises(UserError, match="has no line '# Chosen; a renewal keeps these:'"):
        constraints.step(kit, image, tmp_path)


def test_a_dry_run_prints_pips_command(images: Call, tmp_path: Path) -> None:
    done = images("constraints", "deepcam", "--variant", "cuda-pypi", "--dry-run")
    assert done.returncode == 0
    assert " -m pip install --dry-run " in done.stdout
    assert "--python-version 3.11" in done.stdout
    assert done.stdout.split().count("torch") == 1
    assert "torch-tensorrt" not in done.stdout.split()
    assert images("constraints", "--variant", "cpu").returncode == 2
