"""Measures reading of DeepCAM samples: against plain HDF5 reading, against the usual way, and inside a training loop.

    python benchmarks/loader.py                 about two minutes on two cores
    python benchmarks/loader.py --only read     the reading alone, some seconds

All figures are ratios of medians of interleaved rounds on files that it makes itself and that lie in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from stormbench.core.tables import text_table
from stormbench.deepcam import data
from stormbench.deepcam.data.loader import Loader
from stormbench.deepcam.loss import weighted_cross_entropy
from stormbench.deepcam.model import build

READ_LIMIT, LOOP_LIMIT = 2.0, 1.03
STATS = data.Stats(minval=np.linspace(-3, 0, 16, dtype=np.float32), maxval=np.linspace(1, 5, 16, dtype=np.float32))


def write_samples(folder: Path, count: int, height: int, width: int) -> None:
    """Write files in the layout of the data set: contiguous float32 data, int64 labels."""
    generator = np.random.default_rng(0)
    for number in range(count):
        with h5py.File(folder / f"data-{number}.h5", "w") as file:
            file["climate/data"] = generator.random((height, width, 16), dtype=np.float32)
            file["climate/labels_0"] = (generator.random((height, width)) < 0.02).astype(np.int64)


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time in s of each way; the ways take turns, so that a busy machine slows them alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            # the first round warms caches and buffers
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare_reading(folder: Path, rounds: int) -> bool:
    """Print the table of one full-size sample by one thread; returns whether the limit is kept."""
    write_samples(folder, 1, 768, 1152)
    path = folder / "data-0.h5"
    image_hwc, label_hw = np.empty((768, 1152, 16), np.float32), np.empty((768, 1152), np.int64)
    dataset = data.open_dataset("hdf5", folder, stats=STATS)

    def read_direct() -> None:
        with h5py.File(path, "r") as file:
            file["climate/data"].read_direct(image_hwc)
            file["climate/labels_0"].read_direct(label_hw)

    def ours() -> None:
        dataset.read(0, image_hwc, label_hw)

    def usual() -> tuple[np.ndarray, np.ndarray]:
        with h5py.File(path, "r") as file:
            found = file["climate/data"][..., list(range(16))]
            label = file["climate/labels_0"][...].astype(np.int64)
        found = (found - STATS.minval) / (STATS.maxval - STATS.minval)
        return np.ascontiguousarray(np.transpose(found, (2, 0, 1))), label

    ways = {"read_direct into a buffer": read_direct, "read and normalise (this package)": ours, "index, normalise, transpose": usual}
    times = interleaved(ways, rounds)
    base = times["read_direct into a buffer"]
    rows = [[name, value * 1e3, value / base] for name, value in times.items()]
    print(text_table([f"one sample 768 x 1152 x 16, median of {rounds}", "ms", "ratio"], rows))
    ratio = times["read and normalise (this package)"] / base
    return verdict("reading and normalising against read_direct", ratio, READ_LIMIT)


def compare_loop(folder: Path, rounds: int, steps: int, height: int, width: int) -> bool:
    """Print what a training step costs with real files and with dummy data; returns whether the limit is kept."""
    write_samples(folder, 8, height, width)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    sets = {
        "dummy": data.open_dataset("dummy", height=height, width=width, length=8),
        "files": data.open_dataset("hdf5", folder, stats=STATS),
    }
    times: dict[str, list[float]] = {name: [] for name in sets}
    waits = dict.fromkeys(sets, 0.0)
    for turn in range(rounds + 1):
        # each goes first in half of the rounds: neighbours on the machine come and go
        for name, dataset in sorted(sets.items(), reverse=turn % 2 == 0):
            found, waited = train(model, optimizer, dataset, steps, device)
            if turn:
                times[name] += found
                waits[name] += waited
    base = statistics.median(times["dummy"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [[name, median, median / base, waits[name] / len(times[name])] for name, median in medians.items()]
    title = f"training step {height} x {width} on {device}, median of {rounds * steps}"
    print("\n" + text_table([title, "s", "ratio", "waited s"], rows))
    return verdict("training from files against dummy data", medians["files"] / base, LOOP_LIMIT)


def train(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, dataset: data.Dataset, steps: int, device: str
) -> tuple[list[float], float]:
    """Train some steps; returns the time of each in s, from asking for data to the end of the update, and the time waited."""
    order = np.arange(steps) % len(dataset)
    times = []
    with Loader(dataset, order, batch=1, threads=2, device=device, channels_last=False) as loader:
        start = time.perf_counter()
        for image_nchw, label_nhw in loader:
            optimizer.zero_grad(set_to_none=True)
            weighted_cross_entropy(model(image_nchw), label_nhw).backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            times.append(now - start)
            start = now
    return times, loader.waited_s


def compare_copies(rounds: int) -> None:
    """Print the rate from a pinned buffer to the GPU, plain and through the loader."""
    pinned = torch.empty((4, 768, 1152, 16), pin_memory=True)
    dataset = data.open_dataset("dummy", length=64)

    def plain() -> None:
        for _ in range(8):
            pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    def through_loader() -> None:
        with Loader(dataset, np.arange(32), batch=4, threads=8, device="cuda") as loader:
            for _ in loader:
                pass
        torch.cuda.synchronize()

    times = interleaved({"plain pinned copy": plain, "through the loader": through_loader}, rounds)
    gigabytes = 8 * pinned.nbytes / 1e9
    print("\n" + text_table(["32 samples to the GPU", "GB/s"], [[name, gigabytes / value] for name, value in times.items()]))


def verdict(what: str, ratio: float, limit: float) -> bool:
    kept = ratio <= limit
    print(f"{what}: {ratio:.3f}, limit {limit:g}: {'kept' if kept else 'MISSED'}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("read", "loop"), help="one of the two measurements")
    parser.add_argument("--read-rounds", type=int, default=15)
    parser.add_argument("--loop-rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="training steps in a round")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 288), metavar=("H", "W"), help="frame of the training loop")
    args = parser.parse_args()
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "loop":
            (Path(folder) / "read").mkdir()
            kept.append(compare_reading(Path(folder) / "read", args.read_rounds))
        if args.only != "read":
            (Path(folder) / "loop").mkdir()
            kept.append(compare_loop(Path(folder) / "loop", args.loop_rounds, args.steps, *args.size))
    if torch.cuda.is_available():
        compare_copies(args.read_rounds)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
