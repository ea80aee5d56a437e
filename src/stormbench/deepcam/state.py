"""What a training run consists of, and where it stands."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from stormbench.deepcam.data import Dataset


@dataclasses.dataclass(kw_only=True)
class Position:
    """Where the run stands; all of it goes into checkpoints.

    `epoch` counts from 1, `step` counts weight updates within the epoch and `global_step` over all of them. The sums
    (`epoch_seconds`, `loss_sum` of this rank, `waited_s` for data) are of the epoch under way.
    """

    epoch: int = 1
    step: int = 0
    global_step: int = 0
    epoch_seconds: float = 0.0
    loss_sum: float = 0.0
    waited_s: float = 0.0
    best_iou: float = 0.0
    target_epoch: int | None = None
    run_start_ms: int = 0
    target_ms: int | None = None
    first_epoch_start_ms: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def of_new_run(self) -> Position:
        """Return the place in the data and the schedule alone, for another run that starts here with figures of its own."""
        return Position(epoch=self.epoch, step=self.step, global_step=self.global_step, loss_sum=self.loss_sum)

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.step, self.epoch_seconds, self.loss_sum, self.waited_s = 0, 0.0, 0.0, 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Training and validation set; `source` names them for messages; `generated` says that they are no climate data."""

    train: Dataset
    validation: Dataset
    source: str
    generated: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained and with what: `model` is the bare network, `network` the same in its data-parallel wrapping."""

    model: torch.nn.Module
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: torch.amp.autocast
    data: Data
