"""The images that the kit can build, read from docker/images.toml: one table for each image and variant."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stormbench
from stormbench.core.errors import UserError, did_you_mean

LIST = Path("docker") / "images.toml"
DEFAULT_VARIANT = "cpu"
PREFIX = "stormbench-"
TOOLKIT = "TOOLKIT"
"""The build argument that names an image with CUDA's compiler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """One image in one variant: its recipe, its base, what is inside, and what a node must have for it."""

    name: str
    variant: str
    title: str
    description: str
    recipe: str
    base: str
    requirements: str
    constraints: str
    imports: tuple[str, ...]
    device_imports: tuple[str, ...]
    architectures: tuple[str, ...]
    python: str
    glibc: str
    mpi: str
    max_size_gb: float
    """Limit on the unpacked image, in 10^9 bytes."""
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cuda: str | None = None
    rocm: str | None = None
    driver: str | None = None
    """The least version of the node's kernel driver."""

    @property
    def key(self) -> str:
        """Image and variant in one word, as files are named."""
        return f"{self.name}-{self.variant}"

    @property
    def tag(self) -> str:
        """The local name that a build gives it."""
        return f"{PREFIX}{self.name}:{stormbench.__version__}-{self.variant}"

    @property
    def foreign_images(self) -> tuple[str, ...]:
        """The images that others make and its build takes from their registries: the base, and the one that has CUDA's compiler."""
        return (self.base, *([self.arguments[TOOLKIT]] if TOOLKIT in self.arguments else []))

    @property
    def accelerator(self) -> str:
        """cuda, rocm or none."""
        return "cuda" if self.cuda else "rocm" if self.rocm else "none"


def kit_folder(given: str | None = None) -> Path:
    """Return the checkout that holds the recipes: `given`, or the one that this code belongs to.

    Raises:
        UserError: there is no docker/images.toml in it.
    """
    folder = Path(given).expanduser() if given else Path(__file__).parents[4]
    if (folder / LIST).is_file():
        return folder.resolve()
    if given:
        raise UserError(f"--kit {given}: has no {LIST}; give the folder of the kit's checkout")
    raise UserError(f"{folder / LIST}: absent, as this installation is no checkout; give the folder of one with --kit DIR")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        UserError: it can't be read, or isn't TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({(error.strerror or str(error)).lower()})") from error
    except ValueError as error:
        # also where the file is no UTF-8
        raise UserError(f"{path}: is not TOML: {error}") from error


def read_images(kit: Path) -> list[Image]:
    """Return all images of the kit, in the order of the file.

    Raises:
        UserError: a table lacks a key, has an unknown one, or a value of another type.
    """
    path = kit / LIST
    found = []
    for name, variants in read_toml(path).items():
        if not isinstance(variants, dict) or not all(isinstance(table, dict) for table in variants.values()):
            raise UserError(f"{path}: {name}: images are tables of two names, such as [deepcam.cpu]")
        found += [_image(path, name, variant, table) for variant, table in variants.items()]
    if not found:
        raise UserError(f"{path}: names no image")
    return found


def _image(path: Path, name: str, variant: str, table: dict[str, Any]) -> Image:
    where = f"{path}: [{name}.{variant}]"
    fields = {field.name: field for field in dataclasses.fields(Image) if field.name not in ("name", "variant")}
    unknown = [key for key in table if key not in fields]
    if unknown:
        raise UserError(f"{where}: {unknown[0]} is no key of an image{did_you_mean(unknown[0], fields)}")
    values: dict[str, Any] = {}
    for key, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if key not in table:
            if not optional:
                raise UserError(f"{where}: {key} is missing")
            continue
        values[key] = _value(f"{where}: {key}", str(field.type), table[key])
    return Image(name=name, variant=variant, **values)


def _value(where: str, kind: str, value: Any) -> Any:
    """Return the value as the field's annotation wants it."""
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise UserError(f"{where} = {value!r}: must be a list of strings")
    if kind.startswith("Mapping"):
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        raise UserError(f"{where} = {value!r}: must be a table of strings")
    if kind == "float":
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
        raise UserError(f"{where} = {value!r}: must be a number above 0")
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} = {value!r}: must be a string that isn't empty")
    return value


def choose(images: list[Image], name: str, variant: str) -> Image:
    """Return the image of this name and variant.

    Raises:
        UserError: there is none.
    """
    names = list(dict.fromkeys(image.name for image in images))
    if name not in names:
        raise UserError(f"{name}: no image has this name{did_you_mean(name, names)}; there are {', '.join(names)}")
    variants = {image.variant: image for image in images if image.name == name}
    if variant not in variants:
        raise UserError(f"--variant {variant}: {name} has no such variant{did_you_mean(variant, variants)}; it has {', '.join(variants)}")
    return variants[variant]
