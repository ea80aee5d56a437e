"""One training run from start to verdict: wire-up, data, model, run folder, log, and what is left behind however it ends."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from stormbench.core import clocks, runfolder
from stormbench.core.errors import Stopped, StormbenchError, UserError
from stormbench.core.files import writable_folder
from stormbench.core.launch import detect
from stormbench.core.mllog import ABORTED, SUCCESS, TARGET_MISSED, RunLog
from stormbench.core.options import plain
from stormbench.core.progress import say
from stormbench.core.runfolder import RunFolder
from stormbench.core.signals import SignalWatch
from stormbench.core.verdict import judge
from stormbench.deepcam import assemble, checkpoint, logkeys, summary
from stormbench.deepcam.agreement import together
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.state import Data, Parts, Position
from stormbench.deepcam.trainer import Trainer
from stormbench.deepcam.wire import Wire, any_rank, peer_errors
from stormbench.deepcam.wireup import connect


def run(config: TrainConfig, origins: dict[str, str]) -> int:
    """Train as `config` says; returns the exit code of the verdict.

    Raises:
        UserError: an option, a data folder or a checkpoint doesn't fit; nothing has been trained.
        RunError: the work failed; the log says aborted.
        Stopped: a stop was asked for and a checkpoint is written.
    """
    started_ms = clocks.now_ms()
    launch = detect(os.environ)
    try:
        data = assemble.open_data(config)
        writable_folder(config.output_dir, origins.get("output_dir", "--output_dir").replace("=", " ").split()[0])
        with connect(config.wireup_method, shared_folder=config.output_dir, timeout_s=config.timeout) as wire:
            try:
                with peer_errors(wire):
                    return _Run(config, origins, wire, data, started_ms).run()
            except (RuntimeError, MemoryError) as error:
                raise assemble.explained(error, config, wire) from error
    except StormbenchError as error:
        # a mistake that every rank finds by itself, or a failure that all were told of, is told once
        common = isinstance(error, UserError) or error.known_to_all
        if launch.rank == 0 or not common:
            raise
        raise type(error)("") from error


class _Run:
    """The run of one rank; rank 0 alone holds the run folder and the log."""

    def __init__(
        self, config: TrainConfig, origins: dict[str, str], wire: Wire, data: Data, started_ms: int
    ) -> None:
        self.config, self.origins, self.wire = config, origins, wire
        self.data = data
        self.started_ms = started_ms
        self.log = RunLog(None)
        self.folder: RunFolder | None = None
        self.position = Position()
        height, width_px, _ = self.data.train.shape
        self.identity = checkpoint.Identity.of(
            config, world_size=wire.world_size, train_samples=len(self.data.train), height=height, width_px=width_px
        )

    def run(self) -> int:
        config, wire = self.config, self.wire
        assemble.check_fit(config, wire, self.data)
        for dataset in (self.data.train, self.data.validation):
            together(wire, lambda dataset=dataset: assemble.check_headers(dataset, wire))  # type: ignore[misc]
        together(wire, self._take_folder)
        with SignalWatch(self._last_words) as watch:
            try:
                return self._run(watch)
            except Stopped as stopped:
                self._finish(runfolder.STOPPED, str(stopped))
                raise
            except BaseException as error:
                self._last_words(str(error) or type(error).__name__)
                raise
            finally:
                self.log.close()
                if self.folder is not None:
                    self.folder.close()

    def _run(self, watch: SignalWatch) -> int:
        config, wire = self.config, self.wire
        try:
            state, continues = self._starting_point()
        except UserError:
            if self.folder is not None:
                self.folder.discard()
                self.folder = None
            raise
        self._open_log(state, continues)
        parts, notes = assemble.build(config, wire, self.data)
        if state is not None:
            self.position = assemble.restore(state, parts, wire)
        if self.folder is not None:
            self.folder.begin(
                config={field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)},
                origins=self.origins, devices=assemble.device_names(wire), notes=notes, world_size=wire.world_size, nodes=wire.n_nodes,
                global_batch_size=config.global_batch_size(wire.world_size), generated_data=self.data.generated,
            )  # fmt: skip
            for note in notes:
                say(note)
        if not continues:
            self._log_start()
        trainer = Trainer(
            config, wire, parts, log=self.log, watch=watch, position=self.position,
            metric=self.folder.metric if self.folder else _nothing, save=lambda: self._save(parts),
        )  # fmt: skip
        finished = trainer.fit()
        if finished:
            self._log_end()
        self._save(parts)
        if not finished:
            raise Stopped(f"stopped as asked in epoch {self.position.epoch}; the same command with --run_tag {self._tag()} continues it")
        return self._conclude()

    def _take_folder(self) -> None:
        if self.wire.rank == 0:
            tag = self.config.run_tag or runfolder.default_tag("deepcam", self.config.seed)
            self.folder = RunFolder(self.config.output_dir, tag, self.config.experiment_id)

    def _tag(self) -> str:
        return self.folder.path.name if self.folder else ""

    def _checkpoint_path(self) -> Path:
        """The newest checkpoint of this trial. Known to every rank where the run has a tag, as a run to be continued must."""
        folder = self.folder.path if self.folder else self.config.output_dir / (self.config.run_tag or "")
        return folder / "checkpoints" / f"{self.config.model_prefix}_{self.config.experiment_id}.pt"

    def _starting_point(self) -> tuple[dict[str, Any] | None, bool]:
        """Return the checkpoint to start from, if any, and whether it continues this trial's own log."""
        own, given = self._checkpoint_path(), self.config.checkpoint
        # ranks must decide alike, also where a file appears late on some node: rank 0 decides
        wish = 0
        if self.folder is not None:
            wish = 2 if self.folder.unfinished and own.exists() else 1 if given is not None else 0
        wish = any_rank(self.wire, wish)
        if wish == 0:
            return None, False
        path = own if wish == 2 or given is None else given

        def load() -> dict[str, Any]:
            state = checkpoint.load(path)
            checkpoint.check_identity(path, state, self.identity)
            return state

        return together(self.wire, load), wish == 2

    def _open_log(self, state: dict[str, Any] | None, continues: bool) -> None:
        if self.folder is None:
            return
        if self.folder.unfinished:
            self.folder.set_aside()
        if continues and state is not None:
            self.log = RunLog(self.folder.result_path, append=True, keep_bytes=state["log_bytes"])
            for key, metadata in state["log_open"]:
                self.log.reopen(key, **metadata)
            self.log.event("job_resumed", self.folder.attempt, epoch_num=state["position"]["epoch"])
            return
        self.log = RunLog(self.folder.result_path)
        logkeys.log_cache_clear(self.log, self.config)
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
        nersc = summary.first_epochs_seconds(position)
        if nersc is not None:
            self.log.event("time_to_16_epochs", nersc, unit="s", benchmark="NERSC-10")
        if position.target_ms is not None:
            self.log.event("time_to_target", (position.target_ms - position.run_start_ms) / 1000, unit="s", target_iou=config.target_iou)
            self.log.end(SUCCESS, epoch_num=position.epoch - 1)
        else:
            validation = {"validation": "disabled"} if config.disable_validation else {}
            self.log.end(ABORTED, reason=TARGET_MISSED, epoch_num=position.epoch - 1, **validation)

    def _save(self, parts: Parts) -> None:
        """Write the checkpoint of this trial; every rank takes part, since each has running statistics of its own."""
        state = assemble.snapshot(parts, self.position, self.wire)
        state |= {"log_bytes": self.log.position(), "log_open": [[key, metadata] for key, metadata in self.log.open_intervals]}

        def write() -> None:
            if self.wire.rank == 0:
                checkpoint.save(self._checkpoint_path(), state, self.identity)

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
            print(summary.text(self.config, self.position, figures, verdict, self.folder, self.data, self.wire))
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


def _nothing(**values: Any) -> None:
    """What ranks other than 0 do with figures."""


