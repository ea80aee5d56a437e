"""Makes a cloud mask of each product with a trained model: `mpirun -np 4 stormbench cloudmask inference model.keras hdf masks`.

Other processes read and convert ahead; what is complete is kept, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import masks, predict, sources, summary_infer
from stormbench.cloudmask.gpus import visible_gpus
from stormbench.cloudmask.patches import ANY_BIT
from stormbench.cloudmask.sources import Prepared, Source, prepare
from stormbench.cloudmask.summary_infer import text
from stormbench.core import work
from stormbench.core.clocks import Stopwatch
from stormbench.core.errors import RunError, Stopped, UserError
from stormbench.core.files import writable_folder
from stormbench.core.launch import detect
from stormbench.core.progress import progress as progress_bar
from stormbench.core.stream import stream
from stormbench.core.work import Team

__all__ = ["run", "text"]

FORMAT = 1
"""Of the facts in a mask file; masks of another format are made again."""
SHOWN_FAILURES = 5
CORES_A_READER = 8
"""On a CPU the network takes ten times as long for a product as converting it, so few cores need be given to readers."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done with each product."""

    output: Path
    model_digest: str
    cloud_bits: int
    overwrite: bool

    def facts(self, source: Source) -> dict[str, Any]:
        """Return what a mask file says of how it was made: a mask with other facts is not the one wanted."""
        return {"format": FORMAT, "product": source.name, "model_sha256": self.model_digest, "cloud_bits": self.cloud_bits}

    def target(self, source: Source) -> Path:
        """Return the product's mask file."""
        return self.output / f"{source.name}.h5"


@dataclass(kw_only=True)
class Share:
    """What one rank has done."""

    predicted: list[dict[str, Any]]
    """The facts in the masks that it has made."""
    failures: list[str]
    total_s: float = 0.0
    waiting_s: float = 0.0
    startup_s: float = 0.0
    method: str = ""
    gpus: int = 0


def run(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    tile: str = predict.AUTO,
    workers: int | None = None,
    threads: int | None = None,
    cloud_bits: int = ANY_BIT,
    cpu_only: bool = False,
    overwrite: bool = False,
    onednn: bool | None = None,
    system: str | None = None,
    progress: bool = True,
    team: Team | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write `<output>/<product>.h5` for each product in `data`, converted (.hdf) or raw (.SEN3), see masks.py.

    Ranks of mpirun or srun share the products. In each, `workers` processes read and convert ahead while the network runs.
    Masks that are complete, of the same model, and not older than their product are kept unless `overwrite`.

    Args:
        model: a `.keras` file, or an `.h5` file of the public versions.
        tile: `whole` frames, the pixels of windows, or `auto`: whole where memory allows. The mask is the same.
        workers: reading processes of each rank; 0 reads in between. By default as many as keep the network busy.
        threads: of the network on a CPU, by default one a core.
        cloud_bits: which bits of the Bayesian mask count as cloud in the scores, by default any.
        onednn: whether oneDNN's kernels are used on a CPU, by default where TensorFlow, or TF_ENABLE_ONEDNN_OPTS, chooses so.
        system: the machine's name in the row, by default the host's.
        team: who shares the work, in processes in which TensorFlow has been set up already, as after training.
        stop: asked after each product; Stopped is raised once it is true.

    Returns:
        What is written as `inference.json` too: products, seconds, rates, scores against the Bayesian mask over the valid
        pixels of all ranks, and `row`, one row of the published table.

    Raises:
        UserError: no model, no products, or a wrong option.
        RunError: products were broken (the others are done), the model is damaged, or the disk is full.
        Stopped: `stop` said so.
    """
    work.check(None, "cloudmask")
    edge = predict.parse_tile(tile)
    for name, value, least in (("workers", workers, 0), ("threads", threads, 1)):
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if not 1 <= cloud_bits <= ANY_BIT:
        raise UserError(f"--cloud-bits {cloud_bits}: must be from 1 to {ANY_BIT}, the sum of bits of the Bayesian mask")
    setting = _Setting(
        model=Path(model), edge=edge, workers=workers, threads=threads, cpu_only=cpu_only, onednn=onednn, progress=progress,
        is_set_up=team is not None, stop=stop,
    )  # fmt: skip
    team = team or work.world()
    with ExitStack() as stack:
        task, todo, kept = team.first(
            lambda: _plan(Path(model), Path(data), Path(output), cloud_bits=cloud_bits, overwrite=overwrite, stack=stack)
        )
        shares = _Rank(task, setting, team).work(todo)
        record = summary_infer.record(kept, shares, task.output, team=team, system=system, cpu_only=cpu_only)
        team.first(lambda: summary_infer.write(task.output, record))
    team.first(lambda: _report(Path(data), len(todo) + len(kept), [text for share in shares for text in share.failures]))
    return record


def _plan(
    model: Path, data: Path, output: Path, *, cloud_bits: int, overwrite: bool, stack: ExitStack
) -> tuple[Task, list[Source], list[dict[str, Any]]]:
    """Return the task, the products still to be done, and the facts of the masks that are kept."""
    found = sources.find(data)
    task = Task(output=output, model_digest=predict.digest(model), cloud_bits=cloud_bits, overwrite=overwrite)
    writable_folder(output, "the output folder")
    stack.enter_context(work.claimed(output, ["inference.", *(source.name for source in found)]))
    todo, kept = [], []
    for source in found:
        facts = None if overwrite else _kept(task, source)
        if facts is None:
            todo.append(source)
        else:
            kept.append(facts)
    return task, todo, kept


def _kept(task: Task, source: Source) -> dict[str, Any] | None:
    """Return the facts of a product's mask if it is there, whole, made as it would be now, and not older than the product."""
    target = task.target(source)
    try:
        if target.stat().st_mtime_ns < source.changed_ns:
            return None
    except OSError:
        return None
    facts = masks.read_facts(target)
    return facts if facts is not None and facts.items() >= task.facts(source).items() else None


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """How the ranks work."""

    model: Path
    edge: int | str | None
    workers: int | None
    threads: int | None
    cpu_only: bool
    onednn: bool | None
    progress: bool
    is_set_up: bool
    stop: Callable[[], bool]


class _Rank:
    """One rank's part of the work."""

    def __init__(self, task: Task, setting: _Setting, team: Team) -> None:
        self._task, self._setting, self._team = task, setting, team

    def work(self, todo: Sequence[Source]) -> list[Share]:
        """Make the masks and return every rank's Share, on every rank."""
        mine = todo[self._team.rank :: self._team.size]
        if not todo:
            return [Share(predicted=[], failures=[])]
        startup = Stopwatch()
        # the reading processes get ready while TensorFlow is imported
        with stream(functools.partial(prepare, self._task.cloud_bits), mine, workers=self._workers()) as frames:
            # a network can't be sent to other ranks: they only learn whether it is there
            own: list[tuple[predict.Predictor, int]] = []
            self._team.together(lambda: own.append(self._predictor()))
            predictor, gpus = own[0]
            share = Share(predicted=[], failures=[], startup_s=startup.seconds(), gpus=gpus)
            return self._team.together(lambda: self._local(len(mine), frames, predictor, share))

    def _workers(self) -> int:
        """Return how many processes read ahead: with a GPU, all cores but one are hardly enough for it.

        Ranks that aren't bound to cores of their own see those of all, and take an equal part.
        """
        setting, cores = self._setting, work.cores()
        if setting.workers is not None:
            return setting.workers
        if cores * self._ranks_here > (os.cpu_count() or 1):
            cores //= self._ranks_here
        return max(cores - 1, 1) if visible_gpus() and not setting.cpu_only else max(cores // CORES_A_READER, 1)

    @property
    def _ranks_here(self) -> int:
        """Ranks on this node, all where the launcher doesn't tell."""
        return (detect(os.environ).local_size or self._team.size) if self._team.size > 1 else 1

    def _predictor(self) -> tuple[predict.Predictor, int]:
        launch, setting = detect(os.environ), self._setting
        if not setting.is_set_up:
            predict.set_up(launch, threads=setting.threads, cpu_only=setting.cpu_only, onednn=setting.onednn)
        gpus = predict.gpus_in_use()
        return predict.Predictor(predict.load(setting.model), edge=setting.edge, ranks=self._ranks_here, gpu=gpus > 0), gpus

    def _local(self, count: int, frames: Iterator[tuple[Source, Prepared | str]], predictor: predict.Predictor, share: Share) -> Share:
        """Make this rank's masks from what is read ahead; returns `share` filled in."""
        watch, waiting = Stopwatch(), Stopwatch()
        with (
            progress_bar(count, "inference", enabled=self._setting.progress and self._team.rank == 0) as bar,
            ThreadPoolExecutor(1) as writer,
        ):
            pending: Future[dict[str, Any]] | None = None
            for source, prepared in _timed(frames, waiting, share):
                if isinstance(prepared, str):
                    share.failures.append(prepared)
                else:
                    mask_hw = predictor(prepared.image_hwc)
                    # writing goes on beside the network, one file at a time
                    _collect(pending, share)
                    pending = writer.submit(self._finish, source, prepared, mask_hw)
                bar.advance()
                if self._setting.stop():
                    break
            _collect(pending, share)
        share.total_s, share.method = watch.seconds(), predictor.method
        if len(share.predicted) + len(share.failures) < count:
            raise Stopped("stopped as asked in inference; the same command goes on with the products that are left")
        return share

    def _finish(self, source: Source, prepared: Prepared, mask_hw: NDArray[np.float32]) -> dict[str, Any]:
        """Score and write one mask; returns its facts. Where absurd measurements lead to no number there is no valid one."""
        valid_hw = prepared.valid_hw & np.isfinite(mask_hw)
        facts = self._task.facts(source) | {
            "height": mask_hw.shape[0], "width": mask_hw.shape[1], "day": prepared.day, "generated": prepared.generated,
            "counts": masks.count(mask_hw, prepared.label_hw, valid_hw),
        }  # fmt: skip
        masks.write_mask(self._task.target(source), mask_hw, valid_hw, facts)
        return facts


def _timed(frames: Iterator[tuple[Source, Prepared | str]], waiting: Stopwatch, share: Share) -> Iterator[tuple[Source, Prepared | str]]:
    """Pass frames on, adding up the seconds in which there was none."""
    waiting.restart()
    for item in frames:
        share.waiting_s += waiting.restart()
        yield item
        waiting.restart()


def _collect(pending: Future[dict[str, Any]] | None, share: Share) -> None:
    if pending is not None:
        share.predicted.append(pending.result())


def _report(data: Path, count: int, messages: Sequence[str]) -> None:
    if messages:
        more = f"; and {len(messages) - SHOWN_FAILURES} more" if len(messages) > SHOWN_FAILURES else ""
        shown = "; ".join(messages[:SHOWN_FAILURES])
        raise RunError(f"{len(messages)} of {count} products of {data} have no mask, the others are done: {shown}{more}")
