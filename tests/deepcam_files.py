"""Sample files for tests, written without the program's own writers, and real MPI runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.conftest import BIN, clean_environment


def write_sample(path: Path, image_hwc: np.ndarray, label_hw: np.ndarray | None = None, **data_options: Any) -> None:
    """Write one HDF5 sample; labels are zeros of int32 unless given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("climate/data", data=image_hwc, **data_options)
        file.create_dataset("climate/labels_0", data=np.zeros(image_hwc.shape[:2], np.int32) if label_hw is None else label_hw)


def mpirun(ranks: int, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command on `ranks` ranks of a real Open MPI, its wheel's mpirun beside the interpreter."""
    launcher = [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    return subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=timeout, env=clean_environment(), check=False)
