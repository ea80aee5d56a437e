"""Every option of CloudMask training, each declared once, so that its jobs can be checked and rendered. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.options import option

HYPER, RUN, DATA, COMPUTE = "hyperparameters", "run", "data", "compute"
PATCH_MULTIPLE = 8
"""The U-Net halves a patch three times."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run of the cloud-mask U-Net. Defaults are the published ones."""

    epochs: int = option(30, variable="STORMBENCH_CLOUDMASK_EPOCHS", group=HYPER, unit="epochs", minimum=1, help="Epochs to train.")
    batch_size: int = option(
        32, variable="STORMBENCH_CLOUDMASK_BATCH_SIZE", group=HYPER, unit="patches per rank", minimum=1, help="Local batch."
    )
    learning_rate: float = option(
        0.001, variable="STORMBENCH_CLOUDMASK_LEARNING_RATE", group=HYPER, above=0, help="Learning rate of Adam."
    )
    scale_lr: bool = option(
        False, variable="STORMBENCH_CLOUDMASK_SCALE_LR", group=HYPER, help="Multiplies the learning rate by the number of ranks."
    )
    loss: str = option(
        "weighted", variable="STORMBENCH_CLOUDMASK_LOSS", group=HYPER, choices=("weighted", "bce"),
        help="Weighted cross entropy (end-to-end form) or plain binary cross entropy (MLCommons form).",
    )
    wbce: float = option(
        0.5, variable="STORMBENCH_CLOUDMASK_WBCE", group=HYPER, above=0, help="Weight of the cloud class in the weighted loss."
    )
    clip_offset: int = option(
        15, variable="STORMBENCH_CLOUDMASK_CLIP_OFFSET", group=HYPER, unit="pixels", minimum=0,
        help="Pixels at each edge of a patch that the loss leaves out.",
    )
    patch_size: int = option(
        256, variable="STORMBENCH_CLOUDMASK_PATCH_SIZE", group=HYPER, unit="pixels", minimum=8, maximum=1024,
        help="Edge of a training patch, a multiple of 8.",
    )
    train_split: float = option(
        0.8, variable="STORMBENCH_CLOUDMASK_TRAIN_SPLIT", group=HYPER, above=0, below=1, help="Share of the products to train on."
    )
    seed: int = option(
        1234, variable="SEED", group=HYPER, minimum=1, maximum=2**32 - 1, help="Decides the initial weights, the split and the order."
    )

    output_dir: Path = option(Path("results"), variable="LOGDIR", group=RUN, metavar="DIR", help="Run folders are made below this folder.")
    run_tag: str | None = option(None, variable="RUN_TAG", group=RUN, help="Name of the run folder.")
    experiment_id: int = option(1, variable="EXPERIMENT_ID", group=RUN, minimum=0, help="Number of the trial.")
    strategy: str = option(
        "horovod", variable="STORMBENCH_CLOUDMASK_STRATEGY", group=RUN, choices=("horovod", "mirrored", "multiworker", "none"),
        help="How ranks train together.",
    )

    data_dir: Path | None = option(None, variable="DATADIR", group=DATA, metavar="DIR", help="Folder with the converted products.")
    cache: str = option(
        "memory", variable="STORMBENCH_CLOUDMASK_CACHE", group=DATA, choices=("memory", "disk", "none"), help="Where patches are kept."
    )

    precision: str = option(
        "fp32", variable="STORMBENCH_CLOUDMASK_PRECISION", group=COMPUTE, choices=("fp32", "bf16", "mixed"), help="Number format."
    )
    cpu_only: bool = option(False, variable="STORMBENCH_CLOUDMASK_CPU_ONLY", group=COMPUTE, help="Uses no GPU.")

    def validate(self, origins: Mapping[str, str]) -> None:
        """Check what holds between options. Raises UserError."""
        if self.patch_size % PATCH_MULTIPLE:
            where = origins.get("patch_size", "--patch_size")
            raise UserError(f"{where}: must be a multiple of {PATCH_MULTIPLE}, as the network halves a patch three times")
        if 2 * self.clip_offset >= self.patch_size:
            where = origins.get("clip_offset", "--clip_offset")
            raise UserError(f"{where}: leaves nothing of a patch of {self.patch_size} pixels; use less than {self.patch_size // 2}")
