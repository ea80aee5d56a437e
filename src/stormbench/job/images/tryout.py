"""`stormbench images test`: whether an image keeps its promises here: its health check, generated data, and a training of two ranks."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, RunError, UserError
from stormbench.core.files import reported_os_errors
from stormbench.core.runfolder import FINISHED, read_record
from stormbench.job.images import engines, run
from stormbench.job.images.engines import Engine
from stormbench.job.images.recipe import Image
from stormbench.job.images.select import chosen

RANKS = 2
TAG = "two-ranks"
HEALTH = ("python", "/opt/stormbench/health.py")
IN_CONTAINER = {
    "OMP_NUM_THREADS": "1",
    # two ranks on a machine with one core, as root in a container: Open MPI 4 and 5 each ask to be told
    "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}  # fmt: skip
DETAIL = """\
Runs the image without network and with a read-only root: only /results and /scratch can be written. Two ranks on generated data, on the
CPU; --device also imports what needs the GPU, and gives the container its devices."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options beside those that all verbs have."""
    parser.description = DETAIL
    parser.add_argument("--file", metavar="FILE", help="a .sif or .sqsh in place of the engine's own image")
    parser.add_argument("--device", action="store_true", help="with the node's GPUs")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Run the steps, or print them; tell each with its seconds."""
    image = chosen(arguments)
    engine, name = subject(arguments, image)
    if arguments.device and image.accelerator == "none":
        raise UserError(f"--device: {image.key} is for CPUs; leave it out, or choose a variant with CUDA or ROCm")
    if arguments.dry_run:
        folder = Path(tempfile.gettempdir()) / "stormbench-images-test"
        run.show(plan(engine, image, name, folder, device=arguments.device))
        return EXIT_DONE
    log = run.log_path(Path(arguments.folder), image.key, "test")
    run.note(f"{engine.name} runs {name}; log: {log}")
    told = []
    with work_folder() as folder:
        steps = plan(engine, image, name, folder, device=arguments.device)
        try:
            for step in steps[: -1 if engine.name == "enroot" else None]:
                begin = time.monotonic()
                run.run(step, log, quiet=True)
                told.append({"step": step.why, "seconds": round(time.monotonic() - begin, 1)})
                run.note(f"{step.why}: passed in {told[-1]['seconds']} s")
        finally:
            if engine.name == "enroot":
                run.answers(steps[-1].words)
        result = outcome(folder / "results" / TAG)
    if arguments.json:
        whole = {"image": image.name, "variant": image.variant, "engine": engine.name, "name": name, "steps": told, "run": result}
        print(json.dumps({**whole, "log": str(log)}, indent=2))
    else:
        print(f"{name}: fine under {engine.name}, {RANKS} ranks trained ({result['outcome']}); log: {log}")
    return EXIT_DONE


def subject(arguments: argparse.Namespace, image: Image) -> tuple[Engine, str]:
    """Return the engine and the image as it names it: a file's kind tells the engine.

    Raises:
        UserError: they don't fit together, or there is no such image.
    """
    if arguments.file is None:
        among = ("docker", "podman")
        if arguments.engine in ("apptainer", "enroot"):
            raise UserError(f"--engine {arguments.engine}: runs files; export the image and give it with --file")
        engine = engines.choose(arguments.engine, engines.RUN, dry_run=arguments.dry_run, among=among)
        name = engines.reference(engine, arguments.tag or image.tag)
        if not arguments.dry_run:
            engines.inspect(engine, name)
        return engine, name
    path = Path(arguments.file).expanduser()
    kinds = {".sif": "apptainer", ".sqsh": "enroot"}
    if path.suffix not in kinds:
        raise UserError(f"--file {arguments.file}: must be a .sif or .sqsh file")
    if arguments.engine not in (None, kinds[path.suffix]):
        raise UserError(f"--file {arguments.file}: is run by {kinds[path.suffix]}, --engine {arguments.engine} can't; leave --engine out")
    if not path.is_file() and not arguments.dry_run:
        raise UserError(f"--file {arguments.file}: no such file; write it with stormbench images export")
    return engines.choose(kinds[path.suffix], engines.RUN, dry_run=arguments.dry_run), str(path.absolute())


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Yield a folder with results/ and scratch/ that any user of a container may write."""
    with reported_os_errors(tempfile.gettempdir()):
        folder = Path(tempfile.mkdtemp(prefix="stormbench-images-test-"))
    try:
        for name in ("results", "scratch"):
            (folder / name).mkdir()
            # the image's user has a number of its own where this one is root
            (folder / name).chmod(0o777)
        # others must get to them, but see no names
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plan(engine: Engine, image: Image, name: str, folder: Path, *, device: bool) -> list[run.Step]:
    """Return the steps: health check, data, training; enroot unpacks the file first and removes it at last."""
    inside = prefix(engine, image, name, folder, device=device)
    steps = [run.Step(words=(*inside, *HEALTH, *(["--device"] if device else [])), why="health check")]
    steps += [run.Step(words=(*inside, *text.split()), why=why) for why, text in WORK[image.name]]
    if engine.name == "enroot":
        unpacked = container_name()
        steps.insert(0, run.Step(words=(engine.program, "create", "--name", unpacked, name), why=f"unpack {name}"))
        steps.append(run.Step(words=(engine.program, "remove", "--force", unpacked), why="remove what was unpacked"))
    return steps


WORK: dict[str, tuple[tuple[str, str], ...]] = {
    "deepcam": (
        ("make data", "stormbench deepcam synth /scratch/data --train 4 --validation 2 --height 32 --width 48"),
        (
            f"train with {RANKS} ranks",
            f"mpirun -np {RANKS} stormbench deepcam train --data_dir_prefix /scratch/data --output_dir /results --run_tag {TAG}"
            " --width 0.0625 --max_epochs 1 --local_batch_size 1",
        ),
    ),
    "cloudmask": (
        ("make data", "stormbench cloudmask synth /scratch/products --products 5 --height 64 --width 96"),
        ("convert it", "stormbench cloudmask convert-hdf /scratch/products /scratch/hdf"),
        (
            f"train with {RANKS} ranks",
            f"mpirun -np {RANKS} stormbench cloudmask train /scratch/hdf /results --run_tag {TAG} --epochs 1 --batch_size 2 --patch_size 32"
            " --clip_offset 4 --width 0.1 --split random",
        ),
    ),
}
"""What each workload does in its image, in order; the smallest that goes through data, model, all-reduce and log."""


def prefix(engine: Engine, image: Image, name: str, folder: Path, *, device: bool) -> list[str]:
    """Return the words that run a command in the image."""
    binds = {folder / "results": "/results", folder / "scratch": "/scratch"}
    if engine.name == "enroot":
        words = [engine.program, "start"]
        words += [word for source, target in binds.items() for word in ("--mount", f"{source}:{target}")]
        return [*words, *_variables("--env"), container_name()]
    if engine.name == "apptainer":
        words = [engine.program, "exec", "--containall", "--cleanenv", "--no-home", "--pwd", "/results"]
        words += [word for source, target in binds.items() for word in ("--bind", f"{source}:{target}")]
        words += ({"cuda": ["--nv"], "rocm": ["--rocm"]}[image.accelerator]) if device else []
        return [*words, *_variables("--env"), name]
    words = [engine.program, "run", "--rm", "--read-only", "--network", "none", "--tmpfs", "/tmp", "--workdir", "/results"]
    if os.geteuid() != 0:
        words += ["--user", f"{os.geteuid()}:{os.getegid()}", *(["--userns", "keep-id"] if engine.name == "podman" else [])]
    words += [word for source, target in binds.items() for word in ("--volume", f"{source}:{target}")]
    if device and image.accelerator == "cuda":
        words += ["--gpus", "all"] if engine.name == "docker" else ["--device", "nvidia.com/gpu=all"]
    elif device:
        words += ["--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "video"]
    return [*words, *_variables("--env"), name]


def _variables(option: str) -> list[str]:
    return [word for name, value in IN_CONTAINER.items() for word in (option, f"{name}={value}")]


def container_name() -> str:
    """Return enroot's name of what this process unpacks."""
    return f"stormbench-images-test-{os.getpid()}"


def outcome(folder: Path) -> dict[str, Any]:
    """Return how the training ended, from its run folder.

    Raises:
        RunError: it didn't end well, or not with the ranks that were asked for.
    """
    try:
        found = read_record(folder)
    except UserError as error:
        raise RunError(f"the training left no record of itself: {error}") from error
    if found.get("outcome") not in FINISHED:
        raise RunError(f"the training ended as {found.get('outcome')}, not as one of {', '.join(FINISHED)}")
    if found.get("world_size") != RANKS:
        raise RunError(f"the training ran on {found.get('world_size')} rank(s), not on {RANKS}: the image's mpirun doesn't start its MPI")
    return {name: found.get(name) for name in ("outcome", "world_size", "versions", "devices")}
