"""The class-weighted cross entropy of DeepCAM: storms are rare, so each class counts by a power of its published frequency."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stormbench.deepcam.metric import LabelError

CLASS_NAMES = ("background", "tropical cyclone", "atmospheric river")
CLASS_FREQUENCIES = (0.986267818390377, 0.0004578708870701058, 0.01327431072255291)
"""Share of the pixels of the published data set in each class, in label order."""
WEIGHT_EXPONENT = -0.125
_NO_LABEL = -(2**62)


def class_weights() -> tuple[float, ...]:
    """Return the weight of each class, frequency ** -0.125: about 1.002, 2.615 and 1.716."""
    return tuple(frequency**WEIGHT_EXPONENT for frequency in CLASS_FREQUENCIES)


def weighted_cross_entropy(logits_nchw: Tensor, label_nhw: Tensor, weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """Return the mean over all pixels of -weights[label] * log softmax(logits)[label], a scalar.

    The sum is divided by the number of pixels, not by the sum of their weights as torch's weighted "mean" does. Half-precision logits
    are computed in float32, also under autocast; float64 stays. `label_nhw` may have any integer type.

    Raises:
        LabelError: shapes or the number of weights don't fit, or (on a CPU, where it costs nothing to know) a label is no class.
    """
    n_classes = _check(logits_nchw, label_nhw)
    dtype = torch.promote_types(logits_nchw.dtype, torch.float32)
    weight_c = _weights(weights, n_classes, logits_nchw.device, dtype)
    # the kernel that also sums is faster on a CPU; on a GPU it uses atomics and is refused in deterministic runs
    reduction = "sum" if logits_nchw.device.type == "cpu" else "none"
    with torch.autocast(logits_nchw.device.type, enabled=False):
        try:
            # torch's default ignore_index of -100 would leave such pixels out in silence
            loss = F.cross_entropy(logits_nchw.to(dtype), label_nhw.long(), weight_c, reduction=reduction, ignore_index=_NO_LABEL)
        except IndexError:
            low, high = (int(bound) for bound in torch.aminmax(label_nhw.long()))
            raise LabelError(f"labels go from {low} to {high}, but there are {n_classes} classes, 0 to {n_classes - 1}") from None
        return loss.sum() / label_nhw.numel()


def _check(logits_nchw: Tensor, label_nhw: Tensor) -> int:
    if logits_nchw.ndim != 4 or label_nhw.ndim != 3:
        raise LabelError(f"needs logits (n, c, h, w) and labels (n, h, w), not {tuple(logits_nchw.shape)} and {tuple(label_nhw.shape)}")
    n, n_classes, height, width = logits_nchw.shape
    if label_nhw.shape != (n, height, width):
        raise LabelError(f"labels have the shape {tuple(label_nhw.shape)}, but these logits need {(n, height, width)}")
    if label_nhw.dtype.is_floating_point or label_nhw.dtype.is_complex:
        raise LabelError(f"labels are {label_nhw.dtype}; give class numbers of an integer type")
    return n_classes


def _weights(weights: Sequence[float] | Tensor | None, n_classes: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    if weights is None:
        found = _published_weights(device, dtype)
    else:
        found = torch.as_tensor(weights, device=device, dtype=dtype)
    if found.shape != (n_classes,):
        raise LabelError(f"{found.numel()} class weights for {n_classes} classes; give one weight for each class")
    return found


@functools.lru_cache(maxsize=8)
def _published_weights(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the weights on `device`, copied there once: a copy in each step would make the CPU wait for the GPU."""
    # made in validation, a tensor would be an inference tensor, which training could not use
    with torch.inference_mode(False):
        return torch.tensor(class_weights(), device=device, dtype=dtype)
