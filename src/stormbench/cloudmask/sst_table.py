"""Reads the match-up table of satellite and buoy, and what predicted masks say at its pixels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import names
from stormbench.cloudmask.masks import read_facts, read_mask
from stormbench.cloudmask.sources import GENERATED
from stormbench.core.errors import RunError, UserError, did_you_mean

NUMBERS = (
    "isst", "slat", "slon", "latitude_an", "longitude_an", "satzan", "satzao", "quality_level", "sst_algorithm_type", "sat_sst_2",
    "y_cems", "x_cems", "pcloudn", "pcloudo", "bayes_in",
)  # fmt: skip
"""Columns of numbers; the published table has further ones, which nothing here needs."""
PRODUCT_PATH = "cems_path"
"""Column with the path at which the product lay when the table was made; only the product's name in it counts."""
BACK_TRACE_END = "End of HDF5 error back trace"
Table = dict[str, NDArray[Any]]


def read_table(path: Path, key: str | None = None) -> Table:
    """Return the columns of a match-up table as float64 arrays, with `product`, the products' names, and `generated`, whether it says so.

    Names of columns may be in capitals. `key` names the table in a file with several.

    Raises:
        UserError: no such file, no pandas, or several tables and no key.
        RunError: the file is no HDF5 table of pandas, or a column is missing or holds no numbers.
    """
    for package, module in (("pandas", "pandas"), ("tables", "tables")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{package} isn't installed; install stormbench with its cloudmask part: pip install 'stormbench[cloudmask]'")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the table of match-ups, sst_matchups.h5")
    frame, comment = _read(path, key)
    columns = {str(name).lower(): name for name in frame.columns}
    for name in (*NUMBERS, PRODUCT_PATH):
        if name not in columns:
            raise RunError(f"{path}: the table has no column {name}{did_you_mean(name, columns)}; it has {', '.join(columns) or 'none'}")
    table: Table = {}
    for name in NUMBERS:
        try:
            table[name] = frame[columns[name]].to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise RunError(f"{path}: column {name} holds something other than numbers ({error})") from error
    table["product"] = np.array([_product(text) for text in frame[columns[PRODUCT_PATH]]], dtype=object)
    table["generated"] = np.full(len(frame), GENERATED in comment.lower())
    return table


def _read(path: Path, key: str | None) -> tuple[Any, str]:
    """Return the table, and the comment that stands at it."""
    import pandas as pd

    try:
        with pd.HDFStore(path, mode="r") as store:
            keys = [name.lstrip("/") for name in store.keys()]  # noqa: SIM118  (a store is no dictionary: iterating it is another thing)
            if key is None and len(keys) > 1:
                raise UserError(f"{path}: holds {len(keys)} tables; give one of {', '.join(keys)} by --key")
            if key is not None and key.lstrip("/") not in keys:
                raise UserError(f"--key {key}: not a table of {path}{did_you_mean(key, keys)}; it has {', '.join(keys) or 'none'}")
            if not keys:
                raise RunError(f"{path}: holds no table of pandas")
            found = store.get(key or keys[0])
            comment = str(getattr(store.get_storer(key or keys[0]).attrs, "comment", ""))
    except (UserError, RunError):
        raise
    except Exception as error:  # PyTables and pandas raise many kinds on a damaged file
        raise RunError(f"{path}: can't be read as a table of pandas ({_cause(error)}); is it sst_matchups.h5, whole?") from error
    if not isinstance(found, pd.DataFrame):
        raise RunError(f"{path}: holds a {type(found).__name__}, must hold a table with columns")
    return found, comment


def _cause(error: Exception) -> str:
    """Return the line of an error that says most: of HDF5's back trace the innermost, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[lines.index(BACK_TRACE_END) - 1] if BACK_TRACE_END in lines else lines[0]


def _product(path: Any) -> str:
    """Return the product's name in a path such as /data/<name>.SEN3 or /data/<name>.SEN3/geodetic_an.nc; some tables hold bytes."""
    words = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    parts = words.replace("\\", "/").rstrip("/").split("/")
    return names.stem(next((part for part in reversed(parts) if part.endswith((".SEN3", ".zip"))), parts[-1]))


def with_masks(table: Table, predictions: Path) -> tuple[Table, list[str]]:
    """Return the rows whose product has a mask in a folder, with `mask` and `valid` at their pixels, and the products without one.

    `generated` is true where the table or the mask says that it is of no observation.

    Raises:
        UserError: a product has two masks.
        RunError: a mask is damaged, or a row points outside it.
    """
    files = _files(predictions, set(table["product"]))
    found = np.array([name in files for name in table["product"]], dtype=bool)
    missing = sorted(set(table["product"][~found]))
    kept = {name: column[found] for name, column in table.items()}
    count = len(kept["isst"])
    mask, valid, generated = np.empty(count), np.empty(count, dtype=bool), kept["generated"].copy()
    for name in sorted(set(kept["product"])):
        rows = np.flatnonzero(kept["product"] == name)
        mask[rows], valid[rows] = pixels(files[name], kept["y_cems"][rows], kept["x_cems"][rows])
        generated[rows] |= bool((read_facts(files[name]) or {}).get("generated"))
    return {**kept, "mask": mask, "valid": valid, "generated": generated}, missing


def _files(predictions: Path, products: set[str]) -> dict[str, Path]:
    """Return the mask file of each of the products that has one."""
    files: dict[str, Path] = {}
    for path in sorted(predictions.rglob("*.h5")):
        name = names.stem(path.name)
        if path.name.startswith(".") or name not in products:
            continue
        if name in files:
            raise UserError(f"{path}: is a mask of the same product as {files[name]}; give the folder of one run, or remove one of them")
        files[name] = path
    return files


def pixels(path: Path, row: NDArray[np.float64], column: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the probability of cloud at pixels of a mask file, and whether there was a valid measurement.

    Raises:
        RunError: the file is damaged or has no mask, or a pixel lies outside it.
    """
    mask_hw, valid_hw = read_mask(path)
    height, width = mask_hw.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (row % 1 == 0) & (column % 1 == 0)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        place = f"row {row[first]:g}, column {column[first]:g}"
        raise RunError(f"{path}: a match-up points at {place}, which is no pixel of its {height} x {width}; the table is of other products")
    where = row.astype(np.intp), column.astype(np.intp)
    return mask_hw[where].astype(np.float64), valid_hw[where]
