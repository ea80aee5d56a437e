"""Names of SLSTR level 1 products: what the long name of a `.SEN3` folder says of the product inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone

from stormbench.core.errors import UserError

ENDINGS = (".SEN3", ".hdf", ".zip", ".h5")
"""What follows a product's name in folders, archives, converted files and masks."""
_TIME = r"\d{8}T\d{6}"
_PATTERN = re.compile(
    rf"(?P<mission>S3[A-D])_SL_1_RBT____(?P<start>{_TIME})_(?P<stop>{_TIME})_(?P<created>{_TIME})"
    r"_(?P<duration>\d{4})_(?P<cycle>\d{3})_(?P<orbit>\d{3})_(?P<frame>\d{4}|____)"
    r"_(?P<centre>[A-Z0-9_]{3})_(?P<class>[A-Z0-9_])_(?P<timeliness>[A-Z]{2})_(?P<baseline>[A-Z0-9]{3})"
)


@dataclass(frozen=True, kw_only=True)
class ProductName:
    """The fields of a product's name, in its order; times are UTC, `text` is the name without an ending."""

    mission: str
    start: datetime
    stop: datetime
    created: datetime
    duration_s: int
    cycle: int
    relative_orbit: int
    frame: str
    """Along-track frame as four digits, or `____` in products that have none."""
    centre: str
    class_: str
    timeliness: str
    baseline: str
    text: str

    @property
    def sensing(self) -> tuple[str, datetime]:
        """What was seen: two products of one sensing time are versions of the same image."""
        return self.mission, self.start

    @property
    def baseline_number(self) -> int | None:
        """The processing baseline as a number, or None where its three characters aren't digits."""
        return int(self.baseline) if self.baseline.isdigit() else None


def parse(name: str) -> ProductName:
    """Take a product's name apart; folders before it and an ending such as .SEN3 after it are allowed.

    Raises:
        UserError: it isn't the name of an SLSTR level 1 product.
    """
    text = stem(name)
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise UserError(f"{text or name}: not the name of an SLSTR level 1 product, as S3A_SL_1_RBT____<start>_<stop>_..._<baseline>")
    try:
        start, stop, created = (_time(found[key]) for key in ("start", "stop", "created"))
    except ValueError as error:
        raise UserError(f"{text}: a time in the name of this product is no date ({error})") from error
    return ProductName(
        mission=found["mission"],
        start=start,
        stop=stop,
        created=created,
        duration_s=int(found["duration"]),
        cycle=int(found["cycle"]),
        relative_orbit=int(found["orbit"]),
        frame=found["frame"],
        centre=found["centre"],
        class_=found["class"],
        timeliness=found["timeliness"],
        baseline=found["baseline"],
        text=text,
    )


def stem(name: str) -> str:
    """Return the last part of a path without the endings that products, archives and our files have."""
    text = str(name).rstrip("/").rsplit("/", 1)[-1]
    # an archive may be called X.SEN3.zip
    for _ in range(2):
        for ending in ENDINGS:
            text = text.removesuffix(ending)
    return text


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
