"""The run folder never loses an earlier trial or attempt."""

import json
from pathlib import Path

import pytest

from stormbench.core.errors import UserError
from stormbench.core.runfolder import FAILED, STOPPED, SUCCESS, RunFolder, default_tag, read_record


def begun(folder: RunFolder) -> RunFolder:
    folder.begin(config={"seed": 7}, origins={}, devices=["cpu"], notes=["path"])
    return folder


def test_run_json_tells_where_a_result_comes_from(tmp_path: Path) -> None:
    folder = begun(RunFolder(tmp_path, "a", 1))
    folder.finish(SUCCESS, iou=0.9)
    folder.close()
    record = read_record(tmp_path / "a")
    assert set(record) >= {"command", "config", "versions", "git_commit", "host", "devices", "seed", "start", "end", "outcome"}
    assert (record["seed"], record["outcome"]) == (7, "success")
    assert record["versions"]["python"]
    assert record["trials"]["1"]["iou"] == 0.9


def test_before_the_end_the_outcome_is_running(tmp_path: Path) -> None:
    begun(RunFolder(tmp_path, "a", 1))
    assert read_record(tmp_path / "a")["outcome"] == "running"


def test_two_processes_cannot_run_one_trial(tmp_path: Path) -> None:
    first = begun(RunFolder(tmp_path, "a", 1))
    with pytest.raises(UserError, match="trial 1 is being run by another process"):
        RunFolder(tmp_path, "a", 1)
    first.close()


def test_trials_of_one_run_stand_side_by_side(tmp_path: Path) -> None:
    first, second = begun(RunFolder(tmp_path, "a", 1)), begun(RunFolder(tmp_path, "a", 2))
    first.finish(SUCCESS)
    second.finish(FAILED, "a reason")
    trials = read_record(tmp_path / "a")["trials"]
    assert {n: t["outcome"] for n, t in trials.items()} == {"1": "success", "2": "failed"}


def test_a_finished_trial_is_never_run_over(tmp_path: Path) -> None:
    folder = begun(RunFolder(tmp_path, "a", 1))
    folder.result_path.write_text("precious")
    folder.finish(SUCCESS)
    folder.close()
    with pytest.raises(UserError, match=r"trial 1 of this run is done \(success\); give another --run_tag or --experiment_id"):
        RunFolder(tmp_path, "a", 1)
    assert folder.result_path.read_text() == "precious"


def test_an_unfinished_attempt_is_kept_under_its_number(tmp_path: Path) -> None:
    first = begun(RunFolder(tmp_path, "a", 1))
    first.result_path.write_text("first")
    first.finish(STOPPED)
    first.close()
    second = RunFolder(tmp_path, "a", 1)
    assert second.unfinished
    assert second.attempt == 2
    second.set_aside()
    assert (tmp_path / "a" / "attempt1_result_1.txt").read_text() == "first"


def test_metrics_are_lines_of_json_with_trial_and_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a", 3)
    folder.metric(kind="epoch", loss=0.5)
    folder.metric(kind="epoch", loss=0.4)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["experiment_id"], line["attempt"], line["loss"]) for line in lines] == [(3, 1, 0.5), (3, 1, 0.4)]


def test_a_folder_without_run_json_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="the file is damaged"):
        read_record(tmp_path)


def test_the_default_tag_is_a_plain_file_name() -> None:
    tag = default_tag("deepcam", 333)
    assert tag.startswith("deepcam-")
    assert tag.endswith("-seed333")
    assert "/" not in tag


def test_the_job_side_entry_learns_the_figures_of_the_result_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    monkeypatch.setenv("STORMBENCH_RESULT_FILE", str(told))
    folder = begun(RunFolder(tmp_path, "a", 1))
    folder.finish(SUCCESS, time_to_target_s=38.4, time_to_16_epochs_s=None)
    folder.close()
    assert told.read_text().splitlines() == [f"run={tmp_path / 'a'}", "time_to_target_s=38.400"]
