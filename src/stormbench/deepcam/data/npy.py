"""Samples as NumPy files, the layout for fast readers: data-<id>.npy (h, w, 16) float32 beside label-<id>.npy (h, w)."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stormbench.core.errors import RunError
from stormbench.deepcam.data import rawfile
from stormbench.deepcam.data.sample import Load, SampleShape, Scaling, check_buffers, reported_read_errors, store_image, store_label


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    in_order: bool


def label_path(path: Path) -> Path:
    """Return the label file of a data file."""
    return path.with_name("label-" + path.name.removeprefix("data-"))


def inspect(path: str | os.PathLike[str]) -> SampleShape:
    """Return the stored shape, with all channels, from the headers of the data file and its label file.

    Raises:
        RunError: a file is missing, truncated or not NumPy, or has the wrong rank, dtype or shape.
    """
    path = Path(path)
    with reported_read_errors(path), open(path, "rb", buffering=0) as data_file:
        data = _header(path, data_file, "f", 3, "floating-point (h, w, channels)")
    other = label_path(path)
    with reported_read_errors(other), open(other, "rb", buffering=0) as label_file:
        label = _header(other, label_file, "iu", 2, "integer (h, w)")
    _check_pair(path, data, label)
    return SampleShape(*data.shape)


def read(path: Path, stored: SampleShape, scaling: Scaling, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
    """Fill the buffers from a data file that must have the shape `stored`, and its label file.

    Raises:
        RunError: as `inspect`, or another shape, a value that isn't finite, a label that is no class.
    """
    check_buffers(SampleShape(*stored[:2], scaling.count), image_hwc_out, label_hw_out)
    with reported_read_errors(path), open(path, "rb", buffering=0) as file:
        data = _header(path, file, "f", 3, "floating-point (h, w, channels)")
        if data.shape != tuple(stored):
            shape = SampleShape(*data.shape)
            raise RunError(f"{path}: its shape is {shape}, the other files' {stored}; all files of a folder must have one shape")
        store_image(path, _values(path, file, data, np.dtype(np.float32)), stored.channels, scaling, image_hwc_out)
    other = label_path(path)
    with reported_read_errors(other), open(other, "rb", buffering=0) as file:
        label = _header(other, file, "iu", 2, "integer (h, w)")
        _check_pair(path, data, label)
        store_label(other, _values(other, file, label, label.dtype), label.dtype, label_hw_out)


def _values(path: Path, file: BinaryIO, header: _Header, dtype: np.dtype) -> Load:
    """Return a reader of values as `dtype`: of the bytes in place where they are that, else of the array in memory."""
    if header.in_order and header.dtype == dtype:
        return rawfile.loader(path, file.fileno(), header.offset, dtype.itemsize)
    array = np.load(path, allow_pickle=False)
    with np.errstate(over="ignore"):
        return rawfile.in_memory(np.ascontiguousarray(array, dtype=dtype))


def _check_pair(path: Path, data: _Header, label: _Header) -> None:
    if data.shape[:2] != label.shape:
        raise RunError(
            f"{path}: has shape {data.shape} and its {label_path(path).name} {label.shape}; height and width must agree: convert both again"
        )


def _header(path: Path, file: BinaryIO, kinds: str, rank: int, wanted: str) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = parse(file)
    except ValueError as error:
        size = os.fstat(file.fileno()).st_size
        raise RunError(f"{path}: isn't a complete NumPy file ({size} bytes); convert it again, or take it out of the folder") from error
    if dtype.kind not in kinds or len(shape) != rank or 0 in shape:
        raise RunError(f"{path}: is {dtype} {shape}, must be {wanted}; convert it again, or take it out of the folder")
    header = _Header(offset=file.tell(), shape=shape, dtype=dtype, in_order=not fortran_order)
    size, expected = os.fstat(file.fileno()).st_size, header.offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if size < expected:
        raise rawfile.truncated(path, size, expected)
    return header
