"""The figures of a finished run, and the text that a user sees at its end."""

from __future__ import annotations

from typing import Any

from stormbench.core.clocks import human_seconds
from stormbench.core.runfolder import RunFolder
from stormbench.core.tables import text_table
from stormbench.core.verdict import Verdict
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.loss import CLASS_NAMES
from stormbench.deepcam.state import Data, Position
from stormbench.deepcam.wire import Wire

NERSC10_EPOCHS = 16


def first_epochs_seconds(position: Position, epochs: int = NERSC10_EPOCHS) -> float | None:
    """Return the seconds from the start of epoch 1 to the end of epoch `epochs`, validation included, or None before."""
    if len(position.history) < epochs or not position.first_epoch_start_ms:
        return None
    return (position.history[epochs - 1]["end_ms"] - position.first_epoch_start_ms) / 1000


def figures(config: TrainConfig, position: Position) -> dict[str, Any]:
    """Return the run's figures for run.json: throughput of the first epoch apart from the rest, IoU, times in s."""
    history = position.history
    later = history[1:]
    return {
        "epochs": len(history),
        "samples_per_s_first_epoch": history[0]["samples_per_s"] if history else None,
        "samples_per_s": sum(e["train_samples"] for e in later) / sum(e["train_seconds"] for e in later) if later else None,
        "iou": history[-1].get("iou") if history else None,
        "class_iou": history[-1].get("class_iou") if history else None,
        "best_iou": None if config.disable_validation else position.best_iou,
        "target_iou": config.target_iou,
        "target_epoch": position.target_epoch,
        "time_to_target_s": (position.target_ms - position.run_start_ms) / 1000 if position.target_ms else None,
        "time_to_16_epochs_s": first_epochs_seconds(position),
        "run_seconds": (history[-1]["end_ms"] - position.run_start_ms) / 1000 if history else None,
        "waiting_for_data": sum(e["waiting_for_data"] * e["train_seconds"] for e in history) / sum(e["train_seconds"] for e in history)
        if history
        else None,
    }


def text(
    config: TrainConfig, position: Position, found: dict[str, Any], verdict: Verdict, folder: RunFolder, data: Data, wire: Wire
) -> str:
    """Return the table at the end of a run, the verdict, and what to do next."""
    height, width, channels = data.train.shape
    device = wire.device.type if wire.world_size == 1 else f"{wire.world_size} ranks on {wire.n_nodes} node(s), {wire.device.type}"
    rows: list[tuple[str, str]] = [
        ("frames", f"{height} x {width} x {channels}, {'generated' if data.generated else config.data_format} data"),
        ("network width", f"{config.width:g}" + ("" if config.width == 1 else " (reduced: a rehearsal, not the benchmark)")),
        ("ran on", device),
        ("epochs", f"{found['epochs']} ({position.global_step} steps of {config.global_batch_size(wire.world_size)} samples)"),
        ("training, first epoch", _rate(found["samples_per_s_first_epoch"])),
        ("training, later epochs", _rate(found["samples_per_s"])),
        ("waiting for data", f"{found['waiting_for_data']:.1%} of the training time" if found["waiting_for_data"] is not None else ""),
    ]
    if not config.disable_validation:
        rows.append(("IoU", f"{found['iou']:.4f} (target {config.target_iou:g})"))
        rows += [(f"  {name}", f"{value:.4f}") for name, value in zip(CLASS_NAMES, found["class_iou"], strict=True)]
    if found["time_to_target_s"] is not None:
        rows.append(("time to target", human_seconds(found["time_to_target_s"])))
    if found["time_to_16_epochs_s"] is not None:
        rows.append(("time for 16 epochs", f"{human_seconds(found['time_to_16_epochs_s'])} (NERSC-10's figure of merit)"))
    rows.append(("run time", human_seconds(found["run_seconds"])))
    rows.append(("verdict", f"{verdict.verdict}: {verdict.reason}"))
    lines = [text_table(("figure", "value"), rows)]
    lines += [f"  {complaint}" for complaint in verdict.complaints]
    if data.generated:
        lines.append("Generated data: this shows that everything works, and says nothing about accuracy on climate data.")
    lines.append(f"Run folder: {folder.path}")
    lines.append(f"Next: stormbench results check {folder.path}")
    return "\n".join(lines)


def _rate(value: float | None) -> str:
    return f"{value:.2f} samples/s" if value is not None else "no such epoch"
