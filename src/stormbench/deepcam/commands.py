"""The commands under `stormbench deepcam`. Only names and help are here; each command imports its work when it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stormbench.core import garbage
from stormbench.core.allreduce import add_parser
from stormbench.core.arguments import add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.launch import detect
from stormbench.core.options import resolve
from stormbench.core.signals import SignalWatch
from stormbench.core.tools import add_workers, not_negative, positive, set_tool
from stormbench.deepcam.config import TrainConfig

TRAIN_DESCRIPTION = """\
Train DeepCAM: segmentation of tropical cyclones and atmospheric rivers in 16-channel climate frames.

DATADIR holds train/, validation/ and stats.h5, as the published data set does. One process trains alone; under srun,
mpirun, mpiexec, jsrun or torchrun each process is one rank:

    stormbench deepcam train --data_dir_prefix data --output_dir results --local_batch_size 2
    torchrun --nproc_per_node 4 -m stormbench deepcam train --data_dir_prefix data --optimizer LAMB ...

The run folder, below output_dir, holds run.json (where the result comes from), result_<n>.txt (the MLPerf log),
metrics.jsonl (every figure) and checkpoints/. SIGUSR1 or SIGTERM writes a checkpoint and ends the run with exit code 75;
the same command with the same --run_tag, or with --checkpoint auto, then continues it to the same numbers. torchrun hands
SIGUSR1 on only with --signals-to-handle; its own exit code hides ours, and run.json holds the outcome.

The verdict at the end is that of the official log checker: compliant; complete, target missed; non-compliant; failed.
The last two exit with 1."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _synth(commands)
    _split(commands)
    _summarize(commands)
    _convert(commands)
    _allreduce(commands)
    usage = "stormbench deepcam train [OPTION ...]"
    train = commands.add_parser("train", help="train, validate, log", usage=usage, description=TRAIN_DESCRIPTION)
    add_options(train, TrainConfig)
    train.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> int:
    """Resolve the options and train."""
    try:
        config, origins = resolve(TrainConfig, given_flags(arguments, TrainConfig), os.environ)
    except UserError as error:
        # every rank of a launch finds the same mistake: it is told once
        raise error if detect(os.environ).rank == 0 else UserError("") from None
    # before torch is there, which takes seconds in which a signal may come
    with SignalWatch() as watch:
        with garbage.importing("torch"):
            from stormbench.deepcam.train import run

        return run(config, origins, watch)


def _synth(commands: Any) -> None:
    synth = commands.add_parser(
        "synth",
        help="make data files of the true layout",
        description="Write generated samples in the layout of the published data set: train/, validation/, test/ with "
        "data-*.h5, and stats.h5. The same seed gives the same bytes, whatever the number of workers; a second call finishes "
        "what the first left. Generated data shows that the machinery works, never how accurate a model is.",
    )
    synth.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    synth.add_argument("--train", type=not_negative, default=64, metavar="N", help="training samples (default 64)")
    synth.add_argument("--validation", type=not_negative, default=16, metavar="N", help="validation samples (default 16)")
    synth.add_argument("--test", type=not_negative, default=0, metavar="N", help="test samples (default 0)")
    synth.add_argument("--height", type=positive, default=768, metavar="PIXELS", help="a multiple of 16 (default 768)")
    synth.add_argument("--width", type=positive, default=1152, metavar="PIXELS", help="a multiple of 16 (default 1152)")
    synth.add_argument("--seed", type=not_negative, default=333, help="decides every byte (default 333)")
    synth.add_argument(
        "--storm_scale", type=float, default=None, metavar="FACTOR",
        help="size of storms against nature; by default 1 at full size, larger in small frames so that a storm spans pixels",
    )  # fmt: skip
    add_workers(synth)

    def options(given: argparse.Namespace) -> dict[str, Any]:
        if given.storm_scale is not None and not given.storm_scale > 0:
            raise UserError(f"--storm_scale {given.storm_scale:g}: must be above 0")
        return {
            "train": given.train, "validation": given.validation, "test": given.test, "height": given.height, "width": given.width,
            "seed": given.seed, "storm_scale": given.storm_scale, "workers": given.workers,
        }  # fmt: skip

    set_tool(synth, "stormbench.deepcam.synth", options, "output")


def _split(commands: Any) -> None:
    split = commands.add_parser(
        "split",
        help="deal files to train, validation and test",
        description="Deal the data-*.h5 files of a folder to OUT/train, OUT/validation and OUT/test (80, 10 and 10 percent) by the "
        "published permutation, and write each part's files.txt.",
    )
    split.add_argument("input", type=Path, metavar="IN", help="folder with data-*.h5 files")
    split.add_argument("output", type=Path, metavar="OUT", help="folder to fill")
    split.add_argument("--seed", type=not_negative, default=12345, help="of the permutation (default 12345, the published one)")
    split.add_argument("--link", choices=("symlink", "hardlink", "copy", "move"), default="symlink", help="how files get there")
    set_tool(split, "stormbench.deepcam.split", lambda a: {"seed": a.seed, "link": a.link}, "input", "output")


def _summarize(commands: Any) -> None:
    summarize = commands.add_parser(
        "summarize",
        help="compute stats.h5",
        description="Compute the statistics of every channel over all data files below a folder, exactly and in one pass, "
        "and write them as stats.h5.",
    )
    summarize.add_argument("input", type=Path, metavar="IN", help="folder with data files, such as DATADIR/train")
    summarize.add_argument("--output", type=Path, default=None, metavar="FILE", help="default IN/stats.h5")
    add_workers(summarize)
    set_tool(summarize, "stormbench.deepcam.summarize", lambda a: {"output": a.output, "workers": a.workers}, "input")


def _convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="HDF5 to numpy files",
        description="Convert data-*.h5 to data-*.npy and label-*.npy, alone with several processes or under mpirun or srun with one rank "
        "each. What is complete is skipped, so an interrupted conversion is finished by the same command.",
    )
    convert.add_argument("--input_directory", type=Path, required=True, metavar="IN", help="folder with data-*.h5")
    convert.add_argument("--output_directory", type=Path, required=True, metavar="OUT", help="folder to fill")
    convert.add_argument("--overwrite", action="store_true", help="convert again what is complete")
    add_workers(convert)
    places = ("input_directory", "output_directory")
    set_tool(convert, "stormbench.deepcam.convert", lambda a: {"overwrite": a.overwrite, "workers": a.workers}, *places)


def _allreduce(commands: Any) -> None:
    def run(arguments: argparse.Namespace) -> int:
        from stormbench.deepcam.allreduce import run as test_network

        return test_network(arguments)

    add_parser(commands, run)
