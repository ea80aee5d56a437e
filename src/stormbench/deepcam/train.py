"""One training run from start to verdict: wire-up, data, model, run folder, log, and what is left behind however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from typing import Any

from stormbench.core import clocks, runfolder
from stormbench.core.checkpoints import AUTO
from stormbench.core.errors import Stopped, StormbenchError, UserError
from stormbench.core.files import writable_folder
from stormbench.core.launch import detect
from stormbench.core.mllog import ABORTED, SUCCESS, TARGET_MISSED, RunLog
from stormbench.core.options import plain
from stormbench.core.progress import say, show_result
from stormbench.core.runfolder import RunFolder
from stormbench.core.signals import SignalWatch
from stormbench.core.verdict import judge
from stormbench.deepcam import assemble, checkpoint, logkeys, resume, summary
from stormbench.deepcam.agreement import together
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.state import Data, Parts, Position
from stormbench.deepcam.trainer import Trainer
from stormbench.deepcam.wire import Wire, any_rank, peer_errors
from stormbench.deepcam.wireup import connect


def run(config: TrainConfig, origins: dict[str, str], watch: SignalWatch) -> int:
    """Train as `config` says; returns the exit code of the verdict. `watch` has been entered before.

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
        with connect(config.wireup_method, shared_folder=config.output_dir, timeout_s=config.timeout) as wire:
            try:
                with peer_errors(wire):
                    data = together(wire, lambda: assemble.open_data(config))
                    return _Run(config, origins, wire, data, watch, started_ms).run()
            except (RuntimeError, MemoryError) as error:
                raise assemble.explained(error, config, wire) from error
    except StormbenchError as error:
        if isinstance(error, UserError) and not was_there:
            with contextlib.suppress(OSError):
                config.output_dir.rmdir()  # made for this run, unless something is in it
        # a failure that all were told of is told once
        if launch.rank and (error.known_to_all or isinstance(error, Stopped)):
            raise type(error)("") from error
        raise


class _Run:
    """The run of one rank; rank 0 alone holds the run folder and the log."""

    def __init__(
        self, config: TrainConfig, origins: dict[str, str], wire: Wire, data: Data, watch: SignalWatch, started_ms: int
    ) -> None:
        self.config, self.origins, self.wire, self.data, self.watch = config, origins, wire, data, watch
        self.started_ms = started_ms
        self.log = RunLog(None)
        self.folder: RunFolder | None = None
        self.position = Position()
        self.identity = resume.identity(
            config, world_size=wire.world_size, n_nodes=wire.n_nodes, train_samples=len(data.train), validation_samples=len(data.validation)
        )

    def run(self) -> int:
        """Train from the folder's lock to its release."""
        together(self.wire, lambda: assemble.check_fit(self.config, self.wire, self.data))
        for dataset in (self.data.train, self.data.validation):
            together(self.wire, functools.partial(assemble.check_headers, dataset, self.wire))
        together(self.wire, self._take_folder)
        try:
            start = self._start()
            self.watch.last_words = self._last_words
            try:
                return self._run(start)
            except Stopped as stopped:
                self.log.end(ABORTED, reason=f"{stopped}")
                self._finish(runfolder.STOPPED, str(stopped))
                raise
            except BaseException as error:
                known = assemble.explained(error, self.config, self.wire)
                self._last_words(str(known) or type(known).__name__)
                raise
        finally:
            self.watch.last_words = _nothing
            self.log.close()
            if self.folder is not None:
                self.folder.close()

    def _start(self) -> resume.Start:
        try:
            return resume.starting_point(self.config, self.wire, self.folder, self.identity)
        except UserError:
            if self.folder is not None:
                self.folder.discard()
            raise

    def _run(self, start: resume.Start) -> int:
        config, wire = self.config, self.wire
        self._open_log(start)
        parts, notes = assemble.build(config, wire, self.data)
        if start.state is not None:
            notes.append(start.note)
            self.position = assemble.restore(start.state, parts, wire, resume.step_now(start.state, self.identity))
            if not start.continues:
                self.position = self.position.of_new_run()
        if self.folder is not None:
            self.folder.begin(
                config={field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)},
                origins=self.origins, devices=assemble.device_names(wire), notes=notes, world_size=wire.world_size, nodes=wire.n_nodes,
                global_batch_size=config.global_batch_size(wire.world_size), generated_data=self.data.generated,
            )  # fmt: skip
            for note in notes:
                say(note)
        if not start.continues:
            self._log_start()
        trainer = Trainer(
            config, wire, parts, log=self.log, watch=self.watch, position=self.position,
            metric=self.folder.metric if self.folder else _nothing, save=lambda: self._save(parts),
        )  # fmt: skip
        self.watch.ready = True
        finished = trainer.fit()
        # the log ends after the last checkpoint, which so continues a run that dies between the two
        self._save(parts)
        if not finished:
            raise Stopped(f"stopped as asked in epoch {self.position.epoch}; the same command with --run_tag {self._tag()} continues it")
        self._log_end()
        return self._conclude()

    def _take_folder(self) -> None:
        config = self.config
        if self.wire.rank != 0:
            return
        tag = config.run_tag
        if tag is None and config.checkpoint == AUTO:
            tag = runfolder.unfinished_tag(config.output_dir, config.experiment_id, "deepcam-")
        if tag is None:
            self.folder = RunFolder.new(config.output_dir, runfolder.default_tag("deepcam", config.seed), config.experiment_id)
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
            self.log = RunLog(self.folder.result_path, append=True, keep_bytes=start.state["log_bytes"])
            for key, metadata in start.state["log_open"]:
                self.log.reopen(key, **metadata)
            self.log.event("job_resumed", self.folder.attempt, epoch_num=start.state["position"]["epoch"])
            for key, value in resume.changes(start.state, self.identity).items():
                self.log.event(key, value)
            return
        self.log = RunLog(self.folder.result_path)
        logkeys.log_cache_clear(self.log, self.config, self.started_ms)
        self.log.start("init", began_ms=self.started_ms)
        logkeys.log_submission(self.log, self.config)

    def _log_start(self) -> None:
        wire = self.wire
        logkeys.log_parameters(
            self.log, self.config, world_size=wire.world_size, n_nodes=wire.n_nodes,
            accelerators_per_node=wire.world_size // wire.n_nodes if wire.device.type == "cuda" else 0,
            n_train=len(self.data.train), n_validation=len(self.data.validation),
        )  # fmt: skip
        self.log.stop("init")
        self.position.run_start_ms = clocks.now_ms()
        self.log.start("run")

    def _log_end(self) -> None:
        position, config = self.position, self.config
        ended_ms = position.history[-1]["end_ms"] if position.history else clocks.now_ms()
        nersc = summary.first_epochs_seconds(position)
        if nersc is not None:
            self.log.event("time_to_16_epochs", nersc, unit="s", benchmark="NERSC-10")
        if position.target_ms is not None:
            self.log.event("time_to_target", (position.target_ms - position.run_start_ms) / 1000, unit="s", target_iou=config.target_iou)
            self.log.end(SUCCESS, ended_ms, epoch_num=position.epoch - 1)
        else:
            validation = {"validation": "disabled"} if config.disable_validation else {}
            self.log.end(ABORTED, ended_ms, reason=TARGET_MISSED, epoch_num=position.epoch - 1, **validation)

    def _save(self, parts: Parts) -> None:
        """Write the checkpoint of this trial; every rank takes part, since each has running statistics of its own."""
        state = assemble.snapshot(parts, self.position, self.wire)
        state |= {"identity": self.identity, "log_bytes": self.log.position(), "log_open": [list(item) for item in self.log.open_intervals]}

        def write() -> None:
            if self.folder is not None:
                name = checkpoint.file_name(self.config.model_prefix, self.config.experiment_id)
                checkpoint.save(self.folder.checkpoints / name, state)

        together(self.wire, write)

    def _conclude(self) -> int:
        """Judge the log, record and show the summary; the verdict's exit code is every rank's."""
        code = 0
        if self.folder is not None:
            verdict = judge(self.folder.result_path)
            code = verdict.exit_code
            figures = summary.figures(self.config, self.position)
            reached = self.position.target_epoch is not None
            self.folder.finish(
                runfolder.SUCCESS if reached else runfolder.TARGET_MISSED,
                reason=None if reached else "validation was disabled" if self.config.disable_validation else "the target was not reached",
                verdict=dataclasses.asdict(verdict), **figures,
            )  # fmt: skip
            show_result(summary.text(self.config, self.position, figures, verdict, self.folder, self.data, self.wire))
        return any_rank(self.wire, code)

    def _last_words(self, reason: str) -> None:
        """The run has failed: say so in the log and in run.json, as far as they can be written."""
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


