"""Times inference from converted products: whole frames against the published tiling, with one network on one machine.

Published is what the public programs do: 256 x 256 patches with a stride of 176 pixels, padded, which are 7 x 9 = 63 for a
full product, all in one batch of the Keras model; 80 pixels of each are cropped. Ours is `stormbench cloudmask inference`.
A third row has the Keras model on whole frames, so that what the arithmetic and what the rest brings can be told apart.

Each way runs in a process of its own, in turns; the time is that from reading a file to its mask on disk, after one product
to warm up. CPU seconds are those of all threads and reading processes, and tell more where others use the machine.

    python benchmarks/cloudmask_infer.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import hdf, infer, masks, sources
from stormbench.cloudmask.frame import Frame
from stormbench.cloudmask.patches import N_CHANNELS, normalise
from stormbench.core.tables import markdown_table

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
PATCH, CROP = 256, 80
PUBLISHED, KERAS, OURS = "published, 63 patches", "Keras, whole frame", "ours, whole frame"
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
LIMIT = 0.6
"""Ours may take this share of the published way's time."""
NAME = "S3A_SL_1_RBT____20190101T10{number:02d}00_20190101T10{number:02d}59_20190102T120000_0179_039_374_{number:04d}_LN2_O_NT_003"


def make_data(folder: Path, products: int, height: int, width: int) -> None:
    """Write converted products: smooth fields with noise, which take the time that any others would."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    for number in range(products):
        wave_hw = np.sin(rows / (40 + number)) * np.sin(columns / 60)
        noise_hwc = rng.normal(0, 0.02, (height, width, N_CHANNELS)).astype(np.float32)
        frame = Frame(
            refs_hwc=(0.4 + 0.3 * wave_hw[..., None] + noise_hwc[..., :6]).astype(np.float32),
            bts_hwc=(270 - 20 * wave_hw[..., None] + 22 * noise_hwc[..., 6:]).astype(np.float32),
            bayes_hw=(wave_hw > 0.3).astype(np.uint8), summary_hw=(wave_hw > 0.3).astype(np.uint8), day=True,
            about={"comment": "generated for a benchmark"},
        )  # fmt: skip
        hdf.write(folder / f"{NAME.format(number=number)}.hdf", frame)


def make_model(path: Path) -> None:
    """Save the full network with its first weights."""
    import tensorflow as tf

    from stormbench.cloudmask.model import unet

    tf.keras.utils.set_random_seed(1234)
    unet((PATCH, PATCH, N_CHANNELS)).save(path)


def published(model: Any) -> Predict:
    """Return the public programs' way from an image (h, w, 9) to its mask (h, w)."""
    import tensorflow as tf

    def predict(image_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = image_hwc.shape[:2]
        inner = PATCH - CROP
        patches = tf.image.extract_patches(image_hwc[None], [1, PATCH, PATCH, 1], [1, inner, inner, 1], [1, 1, 1, 1], "SAME")
        _, rows, columns, _ = patches.shape
        found = model.predict_on_batch(tf.reshape(patches, (rows * columns, PATCH, PATCH, N_CHANNELS)))
        kept = found[:, CROP // 2 : -(CROP // 2), CROP // 2 : -(CROP // 2), 0].reshape(rows, columns, inner, inner)
        whole_hw = kept.swapaxes(1, 2).reshape(rows * inner, columns * inner)
        top, left = (rows * inner - height) // 2, (columns * inner - width) // 2
        return whole_hw[top : top + height, left : left + width]

    return predict


def keras_whole(model: Any) -> Predict:
    """Return the Keras model on whole frames, padded to multiples of 8."""
    from stormbench.cloudmask import tiling
    from stormbench.cloudmask.model import unet

    network = unet((None, None, N_CHANNELS))
    network.set_weights(model.get_weights())

    def predict(image_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = image_hwc.shape[:2]
        return network.predict_on_batch(tiling.pad(image_hwc)[None])[0, :height, :width, 0]

    return predict


def time_plainly(make: Callable[[Any], Predict], model: Path, data: Path, output: Path) -> None:
    """Predict one product after the other, the first of them to warm up."""
    import tensorflow as tf

    predict = make(tf.keras.models.load_model(model, compile=False))
    found = sources.find(data)
    for number, source in enumerate([found[0], *found]):
        if number == 1:
            began, cpu = time.perf_counter(), cpu_seconds()
        image_hwc, _, valid_hw = normalise(sources.read(source))
        masks.write_mask(output / f"{source.name}.h5", predict(image_hwc), valid_hw, {})
    tell((time.perf_counter() - began) / len(found), (cpu_seconds() - cpu) / len(found))


def time_ours(model: Path, data: Path, output: Path) -> None:
    """Run inference on one product to warm up, then on all."""
    first = sources.find(data)[0]
    infer.run(model, first.path, output / "warm", progress=False)
    cpu = cpu_seconds()
    record = infer.run(model, data, output, progress=False)
    tell(record["total"] / record["predicted"], (cpu_seconds() - cpu) / record["predicted"], record["method"])


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def tell(seconds: float, cpu: float, method: str = "") -> None:
    """Print what the parent reads."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_gib": peak, "method": method}))


def measure(way: str, folder: Path) -> dict[str, Any]:
    """Run one way in a process of its own and return what it tells."""
    output = folder / "masks" / way.split(maxsplit=1)[0].rstrip(",")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--output", str(output)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=QUIET)
    return json.loads(done.stdout.splitlines()[-1])


def differences(folder: Path) -> str:
    """Return how far the masks of both ways lie apart: the published tiling cuts off context that the network uses."""
    apart = []
    for path in sorted((folder / "masks" / "ours").glob("*.h5")):
        ours_hw, _ = masks.read_mask(path)
        theirs_hw, _ = masks.read_mask(folder / "masks" / "published" / path.name)
        apart.append((float(np.abs(ours_hw - theirs_hw).max()), float(((ours_hw >= 0.5) != (theirs_hw >= 0.5)).mean())))
    return f"masks differ by up to {max(a for a, _ in apart):.3f}, and in {max(b for _, b in apart):.2%} of the pixels in what is cloud"


def machine() -> str:
    """Return processor, cores and load in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"


def compare(args: argparse.Namespace) -> int:
    """Measure all ways in turns and print the table; 1 where ours takes more than LIMIT of the published time."""
    print(machine(), flush=True)
    times: dict[str, list[dict[str, Any]]] = {way: [] for way in (PUBLISHED, KERAS, OURS)}
    with tempfile.TemporaryDirectory(prefix="cloudmask_infer.") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        make_data(folder / "data", args.products, args.height, args.width)
        subprocess.run([sys.executable, __file__, "--way", "model", "--folder", name], check=True, env=QUIET)
        for _ in range(args.rounds):
            for way, found in times.items():
                found.append(measure(way, folder))
                print(f"{way}: {found[-1]['seconds']:.2f} s, {found[-1]['cpu_seconds']:.2f} CPU s a product", flush=True)
        print(differences(folder))
    middle = {way: statistics.median(one["seconds"] for one in found) for way, found in times.items()}
    cpu = {way: statistics.median(one["cpu_seconds"] for one in found) for way, found in times.items()}
    rows = []
    for way, found in times.items():
        spread = [one["seconds"] for one in found]
        ratios = [f"{values[way] / values[PUBLISHED]:.0%}" for values in (middle, cpu)]
        peak = max(one["peak_gib"] for one in found)
        rows.append([way, f"{middle[way]:.2f}", f"{min(spread):.2f} to {max(spread):.2f}", f"{cpu[way]:.2f}", *ratios, f"{peak:.1f}"])
    headers = ["way", "median s a product", "min to max s", "CPU s", "of the published time", "of its CPU time", "peak GiB"]
    print(markdown_table(headers, rows))
    share = middle[OURS] / middle[PUBLISHED]
    print(f"ours takes {share:.0%} of the published time (limit {LIMIT:.0%})")
    return int(share > LIMIT)


def main() -> int:
    """Measure, or with --way be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=2, help="products in each round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="times each way is measured")
    parser.add_argument("--height", type=int, default=1200, help="rows of a product")
    parser.add_argument("--width", type=int, default=1500, help="columns of a product")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is None:
        return compare(args)
    model = args.folder / "model.keras"
    if args.way == "model":
        make_model(model)
    elif args.way == OURS:
        time_ours(model, args.folder / "data", args.output)
    else:
        time_plainly(published if args.way == PUBLISHED else keras_whole, model, args.folder / "data", args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
