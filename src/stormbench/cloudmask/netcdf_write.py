"""Writes NetCDF-4 files through h5py: HDF5 with the dimension scales and fill values by which NetCDF's own library knows its files."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS, CHUNK_COLUMNS = 600, 1500
"""Largest chunk; the products' own files have rows in chunks of 600."""
DEFLATE_LEVEL = 1
"""Deeper costs two to four times as long and saves a few percent: the last bits of measurements are noise."""
_SMALL = 4096
"""Variables of fewer bytes lie in one piece, unpacked."""
_GROWTH = 2**20
"""Bytes by which a file in memory grows."""
_ONLY_DIMENSION = "This is a netCDF dimension but not a netCDF variable. {:10d}"
"""The name by which the library tells the scale of a dimension that has no variable."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable: `dimensions` names an axis each, `values` are as stored, `fill` marks elements without a value."""

    name: str
    dimensions: tuple[str, ...]
    values: NDArray[Any]
    fill: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def encode(attributes: Mapping[str, Any], variables: Sequence[Variable], *, threads: int = 1) -> bytes:
    """Return the bytes of a file with these global attributes and variables; the same whatever the number of threads.

    Variables of two dimensions and more are shuffled and deflated, on `threads` threads. Texts must be ASCII.
    """
    sizes = _sizes(variables)
    with _file_in_memory() as file:
        _set(file.attrs, attributes)
        scales = {}
        for number, (name, size) in enumerate(sizes.items()):
            scale = scales[name] = file.create_dataset(name, (size,), ">f4", track_times=False)
            scale.make_scale(_ONLY_DIMENSION.format(size))
            scale.attrs["_Netcdf4Dimid"] = np.int32(number)
        with ThreadPoolExecutor(threads) as pool:
            for variable in variables:
                dataset = _write(file, variable, pool)
                for axis, name in enumerate(variable.dimensions):
                    dataset.dims[axis].attach_scale(scales[name])
        file.flush()
        return file.id.get_file_image()


def _file_in_memory() -> Any:
    """Return a new HDF5 file as NetCDF's library makes it: with the order of creation, without times."""
    import h5py

    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    creation.set_link_creation_order(order)
    creation.set_attr_creation_order(order)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(block_size=_GROWTH, backing_store=False)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18)
    return h5py.File(h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def threads_for(workers: int) -> int:
    """Return how many threads each of `workers` processes may use, so that together they use this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def _sizes(variables: Sequence[Variable]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for variable in variables:
        for name, size in zip(variable.dimensions, variable.values.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{variable.name}: dimension {name} is {size}, elsewhere {sizes[name]}")
    return sizes


def _write(file: Any, variable: Variable, pool: ThreadPoolExecutor) -> Any:
    values = np.ascontiguousarray(variable.values) if variable.dimensions else np.asarray(variable.values)
    fill = None if variable.fill is None else values.dtype.type(variable.fill)
    common = {"dtype": values.dtype, "fillvalue": fill, "track_times": False, "track_order": True}
    if values.ndim < 2 or values.nbytes < _SMALL:
        dataset = file.create_dataset(variable.name, data=values, **common)
    else:
        *outer, rows, columns = values.shape
        chunk = (*(1 for _ in outer), min(rows, CHUNK_ROWS), min(columns, CHUNK_COLUMNS))
        packing = {"chunks": chunk, "shuffle": True, "compression": "gzip", "compression_opts": DEFLATE_LEVEL}
        dataset = file.create_dataset(variable.name, values.shape, **packing, **common)
        starts = list(itertools.product(*(range(0, size, part) for size, part in zip(values.shape, chunk, strict=True))))
        # zlib lets go of the interpreter; HDF5's own filters run on one core
        for start, packed in zip(starts, pool.map(lambda start: _packed(values, start, chunk, fill), starts), strict=True):
            dataset.id.write_direct_chunk(start, packed)
    if fill is not None:
        dataset.attrs["_FillValue"] = np.array([fill])
    _set(dataset.attrs, variable.attributes)
    return dataset


def _packed(values: NDArray[Any], start: tuple[int, ...], chunk: tuple[int, ...], fill: Any) -> bytes:
    """Return one chunk shuffled (first all first bytes) and deflated; what reaches beyond the variable is fill."""
    part = values[tuple(slice(first, first + size) for first, size in zip(start, chunk, strict=True))]
    if part.shape != chunk:
        beyond = [(0, size - length) for size, length in zip(chunk, part.shape, strict=True)]
        part = np.pad(part, beyond, constant_values=0 if fill is None else fill)
    shuffled = np.ascontiguousarray(np.ascontiguousarray(part).view(np.uint8).reshape(-1, values.itemsize).T)
    return zlib.compress(shuffled.data, DEFLATE_LEVEL)


def _set(target: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            # of fixed length, as the library's own text attributes; HDF5 has no text of no length
            target[name] = np.bytes_(value or " ")
        else:
            target[name] = np.atleast_1d(value)
