"""Factors on the radiances of S1 to S6, which products of early processing baselines need and later ones must not get."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stormbench.cloudmask.frame import REFS
from stormbench.cloudmask.names import ProductName
from stormbench.core.errors import RunError, UserError, did_you_mean

FACTORS = (0.97, 0.98, 0.98, 1.0, 1.11, 1.13)
"""For the nadir view, from the vicarious calibration of the instrument."""
CALIBRATED_BASELINE = 5
"""From this processing baseline on the factors are in the product."""
AUTO, ALWAYS, NEVER = "auto", "on", "off"


def parse(text: str | Sequence[float]) -> str | tuple[float, ...]:
    """Return `auto`, `on` or `off` as it is, and six numbers, also in a text with commas, as a tuple.

    Raises:
        UserError: it is none of these.
    """
    if text in (AUTO, ALWAYS, NEVER):
        return str(text)
    words = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    try:
        factors = tuple(float(word) for word in words)
    except ValueError:
        factors = ()
    if len(factors) != len(REFS) or not all(math.isfinite(factor) and factor > 0 for factor in factors):
        hint = did_you_mean(text, (AUTO, ALWAYS, NEVER)) if isinstance(text, str) else ""
        raise UserError(f"--adjust {text}: must be {AUTO}, {ALWAYS}, {NEVER} or six numbers above 0, one for each of S1 to S6{hint}")
    return factors


def factors_of(adjust: str | Sequence[float], name: ProductName) -> tuple[float, ...]:
    """Return the six factors for a product: FACTORS for baselines before 005 and ones from 005 on, unless told otherwise.

    Raises:
        UserError: `adjust` is wrong.
        RunError: the baseline decides, and isn't a number.
    """
    chosen = parse(adjust)
    if not isinstance(chosen, str):
        return chosen
    if chosen == AUTO:
        if name.baseline_number is None:
            raise RunError(f"{name.text}: baseline {name.baseline} is no number, so say --adjust {ALWAYS} or {NEVER} for its radiances")
        chosen = ALWAYS if name.baseline_number < CALIBRATED_BASELINE else NEVER
    return FACTORS if chosen == ALWAYS else (1.0,) * len(FACTORS)


def as_text(factors: Sequence[float]) -> str:
    """Return the factors as converted files have them in their attribute `adjustment`."""
    return " ".join(f"{factor:g}" for factor in factors)
