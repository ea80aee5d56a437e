"""`stormbench render`: a checked job becomes one readable shell script for its scheduler, or run.sub without one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from stormbench.core.arguments import default_text
from stormbench.core.errors import EXIT_DONE, UserError
from stormbench.core.files import atomic_path
from stormbench.core.workloads import WORKLOADS
from stormbench.job import directives_for, known
from stormbench.job.config import RUNTIMES, RUNTIMES_OF, SCHEDULERS
from stormbench.job.load import Job, load

TEMPLATES = {"slurm": "slurm.sub.j2", "lsf": "lsf.job.j2", "pbs": "pbs.job.j2", "local": "local.sh.j2", "docker": "docker.sh.j2"}
AT_RUN_TIME = (
    "ADDITIONAL_ARGS",
    "CONT",
    "DATADIR",
    "DATESTAMP",
    "LOGDIR",
    "RUN_TAG",
    "SEED",
    "STORMBENCH_HOME",
    "STORMBENCH_SEEDS",
    "STORMBENCH_VENV",
)
"""What a script takes from the environment of its submission where its config leaves it open."""
SET_BY_SCRIPT = ("DATADIR", "EXPERIMENT_ID", "LOGDIR", "RUN_TAG", "SEED", "STORMBENCH_CACHE", "STORMBENCH_CACHE_CLEARED",
                 "STORMBENCH_CACHE_REASON",
                 "STORMBENCH_CONTINUED", "STORMBENCH_STATUS_FILE", "STORMBENCH_STOP_FILE")  # fmt: skip
HOST_SIDE = ("STORMBENCH_ARCH", "STORMBENCH_DIRECTIVES", "STORMBENCH_GPU_MEMORY", "STORMBENCH_HOSTS", "STORMBENCH_LIMITS",
             "STORMBENCH_NODE_MEMORY",
             "STORMBENCH_QUEUE", "STORMBENCH_SCHEDULER", "STORMBENCH_SELECT", "STORMBENCH_TASKS_IN_DIRECTIVES",
             "STORMBENCH_UNVERIFIED")  # fmt: skip
"""What is used up when the script is made."""
_DEFAULTS = ("NEXP", "CLEAR_CACHES", "TRAINING_INSTANCE_SIZE", "CHECK_COMPLIANCE", "NCCL_TEST", "ENABLE_PROFILING", "STORMBENCH_BENCHMARK",
             "STORMBENCH_BIND", "STORMBENCH_LAUNCHER", "STORMBENCH_SCRATCH", "STORMBENCH_MAX_REQUEUES")  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="shell config of the run")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the script there instead of printing it")
    parser.add_argument(
        "--run_sub", action="store_true", help="the script without a config, kept as run.sub, which reads the environment at run time"
    )
    parser.add_argument("--init_datasets", action="store_true", help="the job that converts DeepCAM's data, kept as init_datasets.sub")
    add_overrides(parser)
    parser.set_defaults(run=run)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options that stand above the config: benchmark, scheduler and runtime."""
    parser.add_argument("--benchmark", choices=tuple(WORKLOADS), help="instead of the config's own")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="instead of the config's own")
    parser.add_argument("--runtime", choices=RUNTIMES, help="instead of the config's own")


def overrides_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the variables that the command line sets above the config."""
    given = {
        "STORMBENCH_BENCHMARK": arguments.benchmark,
        "STORMBENCH_SCHEDULER": arguments.scheduler,
        "STORMBENCH_RUNTIME": arguments.runtime,
    }
    return {name: value for name, value in given.items() if value is not None}


def run(arguments: argparse.Namespace) -> int:
    """Print or write the script of a config without errors."""
    if arguments.run_sub or arguments.init_datasets:
        if arguments.config is not None:
            raise UserError(f"{arguments.config}: run.sub and init_datasets.sub are made without a config; leave it out")
        text = render_run_sub() if arguments.run_sub else render_init_datasets()
    elif arguments.config is None:
        raise UserError("render: give a config such as configs/config_DGXA100_16x8x1.sh")
    else:
        job = checked(load(arguments.config, os.environ, overrides_of(arguments)))
        text = render(job)
    if arguments.output is None:
        print(text, end="")
        return EXIT_DONE
    with atomic_path(arguments.output) as path:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    print(f"{arguments.output}: {how_to_submit(text, arguments.output)}")
    return EXIT_DONE


def checked(job: Job) -> Job:
    """Return the job if it has no errors; its warnings go to standard error.

    Raises:
        UserError: it has errors; the text has them all.
    """
    for finding in job.warnings:
        print(f"stormbench: {finding}", file=sys.stderr)
    if job.errors:
        raise UserError("\n".join(str(finding) for finding in job.errors))
    return job


def render(job: Job, run_tag: str | None = None, output: str | None = None) -> str:
    """Return the job's script. `run_tag` names its run folder, `output` is the file for the scheduler's output.

    Raises:
        UserError: the scheduler and the layout don't go together.
    """
    config, layout = job.config, job.layout
    assert layout is not None, "only jobs without errors are rendered"
    settings = _settings(job)
    if run_tag is not None:
        settings["RUN_TAG"] = run_tag
    read = {*known.job_options(), *known.workload_options(job.benchmark)} - {*HOST_SIDE, *AT_RUN_TIME, *known.SET_BY_JOBS, *settings}
    usual = {**_default_values(), "STORMBENCH_WARNING": str(config.stop_before_limit())}
    defaults = {name: value for name, value in usual.items() if name not in settings}
    container = sorted({*settings, *SET_BY_SCRIPT, *defaults, *config.export_names})
    return _fill(
        TEMPLATES[config.scheduler],
        baked=True, settings=sorted({**defaults, **settings}.items()), defaults=[], unset=sorted(read - {*defaults}), names=container,
        directives=directives_for.build(job, output), about=_about(job), hint=f"it comes from {Path(job.path).name}",
        modules=bool(config.modules),
        runtime=config.runtime, wall=directives_for.lsf_time(layout), select=directives_for.pbs_select(job),
    )  # fmt: skip


def render_run_sub() -> str:
    """Return run.sub: Slurm, all values from the environment at run time."""
    names = sorted({*known.documented(), *SET_BY_SCRIPT})
    about = (
        "A job of either benchmark on Slurm, which reads every value from the environment at run time. First a config, then the job: "
        "source configs/config_X.sh && sbatch run.sub, or sbatch -N ${DGXNNODES} -t ${WALLTIME} run.sub where sbatch can't take the "
        "number of nodes from the environment. Also inside an allocation: salloc -N ${DGXNNODES} ./run.sub"
    )
    return _fill(
        TEMPLATES["slurm"],
        baked=False, settings=[], defaults=list(_default_values().items()), unset=[], names=names, directives=directives_for.run_sub(),
        about=about,
        hint="source a config first: source configs/config_X.sh && sbatch run.sub", modules=True, runtimes=RUNTIMES_OF["slurm"],
    )  # fmt: skip


def render_init_datasets() -> str:
    """Return init_datasets.sub: the conversion of DeepCAM's data as a Slurm job."""
    about = (
        "Converts DeepCAM's HDF5 files to numpy files, once: DATA_IN holds train/, validation/ and stats.h5, DATA_OUT gets the same "
        "folders. DATA_IN=... DATA_OUT=... sbatch -N 2 init_datasets.sub; the same command finishes what was interrupted."
    )
    return _fill(
        "init_datasets.sub.j2",
        baked=False, settings=[], defaults=[("STORMBENCH_SCRATCH", "/tmp")], unset=[], names=["DATA_IN", "DATA_OUT", *SET_BY_SCRIPT],
        directives=["--job-name=stormbench-init", "--output=%x-%j.out", "--open-mode=append"], about=about, modules=True,
        runtimes=RUNTIMES_OF["slurm"], hint="export it before you submit",
    )  # fmt: skip


def how_to_submit(text: str, path: Path) -> str:
    """Return how a user gives the script to its scheduler."""
    if "\n#BSUB " in text:
        return f"submit it with bsub < {path}"
    if "\n#PBS " in text:
        return f"submit it with qsub -V -A PROJECT {path}"
    return f"submit it with sbatch {path}" if "\n#SBATCH " in text else f"run it with bash {path}"


def template_folder() -> Path:
    """Return the folder of the templates: in the checkout, or where an installation has put them."""
    for folder in (Path(__file__).parents[3] / "templates", Path(sys.prefix) / "share" / "stormbench" / "templates"):
        if (folder / TEMPLATES["slurm"]).is_file():
            return folder
    raise UserError(
        f"the job templates are neither beside the source nor below {sys.prefix}; install stormbench again, or run it from its checkout"
    )


def _fill(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_folder()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False, auto_reload=False,
        # ${#array[@]} is shell's
        comment_start_string="{##", comment_end_string="##}",
    )  # fmt: skip
    environment.filters["q"] = quoted
    environment.filters["lines"] = str.splitlines
    environment.tests["contains_expansion"] = lambda value: "$" in value or "`" in value
    text = environment.get_template(template).render(prefixes=known.PREFIXES, **values)
    lines = [line.rstrip() for line in text.splitlines()]
    # includes leave runs of empty lines
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return "\n".join(kept) + "\n"


def quoted(value: str) -> str:
    """Return the value as one word of a shell, always in quotes."""
    return "'" + str(value).replace("'", "'\"'\"'") + "'"


def _settings(job: Job) -> dict[str, str]:
    """Return what the script has baked in: the config's variables and what passed through, less sbatch's and other workloads'."""
    left_out = {*known.foreign_to(job.benchmark), *known.WITHOUT_EFFECT, *known.SET_BY_JOBS, *HOST_SIDE}
    settings = {
        name: value for name, value in job.values.items()
        if value.strip() and name not in left_out and not name.startswith("SBATCH_")
        and (known.passes(name) or name in job.config.export_names)
    }  # fmt: skip
    settings["STORMBENCH_BENCHMARK"] = job.benchmark
    return settings


def _default_values() -> dict[str, str]:
    options = known.job_options()
    return {name: default_text(options[name]) for name in _DEFAULTS}


def _about(job: Job) -> str:
    layout = job.layout
    assert layout is not None
    parts = [
        f"{WORKLOADS[job.benchmark].title} on {job.config.system or 'this system'}: {layout.nodes} node(s) "
        f"x {layout.ranks_per_node} rank(s)"
    ]
    if layout.instances > 1:
        parts.append(f"{layout.instances} independent models side by side")
    parts.append(f"rendered from {Path(job.path).name}")
    unverified = " Unverified: no site document confirms its facts." if job.config.unverified else ""
    return ", ".join(parts) + ". Needs nothing but bash and the site's own commands; edit it at will." + unverified
