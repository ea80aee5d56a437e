"""Computes stats.h5, the per-channel statistics by which samples are normalised, exactly and in one pass over the files."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.core import work
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import atomic_path
from stormbench.deepcam.data import CHANNELS, SampleShape, hdf5, npy
from stormbench.deepcam.data.sample import Scaling

GENERATED_BY = "generated_by"
"""Attribute of the group `climate` that tells generated data from simulated, in samples and in stats.h5."""
NUMBERS = ("mean", "sqmean", "minval", "maxval")
PIECE_PIXELS = 16384
"""Pixels that are turned to float64 at a time: 2 MB, which stays in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Sums over the `count` pixels of one file: (channels,) float64, smallest and largest value (channels,) float32."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    minval: NDArray[np.float32]
    maxval: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What stats.h5 holds: `count` pixels, and (channels,) float32 each."""

    count: int
    mean: NDArray[np.float32]
    sqmean: NDArray[np.float32]
    minval: NDArray[np.float32]
    maxval: NDArray[np.float32]


def run(
    input: str | os.PathLike[str], *, output: str | os.PathLike[str] | None = None, workers: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Summarise all data-*.h5 below `input` (data-*.npy where there are none) into `output`, by default `input`/stats.h5.

    Runs on `workers` processes, one per core by default, and over all ranks under mpirun or srun. The result has the same
    bytes for any number of them. Group `climate` gets `count`, the number of pixels aggregated over all files, and
    float32 `mean`, `sqmean` (mean of squares), `minval`, `maxval` in the units of the channels.

    Returns:
        `output`, `files`, `count`, and the four lists of numbers.

    Raises:
        UserError: no such files, or the output can't be written.
        RunError: a file is broken, or holds a value that isn't finite.
    """
    work.check(workers, "deepcam")
    team = work.world()
    folder = Path(input)
    target = Path(output) if output is not None else folder / "stats.h5"
    files = team.first(lambda: _ready(folder, target))
    summary = merge(work.share(partial_of, files, team=team, what="summarize", workers=workers, progress=progress))
    team.first(lambda: write(target, summary, generated_by(files[0])))
    numbers = {name: [float(value) for value in getattr(summary, name)] for name in NUMBERS}
    return {"output": str(target), "files": len(files), "count": summary.count, **numbers}


def find(folder: Path) -> list[Path]:
    """Return the sample files below a folder, sorted by path: data-*.h5, or data-*.npy where there are none.

    Raises:
        UserError: the folder is missing or holds neither.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds the data-*.h5 or data-*.npy files")
    for pattern in ("data-*.h5", "data-*.npy"):
        found = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if found:
            return found
    raise UserError(f"{folder}: no data-*.h5 or data-*.npy files below it; give the folder that holds them")


def _ready(folder: Path, target: Path) -> list[Path]:
    if target.is_dir():
        raise UserError(f"--output {target}: is a folder; give the name of the file, such as {target / 'stats.h5'}")
    if not os.access(target.parent, os.W_OK | os.X_OK) and folder.is_dir():
        raise UserError(f"{target}: its folder is missing or may not be written; choose another file by --output")
    return find(folder)


def partial_of(path: Path) -> Partial:
    """Sum up one file.

    Raises:
        RunError: it is broken or has not 16 channels, or a value isn't finite.
    """
    stored = (npy if path.suffix == ".npy" else hdf5).inspect(path)
    if stored.channels != len(CHANNELS):
        raise RunError(f"{path}: has {stored.channels} channels, must have {len(CHANNELS)}; take the file out of the folder")
    return _sums(_read(path, stored).reshape(-1, stored.channels))


def _read(path: Path, stored: SampleShape) -> NDArray[np.float32]:
    image_hwc = np.empty(stored, np.float32)
    label_hw = np.empty(stored[:2], np.uint8)
    reader = npy.read if path.suffix == ".npy" else hdf5.read
    reader(path, stored, Scaling(range(stored.channels), None), image_hwc, label_hw)
    return image_hwc


def _sums(pixels_pc: NDArray[np.float32]) -> Partial:
    n, channels = pixels_pc.shape
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, n, PIECE_PIXELS):
        piece_pc = pixels_pc[start : start + PIECE_PIXELS].astype(np.float64)
        total += _column_sums(piece_pc)
        squares += _column_sums(np.square(piece_pc, out=piece_pc))
    minval, maxval = (_columns(pixels_pc, function) for function in (np.minimum, np.maximum))
    return Partial(count=n, total=total, squares=squares, minval=minval, maxval=maxval)


def _column_sums(piece_pc: NDArray[np.float64]) -> NDArray[np.float64]:
    return _columns(piece_pc, np.add)


def _columns(pixels_pc: NDArray[Any], reduction: np.ufunc) -> NDArray[Any]:
    """Reduce over the pixels, many of them side by side: an inner loop over 16 channels alone costs five times as much."""
    n, channels = pixels_pc.shape
    side = math.gcd(n, 64)
    wide = reduction.reduce(pixels_pc.reshape(n // side, side * channels), axis=0)
    return reduction.reduce(wide.reshape(side, channels), axis=0)


def merge(partials: Sequence[Partial]) -> Summary:
    """Merge the sums of files: each sum is rounded once (math.fsum), so the order of the files doesn't matter."""
    count = sum(partial.count for partial in partials)
    totals, squares = (
        np.array([math.fsum(column) for column in zip(*sums, strict=True)])
        for sums in ([partial.total for partial in partials], [partial.squares for partial in partials])
    )
    return Summary(
        count=count,
        mean=(totals / count).astype(np.float32),
        sqmean=(squares / count).astype(np.float32),
        minval=np.min([partial.minval for partial in partials], axis=0),
        maxval=np.max([partial.maxval for partial in partials], axis=0),
    )


def generated_by(path: Path) -> str | None:
    """Return what made a generated HDF5 file, None for data of another origin."""
    import h5py

    if path.suffix != ".h5":
        return None
    with h5py.File(path, "r", locking=False) as file:
        value = file["climate"].attrs.get(GENERATED_BY)
    return value.decode() if isinstance(value, bytes) else value


def write(target: Path, summary: Summary, origin: str | None = None) -> None:
    """Write stats.h5 atomically, with the same bytes for the same numbers. `origin` marks statistics of generated data."""
    with new_hdf5(target) as file:
        group = file.create_group("climate")
        if origin is not None:
            group.attrs[GENERATED_BY] = np.bytes_(origin)
        group.create_dataset("count", data=np.int64(summary.count), track_times=False)
        for name in NUMBERS:
            group.create_dataset(name, data=getattr(summary, name), track_times=False)


@contextlib.contextmanager
def new_hdf5(target: Path) -> Iterator[Any]:
    """Yield an HDF5 file in memory and write it to `target` atomically at the end.

    A disk that fills up under HDF5 leaves a file that it can't close, and an error without a number; a plain write doesn't.

    Raises:
        RunError: the disk is full, or the folder can't be written.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v108")) as file:
        yield file
    with atomic_path(target) as path, open(path, "wb", buffering=0) as stream:
        rest = image.getbuffer()
        while rest:
            # a raw write takes at most 2 GiB and may take less
            rest = rest[stream.write(rest) or 0 :]
