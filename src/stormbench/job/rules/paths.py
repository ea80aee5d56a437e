"""Folders and files that a config names: a missing one is an error on the machine that the config is meant for, a warning elsewhere."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stormbench.job import here
from stormbench.job.findings import Finding, error, warning

if TYPE_CHECKING:
    from stormbench.job.load import Job

IMAGE_FILES = (".sqsh", ".sif", ".simg")


def meant_for_this_machine(job: Job) -> bool:
    """Whether the config's paths must be here: it runs locally, or this host is one of those it names."""
    if job.config.scheduler == "local":
        return True
    return bool(job.config.hosts) and any(
        fnmatch.fnmatchcase(name, pattern.lower()) for name in here.names() for pattern in job.config.hosts
    )  # fmt: skip


def _paths(job: Job) -> Iterator[Finding]:
    tell = error if meant_for_this_machine(job) else warning
    # the workload itself may be unknown, where another of its values is wrong
    needs_data = getattr(job.workload, "data_format", job.values.get("DATA_FORMAT", "").strip()) != "dummy"
    data = job.values.get("DATADIR", "").strip()
    if not data and needs_data:
        yield warning(job.where("DATADIR"), "DATADIR is not set, so the job will ask for it at run time; export DATADIR=FOLDER")
    elif data and needs_data:
        yield from _missing(job, tell, "DATADIR", data, "folder", Path.is_dir)
    yield from _log_folder(job, tell)
    image = (job.config.container or "").strip()
    if job.config.runtime != "none" and is_file_path(image):
        yield from _missing(job, tell, "CONT", image, "image", Path.exists)
    venv = (job.config.venv or "").strip()
    if venv:
        yield from _missing(job, tell, "STORMBENCH_VENV", venv, "virtual environment", Path.is_dir)
    for mount in job.config.mounts:
        yield from _missing(job, tell, "STORMBENCH_MOUNTS", mount.split(":")[0], "mount's source", Path.exists)


def is_file_path(image: str) -> bool:
    """Whether an image is a file rather than a registry's name."""
    return "://" not in image and (image.startswith(("/", "./", "../")) or image.endswith(IMAGE_FILES))


def _missing(
    job: Job, tell: Callable[[str, str], Finding], name: str, path: str, what: str, test: Callable[[Path], bool]
) -> Iterator[Finding]:
    if not _holds(Path(path), test):
        yield tell(job.where(name), f"{name}={path}: no such {what} here; {_fix(name, tell is error)}")


def _fix(name: str, here: bool) -> str:
    return f"correct {name}, or make it" if here else "make sure that it exists where the job runs"


def _holds(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):
        # too long a name, or a folder that may not be looked into
        return False


def _log_folder(job: Job, tell: Callable[[str, str], Finding]) -> Iterator[Finding]:
    """LOGDIR is made by the job, so what counts is the folder above it that exists."""
    text = job.values.get("LOGDIR", "").strip()
    if not text:
        return
    path = Path(text)
    above = next((folder for folder in (path, *path.parents) if _holds(folder, Path.exists)), None)
    if above is None or not _holds(above, Path.is_dir) or not os.access(above, os.W_OK | os.X_OK):
        yield tell(
            job.where("LOGDIR"), f"LOGDIR={text}: {above or text} is no folder that can be written here; {_fix('LOGDIR', tell is error)}"
        )


RULES = (_paths,)
