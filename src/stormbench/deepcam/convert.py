"""Converts samples from HDF5 to NumPy files, the layout that fast readers take in place; resumes where it was stopped.

    mpirun -np 8 python -m stormbench.deepcam.convert --input_directory=hdf5/train --output_directory=numpy/train
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.core import work
from stormbench.core.arguments import Parser
from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import atomic_path, reported_os_errors, writable_folder
from stormbench.deepcam.data import CHANNELS, SampleShape, hdf5
from stormbench.deepcam.data.npy import label_path
from stormbench.deepcam.data.sample import Scaling

SPLITS = ("train", "validation", "test")
PROBES = 9
"""Files whose headers decide, by majority, the shape that all files of a folder must have."""
SHOWN_FAILURES = 5


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each file must be and where it goes; `label` is the labels' integer type as text."""

    output: Path
    shape: SampleShape
    label: str
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file: converted, skipped, or failed with a sentence."""

    status: str
    message: str = ""


def run(
    input_directory: str | os.PathLike[str],
    output_directory: str | os.PathLike[str],
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Turn each data-<id>.h5 of a folder into data-<id>.npy float32 (h, w, 16) and label-<id>.npy integer (h, w).

    Format 1.0 in C order; labels keep the integer type of the source. The files are shared over the ranks of mpirun or
    srun, or over `workers` processes, one per core by default; each holds one sample in memory. Complete outputs that are
    not older than their source are kept unless `overwrite`. Broken inputs are reported at the end, after all others are
    done. A stats.h5 in the input folder is copied to the output folder; one beside an input folder named train,
    validation or test is copied beside an output folder of the same name, where there is none yet.

    Returns:
        `converted` and `skipped` files, and the `output_directory`.

    Raises:
        UserError: no such files, or the output folder can't be written.
        RunError: inputs were broken (the others are converted), or the disk is full.
    """
    work.check(workers, "deepcam")
    team = work.world()
    source, target = Path(input_directory), Path(output_directory)
    with ExitStack() as stack:
        files, task = team.first(lambda: _prepare(source, target, overwrite, stack))
        outcomes = work.share(functools.partial(_outcome, task), files, team=team, what="convert", workers=workers, progress=progress)
        team.first(lambda: _copy_stats(source, target))
    team.first(lambda: _report(source, outcomes))
    done = Counter(outcome.status for outcome in outcomes)
    return {"output_directory": str(target), "converted": done["converted"], "skipped": done["skipped"]}


def _prepare(source: Path, target: Path, overwrite: bool, stack: ExitStack) -> tuple[list[Path], Task]:
    files = _find(source)
    shape, label = _reference(files)
    writable_folder(target, "--output_directory")
    stack.enter_context(work.claimed(target, ("data-", "label-", "stats.h5")))
    return files, Task(output=target, shape=shape, label=label, overwrite=overwrite)


def _find(source: Path) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(source) if entry.name.startswith("data-") and entry.name.endswith(".h5"))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"--input_directory {source}: {why}; give the folder with the data-*.h5 files") from error
    if not names:
        below = [name for name in SPLITS if any((source / name).glob("data-*.h5"))]
        fix = f"convert {' and '.join(str(source / name) for name in below)} one by one" if below else "give the folder with these files"
        raise UserError(f"--input_directory {source}: no data-*.h5 files; {fix}")
    return [source / name for name in names]


def _reference(files: Sequence[Path]) -> tuple[SampleShape, str]:
    """Return the shape and label type that most of some evenly spaced readable files have.

    Raises:
        RunError: none of the files can be read.
    """
    found: Counter[tuple[SampleShape, str]] = Counter()
    failure: RunError | None = None
    for path in _spaced_first(files):
        try:
            found[hdf5.inspect(path), _label_type(path)] += 1
        except RunError as error:
            failure = failure or error
        if found.total() >= PROBES:
            break
    if not found:
        raise RunError(f"none of the {len(files)} files can be read; the first: {failure}")
    shape, label = found.most_common(1)[0][0]
    if shape.channels != len(CHANNELS):
        raise RunError(f"{files[0].parent}: the files have {shape.channels} channels, must have {len(CHANNELS)}; check the input directory")
    return shape, label


def _spaced_first(files: Sequence[Path]) -> list[Path]:
    """Return the files with PROBES evenly spaced ones in front."""
    probes = list(dict.fromkeys(i * len(files) // PROBES for i in range(PROBES)))
    chosen = set(probes)
    return [files[i] for i in probes] + [path for i, path in enumerate(files) if i not in chosen]


def _label_type(path: Path) -> str:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        return file[hdf5.LABEL].dtype.newbyteorder("=").str


def _outcome(task: Task, path: Path) -> Outcome:
    """Convert one file unless its outputs are complete. A broken input is an outcome; a full disk raises RunError."""
    data = task.output / f"{path.stem}.npy"
    outputs = ((data, np.dtype(np.float32), tuple(task.shape)), (label_path(data), np.dtype(task.label), tuple(task.shape[:2])))
    try:
        if not task.overwrite:
            changed_ns = path.stat().st_mtime_ns
            if all(is_complete(*output, newer_than_ns=changed_ns) for output in outputs):
                return Outcome(status="skipped")
        image_hwc, label_hw = (np.empty(shape, dtype) for _, dtype, shape in outputs)
        hdf5.read(path, task.shape, Scaling(range(task.shape.channels), None), image_hwc, label_hw)
    except RunError as error:
        return Outcome(status="failed", message=str(error))
    except OSError as error:
        return Outcome(status="failed", message=f"{path}: can't be read ({(error.strerror or str(error)).lower()})")
    _write(outputs[0][0], image_hwc)
    _write(outputs[1][0], label_hw)
    return Outcome(status="converted")


def header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the opening bytes of a NumPy file of format 1.0 in C order."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def is_complete(path: Path, dtype: np.dtype, shape: tuple[int, ...], *, newer_than_ns: int) -> bool:
    """Whether a file begins with the header of such an array, has exactly its bytes, and isn't older than `newer_than_ns`."""
    start = header(dtype, shape)
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            size = len(start) + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            return status.st_size == size and status.st_mtime_ns >= newer_than_ns and file.read(len(start)) == start
    except OSError:
        return False


def _write(target: Path, array: NDArray[Any]) -> None:
    with atomic_path(target) as path, open(path, "wb", buffering=0) as file:
        for part in (memoryview(header(array.dtype, array.shape)), array.reshape(-1).data.cast("B")):
            while part:
                # a raw write takes at most 2 GiB and may take less
                part = part[file.write(part) or 0 :]  # noqa: PLW2901


def _copy_stats(source: Path, target: Path) -> None:
    pairs = [(source / "stats.h5", target / "stats.h5")]
    split = source.resolve().name
    if split in SPLITS and target.resolve().name == split and not (target.resolve().parent / "stats.h5").exists():
        pairs.append((source.resolve().parent / "stats.h5", target.resolve().parent / "stats.h5"))
    for old, new in pairs:
        if old.is_file() and not (new.exists() and new.samefile(old)):
            with atomic_path(new) as path, reported_os_errors(new):
                shutil.copyfile(old, path)


def _report(source: Path, outcomes: Sequence[Outcome]) -> None:
    messages = [outcome.message for outcome in outcomes if outcome.status == "failed"]
    if messages:
        more = f"; and {len(messages) - SHOWN_FAILURES} more" if len(messages) > SHOWN_FAILURES else ""
        shown = "; ".join(messages[:SHOWN_FAILURES])
        raise RunError(f"{len(messages)} of {len(outcomes)} files of {source} were not converted, the others were: {shown}{more}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit code."""
    parser = Parser(prog="python -m stormbench.deepcam.convert", description="Convert DeepCAM samples from HDF5 to NumPy files.")
    parser.add_argument("--input_directory", required=True, help="folder with data-*.h5")
    parser.add_argument("--output_directory", required=True, help="folder for data-*.npy and label-*.npy; made if need be")
    parser.add_argument("--workers", type=int, help="processes of this rank; default all cores, 1 under mpirun or srun")
    parser.add_argument("--overwrite", action="store_true", help="convert again what is complete")
    try:
        given = parser.parse_args(arguments)
        done = run(given.input_directory, given.output_directory, workers=given.workers, overwrite=given.overwrite)
    except StormbenchError as error:
        # ranks other than 0 raise the same error without text
        if str(error):
            print(f"convert: {error}", file=sys.stderr)
        return error.exit_code
    if work.world().rank == 0:
        print(f"{done['converted']} converted, {done['skipped']} were complete, in {done['output_directory']}")
    return 0


if __name__ == "__main__":
    # under its own name, so that worker processes find the functions that they are sent
    sys.exit(importlib.import_module("stormbench.deepcam.convert").main())
