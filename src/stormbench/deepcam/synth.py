"""Writes generated training, validation and test sets in DeepCAM's HDF5 layout: the same bytes for a seed on any number of cores."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import shutil
import zlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stormbench
from stormbench.core import work
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import PARTIAL_SUFFIX, writable_folder, write_json
from stormbench.deepcam import fields, summarize

SPLITS = ("train", "validation", "test")
GENERATED_BY = "stormbench deepcam synth"
RECIPE_VERSION = 1
"""Raised whenever the same parameters would draw other samples."""
RECORD = "synth.json"
TERRAIN_STREAM = len(SPLITS)
STRIDE = 16
PROCESS_WORTH_BYTES = 64e6
"""A process takes longer to start than to draw less than this."""
_FIRST_DAY = datetime.datetime(1996, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """All that decides the bytes of a generated set."""

    train: int
    validation: int
    test: int
    height: int
    width: int
    seed: int
    storm_scale: float

    def counts(self) -> dict[str, int]:
        return {split: getattr(self, split) for split in SPLITS}

    @property
    def grid(self) -> fields.Grid:
        return fields.Grid(height=self.height, width=self.width, storm_scale=self.storm_scale)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One file to write: number `index` of split number `split`."""

    split: int
    index: int
    path: Path


def run(
    output: str | os.PathLike[str],
    *,
    train: int = 64,
    validation: int = 16,
    test: int = 0,
    height: int = fields.FULL_HEIGHT,
    width: int = fields.FULL_WIDTH,
    seed: int = 333,
    storm_scale: float | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write `output`/{train,validation,test}/data-*.h5 and `output`/stats.h5, the statistics of the training set.

    `height` and `width` are in pixels, multiples of 16. `storm_scale` enlarges storms in small frames; None chooses 1 at
    full size and more below 447 x 670, so that storms stay learnable. A rerun with the same parameters keeps complete files
    and writes the missing and damaged ones. Generated data proves machinery, never accuracy.

    Returns:
        The parameters, `written` and `kept` files, `class_frequencies` of the files written (None if there were none), `output`.

    Raises:
        UserError: a bad size or count, a folder that can't be written or holds something else, or too little space.
        RunError: the disk filled up.
    """
    work.check(workers, "deepcam")
    parameters = _checked(train, validation, test, height, width, seed, storm_scale)
    team = work.world()
    folder = Path(output)
    with ExitStack() as stack:
        team.first(lambda: _claim(folder, parameters, stack))
        samples = _samples(folder, parameters)
        if workers is None and team.size == 1:
            workers = min(work.cores(), math.ceil(len(samples) * _bytes_a_sample(parameters) / PROCESS_WORTH_BYTES))
        function = functools.partial(_provide, parameters)
        counts = work.share(function, samples, team=team, what="synth", workers=workers, progress=progress)
        if parameters.train:
            summarize.run(folder / "train", output=folder / "stats.h5", workers=workers, progress=False)
    written = [count for count in counts if count is not None]
    frequencies = (np.sum(written, axis=0) / np.sum(written)).tolist() if written else None
    kept = len(counts) - len(written)
    return {"output": str(folder), **asdict(parameters), "written": len(written), "kept": kept, "class_frequencies": frequencies}


def _checked(train: int, validation: int, test: int, height: int, width: int, seed: int, storm_scale: float | None) -> Parameters:
    for name, size in (("--height", height), ("--width", width)):
        if size < STRIDE or size % STRIDE:
            near = max(STRIDE, round(size / STRIDE) * STRIDE)
            raise UserError(f"{name} {size}: must be a positive multiple of {STRIDE}, the network's stride; use {near}")
    for name, count in (("--train", train), ("--validation", validation), ("--test", test)):
        if count < 0:
            raise UserError(f"{name} {count}: must be 0 or more samples")
    if train + validation + test == 0:
        raise UserError("--train 0 --validation 0 --test 0: there is nothing to write; ask for at least one sample")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: must be from 0 to 2**63 - 1")
    if storm_scale is None:
        storm_scale = fields.default_storm_scale(height, width)
    if not 0 < storm_scale <= 100:
        raise UserError(f"--storm_scale {storm_scale:g}: must be above 0 and at most 100; leave it out to fit the frame")
    return Parameters(
        train=train, validation=validation, test=test, height=height, width=width, seed=seed, storm_scale=float(storm_scale)
    )


def _claim(folder: Path, parameters: Parameters, stack: ExitStack) -> None:
    """Make the folders, clear what a killed run left, and record the parameters or compare them with the record there."""
    writable_folder(folder, "synth")
    _check_space(folder, parameters)
    stack.enter_context(work.claimed(folder, (RECORD, "stats.h5")))
    record = {"generated_by": GENERATED_BY, "recipe": RECIPE_VERSION, **asdict(parameters)}
    path = folder / RECORD
    if path.exists():
        _check_record(path, record)
    else:
        foreign = sorted(path.name for path in folder.iterdir() if path.name != work.LOCK_NAME and path.suffix != PARTIAL_SUFFIX)
        if foreign:
            raise UserError(f"{folder}: isn't empty (it holds {foreign[0]}) and wasn't generated; choose a new or an empty folder")
        write_json(path, {**record, "version": stormbench.__version__, "note": "generated data: it proves machinery, never accuracy"})
    for split, count in parameters.counts().items():
        if count:
            writable_folder(folder / split, "synth")
            stack.enter_context(work.claimed(folder / split, ("data-",)))


def _check_record(path: Path, record: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        was = {name: found[name] for name in record}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path}: isn't a readable record of generated data; choose a new folder or empty this one") from error
    different = [f"{name} {was[name]}, not {record[name]}" for name in record if was[name] != record[name]]
    if different:
        raise UserError(f"{path}: the data there has {', '.join(different)}; give the same parameters, or choose an empty folder")


def _samples(folder: Path, parameters: Parameters) -> list[Sample]:
    return [
        Sample(split=number, index=index, path=folder / split / file_name(number, index))
        for number, (split, count) in enumerate(parameters.counts().items())
        for index in range(count)
    ]


def file_name(split: int, index: int) -> str:
    """Return data-YYYY-MM-DD-HH-k.h5: three hours from sample to sample, k the number of the split, so that no two sets share a name."""
    return f"data-{_FIRST_DAY + datetime.timedelta(hours=3 * index):%Y-%m-%d-%H}-{split}.h5"


def _bytes_a_sample(parameters: Parameters) -> int:
    return parameters.height * parameters.width * (len(fields.CHANNELS) + 1) * 4


def _check_space(folder: Path, parameters: Parameters) -> None:
    missing = sum(count - sum(1 for _ in (folder / split).glob("data-*.h5")) for split, count in parameters.counts().items())
    needed = missing * _bytes_a_sample(parameters)
    free = shutil.disk_usage(folder).free
    if needed > free:
        amounts = f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free"
        raise UserError(f"{folder}: {amounts}; ask for fewer samples or free some space")


def _provide(parameters: Parameters, sample: Sample) -> NDArray[np.int64] | None:
    """Write one sample unless it is there, complete. Returns the pixels of each class (3,), or None if it was kept."""
    if _is_complete(parameters, sample):
        return None
    image_hwc, label_hw = fields.draw(
        _generator(parameters.seed, sample.split, sample.index), _terrain(parameters.seed, parameters.grid), parameters.grid, sample.index
    )
    _write(parameters, sample, image_hwc, label_hw)
    return np.bincount(label_hw.ravel(), minlength=3)


def _generator(*keys: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


@functools.lru_cache(maxsize=1)
def _terrain(seed: int, grid: fields.Grid) -> fields.Plane:
    return fields.terrain(_generator(seed, TERRAIN_STREAM, 0), grid)


def _write(parameters: Parameters, sample: Sample, image_hwc: fields.Plane, label_hw: NDArray[np.int32]) -> None:
    with summarize.new_hdf5(sample.path) as file:
        group = file.create_group("climate")
        group.create_dataset("data", data=image_hwc, track_times=False)
        group.create_dataset("labels_0", data=label_hw, track_times=False)
        for name, value in _attributes(parameters, sample).items():
            group.attrs[name] = value
        group.attrs["crc32"] = np.uint32(_checksum(image_hwc, label_hw))


def _attributes(parameters: Parameters, sample: Sample) -> dict[str, Any]:
    return {
        "generated_by": np.bytes_(GENERATED_BY),
        "recipe": np.int64(RECIPE_VERSION),
        "seed": np.int64(parameters.seed),
        "split": np.bytes_(SPLITS[sample.split]),
        "index": np.int64(sample.index),
    }


def _checksum(image_hwc: fields.Plane, label_hw: NDArray[np.int32]) -> int:
    return zlib.crc32(label_hw.data, zlib.crc32(image_hwc.data))


def _is_complete(parameters: Parameters, sample: Sample) -> bool:
    """Whether the file is this sample with all its bytes: reading it back costs a tenth of drawing it anew."""
    import h5py

    if not sample.path.exists():
        return False
    try:
        with h5py.File(sample.path, "r", locking=False) as file:
            group = file["climate"]
            image_hwc, label_hw = group["data"][()], group["labels_0"][()]
            same = all(group.attrs[name] == value for name, value in _attributes(parameters, sample).items())
            return same and int(group.attrs["crc32"]) == _checksum(image_hwc, label_hw)
    except PermissionError as error:
        raise RunError(f"{sample.path}: may not be read; make it readable, or remove it") from error
    except (OSError, RuntimeError, KeyError, ValueError):
        return False
