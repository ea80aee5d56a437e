"""What a run of inference comes to over all ranks: rates, scores, and a row as the published table has them."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stormbench.cloudmask import metrics
from stormbench.cloudmask.host import onednn_in_use
from stormbench.cloudmask.sources import GENERATED_NOTE
from stormbench.core.clocks import human_seconds
from stormbench.core.files import atomic_path, write_json
from stormbench.core.launch import detect
from stormbench.core.provenance import describe_host, versions
from stormbench.core.tables import text_table
from stormbench.core.work import Team

if TYPE_CHECKING:
    from stormbench.cloudmask.infer import Share

JSON_NAME, TABLE_NAME = "inference.json", "inference.csv"
COLUMNS = ("section", "index", "system", "python", "num_gpus", "num_ranks", "ntasks_per_node", "total", "imgs_per_s")
"""Columns of the published table of inference runs."""
IMAGE = 256
IMAGES_NOTE = (
    "imgs_per_s counts a product's whole patches of 256 x 256 pixels, 20 for a full product, as the published table does; "
    "products that were kept from an earlier run count in the scores, not in the rates"
)


def record(
    kept: Sequence[dict[str, Any]], shares: Sequence[Share], output: Path, *, team: Team, system: str | None, cpu_only: bool
) -> dict[str, Any]:
    """Return the figures of a run; `kept` are the facts of masks from before, `shares` what each rank did."""
    done = [facts for share in shares for facts in share.predicted]
    total = max(share.total_s for share in shares)
    images = sum(images_of(facts["height"], facts["width"]) for facts in done)
    busy = sum(share.total_s for share in shares)
    launch = detect(os.environ)
    row = {
        "section": "", "index": output.resolve().name, "system": system or describe_host(), "python": _build(),
        "num_gpus": sum(share.gpus for share in shares), "num_ranks": team.size, "ntasks_per_node": launch.local_size or team.size,
        "total": total, "imgs_per_s": images / total if done else None,
    }  # fmt: skip
    everything = [*kept, *done]
    generated = any(facts["generated"] for facts in everything)
    return {
        "format": 1, "output_directory": str(output), "products": len(everything), "predicted": len(done), "skipped": len(kept),
        "failed": sum(len(share.failures) for share in shares), "total": total, "products_per_s": len(done) / total if done else None,
        "imgs_per_s": row["imgs_per_s"], "images": images, "startup_s": max(share.startup_s for share in shares),
        "waiting_for_data": sum(share.waiting_s for share in shares) / busy if busy else None,
        "method": next((share.method for share in shares if share.method), "nothing was left to do"),
        "num_ranks": team.size, "num_gpus": row["num_gpus"], "cpu_only": cpu_only,
        **summed(everything), "image_sizes": _sizes(everything),
        "generated": generated, "row": row, "notes": [GENERATED_NOTE, IMAGES_NOTE] if generated else [IMAGES_NOTE],
        "versions": versions(),
    }  # fmt: skip


def images_of(height: int, width: int) -> int:
    """Return how many images the published table counts for a product of this size; at least one."""
    return max((height // IMAGE) * (width // IMAGE), 1)


def _sizes(facts: Iterable[dict[str, Any]]) -> list[list[int]]:
    return sorted({(each["height"], each["width"]): [each["height"], each["width"]] for each in facts}.values())


def summed(facts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores over the pixels of several masks together, all of them and those of day and night frames apart."""
    vector = np.zeros(metrics.SIZE)
    # behind the place for the loss, which inference has none of: [time of day][label][prediction]
    counts = vector[1:].reshape(2, 2, 2)
    for each in facts:
        counts[metrics.DAY if each["day"] else metrics.NIGHT] += each["counts"]
    apart = metrics.scores_apart(vector)
    return {
        **_named(metrics.scores(vector)), "day": _named(apart["day"]), "night": _named(apart["night"]),
        "counts": {"classes": list(metrics.CLASS_NAMES), "label_then_prediction": counts.sum(0).astype(int).tolist()},
    }  # fmt: skip


def _named(scores: metrics.Scores) -> dict[str, Any]:
    """Return scores as JSON holds them, without the loss."""
    found = dataclasses.asdict(scores)
    del found["loss"]
    for name, value in found.items():
        if isinstance(value, tuple):
            found[name] = dict(zip(metrics.CLASS_NAMES, value, strict=True))
    return found


def write(folder: Path, figures: dict[str, Any]) -> None:
    """Write the figures as JSON and the row as CSV beside the masks."""
    write_json(folder / JSON_NAME, figures)
    with atomic_path(folder / TABLE_NAME) as path, open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerow(figures["row"])


def text(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = [
        ("products", f"{figures['predicted']} predicted, {figures['skipped']} were complete, {figures['failed']} failed"),
        ("ran as", f"{figures['num_ranks']} rank(s), {figures['num_gpus']} GPU(s), {figures['method']}"),
    ]
    if figures["predicted"]:
        rate = f"{figures['products_per_s']:.3g} products/s, {figures['imgs_per_s']:.3g} images/s"
        rows.append(("time", f"{human_seconds(figures['total'])}, after {human_seconds(figures['startup_s'])} to start"))
        rows += [("rate", rate), ("waiting for data", f"{figures['waiting_for_data']:.1%} of the time")]
    parts = [("all", figures), ("day", figures["day"]), ("night", figures["night"])]
    table = [
        [name, part["pixels"], *(_share(part[key]) for key in ("accuracy", "balanced_accuracy", "f1"))]
        for name, part in parts
        if part["pixels"]
    ]
    lines = [text_table(("figure", "value"), rows), ""]
    if table:
        lines.append(text_table(("against the Bayesian mask", "valid pixels", "accuracy", "balanced accuracy", "F1"), table))
    else:
        lines.append("No pixel has a valid measurement, so there are no scores.")
    if figures["generated"]:
        lines.append(GENERATED_NOTE)
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _build() -> str:
    """Return which of the two builds that the published table compares this run resembles: with oneDNN's kernels or without."""
    return "onednn" if onednn_in_use() else "vanilla"
