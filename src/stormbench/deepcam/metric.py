"""Intersection over union, the accuracy of DeepCAM, and an accumulator whose states add up over ranks without rounding."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from stormbench.core.errors import UserError

_HIGH = 2.0**26
_LOW = 2.0**27


class LabelError(UserError, ValueError):
    """Predictions, logits or labels whose shapes or class numbers don't fit."""


def confusion(prediction_nhw: Tensor, label_nhw: Tensor, n_classes: int = 3) -> Tensor:
    """Count pixels by sample, label and predicted class: (n, label, prediction), int64, by one bincount.

    Both arguments hold class numbers of any integer type and have the same shape (n, h, w).

    Raises:
        LabelError: the shapes differ, a type is no integer, or a number is outside 0 to `n_classes` - 1.
    """
    if prediction_nhw.ndim != 3 or prediction_nhw.shape != label_nhw.shape:
        raise LabelError(
            f"needs predictions and labels of the same shape (n, h, w), not {tuple(prediction_nhw.shape)} and {tuple(label_nhw.shape)}"
        )
    prediction_nhw = _class_numbers(prediction_nhw, "predictions", n_classes)
    label_nhw = _class_numbers(label_nhw, "labels", n_classes)
    n = len(label_nhw)
    offset_n11 = torch.arange(n, device=label_nhw.device).view(n, 1, 1).mul_(n_classes)
    cell_nhw = torch.add(prediction_nhw, label_nhw + offset_n11, alpha=n_classes)
    return torch.bincount(cell_nhw.flatten(), minlength=n * n_classes**2).view(n, n_classes, n_classes)


def class_iou(confusion_ncc: Tensor) -> Tensor:
    """Return intersection / union of each sample and class, (n, c) float64; 1 where a class is neither predicted nor labelled."""
    intersection_nc = confusion_ncc.diagonal(dim1=1, dim2=2)
    union_nc = confusion_ncc.sum(1) + confusion_ncc.sum(2) - intersection_nc
    ratio_nc = intersection_nc.double() / union_nc.clamp(min=1)
    return torch.where(union_nc == 0, 1.0, ratio_nc)


def iou(prediction_nhw: Tensor, label_nhw: Tensor, n_classes: int = 3) -> float:
    """Return the mean over samples of the mean over classes of intersection / union; an empty union counts 1.

    Raises:
        LabelError: see `confusion`; or there is no sample.
    """
    if len(label_nhw) == 0:
        raise LabelError("needs at least one sample, 0 given")
    return float(class_iou(confusion(prediction_nhw, label_nhw, n_classes)).mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class IoUResult:
    """Mean over samples and classes, mean over samples of each class in label order, and the samples counted."""

    mean: float
    per_class: tuple[float, ...]
    samples: int


class IoU:
    """Sums intersection over union over batches and, by adding the `state()` of all ranks, over ranks.

    Each value is held to 2**-53 as a high and a low whole number, so the sums of up to 2**26 samples are exact in float64: the result
    is the same to the last bit however the samples are spread over batches and ranks.
    """

    def __init__(self, n_classes: int = 3) -> None:
        self._n_classes = n_classes
        self._state = torch.zeros(2 * n_classes + 1, dtype=torch.float64)

    @classmethod
    def from_state(cls, state: Tensor) -> IoU:
        """Return the accumulator of a state, such as the sum of all ranks' states."""
        made = cls((state.numel() - 1) // 2)
        made._state = state.detach().double().clone()
        return made

    def update(self, prediction_nhw: Tensor, label_nhw: Tensor) -> None:
        """Add the samples of a batch of class numbers, both (n, h, w). Raises LabelError, see `confusion`."""
        scaled_nc = class_iou(confusion(prediction_nhw, label_nhw, self._n_classes)) * _HIGH
        high_nc = scaled_nc.round()
        low_nc = ((scaled_nc - high_nc) * _LOW).round()
        count = scaled_nc.new_tensor([len(scaled_nc)])
        self._state = self._state.to(scaled_nc.device) + torch.cat([high_nc.sum(0), low_nc.sum(0), count])

    def state(self) -> Tensor:
        """Return the sums as one float64 vector: high parts of the classes, low parts, number of samples. States may be added."""
        return self._state.clone()

    def result(self) -> IoUResult:
        """Return the means over all samples so far.

        Raises:
            LabelError: there are none.
        """
        *sums, count = self._state.tolist()
        if count < 1:
            raise LabelError("needs at least one sample, 0 given")
        highs, lows = sums[: self._n_classes], sums[self._n_classes :]
        per_class = tuple((high + low / _LOW) / _HIGH / count for high, low in zip(highs, lows, strict=True))
        return IoUResult(mean=sum(per_class) / self._n_classes, per_class=per_class, samples=int(count))


def _class_numbers(tensor: Tensor, name: str, n_classes: int) -> Tensor:
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        raise LabelError(f"{name} are {tensor.dtype}; give class numbers of an integer type")
    whole = tensor.long()
    if whole.numel():
        low, high = torch.stack(torch.aminmax(whole)).tolist()
        if low < 0 or high >= n_classes:
            raise LabelError(f"{name} go from {low} to {high}, but there are {n_classes} classes, 0 to {n_classes - 1}")
    return whole
