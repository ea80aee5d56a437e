"""Reads variables of NetCDF-4 files through h5py, the fastest way there is to them, and explains whatever is wrong with one.

Deflated chunks are taken as they lie in the file and inflated by libdeflate where the package `deflate` is installed,
which needs about half the time of the zlib inside HDF5. Every other kind of storage is read by HDF5 itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import chunks
from stormbench.core.errors import RunError, StormbenchError

MAX_ELEMENTS = 2**28
"""A header that claims more is damaged: the largest variable of a full product has 7.2 million elements."""
_DEFAULT_FILLS = {"i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295, "f4": 1.875 * 2.0**122, "f8": 1.875 * 2.0**122}
"""What NetCDF writes to elements that nobody wrote, for a variable without `_FillValue`; bytes have no such value."""
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


@contextlib.contextmanager
def explained(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever h5py and numpy raise about a damaged file into a RunError of one sentence that names it."""
    try:
        yield
    except StormbenchError:
        raise
    except MemoryError as error:
        raise RunError(f"{path}: {what or 'its data'} doesn't fit in memory; use fewer --workers") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{path}: {what + ' ' if what else ''}can't be read ({text}); get the product anew") from error


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How numbers are packed: value = stored x scale + offset, none where stored is one of `fills`, all of the stored type."""

    scale: float = 1.0
    offset: float = 0.0
    fills: tuple[float, ...] = ()


class NetCDF:
    """A file that is open for reading while it is entered. All that fails is a RunError with the file's path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: Any = None

    def __enter__(self) -> NetCDF:
        import h5py

        if not self.path.is_file():
            raise RunError(f"{self.path}: the file is missing; get the product anew")
        with explained(self.path):
            with open(self.path, "rb") as file:
                start = file.read(3)
            if start == b"CDF":
                raise RunError(f"{self.path}: a file of the classic NetCDF format; products hold NetCDF-4 files")
            # products lie on file systems without locks, and are read by many at once
            self._file = h5py.File(self.path, "r", locking=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):
            self._file.close()

    def numbers(self, name: str) -> list[float]:
        """Return the numbers of a global attribute, which may be stored as numbers or written in a text such as `[ 500 500 ]`."""
        with explained(self.path, f"global attribute {name}"):
            value = self._file.attrs.get(name)
            if value is None:
                raise RunError(f"{self.path}: has no global attribute {name}; get the product anew")
            if text(value) is not None:
                return [float(word) for word in _NUMBER.findall(text(value) or "")]
            return [float(number) for number in np.asarray(value).ravel()]

    def comment(self) -> str:
        """Return what the file says of itself in its global attribute `comment`, or nothing."""
        with explained(self.path, "global attribute comment"):
            return text(self._file.attrs.get("comment")) or ""

    def number(self, name: str) -> float:
        """Return a global attribute that is one finite number."""
        found = self.numbers(name)
        if len(found) != 1 or not np.isfinite(found[0]):
            raise RunError(f"{self.path}: global attribute {name} is {found}, must be one number; get the product anew")
        return found[0]

    def variable(self, name: str, shape: tuple[int, ...] | None = None, like: str = "") -> Variable:
        """Return a variable of two dimensions, or of the given shape, which is that of `like`."""
        import h5py

        with explained(self.path, name):
            dataset = self._file.get(name)
            if not isinstance(dataset, h5py.Dataset):
                raise RunError(f"{self.path}: has no variable {name}; get the product anew")
            found = tuple(int(size) for size in dataset.shape or ())
            if dataset.dtype.kind not in "iuf":
                raise RunError(f"{self.path}: {name} holds {dataset.dtype}, must hold numbers; get the product anew")
        if shape is not None and found != shape:
            due = f"{sizes(shape)}{' as ' + like if like else ''}"
            raise RunError(f"{self.path}: {name} has {sizes(found)} elements, must have {due}; get the product anew")
        if not found or 0 in found or np.prod(found, dtype=float) > MAX_ELEMENTS:
            raise RunError(f"{self.path}: {name} has {sizes(found) or 'no'} elements, which no product has; get it anew")
        return Variable(self.path, name, dataset)


class Variable:
    """One variable of an open file; `dtype` is the stored type, in this machine's byte order and unsigned where so declared."""

    def __init__(self, path: Path, name: str, dataset: Any) -> None:
        self.path, self.name, self._dataset = path, name, dataset
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        with explained(path, name):
            self._stored = dataset.dtype.newbyteorder("=")
            declared = str(self.attribute("_Unsigned") or "").lower() == "true" and self._stored.kind == "i"
            self.dtype = np.dtype(f"u{self._stored.itemsize}") if declared else self._stored

    def attribute(self, name: str) -> Any:
        """Return an attribute as text, number or array of numbers, or None where there is none."""
        with explained(self.path, f"attribute {name} of {self.name}"):
            value = self._dataset.attrs.get(name)
            if value is None:
                return None
            words = text(value)
            if words is not None:
                return words
            numbers = np.asarray(value)
            return numbers.ravel()[0] if numbers.size == 1 else numbers

    def packing(self) -> Packing:
        """Return scale, offset and fills of the variable's attributes, as CF has them.

        Raises:
            RunError: the scale is zero, or one of them isn't a finite number.
        """
        with explained(self.path, f"packing of {self.name}"):
            scale, offset = self._number("scale_factor", 1.0), self._number("add_offset", 0.0)
            if scale == 0:
                raise RunError(f"{self.path}: scale_factor of {self.name} is 0; get the product anew")
            fills = [value for name in ("_FillValue", "missing_value") for value in self._fills(name)]
            if not fills and self.dtype.str[1:] in _DEFAULT_FILLS:
                fills = [_DEFAULT_FILLS[self.dtype.str[1:]]]
            return Packing(scale=scale, offset=offset, fills=tuple(dict.fromkeys(fills)))

    def raw(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the numbers as they are stored, in `out` if it is given, of this shape and of any type of the same size."""
        target = np.empty(self.shape, self._stored) if out is None else out.view(self._stored)
        with explained(self.path, self.name):
            if not chunks.read(self._dataset, target):
                self._dataset.read_direct(target)
        return target.view(self.dtype)

    def values(self) -> NDArray[np.float64]:
        """Return the unpacked numbers in float64, NaN where there is a fill."""
        packing, raw = self.packing(), self.raw()
        with np.errstate(invalid="ignore", over="ignore"):
            values = raw * np.float64(packing.scale) + packing.offset
        values[filled(raw, packing.fills)] = np.nan
        return values

    def flags(self) -> tuple[NDArray[Any], dict[str, int]]:
        """Return the bits as unsigned integers, and the mask of each meaning, as the attributes have them."""
        if self._stored.kind == "f":
            raise RunError(f"{self.path}: {self.name} holds {self._stored}, flags must be whole numbers; get the product anew")
        unsigned = np.dtype(f"u{self._stored.itemsize}")
        return self.raw().view(unsigned), self.masks()

    def masks(self) -> dict[str, int]:
        """Return the mask of each flag by its meaning, as the attributes have them; none unless there are as many of both."""
        words = str(self.attribute("flag_meanings") or "").replace(",", " ").split()
        masks = self.attribute("flag_masks")
        with explained(self.path, f"flag_masks of {self.name}"):
            numbers = [] if masks is None or isinstance(masks, str) else np.atleast_1d(masks).astype(np.int64).tolist()
        if len(words) != len(numbers):
            return {}
        # a signed variable has its highest bit as a negative mask
        limit = 2 ** (8 * self._stored.itemsize)
        return {word: number % limit for word, number in zip(words, numbers, strict=True)}

    def _number(self, name: str, default: float) -> float:
        value = self.attribute(name)
        if value is None:
            return default
        if isinstance(value, str) or np.ndim(value) or not np.isfinite(float(value)):
            raise RunError(f"{self.path}: {name} of {self.name} is {value}, must be a finite number; get the product anew")
        return float(value)

    def _fills(self, name: str) -> list[float]:
        """Return the numbers of an attribute that the stored type can hold; others never occur among the stored ones."""
        value = self.attribute(name)
        if value is None or isinstance(value, str):
            return []
        found: list[float] = []
        for number in np.atleast_1d(value).tolist():
            if self.dtype.kind == "f":
                found += [number] if np.isfinite(number) else []
                continue
            limits = np.iinfo(self.dtype)
            if self.dtype.kind == "u" and number < 0:
                # written in the signed type that carries `_Unsigned`
                number += limits.max + 1  # noqa: PLW2901
            if float(number).is_integer() and limits.min <= number <= limits.max:
                found.append(int(number))
        return found


def filled(raw: NDArray[Any], fills: tuple[float, ...], out: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return where stored numbers are fills or not finite, in the shape of `raw`; in `out` if it is given."""
    bad = np.empty(raw.shape, np.bool_) if out is None else out
    if raw.dtype.kind == "f":
        np.logical_not(np.isfinite(raw), out=bad)
    else:
        bad.fill(False)
    for fill in fills:
        bad |= raw == fill
    return bad


def text(value: Any) -> str | None:
    """Return an attribute's text, however it is stored, or None where it is no text."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").rstrip("\0")
    return str(value) if isinstance(value, str) else None


def sizes(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it."""
    return " x ".join(str(size) for size in shape)
