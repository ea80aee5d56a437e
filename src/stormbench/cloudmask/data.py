"""The products of a run: which files there are, which patches they have, and how one is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import hdf, names, patches, sources
from stormbench.cloudmask.patches import ANY_BIT, N_CHANNELS, Grid
from stormbench.core.errors import RunError, StormbenchError, UserError

FIELDS = ("bts", "refs", "bayes")
MASK_BYTES = 1
BYTES_PER_PIXEL = 2 * N_CHANNELS + MASK_BYTES
"""Of a patch as it is kept: nine channels in half precision, and the mask bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a converted file without reading its images."""

    path: Path
    stem: str
    """The product's name without an ending."""
    height: int
    width: int
    day: bool
    generated: bool
    """Whether the file says of itself that it is no observation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A product of one side of the split: its patches have the numbers from `first` on."""

    header: Header
    grid: Grid
    first: int


class PatchSet:
    """The patches of several products, numbered from 0 in the order of the products."""

    def __init__(self, headers: Sequence[Header], patch_size: int, cloud_bits: int = ANY_BIT) -> None:
        """Find out which patches there are.

        Raises:
            UserError: an image is smaller than a patch.
        """
        self.patch_size, self._cloud_bits = patch_size, cloud_bits
        self.products: list[Product] = []
        first = 0
        for header in headers:
            try:
                where = patches.grid(header.height, header.width, patch_size)
            except UserError as error:
                raise UserError(f"{header.path}: {error}") from error
            self.products.append(Product(header=header, grid=where, first=first))
            first += len(where)
        self._length = first
        self._firsts = np.array([product.first for product in self.products], np.int64)

    def __len__(self) -> int:
        return self._length

    @property
    def patches_of_products(self) -> list[int]:
        """The number of patches of each product."""
        return [len(product.grid) for product in self.products]

    def product_of(self, number: int) -> int:
        """Return the position of the product that a patch belongs to."""
        return int(np.searchsorted(self._firsts, number, side="right")) - 1

    def is_day(self, number: int) -> bool:
        """Whether a patch is of a day product."""
        return self.products[self.product_of(number)].header.day

    def read_product(self, position: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Read a product and return images (n, size, size, 9) and mask bits (n, size, size) of its patches.

        Raises:
            RunError: the file is gone, damaged, or no longer of the size it had.
        """
        product = self.products[position]
        header = product.header
        frame = hdf.read(header.path, FIELDS)
        if frame.shape != (header.height, header.width):
            was = f"{header.height} x {header.width}"
            raise RunError(f"{header.path}: has {frame.shape[0]} x {frame.shape[1]} pixels, {was} at the start; it was changed meanwhile")
        image_hwc, label_hw, valid_hw = patches.normalise(frame, self._cloud_bits)
        half_hwc, bits_hw = patches.pack(image_hwc, label_hw, valid_hw)
        return patches.cut(half_hwc, product.grid), patches.cut(bits_hw, product.grid)

    def read_patch(self, number: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Read one patch: image (size, size, 9) and mask bits (size, size)."""
        position = self.product_of(number)
        images, bits = self.read_product(position)
        local = number - self.products[position].first
        return images[local], bits[local]


def find(folder: Path) -> list[Path]:
    """Return the converted products below a folder, sorted by path.

    Raises:
        UserError: there is no such folder, or none in it.
    """
    found = hdf.list_files(folder)
    if not found:
        raise UserError(f"{folder}: holds no converted products (*.hdf); make some: stormbench cloudmask convert-hdf IN {folder}")
    return found


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by the names of their products.

    Raises:
        UserError: two files have one name, as a product that is both in the day and the night folder.
    """
    found: dict[str, Path] = {}
    for path in paths:
        stem = names.stem(path.name)
        if stem in found:
            raise UserError(f"{path}: the product is there twice, also as {found[stem]}; remove one of them")
        found[stem] = path
    return found


def read_header(path: Path) -> Header:
    """Look at a file as far as needs no images read.

    Raises:
        UserError: it is damaged or incomplete; before training that is wrong input.
    """
    import h5py

    try:
        about = hdf.read(path, ())
        if not hdf.is_complete(path):
            hdf.read(path, FIELDS)  # says what is missing, where that is an error
            raise RunError(f"{path}: is not whole; convert its product again")
        with h5py.File(path, "r", locking=False) as file:
            height, width = file["bts"].shape[:2]
    except (OSError, StormbenchError) as error:
        text = str(error) if isinstance(error, StormbenchError) else f"{path}: can't be read ({error})"
        raise UserError(text) from error
    return Header(
        path=path, stem=names.stem(path.name), height=int(height), width=int(width), day=about.day, generated=sources.is_generated(about)
    )


def zeros(n: int, size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return a batch of `n` patches in which no pixel counts."""
    return np.zeros((n, size, size, N_CHANNELS), np.float32), np.zeros((n, size, size), np.uint8), np.zeros(n, np.uint8)
