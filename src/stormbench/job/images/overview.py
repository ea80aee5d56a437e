"""`stormbench images list`: all images with base, what is inside and what a node needs for it, and the engines of this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from stormbench.core.errors import EXIT_DONE
from stormbench.core.tables import show
from stormbench.job.images import engines, lock
from stormbench.job.images.recipe import Image, kit_folder, read_images


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--kit", metavar="DIR", help="the kit's checkout, by default the one of this program")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Print the images, and which engines this machine can use."""
    kit = kit_folder(arguments.kit)
    digests = lock.read_lock(kit)
    images = [row(image, digests) for image in read_images(kit)]
    here = [engine_row(engine) for engine in engines.ENGINES]
    if arguments.json:
        print(json.dumps({"images": images, "engines": here}, indent=2))
        return EXIT_DONE
    short = [{"base": line["base"].rpartition("/")[2], "base_digest": line["base_digest"][:19] or "not locked"} for line in images]
    show([{**line, **brief} for line, brief in zip(images, short, strict=True)], as_json=False)
    print()
    show(here, as_json=False)
    return EXIT_DONE


def row(image: Image, digests: dict[str, str]) -> dict[str, Any]:
    """Return an image as the table shows it."""
    accelerator = f"CUDA {image.cuda}" if image.cuda else f"ROCm {image.rocm}" if image.rocm else "CPU"
    return {
        "image": image.name, "variant": image.variant, "for": accelerator, "driver": image.driver or "", "MPI": image.mpi,
        "glibc": image.glibc, "architectures": " ".join(image.architectures), "limit GB": image.max_size_gb, "base": image.base,
        "base_digest": digests.get(image.base, ""),
    }  # fmt: skip


def engine_row(engine: engines.Engine) -> dict[str, Any]:
    """Return whether this machine can use an engine, for what, and why not."""
    good, told = engines.state(engine, engines.BUILD)
    return {"engine": engine.name, "does": ", ".join(engine.does), "here": "yes" if good else "no", "told": told}
