"""The MLPerf log: in order, complete when a run fails, judged by the official checker through the project's own path."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.errors import RunError
from stormbench.core.mllog import ABORTED, SUCCESS, TARGET_MISSED, RunLog
from stormbench.core.options import resolve
from stormbench.core.verdict import judge, read_events
from stormbench.deepcam import logkeys
from stormbench.deepcam.config import FULL_TRAIN_SAMPLES, FULL_VALIDATION_SAMPLES, TrainConfig

CLOSED = {
    "DATADIR": "data", "STORMBENCH_SUBMISSION_DIVISION": "closed", "STORMBENCH_SUBMISSION_ORG": "A Centre",
    "STORMBENCH_SUBMISSION_STATUS": "onprem", "STORMBENCH_SUBMISSION_PLATFORM": "A System", "STORMBENCH_CACHE_CLEARED": "1",
    "OPTIMIZER": "LAMB", "START_LR": "0.0055", "LR_SCHEDULE_TYPE": "multistep", "LR_MILESTONES": "800", "LR_DECAY_RATE": "0.1",
    "LR_WARMUP_STEPS": "400", "WEIGHT_DECAY": "0.01", "LOCAL_BATCH_SIZE": "2",
}  # fmt: skip


def written(path: Path, environ: dict[str, str], *, accuracy: float, end: Callable[[RunLog], None], n: tuple[int, int]) -> Path:
    config, _ = resolve(TrainConfig, {}, environ)
    log = RunLog(path)
    logkeys.log_cache_clear(log, config)
    log.start("init")
    logkeys.log_submission(log, config)
    logkeys.log_parameters(log, config, world_size=1024, n_nodes=128, accelerators_per_node=8, n_train=n[0], n_validation=n[1])
    log.stop("init")
    log.start("run")
    log.start("epoch", epoch_num=1)
    log.start("eval", epoch_num=1)
    log.event("eval_accuracy", accuracy, epoch_num=1)
    log.stop("eval")
    log.stop("epoch")
    end(log)
    log.close()
    return path


def official(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "hpc", "--ruleset", "3.0.0"]
    report = path.with_suffix(".checker")
    return subprocess.run(
        [*command, "--log_output", str(report), str(path)], capture_output=True, text=True, timeout=120, check=False
    )


FULL = (FULL_TRAIN_SAMPLES, FULL_VALIDATION_SAMPLES)
COSINE = {"LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "9000", "OPTIMIZER": "Adam"}


@pytest.mark.parametrize("changes", [{}, COSINE, {"OPTIMIZER": "AdamW"}])
def test_the_official_checker_passes_a_closed_log(tmp_path: Path, changes: dict[str, str]) -> None:
    path = written(tmp_path / "result_1.txt", CLOSED | changes, accuracy=0.8204, end=lambda log: log.end(SUCCESS), n=FULL)
    done = official(path)
    assert done.returncode == 0, done.stderr
    assert judge(path).verdict == "compliant"


def test_the_official_checker_passes_an_open_log_of_any_size(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", {"DATADIR": "data"}, accuracy=0.83, end=lambda log: log.end(SUCCESS), n=(64, 8))
    done = official(path)
    assert done.returncode == 0, done.stderr
    assert judge(path).verdict == "compliant"


def test_a_closed_log_on_another_data_set_is_not_compliant(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.83, end=lambda log: log.end(SUCCESS), n=(121266, 100))
    verdict = judge(path)
    assert (verdict.verdict, verdict.exit_code) == ("non-compliant", 1)
    assert "eval_samples" in " ".join(verdict.complaints)
    assert official(path).returncode == 1


def test_a_run_without_the_accuracy_is_complete_with_the_target_missed(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.81, end=lambda log: log.end(ABORTED, reason=TARGET_MISSED), n=FULL)
    verdict = judge(path)
    assert (verdict.verdict, verdict.exit_code) == ("complete, target missed", 0)


def without(path: Path, *keys: str) -> Path:
    """Take the lines of some keys out of a log."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line.removeprefix(":::MLLOG "))["key"] not in keys))
    return path


def missed(log: RunLog) -> None:
    log.end(ABORTED, reason=TARGET_MISSED)


@pytest.mark.parametrize("key", ["eval_start", "eval_stop", "train_samples"])
def test_a_missed_target_with_another_fault_is_not_compliant(tmp_path: Path, key: str) -> None:
    path = without(written(tmp_path / "r.txt", {"DATADIR": "data"}, accuracy=0.5, end=missed, n=(64, 8)), key)
    verdict = judge(path)
    assert (verdict.verdict, verdict.exit_code) == ("non-compliant", 1)
    assert key in " ".join(verdict.complaints)


def test_without_validation_a_log_that_says_so_is_complete_and_one_that_does_not_is_not_compliant(tmp_path: Path) -> None:
    evaluation = ("eval_accuracy", "eval_start", "eval_stop")

    def disabled(log: RunLog) -> None:
        log.end(ABORTED, reason=TARGET_MISSED, validation="disabled")

    told = without(written(tmp_path / "a.txt", {"DATADIR": "data"}, accuracy=0.5, end=disabled, n=(64, 8)), *evaluation)
    assert judge(told).verdict == "complete, target missed"
    assert judge(told).reason == "validation was disabled, so nothing shows the target"
    silent = without(written(tmp_path / "b.txt", {"DATADIR": "data"}, accuracy=0.5, end=missed, n=(64, 8)), *evaluation)
    assert judge(silent).verdict == "non-compliant"
    assert judge(without(told, "eval_samples")).verdict == "non-compliant"


def test_a_run_that_reached_a_target_of_its_own_says_so(tmp_path: Path) -> None:
    def reached(log: RunLog) -> None:
        log.event("target_reached", 0.805, epoch_num=1, target_iou=0.8)
        log.end(SUCCESS)

    verdict = judge(written(tmp_path / "r.txt", {"DATADIR": "data"}, accuracy=0.805, end=reached, n=(64, 8)))
    assert verdict.verdict == "complete, target missed"
    assert verdict.reason == "reached its own target 0.8, which is below the checker's 0.82"


@pytest.mark.parametrize(("second", "word"), [(SUCCESS, "non-compliant"), (ABORTED, "failed")])
def test_a_log_into_which_two_runs_wrote_is_never_compliant(tmp_path: Path, second: str, word: str) -> None:
    path = written(tmp_path / "r.txt", {"DATADIR": "data"}, accuracy=0.83, end=lambda log: log.end(SUCCESS), n=(64, 8))
    again = RunLog(path, append=True)
    again.end(second)
    again.close()
    verdict = judge(path)
    assert verdict.verdict == word
    if word == "non-compliant":
        assert verdict.reason == "the log has 2 run_stop lines, must have one: more than one run wrote into it"


def test_a_log_at_which_the_official_checker_breaks_off_is_not_compliant(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", {"DATADIR": "data"}, accuracy=0.83, end=lambda log: log.end(SUCCESS), n=(64, 8))
    good = path.read_text()
    path.write_text(good.replace('"value": 0.83', '"value": null'))
    assert judge(path).verdict == "non-compliant"
    path.write_text(good)
    assert judge(path).verdict == "compliant"


def test_a_run_that_failed_is_failed_however_good_its_accuracy(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.9, end=lambda log: log.abort("a peer died"), n=FULL)
    verdict = judge(path)
    assert (verdict.verdict, verdict.exit_code) == ("failed", 1)
    assert "a peer died" in verdict.reason


def test_a_log_that_just_ends_is_failed(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.9, end=lambda log: None, n=FULL)
    assert judge(path).verdict == "failed"


def test_a_last_line_cut_short_does_not_hide_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.9, end=lambda log: log.end(SUCCESS), n=FULL)
    whole = len(read_events(path))
    path.write_text(path.read_text()[:-30])
    assert len(read_events(path)) == whole - 1
    assert judge(path).verdict == "failed"


def test_both_key_sets_carry_the_same_values(tmp_path: Path) -> None:
    events = read_events(written(tmp_path / "r.txt", CLOSED, accuracy=0.9, end=lambda log: log.end(SUCCESS), n=FULL))
    value = {event["key"]: event["value"] for event in events}
    for new, old in [
        ("opt_name", "optimizer_name"), ("opt_lr", "optimizer_group0_lr"), ("opt_betas", "optimizer_group0_betas"),
        ("opt_eps", "optimizer_group0_eps"), ("opt_weight_decay", "optimizer_group0_weight_decay"),
        ("opt_bias_correction", "optimizer_group0_bias_correction"), ("opt_grad_averaging", "optimizer_group0_grad_averaging"),
        ("opt_max_grad_norm", "optimizer_group0_max_grad_norm"),
    ]:  # fmt: skip
        assert value[new] == value[old]
    assert value["opt_eps"] == 1e-6
    assert value["num_workers"] == 1024
    assert value["global_batch_size"] == 2048
    assert value["scheduler_milestones"] == [800]


def test_global_batch_size_counts_accumulation(tmp_path: Path) -> None:
    environ = CLOSED | {"GRADIENT_ACCUMULATION_FREQUENCY": "16"}
    events = read_events(written(tmp_path / "r.txt", environ, accuracy=0.9, end=lambda log: log.end(SUCCESS), n=FULL))
    assert {e["value"] for e in events if e["key"] == "global_batch_size"} == {1024 * 2 * 16}


def test_an_abort_closes_what_is_open_with_run_last(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "r.txt")
    for key, metadata in [("init", {}), ("run", {}), ("epoch", {"epoch_num": 3}), ("eval", {"epoch_num": 3})]:
        log.start(key, **metadata)
        if key == "init":
            log.stop(key)
    log.abort("ended by SIGTERM")
    log.event("late", 1)
    log.close()
    events = read_events(tmp_path / "r.txt")
    assert [e["key"] for e in events][-3:] == ["eval_stop", "epoch_stop", "run_stop"]
    assert events[-2]["metadata"]["epoch_num"] == 3
    assert events[-1]["metadata"]["status"] == "aborted"


def test_lines_name_our_files_without_the_place_of_installation(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "r.txt")
    log.event("seed", 1)
    log.close()
    assert not read_events(tmp_path / "r.txt")[0]["metadata"]["file"].startswith(str(Path.home()))


def test_a_log_goes_on_where_a_checkpoint_knew_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "r.txt")
    log.start("run")
    position, intervals = log.position(), log.open_intervals
    log.event("lost", 1)
    log.close()
    again = RunLog(tmp_path / "r.txt", append=True, keep_bytes=position)
    for key, metadata in intervals:
        again.reopen(key, **metadata)
    again.end(SUCCESS)
    again.close()
    assert [e["key"] for e in read_events(tmp_path / "r.txt")] == ["run_start", "run_stop"]


def test_ranks_without_a_path_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.start("run")
    log.event("x", 1)
    log.end(SUCCESS)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_not_a_missing_line() -> None:
    log = RunLog(Path("/dev/full"))
    with pytest.raises(RunError, match="/dev/full: not written, no space left on device"):
        log.event("seed", 1)


def test_a_value_that_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "r.txt")
    value: Any = object()
    with pytest.raises(RunError, match="Failed to encode"):
        log.event("seed", value)


def test_every_line_is_json_after_the_token(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", CLOSED, accuracy=0.9, end=lambda log: log.end(SUCCESS), n=FULL)
    for line in path.read_text().splitlines():
        assert line.startswith(":::MLLOG ")
        json.loads(line.removeprefix(":::MLLOG "))
