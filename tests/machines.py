"""Machines, jobs and image headers made for the tests of the doctor."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stormbench.core.options import options_of
from stormbench.job.checks.machine import Machine
from stormbench.job.config import JobConfig
from stormbench.job.load import Job

GB = 10**9
Make = Callable[..., Machine]


def make_job(path: str = "config_x_1x1x1.sh", findings: tuple[Any, ...] = (), **variables: str) -> Job:
    """A job as `load` would make it of these variables, without a shell or the rules."""
    typed = {spec.name: spec.parse(variables[spec.variable], spec.variable) for spec in options_of(JobConfig) if spec.variable in variables}
    origin = {name: f"{path}:{number}" for number, name in enumerate(variables, start=3)}
    return Job(
        path=path, config=JobConfig(**typed), workload=None, layout=None, values=variables, own=frozenset(variables), origin=origin,
        own_benchmark="deepcam", findings=findings,
    )  # fmt: skip


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def program(folder: Path, name: str, script: str) -> Path:
    """A program on the machine's PATH, which has nothing else."""
    path = put(folder / name, f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def prepare(tmp_path: Path) -> Make:
    """Return a maker of machines with their own root, home, working folder and PATH; everything roomy and local."""
    root = tmp_path / "root"
    put(root / "proc/mounts", "/dev/sda / ext4 rw 0 0\n")
    put(
        root / "proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax open files  4096  65536  files\nMax locked memory  65536  unlimited  bytes\n",
    )
    for name in ("home", "work", "bin"):
        (tmp_path / name).mkdir()

    def build(job: Job | None = None, environ: dict[str, str] | None = None, free: float = 500 * GB, **extra: Any) -> Machine:
        own = {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin"), **(environ or {})}
        given = {"host": "node1", "uid": 1000, "architecture": "x86_64", "space": lambda path: (int(free), int(free)), **extra}
        return Machine(environ=own, job=job, root=root, cwd=tmp_path / "work", **given)

    return build


def sif(architecture: bytes) -> bytes:
    """A SIF header: launch line of 32 bytes, magic of 10, version and architecture of 3, all ending in NUL, then ids and times."""
    return b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + architecture + b"\0" + bytes(range(16)) + bytes(64)


def elf(machine: int, little: bool = True) -> bytes:
    return b"\x7fELF\x02" + (b"\1" if little else b"\2") + bytes(10) + struct.pack("<HH" if little else ">HH", 3, machine) + bytes(44)
