"""The commands under `stormbench cloudmask`. Only names and help are here; each command imports its work when it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stormbench.cloudmask.config import TrainConfig
from stormbench.core.allreduce import add_parser
from stormbench.core.arguments import add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.launch import detect
from stormbench.core.options import resolve
from stormbench.core.signals import SignalWatch
from stormbench.core.tools import add_json, add_workers, not_negative, positive, set_tool

PART = "stormbench.cloudmask"
TRAIN_DESCRIPTION = """\
Train CloudMask: a U-Net that tells cloud from clear sky in nine channels of Sentinel-3 SLSTR.

DATA (or DATADIR) is a folder of converted products. One process trains alone; under mpirun, srun or horovodrun each process is
one rank of Horovod, or of TensorFlow's own strategies with --strategy:

    stormbench cloudmask train hdf results --epochs 3
    mpirun -np 4 stormbench cloudmask train hdf results --strategy horovod

The run folder, below OUT (or LOGDIR), holds run.json (where the result comes from), result_<n>.txt (the MLPerf log),
metrics.jsonl (every figure), split.json and checkpoints/ with the best and the last model. SIGUSR1 or SIGTERM writes a checkpoint
and ends the run with exit code 75; the same command with the same --run_tag goes on to the same numbers."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _synth(commands)
    _download(commands)
    _extract(commands)
    _convert(commands)
    usage = "stormbench cloudmask train [DATA [OUT]] [OPTION ...]"
    train = commands.add_parser("train", help="train, score, log", usage=usage, description=TRAIN_DESCRIPTION)
    train.add_argument("data", nargs="?", metavar="DATA", help="folder of converted products; the same as --data_dir")
    train.add_argument("output", nargs="?", metavar="OUT", help="run folders are made below it; the same as --output_dir")
    add_options(train, TrainConfig)
    train.set_defaults(run=run_train)
    _inference(commands)
    _sst(commands)
    _picture(commands)
    _science(commands)
    _allreduce(commands)


def run_train(arguments: argparse.Namespace) -> int:
    """Resolve the options and train."""
    try:
        for word, flag in (("data", "data_dir"), ("output", "output_dir")):
            given = getattr(arguments, word)
            if given is not None and getattr(arguments, flag) is not None:
                raise UserError(f"{given}: can't be given beside --{flag} {getattr(arguments, flag)}; choose one of them")
            if given is not None:
                setattr(arguments, flag, given)
        config, origins = resolve(TrainConfig, given_flags(arguments, TrainConfig), os.environ)
    except UserError as error:
        # every rank of a launch finds the same mistake: it is told once
        raise error if detect(os.environ).rank == 0 else UserError("") from None
    # before TensorFlow is there, which takes seconds in which a signal may come
    with SignalWatch() as watch:
        from stormbench.cloudmask.train import run

        return run(config, origins, watch)


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


def _inference(commands: Any) -> None:
    inference = commands.add_parser(
        "inference",
        help="cloud masks of whole frames",
        description="Write OUT/<product>.h5 with the probability of cloud for each product in DATA, converted (.hdf) or raw (.SEN3, whose "
        "conversion overlaps with the network), and score the masks against the Bayesian ones. Alone or over the ranks of mpirun or srun; "
        "what is complete is skipped.",
    )
    inference.add_argument("model", type=Path, metavar="MODEL", help=".keras file, or .h5 of the public versions")
    inference.add_argument("data", type=Path, metavar="DATA", help="folder of products")
    inference.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    inference.add_argument("--tile", default="auto", metavar="PIXELS", help="whole, the edge of windows, or auto (default auto)")
    inference.add_argument("--threads", type=positive, default=None, metavar="N", help="of the network on a CPU (default: one a core)")
    inference.add_argument("--cloud_bits", type=positive, default=0xFF, metavar="BITS", help="bits of the Bayesian mask that are cloud")
    inference.add_argument("--cpu_only", action="store_true", help="use no GPU")
    inference.add_argument("--onednn", choices=("on", "off"), default=None, help="oneDNN's kernels on CPUs (default: TensorFlow's choice)")
    inference.add_argument("--system", default=None, metavar="NAME", help="name of the system, for the table's row")
    inference.add_argument("--overwrite", action="store_true", help="make again what is complete")
    inference.add_argument("--workers", type=not_negative, default=None, metavar="N", help="processes that read and convert ahead")
    add_json(inference)
    names = ("tile", "workers", "threads", "cloud_bits", "cpu_only", "overwrite", "system")

    def options(arguments: argparse.Namespace) -> dict[str, Any]:
        chosen = None if arguments.onednn is None else arguments.onednn == "on"
        return {**{name: getattr(arguments, name) for name in names}, "onednn": chosen}

    set_tool(inference, f"{PART}.infer", options, "model", "data", "output")


def _sst(commands: Any) -> None:
    sst = commands.add_parser(
        "sst-comp",
        aliases=["sst_comp"],
        help="compare masks with buoys",
        description="Compare sea-surface temperatures of satellite and buoys where the Bayesian mask and where ours calls the sky clear: "
        "median, robust standard deviation, agreement, and how many match-ups each filter leaves.",
    )
    sst.add_argument("matchups", type=Path, metavar="MATCHUPS", help="table of match-ups, sst_matchups.h5")
    sst.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder that inference has filled")
    sst.add_argument("--output", type=Path, default=None, metavar="DIR", help="for JSON and plot (default PREDICTIONS)")
    sst.add_argument("--key", default=None, metavar="NAME", help="the table's name in a file that holds several")
    sst.add_argument("--min_sst", type=float, default=273.15, metavar="K", help="lowest temperature that counts (default 273.15)")
    sst.add_argument("--no_plot", action="store_true", help="write no picture")
    add_json(sst)

    def run(arguments: argparse.Namespace) -> int:
        from stormbench.cloudmask.sst import main

        return main(arguments)

    sst.set_defaults(run=run)


def _picture(commands: Any) -> None:
    picture = commands.add_parser(
        "picture",
        help="draw an image beside its masks",
        description="Draw a product's image, its Bayesian mask and the model's mask side by side as a PNG.",
    )
    picture.add_argument("data", type=Path, metavar="DATA", help="folder of products, converted or raw")
    picture.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder that inference has filled")
    picture.add_argument("output", type=Path, metavar="PNG", help="file to write")
    picture.add_argument("--product", default=None, metavar="NAME", help="which one (default: the one with the most even share of cloud)")
    add_json(picture)
    set_tool(picture, f"{PART}.picture", lambda a: {"product": a.product}, "data", "predictions", "output")


def _science(commands: Any) -> None:
    science = commands.add_parser(
        "run",
        help="the MLCommons Science form: train, infer, score, log",
        description="Run the benchmark as MLCommons Science has it, from its config.yaml: train, infer, score, and a log with its keys.",
    )
    science.add_argument("--config", type=Path, required=True, metavar="FILE", help="config.yaml")

    def run(arguments: argparse.Namespace) -> int:
        with SignalWatch() as watch:
            from stormbench.cloudmask.science import run as run_science

            return run_science(arguments.config, watch)

    science.set_defaults(run=run)


def _allreduce(commands: Any) -> None:
    def run(arguments: argparse.Namespace) -> int:
        from stormbench.cloudmask.allreduce import run as test_network

        return test_network(arguments)

    add_parser(commands, run)
