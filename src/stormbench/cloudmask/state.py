"""Where a training run stands; all of it goes into checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from stormbench.cloudmask import metrics


@dataclasses.dataclass(kw_only=True)
class Position:
    """`epoch` counts from 1, `step` counts updates within the epoch and `global_step` over all of them.

    The sums (`epoch_seconds`, `patches` of all ranks, `sums` of their scores, `waited_s` of this process) are of the epoch
    under way.
    """

    epoch: int = 1
    step: int = 0
    global_step: int = 0
    epoch_seconds: float = 0.0
    patches: int = 0
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0] * metrics.SIZE)
    waited_s: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int | None = None
    target_epoch: int | None = None
    run_start_ms: int = 0
    target_ms: int | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def of_new_run(self) -> Position:
        """Return the place in the data and the schedule alone, for another run that starts here with figures of its own."""
        return Position(epoch=self.epoch, step=self.step, global_step=self.global_step)

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.step, self.epoch_seconds, self.patches, self.waited_s = 0, 0.0, 0, 0.0
        self.sums = [0.0] * metrics.SIZE
