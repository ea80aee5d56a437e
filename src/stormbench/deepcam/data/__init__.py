"""DeepCAM's samples: finding and reading files, the order of an epoch, and reading ahead. `OPENERS` is where a new format is entered."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from stormbench.core.errors import UserError, did_you_mean
from stormbench.deepcam.data import hdf5, npy, sampler, stats
from stormbench.deepcam.data.dummy import DummyDataset
from stormbench.deepcam.data.files import FileDataset, find
from stormbench.deepcam.data.sample import Dataset, SampleShape
from stormbench.deepcam.data.stats import CHANNELS, Stats

__all__ = ["CHANNELS", "OPENERS", "Dataset", "SampleShape", "Source", "Stats", "find", "hdf5", "npy", "open_dataset", "sampler", "stats"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What an opener may need to know; each takes what concerns it."""

    folder: Path | None
    channels: tuple[int, ...]
    stats: Stats | None
    length: int
    height: int
    width: int
    seed: int
    origin: str


def _open_files(data_format: str) -> Callable[[Source], Dataset]:
    def opener(source: Source) -> Dataset:
        if source.folder is None:
            raise UserError(f"--data_format {data_format}: needs {source.origin}, the folder with train/, validation/ and stats.h5")
        return FileDataset(data_format, source.folder, channels=source.channels, stats=source.stats, origin=source.origin)

    return opener


def _open_dummy(source: Source) -> Dataset:
    return DummyDataset(SampleShape(source.height, source.width, len(source.channels)), source.length, source.seed)


OPENERS: dict[str, Callable[[Source], Dataset]] = {"hdf5": _open_files("hdf5"), "numpy": _open_files("numpy"), "dummy": _open_dummy}


def open_dataset(
    data_format: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    channels: Sequence[int] = tuple(range(len(CHANNELS))),
    stats: Stats | None = None,
    length: int = 64,
    height: int = 768,
    width: int = 1152,
    seed: int = 0,
    origin: str = "--data_dir_prefix",
) -> Dataset:
    """Open the samples of a folder, or dummy ones.

    `channels` are positions in `CHANNELS`, returned in that order; `stats` holds their ranges (`stats.read` with the same
    channels), and without it values stay as they are in the files. `length`, `height`, `width` and `seed` are for dummy samples.

    Raises:
        UserError: an unknown format, or a folder that is missing, empty or holds another format.
        RunError: the first file is broken.
    """
    if data_format not in OPENERS:
        raise UserError(f"--data_format {data_format}: must be one of {', '.join(OPENERS)}{did_you_mean(data_format, OPENERS)}")
    if not channels or len(set(channels)) != len(channels) or not all(0 <= channel < len(CHANNELS) for channel in channels):
        raise UserError(f"--channels {' '.join(map(str, channels))}: needs at least one of 0 to {len(CHANNELS) - 1}, and none twice")
    return OPENERS[data_format](
        Source(
            folder=Path(folder) if folder is not None else None,
            channels=tuple(channels),
            stats=stats,
            length=length,
            height=height,
            width=width,
            seed=seed,
            origin=origin,
        )
    )
