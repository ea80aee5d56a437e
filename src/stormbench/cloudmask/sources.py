"""The products that masks are made of: converted files, or `.SEN3` folders that are converted in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import hdf, names
from stormbench.cloudmask.convert import find_products
from stormbench.cloudmask.frame import Frame
from stormbench.cloudmask.patches import normalise
from stormbench.core.errors import StormbenchError, UserError

RAW_ENDING, CONVERTED_ENDING = ".SEN3", ".hdf"
GENERATED = "generated"
"""Word in the comment of products that `stormbench cloudmask synth` has made."""
GENERATED_NOTE = "Generated data: this shows that everything works, and says nothing about accuracy on observations."
"""What stands beside every score and every comparison of such products."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One product: its name without an ending, and the file or folder that holds it."""

    name: str
    path: Path

    @property
    def raw(self) -> bool:
        """Whether it has yet to be converted."""
        return self.path.name.endswith(RAW_ENDING)

    @property
    def changed_ns(self) -> int:
        """When it was last changed; of a raw product, the newest of its files."""
        if not self.raw:
            return self.path.stat().st_mtime_ns
        return max((file.stat().st_mtime_ns for file in self.path.glob("*.nc")), default=self.path.stat().st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A product ready for the network, see `patches.normalise`."""

    image_hwc: NDArray[np.float32]
    label_hw: NDArray[np.uint8]
    valid_hw: NDArray[np.bool_]
    day: bool
    generated: bool


def find(data: Path) -> list[Source]:
    """Return the products in a folder and below it, sorted by name; or the one that `data` itself is.

    A product that is there both converted and raw is taken converted.

    Raises:
        UserError: no such folder, no products in it, or two converted files of one product.
    """
    if data.name.endswith(CONVERTED_ENDING) and data.is_file():
        return [Source(name=names.stem(data.name), path=data)]
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; give the folder with the converted {CONVERTED_ENDING} files or the {RAW_ENDING} products")
    if data.resolve().name.endswith(RAW_ENDING):
        return [Source(name=names.stem(data.resolve().name), path=data)]
    found: dict[str, Source] = {}
    for path in hdf.list_files(data):
        name = names.stem(path.name)
        if name in found:
            raise UserError(f"{path}: is the same product as {found[name].path}, and both masks would have one name; remove one of them")
        found[name] = Source(name=name, path=path)
    try:
        raw = find_products(data)
    except UserError:
        raw = []
    for path in raw:
        found.setdefault(names.stem(path.name), Source(name=names.stem(path.name), path=path))
    if not found:
        fix = "extract its archives first: stormbench cloudmask extract" if any(data.rglob("*.zip")) else "give the folder that holds them"
        raise UserError(f"{data}: no {CONVERTED_ENDING} files and no {RAW_ENDING} products in it; {fix}")
    return [found[name] for name in sorted(found)]


def read(source: Source) -> Frame:
    """Return the product's frame: a raw one as its compact file would hold it, so that both give the same mask.

    Raises:
        RunError: a file is missing or damaged.
    """
    if not source.raw:
        return hdf.read(source.path, ("bts", "refs", "bayes"))
    from stormbench.cloudmask.product import open_product

    return open_product(source.path).frame(half=True)


def is_generated(frame: Frame) -> bool:
    """Whether the frame says of itself that it is no observation."""
    return GENERATED in frame.about.get("comment", "").lower()


def prepare(cloud_bits: int, source: Source) -> Prepared | str:
    """Read one product and normalise it, in a worker process; or return why that can't be: the other products go on."""
    try:
        frame = read(source)
        image_hwc, label_hw, valid_hw = normalise(frame, cloud_bits)
    except StormbenchError as error:
        return str(error)
    except OSError as error:
        return f"{source.path}: can't be read ({(error.strerror or str(error)).lower()})"
    return Prepared(
        image_hwc=image_hwc, label_hw=label_hw, valid_hw=valid_hw, day=frame.day, generated=is_generated(frame)
    )  # fmt: skip
