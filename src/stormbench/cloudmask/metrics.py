"""Scores of cloud masks: pixels counted by time of day, label and prediction, and what follows from the counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("clear", "cloud")
NIGHT, DAY = 0, 1
SIZE = 1 + 2 * 2 * 2
"""Numbers in the vector of one batch: the sum of the pixels' losses, then the counts [time of day][label][prediction]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores over the valid pixels that were counted; None where there are no pixels to tell."""

    loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    f1: float | None
    """Of the cloud class."""
    class_recall: tuple[float | None, ...]
    """Share of each class's pixels that were found: clear, cloud."""
    class_precision: tuple[float | None, ...]
    """Share of the pixels predicted as each class that are of it."""
    class_iou: tuple[float | None, ...]
    cloud_share: float | None
    """Share of cloud in the labels: what always guessing cloud would score."""
    pixels: int


def scores(vector: NDArray[np.float64]) -> Scores:
    """Return the scores of a summed vector of `SIZE` numbers, day and night together."""
    return _scores(vector[1:].reshape(2, 2, 2).sum(0), float(vector[0]))


def scores_apart(vector: NDArray[np.float64]) -> dict[str, Scores]:
    """Return the scores of the day's and the night's pixels, without losses, which are counted together."""
    counts = vector[1:].reshape(2, 2, 2)
    return {"day": _scores(counts[DAY], None), "night": _scores(counts[NIGHT], None)}


def as_record(vector: NDArray[np.float64], prefix: str) -> dict[str, Any]:
    """Return all scores under names that begin with `prefix`, for metrics.jsonl; classes are named."""
    found = {f"{prefix}_{name}": _plain(value) for name, value in dataclasses.asdict(scores(vector)).items()}
    for part, apart in scores_apart(vector).items():
        values = {name: _plain(value) for name, value in dataclasses.asdict(apart).items() if name != "loss"}
        found |= {f"{prefix}_{part}_{name}": value for name, value in values.items()}
    return found


def _scores(count: NDArray[np.float64], loss_sum: float | None) -> Scores:
    """Return the scores of counts [label][prediction]."""
    total, right = float(count.sum()), np.diagonal(count)
    labelled, predicted = count.sum(1), count.sum(0)
    recall = tuple(_ratio(right[k], labelled[k]) for k in range(2))
    known = [value for value in recall if value is not None]
    return Scores(
        loss=None if loss_sum is None else _ratio(loss_sum, total),
        accuracy=_ratio(right.sum(), total),
        balanced_accuracy=sum(known) / 2 if len(known) == 2 else None,
        f1=_ratio(2 * right[1], labelled[1] + predicted[1]),
        class_recall=recall,
        class_precision=tuple(_ratio(right[k], predicted[k]) for k in range(2)),
        class_iou=tuple(_ratio(right[k], labelled[k] + predicted[k] - right[k]) for k in range(2)),
        cloud_share=_ratio(labelled[1], total),
        pixels=round(total),
    )


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _plain(value: Any) -> Any:
    return dict(zip(CLASS_NAMES, value, strict=True)) if isinstance(value, tuple) else value
