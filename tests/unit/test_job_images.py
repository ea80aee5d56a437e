"""`stormbench images build` and `list`: what is built from, by which engine, with exactly which words; and what a site adds stays out."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stormbench.core.errors import UserError
from stormbench.job.images import build, engines, lock, recipe, registry
from tests import engines as standins
from tests.kits import Call, command, kit_with

ROOT = Path(__file__).parents[2]
IMAGES = recipe.read_images(ROOT)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "torch-2.13.0-py3-none-any.whl").touch()
    return tmp_path / "wheels"


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.key)
def test_every_shipped_image_has_its_files_and_a_base_with_a_tag(image: recipe.Image) -> None:
    for name in (image.recipe, image.requirements, image.constraints):
        assert (ROOT / name).is_file(), name
    assert registry.parts(image.base)[2] not in ("", "latest")
    assert image.tag == f"stormbench-{image.name}:0.1.0-{image.variant}"
    assert (image.driver is not None) == (image.accelerator != "none")
    assert image.mpi in ("openmpi", "hpcx", "mpich")


PAIRS = [(image, "docker") for image in IMAGES]
PAIRS += [(image, engine) for image in IMAGES[1:3] for engine in ("podman", "buildah", "apptainer")]


@pytest.mark.parametrize(("image", "engine"), PAIRS, ids=[f"{image.key}-{engine}" for image, engine in PAIRS])
def test_the_printed_command_is_the_one_that_builds(images: Call, tmp_path: Path, image: recipe.Image, engine: str) -> None:
    done = images("build", image.name, "--variant", image.variant, "--engine", engine, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "state").exists()
    line = done.stdout.splitlines()[1]
    standins.install(tmp_path / "bin")
    (tmp_path / "images").mkdir()
    ran = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, env=command(tmp_path), cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (call,) = standins.calls(tmp_path / "state")
    assert call[0] == engine
    assert f"VARIANT={image.variant}" in call
    assert f"BASE={image.base}" in call
    if engine in ("podman", "buildah"):
        # the OCI format would drop the health check
        assert call[call.index("--format") + 1] == "docker"
    assert ("--force-rm" in call) == (engine == "buildah"), "podman does so by itself"


def test_the_image_with_the_compiler_is_pinned_by_its_digest_too_and_a_site_can_give_its_own(images: Call, tmp_path: Path) -> None:
    kit = kit_with(tmp_path, 'arguments = { TOOLKIT = "nvcr.io/nvidia/cuda:12" }')
    (kit / "docker/x.Dockerfile").touch()
    assert "GET https://nvcr.io/v2/nvidia/cuda/manifests/12\n" in images("lock", "--kit", kit, "--dry-run").stdout
    digest = "sha256:" + "1" * 64
    lock.write_lock(kit, {"docker.io/library/debian:1": "", "nvcr.io/nvidia/cuda:12": digest})
    words = ("build", "x", "--kit", kit, "--engine", "docker", "--dry-run")
    assert f"--build-arg TOOLKIT=nvcr.io/nvidia/cuda:12@{digest} " in images(*words).stdout
    assert "--build-arg TOOLKIT=scratch " in images(*words, "--toolkit", "scratch").stdout
    done = images("build", "deepcam", "--engine", "docker", "--dry-run", "--toolkit", "scratch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--toolkit scratch: nothing of deepcam-cpu is compiled for CUDA" in done.stderr
    done = images("build", "cloudmask", "--variant", "cuda", "--engine", "apptainer", "--dry-run", "--toolkit", "mirror/cuda:12")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--toolkit mirror/cuda:12: apptainer's builds mount no image" in done.stderr


def test_help_and_dry_runs_are_quick_to_ask_for(images: Call) -> None:
    for words in (
        ("--help",),
        ("build", "--help"),
        ("export", "--help"),
        ("test", "--help"),
        ("lock", "--help"),
        ("constraints", "--help"),
    ):
        done = images(*words)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_first_usable_engine_builds(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "podman", "buildah", "apptainer")
    # a docker command line whose service is down, as on many laptops
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    done = images("build", "deepcam", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["engine"], told["tag"], told["size_bytes"]) == ("podman", "stormbench-deepcam:0.1.0-cpu", 10**9)
    assert Path(tmp_path / told["log"]).read_text().startswith("$ podman build --format docker")


def test_docker_without_buildx_is_passed_over(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "buildah")
    (tmp_path / "bin" / "docker").write_text(
        "#!/bin/sh\n[ $1 = version ] && echo 28 && exit\necho unknown command: docker buildx >&2; exit 1\n"
    )
    (tmp_path / "bin" / "docker").chmod(0o755)
    assert json.loads(images("build", "deepcam", "--json").stdout)["engine"] == "buildah"
    done = images("build", "deepcam", "--engine", "docker")
    assert done.returncode == 2
    assert "no buildx" in done.stderr
    assert "use --engine buildah" in done.stderr


def test_what_a_site_gives_reaches_the_build_as_secrets_and_leaves_nothing(images: Call, tmp_path: Path, wheels: Path) -> None:
    standins.install(tmp_path / "bin", "podman")
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://user:word@pypi.example.org/simple\n")
    (tmp_path / "site.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    (tmp_path / "temporary").mkdir()
    files = ["--pip_conf", tmp_path / "pip.conf", "--ca", tmp_path / "site.pem", "--wheelhouse", wheels]
    own = {"HTTPS_PROXY": "http://me:secret@proxy.example.org:3128", "no_proxy": "localhost", "TMPDIR": str(tmp_path / "temporary")}
    done = images("build", "deepcam", *files, "--apt-mirror", "https://mirror.example.org/debian/", **own)
    assert done.returncode == 0, done.stderr
    secrets = json.loads((tmp_path / "state/secrets.json").read_text())
    assert secrets["proxy"] == "https_proxy=http://me:secret@proxy.example.org:3128\nno_proxy=localhost\n"
    assert secrets["apt"] == "deb https://mirror.example.org/debian bookworm main\n"
    assert "user:word" in secrets["pipconf"]
    assert "BEGIN CERTIFICATE" in secrets["ca"]
    (call,) = [words for words in standins.calls(tmp_path / "state") if words[1] == "build"]
    assert f"wheelhouse={wheels}" in call
    everything = " ".join(call) + done.stdout + done.stderr + "".join(path.read_text() for path in (tmp_path / "images/logs").iterdir())
    for word in ("secret@", "user:word", "mirror.example.org", "MIIB"):
        assert word not in everything
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_proxy_of_the_environment_can_be_left_out(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "podman")
    assert images("build", "deepcam", "--proxy", "none", https_proxy="http://proxy.example.org:3128").returncode == 0
    assert json.loads((tmp_path / "state/secrets.json").read_text()) == {}


def test_the_mirror_of_an_image_on_ubuntu_is_ubuntus(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "docker")
    assert images("build", "deepcam", "--variant", "cuda", "--apt_mirror", "http://mirror.example.org/ubuntu").returncode == 0
    assert json.loads((tmp_path / "state/secrets.json").read_text())["apt"] == "deb http://mirror.example.org/ubuntu noble main universe\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["depcam"], "depcam: no image has this name; did you mean deepcam?; there are deepcam, cloudmask"),
        (["deepcam", "--variant", "cudda"], "--variant cudda: deepcam has no such variant; did you mean cuda?"),
        (["deepcam", "--engine", "enroot"], "--engine enroot: enroot imports images and builds none"),
        (["deepcam", "--engine", "dcoker"], "did you mean docker?"),
        (["deepcam", "--tag", "Big:1"], "--tag Big:1: must be NAME:TAG in small letters"),
        (["deepcam", "--pip_conf", "none.conf"], "--pip_conf none.conf: no such file"),
        (["deepcam", "--pip_conf", "text"], "--pip_conf text: is no settings file of pip"),
        (["deepcam", "--ca", "text"], "--ca text: holds no certificate in PEM form"),
        (["deepcam", "--proxy", "text"], "text:1: 'just words' must be NAME=VALUE"),
        (
            ["deepcam", "--apt_mirror", "ftp://mirror/debian"],
            "--apt_mirror ftp://mirror/debian: must be a file, or an http or https address",
        ),
        (["deepcam", "--wheelhouse", "nowhere"], "--wheelhouse nowhere: no such folder"),
        (["deepcam", "--wheelhouse", "empty"], "--wheelhouse empty: holds no wheel; fill it with: pip download"),
        (["deepcam", "--arch", "ppc64le"], "--arch ppc64le: the image exists only for x86_64, aarch64; choose x86_64 or aarch64"),
        (["cloudmask", "--arch", "aarch64"], "--arch aarch64: the image exists only for x86_64"),
        (["deepcam", "--kit", "empty"], "--kit empty: has no docker/images.toml"),
        (["deepcam", "--dry"], "--dry is not an option of this command; did you mean --dry_run?"),
    ],
)
def test_a_mistake_is_one_sentence(images: Call, tmp_path: Path, words: list[str], sentence: str) -> None:
    standins.install(tmp_path / "bin", "podman")
    (tmp_path / "text").write_text("just words\n")
    (tmp_path / "empty").mkdir()
    done = images("build", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert standins.calls(tmp_path / "state") == []


def test_without_any_engine_each_ones_reason_is_told(images: Call) -> None:
    done = images("build", "deepcam")
    assert done.returncode == 2
    assert (
        "no engine of this machine can build images (docker: not on PATH; podman: not on PATH; buildah: not on PATH; apptainer"
        in done.stderr
    )
    listed = json.loads(images("list", "--json").stdout)
    assert {row["engine"]: row["here"] for row in listed["engines"]} == dict.fromkeys(engines.NAMES, "no")
    assert [(row["image"], row["variant"]) for row in listed["images"]] == [(image.name, image.variant) for image in IMAGES]


def test_a_failed_build_tells_command_end_and_log(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "podman")
    done = images("build", "deepcam", FAIL="podman build")
    assert done.returncode == 1
    assert "this command ended with exit code 125: podman build --format docker" in done.stderr
    assert "then it did not: no space left" in done.stderr
    log = Path(done.stderr.strip().rpartition("all of its output is in ")[2])
    assert "it went well at first" in (tmp_path / log).read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_engine_too(images: Call, tmp_path: Path, number: int) -> None:
    standins.install(tmp_path / "bin", "apptainer")
    (tmp_path / "own").mkdir()
    words = [sys.executable, "-m", "stormbench", "images", "build", "deepcam", "--engine", "apptainer"]
    process = subprocess.Popen(
        words,
        env=command(tmp_path, SLOW="60", https_proxy="http://p:1", TMPDIR=str(tmp_path / "own")),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "state/slow").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    engine = int((tmp_path / "state/slow").read_text())
    assert len(list((tmp_path / "own").iterdir())) == 1
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None
    process.stderr.close()
    while Path(f"/proc/{engine}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{engine}").exists()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["logs"]
    assert list((tmp_path / "own").iterdir()) == []


def test_apptainer_leaves_a_file_with_its_record(images: Call, tmp_path: Path) -> None:
    standins.install(tmp_path / "bin", "apptainer")
    done = images("build", "deepcam", "--engine", "apptainer", "--json")
    assert done.returncode == 0, done.stderr
    target = tmp_path / json.loads(done.stdout)["file"]
    assert target.name == "stormbench-deepcam_0.1.0-cpu.sif"
    record = json.loads((target.parent / "image.json").read_text())["images"][target.name]
    assert record["packages"]["python"]["torch"] == "2.13.0+cpu"
    assert record["base"]["name"] == recipe.choose(IMAGES, "deepcam", "cpu").base


def test_the_digest_of_the_lock_pins_the_base(images: Call, tmp_path: Path) -> None:
    kit = kit_with(tmp_path, 'base = "docker.io/library/debian:1"')
    digest = "sha256:" + "a" * 64
    (kit / "docker/images.lock").write_text(f'[digests]\n"docker.io/library/debian:1" = "{digest}"\n')
    words = shlex.split(images("build", "x", "--kit", kit, "--engine", "podman", "--dry-run").stdout.splitlines()[1])
    assert f"BASE=docker.io/library/debian:1@{digest}" in words
    assert f"BASE_DIGEST={digest}" in words
    # apptainer takes a digest or a tag, never both
    line = images("build", "x", "--kit", kit, "--engine", "apptainer", "--dry-run").stdout
    assert f"BASE=docker.io/library/debian@{digest}" in line
    done = images("build", "x", "--kit", kit, "--engine", "podman", "--dry-run", "--base", "mirror.example.org/debian:1")
    assert "BASE=mirror.example.org/debian:1 " in done.stdout
    assert digest not in done.stdout


def test_a_base_that_is_not_locked_is_told(images: Call, tmp_path: Path) -> None:
    done = images("build", "x", "--kit", kit_with(tmp_path), "--engine", "podman", "--dry-run")
    assert "debian:1 has no digest in docker/images.lock, so it is taken by its tag" in done.stderr


def test_another_architecture_needs_its_emulation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert engines.foreign(("x86_64", "aarch64"), None) is None
    assert engines.foreign(("x86_64", "aarch64"), "aarch64") == "arm64"
    with pytest.raises(UserError, match="this machine is x86_64: the image exists only for aarch64; build with --arch aarch64"):
        engines.foreign(("aarch64",), None)
    with pytest.raises(UserError, match="this kernel runs no programs of it"):
        build.require_emulation("aarch64", tmp_path)
    (tmp_path / "qemu-aarch64").touch()
    build.require_emulation("aarch64", tmp_path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bsae = 'x:1'", "[x.cpu]: bsae is no key of an image; did you mean base?"),
        ("base = ''", "[x.cpu]: base = '': must be a string that isn't empty"),
        ("max_size_gb = -1", "[x.cpu]: max_size_gb = -1: must be a number above 0"),
        ("imports = 'torch'", "[x.cpu]: imports = 'torch': must be a list of strings"),
        ("arguments = { A = 1 }", "[x.cpu]: arguments = {'A': 1}: must be a table of strings"),
        ("base", "is not TOML"),
    ],
)
def test_a_damaged_list_is_told_with_its_place(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        recipe.read_images(kit_with(tmp_path, line))
    assert sentence in str(told.value)
    assert "images.toml" in str(told.value)


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    kit = kit_with(tmp_path)
    text = (kit / "docker/images.toml").read_text().replace('mpi = "openmpi"\n', "")
    (kit / "docker/images.toml").write_text(text)
    with pytest.raises(UserError, match=r"\[x.cpu\]: mpi is missing"):
        recipe.read_images(kit)


def test_the_source_is_named_without_its_password(tmp_path: Path) -> None:
    for words in (["init", "-q"], ["remote", "add", "origin", "https://me:secret@git.example.org/kit.git"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, timeout=20)
    assert build.source(tmp_path) == "https://git.example.org/kit.git"
    assert build.source(tmp_path / "nowhere") == ""
    assert build.revision(tmp_path) == "unknown"
