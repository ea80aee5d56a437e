"""Mask files, one for each product: `<product>.h5` with the probability of cloud, and where there was anything to judge by.

`mask` (1, h, w, 1) is float32 in [0, 1], cloud from 0.5 on. Pixels without a valid measurement hold 1: who selects clear
sky by `mask < 0.5` never takes them. `valid` (1, h, w, 1) is 0 there and 1 elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.core.errors import RunError
from stormbench.core.files import atomic_path

CLOUD_FROM = 0.5
"""The probability from which on a pixel counts as cloud."""
INVALID = 1.0
"""What `mask` holds where there is no valid measurement."""


def write_mask(path: Path, mask_hw: NDArray[np.float32], valid_hw: NDArray[np.bool_], facts: dict[str, Any]) -> None:
    """Write a mask file, whole or not at all; the same mask and `facts`, which JSON can hold, give the same bytes.

    Raises:
        RunError: it can't be written.
    """
    import h5py

    mask = np.where(valid_hw, mask_hw, np.float32(INVALID)).astype(np.float32)
    # in memory first: HDF5 does not survive a disk that fills up under it
    with h5py.File("mask", "w", driver="core", backing_store=False, libver="earliest") as file:
        probability = file.create_dataset("mask", data=mask[None, :, :, None], track_times=False)
        probability.attrs["long_name"] = "probability of cloud"
        probability.attrs["units"] = "1"
        probability.attrs["where_invalid"] = np.float32(INVALID)
        judged = file.create_dataset("valid", data=valid_hw.astype(np.uint8)[None, :, :, None], track_times=False)
        judged.attrs["long_name"] = "1 where there was a valid measurement"
        judged.attrs["units"] = "1"
        file.attrs["facts"] = json.dumps(facts, sort_keys=True)
        file.flush()
        image = file.id.get_file_image()
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)


def read_mask(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the probability of cloud (h, w), and where it rests on a valid measurement (h, w).

    Files of other programs have no `valid`: there NaN means that there was none.

    Raises:
        RunError: the file is missing or damaged, or has no mask.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            mask_hw = _plane(path, file, "mask").astype(np.float32)
            valid_hw = _plane(path, file, "valid") > 0 if "valid" in file else np.ones(mask_hw.shape, bool)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise RunError(f"{path}: can't be read as a mask ({str(error).splitlines()[0]}); predict its product again") from error
    if valid_hw.shape != mask_hw.shape:
        raise RunError(f"{path}: mask and valid differ in size; predict its product again")
    return mask_hw, valid_hw & ~np.isnan(mask_hw)


def read_facts(path: Path) -> dict[str, Any] | None:
    """Return the facts in a mask file that is whole, or None where there is no such file."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            whole = all(
                file[name].size and file[name].id.get_storage_size() == file[name].size * file[name].dtype.itemsize
                for name in ("mask", "valid")
            )
            facts = json.loads(file.attrs["facts"])
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
        return None
    return facts if whole and isinstance(facts, dict) else None


def count(mask_hw: NDArray[np.float32], label_hw: NDArray[np.uint8], valid_hw: NDArray[np.bool_]) -> list[list[int]]:
    """Return the valid pixels by what the Bayesian mask and the model say, [label][prediction], each clear then cloud."""
    both_hw = 2 * (label_hw > 0) + (mask_hw >= CLOUD_FROM)
    return np.bincount(both_hw[valid_hw], minlength=4).reshape(2, 2).tolist()


def _plane(path: Path, file: Any, name: str) -> NDArray[Any]:
    import h5py

    dataset = file.get(name)
    right = isinstance(dataset, h5py.Dataset) and len(dataset.shape) == 4 and (dataset.shape[0], dataset.shape[3]) == (1, 1)
    if not right or dataset.dtype.kind not in "fiu":
        given = f"is {dataset.shape} of {dataset.dtype}" if isinstance(dataset, h5py.Dataset) else "isn't there"
        raise RunError(f"{path}: its dataset {name} {given}, must be 1 x rows x columns x 1 of numbers; predict its product again")
    return dataset[0, :, :, 0]
