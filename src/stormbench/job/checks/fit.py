"""Whether a container image and a node fit, by what the image's image.json or labels say: GPU and its driver, C library, kind of MPI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stormbench.core.imagerecord import LABEL, NAME
from stormbench.job.checks import images
from stormbench.job.checks.machine import Machine, on_nodes_only
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning

FACTS = ("image", "variant", "architecture", "glibc", "cuda", "rocm", "driver", "mpi")
OF_MPI = {"openmpi": "Open MPI", "hpcx": "HPC-X's Open MPI", "mpich": "MPICH"}
PMIX, PMI = ("openmpi", "hpcx"), ("mpich",)
"""Which kinds of MPI start over PMIx, and which over PMI 1 or 2."""


def facts(machine: Machine) -> tuple[dict[str, str], str]:
    """Return what is known of the image in CONT and where from; nothing and why where nothing is."""
    name = machine.value("CONT")
    if machine.job is not None and not machine.runtimes:
        return {}, "the job runs without a container"
    if not name:
        return {}, "CONT is not set"
    if not images.is_file(name):
        return _of_store(machine, name)
    path = machine.path(name)
    try:
        record = json.loads((path.parent / NAME).read_text(encoding="utf-8"))["images"].get(path.name)
        if isinstance(record, dict):
            return _known(record), f"{path.parent / NAME}"
        why = f"{path.parent / NAME} has no record of {path.name}"
    except FileNotFoundError:
        why = f"no {NAME} is beside {name}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{path.parent / NAME} can't be read ({type(error).__name__})"
    labels = _sif_labels(machine, path) if path.suffix == ".sif" else {}
    return (labels, f"the labels of {name}") if labels else ({}, why)


def accelerator(machine: Machine) -> Result:
    """Compare the image's CUDA or ROCm with the job's GPUs, and the driver that it needs with the node's."""
    known, whence = facts(machine)
    if not known:
        return not_applicable(f"what the image needs is unknown: {whence}")
    kind = "nvidia" if known.get("cuda") else "amd" if known.get("rocm") else "none"
    what = f"CUDA {known['cuda']}" if kind == "nvidia" else f"ROCm {known['rocm']}" if kind == "amd" else "no GPU"
    job = machine.job
    if job is not None and job.config.gpu_vendor != kind:
        vendor = job.config.gpu_vendor
        if vendor == "none":
            return problem(f"CONT is for {what} by {whence}, the job uses no GPU", "use the variant cpu, or a config of a GPU system")
        wanted = {"nvidia": "cuda", "amd": "rocm"}[vendor]
        return problem(
            f"CONT is for {what} by {whence}, the job's GPUs are {vendor}'s ({job.where('STORMBENCH_GPU_VENDOR')})",
            f"build the image's variant {wanted}: stormbench images build {known.get('image', 'IMAGE')} --variant {wanted}",
        )
    if kind == "none":
        return ok("CONT needs no GPU")
    if not machine.runs_the_job:
        return on_nodes_only()
    driver = _driver(machine, kind)
    least = known.get("driver", "")
    if driver is None:
        return problem(
            f"CONT is for {what} by {whence}, no {kind} driver is loaded here", "choose a node with such GPUs, or the variant cpu"
        )
    if least and _numbers(driver) < _numbers(least):
        return problem(
            f"CONT is for {what}, which needs driver {least} or later by {whence}; the node has {driver}",
            f"ask for a later driver, or use an image with an older {what.partition(' ')[0]}",
        )
    return ok(f"{what}, driver {driver}{f', at least {least} needed' if least else ''}")


def c_library(machine: Machine) -> Result:
    """Compare the C libraries: what the runtime mounts from the node needs one in the image that is as new."""
    known, whence = facts(machine)
    if not known.get("glibc"):
        return not_applicable(f"the image's C library is unknown: {whence}")
    inside = known["glibc"]
    brought = _from_the_node(machine, known)
    if not brought:
        return ok(f"glibc {inside}; nothing of the node's is mounted that needs it")
    if not machine.runs_the_job:
        return on_nodes_only()
    told = machine.ask("getconf", "GNU_LIBC_VERSION")
    match = re.match(r"glibc (\d+(?:\.\d+)+)", told.out)
    if told.code != 0 or match is None:
        return not_applicable(f"the node's C library is unknown: {told.why}")
    if _numbers(match[1]) > _numbers(inside):
        return warning(
            f"CONT has glibc {inside} by {whence}, the node {match[1]}: {brought} of the node may not load in it",
            "see whether the image starts with --job; if a library misses GLIBC_2.x, build on a later base image",
        )
    return ok(f"glibc {inside} in the image, {match[1]} on the node")


def mpi(machine: Machine) -> Result:
    """Compare the image's kind of MPI with what starts the ranks: PMIx or PMI, and a Cray's library with MPICH's interface."""
    known, whence = facts(machine)
    job = machine.job
    kind = known.get("mpi", "")
    if kind not in OF_MPI:
        return not_applicable(f"the image's MPI is unknown: {whence}")
    if job is None:
        return ok(f"{OF_MPI[kind]}; whether it starts here depends on the job")
    config = job.config
    # DeepCAM's ranks find each other without MPI; Horovod's don't
    verdict = problem if job.benchmark == "cloudmask" else warning
    image, variant = known.get("image", "IMAGE"), "mpich" if kind in PMIX else "cpu"
    remedy = f"build the variant with the other MPI, such as: stormbench images build {image} --variant {variant}"
    cray = [name for name in (*config.modules, *config.mounts) if "mpich-abi" in name or name.startswith("/opt/cray")]
    if cray:
        if kind not in PMI:
            return verdict(f"CONT has {OF_MPI[kind]} by {whence}, {cray[0]} puts a Cray's MPI in the place of MPICH alone", remedy)
        return ok(f"MPICH, which {cray[0]} replaces")
    if config.scheduler == "slurm" and config.launcher in ("auto", "srun"):
        wanted = PMIX if (config.mpi or "").startswith("pmix") else PMI if config.mpi else None
        if wanted is None:
            return ok(f"{OF_MPI[kind]}; srun starts ranks by the site's default, as STORMBENCH_MPI is not set")
        if kind not in wanted:
            needed = "pmix" if kind in PMIX else "pmi2"
            return verdict(
                f"CONT has {OF_MPI[kind]} by {whence}, STORMBENCH_MPI={config.mpi} ({job.where('STORMBENCH_MPI')}) starts others",
                f"set STORMBENCH_MPI={needed} where srun --mpi=list has it, or {remedy}",
            )
        return ok(f"{OF_MPI[kind]}, started over {config.mpi}")
    if config.scheduler == "lsf" and kind not in PMIX:
        return verdict(f"CONT has {OF_MPI[kind]} by {whence}, jsrun starts ranks over PMIx", remedy)
    return ok(OF_MPI[kind])


def _known(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(record[name]).strip() for name in FACTS if record.get(name)}


def _of_store(machine: Machine, name: str) -> tuple[dict[str, str], str]:
    """Return the labels of an image in docker's store."""
    if "docker" not in machine.runtimes:
        return {}, f"{name} is in a registry, which is not asked"
    told = machine.ask("docker", "image", "inspect", "--format", "{{json .Config.Labels}}", name)
    if told.code != 0:
        return {}, f"docker doesn't have {name} yet ({told.why})"
    found = _of_labels(told.out)
    return (found, f"the labels of {name}") if found else ({}, f"{name} has none of the labels that stormbench images build gives")


def _sif_labels(machine: Machine, path: Path) -> dict[str, str]:
    for program in ("apptainer", "singularity"):
        if machine.which(program):
            told = machine.ask(program, "inspect", "--json", "--labels", str(path))
            try:
                labels = json.loads(told.out)["data"]["attributes"]["labels"] if told.code == 0 else {}
            except (ValueError, LookupError, TypeError):
                labels = {}
            return _of_labels(json.dumps(labels))
    return {}


def _of_labels(text: str) -> dict[str, str]:
    try:
        labels = json.loads(text) or {}
        return _known({key.removeprefix(LABEL): value for key, value in labels.items() if key.startswith(LABEL)})
    except (ValueError, AttributeError):
        return {}


def _driver(machine: Machine, kind: str) -> str | None:
    """Return the version of the node's GPU driver, as the kernel tells it."""
    if kind == "amd":
        text = (machine.read("sys/module/amdgpu/version") or "").strip()
        # the driver of the kernel itself tells no version, and works
        return text or ("unversioned" if machine.names("sys/module/amdgpu") else None)
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)*)\s", machine.read("proc/driver/nvidia/version") or "")
    return match[1] if match else None


def _from_the_node(machine: Machine, known: Mapping[str, str]) -> str:
    """Return what of the node's libraries the job's container gets, in words."""
    job = machine.job
    if job is not None and any("mpich-abi" in module for module in job.config.modules):
        return "the MPI"
    if job is not None and any(mount.startswith(("/opt/cray", "/usr/lib")) for mount in job.config.mounts):
        return "the libraries in STORMBENCH_MOUNTS"
    if known.get("cuda") or known.get("rocm"):
        return "the GPU driver's libraries"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers; one without any is later than all."""
    found = tuple(int(part) for part in re.findall(r"\d+", version))
    return found or (10**6,)
