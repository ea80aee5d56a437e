"""The CPU images of both workloads, really built without an index, and run by podman the way careful sites run containers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from stormbench.job.images.build import revision
from tests.container.conftest import MARK, STRANGER, Build, Place
from tests.container.engine import ROOT, base_image, podman_run, run

SITE_PACKAGES = "/opt/stormbench/venv/lib/python3.11/site-packages"
PREPARE = {
    "deepcam": "stormbench deepcam synth /scratch/data --train 4 --validation 2 --height 32 --width 48",
    "cloudmask": "stormbench cloudmask synth /scratch/products --products 5 --height 64 --width 96"
    " && stormbench cloudmask convert-hdf /scratch/products /scratch/data",
}
TRAIN = {
    "deepcam": "stormbench deepcam train --data_dir_prefix /scratch/data --output_dir /results --run_tag two --width 0.0625 --max_epochs 1"
    " --local_batch_size 1 --num_threads 1",
    "cloudmask": "stormbench cloudmask train /scratch/data /results --run_tag two --epochs 1 --batch_size 2 --patch_size 32 --clip_offset 4"
    " --width 0.1 --split random --strategy horovod",
}


def settings(image: str) -> dict[str, Any]:
    return json.loads(run("podman", "image", "inspect", image).stdout)[0]


def test_two_ranks_train_with_a_read_only_root_as_any_user_and_without_a_network(workload: str, image: str, place: Place) -> None:
    podman_run(image, "bash", "-c", PREPARE[workload], options=place.options)
    podman_run(image, "mpirun", "-np", 2, "--oversubscribe", *TRAIN[workload].split(), options=place.options)
    kept = json.loads((place.results / "two" / "run.json").read_text())
    assert kept["world_size"] == 2
    assert (place.results / "two" / "run.json").stat().st_uid == STRANGER


def test_results_that_cannot_be_written_are_one_clear_sentence(workload: str, image: str, place: Place) -> None:
    podman_run(image, "bash", "-c", PREPARE[workload], options=place.options)
    place.results.chmod(0o755)
    done = podman_run(image, *TRAIN[workload].split(), options=place.options, check=False)
    assert done.returncode == 2
    last = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(last) == 1 and "/results" in last[0] and "can't be written" in last[0], done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def any_image(kind: tuple[str, str], build: Build) -> str:
    """The image of any kind, where the fixture `image` is that of Open MPI."""
    return build(*kind)


def test_the_health_check_holds_and_notices_a_package_that_is_gone(any_image: str, tmp_path: Path) -> None:
    name = f"stormbench-health-{os.getpid()}"
    run("podman", "run", "--detach", "--rm", "--network", "none", "--name", name, any_image, "sleep", "600")
    try:
        run("podman", "healthcheck", "run", name)
    finally:
        run("podman", "rm", "--force", "--time", "0", name)
    command = settings(any_image)["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    done = podman_run(any_image, *command[1:], options=("--volume", f"{tmp_path}:{SITE_PACKAGES}/h5py"), check=False)
    assert done.returncode == 1
    assert "h5py" in done.stderr


def test_it_keeps_its_limit_of_size(
    kind: tuple[str, str], any_image: str, promises: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    workload, variant = kind
    size, limit = settings(any_image)["Size"] / 1e9, promises[workload][variant]["max_size_gb"]
    with capsys.disabled():
        print(f"\n{any_image}: {size:.2f} GB, limit {limit:g} GB")
    assert 0.5 < size < limit


def test_its_packages_are_those_of_the_constraints_and_none_is_for_gpus(kind: tuple[str, str], any_image: str) -> None:
    workload, key = kind[0], "-".join(kind)
    manifest = podman_run(any_image, "cat", "/opt/stormbench/manifest.txt").stdout.splitlines()
    assert manifest[0] == f"image {key}"
    packages = dict(line.split()[1:] for line in manifest if line.startswith("python "))
    pinned = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "docker" / "constraints" / f"{key}.txt").read_text(), re.MULTILINE)
    expected = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned}
    found = {re.sub(r"[-_.]+", "-", name): version for name, version in packages.items()}
    # tools of installation, which no constraint names, and what is built rather than taken from an index
    beside = {"pip", "setuptools", "wheel", "stormbench", "horovod"}
    assert {name: version for name, version in found.items() if name not in beside} == {
        name: version for name, version in expected.items() if name not in beside
    }
    assert not [name for name in found if name.startswith(("nvidia", "cuda", "triton", "tensorrt"))]
    assert ("horovod" in found) == (workload == "cloudmask")


def test_a_stranger_finds_everything_at_the_paths_that_the_request_names(workload: str, image: str) -> None:
    wanted = ["/workspace/run.sub", "/workspace/run_and_time.sh", "/workspace/init_datasets.sub", "/workspace/configs/systems/clean.sh",
              "/workspace/templates/slurm.sub.j2", "/opt/stormbench/LICENSE"]  # fmt: skip
    if workload == "deepcam":
        wanted += ["/opt/deepCam/run_and_time.sh", "/opt/utils/convert_hdf52npy.py"]
    unreadable = 'for path in "$@"; do [ -r "$path" ] || echo "$path"; done'
    listing = podman_run(image, "sh", "-c", unreadable, "sh", *wanted, options=("--user", STRANGER))
    assert listing.stdout == ""
    for folder in ("/data", "/results", "/scratch"):
        podman_run(image, "test", "-d", folder)
    for name in ("run.sub", "run_and_time.sh", "init_datasets.sub"):
        assert podman_run(image, "cat", f"/workspace/{name}").stdout == (ROOT / name).read_text()
    assert podman_run(image, "sh", "-c", "cd /workspace && find configs templates -type f | sort").stdout.split() == sorted(
        str(path.relative_to(ROOT)) for folder in ("configs", "templates") for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != "data.sh"
    )  # fmt: skip


def test_words_are_for_stormbench_unless_they_name_a_program(workload: str, image: str) -> None:
    assert re.fullmatch(r"stormbench \S+\n", podman_run(image, "--version").stdout)
    assert podman_run(image, workload, "train", "--help").stdout.startswith(f"usage: stormbench {workload} train")
    assert podman_run(image, "echo", "a b", "c").stdout == "a b c\n"
    # no program of the image has the name of a command
    commands = re.findall(r"^    (\w+)\b", podman_run(image, "--help").stdout, re.MULTILINE)
    assert {"deepcam", "cloudmask", "check", "render"} <= set(commands)
    found = podman_run(image, "sh", "-c", 'for name in "$@"; do command -v "$name"; done; true', "sh", *commands)
    assert found.stdout == ""


def test_labels_user_and_defaults(workload: str, image: str, promises: dict[str, Any]) -> None:
    config = settings(image)["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == revision(ROOT)
    assert f"revision {labels['revision']}\n" in podman_run(image, "cat", "/opt/stormbench/origin.txt").stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", labels["version"])
    assert {"source", "base.name", "base.digest", "title", "description"} <= set(labels)
    assert config["User"] == "10001:10001"
    assert podman_run(image, "id", "-u").stdout.strip() not in ("", "0")
    assert config["Entrypoint"] == ["/opt/stormbench/entry"]
    environ = dict(entry.split("=", 1) for entry in config["Env"])
    assert environ["PYTHONNOUSERSITE"] == "1"
    assert environ["STORMBENCH_IMAGE"] == f"{workload}.cpu"
    assert environ["STORMBENCH_BENCHMARK"] == workload
    assert environ["STORMBENCH_GIT_COMMIT"] == labels["revision"]
    # enroot would look for a driver where this is anything else
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert promises[workload]["cpu"]["python"] in podman_run(image, "python", "--version").stdout
    assert promises[workload]["cpu"]["glibc"] in podman_run(image, "ldd", "--version").stdout.splitlines()[0]


def test_a_users_own_packages_do_not_leak_in(workload: str, image: str, tmp_path: Path) -> None:
    package = tmp_path / ".local/lib/python3.11/site-packages/numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the numpy of the home folder')\n")
    options = ("--volume", f"{tmp_path}:/home", "--env", "HOME=/home")
    done = podman_run(image, "python", "-c", "import numpy; print(numpy.__file__)", options=options)
    assert done.stdout.startswith(SITE_PACKAGES)


def test_nothing_of_the_site_stays_in_any_layer(any_image: str) -> None:
    found = settings(any_image)
    told = json.dumps(found) + run("podman", "history", "--no-trunc", "--format", "json", any_image).stdout
    assert MARK not in told
    assert not [entry for entry in found["Config"]["Env"] if re.match(r"(PIP_|.*_proxy=|.*_PROXY=|SSL_|CURL_|REQUESTS_)", entry)]
    data = found["GraphDriver"]["Data"]
    layers = [data["UpperDir"], *data["LowerDir"].split(":")]
    base = settings(base_image())["GraphDriver"]["Data"]["UpperDir"]
    assert base in layers and len(layers) > 5
    own = [layer for layer in layers if layer != base]
    grep = run("grep", "--recursive", "--files-with-matches", "--binary-files=text", "--fixed-strings", MARK, *own, check=False)
    assert (grep.returncode, grep.stdout) == (1, ""), grep.stdout + grep.stderr
    for layer in own:
        names = ["wheelhouse", "toolkit", "source", "kit", "horovod", "run/secrets/*", "etc/pip.conf"]
        names += ["root/.config", "root/.cache", "root/.netrc"]
        names += ["var/lib/apt/lists/*_*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "tmp/*", "var/tmp/*"]
        assert not [path for name in names for path in Path(layer).glob(name)]


def test_deepcams_converter_runs_at_its_old_path_with_ranks_of_mpi(build: Build, place: Place) -> None:
    image = build("deepcam")
    podman_run(image, "bash", "-c", PREPARE["deepcam"], options=place.options)
    folders = ("--input_directory=/scratch/data/train", "--output_directory=/results/train")
    podman_run(image, "mpirun", "-np", 2, "--oversubscribe", "python", "/opt/utils/convert_hdf52npy.py", *folders, options=place.options)
    assert len(list((place.results / "train").glob("data-*.npy"))) == 4


def test_deepcams_old_entry_runs_a_config_of_the_workspace(build: Build, place: Place) -> None:
    image = build("deepcam")
    podman_run(image, "bash", "-c", PREPARE["deepcam"], options=place.options)
    settings_of_job = "export DATADIR=/scratch/data LOGDIR=/results MAX_EPOCHS=1 STORMBENCH_WIDTH=0.05"
    script = f"source configs/config_local_1x1x2_demo.sh && {settings_of_job} && "
    done = podman_run(image, "bash", "-c", script + "/opt/deepCam/run_and_time.sh", options=place.options)
    assert re.search(r"^RESULT,DEEPCAM,", done.stdout, re.MULTILINE), done.stdout[-2000:]
