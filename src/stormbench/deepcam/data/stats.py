"""The channels of a sample, and the per-channel statistics in `stats.h5` by which they are normalised."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stormbench.core.errors import UserError

CHANNELS = (
    "TMQ", "U850", "V850", "UBOT", "VBOT", "QREFHT", "PS", "PSL",
    "T200", "T500", "PRECT", "TS", "TREFHT", "Z1000", "Z200", "ZBOT",
)  # fmt: skip
"""Names of the channels in the order of the files' last dimension."""

_MAKE = "copy it from the data's source or make it with stormbench deepcam summarize"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stats:
    """Smallest and largest value of the chosen channels: float32 (c,), in the order in which they were chosen."""

    minval: np.ndarray
    maxval: np.ndarray


def read(path: str | os.PathLike[str], channels: Sequence[int] = tuple(range(len(CHANNELS))), origin: str = "--data_dir_prefix") -> Stats:
    """Read `stats.h5` for `channels`; `origin` is the option that led to the file, for the message.

    Raises:
        UserError: the file or a dataset is missing or broken, or a chosen channel has no finite, growing range.
    """
    path = Path(path)
    for channel in channels:
        if not 0 <= channel < len(CHANNELS):
            raise UserError(f"channel {channel}: must be from 0 to {len(CHANNELS) - 1}; choose others by --channels")
    values = _read_datasets(path, origin)
    found = Stats(
        minval=np.array([values["minval"][channel] for channel in channels], np.float32),
        maxval=np.array([values["maxval"][channel] for channel in channels], np.float32),
    )
    for position, channel in enumerate(channels):
        low, high = found.minval[position], found.maxval[position]
        # the difference of two finite values can still overflow
        with np.errstate(over="ignore", invalid="ignore"):
            usable = np.isfinite(low) and np.isfinite(high) and high > low and np.isfinite(high - low)
        if not usable:
            raise UserError(
                f"{path}: channel {channel} ({CHANNELS[channel]}) has minval {low:g} and maxval {high:g}; "
                f"both must be finite and maxval the larger: {_MAKE}"
            )
    return found


def _read_datasets(path: Path, origin: str) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: no such file; {origin} must be the folder with train/, validation/ and stats.h5: {_MAKE}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return {name: _dataset(path, file, f"climate/{name}") for name in ("minval", "maxval")}
    except (OSError, RuntimeError, KeyError) as error:
        why = "it is truncated" if "truncated" in str(error) else "it is broken or not HDF5"
        if isinstance(error, PermissionError):
            raise UserError(f"{path}: may not be read; ask for the right to read it") from error
        raise UserError(f"{path}: can't be read as HDF5, {why}; {_MAKE}") from error


def _dataset(path: Path, file: Any, name: str) -> np.ndarray:
    import h5py

    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: has no dataset {name}; {_MAKE}")
    if dataset.shape != (len(CHANNELS),) or dataset.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name} is {dataset.dtype} {dataset.shape}; must be {len(CHANNELS)} numbers, one per channel: {_MAKE}")
    return np.asarray(dataset[:])
