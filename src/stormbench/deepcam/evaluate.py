"""Validation over the whole set: each rank takes its share, every sample counts exactly once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from stormbench.core.clocks import Stopwatch
from stormbench.deepcam import batchnorm
from stormbench.deepcam.agreement import FINE, STOP, agree, together
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.data import Dataset
from stormbench.deepcam.data.loader import Loader
from stormbench.deepcam.data.sampler import validation_share
from stormbench.deepcam.loss import weighted_cross_entropy
from stormbench.deepcam.metric import IoU
from stormbench.deepcam.state import Parts
from stormbench.deepcam.wire import Wire, sum_over_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """IoU (mean over samples of the mean over classes), per class, mean loss, samples counted over all ranks, seconds."""

    iou: float
    class_iou: tuple[float, ...]
    loss: float
    samples: int
    seconds: float


def score_share(parts: Parts, wire: Wire, config: TrainConfig, stop: Callable[[], bool]) -> torch.Tensor | None:
    """Score this rank's share of the validation set with the bare network; no communication. None where `stop` became true.

    Returns a float64 vector on the rank's device: the state of `metric.IoU`, then the sum of the samples' losses. The
    vectors of all ranks add up to that of the whole set.
    """
    dataset, model = parts.data.validation, parts.model
    order = validation_share(len(dataset), wire.world_size, wire.rank)
    score, loss_sum = IoU(), 0.0
    model.eval()
    try:
        with torch.inference_mode(), make_loader(dataset, order, config.local_batch_size_validation, wire, config) as loader:
            for image_nchw, label_nhw in loader:
                if stop():
                    return None
                with parts.autocast:
                    logits_nchw = model(image_nchw)
                    loss = weighted_cross_entropy(logits_nchw, label_nhw)
                loss_sum += float(loss) * len(label_nhw)
                score.update(logits_nchw.argmax(1), label_nhw)
    finally:
        model.train()
    return torch.cat([score.state().to(wire.device), torch.tensor([loss_sum], dtype=torch.float64, device=wire.device)])


def evaluate(parts: Parts, wire: Wire, config: TrainConfig, stop: Callable[[], bool]) -> Validation | None:
    """Combine the batch-norm statistics of all ranks, then score the whole validation set, every sample once.

    Returns None on every rank where `stop` became true on one.
    """
    watch = Stopwatch()
    batchnorm.combine_statistics(parts.model)
    scores = together(wire, lambda: score_share(parts, wire, config, stop))
    if agree(wire, STOP if scores is None else FINE) == STOP:
        return None
    assert scores is not None
    totals = sum_over_ranks(wire, scores)
    result = IoU.from_state(totals[:-1]).result()
    return Validation(
        iou=result.mean,
        class_iou=tuple(result.per_class),
        loss=float(totals[-1]) / result.samples,
        samples=result.samples,
        seconds=watch.seconds(),
    )


def make_loader(dataset: Dataset, order: np.ndarray, batch: int, wire: Wire, config: TrainConfig) -> Loader:
    """Return a loader over positions, with this run's threads and memory format."""
    return Loader(
        dataset, order, batch=batch, threads=config.data_num_threads, device=wire.device, channels_last=config.enable_nhwc
    )
