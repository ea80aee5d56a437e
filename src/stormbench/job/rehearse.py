"""`stormbench rehearse`: the very script that would be submitted runs on this machine, on generated data, scaled down where ranks start.

Stand-ins for the scheduler, the launcher and the container runtime come first in the search path. They refuse what the real
programs refuse, so a job that passes here has no mistake left that needs no cluster to be found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from stormbench.core.errors import EXIT_DONE, EXIT_STOPPED, RunError, UserError
from stormbench.core.files import atomic_path, writable_folder
from stormbench.core.workloads import WORKLOADS
from stormbench.job.load import Job, load
from stormbench.job.render import add_overrides, checked, overrides_of, render
from stormbench.job.standins.plan import PROGRAMS, Plan, install

SCALED = {
    "STORMBENCH_WIDTH": "0.05", "MAX_EPOCHS": "1", "MIN_EPOCHS": "0", "TARGET_IOU": "1", "LOCAL_BATCH_SIZE": "2",
    "LOCAL_VALIDATION_BATCH_SIZE": "1", "GRADIENT_ACCUMULATION_FREQUENCY": "1", "BATCHNORM_GROUP_SIZE": "1", "PRECISION_MODE": "fp32",
    "DATA_FORMAT": "hdf5", "WIREUP_METHOD": "auto", "MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "ENABLE_PROFILING": "0",
    "STORMBENCH_NUM_THREADS": "1", "STORMBENCH_SUBMISSION_DIVISION": "open",
}  # fmt: skip
"""What each rank has instead of the config's values, so that a laptop does in seconds what it can do at all."""
HEIGHT, WIDTH, TRAIN, VALIDATION = 32, 48, 16, 4
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
    (folder / "data").mkdir(exist_ok=True)
    above = overrides_of(arguments)
    runtime = load(arguments.config, os.environ, above).config.runtime
    job = checked(load(arguments.config, os.environ, {**above, **_paths(folder, runtime)}))
    workload = WORKLOADS[job.benchmark]
    if job.benchmark != "deepcam" or not workload.installed():
        raise UserError(
            f"{job.path}: there is nothing to rehearse, as this version has no job side for {workload.title}; use --benchmark deepcam"
        )
    _make_data(folder / "data")
    (folder / "calls.jsonl").unlink(missing_ok=True)
    plan = Plan(ranks=arguments.ranks, environment=dict(SCALED), calls=str(folder / "calls.jsonl"), workdir=str(folder))
    install(folder / "bin", PROGRAMS, plan)
    script = folder / "job.sh"
    with atomic_path(script) as path:
        path.write_text(render(job), encoding="utf-8")
        path.chmod(0o755)
    _tell_scaling(job, arguments.ranks, folder)
    code = _submit(job, script, folder)
    return _conclude(job, folder, code)


def _paths(folder: Path, runtime: str) -> dict[str, str]:
    """Return the only values in which the script differs from the one to be submitted: its folders, its image, its scratch."""
    image = folder / "image.sif"
    if runtime != "none":
        image.touch()
    # a name of its own lets one folder take several rehearsals
    tag = time.strftime("rehearsal-%Y%m%d-%H%M%S", time.gmtime())
    return {
        "DATADIR": str(folder / "data"), "LOGDIR": str(folder / "results"), "CONT": str(image) if runtime != "none" else "",
        "STORMBENCH_SCRATCH": str(folder / "scratch"),
        "RUN_TAG": tag, "STORMBENCH_MOUNTS": "", "STORMBENCH_MODULES": "", "STORMBENCH_VENV": "", "STORMBENCH_ENTRY": "",
        "STORMBENCH_HOSTS": "",
    }  # fmt: skip


def _make_data(folder: Path) -> None:
    words = [
        "deepcam",
        "synth",
        str(folder),
        "--train",
        str(TRAIN),
        "--validation",
        str(VALIDATION),
        "--height",
        str(HEIGHT),
        "--width",
        str(WIDTH),
    ]
    done = subprocess.run([sys.executable, "-m", "stormbench", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(
            f"the generated data could not be made: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )


def _tell_scaling(job: Job, ranks: int, folder: Path) -> None:
    layout = job.layout
    assert layout is not None
    print(f"rehearsal of {job.path} in {folder}")
    print(f"  the script asks for {layout.ranks} rank(s) on {layout.nodes} node(s); at most {ranks} start here, on this machine")
    print(f"  its folders, image and scratch lie in {folder}; everything else in {folder / 'job.sh'} is as it would be submitted")
    changed = ", ".join(f"{name}={value}" for name, value in SCALED.items())
    print(f"  each rank has instead of the config's values: {changed}")
    print(f"  data: {TRAIN} generated samples of {HEIGHT} x {WIDTH}; nothing here says anything about speed or accuracy", flush=True)


def _submit(job: Job, script: Path, folder: Path) -> int:
    """Give the script to its scheduler's stand-in, which runs it in the foreground; return its exit code."""
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
            return subprocess.run(words, stdin=stream, cwd=folder, env=environ, check=False).returncode
    return subprocess.run([*words, str(script)], stdin=subprocess.DEVNULL, cwd=folder, env=environ, check=False).returncode


def _conclude(job: Job, folder: Path, code: int) -> int:
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
    if code in (EXIT_DONE, EXIT_STOPPED):
        print(f"rehearsal: done with exit code {code}; run folder {folder / 'results' / job.values['RUN_TAG']}")
        return code
    raise (UserError if code == 2 else RunError)(
        f"{job.path}: the rehearsed job ended with exit code {code}; see its words above"
    ) from None
