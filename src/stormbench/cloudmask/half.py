"""Half precision faster than NumPy's own cast, which takes the numbers one by one: half of the time of writing a product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**15
"""Numbers at a time: the buffers of a block stay in the cache."""
LARGEST = float(np.finfo(np.float16).max)
_SHIFT = np.float32(2.0**-112)
"""Makes the exponent of a float32 that of the float16 of the same value: their biases are 127 and 15."""


def halved(values: NDArray[Any], out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
    """Return numbers as float16, rounded to the nearest, ties to even, in `out` if it is given.

    Below 6.1e-5, where float16 has fewer digits, a number next to a tie may become the other neighbour. NaN stays NaN.
    What is beyond the largest float16, 65504, becomes that: reflectances have no upper bound where the sun is about to
    set, and a valid measurement is to stay one.
    """
    target = np.empty(values.shape, np.float16) if out is None else out
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits = np.empty(flat.shape, np.uint16)
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, BLOCK):
            _halve(flat[start : start + BLOCK], bits[start : start + BLOCK])
    target.view(np.uint16)[...] = bits.reshape(values.shape)
    return target


def _halve(values: NDArray[np.float32], bits: NDArray[np.uint16]) -> None:
    """Write the 16 bits of each number: the upper ones of its 32, once its exponent is shifted and its rest rounded."""
    scaled = np.clip(values, -LARGEST, LARGEST)
    scaled *= _SHIFT
    wide = scaled.view(np.uint32)
    sign = wide >> 16
    sign &= 0x8000
    # half a unit of the last place kept, less one bit where that place is even, so that ties go to even
    odd = wide >> 13
    odd &= 1
    wide &= 0x7FFFFFFF
    wide += odd
    wide += 0x0FFF
    wide >>= 13
    wide |= sign
    np.copyto(bits, wide, casting="unsafe")
