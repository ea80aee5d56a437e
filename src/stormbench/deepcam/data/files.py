"""Finds the sample files of a folder and serves them as a dataset, whatever their format."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stormbench.core.errors import RunError, UserError, did_you_mean
from stormbench.deepcam.data import hdf5, npy
from stormbench.deepcam.data.sample import SampleShape, Scaling
from stormbench.deepcam.data.stats import CHANNELS, Stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFormat:
    """How one kind of sample file is named and read; `partner` says that each data-X has a label-X beside it."""

    suffix: str
    partner: bool
    inspect: Callable[[Path], SampleShape]
    read: Callable[[Path, SampleShape, Scaling, np.ndarray, np.ndarray], None]


FORMATS = {
    "hdf5": FileFormat(suffix=".h5", partner=False, inspect=hdf5.inspect, read=hdf5.read),
    "numpy": FileFormat(suffix=".npy", partner=True, inspect=npy.inspect, read=npy.read),
}


class FileDataset:
    """The samples of a folder in the order of their names. It holds the names and nothing else of each file."""

    def __init__(self, data_format: str, folder: Path, *, channels: Sequence[int], stats: Stats | None, origin: str) -> None:
        self._format = FORMATS[data_format]
        self._folder = folder
        self._names = _names(folder, data_format, origin)
        self._stored = self._format.inspect(self.path(0))
        if self._stored.channels != len(CHANNELS):
            raise RunError(f"{self.path(0)}: has {self._stored.channels} channels, must have {len(CHANNELS)}; convert the data again")
        if stats is not None and not len(stats.minval) == len(stats.maxval) == len(channels):
            raise ValueError(f"statistics of {len(stats.minval)} channels for {len(channels)} chosen ones")
        self._scaling = Scaling(channels, stats)

    @property
    def shape(self) -> SampleShape:
        return SampleShape(self._stored.height, self._stored.width, self._scaling.count)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        """Return the data file of sample `index`."""
        return self._folder / self._names[index]

    def check(self, rank: int = 0, world: int = 1) -> None:
        """Look at the headers of the files rank, rank + world, ...; all ranks together see each file once.

        Raises:
            RunError: a file is broken, or its shape isn't that of the folder's first file.
        """
        for index in range(rank, len(self), world):
            found = self._format.inspect(self.path(index))
            if found != self._stored:
                raise RunError(
                    f"{self.path(index)}: its shape is {found}, that of {self._names[0]} {self._stored}; "
                    "all files of a folder must have one shape: convert it, or take it out of the folder"
                )

    def read(self, index: int, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
        """Fill the buffers with sample `index`, normalised.

        Raises:
            RunError: the file is broken, has another shape, or holds a value that isn't finite or a label that is no class.
        """
        self._format.read(self.path(index), self._stored, self._scaling, image_hwc_out, label_hw_out)


def find(folder: str | os.PathLike[str], data_format: str, origin: str = "--data_dir_prefix") -> list[Path]:
    """Return the data files of a folder, sorted by name; `origin` is the option that led to the folder.

    Raises:
        UserError: the folder is missing or has no such files, or a label file is missing.
    """
    folder = Path(folder)
    return [folder / name for name in _names(folder, data_format, origin)]


def _names(folder: Path, data_format: str, origin: str) -> list[str]:
    if data_format not in FORMATS:
        raise UserError(f"--data_format {data_format}: must be one of {', '.join(FORMATS)}{did_you_mean(data_format, FORMATS)}")
    file_format = FORMATS[data_format]
    try:
        # one listing instead of a question per file: a parallel file system answers 121,266 of those in minutes
        is_folder = {entry.name: entry.is_dir() for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or str(error)).lower()}; {_advice(folder, data_format, origin)}") from error
    prefixes = ("data-", "label-") if file_format.partner else ("data-",)
    present = sorted(name for name in is_folder if name.startswith(prefixes) and name.endswith(file_format.suffix))
    for name in present:
        if is_folder[name]:
            raise UserError(f"{folder / name}: is a folder, must be a data file; move it out of {folder}, or rename it")
    names = [name for name in present if name.startswith("data-")]
    if not names:
        raise UserError(f"{folder}: no data-*{file_format.suffix} files; {_advice(folder, data_format, origin)}")
    if file_format.partner:
        for name in names:
            partner = npy.label_path(Path(name)).name
            if partner not in is_folder:
                raise UserError(f"{folder / name}: its {partner} is missing; convert the data again, or take the file out of the folder")
    return names


def _advice(folder: Path, data_format: str, origin: str) -> str:
    """Return what the user most likely meant, by a look at the neighbourhood."""
    here = _formats_in(folder)
    if here:
        return f"it holds data-*{FORMATS[here[0]].suffix} files: use --data_format {here[0]}"
    if data_format in _formats_in(folder.parent):
        return f"{origin} should be {folder.parent.parent}, the folder above the one with the data files"
    for base in (folder.parent, folder):
        children = sorted(base.iterdir()) if os.access(base, os.R_OK | os.X_OK) and base.is_dir() else []
        for child in children:
            if child.is_dir() and _formats_in(child / folder.name):
                return f"did you mean {origin} {child}?"
    return f"{origin} must be the folder with train/, validation/ and stats.h5"


def _formats_in(folder: Path) -> list[str]:
    try:
        suffixes = {Path(entry.name).suffix for entry in os.scandir(folder) if entry.name.startswith("data-")}
    except OSError:
        return []
    return [name for name, file_format in FORMATS.items() if file_format.suffix in suffixes]
