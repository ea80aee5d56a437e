"""The plot of an SST comparison: how satellite minus buoy spreads where each mask sees clear sky. Imports matplotlib when used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stormbench.core.files import atomic_path

RANGE_K = 3.0
"""Half of the range shown; what lies outside is counted in the first and the last bin, so that no outlier is hidden."""
BINS = 60
LOOKS = {"bayes": ("Bayesian mask", "#4477aa"), "model": ("model's mask", "#cc6677")}


def save(path: Path, differences_k: Mapping[str, NDArray[np.float64]], note: str = "") -> None:
    """Write a PNG with one histogram for each mask of the differences in kelvin, a line at its median, and a `note` below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(-RANGE_K, RANGE_K, BINS + 1)
    for name, values_k in differences_k.items():
        label, colour = LOOKS[name]
        heights, _ = np.histogram(np.clip(values_k, -RANGE_K, RANGE_K), edges)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(heights, edges, color=colour, label=f"{label}: {values_k.size} match-ups")
        if values_k.size:
            axes.axvline(float(np.median(values_k)), color=colour, linestyle="--", linewidth=1)
    axes.set_xlabel(f"satellite minus buoy, K (beyond {RANGE_K:g} K: in the last bins)")
    axes.set_ylabel("match-ups")
    axes.set_xlim(-RANGE_K, RANGE_K)
    axes.legend(frameon=False)
    if note:
        figure.supxlabel(note, fontsize=8)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
