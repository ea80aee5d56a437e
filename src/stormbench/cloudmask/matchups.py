"""Makes the table of a generated set's match-ups: buoys where the products look, and what the satellite says of the sea there."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import orbit, weather
from stormbench.cloudmask.annotation import GENERATED
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import pixels
from stormbench.cloudmask.scene import CONFIDENCE, LOW_PROBABILITY, Scene, bit
from stormbench.core.errors import UserError
from stormbench.core.files import atomic_path

NAME, KEY, TEXT = "sst_matchups.h5", "matchups", "cems_path"
BUOYS_A_PRODUCT = 24
ZERO_CELSIUS_K = 273.15
COLUMNS: dict[str, type] = {
    "isst": np.float64, "slat": np.float64, "slon": np.float64, "latitude_an": np.float64, "longitude_an": np.float64,
    "satzan": np.float64, "satzao": np.float64, "quality_level": np.int64, "sst_algorithm_type": np.int64, "sat_sst_2": np.float64,
    "y_cems": np.int64, "x_cems": np.int64, "pcloudn": np.float64, "pcloudo": np.float64, "bayes_in": np.int64,
}  # fmt: skip
"""The numbers of the published table; its one text comes last."""
_BUOY_NOISE_K = 0.1
_SPLIT_WINDOW = (1.029, 0.9961, 1.724)
"""Sea surface temperature = a + b S8 + c (S8 - S9), fitted to this generator's clear seas: within 0.2 K there, colder under cloud."""
_OBLIQUE_ZENITH_DEG = (53.8, 54.9)
_STREAM = 30
_FAULTS: tuple[tuple[str, float], ...] = (
    ("slat", 0.007), ("slon", 0.014), ("isst", -0.6), ("satzan", 57.2), ("satzao", 56.1), ("quality_level", 4),
    ("sst_algorithm_type", 3), ("sat_sst_2", 271.9),
)  # fmt: skip
"""What one filter each rejects: a buoy too far off north or east, in ice, at a slant in either view, and so on."""

Rows = dict[str, NDArray[Any]]


def check() -> None:
    """Raise UserError unless pandas and PyTables are installed, which write the table."""
    for name in ("pandas", "tables"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} isn't installed, which writes {NAME}; install it: pip install 'stormbench[cloudmask]'")


def rows(granule: Granule, scene: Scene) -> Rows:
    """Return a product's match-ups by column, at most BUOYS_A_PRODUCT: half of the buoys under clear sky, half under cloud.

    They lie in the open sea within both views. Of every three rows the third has one fault that a filter must reject.
    """
    rng = weather.noise(granule, _STREAM)
    y, x = _buoys(scene, granule, rng)
    count = len(y)
    # one of the four 500 m pixels, and a place well within the bounds of the filters around it
    fine_y, fine_x = 2 * y + rng.integers(0, 2, count), 2 * x + rng.integers(0, 2, count)
    latitude, longitude = _places(granule, fine_y, fine_x)
    s8, s9 = scene.brightness_chw[1:, y, x].astype(np.float64)
    zenith = orbit.between_ties(granule, orbit.tie_geometry(granule)["sat_zenith"], 1000)
    constant, slope, difference = _SPLIT_WINDOW
    found: Rows = {
        "isst": scene.surface_k[y, x] - ZERO_CELSIUS_K + _BUOY_NOISE_K * rng.standard_normal(count),
        "slat": latitude + rng.uniform(-0.004, 0.004, count),
        "slon": longitude + rng.uniform(-0.008, 0.008, count),
        "latitude_an": latitude,
        "longitude_an": longitude,
        "satzan": zenith[y, x],
        "satzao": rng.uniform(*_OBLIQUE_ZENITH_DEG, count),
        "quality_level": np.full(count, 5),
        "sst_algorithm_type": np.full(count, 4),
        "sat_sst_2": constant + slope * s8 + difference * (s8 - s9),
        "y_cems": y,
        "x_cems": x,
        "pcloudn": scene.probability_hw[y, x],
        "pcloudo": scene.probability_dual_hw[y, x],
        "bayes_in": scene.bayes_hw[y, x],
    }
    found = {name: found[name].astype(kind) for name, kind in COLUMNS.items()}
    _spoil(found, granule)
    path = f"sentinel3{granule.mission[-1].lower()}/data/SLSTR/L1_RBT/{granule.start:%Y/%m/%d}/{granule.name}.zip"
    found[TEXT] = np.full(count, path)
    return found


def join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all products, in order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (*COLUMNS, TEXT)}


def write(path: Path, found: Rows) -> None:
    """Write the table as pandas does: one table in HDF5, the same bytes for the same rows, atomically.

    Raises:
        RunError: the disk is full, or the folder can't be written.
    """
    import pandas

    frame = pandas.DataFrame({name: found[name].astype(object) if name == TEXT else found[name] for name in found})
    # in memory first: a disk that fills up under PyTables leaves an error without a number
    with pandas.HDFStore(NAME, mode="w", driver="H5FD_CORE", driver_core_backing_store=0) as store:
        # without the time of creation
        store.put(KEY, frame, format="table", index=False, track_times=False)
        attributes = store.get_storer(KEY).attrs
        attributes.comment, attributes.crc32 = GENERATED, _checksum(found)
        store.flush()
        image = store._handle.get_file_image()
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)


def is_complete(path: Path) -> bool:
    """Return whether the file is a table that was written by `write`, with all its rows as they were."""
    import pandas

    if not path.exists():
        return False
    try:
        with pandas.HDFStore(str(path), mode="r") as store:
            frame, checksum = store[KEY], store.get_storer(KEY).attrs.crc32
        return checksum == _checksum({name: frame[name].to_numpy() for name in (*COLUMNS, TEXT)})
    except Exception:
        # PyTables raises errors of its own and of many other kinds on damaged files
        return False


def _checksum(found: Rows) -> int:
    value = 0
    for name, values in found.items():
        value = zlib.crc32(values.astype(np.str_).tobytes() if name == TEXT else values.tobytes(), value)
    return value


def _buoys(scene: Scene, granule: Granule, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of 1 km pixels of the open sea, measured and seen twice, clear and cloudy by turns."""
    grid = pixels(granule, 1000)
    usable = (scene.confidence_hw & bit(CONFIDENCE, "ocean") > 0) & ~grid.unfilled & np.isfinite(scene.probability_dual_hw)
    usable[grid.cosmetic_at[:2]] = False
    cloudy = scene.probability_hw > LOW_PROBABILITY
    chosen = []
    for kind in (usable & ~cloudy, usable & cloudy):
        places = np.flatnonzero(kind)
        chosen.append(rng.choice(places, min(BUOYS_A_PRODUCT // 2, len(places)), replace=False))
    both = min(len(part) for part in chosen)
    turns = np.concatenate([np.stack([part[:both] for part in chosen], axis=1).ravel(), *(part[both:] for part in chosen)])
    y, x = np.unravel_index(turns, usable.shape)
    return y, x


def _places(granule: Granule, fine_y: NDArray[np.intp], fine_x: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitude and longitude in degrees of pixels of the 500 m grid, rounded as their file holds them."""
    across = orbit.across(granule, fine_x, 500)
    found = [orbit.places(granule, np.array([row / 2]), np.array([away])) for row, away in zip(fine_y, across, strict=True)]
    latitude, longitude = np.round(np.degrees(np.array(found).reshape(-1, 2).T), 6)
    return latitude, longitude


def _spoil(found: Rows, granule: Granule) -> None:
    """Give every third row one fault, in turn; products begin the turn at different faults."""
    for turn, row in enumerate(range(2, len(found["isst"]), 3)):
        name, value = _FAULTS[(turn + 3 * granule.frame + granule.orbit) % len(_FAULTS)]
        pixel = {"slat": "latitude_an", "slon": "longitude_an"}.get(name)
        found[name][row] = value if pixel is None else found[pixel][row] + value
