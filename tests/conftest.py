"""Shared by all tests: the program as a user starts it, and a small data set made once by the program itself."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Fork, Forks

BIN = Path(sys.executable).parent
OWN_APPTAINER = Path(__file__).parents[1] / ".apptainer" / "bin"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stormbench"
"""What tests keep for the next time."""
HEIGHT, WIDTH, N_TRAIN, N_VALIDATION = 32, 48, 16, 5
LAUNCHER_VARIABLES = ("SLURM_", "PMI", "OMPI_", "JSM_", "LSB_", "PALS_", "MV2_", "MPI_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the files to the processes of `--dist loadfile`, all that need a cluster or images to the same one, which makes them once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Rooms(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "machines" if nodeid.startswith(("tests/cluster/", "tests/container/")) else super()._split_scope(nodeid)

    return Rooms(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for no garbage while frameworks are imported and tests are made, nor in them later: they stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def clean_environment(**extra: str) -> dict[str, str]:
    """Return the environment without any launcher's variables, with one thread a process, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SEED"):
        kept.pop(name, None)
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **extra}


@pytest.fixture(scope="session")
def apptainer() -> Path:
    """The program, of the machine or as `make apptainer` unpacks it. Without it the tests are skipped, never where CI vouches for it."""
    found = shutil.which("apptainer", path=f"{OWN_APPTAINER}{os.pathsep}{os.environ['PATH']}")
    if found is None and os.environ.get("CI"):
        pytest.fail("CI is set, so these tests must run: tests/cluster/apptainer.sh .apptainer installs apptainer")
    if found is None:
        pytest.skip("needs apptainer: tests/cluster/apptainer.sh .apptainer")
    return Path(found)


Run = Callable[..., subprocess.CompletedProcess[str]]
FORKS = Forks(clean_environment())


def begin(*words: Any, **environ: str) -> subprocess.Popen[str] | Fork:
    """Start `stormbench WORD...`, by a fork where that shows the same."""
    told, variables = [*map(str, words)], clean_environment(**environ)
    framework = FORKS.framework_of(told, variables)
    if framework:
        return FORKS.start(framework, told, variables)
    command = [sys.executable, "-m", "stormbench", *told]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


@pytest.fixture(scope="session")
def stormbench() -> Run:
    """Run `stormbench WORD...` to its end and return what came of it."""

    def run(*words: Any, timeout: float = 240, prefix: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
        if prefix:
            command = [*prefix, sys.executable, "-m", "stormbench", *map(str, words)]
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=clean_environment(**environ), check=False)
        process = begin(*words, **environ)
        try:
            output = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode is not None
        return subprocess.CompletedProcess(words, process.returncode, *output)

    return run


@pytest.fixture(scope="session")
def data(stormbench: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set in the true layout; read-only by agreement, copy it to change it."""
    folder = tmp_path_factory.mktemp("data") / "cam"
    done = stormbench(
        "deepcam", "synth", folder, "--train", N_TRAIN, "--validation", N_VALIDATION, "--height", HEIGHT, "--width", WIDTH, "--seed", 5
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may damage."""
    return Path(shutil.copytree(data, tmp_path / "own"))


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind from a run folder's metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def record(folder: Path) -> dict[str, Any]:
    """Return a run folder's run.json."""
    return json.loads((folder / "run.json").read_text())
