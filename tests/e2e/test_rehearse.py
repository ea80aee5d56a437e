"""Rehearsals: the very script of a shipped config runs to its verdict under strict stand-ins, for each scheduler, launcher and runtime."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.verdict import judge
from stormbench.job.load import load
from stormbench.job.render import render
from stormbench.job.standins import PROGRAMS, Plan, install
from tests.conftest import Run, clean_environment

ROOT = Path(__file__).parents[2]
# config: the programs that its script has to call, in the order of their first calls
SHIPPED = {
    "DGXA100_16x8x1": ["sbatch", "scontrol", "srun"],
    "DGXA100_4x2x8x8_weak": ["sbatch", "scontrol", "srun"],
    "Perlmutter_256x4x2_nersc10": ["sbatch", "scontrol", "srun", "shifter"],
    "CirrusGPU_16x4x2_gb2048": ["sbatch", "scontrol", "srun", "apptainer"],
    "Summit_85x6x2": ["bsub", "jsrun"],
    "Rivanna_1x8x32": ["sbatch", "scontrol", "srun", "apptainer"],
    "Polaris_32x4x1": ["qsub", "mpiexec", "apptainer"],
    "DGX_1x8x8": ["docker", "torchrun"],
    "local_1x2x1": ["torchrun"],
}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs, without the user's data.sh."""
    return Path(shutil.copytree(ROOT / "configs", tmp_path_factory.mktemp("kit") / "configs", ignore=shutil.ignore_patterns("data.sh")))


def calls_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def settings(script: str) -> dict[str, str]:
    return dict(line.removeprefix("export ").split("=", 1) for line in script.splitlines() if line.startswith("export ") and "='" in line)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_rehearses_to_its_verdict(stormbench: Run, kit: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a rehearsal"
    config = kit / f"config_{name}.sh"
    done = stormbench("rehearse", config, "--folder", folder, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logs = sorted(folder.glob("results/*/result_1.txt"))
    assert len(logs) == (4 if name.endswith("_weak") else 1)
    for log in logs:
        assert judge(log).verdict == "complete, target missed"
    calls = calls_of(folder)
    assert [call for call in calls if str(call["verdict"]).startswith("rejected")] == []
    assert list(dict.fromkeys(call["program"] for call in calls if call["program"] in SHIPPED[name])) == SHIPPED[name]
    assert "asks for" in done.stdout
    assert list((folder / "scratch").glob("*")) == [], "the job's scratch folder is left"
    job = load(config, clean_environment())
    # the script is the one to be submitted, but for its folders and image
    submitted, rehearsed = settings(render(job)), settings((folder / "job.sh").read_text())
    differing = {name for name in {*submitted, *rehearsed} if submitted.get(name) != rehearsed.get(name)}
    assert differing <= {"DATADIR", "LOGDIR", "CONT", "RUN_TAG", "STORMBENCH_SCRATCH", "STORMBENCH_MOUNTS", "STORMBENCH_MODULES"}


@pytest.mark.parametrize(
    ("name", "line", "program", "why"),
    [
        ("DGXA100_16x8x1", "export STORMBENCH_LAUNCH_ARGS=--no-such-option", "srun", "no-such-option"),
        ("Summit_85x6x2", "export STORMBENCH_DIRECTIVES='-n 85'", "bsub", "-n"),
        ("Polaris_32x4x1", "export STORMBENCH_DIRECTIVES='-l select=2'", "qsub", "select"),
    ],
)
def test_what_the_real_program_refuses_fails_the_rehearsal(
    stormbench: Run, kit: Path, tmp_path: Path, name: str, line: str, program: str, why: str
) -> None:
    wrong = kit / f"config_{name}_wrong.sh"
    wrong.write_text((kit / f"config_{name}.sh").read_text() + line + "\n")
    done = stormbench("rehearse", wrong, "--folder", tmp_path / "here", timeout=200)
    assert done.returncode in (1, 2)
    refused = [call for call in calls_of(tmp_path / "here") if str(call["verdict"]).startswith("rejected")]
    assert refused, done.stdout + done.stderr
    assert (refused[0]["program"], why in refused[0]["verdict"]) == (program, True)
    assert "Traceback" not in done.stderr


def test_bsub_without_its_redirection_runs_the_script_without_its_directives(kit: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", PROGRAMS, Plan(ranks=2, calls=str(tmp_path / "calls.jsonl")))
    (tmp_path / "job.sh").write_text(render(load(kit / "config_Summit_85x6x2.sh", clean_environment())))
    environ = {**clean_environment(LSB_DEFAULTPROJECT="p"), "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"}
    plain = subprocess.run(["bsub", "./job.sh"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert plain.returncode != 0, "Summit's bsub wants nodes and a wall time, which stand in the directives"
    parsed = subprocess.run(
        ["bsub", "./job.sh"], cwd=tmp_path, env={**environ, "LSB_BSUB_PARSE_SCRIPT": "Y"}, capture_output=True, text=True, check=False
    )
    assert "is submitted to queue" in parsed.stdout, parsed.stderr


def test_an_error_in_the_config_is_told_before_anything_is_made(stormbench: Run, kit: Path, tmp_path: Path) -> None:
    wrong = kit / "config_DGXA100_17x8x1.sh"
    wrong.write_text((kit / "config_DGXA100_16x8x1.sh").read_text())
    done = stormbench("rehearse", wrong, "--folder", tmp_path / "here")
    assert done.returncode == 2
    assert "DGXNNODES=16" in done.stderr
    assert not (tmp_path / "here" / "job.sh").exists()


def config_of(kit: Path, name: str, line: str) -> Path:
    """Return a copy of a shipped config with one more line, under a name that fits it."""
    path = kit / f"config_{name}_copy{len(list(kit.iterdir()))}.sh"
    path.write_text(f"{(kit / f'config_{name}.sh').read_text()}{line}\n")
    return path


@pytest.mark.parametrize(
    ("name", "values", "program", "word"),
    [
        ("CirrusGPU_16x4x2_gb2048", "CONT=docker://example.org/deepcam:1", "apptainer", "pull"),
        ("DGXA100_16x8x1", "CONT=example.org#kit/deepcam:1", "srun", "--container-image=example.org#kit/deepcam:1"),
        ("Perlmutter_256x4x2_nersc10", "CONT=example.org/deepcam:1", "shifter", "--image=example.org/deepcam:1"),
        ("Perlmutter_256x4x2_nersc10", "CONT=example.org/deepcam:1 STORMBENCH_RUNTIME=podman-hpc", "podman-hpc", "example.org/deepcam:1"),
        ("DGX_1x8x8", "CONT=example.org/deepcam:1", "docker", "example.org/deepcam:1"),
    ],
    ids=["apptainer", "pyxis", "shifter", "podman-hpc", "docker"],
)
def test_an_image_that_the_runtime_fetches_is_rehearsed_by_its_name(
    stormbench: Run, kit: Path, tmp_path: Path, name: str, values: str, program: str, word: str
) -> None:
    done = stormbench("rehearse", config_of(kit, name, f"export {values}"), "--folder", tmp_path / "here", timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    calls = [call for call in calls_of(tmp_path / "here") if call["program"] == program]
    assert any(word in call["argv"] for call in calls)
    (log,) = (tmp_path / "here").glob("results/*/result_1.txt")
    # two ranks that each take themselves for the only one would write two logs of one rank
    assert judge(log).verdict == "complete, target missed"
    run = json.loads((log.parent / "run.json").read_text())
    assert run["world_size"] == 2


def processes_below(folder: Path) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{folder}/bin".encode() in told:
            found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.parametrize(
    ("name", "number"),
    [("DGXA100_16x8x1", signal.SIGTERM), ("local_1x2x1", signal.SIGINT), ("DGX_1x8x8", signal.SIGHUP)],
    ids=["slurm-TERM", "local-INT", "docker-HUP"],
)
def test_who_ends_the_rehearsal_ends_its_job_and_waits_for_that(kit: Path, tmp_path: Path, name: str, number: int) -> None:
    folder = tmp_path / "here"
    words = [sys.executable, "-m", "stormbench", "rehearse", str(kit / f"config_{name}.sh"), "--folder", str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(words, env=clean_environment(), start_new_session=True, **pipes)
    try:
        deadline = time.monotonic() + 120
        # rank 0 has begun its log
        while not list(folder.glob("results/*/result_1.txt")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        os.kill(process.pid, number)
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + number, printed[-2000:]
    assert f"ended by {signal.Signals(number).name}" in printed
    assert processes_below(folder) == []
    (state,) = folder.glob("results/*/job_state")
    assert f"done {128 + number}" in state.read_text() or "done 143" in state.read_text()


def test_two_rehearsals_in_one_folder_are_refused(stormbench: Run, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with (tmp_path / "here" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = stormbench("rehearse", kit / "config_local_1x2x1.sh", "--folder", tmp_path / "here")
    assert done.returncode == 2
    assert "choose --folder" in done.stderr
    assert not (tmp_path / "here" / "job.sh").exists()
