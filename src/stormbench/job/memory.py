"""Estimates of the memory that training takes on one rank, so that a local batch that can't fit is refused before it queues.

GB are 10**9 bytes, as makers count an accelerator's memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

DEEPCAM_WEIGHTS_GB = 0.9
"""56.5 million weights in float32 with gradients and two moments: 56,454,720 x 4 x 4 bytes."""
DEEPCAM_SAMPLE_GB = 5.6
"""Activations of one 768 x 1152 sample in float32: 6.5 GB measured at batch 1, less the weights'."""
DEEPCAM_FORWARD_GB = 0.52
"""A sample without its backward pass: 16 input channels and 3 of logits in full size (0.067 GB), and the decoder's widest layer,
256 channels at half size, as input and output of a step (2 x 0.227 GB), in float32."""
DEEPCAM_PIXELS = 768 * 1152
SEEN = {16.0: 2}
"""Local batches that a site found to be the largest, by the GB of its GPUs, where the estimate alone would allow more."""
MIXED_PRECISION = 0.55
"""Activations of mixed precision against float32: most are halved, statistics and the loss stay."""
MOST = 10**12
"""No batch or image is larger; what a config gives beyond it counts as this, as a float couldn't hold every whole number."""
UNET_CHANNELS, UNET_LEVELS, UNET_BOTTLENECK = 9, (32, 64, 128), 256
UNET_WEIGHTS = 1_948_609


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Memory of one rank: `fixed_gb` whatever the batch, and `sample_gb` for each sample of it."""

    fixed_gb: float
    sample_gb: float

    def total(self, batch: int) -> float:
        """Return the GB that `batch` samples take."""
        return self.fixed_gb + min(batch, MOST) * self.sample_gb

    def largest(self, available_gb: float) -> int:
        """Return the largest batch that fits, 0 where not even one sample does."""
        room = max(0.0, available_gb - self.fixed_gb)
        return int(room / self.sample_gb) if room < self.sample_gb * MOST else MOST


def deepcam(width: float = 1.0, mixed: bool = False, pixels: int = DEEPCAM_PIXELS, training: bool = True) -> Need:
    """Return what DeepCAM needs: weights grow with the square of the network's width, activations with the width and the pixels."""
    sample = (DEEPCAM_SAMPLE_GB if training else DEEPCAM_FORWARD_GB) * width * min(pixels, MOST) / DEEPCAM_PIXELS
    return Need(fixed_gb=DEEPCAM_WEIGHTS_GB * width**2, sample_gb=sample * (MIXED_PRECISION if mixed else 1))


def cloudmask(patch: int = 256, mixed: bool = False) -> Need:
    """Return what CloudMask's U-Net needs for patches of `patch` x `patch` pixels."""
    sample = 4 * unet_kept(patch) / 1e9
    return Need(fixed_gb=UNET_WEIGHTS * 4 * 4 / 1e9, sample_gb=sample * (MIXED_PRECISION if mixed else 1))


def unet_kept(patch: int) -> int:
    """Return the numbers that the backward pass of one patch needs: the output of each of the U-Net's layers.

    A level has two convolutions and a pooling on the way down; an up-sampling, the concatenation [up, skip] and two convolutions on
    the way up (Ronneberger et al. 2015, with the published kit's 32, 64, 128 and 256 filters). 35.1 million for 256 pixels: 0.14 GB.
    """
    kept = UNET_CHANNELS * patch**2
    below = UNET_BOTTLENECK
    for level in reversed(range(len(UNET_LEVELS))):
        filters, pixels = UNET_LEVELS[level], (patch >> level) ** 2
        down = 2 * filters * pixels + filters * pixels // 4
        up = (below + (below + filters) + 2 * filters) * pixels
        kept += down + up
        below = filters
    return kept + 2 * UNET_BOTTLENECK * (patch >> len(UNET_LEVELS)) ** 2 + patch**2


def need(benchmark: str, workload: Any, training: bool = True) -> Need | None:
    """Return what the typed options of a benchmark ask of one rank, in training or in validation; None where no estimate is known."""
    if benchmark == "deepcam":
        dummy = workload.data_format == "dummy"
        pixels = workload.dummy_height * workload.dummy_width if dummy else DEEPCAM_PIXELS
        return deepcam(workload.width, workload.precision_mode != "fp32", pixels, training)
    if benchmark == "cloudmask" and training:
        return cloudmask(workload.patch_size, workload.precision != "fp32")
    return None
