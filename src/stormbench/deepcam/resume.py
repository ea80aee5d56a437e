"""Where a run starts from: nothing, this trial's own newest checkpoint, or a checkpoint that the user names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stormbench.core.checkpoints import choose
from stormbench.core.errors import UserError
from stormbench.core.options import plain
from stormbench.core.runfolder import RunFolder
from stormbench.deepcam import checkpoint
from stormbench.deepcam.agreement import together
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.wire import Wire, from_rank0

MODEL = ("channels", "width", "optimizer")
"""A checkpoint of another model or optimizer can't be used at all."""
SAME_RUN = (
    "seed", "start_lr", "optimizer_betas", "weight_decay", "lr_warmup_steps", "lr_warmup_factor", "schedule", "batchnorm_group_size",
    "precision_mode", "target_iou", "shuffle_mode", "submission_division", "disable_validation", "train_samples", "validation_samples",
)  # fmt: skip
"""What a run that goes on, in its own log, can't change. Ranks and batches it can."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The state to start from, if any, and whether it continues this trial's own log."""

    state: dict[str, Any] | None = None
    continues: bool = False
    note: str = ""


def identity(config: TrainConfig, *, world_size: int, n_nodes: int, train_samples: int, validation_samples: int) -> dict[str, Any]:
    """Return what a checkpoint tells of its run, under the options' names, as plain values."""
    told = {name: plain(getattr(config, name)) for name in (*MODEL, *SAME_RUN) if hasattr(config, name) and name != "schedule"}
    schedule = config.schedule()
    return told | {
        "schedule": plain(schedule) if schedule.type else "none",
        "local_batch_size": config.local_batch_size,
        "gradient_accumulation_frequency": config.gradient_accumulation_frequency,
        "global_batch_size": config.global_batch_size(world_size),
        "num_workers": world_size,
        "number_of_nodes": n_nodes,
        "train_samples": train_samples,
        "validation_samples": validation_samples,
    }


def starting_point(config: TrainConfig, wire: Wire, folder: RunFolder | None, mine: dict[str, Any]) -> Start:
    """Decide on rank 0, read the checkpoint on every rank, and check that it fits.

    Raises:
        UserError: the checkpoint that the user names is missing, damaged, or of another run than this one can go on from.
    """

    def choose() -> tuple[str | None, bool, str]:
        return (None, False, "") if folder is None else _choose(config, folder)

    path, continues, note = from_rank0(wire, together(wire, choose))
    if path is None:
        return Start()

    def load() -> dict[str, Any]:
        state = checkpoint.load(Path(path))
        check(path, state, config, mine, continues=continues)
        return state

    return Start(state=together(wire, load), continues=continues, note=note)


def _choose(config: TrainConfig, folder: RunFolder) -> tuple[str | None, bool, str]:
    newest = folder.checkpoints / checkpoint.file_name(config.model_prefix, config.experiment_id)
    checkpoint.clear_partial(newest)
    return choose(newest, config.checkpoint, checkpoint.load, unfinished=folder.unfinished)


def check(path: str, state: dict[str, Any], config: TrainConfig, mine: dict[str, Any], *, continues: bool) -> None:
    """Refuse a checkpoint that this run can't start from, naming the option and both values.

    Raises:
        UserError: the model or the optimizer differs; a run that goes on has changed its options; nothing is left to train.
    """
    for name in (*MODEL, *(SAME_RUN if continues else ())):
        theirs, ours = state["identity"].get(name), mine[name]
        if theirs != ours:
            raise UserError(f"--checkpoint {path}: is of a run with {name} {_text(theirs)}, this one has {_text(ours)}; make them equal")
    epoch = state["position"]["epoch"]
    if not continues and epoch > config.max_epochs:
        raise UserError(f"--max_epochs {config.max_epochs}: the checkpoint {path} has {epoch - 1} epochs behind it; raise max_epochs")


def changes(state: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """Return what the log must say anew, by its key: ranks, nodes and batch may differ from those before the stop."""
    keys = ("global_batch_size", "gradient_accumulation_frequency", "num_workers", "number_of_nodes")
    return {key: mine[key] for key in keys if state["identity"].get(key) != mine[key]}


def step_now(state: dict[str, Any], mine: dict[str, Any]) -> int:
    """Return how many updates of the epoch count as done.

    With the same global batch, dealt globally, the samples of each step are the same on any number of ranks; otherwise the
    epoch goes on behind as many whole global batches of now as fit into the samples that it has seen.
    """
    before = state["identity"]["global_batch_size"]
    return int(state["position"]["step"]) * int(before) // int(mine["global_batch_size"])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={_text(item)}" for name, item in value.items() if item is not None)
    return str(value)
