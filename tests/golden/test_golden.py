"""Every shipped config renders to the file that was reviewed, and each such file is a clean shell script with its directives first."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stormbench.job.render import render_init_datasets, render_run_sub
from tests.conftest import CACHE
from tests.golden.renderings import CONFIGS, JOBS, ROOT, rendering, untouched_configs

RENEW = "the renderings changed; look at the difference, and if it is meant, renew them: make golden"
FILES = [*sorted(JOBS.iterdir()), ROOT / "run.sub", ROOT / "init_datasets.sub"]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untouched_configs(tmp_path_factory.mktemp("shipped"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kept_job_is_current(configs: Path, name: str) -> None:
    target, text = rendering(configs, name)
    assert (JOBS / target).is_file(), RENEW
    assert (JOBS / target).read_text() == text, RENEW


def test_no_kept_job_is_left_over() -> None:
    kept = {path.stem for path in JOBS.iterdir()}
    assert kept == {name.removesuffix(".sh").removeprefix("config_") for name in CONFIGS}, RENEW


def test_run_sub_and_init_datasets_are_current() -> None:
    assert (ROOT / "run.sub").read_text() == render_run_sub(), RENEW
    assert (ROOT / "init_datasets.sub").read_text() == render_init_datasets(), RENEW


@pytest.fixture(scope="session")
def found_clean() -> Callable[[Path], Path]:
    """Where it is noted that this shellcheck had no complaint about a file's very content, which takes a second or two to find out."""
    checker = hashlib.sha256(SHELLCHECK.read_bytes())

    def note(path: Path) -> Path:
        seen = checker.copy()
        seen.update(path.read_bytes())
        return CACHE / "shellcheck" / seen.hexdigest()

    return note


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_clean_shell(path: Path, found_clean: Callable[[Path], Path]) -> None:
    note = found_clean(path)
    commands = [["bash", "-n", path], [SHELLCHECK, "--shell=bash", "--norc", path]]
    for command in commands[:1] if note.exists() else commands:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_directives_come_before_any_command_and_name_no_account(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [number for number, line in enumerate(lines) if re.match(r"#(SBATCH|BSUB|PBS) ", line)]
    assert all(number < first_command for number in directives)
    account = re.compile(r"#SBATCH (-A|--account)|#BSUB -P|#PBS -A|(SBATCH|SALLOC)_ACCOUNT=")
    assert not [line for line in lines if account.search(line)]


@pytest.mark.parametrize("benchmark", ["deepcam", "cloudmask"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_renders_for_each_benchmark(configs: Path, name: str, benchmark: str) -> None:
    _, text = rendering(configs, name, STORMBENCH_BENCHMARK=benchmark)
    assert f"export STORMBENCH_BENCHMARK='{benchmark}'\n" in text
    other = "STORMBENCH_CLOUDMASK_" if benchmark == "deepcam" else "START_LR="
    settings = [line for line in text.splitlines() if line.startswith("export ")]
    assert not [line for line in settings if other in line], "a job carries no other workload's hyperparameters"
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_that_renews_them_writes_the_same(tmp_path: Path) -> None:
    copy = shutil.copytree(
        ROOT, tmp_path / "kit", ignore=shutil.ignore_patterns(".venv", ".git", "*cache*", "demo", "results"), symlinks=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden.renderings"], cwd=copy, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{copy / 'src'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in FILES:
        assert (copy / path.relative_to(ROOT)).read_text() == path.read_text(), path.name
