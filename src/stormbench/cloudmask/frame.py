"""One image of SLSTR on its 1 km grid: what a product becomes, and what the network is trained on and applied to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 1200, 1500
"""Rows and columns of the 1 km nadir grid of a full product."""
REFS = ("S1", "S2", "S3", "S4", "S5", "S6")
"""Channels with reflectances, in the order of the arrays."""
BTS = ("S7", "S8", "S9")
"""Channels with brightness temperatures, in the order of the arrays."""


@dataclass(kw_only=True, eq=False)
class Frame:
    """Arrays of one product at 1 km, NaN where there is no valid measurement.

    Who reads a file and leaves a field out finds an array without rows in its place.
    """

    refs_hwc: NDArray[np.float32]
    """Reflectances (h, w, 6) of S1 to S6; NaN also where the sun is down."""
    bts_hwc: NDArray[np.float32]
    """Brightness temperatures (h, w, 3) of S7 to S9 in kelvin."""
    rads_hwc: NDArray[np.float32] | None = None
    """Radiances (h, w, 6) of S1 to S6 in mW m-2 sr-1 nm-1, where they were asked for."""
    bayes_hw: NDArray[np.uint8]
    """The bits of `bayes_in` (h, w) as they are; cloud where any is set."""
    summary_hw: NDArray[np.uint8]
    """1 where the `summary_cloud` bit is set, else 0 (h, w)."""
    day: bool
    """Whether every pixel carries the `day` bit."""
    about: dict[str, str] = field(default_factory=dict)
    """Where the frame comes from: `source`, `baseline`, `adjustment` and the like."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bayes_hw.shape[0], self.bayes_hw.shape[1]
