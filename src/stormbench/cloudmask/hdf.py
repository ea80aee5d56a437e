"""Converted products as HDF5 files: the compact layout that we write, and the published one, which we write and read too.

Both hold `bts` (h, w, 3), `refs` and, if wanted, `rads` (h, w, 6), `bayes` and `summary` (h, w, 1).

* compact: half precision and uint8, in chunks of whole rows, 36 MB for a full product without radiances.
* published: float32 and float64 in one piece each, 180 MB. Public files hold 0 where there is no measurement, and
  255 for cloud; ours hold NaN, and the bits of `bayes_in`, unless zeros are asked for. Both read as the same frame.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import names
from stormbench.cloudmask.frame import BTS, REFS, Frame
from stormbench.cloudmask.half import halved
from stormbench.cloudmask.netcdf import explained, sizes, text
from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import atomic_path

COMPACT, PUBLISHED = LAYOUTS = ("compact", "published")
FIELDS = ("bts", "refs", "bayes", "summary")
"""What `read` reads unless told otherwise: everything but `rads`, which nothing is trained on."""
CHANNELS = {"bts": len(BTS), "refs": len(REFS), "rads": len(REFS), "bayes": 1, "summary": 1}
CHUNK_ROWS = 100
"""A chunk of a full product's reflectances has 1.8 MB: few reads for a whole frame, little to spare for a patch."""
MAX_PIXELS = 2**27
_TYPES = {
    COMPACT: {"bts": "f2", "refs": "f2", "rads": "f2", "bayes": "u1", "summary": "u1"},
    PUBLISHED: {"bts": "f4", "refs": "f8", "rads": "f4", "bayes": "f8", "summary": "f8"},
}
_UNITS = {"bts": "K", "refs": "1", "rads": "mW m-2 sr-1 nm-1", "bayes": "1", "summary": "1"}
_LONG_NAMES = {
    "bts": "brightness temperature",
    "refs": "reflectance at the top of the atmosphere",
    "rads": "radiance at the top of the atmosphere",
    "bayes": "bits of the Bayesian cloud mask, cloud where above 0",
    "summary": "summary cloud flag",
}


def write(path: str | os.PathLike[str], frame: Frame, layout: str = COMPACT, *, zeros: bool = False) -> None:
    """Write a frame to `path`, whole or not at all; the same frame gives the same bytes.

    With `zeros` a published file holds 0 for invalid pixels, as public ones do, for programs that can't take NaN.

    Raises:
        UserError: unknown layout, or zeros in compact files.
        RunError: the file can't be written.
    """
    import h5py

    check_layout(layout, zeros)
    target = Path(path)
    arrays = {"bts": frame.bts_hwc, "refs": frame.refs_hwc, "rads": frame.rads_hwc, "bayes": frame.bayes_hw, "summary": frame.summary_hw}
    if layout == PUBLISHED and frame.rads_hwc is None:
        raise UserError(f"{target}: the {PUBLISHED} layout holds radiances, and this frame has none; read it with rads=True")
    with atomic_path(target) as temporary:
        try:
            # the oldest format of the library has no times in it, so that the same frame gives the same bytes
            with h5py.File(temporary, "w", libver="earliest") as file:
                for name, value in {**frame.about, "layout": layout}.items():
                    file.attrs[name] = value
                file.attrs["day"] = np.uint8(frame.day)
                for name, array in arrays.items():
                    if array is not None:
                        _write_dataset(file, name, array if array.ndim == 3 else array[..., None], layout, zeros)
        except (OSError, RuntimeError) as error:
            # HDF5 may find a full disk as late as in closing the file, and then raises no OSError
            raise _plain(error) from error


def _write_dataset(file: Any, name: str, array_hwc: NDArray[Any], layout: str, zeros: bool) -> None:
    dtype = np.dtype(_TYPES[layout][name])
    options: dict[str, Any] = {"track_times": False}
    if layout == COMPACT:
        options["chunks"] = (min(CHUNK_ROWS, array_hwc.shape[0]), *array_hwc.shape[1:])
    dataset = file.create_dataset(name, shape=array_hwc.shape, dtype=dtype, **options)
    dataset.attrs["units"] = _UNITS[name]
    dataset.attrs["long_name"] = _LONG_NAMES[name]
    if dtype.kind == "f" and name in ("bts", "refs", "rads"):
        dataset.attrs["_FillValue"] = dtype.type(0 if zeros else np.nan)
        dataset.attrs["channels"] = " ".join(BTS if name == "bts" else REFS)
    if layout == COMPACT:
        rows = options["chunks"][0]
        for start in range(0, len(array_hwc), rows):
            part = array_hwc[start : start + rows]
            part = halved(part) if dtype == np.float16 != part.dtype else np.ascontiguousarray(part, dtype)
            if len(part) < rows:
                dataset[start : start + len(part)] = part
            else:
                # without filters a chunk's bytes are the array's
                dataset.id.write_direct_chunk((start, 0, 0), part)
    else:
        dataset[...] = np.nan_to_num(array_hwc, nan=0.0, posinf=None, neginf=None) if zeros else array_hwc


def read(path: str | os.PathLike[str], fields: Sequence[str] = FIELDS) -> Frame:
    """Return the frame in a file of either layout, NaN where there is no valid measurement.

    Only `fields` are read, any of bts, refs, rads, bayes, summary; of the others the frame has arrays of (0, 0, ...).

    Raises:
        UserError: an unknown field.
        RunError: the file is missing, damaged, or of another layout.
    """
    import h5py

    path = Path(path)
    for name in fields:
        if name not in CHANNELS:
            raise UserError(f"{name}: not a field of a converted product, which are {', '.join(CHANNELS)}")
    if not path.is_file():
        raise RunError(f"{path}: no such file; convert its product again")
    found: dict[str, NDArray[Any]] = {}
    with explained(path), h5py.File(path, "r", locking=False) as file:
        about = {name: words for name, value in file.attrs.items() if (words := text(value)) is not None}
        day = file.attrs.get("day")
        shape: tuple[int, int] | None = None
        for name in fields:
            dataset = _dataset(path, file, name, shape)
            shape = dataset.shape[:2]
            found[name] = _read_field(dataset, name)
    if "source" not in about:
        about = {**_from_name(path), **about}
    return Frame(
        refs_hwc=found.get("refs", np.empty((0, 0, len(REFS)), np.float32)),
        bts_hwc=found.get("bts", np.empty((0, 0, len(BTS)), np.float32)),
        rads_hwc=found.get("rads"),
        bayes_hw=found.get("bayes", np.empty((0, 0), np.uint8)),
        summary_hw=found.get("summary", np.empty((0, 0), np.uint8)),
        # public files have no attributes: their folder tells
        day=bool(day) if day is not None else path.absolute().parent.name == "day",
        about=about,
    )


def _dataset(path: Path, file: Any, name: str, shape: tuple[int, int] | None) -> Any:
    import h5py

    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise RunError(f"{path}: has no dataset {name}; convert its product again{', with radiances' if name == 'rads' else ''}")
    due, given = CHANNELS[name], tuple(dataset.shape or ())
    right = len(given) == 3 and given[2] == due and 0 < given[0] * given[1] <= MAX_PIXELS
    if not right or (shape is not None and given[:2] != tuple(shape)) or dataset.dtype.kind not in "fiu":
        raise RunError(
            f"{path}: {name} is {sizes(given) or 'a scalar'} of {dataset.dtype}, must be "
            f"{sizes(tuple(shape)) if shape else 'rows x columns'} x {due} of numbers; convert its product again"
        )
    return dataset


def _read_field(dataset: Any, name: str) -> NDArray[Any]:
    stored = np.empty(dataset.shape, dataset.dtype.newbyteorder("="))
    dataset.read_direct(stored)
    if name in ("bayes", "summary"):
        plane_hw = np.nan_to_num(stored[..., 0], copy=False) if stored.dtype.kind == "f" else stored[..., 0]
        if name == "summary":
            return (plane_hw > 0).view(np.uint8)
        return plane_hw if plane_hw.dtype == np.uint8 else np.clip(plane_hw, 0, 255).astype(np.uint8)
    values_hwc = stored.astype(np.float32, copy=False)
    if _has_zeros(dataset):
        values_hwc[values_hwc == 0] = np.nan
    return values_hwc


def _has_zeros(dataset: Any) -> bool:
    """Whether 0 stands for invalid pixels: in files without the attribute, the public ones, it does."""
    fill = dataset.attrs.get("_FillValue")
    return fill is None or bool(np.all(np.asarray(fill) == 0))


def _from_name(path: Path) -> dict[str, str]:
    try:
        name = names.parse(path.name)
    except UserError:
        return {"source": path.name}
    return {"source": f"{name.text}.SEN3", "mission": name.mission, "baseline": name.baseline}


def list_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the *.hdf files in a folder and below it, such as in its day and night folders, sorted by path.

    Raises:
        UserError: there is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise UserError(f"{top}: no such folder; give the folder with the converted products")
    return sorted(path for path in top.rglob("*.hdf") if not path.name.startswith(".") and path.is_file())


def is_complete(
    path: str | os.PathLike[str], *, like: Mapping[str, str] | None = None, rads: bool | None = None, zeros: bool | None = None
) -> bool:
    """Whether a file of either layout is whole: every dataset is there, of one shape, with all its bytes.

    With `like` its attributes must have these values too; `rads` and `zeros` say whether it must hold radiances, and
    zeros for invalid pixels, and None that neither matters.
    """
    import h5py

    path = Path(path)
    try:
        with explained(path), h5py.File(path, "r", locking=False) as file:
            if any(text(file.attrs.get(name)) != value for name, value in (like or {}).items()):
                return False
            if rads is not None and rads != ("rads" in file):
                return False
            shape = None
            for name in (*FIELDS, "rads") if rads else FIELDS:
                dataset = _dataset(path, file, name, shape)
                shape = dataset.shape[:2]
                if zeros is not None and name == "refs" and zeros != _has_zeros(dataset):
                    return False
                if dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize and dataset.compression is None:
                    return False
    except (StormbenchError, OSError):
        return False
    return True


def check_layout(layout: str, zeros: bool = False) -> None:
    """Raise UserError unless it is a layout, and zeros go with it."""
    if layout not in LAYOUTS:
        raise UserError(f"--layout {layout}: must be one of {', '.join(LAYOUTS)}")
    if zeros and layout != PUBLISHED:
        raise UserError(f"--zeros: goes with --layout {PUBLISHED} only; in {COMPACT} files invalid pixels are NaN")


def _plain(error: OSError | RuntimeError) -> OSError:
    """Return what the system said, which HDF5 wraps in a report of several lines."""
    found = re.search(r"errno = (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None) or errno.EIO
    return OSError(number, os.strerror(number))
