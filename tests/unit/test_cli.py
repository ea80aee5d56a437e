"""The one command: what can't be written, or isn't a command, ends in one sentence and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stormbench import cli
from stormbench.core import progress
from tests.conftest import Run, clean_environment

UNBUFFERED = [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1"}]


def to(stdout: Any, stderr: Any, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stormbench", *words]
    return subprocess.run(command, stdout=stdout, stderr=stderr, text=True, env=clean_environment(**environ), check=False)


@pytest.mark.parametrize("environ", UNBUFFERED)
@pytest.mark.parametrize("words", [("variables",), ("--help",), ("--version",), ("deepcam", "split", "--help")])
def test_a_full_standard_output_is_one_sentence_and_a_failure(words: tuple[str, ...], environ: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        done = to(full, subprocess.PIPE, *words, **environ)
    assert done.returncode == 1
    assert done.stderr == "stormbench: standard output: not written, no space left on device\n"


@pytest.mark.parametrize("environ", UNBUFFERED)
def test_a_reader_that_leaves_is_no_failure(environ: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = to(writer, subprocess.PIPE, "variables", **environ)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("environ", UNBUFFERED)
def test_a_full_standard_error_does_not_change_the_exit_code(environ: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        assert to(subprocess.PIPE, full, "deepcam", "trian", **environ).returncode == 2
        assert to(full, full, "variables", **environ).returncode == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("deepcma",), "stormbench: deepcma is not a command; did you mean deepcam?; see stormbench --help"),
        (("deepcam", "trian"), "stormbench deepcam: trian is not a command; did you mean train?; see stormbench deepcam --help"),
        (("deepcam", "train", "--start_lr", "-1e-3"), "stormbench: --start_lr -1e-3: must be at least 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(stormbench: Run, words: tuple[str, ...], sentence: str) -> None:
    done = stormbench(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence + "\n")


def test_a_file_that_the_system_refuses_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from stormbench import cli

    monkeypatch.setattr(cli, "_run", lambda words: Path("/nowhere/file").read_text())
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "stormbench: /nowhere/file: no such file or directory\n"


def test_a_pipe_that_broke_elsewhere_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from stormbench import cli

    def broken(words: list[str]) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main([]) == 1
    assert "broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["full", "closed", "missing"])
def test_a_line_that_cannot_be_shown_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    with open("/dev/full", "w") as stream:
        if state == "closed":
            stream.close()
        monkeypatch.setattr(sys, "stderr", None if state == "missing" else stream)
        progress.say("a line")
        with progress.progress(3, "work") as bar:
            bar.advance(3)
        assert bar.done == 3
        progress.discard(stream)


@pytest.mark.parametrize("environ", UNBUFFERED)
def test_a_result_that_is_recorded_elsewhere_may_be_lost(environ: dict[str, str]) -> None:
    work = "from stormbench import cli; from stormbench.core.progress import show_result; cli._run = lambda words: show_result('x') or 75"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", f"{work}; raise SystemExit(cli.main([]))"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=clean_environment(**environ), check=False)
    assert (done.returncode, done.stderr) == (75, "")


@pytest.mark.parametrize(("rank", "stays"), [("0", []), ("1", [cli.SILENT_S])])
def test_a_rank_that_leaves_the_telling_to_rank_0_stays_until_that_has_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, stays: list[float]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", slept.append)
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["deepcam", "train", "--local_batch_size", "0"]) == 2
    assert slept == stays
    assert capsys.readouterr().err.count("--local_batch_size 0: must be at least 1") == (rank == "0")
