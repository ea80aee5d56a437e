"""The figures of a finished run under the names of the published table, and the text that a user sees at its end."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stormbench.cloudmask.assemble import Parts
from stormbench.cloudmask.config import NONE, TrainConfig
from stormbench.cloudmask.host import compute_settings, onednn_in_use
from stormbench.cloudmask.metrics import CLASS_NAMES
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.state import Position
from stormbench.core.clocks import human_seconds
from stormbench.core.files import write_text
from stormbench.core.progress import show_result
from stormbench.core.runfolder import SUCCESS, TARGET_MISSED, RunFolder
from stormbench.core.tables import text_table
from stormbench.core.verdict import Verdict, judge

HISTORY = (
    "epoch", "step", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_balanced_accuracy", "test_f1",
    "test_day_accuracy", "test_night_accuracy", "train_patches", "test_patches", "train_pixels", "test_pixels",
)  # fmt: skip
"""Columns of the history."""
GENERATED = "Generated data: this shows that everything works, and says nothing about accuracy on satellite images."


def row(config: TrainConfig, position: Position, world: World, cache: str, name: str, system: str) -> dict[str, Any]:
    """Return the run as a row of the published training table, with its columns; times in s, images are patches.

    `imgs_per_s_*` count the patches that were trained on. The published figures count the test split too, a quarter more.
    Accuracies and losses are those of the last epoch, as published; None stands for an epoch that there was not.
    """
    history = position.history
    first, second, last = (part[0] if part else {} for part in (history[:1], history[1:2], history[-1:]))

    def of(epoch: dict[str, Any], *names: str) -> float | None:
        return sum(epoch[key] for key in names) if epoch else None

    return {
        "index": name,
        "system": system,
        "num_ranks": world.size,
        "num_gpus": world.gpus * world.processes,
        "total_time": (history[-1]["end_ms"] - position.run_start_ms) / 1000 if history else None,
        "first_epoch_time": of(first, "train_seconds", "test_seconds"),
        "second_epoch_time": of(second, "train_seconds", "test_seconds"),
        "first_epoch_train_time": of(first, "train_seconds"),
        "second_epoch_train_time": of(second, "train_seconds"),
        "first_epoch_test_time": of(first, "test_seconds"),
        "second_epoch_test_time": of(second, "test_seconds"),
        "imgs_per_s_second_epoch": second.get("imgs_per_s"),
        "imgs_per_s_first_epoch": first.get("imgs_per_s"),
        "train_accuracy": last.get("train_accuracy"),
        "test_accuracy": last.get("test_accuracy"),
        "train_loss": last.get("train_loss"),
        "test_loss": last.get("test_loss"),
        "batch_size": config.batch_size,
        "epochs": len(history),
        "learning_rate": config.learning_rate,
        "python": "onednn" if onednn_in_use() else "vanilla",
        "ntasks_per_node": world.local_processes,
        "no_cache": cache == NONE,
    }


def write_row(path: Path, found: dict[str, Any], *, generated: bool) -> None:
    """Write the row as a table of one line, with columns for what else decides its speed, and whether its data were generated."""
    _write_table(path, [{**found, **compute_settings(), "data": "generated" if generated else "observed"}])


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write a line for each epoch: only what the same run has again, however often it was stopped; times are in metrics.jsonl."""
    _write_table(path, [{name: epoch[name] for name in HISTORY} for epoch in history])


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    target = io.StringIO()
    writer = csv.DictWriter(target, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, target.getvalue())


def figures(config: TrainConfig, position: Position, table_row: dict[str, Any], *, generated: bool) -> dict[str, Any]:
    """Return the run's figures for run.json and the log's `result`: the table's row, and what it has no columns for."""
    history = position.history
    later, last = history[1:], history[-1] if history else {}
    seconds = sum(epoch["train_seconds"] for epoch in history)
    return {
        **{key: value for key, value in table_row.items() if key not in ("index", "system")},
        "imgs_per_s": sum(e["train_patches"] for e in later) / sum(e["train_seconds"] for e in later) if later else None,
        "balanced_accuracy": last.get("test_balanced_accuracy"),
        "f1": last.get("test_f1"),
        "class_recall": last.get("test_class_recall"),
        "day_accuracy": last.get("test_day_accuracy"),
        "night_accuracy": last.get("test_night_accuracy"),
        "cloud_share": last.get("test_cloud_share"),
        "best_accuracy": position.best_accuracy if position.best_epoch else None,
        "best_epoch": position.best_epoch,
        "target_accuracy": config.target_accuracy,
        "target_epoch": position.target_epoch,
        "time_to_target_s": (position.target_ms - position.run_start_ms) / 1000 if position.target_ms else None,
        "waiting_for_data": sum(e["waiting_for_data"] * e["train_seconds"] for e in history) / seconds if seconds else None,
        "generated_data": generated,
    }


def leave(
    folder: RunFolder, config: TrainConfig, position: Position, table_row: dict[str, Any], found: dict[str, Any], parts: Parts,
    world: World, model: Path, more: dict[str, Any],
) -> None:  # fmt: skip
    """Judge the ended log, record the run in its folder, and show the table; `more` is what the work after training has found."""
    verdict = judge(folder.result_path)
    write_row(folder.path / f"train_{config.experiment_id}.csv", table_row, generated=parts.generated)
    reached = position.target_epoch is not None
    folder.finish(
        SUCCESS if reached else TARGET_MISSED, reason=None if reached else "the target was not reached",
        verdict=dataclasses.asdict(verdict), row=table_row, result=more, **found,
    )  # fmt: skip
    show_result(text(config, position, found, verdict, folder, parts, world, model))


def text(
    config: TrainConfig, position: Position, found: dict[str, Any], verdict: Verdict, folder: RunFolder, parts: Parts, world: World,
    model: Path,
) -> str:  # fmt: skip
    """Return the table at the end of a run, the verdict, and what to do next."""
    size, generated = config.patch_size, parts.generated
    last = position.history[-1] if position.history else {}
    where = f"{world.gpus * world.processes} GPU(s)" if world.gpus else "CPU"
    rows: list[tuple[str, str]] = [
        ("data", f"{len(parts.train.patch_set)} training and {len(parts.test.patch_set)} test patches of {size} x {size}"
                 f"{', generated' if generated else ''}"),
        ("network width", f"{config.width:g}" + ("" if config.width == 1 else " (reduced: a rehearsal, not the benchmark)")),
        ("ran on", f"{world.size} rank(s) on {world.n_nodes} node(s), {where}, {config.precision}"),
        ("epochs", f"{found['epochs']} ({position.global_step} steps of up to {config.batch_size * world.size} patches)"),
        ("training, first epoch", _rate(found["imgs_per_s_first_epoch"])),
        ("training, later epochs", _rate(found["imgs_per_s"])),
        ("waiting for data", _share(found["waiting_for_data"]) + " of the training time"),
        ("accuracy", f"{_share(found['test_accuracy'])} (target {config.target_accuracy:.0%}, best {_share(found['best_accuracy'])}; "
                     f"always cloud would score {_share(found['cloud_share'])})"),
        ("  by day, by night", f"{_share(found['day_accuracy'])}, {_share(found['night_accuracy'])}"),
        ("balanced accuracy", _share(found["balanced_accuracy"])),
        ("F1 of cloud", _share(found["f1"])),
    ]  # fmt: skip
    recall = last.get("test_class_recall") or dict.fromkeys(CLASS_NAMES)
    rows += [(f"  {name} found", _share(value)) for name, value in recall.items()]
    if found["time_to_target_s"] is not None:
        rows.append(("time to target", human_seconds(found["time_to_target_s"])))
    if found["total_time"] is not None:
        rows.append(("run time", human_seconds(found["total_time"])))
    rows.append(("as a submission", f"{verdict.verdict}: {verdict.reason}"))
    lines = [text_table(("figure", "value"), rows)]
    lines += [f"  {complaint}" for complaint in verdict.complaints]
    if generated:
        lines.append(GENERATED)
    lines.append(f"Run folder: {folder.path}")
    lines.append(f"Model: {model}")
    lines.append(f"Next: stormbench cloudmask inference {model} DATA OUT")
    return "\n".join(lines)


def _rate(value: float | None) -> str:
    return f"{value:.2f} patches/s" if value is not None else "no such epoch"


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else "-"
