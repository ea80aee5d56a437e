"""The training loop: weight updates, epochs, validation, and where it may stop and go on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from stormbench.core.clocks import Stopwatch, now_ms
from stormbench.core.errors import RunError
from stormbench.core.mllog import RunLog
from stormbench.core.progress import progress
from stormbench.core.signals import SignalWatch
from stormbench.deepcam import schedule
from stormbench.deepcam.agreement import FINE, STOP, agree, together
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.data.loader import Loader
from stormbench.deepcam.data.sampler import epoch_order
from stormbench.deepcam.evaluate import evaluate, make_loader
from stormbench.deepcam.loss import weighted_cross_entropy
from stormbench.deepcam.state import Parts, Position
from stormbench.deepcam.wire import Wire, sum_over_ranks

CUDA_AGREEMENT_INTERVAL = 16
"""Steps between agreements on a GPU, where each one would otherwise drain the queue of kernels."""


class Trainer:
    """Trains until the target, the last epoch or a request to stop; `position` and `parts` are its whole state."""

    def __init__(
        self, config: TrainConfig, wire: Wire, parts: Parts, *, log: RunLog, watch: SignalWatch,
        metric: Callable[..., None], save: Callable[[], None], position: Position,
    ) -> None:  # fmt: skip
        self.config, self.wire, self.parts, self.position = config, wire, parts, position
        self._log, self._watch, self._metric, self._save = log, watch, metric, save
        self._schedule = config.schedule()
        self._global_batch = config.global_batch_size(wire.world_size)
        on_gpu = wire.device.type == "cuda"
        self._agreement_interval = CUDA_AGREEMENT_INTERVAL if on_gpu and wire.world_size > 1 else 1
        self._synchronize = torch.cuda.synchronize if on_gpu else lambda: None

    def fit(self) -> bool:
        """Train until the target or the last epoch. Returns False where it stopped before, as asked."""
        position = self.position
        while self._more():
            if self._stop_wanted(at_boundary=True):
                return False
            if position.step == 0:
                if position.epoch == 1:
                    position.first_epoch_start_ms = now_ms()
                self._log.start("epoch", epoch_num=position.epoch, step_num=position.global_step)
            if not self._train_epoch():
                return False
            record = self._close_epoch()
            if record is None:
                return False
            self._log.stop("epoch", step_num=position.global_step)
            record["end_ms"] = now_ms()
            position.history.append(record)
            self._metric(kind="epoch", **record)
            position.next_epoch()
        return True

    def learning_rate(self, step: int) -> float:
        """Return the rate of the 0-based weight update `step`."""
        config, plan = self.config, self._schedule
        return schedule.learning_rate(
            step, config.start_lr, type=plan.type, warmup_steps=config.lr_warmup_steps, warmup_factor=config.lr_warmup_factor,
            milestones=plan.milestones, decay_rate=plan.decay_rate, t_max=plan.t_max, eta_min=plan.eta_min,
        )  # fmt: skip

    def _more(self) -> bool:
        position, config = self.position, self.config
        reached = position.target_epoch is not None and position.epoch > config.min_epochs
        return position.epoch <= config.max_epochs and not reached

    def _train_epoch(self) -> bool:
        """Train the rest of the epoch; returns False where a stop was asked for."""
        config, position, wire = self.config, self.position, self.wire
        order = epoch_order(
            len(self.parts.data.train), position.epoch, config.seed, wire.world_size, wire.rank, config.local_batch_size,
            config.gradient_accumulation_frequency, config.shuffle_mode, max(1, wire.world_size // wire.n_nodes),
        )  # fmt: skip
        steps = len(order)
        rest = order[position.step :]
        self.parts.network.train()
        # sums stay on the device: reading a loss would wait for every kernel before it
        loss_sum = torch.zeros((), dtype=torch.float64, device=wire.device)
        watch, since_line, stopped = Stopwatch(), Stopwatch(), False
        reported = position.global_step
        with make_loader(self.parts.data.train, rest, config.local_batch_size, wire, config) as loader, progress(
            steps, f"epoch {position.epoch}", enabled=wire.rank == 0
        ) as bar:
            bar.done = position.step
            batches = iter(loader)
            while position.step < steps:
                micro_batches = self._next_micro_batches(batches)
                loss = self._update(micro_batches)
                loss_sum += loss.double()
                position.step += 1
                position.global_step += 1
                bar.advance()
                every = config.logging_frequency
                if every and position.global_step % every == 0:
                    samples = (position.global_step - reported) * self._global_batch
                    self._report_step(loss, samples, since_line.restart())
                    reported = position.global_step
                if config.save_frequency and position.global_step % config.save_frequency == 0 and position.step < steps:
                    self._account(loss_sum, watch, loader)
                    self._save()
                if position.step < steps and self._stop_wanted():
                    stopped = True
                    break
            self._account(loss_sum, watch, loader)
        return not stopped

    def _account(self, loss_sum: torch.Tensor, watch: Stopwatch, loader: Loader) -> None:
        """Move the running sums of the epoch into the position, which checkpoints hold, if training hasn't diverged."""
        self._synchronize()
        self.position.loss_sum += float(loss_sum)
        loss_sum.zero_()
        self.position.epoch_seconds += watch.restart()
        self.position.waited_s += loader.waited_s
        loader.waited_s = 0.0
        together(self.wire, self._check_loss)

    def _check_loss(self) -> None:
        if not math.isfinite(self.position.loss_sum):
            raise RunError(
                f"the loss of epoch {self.position.epoch} is not a finite number at step {self.position.step}; "
                "lower --start_lr, lengthen --lr_warmup_steps, or use --precision_mode fp32"
            )

    def _next_micro_batches(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Take the first micro-batch of the next update; where it can't be read, every rank learns of it here."""
        yield together(self.wire, lambda: next(batches)) if self._agreement_interval == 1 else next(batches)
        for _ in range(self.config.gradient_accumulation_frequency - 1):
            yield next(batches)

    def _update(self, micro_batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Do one weight update from all micro-batches of this rank; returns the mean loss over them, on the device."""
        config, parts = self.config, self.parts
        accumulation = config.gradient_accumulation_frequency
        rate = self.learning_rate(self.position.global_step)
        for group in parts.optimizer.param_groups:
            group["lr"] = rate
        parts.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.wire.device)
        for number, (image_nchw, label_nhw) in enumerate(micro_batches, start=1):
            with self._communication(number == accumulation):
                with parts.autocast:
                    loss = weighted_cross_entropy(parts.network(image_nchw), label_nhw) / accumulation
                parts.scaler.scale(loss).backward()
            total += loss.detach()
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        return total

    def _communication(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged over ranks with the last micro-batch only."""
        if last or self.wire.world_size == 1:
            return contextlib.nullcontext()
        return self.parts.network.no_sync()  # type: ignore[operator]

    def _stop_wanted(self, *, at_boundary: bool = False) -> bool:
        if not at_boundary and self.position.global_step % self._agreement_interval:
            return False
        return agree(self.wire, STOP if self._watch.stop_requested else FINE) == STOP

    def _report_step(self, loss: torch.Tensor, samples: int, seconds: float) -> None:
        position = self.position
        value, rate = float(loss), self.learning_rate(position.global_step - 1)
        self._metric(
            kind="step", epoch=position.epoch, step=position.global_step, loss=value if math.isfinite(value) else None,
            learning_rate=rate, samples=samples, samples_per_s=samples / seconds,
        )  # fmt: skip

    def _close_epoch(self) -> dict[str, Any] | None:
        """Validate, log, and return the epoch's figures, reduced over all ranks; None where a stop was asked for meanwhile."""
        config, position, wire = self.config, self.position, self.wire
        samples = position.step * self._global_batch
        sums = sum_over_ranks(wire, torch.tensor([position.loss_sum, position.waited_s], dtype=torch.float64, device=wire.device))
        record: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.global_step,
            "learning_rate": self.learning_rate(position.global_step - 1),
            "train_loss": float(sums[0]) / wire.world_size / position.step,
            "train_samples": samples,
            "train_seconds": position.epoch_seconds,
            "samples_per_s": samples / position.epoch_seconds,
            "waiting_for_data": float(sums[1]) / wire.world_size / position.epoch_seconds,
        }
        if config.disable_validation:
            self._log.event("throughput", record["samples_per_s"], epoch_num=position.epoch, unit="samples/s")
            return record
        began_ms = now_ms()
        found = evaluate(self.parts, wire, config, stop=lambda: self._watch.stop_requested)
        if found is None:
            return None
        # written together, so that a validation that is done again after a stop stands in the log once
        self._log.event("throughput", record["samples_per_s"], began_ms, epoch_num=position.epoch, unit="samples/s")
        self._log.start("eval", began_ms=began_ms, epoch_num=position.epoch, step_num=position.global_step)
        self._log.event("eval_accuracy", found.iou, epoch_num=position.epoch, step_num=position.global_step)
        self._log.event("eval_loss", found.loss, epoch_num=position.epoch, step_num=position.global_step)
        self._log.stop("eval")
        position.best_iou = max(position.best_iou, found.iou)
        if position.target_epoch is None and found.iou >= config.target_iou:
            position.target_epoch, position.target_ms = position.epoch, now_ms()
            self._log.event("target_reached", found.iou, epoch_num=position.epoch, target_iou=config.target_iou)
        return record | {
            "iou": found.iou, "class_iou": list(found.class_iou), "validation_loss": found.loss,
            "validation_samples": found.samples, "validation_seconds": found.seconds,
        }  # fmt: skip
