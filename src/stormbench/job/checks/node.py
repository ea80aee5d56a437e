"""Checks of the node itself: shell, limits, cores, GPUs and their driver, binding, and the Python that the ranks start."""

from __future__ import annotations

import math
import re
from pathlib import Path

from stormbench.job.checks.machine import Machine, on_nodes_only, size
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning

LEAST_BASH = (4, 4)
LEAST_FILES = 1024
LEAST_LOCKED = 2**30
LEAST_DRIVER = (525, 60)
"""The oldest NVIDIA driver on which images with CUDA 12 run."""
FRAMEWORKS = {"deepcam": "torch", "cloudmask": "tensorflow"}


def bash(machine: Machine) -> Result:
    """Compare the version of bash with what the job scripts are written for."""
    told = machine.ask("bash", "--norc", "--noprofile", "-c", 'printf %s "$BASH_VERSION"')
    match = re.match(r"(\d+)\.(\d+)", told.out)
    if told.code != 0 or match is None:
        return problem(f"bash can't be started: {told.why}", "install bash 4.4 or later and put it on PATH")
    if (int(match[1]), int(match[2])) < LEAST_BASH:
        return problem(f"bash {told.out}, the job scripts need at least 4.4", "put a later bash first on PATH")
    return ok(f"bash {told.out}")


def locked_memory(machine: Machine) -> Result:
    """Compare the limit of locked memory with what InfiniBand, Slingshot and GPUDirect Storage pin."""
    if not machine.runs_the_job:
        return on_nodes_only()
    needing = ["InfiniBand"] if machine.names("sys/class/infiniband") else []
    if machine.names("sys/class/cxi") or any(name.startswith("hsn") for name in machine.names("sys/class/net")):
        needing.append("Slingshot")
    needing += ["GPUDirect Storage"] if machine.read("proc/driver/nvidia-fs/version") else []
    soft, hard = machine.limit("Max locked memory")
    value = "unlimited" if math.isinf(soft) else size(soft)
    if not needing:
        return not_applicable(f"{value}; neither InfiniBand nor Slingshot nor GPUDirect Storage is here")
    if math.isinf(soft):
        return ok(f"unlimited, as {' and '.join(needing)} needs it")
    if machine.job is not None and machine.job.config.runtime == "docker":
        return ok(f"{value}, but docker run gets --ulimit memlock=-1")
    raised = "run: ulimit -l unlimited" if math.isinf(hard) else "ask the administrator for memlock unlimited in /etc/security/limits.d"
    return (problem if soft < LEAST_LOCKED else warning)(
        f"{value}, {' and '.join(needing)} needs unlimited", f"{raised}, also for the scheduler's daemon"
    )


def open_files(machine: Machine) -> Result:
    """Compare the limit of open files with what data loaders and sockets of many ranks take."""
    if not machine.runs_the_job:
        return on_nodes_only()
    soft, hard = machine.limit("Max open files")
    if soft >= LEAST_FILES:
        return ok(f"{soft:.0f}" if math.isfinite(soft) else "unlimited")
    fix = (
        f"run: ulimit -n {hard if math.isfinite(hard) else 65536:.0f}"
        if hard >= LEAST_FILES
        else "ask the administrator for a higher nofile limit"
    )
    return warning(f"{soft:.0f}, at least {LEAST_FILES} needed", fix)


def cores(machine: Machine) -> Result:
    """Compare the node's cores with those that the config says it has."""
    if not machine.runs_the_job:
        return on_nodes_only()
    online = machine.read("sys/devices/system/cpu/online")
    if not online:
        return not_applicable("/sys doesn't tell the number of cores")
    parts = [item.split("-") for item in online.strip().split(",")]
    found = sum(int(part[-1]) - int(part[0]) + 1 for part in parts)
    expected = machine.job.config.cores_per_node if machine.job is not None else 0
    if expected > found:
        where = machine.job.where("STORMBENCH_CORES_PER_NODE") if machine.job is not None else ""
        return problem(
            f"{found} cores, STORMBENCH_CORES_PER_NODE={expected} ({where})",
            "correct STORMBENCH_CORES_PER_NODE in the system's file, or choose another node type",
        )
    return ok(f"{found} cores, {expected} expected" if expected else f"{found} cores")


def gpus(machine: Machine) -> Result:
    """Count the GPUs by their vendor's tool and compare with the config."""
    config = machine.job.config if machine.job is not None else None
    if config is not None and (config.gpu_vendor == "none" or config.gpus_per_node == 0):
        return not_applicable("the job uses no GPU")
    if not machine.runs_the_job:
        return on_nodes_only()
    vendors = [config.gpu_vendor] if config is not None else ["nvidia", "amd"]
    tools = [tool for vendor in vendors for tool in _TOOLS[vendor] if machine.which(tool)]
    if not tools:
        names = " or ".join(tool for vendor in vendors for tool in _TOOLS[vendor])
        if config is None:
            return not_applicable(f"no {names} on PATH")
        return problem(
            f"no {names} on PATH, {config.gpus_per_node} GPUs expected",
            "load the driver's module, or ask for a GPU node (see SBATCH_GPUS and the partition)",
        )
    told = machine.ask(tools[0], *_QUESTIONS[tools[0]])
    found = [line for line in told.out.splitlines() if re.match(_LINES[tools[0]], line)]
    if told.code != 0 or not found:
        return (warning if config is None else problem)(
            f"{tools[0]} shows no GPU: {told.why}", "load the GPU driver, or ask the scheduler for GPUs"
        )
    kind = f"{len(found)} GPUs by {tools[0]}: {found[0].strip()}"
    if machine.job is not None and len(found) < machine.job.config.gpus_per_node:
        return problem(
            f"{kind}; {machine.job.said('STORMBENCH_GPUS_PER_NODE')} ({machine.job.where('STORMBENCH_GPUS_PER_NODE')})",
            "ask the scheduler for all GPUs of the node, see CUDA_VISIBLE_DEVICES, or correct STORMBENCH_GPUS_PER_NODE",
        )
    return ok(kind)


_TOOLS = {"nvidia": ("nvidia-smi",), "amd": ("rocm-smi", "amd-smi")}
_QUESTIONS = {
    "nvidia-smi": ("--query-gpu=name,memory.total", "--format=csv,noheader"),
    "rocm-smi": ("--showproductname", "--csv"),
    "amd-smi": ("list",),
}
_LINES = {"nvidia-smi": r".+,.*MiB", "rocm-smi": r"card\d", "amd-smi": r"GPU: *\d"}


def gpu_driver(machine: Machine) -> Result:
    """Tell the GPU driver's version, and whether images with CUDA 12 run on it."""
    if not machine.runs_the_job:
        return on_nodes_only()
    nvidia = machine.read("proc/driver/nvidia/version")
    match = re.search(r"\s(\d+)\.(\d+)(\.\d+)*\s", nvidia or "")
    if match is not None:
        version = match[0].strip()
        if machine.runtimes and (int(match[1]), int(match[2])) < LEAST_DRIVER:
            return warning(
                f"NVIDIA {version}, images with CUDA 12 need at least 525.60.13",
                "ask for a later driver, or use an image with an older CUDA",
            )
        return ok(f"NVIDIA {version}")
    amd = (machine.read("sys/module/amdgpu/version") or "").strip()
    if amd:
        return ok(f"AMD {amd}")
    if machine.job is not None and machine.job.config.gpu_vendor != "none":
        return problem(
            f"no {machine.job.config.gpu_vendor} driver is loaded", "ask the administrator to load the GPU driver, or choose a GPU node"
        )
    return not_applicable("no GPU driver is loaded")


def numactl(machine: Machine) -> Result:
    """Look for numactl, which binds each rank to its cores and memory."""
    if machine.job is not None and machine.job.config.bind == "none":
        return not_applicable("STORMBENCH_BIND=none")
    if not machine.runs_the_job:
        return on_nodes_only()
    found = machine.which("numactl")
    if found is None:
        return warning(
            "numactl is not on PATH, so ranks are not bound to their memory",
            "install numactl, also in the image, or set STORMBENCH_BIND=none",
        )
    return ok(found)


def python_packages(machine: Machine) -> Result:
    """Look for the packages that the ranks import when they run outside a container; nothing is imported."""
    if machine.runtimes and machine.job is not None:
        return not_applicable("the image brings its own Python")
    benchmark = machine.job.benchmark if machine.job is not None else "deepcam"
    needed = ("mlperf_logging", FRAMEWORKS.get(benchmark, "torch"))
    venv = machine.job.config.venv if machine.job is not None else None
    if venv:
        path = machine.path(venv)
        if not (path / "bin" / "python").exists():
            verdict = problem if machine.is_meant else warning
            return verdict(
                f"STORMBENCH_VENV={venv} has no bin/python on this machine", "make the environment there, or correct STORMBENCH_VENV"
            )
        missing = [name for name in needed if not _in_venv(path, name)]
        place = str(path)
    else:
        missing = [name for name in needed if not machine.installed(name)]
        place = "this Python"
    if missing:
        verdict = problem if machine.job is not None and machine.is_meant else warning
        return verdict(f"{place} has no {' and no '.join(missing)}", f"install them with pip: pip install 'stormbench[{benchmark}]'")
    return ok(f"{place} has {' and '.join(needed)}")


def _in_venv(venv: Path, package: str) -> bool:
    return any(next(venv.glob(f"{library}/python3*/site-packages/{package}/__init__.py"), None) for library in ("lib", "lib64"))
