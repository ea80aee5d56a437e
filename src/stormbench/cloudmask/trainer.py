"""The training loop: updates, epochs, scoring, and where it may stop and go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import metrics
from stormbench.cloudmask.assemble import Parts
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.data import zeros
from stormbench.cloudmask.deal import NOTHING
from stormbench.cloudmask.evaluate import Evaluation, evaluate
from stormbench.cloudmask.loader import Loader
from stormbench.cloudmask.ranks import Batch, World
from stormbench.cloudmask.resume import peak_rate
from stormbench.cloudmask.state import Position
from stormbench.core.clocks import Stopwatch, now_ms
from stormbench.core.errors import RunError, StormbenchError
from stormbench.core.mllog import RunLog
from stormbench.core.progress import progress, say
from stormbench.core.signals import SignalWatch

STOP, FAILED = metrics.SIZE, metrics.SIZE + 1
"""Where the flags stand in what a step returns."""
MUCH_WAITING = 0.1
"""Share of an epoch's time spent waiting for data that is worth a line."""


class Trainer:
    """Trains until the last epoch or a request to stop; `position` and `parts` are its whole state."""

    def __init__(
        self, config: TrainConfig, world: World, parts: Parts, *, log: RunLog, watch: SignalWatch, metric: Callable[..., None],
        save: Callable[[bool], None], position: Position,
    ) -> None:  # fmt: skip
        """`save(best)` writes the checkpoint of the position, and with `best` the model as the best one."""
        self.config, self.world, self.parts, self.position = config, world, parts, position
        self._log, self._watch, self._metric, self._save = log, watch, metric, save
        self._failure: StormbenchError | None = None
        self._stop = False
        self._pending: Any = None

    def fit(self) -> bool:
        """Train until the last epoch, or the target where it ends the run. Returns False where it stopped before, as asked."""
        position = self.position
        while self._more():
            if self.world.any(int(self._watch.stop_requested)):
                return False
            if position.step == 0:
                self._log.start("epoch", epoch_num=position.epoch, step_num=position.global_step)
            if not self._train_epoch() or not self._close_epoch():
                return False
        return True

    def learning_rate(self, step: int) -> float:
        """Return the rate of the 0-based update `step`."""
        peak, warmup = peak_rate(self.config, self.world.size), self.config.lr_warmup_steps
        return peak * min(1.0, (step + 1) / warmup) if warmup else peak

    def _more(self) -> bool:
        position = self.position
        return position.epoch <= self.config.epochs and not (self.config.stop_at_target and position.target_epoch is not None)

    def _train_epoch(self) -> bool:
        """Train the rest of the epoch; returns False where a stop was asked for in its middle."""
        config, position, world = self.config, self.position, self.world
        table = self.parts.deal.epoch(position.epoch)
        counts = np.count_nonzero(table != NOTHING, axis=1)
        full = config.batch_size if world.fixed_batches or config.xla else None
        watch, since_line, since_line_patches = Stopwatch(), Stopwatch(), 0
        with Loader(self.parts.train, self._plan(table[position.step :]), threads=config.data_threads, full=full) as loader, progress(
            len(table), f"epoch {position.epoch}", enabled=world.rank == 0
        ) as bar:
            bar.done = position.step
            while position.step < len(table):
                told = self._update(loader)
                patches = int(counts[position.step])
                position.step += 1
                position.global_step += 1
                position.patches += patches
                since_line_patches += patches
                bar.advance()
                every = config.logging_frequency
                if every and position.global_step % every == 0:
                    self._report_step(told, since_line_patches, since_line.restart())
                    since_line_patches = 0
                if position.step == len(table):
                    break
                if config.save_frequency and position.global_step % config.save_frequency == 0:
                    self._account(watch, loader)
                    self._save(False)
                if self._stop:
                    self._account(watch, loader)
                    return False
            self._account(watch, loader)
        return True

    def _plan(self, table: NDArray[np.int64]) -> list[list[NDArray[np.int64]]]:
        """Return the patches of each step and device of this process."""
        world, deal = self.world, self.parts.deal
        first = world.rank * world.replicas
        places = [deal.places(first + device, world.size) for device in range(world.replicas)]
        return [[row[where][row[where] != NOTHING] for where in places] for row in table]

    def _update(self, loader: Loader) -> Any:
        """Do one update, and then look at what the one before has told: by now a GPU has done with it."""
        batches = self._next(loader)
        flags = np.array([self._watch.stop_requested, self._failure is not None], np.float32)
        rate = np.float32(self.learning_rate(self.position.global_step))
        told = self.parts.steps.train(batches, rate, flags)[0]
        self._take()
        self._pending = told
        return told

    def _next(self, loader: Loader) -> list[Batch]:
        """Return this process's batches; where they can't be read, empty ones, as the others wait in the step, which tells them."""
        if self._failure is None:
            try:
                return loader.next()
            except StormbenchError as error:
                self._failure = error
        return [zeros(self.config.batch_size, self.config.patch_size) for _ in range(self.world.replicas)]

    def _take(self) -> None:
        """Count the scores of the step that is pending, if any, and heed its flags, which all ranks see alike.

        Raises:
            StormbenchError: a rank could not go on; every rank raises it.
        """
        if self._pending is None:
            return
        told = self._pending.numpy().astype(np.float64)
        self._pending = None
        if told[FAILED]:
            self.world.agree(self._failure)
        self.position.sums = (np.asarray(self.position.sums) + told[: metrics.SIZE]).tolist()
        self._stop = self._stop or bool(told[STOP])

    def _account(self, watch: Stopwatch, loader: Loader) -> None:
        """Bring the position up to date with the epoch under way, and see that training hasn't diverged."""
        self._take()
        self.position.epoch_seconds += watch.restart()
        self.position.waited_s += loader.waited_s
        loader.waited_s = 0.0
        if not math.isfinite(self.position.sums[0]):
            # a sum over all ranks, which is the same on each of them
            error = RunError(
                f"the loss of epoch {self.position.epoch} is not a finite number at step {self.position.step}; "
                "lower --learning_rate, lengthen --lr_warmup_steps, or use --precision fp32"
            )
            error.known_to_all = True
            raise error

    def _report_step(self, told: Any, patches: int, seconds: float) -> None:
        found = metrics.scores(told.numpy().astype(np.float64)[: metrics.SIZE])
        loss = found.loss if found.loss is not None and math.isfinite(found.loss) else None
        self._metric(
            kind="step", epoch=self.position.epoch, step=self.position.global_step, loss=loss, accuracy=found.accuracy,
            learning_rate=self.learning_rate(self.position.global_step - 1), patches=patches, imgs_per_s=patches / seconds,
        )  # fmt: skip

    def _close_epoch(self) -> bool:
        """Score the test split, log, and save; returns False where a stop was asked for meanwhile."""
        position, world, parts = self.position, self.world, self.parts
        began_ms = now_ms()
        found = evaluate(parts.steps, parts.test, parts.own_test, world, self.config, stop=lambda: self._watch.stop_requested)
        if found is None:
            return False
        waited = [share / position.epoch_seconds for share in world.gather(position.waited_s)]
        record: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.global_step,
            "learning_rate": self.learning_rate(position.global_step - 1),
            **metrics.as_record(np.asarray(position.sums), "train"),
            **metrics.as_record(found.vector, "test"),
            "train_patches": position.patches,
            "test_patches": found.patches,
            "train_seconds": position.epoch_seconds,
            "test_seconds": found.seconds,
            "imgs_per_s": position.patches / position.epoch_seconds,
            "waiting_for_data": sum(waited) / len(waited),
            "waiting_for_data_worst_rank": max(waited),
        }
        self._log_epoch(record, found, began_ms)
        if max(waited) > MUCH_WAITING and world.rank == 0:
            # the first epoch reads every file, whatever the cache
            said = f"epoch {position.epoch}: {max(waited):.0%} of the time was spent waiting for data"
            say(said if position.epoch == 1 and self.config.epochs > 1 else f"{said}; use a cache, or more --data_threads")
        accuracy = record["test_accuracy"]
        best = accuracy is not None and accuracy > position.best_accuracy
        if best:
            position.best_accuracy, position.best_epoch = accuracy, position.epoch
        record["end_ms"] = now_ms()
        position.history.append(record)
        self._metric(kind="epoch", **record)
        position.next_epoch()
        self._save(best)
        return True

    def _log_epoch(self, record: dict[str, Any], found: Evaluation, began_ms: int) -> None:
        """Write the epoch's figures to the log, all at once: scoring that is done again after a stop stands there once."""
        position, log = self.position, self._log
        number = {"epoch_num": position.epoch, "step_num": position.global_step}
        log.event("throughput", record["imgs_per_s"], began_ms, epoch_num=position.epoch, unit="patches/s")
        log.event("waiting_for_data", record["waiting_for_data"], began_ms, epoch_num=position.epoch, unit="share of training time")
        log.event("train_loss", record["train_loss"], began_ms, **number)
        log.event("train_accuracy", record["train_accuracy"], began_ms, **number)
        log.start("eval", began_ms=began_ms, **number)
        accuracy = record["test_accuracy"]
        if accuracy is not None:
            log.event("eval_accuracy", accuracy, **number)
        for key in ("loss", "balanced_accuracy", "f1"):
            log.event(f"eval_{key}", record[f"test_{key}"], **number)
        for part in metrics.scores_apart(found.vector):
            log.event(f"eval_accuracy_{part}", record[f"test_{part}_accuracy"], **number)
        log.stop("eval")
        if position.target_epoch is None and accuracy is not None and accuracy >= self.config.target_accuracy:
            position.target_epoch, position.target_ms = position.epoch, now_ms()
            log.event("target_reached", accuracy, epoch_num=position.epoch, target_accuracy=self.config.target_accuracy)
        log.stop("epoch", step_num=position.global_step)
