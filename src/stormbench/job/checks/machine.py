"""The machine as the checks see it: environment, /proc and /sys, programs and mounts; a test gives a prepared one instead."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stormbench.job.checks.result import Result, not_applicable
from stormbench.job.load import Job

PROGRAM_LIMIT_S = 8.0
BATCH = ("slurm", "lsf", "pbs")
SUBMIT = {"slurm": "sbatch", "lsf": "bsub", "pbs": "qsub"}
RUNTIME_PROGRAMS = {
    "pyxis": ("enroot",),
    "apptainer": ("apptainer", "singularity"),
    "shifter": ("shifter",),
    "podman-hpc": ("podman-hpc",),
    "docker": ("docker",),
}
IN_A_JOB = ("SLURMD_NODENAME", "LSB_JOBID", "PBS_JOBID")
"""Set on the nodes of a job; SLURM_JOB_ID wouldn't do, as salloc also sets it on the login node."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a program said; `code` is None where it didn't end in time."""

    code: int | None
    out: str
    err: str

    @property
    def why(self) -> str:
        """The last line of what it said, else how it ended."""
        said = (self.err.strip() or self.out.strip()).splitlines()
        return said[-1].strip() if said else "no answer in time" if self.code is None else f"exit code {self.code}"


def space(path: Path) -> tuple[int, int]:
    """Return the bytes that are free for this user, and all bytes, of the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def installed(package: str) -> bool:
    """Whether this Python has the package, without importing it."""
    return importlib.util.find_spec(package) is not None


def execute(
    words: Sequence[str], environ: Mapping[str, str], limit_s: float, *, stop: int = signal.SIGTERM, cwd: Path | None = None
) -> Answer:
    """Run a program in its own process group, which `stop` and then SIGKILL end at the time limit or at Ctrl-C.

    Raises:
        OSError: it can't be started.
    """
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environ), start_new_session=True, cwd=cwd,
    )  # fmt: skip
    code: int | None = None
    try:
        out, err = process.communicate(timeout=limit_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        out, err = _end(process, stop)
    except BaseException:
        _end(process, stop)
        raise
    return Answer(code=code, out=out.decode("utf-8", errors="replace"), err=err.decode("utf-8", errors="replace"))


def _end(process: subprocess.Popen[bytes], stop: int) -> tuple[bytes, bytes]:
    """End the process and its children, which could hold the pipes open, and return what they said until then."""
    for number, grace_s in ((stop, 3.0), (signal.SIGKILL, 1.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=grace_s)
    return b"", b""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine and, where a config was given, the job that is meant to run on it or to be submitted from it."""

    environ: Mapping[str, str]
    job: Job | None = None
    root: Path = Path("/")
    cwd: Path = dataclasses.field(default_factory=Path.cwd)
    host: str = dataclasses.field(default_factory=socket.gethostname)
    architecture: str = dataclasses.field(default_factory=platform.machine)
    uid: int = dataclasses.field(default_factory=os.geteuid)
    space: Callable[[Path], tuple[int, int]] = space
    installed: Callable[[str], bool] = installed

    @property
    def home(self) -> Path:
        return Path(self.environ.get("HOME") or "/")

    @property
    def scheduler(self) -> str | None:
        """The job's scheduler, else the one whose program is here."""
        if self.job is not None:
            return self.job.config.scheduler
        return next((name for name, program in SUBMIT.items() if self.which(program)), None)

    @property
    def in_a_job(self) -> bool:
        return any(self.environ.get(name) for name in IN_A_JOB)

    @property
    def runs_the_job(self) -> bool:
        """Whether this machine's own hardware counts: it is the job's node, or no job was given."""
        return self.job is None or self.job.config.scheduler not in BATCH or self.in_a_job

    @property
    def is_meant(self) -> bool:
        """Whether the job's paths must exist here: on its nodes, on its system's login nodes, or where it can be submitted."""
        if self.runs_the_job or self.job is None:
            return True
        if self.job.config.hosts:
            return any(fnmatch.fnmatch(self.host, pattern) for pattern in self.job.config.hosts)
        return self.which(SUBMIT[self.job.config.scheduler]) is not None

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The job's container runtime, or all that are here."""
        if self.job is not None:
            return () if self.job.config.runtime == "none" else (self.job.config.runtime,)
        return tuple(name for name, programs in RUNTIME_PROGRAMS.items() if any(map(self.which, programs)))

    def value(self, name: str) -> str:
        """Return a variable as the job has it, else as the environment has it, else an empty string."""
        given = self.job.values.get(name, "") if self.job is not None else ""
        return (given or self.environ.get(name, "")).strip()

    def path(self, name: str) -> Path:
        """Return the absolute path of a value such as LOGDIR's."""
        return self.cwd / Path(name).expanduser()

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=self.environ.get("PATH", "/usr/bin:/bin"))

    def ask(self, *words: str, limit_s: float = PROGRAM_LIMIT_S) -> Answer:
        """Run a program that is on PATH; one that is absent or can't start answers with code 127."""
        program = self.which(words[0])
        if program is None:
            return Answer(code=127, out="", err=f"{words[0]}: not found")
        try:
            return execute([program, *words[1:]], self.environ, limit_s)
        except OSError as error:
            return Answer(code=127, out="", err=f"{words[0]}: {(error.strerror or str(error)).lower()}")

    def read(self, path: str) -> str | None:
        """Return the text of a file below the root, such as `proc/mounts`, or None where it can't be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder below the root; none where there is no such folder."""
        try:
            return sorted(item.name for item in (self.root / folder).iterdir())
        except OSError:
            return []

    def file_system(self, path: Path) -> str:
        """Return the type of the file system that holds `path`, such as `nfs4`, or an empty string."""
        target = Path(os.path.realpath(path))
        found, depth = "", -1
        for line in (self.read("proc/mounts") or "").splitlines():
            words = line.split(" ")
            if len(words) < 3:
                continue
            # the kernel writes blanks and backslashes of a mount point as octal numbers
            point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1]))
            # of equal points the last is mounted over the others
            if (target == point or point in target.parents) and len(point.parts) >= depth:
                found, depth = words[2], len(point.parts)
        return found

    def limit(self, name: str) -> tuple[float, float]:
        """Return the soft and the hard value of a line of /proc/self/limits, infinity for unlimited."""
        for line in (self.read("proc/self/limits") or "").splitlines():
            if line.startswith(name):
                soft, hard = line[len(name) :].split()[:2]
                return float(soft.replace("unlimited", "inf")), float(hard.replace("unlimited", "inf"))
        raise ValueError(f"/proc/self/limits has no line {name}")


def existing(path: Path) -> Path:
    """Return `path` or the nearest folder above it that exists."""
    return next((item for item in (path, *path.parents) if item.exists()), Path("/"))


def size(n_bytes: float) -> str:
    """Return bytes in GB, and small ones in MB."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def on_nodes_only() -> Result:
    """Return the finding of a check whose subject, the job's node, is not this machine."""
    return not_applicable("this machine isn't a node of the job; --job looks on one")
