"""The recipes as files: what is wrong in them without building anything, and that Dockerfiles, SIF recipes and images.toml agree."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stormbench.job.images.recipe import read_toml
from tests.container import train_recipe

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RECIPES = sorted(DOCKER.glob("*Dockerfile*"))
DEFINITIONS = sorted((ROOT / "apptainer").glob("*.def"))
STEPS = sorted(path for path in (DOCKER / "steps").iterdir() if path.suffix == ".sh" or path.name == "entry")
IMAGES: dict[str, dict[str, dict[str, Any]]] = read_toml(DOCKER / "images.toml")
VARIANTS = [(image, variant) for image, found in IMAGES.items() for variant in found]
LABELS = {"title", "description", "version", "revision", "source", "licenses", "base.name", "base.digest"}
# an engine sets it for the image's user, apptainer leaves the host's
ALLOWED = r"type=secret,id=(proxy|ca|apt|pipconf)|type=bind,from=(wheelhouse|toolkit),source=/,target=/\w+"
"""What a step may mount."""
NOT_IN_SIF = {"HOME", "USER"}


def instructions(recipe: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions with their words, continued lines joined and comments left out."""
    lines = [line for line in recipe.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined.splitlines()]


def words_of(recipe: Path, name: str) -> list[str]:
    return [words for found, words in instructions(recipe) if found == name]


def pairs(recipe: Path, name: str) -> dict[str, str]:
    """Return NAME=VALUE words of all instructions of a kind."""
    return dict(word.split("=", 1) for words in words_of(recipe, name) for word in shlex.split(words))


def section(definition: Path, name: str) -> list[str]:
    """Return the lines of one section of a SIF recipe."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", definition.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{definition}: no %{name}"
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def linter(name: str) -> str:
    program = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None and os.environ.get("CI"):
        pytest.fail(f"CI is set, so this test must run: pip install {name}-bin")
    if program is None:
        pytest.skip(f"needs {name}, which pip installs as {name}-bin")
    return program


def test_there_is_a_recipe_of_both_kinds_for_each_image() -> None:
    assert {path.name for path in RECIPES} == {"Dockerfile.train", *(f"{image}.Dockerfile" for image in IMAGES)}
    assert {path.stem for path in DEFINITIONS} == set(IMAGES)
    assert {image: set(found) for image, found in IMAGES.items()} == {
        "deepcam": {"cpu", "mpich", "cuda", "cuda-pypi", "rocm"}, "cloudmask": {"cpu", "mpich", "cuda"},
    }  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_hadolint_has_no_complaint(recipe: Path) -> None:
    done = subprocess.run([linter("hadolint"), "--failure-threshold", "ignore", str(recipe)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_shellcheck_has_no_complaint_of_the_steps() -> None:
    words = [linter("shellcheck"), "-x", *(str(path.relative_to(ROOT)) for path in STEPS)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_bases_have_tags_and_no_image_is_named_without(recipe: Path) -> None:
    arguments = pairs_of_args(recipe)
    stages: set[str] = set()
    for words in words_of(recipe, "FROM"):
        image, *rest = words.split()
        name = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], image)
        assert name == "scratch" or name in stages or re.search(r":[\w.-]+$", name), f"FROM {words}: no tag"
        assert not name.endswith(":latest")
        stages |= {rest[1]} if rest else set()
    assert "latest" not in recipe.read_text()
    assert not [words for words in words_of(recipe, "COPY") if re.search(r"--from=(?!kit\b|horovod\b)", words)]


def pairs_of_args(recipe: Path) -> dict[str, str]:
    """Return build arguments with their first defaults."""
    found: dict[str, str] = {}
    for words in words_of(recipe, "ARG"):
        name, _, value = words.partition("=")
        found.setdefault(name, value)
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_user_labels_health_entry_and_arguments(recipe: Path) -> None:
    *_, last = words_of(recipe, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last)
    assert {name.removeprefix("org.opencontainers.image.") for name in pairs(recipe, "LABEL")} == LABELS
    assert words_of(recipe, "ENTRYPOINT") == ['["/opt/stormbench/entry"]']
    assert "/opt/stormbench/health.py" in words_of(recipe, "HEALTHCHECK")[0]
    assert {"BASE", "VARIANT", "DEVICES", "VERSION", "REVISION", "SOURCE", "BASE_NAME", "BASE_DIGEST"} <= set(pairs_of_args(recipe))
    assert pairs(recipe, "ENV")["PYTHONNOUSERSITE"] == "1"
    # one place defines the default base
    image = "deepcam" if recipe.name == "Dockerfile.train" else recipe.stem
    variant = pairs_of_args(recipe)["VARIANT"]
    assert variant == ("cuda" if recipe.name == "Dockerfile.train" else "cpu")
    assert pairs_of_args(recipe)["BASE"] == pairs_of_args(recipe)["BASE_NAME"] == IMAGES[image][variant]["base"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_label_can_not_be_that_of_an_older_build(recipe: Path) -> None:
    # buildah finds a LABEL in its cache by the text of the recipe; a value that the kit's files hold changes what comes before it
    asked = {name for words in words_of(recipe, "LABEL") for name in re.findall(r"\$\{(\w+)\}", words)}
    _, _, kit = recipe.read_text().partition("FROM packages AS kit\n")
    stage = kit.split("\nFROM ")[0]
    assert asked - {"VARIANT"} >= {"REVISION", "BASE_DIGEST"}
    assert asked <= set(re.findall(r"^ARG (\w+)=", stage, re.MULTILINE))
    written = (DOCKER / "steps" / "kit.sh").read_text()
    assert [name for name in asked - {"VARIANT"} if f"${{{name}:-" not in written] == []


@pytest.mark.parametrize(("image", "variant"), VARIANTS)
def test_everything_that_is_copied_is_there_and_reaches_the_build(image: str, variant: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for words in words_of(ROOT / IMAGES[image][variant]["recipe"], "COPY"):
        if words.startswith("--from="):
            continue
        *sources, _ = words.replace("${VARIANT}", variant).split()
        for source in sources:
            assert (ROOT / source).exists(), f"COPY {words}: {source} is absent"
            assert source == "." or f"!{source.split('/')[0]}" in ignore


def test_the_context_of_a_build_is_small_and_holds_no_data() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    denied = [rule for rule in rules[1:] if not rule.startswith("!")]
    files = [path for name in allowed for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    patterns = [f"*{rule.removeprefix('**')}*" for rule in denied]
    sent = [path for path in files if not any(fnmatch.fnmatch(f"/{path.relative_to(ROOT)}", pattern) for pattern in patterns)]
    assert 100 < len(sent) < 1000
    assert sum(path.stat().st_size for path in sent) < 10e6


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_what_a_site_adds_reaches_only_the_steps_that_use_it(recipe: Path) -> None:
    runs = words_of(recipe, "RUN")
    for words in runs:
        mounts = re.findall(r"--mount=(\S+)", words)
        assert all(re.fullmatch(ALLOWED, mount) for mount in mounts), words
        assert re.search(r"bash /(opt/stormbench|source/docker)/steps/\w+\.sh", words), words
    assert not [name for name in {**pairs_of_args(recipe), **pairs(recipe, "ENV")} if re.search(r"(?i)proxy|pip_|cert|index", name)]
    # an install outside of the steps would not know the site
    assert not re.search(r"\b(pip|apt-get|curl|wget)\b", " ".join(runs))


def test_the_recipe_of_the_request_is_deepcams_own_on_nvidias_image() -> None:
    assert train_recipe.TARGET.read_text() == train_recipe.expected(), "renew it: python -m tests.container.train_recipe"
    assert pairs_of_args(train_recipe.TARGET)["DEVICES"] == "all"


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda path: path.name)
def test_a_sif_recipe_says_what_the_dockerfile_says(definition: Path) -> None:
    recipe = DOCKER / f"{definition.stem}.Dockerfile"
    own = dict(line.split("=", 1) for line in section(definition, "arguments"))
    assert own == {"BOOTSTRAP": "docker", **pairs_of_args(recipe)}
    text = definition.read_text()
    assert all(f"{{{{ {name} }}}}" in text for name in own), "apptainer refuses build arguments that nothing uses"
    filled = re.sub(r"\{\{ (\w+) \}\}", r"the-\1", "\n".join(section(definition, "environment")))
    told = subprocess.run(["/bin/sh", "-c", f"{filled}\nenv -0"], capture_output=True, text=True, env={"PATH": "/bin"}, check=True).stdout
    exported = dict(entry.split("=", 1) for entry in told.split("\0") if "=" in entry)
    for name, value in pairs(recipe, "ENV").items():
        if name not in NOT_IN_SIF:
            wanted = re.sub(r"\$\{(VARIANT|DEVICES|REVISION)\}", r"the-\1", value).replace("${PATH}", "/bin")
            # scratch is there to write only where it is mounted
            assert exported.get(name) in (wanted, wanted.replace("/scratch/", "/tmp/")), name
    labels = dict(line.split(" ", 1) for line in section(definition, "labels"))
    labels |= dict(re.findall(r'^"(org\.\S+) (.*)"', "\n".join(section(definition, "post")), re.MULTILINE))
    expected = {name: re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", value) for name, value in pairs(recipe, "LABEL").items()}
    assert labels == expected
    for line in section(definition, "files"):
        assert (ROOT / line.split()[0]).exists()
    sent = {line.split()[0] for line in section(definition, "files")}
    assert sent == {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert section(definition, "runscript") == ['exec /opt/stormbench/entry "$@"']
    assert "/opt/stormbench/health.py" in section(definition, "test")[0]


@pytest.mark.parametrize(("image", "variant"), VARIANTS)
def test_requirements_are_those_of_the_package(image: str, variant: str) -> None:
    project = read_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras[image], *extras["report"], *extras["mpi"]]
    wanted += extras["cloudmask-data"] if image == "cloudmask" else []
    # what only older Pythons lack
    wanted = [line for line in wanted if "python_version <" not in line]
    names = {re.split(r"[\[<>=;! ]", line)[0] for line in wanted} - {"stormbench", "tensorflow", "tensorflow-cpu"}
    lines = [line for line in (ROOT / IMAGES[image][variant]["requirements"]).read_text().splitlines() if line and not line.startswith("#")]
    found = {re.split(r"[\[<>=;! ]", line)[0] for line in lines}
    base = {"torch", "numpy"} if variant in ("cuda", "rocm") and image == "deepcam" else set()
    assert names - base <= found, "an image lacks what the package asks for"
    assert ("tensorflow-cpu" in found) == (image == "cloudmask" and variant != "cuda")
    assert ("mpich" in found) == (IMAGES[image][variant]["mpi"] == "mpich")
    assert "apex" not in found, "PyPI's apex is another program"


def test_apex_is_never_taken_from_an_index() -> None:
    files = [*DOCKER.glob("requirements/*.txt"), *DOCKER.glob("constraints/*.txt"), *STEPS]
    for path in files:
        assert not re.search(r"^\s*apex\b|install.*\bapex\b", path.read_text(), re.MULTILINE), path


def test_numbers_of_the_workspace_are_executable() -> None:
    for name in ("run.sub", "run_and_time.sh", "init_datasets.sub", "docker/steps/entry", "docker/horovod-wheel.sh"):
        assert os.access(ROOT / name, os.X_OK), name
