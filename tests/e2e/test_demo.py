"""What the README shows, run as it stands: the demo reaches its target, and every command of the text works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stormbench.core.verdict import judge
from tests.cloudmask_files import mpirun
from tests.conftest import Run, clean_environment, record

ROOT = Path(__file__).parents[2]
NOT_HERE = ("make ", "stormbench images ", "source .venv", "stormbench deepcam train --data_dir_prefix $DATADIR", "    --lr_schedule")
WITH_HOROVOD = "mpirun.openmpi "
"""Set-up, which has been done, images, which have tests of their own, and the benchmark itself, which needs the published data set."""


def clone(folder: Path) -> Path:
    """Put into a folder what a fresh clone has of all that the README's commands touch."""
    for name in ("configs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "run_and_time.sh", folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a fresh clone, with the demo run in it."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    done = subprocess.run(
        ["bash", "benchmarks/demo.sh"], cwd=folder, capture_output=True, text=True, timeout=900, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "shown").write_text(done.stdout)
    return folder


def environment() -> dict[str, str]:
    kept = clean_environment()
    kept.pop("OMP_NUM_THREADS")
    # Open MPI refuses root unless it is told twice; a user is not root
    return kept | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def test_the_demo_reaches_its_target_and_its_log_is_compliant(place: Path) -> None:
    (run,) = (place / "demo" / "results").glob("deepcam-*")
    assert judge(run / "result_1.txt").verdict == "compliant"
    kept = record(run)
    assert kept["outcome"] == "success"
    assert kept["trials"]["1"]["iou"] >= 0.82
    assert kept["generated_data"] is True


def test_the_demo_shows_the_table_the_folder_and_what_is_next(place: Path) -> None:
    shown = (place / "shown").read_text()
    for words in ("samples/s", "tropical cyclone", "atmospheric river", "time to target", "Run folder: demo/results/", "Try next:"):
        assert words in shown
    assert "96 x 144" in shown
    assert "network width           0.25" in shown
    assert re.search(r"^RESULT,DEEPCAM,333,\d+,", shown, re.MULTILINE)


def test_the_demo_takes_cloudmask_from_archives_to_masks_that_are_compared(place: Path) -> None:
    (run,) = (place / "demo" / "results").glob("cloudmask-*")
    verdict = judge(run / "result_1.txt")
    # its own target is below that of the rules, as twelve patches teach a quarter of the network no more
    assert verdict.verdict in ("compliant", "complete, target missed"), verdict
    kept = record(run)
    assert (kept["outcome"], kept["generated_data"]) == ("success", True)
    assert kept["trials"]["1"]["test_accuracy"] >= 0.85
    masks = list((place / "demo" / "masks").glob("*.h5"))
    assert len(masks) == 16
    picture = (place / "demo" / "clouds.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n") and len(picture) > 50_000
    shown = (place / "shown").read_text()
    assert re.search(r"^RESULT,CLOUDMASK,1234,\d+,", shown, re.MULTILINE)
    assert "16 predicted, 0 were complete, 0 failed" in shown
    for words in ("clear by mask", "robust std", "Agreement:", "says nothing about accuracy"):
        assert words in shown


def commands() -> list[str]:
    lines = [line[4:] for line in (ROOT / "README.md").read_text().splitlines() if re.match(r" {4}\S", line)]
    programs = ("stormbench", "torchrun", "mpirun", "source", "cp ", "DATADIR=")
    # what starts ranks of Horovod needs it, as CI has it
    out = NOT_HERE if mpirun(2) is not None or os.environ.get("CI") else (*NOT_HERE, WITH_HOROVOD)
    return [line.split("  #")[0].strip() for line in lines if line.startswith(programs) and not line.startswith(out)]


def test_every_command_of_the_readme_runs(stormbench: Run, tmp_path: Path) -> None:
    assert len(commands()) >= 10
    # an eighth of what the demo leaves there: four commands train on it for an epoch each
    size = ("--train", 24, "--validation", 4, "--height", 96, "--width", 144)
    made = stormbench("deepcam", "synth", clone(tmp_path) / "demo" / "data", *size)
    assert made.returncode == 0, made.stderr
    script = "set -euo pipefail\n" + "\n".join(commands())
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=900,
        env=environment() | {"LOGDIR": "", "PWD": str(tmp_path), "HOME": os.environ.get("HOME", "/")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
