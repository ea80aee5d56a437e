"""What every data format shares: the shape of a sample, the interface of a dataset, and the storing of pixels piece by piece.

The pieces are small enough to stay in a core's cache, so that normalising and checking cost little beside reading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from stormbench.core.errors import RunError
from stormbench.deepcam.data.stats import CHANNELS, Stats

N_CLASSES = 3
PIECE_PIXELS = 8192
"""512 KiB of a file's pixels with 16 float32 channels: half of the second-level cache of current server cores."""
ROW_VALUES = 8192
"""Length of NumPy's inner loops; above 10,000 values OpenBLAS would start threads of its own for a dot product."""

Load = Callable[[int, np.ndarray], None]
"""Fills a flat piece with the values from the given position on."""


class SampleShape(NamedTuple):
    """Height and width in pixels, and the number of channels."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height} x {self.width} x {self.channels}"


class Dataset(Protocol):
    """Samples by position. `read` may be called by several threads at once."""

    @property
    def shape(self) -> SampleShape:
        """Shape of what `read` fills: only the chosen channels count."""

    def __len__(self) -> int: ...

    def check(self, rank: int = 0, world: int = 1) -> None:
        """Look at the headers of this rank's share of the files. Raises RunError for the first that doesn't fit."""

    def read(self, index: int, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
        """Fill the caller's buffers with sample `index`, normalised: float32 (h, w, c) and labels of any integer dtype (h, w)."""


class Scaling:
    """Picks channels and normalises them, (x - minval) / (maxval - minval) per channel, a piece of pixels at a time."""

    def __init__(self, channels: Sequence[int], stats: Stats | None) -> None:
        self.channels = tuple(channels)
        self.count = len(self.channels)
        # whole rows of pixels instead of single ones: an inner loop over 16 values costs four times as much
        pixels = max(1, ROW_VALUES // self.count)
        self.row = pixels * self.count
        self.piece_pixels = max(1, PIECE_PIXELS // pixels) * pixels
        self._low = self._span = None
        if stats is not None:
            self._low = np.tile(stats.minval, pixels)
            self._span = np.tile(stats.maxval - stats.minval, pixels)

    def takes_all(self, stored_channels: int) -> bool:
        """Whether the chosen channels are those of a file with so many, in order."""
        return self.channels == tuple(range(stored_channels))

    def select(self, pixels_pc: np.ndarray, piece: np.ndarray) -> None:
        """Copy the chosen channels of (pixels, all channels) to the flat `piece`, in their order."""
        out_pc = piece.reshape(-1, self.count)
        for position, channel in enumerate(self.channels):
            out_pc[:, position] = pixels_pc[:, channel]

    def normalise(self, piece: np.ndarray, squares: np.ndarray) -> None:
        """Normalise the flat `piece` in place; `squares` (rows + 1,) gets sums of squares, not finite where a value isn't."""
        n_rows = piece.size // self.row
        end = n_rows * self.row
        rows, rest = piece[:end].reshape(n_rows, self.row), piece[end:]
        if self._low is not None and self._span is not None:
            np.subtract(rows, self._low, out=rows)
            np.divide(rows, self._span, out=rows)
            np.subtract(rest, self._low[: rest.size], out=rest)
            np.divide(rest, self._span[: rest.size], out=rest)
        np.matmul(rows[:, None, :], rows[:, :, None], out=squares[:n_rows, None, None])
        squares[n_rows] = rest @ rest


def store_image(path: Path, load: Load | None, stored_channels: int, scaling: Scaling, image_hwc_out: np.ndarray) -> None:
    """Fill `image_hwc_out` by `load`, which gives all the stored channels, then normalise and check it.

    With `load` None the values are there already, in the chosen channels.

    Raises:
        RunError: a value isn't finite.
    """
    out, count = image_hwc_out.reshape(-1), scaling.count
    n_pixels, step = out.size // count, scaling.piece_pixels
    whole = scaling.takes_all(stored_channels)
    stored_pc = None if load is None or whole else np.empty((step, stored_channels), np.float32)
    # values are worked on in a piece that stays in cache and go to the buffer once: the buffer is in none
    scratch = None if load is None else np.empty(min(step, n_pixels) * count, np.float32)
    squares = np.zeros((-(-n_pixels // step), step * count // scaling.row + 1), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for turn, start in enumerate(range(0, n_pixels, step)):
            stop = min(start + step, n_pixels)
            piece = out[start * count : stop * count]
            work = piece if scratch is None else scratch[: piece.size]
            if load is not None and stored_pc is not None:
                pixels_pc = stored_pc[: stop - start]
                load(start * stored_channels, pixels_pc.reshape(-1))
                scaling.select(pixels_pc, work)
            elif load is not None:
                load(start * count, work)
            scaling.normalise(work, squares[turn])
            if scratch is not None:
                np.copyto(piece, work)
    if not np.isfinite(squares).all():
        _refuse_not_finite(path, scaling, image_hwc_out)


def _refuse_not_finite(path: Path, scaling: Scaling, image_hwc: np.ndarray) -> None:
    """Name the first value that isn't finite. There may be none: squares of large values overflow."""
    bad = np.flatnonzero(~np.isfinite(image_hwc))
    if bad.size:
        row, column, position = np.unravel_index(bad[0], image_hwc.shape)
        channel = scaling.channels[position]
        name = f" ({CHANNELS[channel]})" if channel < len(CHANNELS) else ""
        raise RunError(
            f"{path}: channel {channel}{name} isn't finite at row {row}, column {column} ({bad.size} such values); "
            "copy or convert the file again, or take it out of the folder"
        )


def store_label(path: Path, load: Load, dtype: np.dtype, label_hw_out: np.ndarray) -> None:
    """Fill `label_hw_out` by `load`, which gives integers of `dtype`.

    Raises:
        RunError: a label isn't one of the classes 0, 1, 2.
    """
    out, native = label_hw_out.reshape(-1), dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{dtype.itemsize}")
    step = PIECE_PIXELS * 8
    scratch = None if dtype == out.dtype else np.empty(min(step, out.size), dtype)
    for start in range(0, out.size, step):
        piece = out[start : start + step]
        values = piece if scratch is None else scratch[: piece.size]
        load(start, values)
        values = values.astype(native, copy=False)
        # read as unsigned, negative labels are large ones: one comparison finds both
        if values.view(unsigned).max() >= N_CLASSES:
            wrong = int(np.flatnonzero(values.view(unsigned) >= N_CLASSES)[0])
            row, column = divmod(start + wrong, label_hw_out.shape[1])
            raise RunError(
                f"{path}: label {values[wrong]} at row {row}, column {column}; must be 0, 1 or 2: "
                "copy or convert the file again, or take it out of the folder"
            )
        if scratch is not None:
            np.copyto(piece, values, casting="unsafe")


def check_buffers(shape: SampleShape, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
    """Raise ValueError unless the buffers can take a sample of this shape in place."""
    if image_hwc_out.shape != tuple(shape) or image_hwc_out.dtype != np.float32 or not image_hwc_out.flags.c_contiguous:
        raise ValueError(f"the image buffer must be contiguous float32 {shape}, not {image_hwc_out.dtype} {image_hwc_out.shape}")
    if label_hw_out.shape != shape[:2] or label_hw_out.dtype.kind not in "iu" or not label_hw_out.flags.c_contiguous:
        raise ValueError(f"the label buffer must be contiguous integers {shape[:2]}, not {label_hw_out.dtype} {label_hw_out.shape}")


@contextlib.contextmanager
def reported_read_errors(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is read into a RunError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path}: the file is gone; put it back, or start again with the files that are there") from error
    except OSError as error:
        raise RunError(f"{path}: can't be read ({error.strerror or error}); check the file and its file system, then run again") from error
