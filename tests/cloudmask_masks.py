"""Small frames, models and masks for the tests of CloudMask's inference and comparison, made without the code under test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stormbench.cloudmask import hdf
from stormbench.cloudmask.frame import Frame
from tests.conftest import clean_environment

SEEN = "S3A_SL_1_RBT____20190101T{start}00_20190101T{start}59_20190102T120000_0059_039_374_{frame:04d}_LN2_O_NT_003"


def product_name(number: int) -> str:
    """Return the name of a product without an ending; each number is another sensing time."""
    return SEEN.format(start=f"{10 + number // 60:02d}{number % 60:02d}", frame=number)


def frame(number: int, height: int = 40, width: int = 60, *, day: bool = True, **about: str) -> Frame:
    """Return a frame of random weather, with some invalid pixels; a night frame has no reflectances."""
    rng = np.random.default_rng([11, number])
    refs_hwc = rng.uniform(0, 1, (height, width, 6)).astype(np.float16).astype(np.float32)
    bts_hwc = rng.uniform(220, 300, (height, width, 3)).astype(np.float16).astype(np.float32)
    refs_hwc[:2, :5], bts_hwc[4, 3:9] = np.nan, np.nan
    # one channel alone is missing
    refs_hwc[7, 7, 2] = np.nan
    bts_hwc[:2, :5] = np.nan
    if not day:
        refs_hwc[:] = np.nan
    return Frame(
        refs_hwc=refs_hwc, bts_hwc=bts_hwc, bayes_hw=rng.choice(np.array([0, 0, 1, 2, 8], np.uint8), (height, width)),
        summary_hw=np.zeros((height, width), np.uint8), day=day, about={"source": f"{product_name(number)}.SEN3", **about},
    )  # fmt: skip


def write_frames(folder: Path, count: int, **about: str) -> list[Path]:
    """Write converted files, every second one in day/, the others in night/; returns their paths sorted by product."""
    paths = []
    for number in range(count):
        path = folder / ("night" if number % 2 else "day") / f"{product_name(number)}.hdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        hdf.write(path, frame(number, day=number % 2 == 0, **about))
        paths.append(path)
    return paths


def random_weights(width: float = 0.25, seed: int = 3) -> list[np.ndarray]:
    """Return weights of a small U-Net, biases too, as trained ones have them."""
    from stormbench.cloudmask.model import unet

    rng = np.random.default_rng(seed)
    return [
        rng.normal(0, (2 / np.prod(weight.shape[:-1])) ** 0.5 if weight.ndim == 4 else 0.1, weight.shape).astype(np.float32)
        for weight in unet((None, None, 9), width).get_weights()
    ]


def write_model(path: Path, *, size: int | None = None, width: float = 0.25, seed: int = 3) -> Path:
    """Save a small model as training does, `.keras` or `.h5`, compiled with a loss that only its author knows."""
    import tensorflow as tf

    from stormbench.cloudmask.model import unet

    model = unet((size, size, 9), width)
    model.set_weights(random_weights(width, seed))
    model.compile(optimizer="adam", loss=_private_loss)
    model.save(path)
    tf.keras.backend.clear_session()
    return path


def _private_loss(y_true: Any, y_pred: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(tf.abs(y_true - y_pred))


def write_mask(path: Path, mask_hw: np.ndarray, valid_hw: np.ndarray | None = None) -> None:
    """Write a mask file as other programs do, with `valid` only where it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["mask"] = mask_hw[None, :, :, None].astype(np.float32)
        if valid_hw is not None:
            file["valid"] = valid_hw[None, :, :, None].astype(np.uint8)


def read_mask(path: Path) -> np.ndarray:
    """Return `mask` as it is stored."""
    with h5py.File(path, "r") as file:
        return file["mask"][:]


def mask_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all masks in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def program(code: str, *words: Any, **environ: str) -> list[str]:
    """Return the command that runs a few lines of Python with arguments."""
    return [sys.executable, "-c", code, *map(str, words)]


def run_program(code: str, *words: Any, timeout: float = 240, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Python in a process of its own."""
    return subprocess.run(
        program(code, *words), capture_output=True, text=True, timeout=timeout, env=clean_environment(**environ), check=False
    )  # fmt: skip
