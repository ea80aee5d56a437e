"""Where patches are kept after their first reading: in memory, in a file on a local disk, or nowhere; with a look at the room first."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask.config import DISK, MEMORY, NONE
from stormbench.cloudmask.data import BYTES_PER_PIXEL, PatchSet
from stormbench.cloudmask.patches import N_CHANNELS
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import PARTIAL_SUFFIX, reported_os_errors
from stormbench.core.memory import available_bytes

MEMORY_SHARE = 0.8
"""Part of the available memory that patches may take: the network needs some too."""
Patch = tuple[NDArray[np.float16], NDArray[np.uint8]]


class Store:
    """Patches of a set, as image (size, size, 9) and mask bits (size, size); this one keeps none."""

    def __init__(self, patch_set: PatchSet) -> None:
        self.patch_set = patch_set

    def patch(self, number: int) -> Patch:
        """Return a patch. For use from several threads."""
        return self.patch_set.read_patch(number)

    def close(self) -> None:
        """Give the room back."""


class KeptStore(Store):
    """Keeps those of the patches that this process meets; a product is read when the first of them is wanted, all of them at once."""

    def __init__(self, patch_set: PatchSet, wanted: NDArray[np.int64], folder: Path | None) -> None:
        """Make room for the `wanted` patches, sorted: in memory, or with `folder` in a file there.

        The file has no name from the beginning, so that nothing is left of it however the process ends, and a run never
        finds what an earlier one has kept.
        """
        super().__init__(patch_set)
        self._wanted = wanted
        size = patch_set.patch_size
        shapes = ((len(wanted), size, size, N_CHANNELS), (len(wanted), size, size))
        self._images: NDArray[np.float16] = _room(shapes[0], np.float16, folder)
        self._bits: NDArray[np.uint8] = _room(shapes[1], np.uint8, folder)
        self._ready = np.zeros(len(patch_set.products), bool)
        self._locks = [threading.Lock() for _ in patch_set.products]

    def patch(self, number: int) -> Patch:
        """Return a patch, from its file if it is the first of its product."""
        position = self.patch_set.product_of(number)
        if not self._ready[position]:
            with self._locks[position]:
                if not self._ready[position]:
                    self._fill(position)
        slot = int(np.searchsorted(self._wanted, number))
        return self._images[slot], self._bits[slot]

    def _fill(self, position: int) -> None:
        product = self.patch_set.products[position]
        images, bits = self.patch_set.read_product(position)
        start, stop = np.searchsorted(self._wanted, [product.first, product.first + len(product.grid)])
        local = self._wanted[start:stop] - product.first
        self._images[start:stop], self._bits[start:stop] = images[local], bits[local]
        self._ready[position] = True

    def close(self) -> None:
        """Give the room back."""
        # a disk's file goes with its last view
        del self._images, self._bits


def bytes_needed(n_patches: int, patch_size: int) -> int:
    """Return what so many patches take: 19 bytes a pixel, 1.2 MB a patch of 256 x 256."""
    return n_patches * patch_size**2 * BYTES_PER_PIXEL


def choose(cache: str, *, asked_for: bool, need: int, need_on_node: int, cache_dir: Path | None, what: str) -> tuple[str, str]:
    """Return where patches can be kept, and what is to be said of it.

    `need` is this process's part in bytes, `need_on_node` that of all processes on its node.

    Raises:
        UserError: the place that was asked for hasn't the room.
    """
    said: list[str] = []
    if cache == MEMORY:
        lack = _lack(need_on_node, available_bytes(), MEMORY_SHARE, "memory")
        if lack is None:
            return MEMORY, f"cache: {_gib(need)} of patches in memory"
        if asked_for:
            raise UserError(f"--cache memory: {what} {lack}; use --cache disk, --cache none, or more nodes")
        said.append(lack)
        cache = DISK
    if cache == DISK:
        folder = cache_dir or Path(tempfile.gettempdir())
        lack = _lack(need_on_node, _free(folder), 1.0, f"disk space in {folder}")
        if lack is None:
            return DISK, f"cache: {_gib(need)} of patches in a file in {folder}" + "".join(f"; in memory they {text}" for text in said)
        if asked_for:
            raise UserError(f"--cache disk: {what} {lack}; use --cache_dir on a larger disk, or --cache none")
        said.append(lack)
    return NONE, "cache: none, every epoch reads the files" + "".join(f"; patches {text}" for text in said)


def open_store(patch_set: PatchSet, wanted: NDArray[np.int64], cache: str, cache_dir: Path | None) -> Store:
    """Return the store of the `wanted` patches, sorted by number."""
    if cache == NONE:
        return Store(patch_set)
    return KeptStore(patch_set, wanted, (cache_dir or Path(tempfile.gettempdir())) if cache == DISK else None)


def _room(shape: Sequence[int], dtype: Any, folder: Path | None) -> NDArray[Any]:
    if folder is None:
        return np.empty(shape, dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    with reported_os_errors(folder), tempfile.TemporaryFile(dir=folder, prefix=".stormbench-cache.", suffix=PARTIAL_SUFFIX) as file:
        # taken now: a disk that is full later would kill the process by a signal
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, mode="r+", shape=tuple(shape))


def _lack(need: int, there: int | None, share: float, of: str) -> str | None:
    if there is None or need <= share * there:
        return None
    most = f", of which they may take {share:.0%}" if share < 1 else ""
    return f"need {_gib(need)}, and there are {_gib(there)} of {of}{most}"


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError as error:
        raise RunError(f"--cache_dir {folder}: can't be used ({(error.strerror or str(error)).lower()}); choose another folder") from error
    return found.f_bavail * found.f_frsize


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"
