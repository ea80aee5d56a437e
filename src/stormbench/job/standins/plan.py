"""What a rehearsal allows its stand-ins: how many ranks, with which variables; and the state that stand-ins share through files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stormbench.core.errors import UserError
from stormbench.core.files import write_json, write_text

VARIABLE = "STORMBENCH_STANDIN"
INSIDE = "STORMBENCH_STANDIN_JOB"
"""Set in a job that a stand-in runs: a submission from there waits until the job has ended."""

_SLURM = ("{p}: error: ", 'Try "{p} --help" for more information', 255)
_SBATCH = ("sbatch: error: ", 'Try "sbatch --help" for more information', 1)
_LSF = ("{p}: ", "Job not submitted.", 255)
_PBS = ("{p}: ", "usage: {p} [OPTION ...] [script]", 2)
_FATAL = ("FATAL:   ", "", 255)
_PLAIN = ("{p}: ", "", 1)
_DOCKER = ("{p}: ", "See '{p} run --help'.", 125)
_OWN = {
    "srun": ("srun:srun", _SLURM), "sbatch": ("slurm:sbatch", _SBATCH), "scontrol": ("slurm:scontrol", _PLAIN),
    "squeue": ("slurm:squeue", _PLAIN),
    "scancel": ("slurm:scancel", _PLAIN), "bsub": ("lsf:bsub", _LSF), "jsrun": ("jsrun:jsrun", ("Error: ", "", 1)),
    "bjobs": ("lsf:bjobs", _PLAIN),
    "bkill": ("lsf:bkill", _PLAIN), "brequeue": ("lsf:brequeue", _PLAIN), "qsub": ("pbs:qsub", _PBS), "qstat": ("pbs:qstat", _PLAIN),
    "qdel": ("pbs:qdel", _PLAIN), "qrerun": ("pbs:qrerun", _PLAIN), "mpiexec": ("mpi:mpiexec", _PLAIN), "mpirun": ("mpi:mpirun", _PLAIN),
    "torchrun": ("mpi:torchrun", ("torchrun: error: ", "", 2)),
    "apptainer": ("containers:apptainer", _FATAL), "singularity": ("containers:apptainer", _FATAL),
    "shifter": ("containers:shifter", _PLAIN),
    "enroot": ("containers:enroot", ("[ERROR] ", "", 1)), "docker": ("docker:docker", _DOCKER),
    "podman-hpc": ("docker:podman_hpc", _DOCKER),
}  # fmt: skip
PROGRAMS = {name: (where, (prefix.format(p=name), hint.format(p=name), code)) for name, (where, (prefix, hint, code)) in _OWN.items()}
"""Where each stand-in is, and how the real program refuses: before the reason, after it, and the exit code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a rehearsal is scaled: at most `ranks` processes a launch, each with `environment` set last.

    `calls` is a file that gets one JSON line for each call; `workdir` stands for /workspace where the kit's checkout is not found.
    """

    ranks: int = 2
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    calls: str | None = None
    workdir: str | None = None

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise UserError(f"ranks {self.ranks}: a rehearsal needs at least one")


def install(folder: Path, programs: Iterable[str], plan: Plan) -> None:
    """Write a wrapper for each of `programs` into `folder`, with the plan beside them.

    Raises:
        UserError: there is no stand-in for one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    # what an earlier rehearsal left there, such as a job still waiting, is none of this one's
    shutil.rmtree(folder / "state", ignore_errors=True)
    write_json(folder / "plan.json", dataclasses.asdict(plan))
    for name in programs:
        if name not in PROGRAMS:
            raise UserError(f"{name}: there is no stand-in for it, only for {', '.join(sorted(PROGRAMS))}")
        command = f'exec {shlex.quote(sys.executable)} -m stormbench.job.standins {name} "$@"'
        write_text(folder / name, f"#!/bin/sh\n{VARIABLE}={shlex.quote(str(folder / 'plan.json'))}\nexport {VARIABLE}\n{command}\n")
        (folder / name).chmod(0o755)


@dataclasses.dataclass(kw_only=True)
class State:
    """One call of a stand-in: its plan, and the folder beside it in which stand-ins keep jobs, names and what they have said."""

    program: str
    arguments: list[str]
    plan: Plan
    folder: Path
    scaling: dict[str, int] | None = None

    @classmethod
    def open(cls, program: str, arguments: list[str], environ: Mapping[str, str]) -> State:
        """Return the state of a call; without a plan, one that keeps its files in the user's temporary folder."""
        path = environ.get(VARIABLE)
        if path is None:
            folder = Path(environ.get("TMPDIR", "/tmp")) / f"stormbench-standins-{os.getuid()}"
            plan = Plan()
        else:
            folder = Path(path).resolve().parent
            plan = Plan(**json.loads(Path(path).read_text(encoding="utf-8")))
        return cls(program=program, arguments=arguments, plan=plan, folder=folder)

    def kept(self, *parts: str) -> Path:
        """Return the path of a file that stand-ins share, in a folder that exists."""
        path = self.folder.joinpath("state", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, verdict: str) -> None:
        """Append this call to the plan's list of calls."""
        if self.plan.calls is None:
            return
        line = {"program": self.program, "argv": self.arguments, "verdict": verdict, "scaling": self.scaling}
        # one write to a file opened for appending: lines of ranks that call at once don't mix
        with contextlib.suppress(OSError), open(self.plan.calls, "ab", buffering=0) as stream:
            stream.write((json.dumps(line) + "\n").encode())

    def say_once(self, about: str, text: str) -> None:
        """Tell `text` on stderr unless `about` was told before in this job."""
        marker = self.kept("told", f"{os.environ.get(INSIDE, '0')}-{about}".replace("/", "_"))
        with contextlib.suppress(FileExistsError):
            marker.touch(exist_ok=False)
            print(f"rehearsal: {text}", file=sys.stderr, flush=True)

    def enroot(self, name: str, node: int | None = None) -> Path:
        """Return the path that stands for an enroot container on a node, by default the one of this task."""
        return self.kept("enroot", os.environ.get("SLURM_NODEID", "0") if node is None else str(node), name)

    def checkout(self) -> str:
        """Return what stands for /workspace: the checkout that this package belongs to, else the plan's working folder."""
        root = Path(__file__).resolve().parents[4]
        return str(root) if (root / "run_and_time.sh").exists() else self.plan.workdir or str(Path.cwd())

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return the jobs that stand-ins have taken, by id."""
        found = {}
        for path in sorted(self.kept("jobs", "x").parent.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def new_job(self, about: Mapping[str, Any]) -> str:
        """Take a job: return its id, 1001 or the next free one."""
        number = 1001
        while True:
            path = self.kept("jobs", f"{number}.json")
            with contextlib.suppress(FileExistsError):
                path.touch(exist_ok=False)
                self.set_job(str(number), about)
                return str(number)
            number += 1

    def set_job(self, job: str, about: Mapping[str, Any]) -> None:
        """Keep what is known of a job."""
        write_json(self.kept("jobs", f"{job}.json"), {**self.jobs().get(job, {}), **about})

    def mark(self, kind: str, job: str) -> Path:
        """Return the path whose existence asks the job's runner for `kind`: cancel or requeue."""
        return self.kept("marks", f"{kind}-{job}")
