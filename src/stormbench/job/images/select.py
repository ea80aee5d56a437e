"""What every verb of `stormbench images` shares on its command line: the image, its variant, the engine, and how to tell."""

from __future__ import annotations

import argparse
import re

from stormbench.core.errors import UserError
from stormbench.job.images.engines import NAMES
from stormbench.job.images.recipe import DEFAULT_VARIANT, Image, choose, kit_folder, read_images

FOLDER = "images"
_TAG = re.compile(r"(?:[\w.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::\w[\w.-]{0,127})?", re.ASCII)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that is about one image."""
    parser.add_argument("image", metavar="IMAGE", help="deepcam or cloudmask; `stormbench images list` has all with their variants")
    parser.add_argument("--variant", default=DEFAULT_VARIANT, metavar="NAME", help=f"such as cuda or rocm (default {DEFAULT_VARIANT})")
    parser.add_argument("--engine", choices=NAMES, metavar="NAME", help=f"{', '.join(NAMES)}; by default the first that is usable here")
    parser.add_argument("--tag", metavar="NAME:TAG", type=tag, help="name of the local image (default stormbench-IMAGE:VERSION-VARIANT)")
    parser.add_argument("--dry_run", action="store_true", help="print the exact commands and run none")
    parser.add_argument("--folder", default=FOLDER, metavar="DIR", help=f"where exports and logs go (default {FOLDER})")
    parser.add_argument("--kit", metavar="DIR", help="the kit's checkout, by default the one of this program")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")


def chosen(arguments: argparse.Namespace) -> Image:
    """Return the image that the command line names."""
    return choose(read_images(kit_folder(arguments.kit)), arguments.image, arguments.variant)


def tag(text: str) -> str:
    """An argument type: a local image's name.

    Raises:
        UserError: no engine would take it.
    """
    if not _TAG.fullmatch(text):
        raise UserError(f"--tag {text}: must be NAME:TAG in small letters, such as stormbench-deepcam:mine")
    return text
