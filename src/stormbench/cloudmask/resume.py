"""Where a run starts from: nothing, this trial's own newest checkpoint, or a checkpoint that the user names."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from stormbench.cloudmask import checkpoint
from stormbench.cloudmask.checkpoint import State
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.split import Split
from stormbench.core.checkpoints import choose
from stormbench.core.errors import UserError
from stormbench.core.runfolder import RunFolder

MODEL = ("width",)
"""A checkpoint of another network can't be used at all."""
SAME_RUN = (
    "global_batch_size", "seed", "peak_learning_rate", "lr_warmup_steps", "loss", "wbce", "clip_offset", "patch_size", "precision",
    "target_accuracy", "cloud_bits", "split",
)  # fmt: skip
"""What a run that goes on, in its own log, can't change. Ranks it can, if the global batch stays."""
_MADE_OF = {
    "global_batch_size": "ranks x --batch_size", "peak_learning_rate": "--learning_rate, with --scale_lr x ranks", "split": "its products",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The state to start from, if any, and whether it continues this trial's own log."""

    state: State | None = None
    continues: bool = False
    note: str = ""


def peak_rate(config: TrainConfig, size: int) -> float:
    """Return the learning rate after warm-up on `size` ranks."""
    return config.learning_rate * (size if config.scale_lr else 1)


def identity(config: TrainConfig, world: World, split: Split) -> dict[str, Any]:
    """Return what a checkpoint tells of its run, as plain values."""
    options = ("width", "seed", "lr_warmup_steps", "loss", "clip_offset", "patch_size", "precision", "target_accuracy", "cloud_bits")
    names = "\n".join((*split.train, "", *split.test))
    return {name: getattr(config, name) for name in options} | {
        "wbce": config.beta,
        "peak_learning_rate": peak_rate(config, world.size),
        "global_batch_size": config.batch_size * world.size,
        "number_of_ranks": world.size,
        "number_of_nodes": world.n_nodes,
        "split": hashlib.sha256(names.encode()).hexdigest()[:12],
    }


def starting_point(config: TrainConfig, world: World, folder: RunFolder | None, mine: dict[str, Any]) -> Start:
    """Decide on rank 0, read the checkpoint on every rank, and check that it fits.

    Raises:
        UserError: the checkpoint that the user names is missing, damaged, or of another run than this one can go on from.
    """
    choice = world.together(lambda: (None, False, "") if folder is None else _choose(config, folder))
    path, continues, note = world.first(choice)
    if path is None:
        return Start()

    def load() -> State:
        state = checkpoint.load(Path(path))
        check(path, state, config, mine, continues=continues)
        return state

    return Start(state=world.together(load), continues=continues, note=note)


def _choose(config: TrainConfig, folder: RunFolder) -> tuple[str | None, bool, str]:
    newest = checkpoint.path_of(folder.checkpoints, config.experiment_id)
    checkpoint.clear_partial(folder.checkpoints, config.experiment_id)
    return choose(newest, config.checkpoint, checkpoint.load, unfinished=folder.unfinished)


def check(path: str, state: State, config: TrainConfig, mine: dict[str, Any], *, continues: bool) -> None:
    """Refuse a checkpoint that this run can't start from, naming the option and both values.

    Raises:
        UserError: the network differs; a run that goes on has changed its options; nothing is left to train.
    """
    theirs, position = state.about["identity"], state.about["position"]
    # in the middle of an epoch, what is left of it depends on these
    order = () if continues or not position["step"] else ("global_batch_size", "seed", "split")
    for name in (*MODEL, *(SAME_RUN if continues else order)):
        if theirs.get(name) != mine[name]:
            what = f"{name} ({_MADE_OF[name]})" if name in _MADE_OF else name
            raise UserError(f"--checkpoint {path}: is of a run with {what} {theirs.get(name)}, this one has {mine[name]}; make them equal")
    epoch = position["epoch"]
    if not continues and epoch > config.epochs:
        raise UserError(f"--epochs {config.epochs}: the checkpoint {path} has {epoch - 1} epochs behind it; raise epochs")


def changes(state: State, mine: dict[str, Any]) -> dict[str, Any]:
    """Return what the log must say anew, by its key: ranks and nodes may differ from those before the stop."""
    return {key: mine[key] for key in ("number_of_ranks", "number_of_nodes") if state.about["identity"].get(key) != mine[key]}
