"""Compares satellite with buoy: sea surface temperatures at match-ups that a cloud mask calls clear, for two masks.

A better mask leaves fewer cold outliers: the median of satellite minus buoy is nearer to 0, the spread smaller.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stormbench.cloudmask import sst_plot
from stormbench.cloudmask.masks import CLOUD_FROM
from stormbench.cloudmask.sources import GENERATED_NOTE
from stormbench.cloudmask.sst_table import Table, read_table, with_masks
from stormbench.core.errors import EXIT_DONE, UserError
from stormbench.core.files import writable_folder, write_json
from stormbench.core.tables import text_table

ZERO_CELSIUS_K = 273.15
MIN_SST_K = 273.15
"""Sea surface temperatures have to be above this: sea water freezes below it, and fill values lie there too."""
MAX_LATITUDE_DEG, MAX_LONGITUDE_DEG = 0.005, 0.01
"""How far the pixel's place may be from the buoy's; from the published comparison, as are all limits here."""
MAX_ZENITH_DEG = 55.0
QUALITY = 5
ALGORITHM = 4
"""Dual view with two channels, whose temperature is in the column `sat_sst_2`."""
MAX_CLOUD_PROBABILITY = 0.9
"""Below it in both views the Bayesian mask counts a pixel as clear."""
MAD_TO_STD = 1.4826
"""1 / the 75% quantile of the normal distribution: makes the median absolute deviation of normal numbers their standard deviation."""
JSON_NAME, PLOT_NAME = "sst_comparison.json", "sst_comparison.png"
SHOWN_MISSING = 3


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Satellite minus buoy, in kelvin, over `count` match-ups; None where there are none."""

    count: int
    median: float | None
    robust_std: float | None


def robust_std(x: ArrayLike) -> float:
    """Return 1.4826 x median(|x - median(x)|) of the numbers in `x`, in their unit; NaN are left out, and NaN where none are left."""
    values = np.asarray(x, np.float64).ravel()
    values = values[~np.isnan(values)]
    return float(MAD_TO_STD * np.median(np.abs(values - np.median(values)))) if values.size else math.nan


def statistics(difference_k: NDArray[np.float64]) -> Statistics:
    """Return count, median and robust standard deviation."""
    if not difference_k.size:
        return Statistics(count=0, median=None, robust_std=None)
    return Statistics(count=difference_k.size, median=float(np.median(difference_k)), robust_std=robust_std(difference_k))


def run(
    matchups: Path, predictions: Path, *, output: Path | None = None, key: str | None = None, min_sst: float = MIN_SST_K, plot: bool = True
) -> dict[str, Any]:
    """Compare the match-ups of a table with the masks `<product>.h5` in a folder; returns what it writes as JSON.

    Writes sst_comparison.json and, where matplotlib is installed and `plot` is true, sst_comparison.png into `output`, the
    folder of the predictions by default. Match-ups of products without a mask, and on pixels that had no valid measurement,
    are left out and counted. `key` names the table in a file that holds several.

    Returns:
        `filters`: the match-ups left after each; `bayes` and `model`: count, median and robust standard deviation of
        satellite minus buoy; `agreement`: the share of match-ups where both masks say the same; `generated`: whether the table or
        a mask is of no observation; `notes` for the reader.

    Raises:
        UserError: no such file or folder, `min_sst` is below freezing, or none of the table's products has a mask, or one has two.
        RunError: a file is damaged, or the table lacks columns or points outside a mask.
    """
    if not MIN_SST_K <= min_sst < math.inf:
        raise UserError(f"--min_sst {min_sst:g}: must be at least {MIN_SST_K:g}, in kelvin")
    if not predictions.is_dir():
        raise UserError(f"{predictions}: no such folder; give the folder that `stormbench cloudmask inference` has written")
    table = read_table(matchups, key)
    target = writable_folder(output or predictions, "the output folder")
    steps = [("match-ups in the table", len(table["isst"]))]
    for name, keep in filters(min_sst):
        table = _rows(table, keep(table))
        steps.append((name, len(table["isst"])))
    notes = [] if len(table["isst"]) else ["No match-up passes the filters, so there is nothing to compare."]
    table, missing = with_masks(table, predictions)
    if missing and not len(table["isst"]):
        raise UserError(
            f"{predictions}: has no mask <product>.h5 of any of the {len(missing)} products of {matchups}, such as {missing[0]}; "
            "predict these products first"
        )
    steps.append(("with a mask of their product", len(table["isst"])))
    generated = bool(table["generated"].any())
    table = _rows(table, table["valid"])
    steps.append(("on pixels with a valid measurement", len(table["isst"])))
    if missing:
        more = ", ..." if len(missing) > SHOWN_MISSING else ""
        notes.append(f"{len(missing)} products of the table have no mask in {predictions}: {', '.join(missing[:SHOWN_MISSING])}{more}")
    result, differences = _compare(table, notes)
    if generated:
        notes.append(GENERATED_NOTE)
    record = {
        "matchups": str(matchups), "predictions": str(predictions), "unit": "K", "difference": "satellite minus buoy",
        "limits": _limits(min_sst), "filters": [{"filter": name, "left": left} for name, left in steps], **result,
        "generated": generated, "notes": notes,
    }  # fmt: skip
    if plot:
        # matplotlib is optional: without it the figures are all there is
        if importlib.util.find_spec("matplotlib") is None:
            notes.append("No plot, as matplotlib isn't installed: pip install 'stormbench[report]' brings it.")
        else:
            sst_plot.save(target / PLOT_NAME, differences, note=GENERATED_NOTE if generated else "")
            record["plot"] = str(target / PLOT_NAME)
    write_json(target / JSON_NAME, record)
    return record


def main(arguments: argparse.Namespace) -> int:
    """Run the command `sst-comp` and return its exit code."""
    record = run(
        arguments.matchups, arguments.predictions, output=arguments.output, key=arguments.key, min_sst=arguments.min_sst,
        plot=not arguments.no_plot,
    )  # fmt: skip
    print(json.dumps(record, indent=2) if arguments.json else text(record))
    return EXIT_DONE


def text(record: dict[str, Any]) -> str:
    """Return the result as two tables and the notes, for people."""
    counts = text_table(("match-ups", "left"), [[step["filter"], step["left"]] for step in record["filters"]])
    rows = [
        [words, record[name]["count"], _figure(record[name]["median"], "+.4f"), _figure(record[name]["robust_std"], ".4f")]
        for name, words in (("bayes", "Bayesian"), ("model", "model"))
    ]
    figures = text_table(("clear by mask", "match-ups", "median K", "robust std K"), rows)
    agreement = record["agreement"]
    shown = "no match-ups to agree on" if agreement is None else f"{agreement:.2%} of the match-ups have the same mask in both"
    return "\n".join([counts, "", figures, "", f"Agreement: {shown}.", *record["notes"]])


def _figure(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _compare(table: Table, notes: list[str]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    difference_k = table["sat_sst_2"] - (table["isst"] + ZERO_CELSIUS_K)
    bayes_clear = (table["pcloudn"] < MAX_CLOUD_PROBABILITY) & (table["pcloudo"] < MAX_CLOUD_PROBABILITY)
    model_clear = table["mask"] < CLOUD_FROM
    differences = {"bayes": difference_k[bayes_clear], "model": difference_k[model_clear]}
    for name, words in (("bayes", "The Bayesian mask"), ("model", "The model's mask")):
        if len(difference_k) and not len(differences[name]):
            notes.append(f"{words} calls none of the {len(difference_k)} match-ups clear, so it has no statistics.")
    result: dict[str, Any] = {name: vars(statistics(values)) for name, values in differences.items()}
    # of the masks, as published, and of the two selections that the statistics are of
    result["agreement"] = _share((table["bayes_in"] > 0) == ~model_clear)
    result["selection_agreement"] = _share(bayes_clear == model_clear)
    return result, differences


def filters(min_sst: float = MIN_SST_K) -> tuple[tuple[str, Callable[[Table], NDArray[np.bool_]]], ...]:
    """Return the filters in their order, each with the words that say what is left. NaN passes none."""
    return (
        (f"latitudes within {MAX_LATITUDE_DEG:g} degrees", lambda t: np.abs(t["slat"] - t["latitude_an"]) < MAX_LATITUDE_DEG),
        (f"longitudes within {MAX_LONGITUDE_DEG:g} degrees", lambda t: np.abs(t["slon"] - t["longitude_an"]) < MAX_LONGITUDE_DEG),
        (f"buoy above {min_sst:g} K", lambda t: t["isst"] + ZERO_CELSIUS_K > min_sst),
        (f"zenith angle of both views up to {MAX_ZENITH_DEG:g} degrees", _low_zenith),
        (f"quality level {QUALITY}", lambda t: t["quality_level"] == QUALITY),
        (f"algorithm type {ALGORITHM}", lambda t: t["sst_algorithm_type"] == ALGORITHM),
        (f"satellite above {min_sst:g} K", lambda t: t["sat_sst_2"] > min_sst),
    )


def _low_zenith(table: Table) -> NDArray[np.bool_]:
    return (table["satzan"] <= MAX_ZENITH_DEG) & (table["satzao"] <= MAX_ZENITH_DEG)


def _limits(min_sst: float) -> dict[str, float]:
    return {
        "latitude_deg": MAX_LATITUDE_DEG, "longitude_deg": MAX_LONGITUDE_DEG, "min_sst_k": min_sst, "zenith_deg": MAX_ZENITH_DEG,
        "quality_level": QUALITY, "sst_algorithm_type": ALGORITHM, "cloud_probability": MAX_CLOUD_PROBABILITY, "mask": CLOUD_FROM,
    }  # fmt: skip


def _share(agree: NDArray[np.bool_]) -> float | None:
    return float(agree.mean()) if agree.size else None


def _rows(table: Table, keep: NDArray[np.bool_]) -> Table:
    return {name: column[keep] for name, column in table.items()}
