"""For tests of training: ranks of Horovod, and small converted products whose clouds are cold and bright, easy to learn."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from stormbench.cloudmask import hdf
from stormbench.cloudmask.frame import Frame
from tests.conftest import BIN


def product_name(
    number: int, *, mission: str = "S3A", created: str = "20190402T000000", orbit: int | None = None, baseline: str = "003"
) -> str:
    """Return the name of product `number` of a day: frames of three minutes, four to an orbit."""
    start = datetime(2019, 4, 1) + timedelta(minutes=3 * number)
    stop = start + timedelta(minutes=3)
    orbit = number // 4 + 1 if orbit is None else orbit
    times = f"{start:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}_{created}"
    return f"{mission}_SL_1_RBT____{times}_0179_043_{orbit:03d}______LN2_O_NT_{baseline}"


def frame(seed: int, height: int = 64, width: int = 96, *, day: bool = True, invalid: float = 0.0, generated: bool = False) -> Frame:
    """Return a frame with round clouds; a share of the pixels, `invalid`, has no measurement."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    cloud_hw = np.zeros((height, width), bool)
    for _ in range(4):
        y, x, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(8, 16)
        cloud_hw |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    noise = random.normal(0, 0.02, (height, width, 9)).astype(np.float32)
    refs_hwc = np.where(cloud_hw[..., None], np.float32(0.8), np.float32(0.1)) + noise[..., :6]
    bts_hwc = np.where(cloud_hw[..., None], np.float32(240), np.float32(285)) + 20 * noise[..., 6:]
    gone_hw = random.random((height, width)) < invalid
    bts_hwc[gone_hw] = np.nan
    if not day:
        refs_hwc[...] = np.nan
    about = {"comment": "generated for a test"} if generated else {}
    return Frame(
        refs_hwc=refs_hwc, bts_hwc=bts_hwc, bayes_hw=np.where(cloud_hw, random.choice([1, 2, 4, 8], (height, width)), 0).astype(np.uint8),
        summary_hw=cloud_hw.astype(np.uint8), day=day, about=about,
    )  # fmt: skip


def write_products(folder: Path, n: int, *, height: int = 64, width: int = 96, invalid: float = 0.0, generated: bool = False) -> list[Path]:
    """Write `n` products as conversion does, every third one by night; returns their files."""
    paths = []
    for number in range(n):
        day = number % 3 != 2
        path = folder / ("day" if day else "night") / f"{product_name(number)}.hdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        hdf.write(path, frame(number, height, width, day=day, invalid=invalid, generated=generated))
        paths.append(path)
    return paths


def write_uneven_products(folder: Path, n: int) -> None:
    """Write `n` products whose patches of 32 x 32 are no multiple of 12, some with many invalid pixels and some with none."""
    (folder / "day").mkdir(parents=True)
    for number in range(n):
        height, width = {1: (32, 96), 2: (32, 64)}.get(number, (64, 96))
        hdf.write(folder / "day" / f"{product_name(number)}.hdf", frame(number, height, width, invalid=0.12 * number))


def mpirun(ranks: int) -> list[str] | None:
    """Return the words that start ranks of Horovod: the mpirun of the MPI that it was built with; None where it isn't installed."""
    found = importlib.util.find_spec("horovod")
    if found is None or not found.submodule_search_locations:
        return None
    library = next(Path(found.submodule_search_locations[0], "tensorflow").glob("mpi_lib*.so"), None)
    if library is None:
        return None
    linked = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
    path = next((line.split("=>")[1].split()[0] for line in linked.splitlines() if "libmpi.so" in line and "=>" in line), None)
    if path is None:
        return None
    # a library of the system has its mpirun there, one of a wheel beside the interpreter
    folder = BIN if "site-packages" in path else Path("/usr/bin")
    words = ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks))
    return [str(folder / "mpirun"), *words] if (folder / "mpirun").exists() else None


needs_horovod = pytest.mark.skipif(mpirun(2) is None and not os.environ.get("CI"), reason="Horovod isn't installed: make horovod")
"""Where CI vouches for Horovod, its absence fails the tests instead."""
