"""Measures the conversion of a full-size SLSTR product: against the usual way, its memory, and how it shares two cores.

    python benchmarks/convert_slstr.py                  about three minutes on two cores
    python benchmarks/convert_slstr.py --product DIR    on a product of your own, a `.SEN3` folder

The usual way is xarray with h5netcdf, a bicubic spline of the zenith for each channel, and scikit-image's resize. Both ways
convert the same deflated product that lies in the page cache, each in processes of its own, on one core, taking turns.
Needs xarray, h5netcdf, scipy and scikit-image: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from stormbench.cloudmask import chunks, convert, hdf, synth
from stormbench.cloudmask.adjust import factors_of
from stormbench.cloudmask.frame import BTS, REFS
from stormbench.cloudmask.names import parse
from stormbench.cloudmask.product import open_product
from stormbench.core.tables import text_table

SPEED_LIMIT, AIM_S, MEMORY_LIMIT_MB, EFFICIENCY_LIMIT = 5.0, 0.4, 1000, 0.85
WAYS = ("usual", "stormbench")
NAMES = {"usual": "xarray, spline and resize", "stormbench": "this package"}


def ours(product: Path, target: Path) -> None:
    """Convert as the command does."""
    hdf.write(target, open_product(product).frame(half=True))


def usual(product: Path, target: Path) -> None:
    """Convert as one would with the libraries at hand; right in the middle of the image, with its formulas in double precision."""
    import h5py
    import xarray
    from scipy.interpolate import RectBivariateSpline
    from skimage.transform import resize

    def load(name: str) -> Any:
        return xarray.open_dataset(product / f"{name}.nc", engine="h5netcdf", mask_and_scale=True)

    with load("indices_an") as indices, load("geometry_tn") as ties:
        detector = indices["detector_an"].values
        zenith = ties["solar_zenith_tn"].values
        start, track, image = ties.attrs["start_offset"], ties.attrs["track_offset"], indices.attrs
    tie_rows, tie_cols = (np.arange(length) for length in zenith.shape)
    known = np.isfinite(zenith).all(axis=0)
    rows = (np.arange(detector.shape[0]) + image["start_offset"]) * 0.5 - start
    cols = (np.arange(detector.shape[1]) - image["track_offset"]) * (500 / 16000) + track
    refs = []
    for channel, factor in zip(REFS, factors_of("auto", parse(product.name)), strict=True):
        with load(f"{channel}_radiance_an") as radiances, load(f"{channel}_quality_an") as quality:
            radiance = factor * radiances[f"{channel}_radiance_an"].values
            flux = quality[f"{channel}_solar_irradiance_an"].values.ravel()
        angle = RectBivariateSpline(tie_rows, tie_cols[known], zenith[:, known])(rows, cols)
        irradiance = flux[np.nan_to_num(detector).astype(int)]
        refs.append(np.pi * radiance / (irradiance * np.cos(np.radians(angle))))
    heat = []
    for channel in BTS:
        with load(f"{channel}_BT_in") as temperatures:
            heat.append(temperatures[f"{channel}_BT_in"].values)
    with load("flags_in") as flags:
        confidence, bayes = flags["confidence_in"].values, flags["bayes_in"].values
        masks = dict(zip(flags["confidence_in"].flag_meanings.split(), flags["confidence_in"].flag_masks, strict=True))
    shape = heat[0].shape
    with h5py.File(target, "w") as file:
        file["refs"] = resize(np.nan_to_num(np.stack(refs, axis=-1)), shape)
        file["bts"] = np.nan_to_num(np.stack(heat, axis=-1))
        file["bayes"] = (np.nan_to_num(bayes) > 0)[..., None] * 255.0
        file["summary"] = ((np.nan_to_num(confidence).astype(np.uint16) & masks["summary_cloud"]) > 0)[..., None] * 255.0


def child(way: str, product: Path, target: Path, rounds: int) -> None:
    """Convert `rounds` times on one core and print the times in s and the peak memory in MB as JSON; the first time doesn't count."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    work = {"usual": usual, "stormbench": ours}[way]
    times = []
    for _ in range(rounds + 1):
        wall, used = time.perf_counter(), time.process_time()
        work(product, target)
        times.append((time.perf_counter() - wall, time.process_time() - used))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"times": times[1:], "peak_mb": peak}))


def compare_speed(product: Path, folder: Path, turns: int) -> bool:
    """Print times and memory of both ways for one product; returns whether the limits are kept."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    peaks = dict.fromkeys(WAYS, 0.0)
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    for _ in range(turns):
        for way in WAYS:
            words = [sys.executable, __file__, "--child", way, "--product", product, "--out", folder / f"{way}.hdf"]
            done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, env=environment)
            found = json.loads(done.stdout)
            times[way] += [tuple(pair) for pair in found["times"]]
            peaks[way] = max(peaks[way], found["peak_mb"])
    size = sum(path.stat().st_size for path in product.iterdir()) / 1e6
    medians = {way: [statistics.median(column) for column in zip(*times[way], strict=True)] for way in WAYS}
    rows = [[NAMES[way], *medians[way], min(used for _, used in times[way]), peaks[way]] for way in WAYS]
    title = f"one product of {size:.0f} MB on one core, median of {len(times['stormbench'])}"
    print(text_table([title, "wall s", "CPU s", "least CPU s", "peak MB"], rows))
    print(f"inflater: {chunks.PACKAGE if chunks.inflater() else 'HDF5'}; both agree to {agreement(folder):.2%} in the median\n")
    # CPU time, as other work on the machine may take the core away
    ratio = medians["usual"][1] / medians["stormbench"][1]
    kept = verdict("times as fast per core as the usual way", ratio, SPEED_LIMIT, at_least=True)
    verdict("s of CPU time a product, an aim", medians["stormbench"][1], AIM_S, at_least=False)
    return verdict("MB peak memory", peaks["stormbench"], MEMORY_LIMIT_MB, at_least=False) and kept


def agreement(folder: Path) -> float:
    """Return the median relative difference of the two ways' reflectances where both have some."""
    one, other = (hdf.read(folder / f"{way}.hdf", ["refs"]).refs_hwc for way in WAYS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nanmedian(np.abs(one - other) / np.abs(other)))


def compare_cores(product: Path, folder: Path, count: int, turns: int) -> bool:
    """Print how long several products take on one and on two cores; returns whether the limit is kept."""
    source = folder / "products"
    name = parse(product.name)
    for number in range(count):
        moved = (name.start + timedelta(minutes=3 * number)).strftime("%Y%m%dT%H%M%S")
        copy = source / (name.text.replace(name.start.strftime("%Y%m%dT%H%M%S"), moved, 1) + ".SEN3")
        copy.mkdir(parents=True)
        for path in product.iterdir():
            (copy / path.name).symlink_to(path.resolve())
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    everywhere = os.sched_getaffinity(0)
    for _ in range(turns):
        for cores, found in times.items():
            os.sched_setaffinity(0, set(sorted(everywhere)[:cores]))
            start, used = time.perf_counter(), cpu_time()
            convert.run(source, folder / "out", workers=cores, progress=False)
            found.append((time.perf_counter() - start, cpu_time() - used))
            shutil.rmtree(folder / "out")
    os.sched_setaffinity(0, everywhere)
    medians = {cores: [statistics.median(column) for column in zip(*found, strict=True)] for cores, found in times.items()}
    rows = [[f"{cores} core{'s' * (cores > 1)}", *medians[cores], count / medians[cores][0]] for cores in times]
    print("\n" + text_table([f"{count} products, median of {turns}", "wall s", "CPU s", "products/s"], rows))
    print(f"CPU time on one core over that on two: {medians[1][1] / medians[2][1]:.2f}, the efficiency if nothing else ran")
    return verdict("efficiency on two cores by wall time", medians[1][0] / medians[2][0] / 2, EFFICIENCY_LIMIT, at_least=True)


def cpu_time() -> float:
    """Return the CPU time in s of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def verdict(what: str, value: float, limit: float, *, at_least: bool) -> bool:
    kept = value >= limit if at_least else value <= limit
    print(f"{what}: {value:.3g}, limit {'at least' if at_least else 'at most'} {limit:g}: {'kept' if kept else 'MISSED'}")
    return kept


def machine() -> str:
    """Return what the figures were measured on, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    busy = "; busy with other work, so go by CPU times" if load > 1 else ""
    return f"{model}, {cores} cores, load {load:.1f}{busy}; Python {platform.python_version()}, NumPy {np.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--product", type=Path, metavar="DIR", help="a .SEN3 folder; generated by default")
    parser.add_argument("--turns", type=int, default=2, help="processes of each way")
    parser.add_argument("--rounds", type=int, default=3, help="conversions in each process")
    parser.add_argument("--products", type=int, default=24, help="products shared by two cores; start-up counts")
    parser.add_argument("--only", choices=("speed", "cores"), help="one of the two measurements")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.product, args.out, args.rounds)
        return 0
    missing = [name for name in ("xarray", "h5netcdf", "scipy", "skimage") if importlib.util.find_spec(name) is None]
    if missing and args.only != "cores":
        print(f"{', '.join(missing)}: not installed, but the usual way needs it; pip install -e '.[bench]'", file=sys.stderr)
        return 2
    kept = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        product = args.product
        if product is None:
            synth.run(folder / "made", products=1, progress=False)
            product = convert.find_products(folder / "made")[0]
        print(machine())
        if args.only != "cores":
            kept.append(compare_speed(product, folder, args.turns))
        if args.only != "speed":
            if len(os.sched_getaffinity(0)) < 2:
                print("one core here: sharing can't be measured")
            else:
                kept.append(compare_cores(product, folder, args.products, args.turns))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
