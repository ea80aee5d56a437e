"""Writes generated SLSTR level 1 products, as folders or zips, and a table of match-ups: the same bytes on any number of cores."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import stormbench
from stormbench.cloudmask import manifest, matchups, orbit, scene, sen3
from stormbench.cloudmask.annotation import GENERATED, GENERATED_BY
from stormbench.cloudmask.netcdf_write import threads_for
from stormbench.cloudmask.orbit import FRAMES_AN_ORBIT, FULL_HEIGHT, FULL_WIDTH, Granule
from stormbench.cloudmask.pixels import pixels
from stormbench.core import work
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import PARTIAL_SUFFIX, atomic_folder, atomic_path, writable_folder, write_json

RECIPE_VERSION = 1
"""Raised whenever the same parameters would draw other products."""
RECORD = "synth.json"
SMALLEST = 32
MOST_PRODUCTS = 100_000
"""A hundred days of one satellite's frames and more; orbits and cycles fit the digits that names have for them."""
PRODUCT_PREFIXES = ("S3A_SL_1_RBT", "S3B_SL_1_RBT")
_BYTES_A_PIXEL, _BYTES_A_ROW, _BYTES_A_PRODUCT = 68, 8_500, 650_000
"""Size of a product in bytes: for each pixel of 1 km, for each row of tie points, and besides."""
_PIXELS_A_PROCESS = 100_000
"""A process takes longer to start than to draw fewer pixels."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """All that decides the bytes of a generated set."""

    products: int
    orbits: int
    duplicates: int
    height: int
    width: int
    zipped: bool
    seed: int

    @property
    def bytes_a_product(self) -> int:
        return self.height * (self.width * _BYTES_A_PIXEL + _BYTES_A_ROW) + _BYTES_A_PRODUCT


def run(
    output: str | os.PathLike[str],
    *,
    products: int = 4,
    orbits: int | None = None,
    duplicates: int = 0,
    height: int = FULL_HEIGHT,
    width: int = FULL_WIDTH,
    zipped: bool = False,
    seed: int = 1234,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write `products` `.SEN3` folders, or zips of such, and `sst_matchups.h5` to the folder `output`.

    The products are consecutive frames of three minutes around sunrise on `orbits` orbits, by default the square root of their
    number and at least two; orbits take turns between Sentinel-3A and 3B and between the baselines before and from 005.
    `height` and `width` are those of the 1 km grid; smaller ones cut the middle out of each frame. The first `duplicates`
    products are there a second time, created later. A rerun with the same parameters keeps complete products and writes the
    missing and damaged ones. Generated data proves machinery, never accuracy.

    Returns:
        The parameters, `written` and `kept` products, and `output`.

    Raises:
        UserError: a bad size or count, a folder that can't be written or holds something else, or too little space.
        RunError: the disk filled up.
    """
    work.check(workers, "cloudmask")
    matchups.check()
    parameters = _checked(products, orbits, duplicates, height, width, zipped, seed)
    team = work.world()
    folder = Path(output)
    with ExitStack() as stack:
        team.first(lambda: _claim(folder, parameters, stack))
        granules = plan(parameters)
        if workers is None and team.size == 1:
            workers = min(work.cores(), -(-len(granules) * height * width // _PIXELS_A_PROCESS))
        threads = threads_for(min(workers or 1, len(granules))) if team.size == 1 else 1
        function = functools.partial(_provide, parameters, folder, threads)
        parts = work.share(function, granules, team=team, what="synth", workers=workers, progress=progress)
        written = sum(part is not None for part in parts)
        if not team.first(lambda: matchups.is_complete(folder / matchups.NAME)):
            # a buoy meets a sensing time once; what was kept is drawn once more, without its files
            pairs = list(zip(granules, parts, strict=True))[: parameters.products]
            kept = [granule for granule, part in pairs if part is None]
            again = iter(work.share(_rows, kept, team=team, what="match-ups", workers=workers, progress=progress))
            found = [next(again) if part is None else part for _, part in pairs]
            team.first(lambda: matchups.write(folder / matchups.NAME, matchups.join(found)))
    return {"output": str(folder), **asdict(parameters), "written": written, "kept": len(parts) - written}


def plan(parameters: Parameters) -> list[Granule]:
    """Return the products in order of orbit and frame, the duplicates last."""
    common = {"seed": parameters.seed, "height": parameters.height, "width": parameters.width}
    whole, more = divmod(parameters.products, parameters.orbits)
    granules = [
        Granule(orbit=number, frame=frame, **common)
        for number in range(parameters.orbits)
        for frame in frames(number, whole + (number < more), common)
    ]
    return granules + [replace(granule, reprocessing=1) for granule in granules[: parameters.duplicates]]


def frames(number: int, count: int, common: dict[str, int]) -> range:
    """Return `count` consecutive frames of an orbit around the sunrise of its descending half: night, twilight, then day.

    Where they are too few for all three, even orbits end with the first frame of full day and odd ones begin with the last of night.
    """
    # the sun rises in the first half of the orbit that begins at the ascending node
    lights = [orbit.light(Granule(orbit=number, frame=frame, **common)) for frame in range(FRAMES_AN_ORBIT // 2 + 1)]
    day = lights.index("day")
    night = day - lights[day::-1].index("night")
    if count > day - night:
        start = night - (count - (day - night + 1)) // 2
    else:
        start = night if number % 2 else day - count + 1
    start = min(max(start, 0), FRAMES_AN_ORBIT - count)
    return range(start, start + count)


def _checked(products: int, orbits: int | None, duplicates: int, height: int, width: int, zipped: bool, seed: int) -> Parameters:
    for name, size, largest in (("--height", height, FULL_HEIGHT), ("--width", width, FULL_WIDTH)):
        if not SMALLEST <= size <= largest:
            raise UserError(f"{name} {size}: must be from {SMALLEST} to {largest} pixels of 1 km, the size of a frame")
    if not 1 <= products <= MOST_PRODUCTS:
        raise UserError(f"--products {products}: must be from 1 to {MOST_PRODUCTS}")
    least = -(-products // FRAMES_AN_ORBIT)
    if orbits is None:
        # two see both satellites and both baselines
        orbits = max(round(products**0.5), least, min(products, 2))
    if not least <= orbits <= products:
        why = f"as {products} products are {FRAMES_AN_ORBIT} frames an orbit at most and 1 at least"
        raise UserError(f"--orbits {orbits}: must be from {least} to {products}, {why}")
    if not 0 <= duplicates <= products:
        raise UserError(f"--duplicates {duplicates}: must be from 0 to {products}, the number of products")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: must be from 0 to 2**63 - 1")
    return Parameters(
        products=products, orbits=orbits, duplicates=duplicates, height=height, width=width, zipped=zipped, seed=seed
    )  # fmt: skip


def _claim(folder: Path, parameters: Parameters, stack: ExitStack) -> None:
    """Make the folder, clear what a killed run left, and record the parameters or compare them with the record there."""
    writable_folder(folder, "synth")
    _check_space(folder, parameters)
    stack.enter_context(work.claimed(folder, (RECORD, matchups.NAME, *PRODUCT_PREFIXES)))
    record = {"generated_by": GENERATED_BY, "recipe": RECIPE_VERSION, **asdict(parameters)}
    path = folder / RECORD
    if path.exists():
        _check_record(path, record)
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name != work.LOCK_NAME and path.suffix != PARTIAL_SUFFIX)
    if foreign:
        raise UserError(f"{folder}: isn't empty (it holds {foreign[0]}) and wasn't generated; choose a new or an empty folder")
    write_json(path, {**record, "version": stormbench.__version__, "note": GENERATED})


def _check_record(path: Path, record: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        was = {name: found[name] for name in record}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path}: isn't a readable record of generated data; choose a new folder or empty this one") from error
    different = [f"{name} {was[name]}, not {record[name]}" for name in record if was[name] != record[name]]
    if different:
        raise UserError(f"{path}: the data there has {', '.join(different)}; give the same parameters, or choose an empty folder")


def _check_space(folder: Path, parameters: Parameters) -> None:
    there = sum(1 for path in folder.iterdir() if path.name.startswith(PRODUCT_PREFIXES))
    needed = max(0, parameters.products + parameters.duplicates - there) * parameters.bytes_a_product
    free = shutil.disk_usage(folder).free
    if needed > free:
        amounts = f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free"
        raise UserError(f"{folder}: {amounts}; ask for fewer products or free some space")


def _provide(parameters: Parameters, folder: Path, threads: int, granule: Granule) -> matchups.Rows | None:
    """Write one product unless it is there, complete. Returns its match-ups, or None if it was kept."""
    path = folder / f"{granule.name}.{'zip' if parameters.zipped else 'SEN3'}"
    if (_zip_is_complete if parameters.zipped else _folder_is_complete)(path):
        return None
    drawn = scene.draw(granule)
    if parameters.zipped:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, content in _product(granule, drawn, threads):
                # the files are deflated inside; the time is that of the product, so that the bytes are the same each time
                member = zipfile.ZipInfo(f"{granule.name}.SEN3/{name}", granule.created.timetuple()[:6])
                member.external_attr = 0o644 << 16
                archive.writestr(member, content)
    else:
        with atomic_folder(path) as temporary:
            for name, content in _product(granule, drawn, threads):
                (temporary / name).write_bytes(content)
    return matchups.rows(granule, drawn)


def _rows(granule: Granule) -> matchups.Rows:
    return matchups.rows(granule, scene.draw(granule))


def _product(granule: Granule, drawn: scene.Scene, threads: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all files of a product, the manifest last."""
    entries = []
    for name, content in sen3.files(granule, drawn, threads=threads):
        entries.append(manifest.Entry(name=name, size=len(content), md5=hashlib.md5(content, usedforsecurity=False).hexdigest()))
        yield name, content
    yield manifest.NAME, manifest.make(granule, drawn, pixels(granule, 1000), pixels(granule, 500), entries)


def _folder_is_complete(path: Path) -> bool:
    """Whether all files are there with the checksums of the manifest: reading them costs a tenth of drawing them anew."""
    try:
        return _is_complete(path.name, lambda name: (path / name).read_bytes())
    except PermissionError as error:
        raise RunError(f"{path}: may not be read; make it readable, or remove it") from error
    except OSError:
        return False


def _zip_is_complete(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return _is_complete(f"{path.stem}.SEN3", lambda name: archive.read(f"{path.stem}.SEN3/{name}"))
    except PermissionError as error:
        raise RunError(f"{path}: may not be read; make it readable, or remove it") from error
    except (OSError, KeyError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def _is_complete(name: str, read: Any) -> bool:
    text = read(manifest.NAME)
    entries = manifest.read(text)
    if set(entries) != set(sen3.FILES) or f">{name}<".encode() not in text:
        return False
    return all(hashlib.md5(read(entry.name), usedforsecurity=False).hexdigest() == entry.md5 for entry in entries.values())
