"""A log of the Science form's shape, and ways to break it, for tests of its rules by the official checker's own program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from stormbench.core.mllog import ABORTED, SUCCESS, TARGET_MISSED, RunLog
from tests.conftest import clean_environment

ROOT = Path(__file__).parent.parent
RULES = ROOT / "src" / "stormbench" / "cloudmask" / "rules" / "cloudmask.yaml"
BEFORE: dict[str, Any] = {
    "submission_benchmark": "cloudmask", "submission_org": "STFC", "submission_division": "open", "submission_version": "1.0",
    "submission_github_commit_version": "4c6bd93", "submission_status": "research", "submission_platform": "PEARL", "seed": 1234,
    "patch_size": 256, "epochs": 2, "global_batch_size": 32, "opt_base_learning_rate": 0.001, "train_samples": 640, "eval_samples": 160,
    "number_of_nodes": 1, "number_of_ranks": 1, "accelerators_per_node": 1, "best_of": 1,
}  # fmt: skip
REQUIRED = (
    *BEFORE, "cache_clear", "init_start", "init_stop", "run_start", "run_stop", "epoch_start", "epoch_stop", "eval_start", "eval_stop",
    "eval_accuracy", "result",
)  # fmt: skip
ONCE = (*BEFORE, "init_start", "init_stop", "run_start", "run_stop", "result")


def write_log(path: Path, *, accuracy: tuple[float, ...] = (0.85, 0.93), inference: bool = True) -> Path:
    """Write a whole log; it succeeds where the best accuracy reaches 0.9."""
    log = RunLog(path)
    log.event("cache_clear", False, reason="the test may not")
    log.start("init")
    for key, value in BEFORE.items():
        log.event(key, value)
    log.stop("init")
    log.start("run")
    for epoch, value in enumerate(accuracy, 1):
        log.start("epoch", epoch_num=epoch)
        log.start("eval", epoch_num=epoch)
        log.event("eval_accuracy", value, epoch_num=epoch)
        log.stop("eval")
        log.stop("epoch")
    if inference:
        log.start("inference")
        log.stop("inference")
    log.event("result", {"accuracy": max(accuracy), "target": 0.9})
    if max(accuracy) >= 0.9:
        log.end(SUCCESS)
    else:
        log.end(ABORTED, reason=TARGET_MISSED)
    log.close()
    return path


def events(path: Path) -> list[dict[str, Any]]:
    """Return a log's lines as dictionaries."""
    return [json.loads(line.partition(":::MLLOG ")[2]) for line in path.read_text().splitlines()]


def write_events(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write dictionaries as a log."""
    path.write_text("".join(f":::MLLOG {json.dumps(line)}\n" for line in lines))
    return path


def position(lines: list[dict[str, Any]], key: str) -> int:
    """Return where a key first stands."""
    return next(index for index, line in enumerate(lines) if line["key"] == key)


def check(log: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the official checker's program with our rules, as its user would."""
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--config", str(RULES), *more, str(log)]
    return subprocess.run(command, capture_output=True, text=True, env=clean_environment(), cwd=log.parent, check=False)


def passes(log: Path) -> bool:
    """Whether the checker has no complaint, by its own function, which is faster than its program."""
    import contextlib
    import io
    import logging

    from mlperf_logging.compliance_checker import mlp_compliance

    logging.disable(logging.CRITICAL)
    try:
        mlp_compliance.enqueued_configs.clear()
        checker = mlp_compliance.make_checker("hpc", "3.0.0", quiet=False, werror=False)
        with contextlib.redirect_stdout(io.StringIO()):
            return bool(mlp_compliance.main(str(log), str(RULES), checker)[0])
    finally:
        logging.disable(logging.NOTSET)
