"""Checks of folders: space for the runtime's images, temporary files off the network, shared memory, and the job's own folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stormbench.job.checks import images
from stormbench.job.checks.machine import Machine, existing, on_nodes_only, size
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning

NETWORK = frozenset({
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "smbfs", "ceph", "fuse.ceph", "fuse.sshfs", "glusterfs", "fuse.glusterfs",
    "panfs", "pvfs2", "orangefs", "afs", "9p", "wekafs", "dvs", "fuse.s3fs", "fuse.dfuse", "fhgfs", "ncpfs",
})  # fmt: skip
LEAST_BYTES = 10**9
UNPACKED_BYTES = 15 * 10**9
"""What the image of a GPU framework takes when it is pulled and unpacked."""
LOG_BYTES = 10 * 10**9
SHARED_BYTES = 10**9


def runtime_folders(machine: Machine) -> dict[str, Path]:
    """Return the runtime's temporary and cache folders by the variables that they came from, defaults of the runtime included."""
    home, temporary = machine.home, machine.environ.get("TMPDIR") or "/tmp"
    cache = machine.environ.get("XDG_CACHE_HOME") or str(home / ".cache")
    data = machine.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    runtime = machine.environ.get("XDG_RUNTIME_DIR") or temporary
    found: dict[str, Path] = {}

    def add(names: tuple[str, ...], default: str) -> None:
        name = next((name for name in names if machine.value(name)), names[0])
        found[name] = machine.path(machine.value(name) or default)

    if "apptainer" in machine.runtimes:
        add(("APPTAINER_TMPDIR", "SINGULARITY_TMPDIR"), temporary)
        add(("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"), str(home / ".apptainer" / "cache"))
    if "pyxis" in machine.runtimes:
        add(("ENROOT_TEMP_PATH",), temporary)
        add(("ENROOT_CACHE_PATH",), f"{cache}/enroot")
        add(("ENROOT_DATA_PATH",), f"{data}/enroot")
        add(("ENROOT_RUNTIME_PATH",), f"{runtime}/enroot")
    if "docker" in machine.runtimes and machine.which("docker"):
        told = machine.ask("docker", "info", "--format", "{{.DockerRootDir}}")
        if told.code == 0 and Path(told.out.strip()).is_dir():
            found["docker's root folder"] = Path(told.out.strip())
    found["TMPDIR"] = machine.path(temporary)
    return found


def _scratch(machine: Machine) -> Path | None:
    """Return the job's scratch folder where this machine is the one that has it."""
    return machine.path(machine.job.config.scratch) if machine.job is not None and machine.runs_the_job else None


def _needed(machine: Machine) -> int:
    """Return the bytes that the job's image takes in the runtime's folders."""
    name = machine.value("CONT")
    path = machine.path(name) if name and images.is_file(name) else None
    if path is None or not path.is_file():
        return UNPACKED_BYTES if machine.runtimes else LEAST_BYTES
    # a .sif is mounted where it lies; a .sqsh is unpacked, to about three times its size
    return LEAST_BYTES if path.suffix == ".sif" else max(LEAST_BYTES, 3 * path.stat().st_size)


def runtime_space(machine: Machine) -> Result:
    """Compare the free space of the runtime's folders with what an image needs there."""
    needed = _needed(machine)
    folders = runtime_folders(machine)
    scratch = _scratch(machine)
    if scratch is not None:
        folders["STORMBENCH_SCRATCH"] = scratch
    free = {name: (machine.space(existing(path))[0], path) for name, path in folders.items()}
    # what enroot keeps in its runtime folder is small, and only an image that is fetched lies in the job's scratch folder
    most = {"ENROOT_RUNTIME_PATH": LEAST_BYTES // 100, "STORMBENCH_SCRATCH": needed if "://" in machine.value("CONT") else LEAST_BYTES}
    for least, verdict in ((LEAST_BYTES, problem), (needed, warning)):
        for name, (n_bytes, path) in free.items():
            enough = min(needed, most.get(name, needed))
            if n_bytes < min(least, enough):
                setting = "data-root in /etc/docker/daemon.json" if name.startswith("docker") else name
                return verdict(
                    f"{name} {path}: {size(n_bytes)} free, {size(enough)} needed",
                    f"free some space there, or set {setting} to a roomier local folder",
                )
    return ok(", ".join(f"{name} {path}: {size(n_bytes)} free" for name, (n_bytes, path) in free.items()))


def scratch_folder(machine: Machine) -> Result:
    """Tell whether the job can make its scratch folder on this node."""
    if machine.job is None:
        return not_applicable("needs a config")
    path = _scratch(machine)
    if path is None:
        return on_nodes_only()
    nearest = existing(path)
    try:
        # permissions don't tell all of a read-only or special file system
        Path(tempfile.mkdtemp(prefix=".stormbench-doctor-", dir=nearest)).rmdir()
    except OSError as error:
        why = "is a file, not a folder" if not nearest.is_dir() else f"takes no new folder ({(error.strerror or str(error)).lower()})"
        return problem(
            f"STORMBENCH_SCRATCH={machine.job.config.scratch} ({machine.job.where('STORMBENCH_SCRATCH')}): {nearest} {why}",
            "set STORMBENCH_SCRATCH to a folder on the node that you may write to, such as /tmp",
        )
    return ok(f"STORMBENCH_SCRATCH={path}: writable" if nearest == path else f"STORMBENCH_SCRATCH={path}: can be made in {nearest}")


def temporary_on_network(machine: Machine) -> Result:
    """Find temporary and container folders on network file systems, on which runtimes unpack slowly or fail."""
    local = {name: path for name, path in runtime_folders(machine).items() if "CACHE" not in name}
    scratch = _scratch(machine)
    if scratch is not None:
        local["STORMBENCH_SCRATCH"] = scratch
    types = {name: (machine.file_system(existing(path)), path) for name, path in local.items()}
    for name, (kind, path) in types.items():
        if kind in NETWORK:
            return warning(
                f"{name} {path} is on {kind}, a network file system",
                f"set {name} to a folder on the node's own disk or memory, such as /tmp",
            )
    return ok(", ".join(f"{name} {path} is on {kind or 'an unknown file system'}" for name, (kind, path) in types.items()))


def shared_memory(machine: Machine) -> Result:
    """Compare /dev/shm, through which the data loaders' processes and NCCL pass their arrays, with 1 GB."""
    if not machine.runs_the_job:
        return on_nodes_only()
    path = machine.root / "dev/shm"
    if not path.is_dir():
        return problem("/dev/shm doesn't exist", "mount a tmpfs there: mount -t tmpfs tmpfs /dev/shm")
    total = machine.space(path)[1]
    if total < SHARED_BYTES:
        return warning(
            f"/dev/shm has {size(total)}, at least {size(SHARED_BYTES)} needed",
            "enlarge it: mount -o remount,size=8G /dev/shm, or docker run --ipc=host",
        )
    return ok(f"/dev/shm has {size(total)}")


def page_cache(machine: Machine) -> Result:
    """Tell whether a job may drop the file caches, as CLEAR_CACHES asks."""
    wanted = machine.job is not None and machine.job.config.clear_caches
    if not machine.runs_the_job:
        return on_nodes_only()
    target = machine.root / "proc/sys/vm/drop_caches"
    if os.access(target, os.W_OK):
        return ok("/proc/sys/vm/drop_caches is writable")
    if not wanted:
        return not_applicable("/proc/sys/vm/drop_caches is not writable; CLEAR_CACHES is not set")
    # sudo reports users without the right to the administrator, so it is asked only where the job would do so itself
    if machine.ask("sudo", "-n", "-l", "/sbin/sysctl", "-q", "vm.drop_caches=3").code == 0:
        return ok("sudo sets vm.drop_caches without a password")
    return warning(
        "CLEAR_CACHES=1, but /proc/sys/vm/drop_caches isn't writable and sudo refuses, so the log will say that the caches were kept",
        "ask the site for a prolog that drops the caches, or set CLEAR_CACHES=0",
    )


def log_folder(machine: Machine) -> Result:
    """Tell whether run folders can be made in LOGDIR, and how much room they have."""
    text = machine.value("LOGDIR")
    if not text and machine.job is None:
        return not_applicable("LOGDIR is not set")
    path = machine.path(text or "results")
    nearest = existing(path)
    verdict = problem if machine.is_meant else warning
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "is a file, not a folder" if not nearest.is_dir() else "can't be written"
        return verdict(
            f"LOGDIR={text or 'results (the default)'}: {nearest} {why}",
            "set LOGDIR to a folder that you may write to, visible on all nodes",
        )
    free = machine.space(nearest)[0]
    if free < LOG_BYTES:
        level = problem if free < LEAST_BYTES else warning
        return level(
            f"LOGDIR={path}: {size(free)} free, {size(LOG_BYTES)} needed for logs and checkpoints",
            "free some space there, or set LOGDIR to a roomier folder",
        )
    return ok(f"LOGDIR={path}: writable, {size(free)} free")


def data_folder(machine: Machine) -> Result:
    """Tell whether DATADIR holds a complete data set of the job's benchmark."""
    text = machine.value("DATADIR")
    if machine.value("DATA_FORMAT") == "dummy":
        return not_applicable("DATA_FORMAT=dummy needs no data")
    verdict = problem if machine.is_meant else warning
    if not text:
        if machine.job is None:
            return not_applicable("DATADIR is not set")
        return verdict("DATADIR is not set", "set DATADIR in configs/data.sh or the environment to the folder with the data")
    path = machine.path(text)
    if not path.is_dir():
        return verdict(
            f"DATADIR={text}: no such folder on this machine", "make the data there, or set DATADIR to the folder that holds them"
        )
    benchmark = machine.job.benchmark if machine.job is not None else machine.value("STORMBENCH_BENCHMARK") or "deepcam"
    missing = _missing_of_deepcam(path) if benchmark == "deepcam" else _missing_of_cloudmask(path)
    if missing:
        return verdict(
            f"DATADIR={text}: {', '.join(missing)} missing", f"make them with stormbench {benchmark}, or set DATADIR to a complete data set"
        )
    return ok(f"DATADIR={path}: complete, on {machine.file_system(path) or 'an unknown file system'}")


def _missing_of_deepcam(path: Path) -> list[str]:
    folders = [f"{name}/ with samples" for name in ("train", "validation") if not _holds_files(path / name)]
    return folders + ([] if (path / "stats.h5").is_file() else ["stats.h5"])


def _missing_of_cloudmask(path: Path) -> list[str]:
    found = any(next(path.glob(pattern), None) for pattern in ("*.hdf", "*/*.hdf", "*/*/*.hdf"))
    return [] if found else ["converted products (.hdf)"]


def _holds_files(folder: Path) -> bool:
    # a folder of a data set has 100,000 files, of which one is enough
    return folder.is_dir() and next(os.scandir(folder), None) is not None
