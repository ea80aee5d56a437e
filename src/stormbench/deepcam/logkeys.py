"""The run's parameters in the MLPerf log: the keys of the official checker and the older ones of the benchmark's own table."""

from __future__ import annotations

from typing import Any

from stormbench.core.mllog import RunLog
from stormbench.core.options import options_of, plain
from stormbench.core.provenance import describe_host
from stormbench.deepcam.config import TrainConfig

EPS = 1e-6
"""Fixed by the benchmark for every optimizer."""
LAMB_FIXED = {"bias_correction": True, "grad_averaging": True, "max_grad_norm": 1.0}


def log_submission(log: RunLog, config: TrainConfig) -> None:
    """Log who submits what; missing values are said to be missing rather than invented."""
    log.event("submission_benchmark", "deepcam")
    log.event("submission_org", config.submission_org)
    log.event("submission_division", config.submission_division)
    log.event("submission_status", config.submission_status)
    log.event("submission_platform", config.submission_platform or describe_host())


def log_cache_clear(log: RunLog, config: TrainConfig, time_ms: int | None = None) -> None:
    """Log whether every node's file cache was dropped before the run, which began at `time_ms`."""
    if config.cache_cleared:
        log.event("cache_clear", True, time_ms)
    else:
        log.event("cache_clear", False, time_ms, reason=config.cache_reason)


def log_parameters(
    log: RunLog, config: TrainConfig, *, world_size: int, n_nodes: int, accelerators_per_node: int, n_train: int, n_validation: int
) -> None:
    """Log every hyperparameter under its old and its new key, and what follows from them and the layout."""
    for spec in options_of(TrainConfig):
        for key in spec.log_keys:
            log.event(key, plain(getattr(config, spec.name)))
    for key in ("opt_eps", "optimizer_group0_eps"):
        log.event(key, EPS)
    if config.optimizer == "LAMB":
        for name, value in LAMB_FIXED.items():
            log.event(f"opt_{name}", value)
            log.event(f"optimizer_group0_{name}", value)
    for key, value in schedule_keys(config).items():
        log.event(key, value)
    log.event("global_batch_size", config.global_batch_size(world_size))
    log.event("num_workers", world_size)
    log.event("number_of_nodes", n_nodes)
    log.event("accelerators_per_node", accelerators_per_node)
    log.event("train_samples", n_train)
    log.event("eval_samples", n_validation)
    log.event("target_iou", config.target_iou)
    log.event("model_width", config.width)


def schedule_keys(config: TrainConfig) -> dict[str, Any]:
    """Return the schedule's log entries; a constant rate is a multistep schedule without milestones."""
    schedule = config.schedule()
    if schedule.type == "cosine_annealing":
        return {"scheduler_type": schedule.type, "scheduler_t_max": schedule.t_max, "scheduler_eta_min": schedule.eta_min}
    constant = schedule.type is None
    return {
        "scheduler_type": "multistep",
        "scheduler_milestones": [] if constant else list(schedule.milestones),
        "scheduler_decay_rate": 1.0 if constant else schedule.decay_rate,
    }
