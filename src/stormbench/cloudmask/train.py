"""One training run from start to verdict: wire-up, data, model, run folder, log, and what is left behind however it ends.

Imports TensorFlow only when it runs, after the environment says which of its kernels to use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stormbench.cloudmask import checkpoint, logkeys, resume, split
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.host import compute_settings
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.session import connected
from stormbench.cloudmask.state import Position
from stormbench.core import checkpoints, clocks, runfolder
from stormbench.core.errors import EXIT_DONE, Stopped, StormbenchError, UserError
from stormbench.core.files import writable_folder
from stormbench.core.launch import Launch, detect
from stormbench.core.mllog import ABORTED, SUCCESS, TARGET_MISSED, RunLog
from stormbench.core.options import plain
from stormbench.core.progress import say
from stormbench.core.provenance import describe_host
from stormbench.core.runfolder import RunFolder
from stormbench.core.signals import SignalWatch

if TYPE_CHECKING:
    from stormbench.cloudmask.assemble import Data, Parts

KILLED_SOON = ("openmpi", "mpich", "mvapich")
"""Launchers that end the other ranks of one that died by SIGTERM, and a second later by SIGKILL."""
LAST_MOMENT_S = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A run whose training is done and whose log is still open; `log` and `folder` are rank 0's, elsewhere they do nothing or are None."""

    best_model: Path | None
    last_model: Path | None
    figures: dict[str, Any]
    log: RunLog
    folder: RunFolder | None
    world: World


Then = Callable[[Trained], dict[str, Any]]


def run(config: TrainConfig, origins: dict[str, str], watch: SignalWatch, then: Then | None = None) -> int:
    """Train as `config` says; returns 0 once it is done, whether or not the target was reached.

    `watch` has been entered before. `then` is called on every rank when training is done, before the log ends: what it
    returns on rank 0 is added to the log's `result`.

    Raises:
        UserError: an option, a data folder or a checkpoint doesn't fit; nothing has been trained.
        RunError: the work failed; the log says aborted.
        Stopped: a stop was asked for and a checkpoint is written.
    """
    started_ms = clocks.now_ms()
    launch = detect(os.environ)
    was_there = config.output_dir.exists()
    try:
        writable_folder(config.output_dir, origins.get("output_dir", "--output_dir").replace("=", " ").split()[0])
        with connected(config, launch) as (world, notes):
            _Run(config, origins, world, watch, started_ms, launch, notes, then).run()
        return EXIT_DONE
    except StormbenchError as error:
        if isinstance(error, UserError) and not was_there:
            with contextlib.suppress(OSError):
                config.output_dir.rmdir()  # made for this run, unless something is in it
        # a failure that all were told of is told once
        if launch.rank and (error.known_to_all or isinstance(error, Stopped)):
            raise type(error)("") from error
        raise


class _Run:
    """The run of one process; rank 0 alone holds the run folder and the log."""

    def __init__(
        self, config: TrainConfig, origins: dict[str, str], world: World, watch: SignalWatch, started_ms: int, launch: Launch,
        notes: list[str], then: Then | None,
    ) -> None:  # fmt: skip
        self.config, self.origins, self.world, self.watch = config, origins, world, watch
        self.started_ms, self.launch, self.notes, self.then = started_ms, launch, notes, then
        self.log = RunLog(None)
        self.folder: RunFolder | None = None
        self.position = Position()
        self.identity: dict[str, Any] = {}
        self._bytes_before_words: int | None = None
        self._open_before_words: list[tuple[str, dict[str, Any]]] = []

    def run(self) -> None:
        """Train from the folder's lock to its release."""
        self.world.together(self._take_folder)
        try:
            data, start = self._start()
            self.watch.last_words = self._last_words
            self.world.watchdog.last_words = self._last_words
            if self.world.processes > 1 and self.launch.launcher in KILLED_SOON:
                self.watch.polite_grace_s = LAST_MOMENT_S
            try:
                self._run(data, start)
            except Stopped as stopped:
                self.log.end(ABORTED, reason=f"{stopped}")
                self._finish(runfolder.STOPPED, str(stopped))
                raise
            except BaseException as error:
                from stormbench.cloudmask.assemble import explained

                known = explained(error, self.config)
                self._last_words(str(known) or type(known).__name__)
                raise
        finally:
            self.watch.last_words = self.world.watchdog.last_words = _nothing
            self.log.close()
            if self.folder is not None:
                self.folder.close()

    def _start(self) -> tuple[Data, resume.Start]:
        """Look at the data and at what there is to go on from; a mistake in either leaves no folder behind."""
        from stormbench.cloudmask import assemble

        try:
            manifest = self.config.split_file
            if manifest is None and self.folder is not None:
                manifest = self.folder.path / split.FILE_NAME
            data = assemble.open_data(self.config, self.origins, self.world, manifest)
            self.identity = resume.identity(self.config, self.world, data.split)
            start = resume.starting_point(self.config, self.world, self.folder, self.identity)
            self.world.together(lambda: self._write_split(data, manifest))
            return data, start
        except UserError:
            if self.folder is not None:
                self.folder.discard()
            raise

    def _write_split(self, data: Data, manifest: Path | None) -> None:
        """Write the split down in the run folder, and where the user wants it."""
        if self.folder is None:
            return
        for path in {manifest, self.folder.path / split.FILE_NAME} - {None}:
            if path is not None and (not path.exists() or split.read(path) != data.split):
                split.write(path, data.split)

    def _run(self, data: Data, start: resume.Start) -> None:
        from stormbench.cloudmask import assemble
        from stormbench.cloudmask.trainer import Trainer

        config, world = self.config, self.world
        self._open_log(start)
        parts, notes = assemble.build(config, self.origins, world, data)
        notes = [*self.notes, *notes]
        if start.state is not None:
            notes.append(start.note)
            self.position = assemble.restore(start.state, parts)
            if not start.continues:
                self.position = self.position.of_new_run()
        world.broadcast([*parts.weights, *parts.adam.variables])
        if self.folder is not None:
            self.folder.begin(
                config={field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)},
                origins=self.origins, devices=assemble.device_names(world), notes=notes, world_size=world.size, nodes=world.n_nodes,
                global_batch_size=config.batch_size * world.size, generated_data=data.generated, benchmark=logkeys.BENCHMARK,
                strategy=world.strategy, cache=parts.cache, compute=compute_settings(),
            )  # fmt: skip
            for note in notes:
                say(note)
        if not start.continues:
            self._log_start(parts)
        trainer = Trainer(
            config, world, parts, log=self.log, watch=self.watch, position=self.position,
            metric=self.folder.metric if self.folder else _nothing, save=lambda best: self._save(parts, best),
        )  # fmt: skip
        self.watch.ready = True
        if not trainer.fit():
            self._save(parts, False)
            raise Stopped(f"stopped as asked in epoch {self.position.epoch}; the same command with --run_tag {self._tag()} continues it")
        self._save(parts, False)
        self._conclude(parts)

    def _take_folder(self) -> None:
        config = self.config
        if self.world.rank != 0:
            return
        tag = config.run_tag
        if tag is None and config.checkpoint == checkpoints.AUTO:
            tag = runfolder.unfinished_tag(config.output_dir, config.experiment_id, "cloudmask-", f"*{checkpoint.SUFFIX}")
        if tag is None:
            self.folder = RunFolder.new(config.output_dir, runfolder.default_tag("cloudmask", config.seed), config.experiment_id)
        else:
            self.folder = RunFolder(config.output_dir, tag, config.experiment_id)

    def _tag(self) -> str:
        return self.folder.path.name if self.folder else ""

    def _open_log(self, start: resume.Start) -> None:
        if self.folder is None:
            return
        if self.folder.unfinished:
            self.folder.set_aside()
        if start.continues and start.state is not None:
            changes = resume.changes(start.state, self.identity)
            self.log = logkeys.reopened(self.folder.result_path, start.state.about, self.folder.attempt, changes)
        else:
            self.log = logkeys.opened(self.folder.result_path, self.config, self.started_ms)

    def _log_start(self, parts: Parts) -> None:
        """Begin the timed part. Reading files into a cache is in it: that happens in the first epoch."""
        logkeys.log_parameters(
            self.log, self.config, self.world, peak_rate=resume.peak_rate(self.config, self.world.size),
            n_train=len(parts.train.patch_set), n_test=len(parts.test.patch_set), strategy=self.world.strategy, cache_used=parts.cache,
            generated_data=parts.generated,
        )  # fmt: skip
        self.log.stop("init")
        self.position.run_start_ms = clocks.now_ms()
        self.log.start("run")

    def _save(self, parts: Parts, best: bool) -> None:
        """Write the checkpoint of this trial, models and history; all ranks hold the same state, and rank 0 writes it."""
        from stormbench.cloudmask import assemble, summary

        def write() -> None:
            if self.folder is None:
                return
            log_bytes = self.log.position() if self._bytes_before_words is None else self._bytes_before_words
            if self.position.step == 0 and self.position.history:
                summary.write_history(self.folder.path / f"history_{self.config.experiment_id}.csv", self.position.history)
            about = {"identity": self.identity, "log_bytes": log_bytes, "log_open": [list(item) for item in self._open_intervals]}
            assemble.save(parts, self.position, self.config, self.folder.checkpoints, about, best=best)

        self.world.together(write)

    @property
    def _open_intervals(self) -> list[tuple[str, dict[str, Any]]]:
        return self._open_before_words if self._bytes_before_words is not None else self.log.open_intervals

    def _conclude(self, parts: Parts) -> None:
        """Do what follows training, end the log, and leave the summary."""
        from stormbench.cloudmask import summary

        config, position, world = self.config, self.position, self.world
        row = summary.row(config, position, world, parts.cache, self._tag(), config.submission_platform or describe_host())
        found = summary.figures(config, position, row, generated=parts.generated)
        more = self._then(found)
        reached = position.target_epoch is not None
        self.log.event("result", {**found, **more})
        if found["time_to_target_s"] is not None:
            self.log.event("time_to_target", found["time_to_target_s"], unit="s", target_accuracy=config.target_accuracy)
        if reached:
            self.log.end(SUCCESS, epoch_num=position.epoch - 1)
        else:
            self.log.end(ABORTED, reason=TARGET_MISSED, epoch_num=position.epoch - 1)
        if self.folder is not None:
            model = self._model("best") or self._model("last")
            assert model is not None
            summary.leave(self.folder, config, position, row, found, parts, world, model, more)

    def _then(self, found: dict[str, Any]) -> dict[str, Any]:
        if self.then is None:
            return {}
        best, last = self.world.first((self._model("best"), self._model("last")))
        return self.then(
            Trained(best_model=best, last_model=last, figures=found, log=self.log, folder=self.folder, world=self.world)
        )

    def _model(self, which: str) -> Path | None:
        if self.folder is None:
            return None
        path = checkpoint.model_path(self.folder.checkpoints, self.config.experiment_id, which)
        return path if path.exists() else None

    def _last_words(self, reason: str) -> None:
        """The run has failed: say so in the log and in run.json, as far as they can be written.

        It may go on all the same, if it was only slow to hear a polite signal; a checkpoint then knows the log as it was.
        """
        if self._bytes_before_words is None:
            self._open_before_words = self.log.open_intervals
            self._bytes_before_words = self.log.position()
        self.log.abort(reason)
        self._finish(runfolder.FAILED, reason)

    def _finish(self, outcome: str, reason: str) -> None:
        if self.folder is not None:
            try:
                self.folder.finish(outcome, reason, epochs=len(self.position.history))
            except StormbenchError as error:
                say(f"stormbench: {error}")


def _nothing(*values: Any, **figures: Any) -> None:
    """What ranks other than 0 do with figures, and everyone with last words after the end."""
