"""The same images as SIF files by apptainer's recipes: run as sites run them, equal to the OCI images, and built without those too."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.container import engine
from tests.container.conftest import MARK, QUICK, Build
from tests.container.engine import CACHE, ROOT, podman_run, run
from tests.container.test_cpu_images import PREPARE, TRAIN

ALONE = ("--cleanenv", "--no-home", "--containall")
AS_ROOT = "OMP_NUM_THREADS=1,OMPI_ALLOW_RUN_AS_ROOT=1,OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
MANIFEST = "/opt/stormbench/manifest.txt"


def in_sif(
    apptainer: Path, image: Path, *words: object, verb: str = "exec", options: Sequence[object] = (), check: bool = True, **environ: str
) -> Any:
    return run(apptainer, verb, *ALONE, *options, image, *words, check=check, **environ)


def test_run_starts_stormbench_as_docker_does(workload: str, sif: Path, apptainer: Path) -> None:
    assert in_sif(apptainer, sif, "--version", verb="run").stdout.startswith("stormbench ")
    assert in_sif(apptainer, sif, workload, "train", "--help", verb="run").stdout.startswith(f"usage: stormbench {workload} train")
    assert in_sif(apptainer, sif, "echo", "a b", verb="run").stdout == "a b\n"


def test_its_own_test_passes(sif: Path, apptainer: Path) -> None:
    done = run(apptainer, "test", "--containall", "--no-home", sif)
    assert "mpi4py.MPI" in done.stdout


def test_it_holds_what_the_oci_image_holds(workload: str, image: str, sif: Path, apptainer: Path) -> None:
    of_image = podman_run(image, "cat", MANIFEST).stdout
    assert in_sif(apptainer, sif, "cat", MANIFEST).stdout == of_image
    assert of_image.count("\nsystem ") > 50 and of_image.count("\npython ") > 20
    # the files themselves, not only the list of them
    sums = ("sh", "-c", "cd /opt/stormbench && find . -name '*.py' -type f | LC_ALL=C sort | xargs sha256sum | sha256sum")
    assert in_sif(apptainer, sif, *sums).stdout == podman_run(image, *sums).stdout


def test_environment_and_labels_are_those_of_the_oci_image(workload: str, image: str, sif: Path, apptainer: Path) -> None:
    names = ["PYTHONNOUSERSITE", "HDF5_USE_FILE_LOCKING", "OMP_PROC_BIND", "NCCL_DEBUG", "STORMBENCH_IMAGE", "STORMBENCH_BENCHMARK",
             "OMPI_MCA_btl_vader_single_copy_mechanism", "NVIDIA_VISIBLE_DEVICES", "STORMBENCH_GIT_COMMIT"]  # fmt: skip
    show = ("sh", "-c", 'for name in "$@"; do printenv "$name"; done', "sh", *names)
    in_image = podman_run(image, *show).stdout
    assert in_sif(apptainer, sif, *show).stdout == in_image and len(in_image.splitlines()) == len(names)
    labels = json.loads(run(apptainer, "inspect", "--json", sif).stdout)["data"]["attributes"]["labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_two_ranks_train_with_nothing_of_the_host_but_two_folders(workload: str, sif: Path, apptainer: Path, tmp_path: Path) -> None:
    results, scratch = tmp_path / "with blank" / "results", tmp_path / "scratch"
    for folder in (results, scratch):
        folder.mkdir(parents=True)
    # what is set outside would break Python inside, if it came in
    options = ("--bind", f"{results}:/results", "--bind", f"{scratch}:/scratch", "--env", AS_ROOT)
    leak = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}
    in_sif(apptainer, sif, "bash", "-c", PREPARE[workload], options=options, **leak)
    in_sif(apptainer, sif, "mpirun", "-np", 2, "--oversubscribe", *TRAIN[workload].split(), options=options, **leak)
    assert json.loads((results / "two" / "run.json").read_text())["world_size"] == 2


def test_results_that_cannot_be_written_are_one_clear_sentence(workload: str, sif: Path, apptainer: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # without a mount /results is a part of the image, which is read-only for everybody
    options = ("--bind", f"{scratch}:/scratch")
    in_sif(apptainer, sif, "bash", "-c", PREPARE[workload], options=options)
    done = in_sif(apptainer, sif, *TRAIN[workload].split(), verb="run", options=options, check=False)
    assert done.returncode == 2
    assert "/results" in done.stderr and "can't be written" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_command_makes_the_same_packages_from_the_base_by_apptainer_alone(
    workload: str, build: Build, apptainer: Path, secrets: list[str], tmp_path: Path
) -> None:
    """A site without any engine but apptainer. What came of the same files is kept, as this takes minutes."""
    key = f"{workload}-cpu"
    sources = [ROOT / "apptainer" / f"{workload}.def", ROOT / "pyproject.toml", *sorted((ROOT / "src/stormbench/job/images").glob("*.py"))]
    sources += [path for path in sorted((ROOT / "docker").rglob("*")) if path.is_file()]
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    kept = CACHE / "sif" / f"{key}-{mark}.manifest"
    expected = podman_run(build(workload), "cat", MANIFEST).stdout
    if not kept.exists():
        for older in kept.parent.glob(f"{key}-*.manifest"):
            older.unlink()
        archive = tmp_path / "a base.tar"
        run("podman", "save", "--quiet", "--format", "docker-archive", "--output", archive, engine.base_image())
        words = [sys.executable, "-m", "stormbench", "images", "build", workload, "--engine", "apptainer", "--base", archive, "--json"]
        words += ["--kit", ROOT, "--folder", tmp_path / "made", "--wheelhouse", engine.wheelhouse(key), *secrets]
        told = json.loads(engine.run_as_whole_root(words, tmp_path, APPTAINER_MKSQUASHFS_ARGS=QUICK).stdout)
        assert "mpi4py.MPI" in Path(told["log"]).read_text(), "its test did not run at the end of the build"
        look = f"ls -d /wheelhouse /source /kit /run/secrets; grep -rlF {MARK} /etc /opt/stormbench /var /root; true"
        assert in_sif(apptainer, told["file"], "sh", "-c", look).stdout == ""
        recorded = json.loads((tmp_path / "made" / "image.json").read_text())["images"][Path(told["file"]).name]
        assert recorded["packages"]["python"]["mpi4py"]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(in_sif(apptainer, told["file"], "cat", MANIFEST).stdout)
    assert kept.read_text() == expected
