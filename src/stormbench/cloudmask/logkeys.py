"""The run's parameters in the MLPerf log: the keys of the Science rules, and the options that they leave free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stormbench
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.ranks import World
from stormbench.core import provenance
from stormbench.core.mllog import RunLog
from stormbench.core.options import options_of, plain

BENCHMARK = "cloudmask"


def opened(path: Path, config: TrainConfig, started_ms: int) -> RunLog:
    """Return the log of a run that began at `started_ms`: caches, the start of initialisation, who submits what."""
    log = RunLog(path)
    if config.cache_cleared:
        log.event("cache_clear", True, started_ms)
    else:
        log.event("cache_clear", False, started_ms, reason=config.cache_reason)
    log.start("init", began_ms=started_ms)
    log_submission(log, config)
    return log


def reopened(path: Path, about: Mapping[str, Any], attempt: int, changes: Mapping[str, Any]) -> RunLog:
    """Return the log of a run that goes on, as its checkpoint knows it, with what has changed."""
    log = RunLog(path, append=True, keep_bytes=about["log_bytes"])
    for key, metadata in about["log_open"]:
        log.reopen(key, **metadata)
    log.event("job_resumed", attempt, epoch_num=about["position"]["epoch"])
    for key, value in changes.items():
        log.event(f"resumed_{key}", value)
    return log


def log_submission(log: RunLog, config: TrainConfig) -> None:
    """Log who submits what; missing values are said to be missing rather than invented."""
    log.event("submission_benchmark", BENCHMARK)
    log.event("submission_org", config.submission_org)
    log.event("submission_division", config.submission_division)
    log.event("submission_version", config.submission_version or stormbench.__version__)
    log.event("submission_github_commit_version", provenance.git_commit() or "unknown")
    log.event("submission_status", config.submission_status)
    log.event("submission_platform", config.submission_platform or provenance.describe_host())


def log_parameters(log: RunLog, config: TrainConfig, world: World, *, peak_rate: float, n_train: int, n_test: int, **more: Any) -> None:
    """Log every hyperparameter, and what follows from them and the layout; `n_train` and `n_test` count patches."""
    for spec in options_of(TrainConfig):
        for key in spec.log_keys:
            log.event(key, plain(getattr(config, spec.name)))
    log.event("opt_name", "adam")
    log.event("opt_base_learning_rate", peak_rate)
    log.event("loss_beta", config.beta)
    log.event("global_batch_size", config.batch_size * world.size)
    log.event("number_of_ranks", world.size)
    log.event("number_of_nodes", world.n_nodes)
    log.event("accelerators_per_node", world.gpus * world.local_processes)
    log.event("train_samples", n_train)
    log.event("eval_samples", n_test)
    log.event("target_accuracy", config.target_accuracy)
    for key, value in more.items():
        log.event(key, value)
