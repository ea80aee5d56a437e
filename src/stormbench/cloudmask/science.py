"""The MLCommons Science form: `stormbench cloudmask run --config config.yaml` trains, infers, scores and logs in one run.

What the file doesn't say, such as the strategy or the number format, comes from the variables that training has for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stormbench.cloudmask import infer, science_config, science_job, sources, sst
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.science_config import BENCHMARK, TARGET, ScienceConfig
from stormbench.core import runfolder
from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import atomic_path, reported_os_errors, writable_folder
from stormbench.core.launch import detect
from stormbench.core.options import options_of, plain, resolve
from stormbench.core.progress import say, show_result
from stormbench.core.signals import SignalWatch
from stormbench.core.verdict import judge, read_events
from stormbench.core.work import Team

if TYPE_CHECKING:
    from stormbench.cloudmask.ranks import World
    from stormbench.cloudmask.train import Trained

CHECKPOINTS = "*.npz"
MATCHUPS = "sst_matchups.h5"
"""Where the products to predict have this beside them, their masks are compared with buoys too."""
FROM_FILE = {
    "data_dir": "train_dir", "output_dir": "output_dir", "epochs": "epochs", "batch_size": "batch_size", "learning_rate": "learning_rate",
    "train_split": "train_split", "clip_offset": "clip_offset", "patch_size": "patch_size", "seed": "seed",
    "submission_org": "organisation", "submission_division": "division", "submission_status": "status",
}  # fmt: skip
"""Options of training, each by the field of the file that decides it."""


def run(path: Path, watch: SignalWatch) -> int:
    """Run the benchmark as the file at `path` says; returns the exit code of the verdict on its log. `watch` has been entered before.

    The run folder lies below output_dir, the masks in output_dir itself. A run that was stopped or killed goes on when the
    same command is given again. The log is copied to mlperf_logfile, however the run ends.

    Raises:
        UserError: the file is wrong, or `nodes` or `gpu` don't match the job.
        RunError: the work failed; the log says aborted.
        Stopped: a stop was asked for; the same command goes on.
    """
    first = detect(os.environ).rank == 0
    try:
        config, origins = science_config.read(path)
        training, training_origins = training_config(config, origins)
        science_job.check(config, origins, training)
        _check_files(config, origins)
    except UserError as error:
        # every rank of a launch finds the same mistake: it is told once
        raise error if first else UserError("") from None
    from stormbench.cloudmask import train

    science = _Science(config, watch)
    log = config.output_dir / str(training.run_tag) / f"result_{training.experiment_id}.txt"
    if first:
        _clear(config.mlperf_logfile, config.output_dir)
    try:
        code = train.run(training, training_origins, watch, then=science.then)
    finally:
        if first and log.exists():
            with contextlib.suppress(StormbenchError) if science.failed else contextlib.nullcontext():
                _copy(log, config.mlperf_logfile)
    if not first:
        return code
    science.tell()
    verdict = judge(log)
    show_result(f"MLPerf log: {config.mlperf_logfile}: {verdict.verdict}: {verdict.reason}")
    return code or verdict.exit_code


def training_config(config: ScienceConfig, origins: dict[str, str]) -> tuple[TrainConfig, dict[str, str]]:
    """Return the options of the training, and where each comes from: the file, else its variable."""
    flags: dict[str, str | None] = {option: str(getattr(config, field)) for option, field in FROM_FILE.items()}
    flags["loss"] = os.environ.get("STORMBENCH_CLOUDMASK_LOSS", "").strip() or "bce"
    flags["target_accuracy"] = str(TARGET)
    if config.no_cache:
        flags["cache"] = "none"
    if config.gpu == 0:
        flags["cpu_only"] = "1"
    for option, value in (("submission_platform", config.platform), ("submission_version", config.version)):
        if value:
            flags[option] = value
    if config.commit:
        os.environ.setdefault("STORMBENCH_GIT_COMMIT", config.commit)
    built, found = resolve(TrainConfig, flags, os.environ)
    # a mistake that only training finds is told by the line of the file
    for option, field in FROM_FILE.items():
        key = next((key for key in origins if key.lower() == field), None)
        if key is not None:
            found[option] = origins[key]
    if built.run_tag is None:
        built = dataclasses.replace(built, run_tag=_tag(built))
    return built, found


def _tag(training: TrainConfig) -> str:
    """Return the folder of a run with the same options that has yet to be finished, or of a new one."""
    tag = runfolder.unfinished_tag(training.output_dir, training.experiment_id, f"{BENCHMARK}-", CHECKPOINTS)
    if tag is not None:
        recorded = runfolder.read_record(training.output_dir / tag).get("config", {})
        same = ("data_dir", "epochs", "batch_size", "learning_rate", "train_split", "clip_offset", "loss", "precision", "width")
        if all(recorded.get(name) == plain(getattr(training, name)) for name in same):
            return tag
    return runfolder.default_tag(BENCHMARK, training.seed)


def _check_files(config: ScienceConfig, origins: dict[str, str]) -> None:
    for name in ("train_dir", "inference_dir"):
        if not getattr(config, name).is_dir():
            raise UserError(f"{origins[name]}: no such folder; give the folder with the products")
    # they are wanted only after hours of training
    sources.find(config.inference_dir)
    for path in (config.model_file, config.log_file, config.mlperf_logfile):
        writable_folder(path.parent, "the folder")
        if path.is_dir():
            raise UserError(f"{path}: is a folder, must be a file; give another name")
    log = config.mlperf_logfile
    if log.exists() and log.stat().st_size and not read_events(log):
        raise UserError(f"{origins.get('mlperf_logfile', log)}: is there and no MLPerf log; give another name")


def _clear(log: Path, output: Path) -> None:
    """Make way for this run's log, so that nobody takes another's for it.

    A copy of a log that is in a run folder below `output` is removed; any other log is kept as `<log>.1`, `.2` and so on.
    """
    if not log.exists():
        return
    with reported_os_errors(log):
        if any(filecmp.cmp(log, own, shallow=False) for own in output.glob("*/result_*.txt")):
            log.unlink()
            return
        number = next(number for number in itertools.count(1) if not log.with_name(f"{log.name}.{number}").exists())
        log.rename(log.with_name(f"{log.name}.{number}"))


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as path, reported_os_errors(target):
        shutil.copyfile(source, path)


class _Science:
    """What follows training, on each rank."""

    def __init__(self, config: ScienceConfig, watch: SignalWatch) -> None:
        self._config, self._watch = config, watch
        self.failed = True
        """Until everything that follows training is done."""
        self._texts: list[str] = []

    def then(self, trained: Trained) -> dict[str, Any]:
        """Infer, score, and write the model and the two lines of times; returns what the log's result gains."""
        config, world = self._config, trained.world
        model = trained.best_model or trained.last_model
        if model is None:
            raise RunError("training has left no model")
        trained.log.event("science_config", {spec.variable: plain(getattr(config, spec.name)) for spec in options_of(ScienceConfig)})
        trained.log.start("inference")
        record = infer.run(
            model, config.inference_dir, config.output_dir, team=_team(world), stop=lambda: self._watch.stop_requested,
            system=config.platform or None, cpu_only=config.gpu == 0,
        )  # fmt: skip
        trained.log.stop("inference", samples=record["products"], products_per_s=record["products_per_s"])
        found = {f"inference_{name}": record[name] for name in ("accuracy", "balanced_accuracy", "f1", "products", "imgs_per_s")}
        found["inference_time"] = record["total"]
        buoys = config.inference_dir / MATCHUPS
        world.together(lambda: self._conclude(trained, model, record, found, buoys if buoys.is_file() else None))
        self.failed = False
        return found

    def _conclude(self, trained: Trained, model: Path, record: dict[str, Any], found: dict[str, Any], buoys: Path | None) -> None:
        """On rank 0, write what is left to write and compare with the buoys; `found` gains their figures."""
        if trained.folder is None:
            return
        config = self._config
        _save_model(model, config.model_file)
        _log_times(config, trained.figures, record)
        self._texts.append(infer.text(record))
        sizes = [size for size in record["image_sizes"] if size != [config.image_h, config.image_w]]
        if sizes:
            text = ", ".join(f"{height} x {width}" for height, width in sizes)
            say(f"IMAGE_H: {config.image_h} and IMAGE_W: {config.image_w}, but there are images of {text}; they were taken as they are")
        if buoys is not None:
            self._compare(buoys, found)

    def _compare(self, buoys: Path, found: dict[str, Any]) -> None:
        try:
            compared = sst.run(buoys, self._config.output_dir, min_sst=self._config.min_sst)
        except StormbenchError as error:  # the benchmark is complete without it
            say(f"no comparison with buoys: {error}")
            return
        found["sst"] = {name: compared[name] for name in ("bayes", "model", "agreement")}
        self._texts.append(sst.text(compared))

    def tell(self) -> None:
        """Show what came of inference and comparison."""
        for text in self._texts:
            show_result(f"\n{text}")


class _Peers:
    """The ranks of a training as `core.work.Team` speaks to them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def allgather(self, value: Any) -> list[Any]:
        return self._world.gather(value)

    def Abort(self, code: int) -> None:
        os._exit(code)


def _team(world: World) -> Team:
    return Team(rank=world.rank, size=world.processes, comm=_Peers(world)) if world.processes > 1 else Team()


def _save_model(model: Path, target: Path) -> None:
    """Leave the model where the file wants it, in Keras' own format or, by its ending, as HDF5."""
    if target.suffix == model.suffix:
        _copy(model, target)
        return
    import tensorflow as tf

    network = tf.keras.models.load_model(model, compile=False)
    with atomic_path(target) as temporary:
        # Keras goes by the ending
        whole = temporary.with_name(f"{temporary.name}{target.suffix}")
        # it advises against HDF5 by a warning, which the user has asked for by the file's name
        adviser = logging.getLogger("absl")
        level = adviser.level
        try:
            adviser.setLevel(logging.ERROR)
            network.save(whole)
            whole.replace(temporary)
        finally:
            adviser.setLevel(level)
            whole.unlink(missing_ok=True)


def _log_times(config: ScienceConfig, figures: dict[str, Any], record: dict[str, Any]) -> None:
    """Append the lines of times that the public program writes, one for training and one for inference."""
    place = f"bs={config.batch_size}, nodes={config.nodes}, gpus={config.gpu}"
    epochs, total = figures["epochs"], figures["total_time"]
    per_epoch = f"{total / epochs:.2f}" if epochs and total is not None else "none"
    per_product = f"{record['total'] / record['predicted']:.2f}" if record["predicted"] else "none"
    lines = [
        f"CloudMask training, epochs={epochs}, {place}, time_per_epoch={per_epoch}\n",
        f"CloudMask inference, inferences={record['predicted']}, {place}, time_per_inference={per_product}\n",
    ]
    with reported_os_errors(config.log_file), open(config.log_file, "a", encoding="utf-8") as stream:
        stream.writelines(lines)
