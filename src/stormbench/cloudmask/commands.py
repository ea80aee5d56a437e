"""The commands under `stormbench cloudmask`. Only names and help are here; each command imports its work when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stormbench.core.tools import add_json, add_workers, not_negative, positive, set_tool

PART = "stormbench.cloudmask"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _synth(commands)
    _download(commands)
    _extract(commands)
    _convert(commands)


def _synth(commands: Any) -> None:
    synth = commands.add_parser(
        "synth",
        help="make products of the true layout",
        description="Write generated Sentinel-3 SLSTR products (.SEN3 folders, or zips of them) with all their files, and a table of "
        "match-ups with buoys. The same seed gives the same bytes, whatever the number of workers; a second call finishes what the first "
        "left. Generated data shows that the machinery works, never how accurate a model is.",
    )
    synth.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    synth.add_argument("--products", type=positive, default=4, metavar="N", help="products, frames of three minutes (default 4)")
    synth.add_argument("--orbits", type=positive, default=None, metavar="N", help="orbits they lie on (default: the root of their number)")
    synth.add_argument("--duplicates", type=not_negative, default=0, metavar="N", help="products that are there twice (default 0)")
    synth.add_argument("--height", type=positive, default=1200, metavar="PIXELS", help="rows of the 1 km grid (default 1200)")
    synth.add_argument("--width", type=positive, default=1500, metavar="PIXELS", help="columns of the 1 km grid (default 1500)")
    synth.add_argument("--zipped", action="store_true", help="write a zip of each product, as archives keep them")
    synth.add_argument("--seed", type=not_negative, default=1234, help="decides every byte (default 1234)")
    add_workers(synth)
    names = ("products", "orbits", "duplicates", "height", "width", "zipped", "seed", "workers")
    set_tool(synth, f"{PART}.synth", lambda a: {name: getattr(a, name) for name in names}, "output")


def _download(commands: Any) -> None:
    download = commands.add_parser(
        "download",
        help="fetch the published data sets",
        description="Fetch a data set from the STFC bucket, unsigned, a few files at once. Sizes and checksums are checked; a file that "
        "broke off is gone on with, by the same command too.",
    )
    download.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    download.add_argument("--dataset", default="one-day", metavar="NAME", help="one-day (train), ssts (infer) or pixbox (default one-day)")
    download.add_argument("--form", default="converted", metavar="NAME", help="converted (HDF) or raw products (default converted)")
    download.add_argument("--num_files", type=positive, default=None, metavar="N", help="only the first N files by name")
    download.add_argument("--num_streams", type=positive, default=4, metavar="N", help="files that come at once, at most (default 4)")
    download.add_argument("--retries", type=not_negative, default=5, metavar="N", help="further tries for each file (default 5)")
    download.add_argument("--timeout", type=float, default=60.0, metavar="S", help="how long to wait for bytes (default 60)")
    download.add_argument("--prefix", default=None, metavar="KEY", help="another place in the bucket")
    download.add_argument("--endpoint", default="https://s3.echo.stfc.ac.uk", metavar="URL", help="another server (default %(default)s)")
    download.add_argument("--bucket", default="sciml-datasets", metavar="NAME", help="another bucket (default %(default)s)")
    add_json(download)
    names = ("dataset", "form", "num_files", "num_streams", "retries", "timeout", "prefix", "endpoint", "bucket")
    set_tool(download, f"{PART}.download", lambda a: {name: getattr(a, name) for name in names}, "output")


def _extract(commands: Any) -> None:
    extract = commands.add_parser(
        "extract",
        help="unpack zipped products",
        description="Unpack the zip files that a list names, one path a line, each product whole or not at all. What is missing or broken "
        "is named at the end; the same command finishes what was left.",
    )
    extract.add_argument("file_list", type=Path, metavar="FILE_LIST", help="text file with a path a line, or a folder of zip files")
    extract.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    add_workers(extract)
    set_tool(extract, f"{PART}.extract", lambda a: {"workers": a.workers}, "file_list", "output")


def _convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert-hdf",
        aliases=["convert_hdf"],
        help="products to one HDF file each",
        description="Convert .SEN3 products to OUT/day/*.hdf and OUT/night/*.hdf: reflectances, brightness temperatures, cloud masks on "
        "the 1 km grid. Alone with several processes, or under mpirun or srun. What is complete is skipped, so an interrupted conversion "
        "is finished by the same command; a broken product is named at the end.",
    )
    convert.add_argument("input", type=Path, metavar="IN", help="folder with .SEN3 products")
    convert.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    convert.add_argument("--layout", default="compact", metavar="NAME", help="compact or published (default compact)")
    convert.add_argument("--rads", action="store_true", help="keep radiances in compact files too")
    convert.add_argument("--zeros", action="store_true", help="published layout: 0 for invalid pixels, as the published files have it")
    convert.add_argument(
        "--adjust", default="auto", metavar="HOW",
        help="factors on the radiances: auto (baselines before 005), on, off, or six numbers for S1 to S6: 0.97,0.98,0.98,1,1.11,1.13",
    )  # fmt: skip
    convert.add_argument("--overwrite", action="store_true", help="convert again what is complete")
    add_workers(convert)
    names = ("layout", "rads", "zeros", "adjust", "overwrite", "workers")
    set_tool(convert, f"{PART}.convert", lambda a: {name: getattr(a, name) for name in names}, "input", "output")
