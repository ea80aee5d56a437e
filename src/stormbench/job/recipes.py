"""DeepCAM's hyperparameters that are known to reach the target, by global batch, and NERSC-10's, which may not be changed.

A learning rate is worth a warning long before it costs a night of node hours.
"""

from __future__ import annotations

import dataclasses

OPTIMIZER = "LAMB"
WEIGHT_DECAY = 0.01
DECAY_RATE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One set that converged to 0.82, all with LAMB and weight decay 0.01; `t_max` is for the cosine, `milestones` for multistep."""

    global_batch: int
    start_lr: float
    schedule: str
    warmup_steps: int
    milestones: tuple[int, ...] = ()
    t_max: int | None = None

    @property
    def words(self) -> str:
        """The schedule as a sentence names it."""
        if self.t_max is not None:
            return f"{self.schedule} with LR_T_MAX={self.t_max}"
        return f"{self.schedule} with LR_MILESTONES={':'.join(map(str, self.milestones))} and LR_DECAY_RATE={DECAY_RATE:g}"


RECIPES = (
    Recipe(global_batch=128, start_lr=0.00155, schedule="cosine_annealing", t_max=9000, warmup_steps=0),
    Recipe(global_batch=256, start_lr=0.002, schedule="multistep", milestones=(4096, 8192), warmup_steps=0),
    Recipe(global_batch=512, start_lr=0.004, schedule="multistep", milestones=(2048, 4096), warmup_steps=100),
    Recipe(global_batch=1024, start_lr=0.004, schedule="multistep", milestones=(1100, 4096), warmup_steps=200),
    Recipe(global_batch=2048, start_lr=0.0055, schedule="multistep", milestones=(800,), warmup_steps=400),
)
NERSC10 = RECIPES[-1]
"""NERSC-10's baseline is the recipe of 2048, with accumulation 1, batch-norm group 1 and the betas below."""
NERSC10_BETAS = (0.9, 0.999)
NERSC10_TARGET = 0.80
NERSC10_EPOCHS = 16
HIGHEST_RATE = max(recipe.start_lr for recipe in RECIPES)


def nearest(global_batch: int) -> Recipe:
    """Return the recipe whose global batch is nearest by ratio: 300 is nearer to 256 than to 512."""
    return min(RECIPES, key=lambda recipe: max(recipe.global_batch, global_batch) / min(recipe.global_batch, global_batch))
