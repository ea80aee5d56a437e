"""Samples in HDF5 files, as the data set is distributed: climate/data (h, w, 16) and climate/labels_0 (h, w).

Contiguous, unfiltered datasets are read with plain system calls at their place in the file, which lets threads run side by
side (HDF5 itself has one lock); any other layout goes through HDF5. Files are opened by h5py's low-level calls, which take
half the time of its File object.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stormbench.core.errors import RunError
from stormbench.deepcam.data import rawfile
from stormbench.deepcam.data.sample import Load, SampleShape, Scaling, check_buffers, reported_read_errors, store_image, store_label

DATA, LABEL = "climate/data", "climate/labels_0"
_OTHERWISE = "copy it again, or take it out of the folder"


class _Part(NamedTuple):
    """An open dataset (`h5py.h5d.DatasetID`) with its header, read once."""

    identifier: Any
    shape: tuple[int, ...]
    dtype: np.dtype


def inspect(path: str | os.PathLike[str]) -> SampleShape:
    """Return the stored shape, with all channels, from the headers alone.

    Raises:
        RunError: the file is missing, truncated or not HDF5, lacks a dataset, or one has the wrong rank, dtype or shape.
    """
    path = Path(path)
    with _opened(path) as file, _reported_damage(path):
        return SampleShape(*_parts(path, file)[0].shape)


def read(path: Path, stored: SampleShape, scaling: Scaling, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
    """Fill the buffers from a file that must have the shape `stored`.

    Raises:
        RunError: as `inspect`, or another shape, a value that isn't finite, a label that is no class.
    """
    check_buffers(SampleShape(*stored[:2], scaling.count), image_hwc_out, label_hw_out)
    with _opened(path) as file:
        with _reported_damage(path):
            data, label = _parts(path, file)
            if data.shape != stored:
                shape = SampleShape(*data.shape)
                raise RunError(f"{path}: its shape is {shape}, the other files' {stored}; all files of a folder must have one shape")
            load = _image_source(path, file, data, scaling, image_hwc_out)
            load_label = _raw(path, file, label) or rawfile.in_memory(_through_hdf5(label, np.empty(label.shape, label.dtype)))
        store_image(path, load, stored.channels, scaling, image_hwc_out)
        store_label(path, load_label, label.dtype, label_hw_out)


def _image_source(path: Path, file: Any, data: _Part, scaling: Scaling, image_hwc_out: np.ndarray) -> Load | None:
    """Return where the values come from: their place in the file, else an array; None when HDF5 has put them into the buffer."""
    load = _raw(path, file, data) if data.dtype == np.dtype(np.float32) else None
    if load is not None:
        return load
    if scaling.takes_all(data.shape[2]):
        _through_hdf5(data, image_hwc_out)
        return None
    return rawfile.in_memory(_through_hdf5(data, np.empty(data.shape, np.float32)))


def _through_hdf5(part: _Part, out: np.ndarray) -> np.ndarray:
    import h5py

    part.identifier.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
    return out


def _raw(path: Path, file: Any, part: _Part) -> Load | None:
    """Return a reader of the dataset's bytes in the file, or None where they don't lie there as the values in order."""
    import h5py

    properties = part.identifier.get_create_plist()
    plain_file = file.get_access_plist().get_driver() == h5py.h5fd.SEC2 and properties.get_external_count() == 0
    if not plain_file or properties.get_layout() != h5py.h5d.CONTIGUOUS:
        return None
    # a dataset that was never written has no place in the file: HDF5 gives its fill value
    offset, size = part.identifier.get_offset(), part.identifier.get_storage_size()
    if offset is None or size != part.dtype.itemsize * int(np.prod(part.shape, dtype=np.int64)):
        return None
    return rawfile.loader(path, file.get_vfd_handle(), offset, part.dtype.itemsize)


@functools.cache
def _access() -> Any:
    import h5py

    properties = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    properties.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    # locks fail on parallel file systems mounted without them, and a reader needs none
    properties.set_file_locking(False, True)
    return properties


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _access())
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        with reported_read_errors(path):
            raise error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with reported_read_errors(path):
            yield file
    finally:
        file.close()


def _unreadable(path: Path, error: OSError) -> RunError:
    size = path.stat().st_size if path.exists() else 0
    stored = re.search(r"truncated file.*stored_eof = (\d+)", str(error))
    if stored:
        return rawfile.truncated(path, size, int(stored[1]))
    if "signature not found" in str(error):
        return RunError(f"{path}: isn't an HDF5 file ({size} bytes); {_OTHERWISE}")
    return RunError(f"{path}: can't be read as HDF5 ({error}); {_OTHERWISE}")


@contextlib.contextmanager
def _reported_damage(path: Path) -> Iterator[None]:
    """HDF5 reports damage inside a file by several kinds of exception, an OSError without a number among them."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RunError(f"{path}: is damaged ({str(error).strip(chr(34))}); {_OTHERWISE}") from error


def _parts(path: Path, file: Any) -> tuple[_Part, _Part]:
    data = _part(path, file, DATA, "f", 3, "floating-point (h, w, channels)")
    label = _part(path, file, LABEL, "iu", 2, "integer (h, w)")
    if data.shape[:2] != label.shape:
        raise RunError(f"{path}: {DATA} has shape {data.shape} and {LABEL} {label.shape}; height and width must agree: {_OTHERWISE}")
    return data, label


def _part(path: Path, file: Any, name: str, kinds: str, rank: int, wanted: str) -> _Part:
    import h5py

    try:
        identifier = h5py.h5d.open(file, name.encode())
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: has no dataset {name}; a sample needs {DATA} and {LABEL}: {_OTHERWISE}") from error
    part = _Part(identifier, identifier.shape or (), identifier.dtype)
    if len(part.shape) != rank or part.dtype.kind not in kinds or 0 in part.shape:
        raise RunError(f"{path}: {name} is {part.dtype} {part.shape}, must be {wanted}; convert it, or take it out of the folder")
    return part
