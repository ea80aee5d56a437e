"""`results check`: the verdict's exit code, with and without settings that CloudMask's rules fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from stormbench.cli import main
from tests.cloudmask_logs import events, write_events, write_log


def log(folder: Path, accuracy: float = 0.93, **values: int) -> Path:
    lines = events(write_log(folder / "result_1.txt", accuracy=(0.85, accuracy)))
    for line in lines:
        if line["key"] in values:
            line["value"] = values[line["key"]]
    return write_events(folder / "result_1.txt", lines)


@pytest.mark.parametrize("accuracy", [0.93, 0.8])
@pytest.mark.parametrize("values", [{"seed": 7}, {"patch_size": 512}, {"seed": 7, "patch_size": 32}])
def test_another_seed_or_patch_size_is_non_compliant_but_fails_no_job(
    tmp_path: Path, accuracy: float, values: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path, accuracy, **values)
    assert main(["results", "check", str(path)]) == 1
    assert main(["results", "check", "--any_settings", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("non-compliant") == 2, "it says so all the same"


@pytest.mark.parametrize("values", [{"epochs": -1}, {"seed": 7, "global_batch_size": 0}])
def test_any_other_complaint_fails_jobs_too(tmp_path: Path, values: dict[str, int]) -> None:
    assert main(["results", "check", "--any_settings", str(log(tmp_path, **values))]) == 1


def test_a_run_without_an_end_fails_whatever_its_settings(tmp_path: Path) -> None:
    path = log(tmp_path, seed=7)
    write_events(path, [line for line in events(path) if line["key"] != "run_stop"])
    assert main(["results", "check", "--any-settings", str(path)]) == 1


def test_a_whole_log_passes_both_ways(tmp_path: Path) -> None:
    path = str(log(tmp_path))
    assert (main(["results", "check", path]), main(["results", "check", "--any_settings", path])) == (0, 0)
