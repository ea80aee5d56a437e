"""From frames to what the network is trained on: normalised channels, labels, and which pixels count, cut into square patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask.frame import BTS, REFS, Frame
from stormbench.cloudmask.half import halved
from stormbench.core.errors import UserError

N_CHANNELS = len(REFS) + len(BTS)
REFLECTANCE_CENTRE = 0.5
BT_CENTRE_K, BT_SCALE_K = 270.0, 22.0
"""The published normalisation, which trained models expect."""
_CENTRES = np.array([REFLECTANCE_CENTRE] * len(REFS) + [BT_CENTRE_K] * len(BTS), np.float32)
_SCALES = np.array([1] * len(REFS) + [BT_SCALE_K] * len(BTS), np.float32)
ANY_BIT = 0xFF
LABEL, VALID = 1, 2
"""Bits of a patch's mask: the pixel is cloud; the pixel counts."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where a frame's patches lie: `rows` x `columns` squares of `size` pixels from (`top`, `left`) on."""

    rows: int
    columns: int
    top: int
    left: int
    size: int

    def __len__(self) -> int:
        return self.rows * self.columns

    def origin(self, number: int) -> tuple[int, int]:
        """Return the first row and column of a patch; they are numbered along the rows."""
        row, column = divmod(number, self.columns)
        return self.top + row * self.size, self.left + column * self.size


def normalise(frame: Frame, cloud_bits: int = ANY_BIT) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return image (h, w, 9), label (h, w) of 0 and 1, and valid (h, w) of a frame.

    Channels are refs - 0.5 (six), then (bts - 270 K) / 22 K (three); where there is no measurement they are 0. A pixel is
    cloud where any of `cloud_bits` is set in the Bayesian mask. It is valid where all brightness temperatures are there,
    and all reflectances or, as at night, none.
    """
    height, width = frame.shape
    image_hwc = np.empty((height, width, N_CHANNELS), np.float32)
    image_hwc[..., : len(REFS)] = frame.refs_hwc
    image_hwc[..., len(REFS) :] = frame.bts_hwc
    image_hwc -= _CENTRES
    image_hwc /= _SCALES
    finite_hwc = np.isfinite(image_hwc)
    # channel by channel: NumPy is slow along an axis of nine
    channels = np.moveaxis(finite_hwc, -1, 0).view(np.uint8)
    n_refs_hw = sum(channels[1 : len(REFS)], channels[0].copy())
    n_bts_hw = sum(channels[len(REFS) + 1 :], channels[len(REFS)].copy())
    valid_hw = (n_bts_hw == len(BTS)) & ((n_refs_hw == len(REFS)) | (n_refs_hw == 0))
    np.copyto(image_hwc, np.float32(0), where=np.logical_not(finite_hwc, out=finite_hwc))
    label_hw = ((frame.bayes_hw & np.uint8(cloud_bits)) > 0).astype(np.uint8)
    return image_hwc, label_hw, valid_hw


def grid(height: int, width: int, size: int) -> Grid:
    """Return the patches of a frame: as many as fit, in its middle. 1200 x 1500 pixels have 4 x 5 of 256, in the central 1024 x 1280.

    Raises:
        UserError: not one fits.
    """
    rows, columns = height // size, width // size
    if rows * columns == 0:
        most = min(height, width) // 8 * 8
        raise UserError(f"--patch_size {size}: an image of {height} x {width} pixels has no patch of this size; use at most {most}")
    return Grid(rows=rows, columns=columns, top=(height - rows * size) // 2, left=(width - columns * size) // 2, size=size)


def cut(array: NDArray[Any], where: Grid) -> NDArray[Any]:
    """Cut an array (h, w, ...) into its patches (n, size, size, ...), row by row. The result is a copy."""
    rows, columns, size = where.rows, where.columns, where.size
    inner = array[where.top : where.top + rows * size, where.left : where.left + columns * size]
    parts = inner.reshape(rows, size, columns, size, *array.shape[2:]).swapaxes(1, 2)
    return parts.reshape(rows * columns, size, size, *array.shape[2:])


def pack(
    image_hwc: NDArray[np.float32], label_hw: NDArray[np.uint8], valid_hw: NDArray[np.bool_]
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return image and mask bits as patches are kept: half precision, and LABEL and VALID in one byte.

    Half precision rounds by up to 0.02 K and 0.0005 in reflectance: brightness temperatures come in steps of 0.01 K, and
    converted files hold them in steps of 0.25 K. Finite numbers stay finite.
    """
    half_hwc = halved(image_hwc)
    bits_hw = label_hw * np.uint8(LABEL) | valid_hw * np.uint8(VALID)
    return half_hwc, bits_hw.astype(np.uint8, copy=False)
