"""Reads deflated chunks of an HDF5 dataset without HDF5's own filters, by a faster inflater."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "deflate"
"""The package around libdeflate; without it everything is read by HDF5."""
DEFLATE, SHUFFLE = 1, 2
"""Numbers of the filters in HDF5's registry."""
MAX_CHUNKS = 20_000
"""Beyond it the chunks are so small that finding them costs more than inflating."""
MAX_BYTES = 2**30
"""A larger chunk is left to HDF5, which refuses the sizes that only damaged files claim."""


@functools.cache
def inflater() -> Callable[[bytes, int], Any] | None:
    """Return the function that inflates zlib data to a given size, or None where its package isn't installed."""
    try:
        return importlib.import_module(PACKAGE).zlib_decompress
    except (ImportError, AttributeError):
        return None


def read(dataset: Any, out: NDArray[Any]) -> bool:
    """Fill `out` from the whole of an h5py dataset, if it is stored in a way that this knows; else return False.

    Known are chunks, all of them there, with the filters shuffle and deflate in this order, or deflate alone.

    Raises:
        ValueError: a chunk has another size than it must have. The inflater and h5py raise their own errors.
    """
    inflate, size = inflater(), dataset.chunks
    if inflate is None or size is None or not dataset.dtype.isnative or not out.flags.c_contiguous:
        return False
    filters = _filters(dataset)
    if filters not in ((DEFLATE,), (SHUFFLE, DEFLATE)):
        return False
    counts = [-(-length // part) for length, part in zip(dataset.shape, size, strict=True)]
    n_chunks, n_bytes = math.prod(counts), math.prod(size) * out.dtype.itemsize
    if n_chunks > MAX_CHUNKS or n_bytes > MAX_BYTES or dataset.id.get_num_chunks() != n_chunks:
        return False
    shuffled = filters[0] == SHUFFLE and out.dtype.itemsize > 1
    for offset in itertools.product(*(range(0, length, part) for length, part in zip(dataset.shape, size, strict=True))):
        skipped, packed = dataset.id.read_direct_chunk(offset)
        if skipped:
            # a filter was left out for this chunk
            return False
        plain = np.frombuffer(inflate(packed, n_bytes), np.uint8)
        if plain.size != n_bytes:
            raise ValueError(f"the chunk at {offset} has {plain.size} bytes, must have {n_bytes}")
        target = out[tuple(slice(start, start + part) for start, part in zip(offset, size, strict=True))]
        inside = tuple(slice(length) for length in target.shape)
        if shuffled:
            _unshuffle([plane.reshape(size)[inside] for plane in plain.reshape(out.dtype.itemsize, -1)], target)
        else:
            target[...] = plain.view(out.dtype).reshape(size)[inside]
    return True


def _filters(dataset: Any) -> tuple[int, ...]:
    settings = dataset.id.get_create_plist()
    return tuple(settings.get_filter(index)[0] for index in range(settings.get_nfilters()))


def _unshuffle(planes: list[NDArray[np.uint8]], out: NDArray[Any]) -> None:
    """Put numbers together of which the first bytes, the second bytes and so on were stored apart."""
    unsigned = out.view(f"u{out.dtype.itemsize}")
    # by shifts: a pass over whole numbers is several times as fast as one over every second byte
    highest_first = planes[::-1] if sys.byteorder == "little" else planes
    np.copyto(unsigned, highest_first[0])
    for plane in highest_first[1:]:
        np.left_shift(unsigned, 8, out=unsigned)
        np.bitwise_or(unsigned, plane, out=unsigned)
