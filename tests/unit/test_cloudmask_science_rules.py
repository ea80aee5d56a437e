"""The rules of the Science form in the official checker's grammar: the checker passes a whole log and fails every broken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stormbench.core import verdict
from stormbench.core.mllog import RunLog
from tests.cloudmask_logs import BEFORE, ONCE, REQUIRED, RULES, check, events, passes, position, write_events, write_log

Lines = list[dict[str, Any]]
GENERAL = {"submission_org", "submission_platform", "submission_version", "submission_github_commit_version"}


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return events(write_log(tmp_path / "whole.txt"))


def broken(tmp_path: Path, lines: Lines) -> bool:
    return not passes(write_events(tmp_path / "broken.txt", lines))


@pytest.mark.parametrize("more", [(), ("--usage", "hpc", "--ruleset", "3.0.0"), ("--werror",)])
def test_checker_program_passes_a_whole_log(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = check(write_log(tmp_path / "result_1.txt"), *more)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stderr


def test_checker_program_fails_a_log_without_its_result(tmp_path: Path, lines: Lines) -> None:
    del lines[position(lines, "result")]
    done = check(write_events(tmp_path / "result_1.txt", lines))
    assert done.returncode == 1
    assert "Required EXACTLY_ONE occurrence of 'result'" in done.stderr


def test_checker_program_fails_a_log_below_the_target(tmp_path: Path) -> None:
    done = check(write_log(tmp_path / "result_1.txt", accuracy=(0.85, 0.8999)))
    assert done.returncode == 1
    assert "Failed checks for eval_accuracy" in done.stderr


def test_log_of_a_training_without_inference_passes(tmp_path: Path) -> None:
    assert passes(write_log(tmp_path / "log.txt", inference=False))


@pytest.mark.parametrize("key", REQUIRED)
def test_log_without_a_required_key_fails(tmp_path: Path, lines: Lines, key: str) -> None:
    assert broken(tmp_path, [line for line in lines if line["key"] != key])


@pytest.mark.parametrize("key", ONCE)
def test_second_other_value_fails(tmp_path: Path, lines: Lines, key: str) -> None:
    at = position(lines, key)
    assert broken(tmp_path, [*lines[: at + 1], {**lines[at], "value": "another"}, *lines[at + 1 :]])


@pytest.mark.parametrize("key", ["init_start", "init_stop", "run_start", "run_stop", "result", "epoch_start", "eval_start"])
def test_event_that_comes_twice_fails(tmp_path: Path, lines: Lines, key: str) -> None:
    at = position(lines, key)
    assert broken(tmp_path, [*lines[: at + 1], lines[at], *lines[at + 1 :]])


@pytest.mark.parametrize("key", [*BEFORE, "cache_clear"])
def test_what_belongs_before_the_run_fails_after_its_start(tmp_path: Path, lines: Lines, key: str) -> None:
    moved = lines.pop(position(lines, key))
    assert key == "best_of" or broken(tmp_path, [*lines[:-1], moved, lines[-1]])
    assert broken(tmp_path, [*lines, moved])


@pytest.mark.parametrize(
    ("key", "before"),
    [
        ("init_stop", "init_start"), ("run_start", "init_stop"), ("run_start", "init_start"), ("epoch_start", "run_start"),
        ("epoch_stop", "epoch_start"), ("eval_start", "run_start"), ("eval_stop", "eval_start"), ("eval_accuracy", "eval_start"),
        ("inference_stop", "inference_start"), ("result", "inference_stop"), ("result", "run_start"), ("run_stop", "result"),
        ("run_stop", "inference_start"), ("run_stop", "run_start"),
    ],
)  # fmt: skip
def test_wrong_order_fails(tmp_path: Path, lines: Lines, key: str, before: str) -> None:
    moved = lines.pop(position(lines, key))
    lines.insert(position(lines, before), moved)
    assert broken(tmp_path, lines)


def test_reversed_log_fails(tmp_path: Path, lines: Lines) -> None:
    assert broken(tmp_path, lines[::-1])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1233), ("seed", None), ("seed", "1234"), ("patch_size", 512), ("submission_benchmark", "deepcam"),
        ("submission_benchmark", "CloudMask"), ("submission_division", "closed"), ("submission_division", "SciML"),
        ("submission_status", "success"), ("submission_org", ""), ("submission_org", None), ("submission_platform", " "),
        ("submission_version", ""), ("submission_version", None), ("submission_github_commit_version", ""), ("result", "0.93"),
        ("result", None), ("result", {}), ("result", [0.93]), ("epochs", 0), ("global_batch_size", 0), ("global_batch_size", None),
        ("opt_base_learning_rate", 0), ("train_samples", 0), ("eval_samples", None), ("number_of_nodes", 0), ("number_of_ranks", 0),
        ("accelerators_per_node", -1), ("best_of", 0), ("best_of", "one"), ("cache_clear", None),
    ],
)  # fmt: skip
def test_wrong_value_fails(tmp_path: Path, lines: Lines, key: str, value: Any) -> None:
    lines[position(lines, key)]["value"] = value
    assert broken(tmp_path, lines)


@pytest.mark.parametrize("accuracy", [(0.5, 0.8999999), (1.1, 1.2), (-1.0, 0.8)])
def test_accuracy_that_is_no_success_fails(tmp_path: Path, accuracy: tuple[float, float]) -> None:
    assert not passes(write_log(tmp_path / "log.txt", accuracy=accuracy))


def test_accuracy_that_is_null_fails_without_breaking_the_checker(tmp_path: Path, lines: Lines) -> None:
    for line in lines:
        if line["key"] == "eval_accuracy":
            line["value"] = None
    assert broken(tmp_path, lines)


@pytest.mark.parametrize("accuracy", [(0.9,), (1.0,), (0.95, 0.2)])
def test_one_epoch_at_the_target_is_enough(tmp_path: Path, accuracy: tuple[float, ...]) -> None:
    assert passes(write_log(tmp_path / "log.txt", accuracy=accuracy))


@pytest.mark.parametrize(("key", "kind"), [("run_start", "INTERVAL_END"), ("result", "INTERVAL_START"), ("init_stop", "POINT_IN_TIME")])
def test_wrong_type_of_event_fails(tmp_path: Path, lines: Lines, key: str, kind: str) -> None:
    # the public reference writes run_start as an end
    lines[position(lines, key)]["event_type"] = kind
    assert broken(tmp_path, lines)


def without_epoch(lines: Lines) -> None:
    lines[position(lines, "eval_accuracy")]["metadata"].pop("epoch_num")


def epochs_backwards(lines: Lines) -> None:
    for line in lines:
        if line["key"].startswith("epoch_"):
            line["metadata"]["epoch_num"] = 3 - line["metadata"]["epoch_num"]


def aborted_at_the_target(lines: Lines) -> None:
    lines[-1]["metadata"]["status"] = "aborted"


def without_status(lines: Lines) -> None:
    lines[-1]["metadata"].pop("status")


def stopped_before_it_started(lines: Lines) -> None:
    lines[-1]["time_ms"] = lines[0]["time_ms"] - 1000


def cache_not_cleared_without_a_reason(lines: Lines) -> None:
    lines[0]["metadata"].pop("reason")


def staged_before_the_run(lines: Lines) -> None:
    staged = {**lines[position(lines, "epoch_start")], "key": "staging_start", "metadata": {}}
    lines.insert(position(lines, "run_start"), staged)


@pytest.mark.parametrize(
    "change",
    [
        without_epoch, epochs_backwards, aborted_at_the_target, without_status, stopped_before_it_started,
        cache_not_cleared_without_a_reason, staged_before_the_run,
    ],
)  # fmt: skip
def test_other_faults_fail(tmp_path: Path, lines: Lines, change: Callable[[Lines], None]) -> None:
    change(lines)
    assert broken(tmp_path, lines)


def test_empty_log_and_one_cut_short_fail(tmp_path: Path, lines: Lines) -> None:
    assert broken(tmp_path, [])
    assert broken(tmp_path, lines[:-1])


def test_staging_within_the_run_passes(tmp_path: Path, lines: Lines) -> None:
    start, at = lines[position(lines, "epoch_start")], position(lines, "run_start") + 1
    lines[at:at] = [{**start, "key": key, "metadata": {}} for key in ("staging_start", "staging_stop")]
    assert not broken(tmp_path, lines)


def test_verdict_on_a_log_goes_by_the_rules_of_its_benchmark(tmp_path: Path, lines: Lines) -> None:
    assert verdict.judge(tmp_path / "whole.txt").verdict == verdict.COMPLIANT
    lines[position(lines, "seed")]["value"] = 7
    judged = verdict.judge(write_events(tmp_path / "seed.txt", lines))
    assert judged.verdict == verdict.NON_COMPLIANT
    (complaint,) = judged.complaints
    assert "CHECK for 'seed' failed" in complaint


def test_verdict_on_a_whole_run_below_the_target(tmp_path: Path) -> None:
    judged = verdict.judge(write_log(tmp_path / "log.txt", accuracy=(0.7,)))
    assert judged.verdict == verdict.COMPLETE_TARGET_MISSED
    assert judged.exit_code == 0


def test_verdict_on_a_run_that_failed(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.txt")
    log.event("submission_benchmark", "cloudmask")
    log.start("run")
    log.abort("the disk is full")
    log.close()
    assert verdict.judge(tmp_path / "log.txt").verdict == verdict.FAILED


def test_rules_are_part_of_the_package() -> None:
    assert verdict.RULES["cloudmask"].resolve() == RULES.resolve()
    assert RULES.is_file()
    patterns = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert "cloudmask/rules/*.yaml" in patterns
