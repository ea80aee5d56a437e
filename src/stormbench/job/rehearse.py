"""`stormbench rehearse`: the very script that would be submitted runs on this machine, on generated data, scaled down where ranks start.

Stand-ins for the scheduler, the launcher and the container runtime come first in the search path. They refuse what the real
programs refuse, so a job that passes here has no mistake left that needs no cluster to be found.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stormbench.core.errors import EXIT_DONE, EXIT_STOPPED, RunError, UserError
from stormbench.core.files import atomic_path, writable_folder
from stormbench.core.workloads import WORKLOADS
from stormbench.job.checks import images
from stormbench.job.foreground import run_to_its_end
from stormbench.job.load import Job, load
from stormbench.job.render import add_overrides, checked, overrides_of, render
from stormbench.job.scaling import SCALINGS, Scaling
from stormbench.job.standins.plan import PROGRAMS, Plan, install

SUBMIT = {"slurm": ["sbatch"], "lsf": ["bsub"], "pbs": ["qsub"], "local": ["bash"], "docker": ["bash"]}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="shell config of the run")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks that really start, at most (default 2)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where data, script and results go (default rehearsal-<config>)")
    add_overrides(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Render, submit to the stand-ins, and tell what was scaled and what came of it.

    Raises:
        UserError: the config has errors, or a number does not fit.
        RunError: the job failed.
    """
    if not 1 <= arguments.ranks <= 64:
        raise UserError(f"--ranks {arguments.ranks}: must be 1 to 64 processes on this one machine")
    stem = arguments.config.name.removesuffix(".sh").removeprefix("config_")
    folder = writable_folder(arguments.folder or Path(f"rehearsal-{stem}"), "--folder").resolve()
    with _alone(folder):
        return _rehearse(arguments, folder)


def _rehearse(arguments: argparse.Namespace, folder: Path) -> int:
    (folder / "data").mkdir(exist_ok=True)
    above = overrides_of(arguments)
    job = checked(load(arguments.config, os.environ, {**above, **_paths(folder, load(arguments.config, os.environ, above))}))
    workload, scaling = WORKLOADS[job.benchmark], SCALINGS[job.benchmark]
    if not workload.installed():
        raise UserError(f"{job.path}: there is nothing to rehearse, as this version has no job side for {workload.title}")
    scaling.make(folder / "data")
    (folder / "calls.jsonl").unlink(missing_ok=True)
    plan = Plan(ranks=arguments.ranks, environment=dict(scaling.values), calls=str(folder / "calls.jsonl"), workdir=str(folder))
    install(folder / "bin", PROGRAMS, plan)
    script = folder / "job.sh"
    with atomic_path(script) as path:
        path.write_text(render(job), encoding="utf-8")
        path.chmod(0o755)
    _tell_scaling(job, scaling, arguments.ranks, folder)
    code, ended_by = _submit(job, script, folder)
    return _conclude(job, folder, code, ended_by)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two rehearsals in one folder would take each other's jobs, calls and data for their own."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another rehearsal is at work there; wait for its end, or choose --folder DIR") from None
        except OSError:
            # a file system without locks refuses nothing
            pass
        yield


def _image(folder: Path, job: Job) -> str:
    """Return the image: a name that the runtime would fetch stays as it is, and an empty file stands for an image's file."""
    runtime, given = job.config.runtime, (job.config.container or "").strip()
    fetched = "://" in given if runtime == "apptainer" else given and not images.is_file(given)
    if runtime == "none" or fetched:
        return given if fetched else ""
    if runtime in ("docker", "podman-hpc", "shifter"):
        return "stormbench/rehearsal:latest"
    image = folder / ("image.sqsh" if runtime == "pyxis" else "image.sif")
    image.touch()
    return str(image)


def _paths(folder: Path, job: Job) -> dict[str, str]:
    """Return the only values in which the script differs from the one to be submitted: its folders, its image, its scratch."""
    # a name of its own lets one folder take several rehearsals
    tag = time.strftime("rehearsal-%Y%m%d-%H%M%S", time.gmtime())
    return {
        "DATADIR": str(folder / "data"), "LOGDIR": str(folder / "results"), "CONT": _image(folder, job),
        "STORMBENCH_SCRATCH": str(folder / "scratch"),
        "RUN_TAG": tag, "STORMBENCH_MOUNTS": "", "STORMBENCH_MODULES": "", "STORMBENCH_VENV": "", "STORMBENCH_ENTRY": "",
        "STORMBENCH_HOSTS": "",
    }  # fmt: skip


def _tell_scaling(job: Job, scaling: Scaling, ranks: int, folder: Path) -> None:
    layout = job.layout
    assert layout is not None
    print(f"rehearsal of {job.path} in {folder}")
    print(f"  the script asks for {layout.ranks} rank(s) on {layout.nodes} node(s); at most {ranks} start here, on this machine")
    parts = "folders, image and scratch" if job.values.get("CONT", "").startswith(str(folder)) else "folders and scratch"
    print(f"  its {parts} lie in {folder}; everything else in {folder / 'job.sh'} is as it would be submitted")
    changed = ", ".join(f"{name}={value}" for name, value in scaling.values.items())
    print(f"  each rank has instead of the config's values: {changed}")
    print(f"  data: {scaling.data}; nothing here says anything about speed or accuracy", flush=True)


def _submit(job: Job, script: Path, folder: Path) -> tuple[int, int | None]:
    """Give the script to its scheduler's stand-in, which runs it in the foreground; return its exit code and the signal that ended it."""
    # a rehearsal may itself run inside a job
    foreign = ("SLURM_", "SBATCH_", "PMI", "OMPI_", "LSB_", "PBS_", "PALS_", "JSM_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    python = Path(sys.executable).parent
    environ |= {
        "PATH": os.pathsep.join([str(folder / "bin"), str(python), environ.get("PATH", os.defpath)]),
        # what a user has in the shell or on the command line, as no script names an account
        "LSB_DEFAULTPROJECT": environ.get("LSB_DEFAULTPROJECT", "rehearsal"),
        "STORMBENCH_HOME": str(Path(__file__).resolve().parents[3]),
        **{name: job.values[name] for name in job.values if name.startswith("SBATCH_") and name != "SBATCH_ACCOUNT"},
    }
    words = SUBMIT[job.config.scheduler]
    print(f"  {' '.join(words)} {'< ' if words == ['bsub'] else ''}{script.name}", flush=True)
    if words == ["bsub"]:
        with script.open() as stream:
            return run_to_its_end(words, stdin=stream, cwd=folder, environ=environ)
    return run_to_its_end([*words, str(script)], stdin=None, cwd=folder, environ=environ)


def _conclude(job: Job, folder: Path, code: int, ended_by: int | None) -> int:
    """Tell which programs were called, and how the job ended."""
    counts: dict[str, int] = {}
    refused = []
    calls = folder / "calls.jsonl"
    for line in calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []:
        call = json.loads(line)
        counts[call["program"]] = counts.get(call["program"], 0) + 1
        if str(call["verdict"]).startswith("rejected"):
            refused.append(f"{call['program']}: {call['verdict']}")
    print("rehearsal: " + (", ".join(f"{name} {count}x" for name, count in sorted(counts.items())) or "no stand-in was called"))
    for line in refused:
        print(f"rehearsal: {line}")
    run_folder = folder / "results" / job.values["RUN_TAG"]
    if ended_by is not None:
        print(f"rehearsal: ended by {signal.Signals(ended_by).name}, and the job with it; run folder {run_folder}")
        return 128 + ended_by
    if code in (EXIT_DONE, EXIT_STOPPED):
        print(f"rehearsal: done with exit code {code}; run folder {run_folder}")
        return code
    raise (UserError if code == 2 else RunError)(
        f"{job.path}: the rehearsed job ended with exit code {code}; see its words above"
    ) from None
