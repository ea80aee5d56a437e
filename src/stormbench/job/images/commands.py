"""The verbs of `stormbench images`; each is imported when it is used."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from stormbench.core.arguments import Parser

VERBS = {
    "list": ("all images with their bases and what is inside", "stormbench.job.images.overview", False),
    "build": ("build an image with the engine of this machine", "stormbench.job.images.build", True),
    "test": ("run an image's health check and a training of two ranks in it", "stormbench.job.images.tryout", True),
    "export": ("write an image to a .sif or .sqsh file, with image.json beside it", "stormbench.job.images.export", True),
    "lock": ("renew the digests of the base images", "stormbench.job.images.lock", False),
    "constraints": ("check or renew the exact versions of an image's Python packages", "stormbench.job.images.constraints", False),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs: Any = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=Parser)
    for name, (summary, module, of_one_image) in VERBS.items():
        verb = verbs.add_parser(name, help=summary)
        part = importlib.import_module(module)
        if of_one_image:
            from stormbench.job.images.select import add_options

            add_options(verb)
        part.configure(verb)
