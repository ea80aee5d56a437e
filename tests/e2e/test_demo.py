"""What the README shows, run as it stands: the demo reaches its target, and every command of the text works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stormbench.core.verdict import judge
from tests.conftest import clean_environment, record

ROOT = Path(__file__).parents[2]
NOT_HERE = ("make ", "source .venv", "stormbench deepcam train --data_dir_prefix $DATADIR", "    --lr_schedule")
"""Set-up, which has been done, and the benchmark itself, which needs the published data set."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a fresh clone, with the demo run in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "run_and_time.sh", folder)
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
    (run,) = (place / "demo" / "results").iterdir()
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


def commands() -> list[str]:
    lines = [line[4:] for line in (ROOT / "README.md").read_text().splitlines() if re.match(r" {4}\S", line)]
    programs = ("stormbench", "torchrun", "mpirun", "source", "cp ", "DATADIR=")
    return [line.split("  #")[0].strip() for line in lines if line.startswith(programs) and not line.startswith(NOT_HERE)]


def test_every_command_of_the_readme_runs(place: Path) -> None:
    assert len(commands()) >= 10
    script = "set -euo pipefail\n" + "\n".join(commands())
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=900,
        env=environment() | {"LOGDIR": "", "PWD": str(place), "HOME": os.environ.get("HOME", "/")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
