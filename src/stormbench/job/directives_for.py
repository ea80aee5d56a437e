"""What a job asks of its scheduler, as the words behind #SBATCH, #BSUB and #PBS. Accounts are never among them."""

from __future__ import annotations

import shlex

from stormbench.job.config import WARNING_S
from stormbench.job.directives_pbs_script import quoted
from stormbench.job.layout import Layout
from stormbench.job.load import Job
from stormbench.job.values import clock

_FROM_SBATCH = (
    "PARTITION",
    "QOS",
    "CONSTRAINT",
    "CLUSTERS",
    "CORE_SPEC",
    "DISTRIBUTION",
    "EXCLUSIVE",
    "HINT",
    "MEM_PER_NODE",
    "NETWORK",
    "RESERVATION",
)
"""The SBATCH_ variables of a config that become directives; the layout has its own, and an account stays with the user."""
_NAMES = {"MEM_PER_NODE": "mem"}


def build(job: Job, output: str | None = None) -> list[str]:
    """Return the directives of a job, without the prefix; none for local and docker."""
    makers = {"slurm": _slurm, "lsf": _lsf, "pbs": _pbs}
    maker = makers.get(job.config.scheduler)
    if maker is None or job.layout is None:
        return []
    extra = [part.strip() for part in job.config.directives.split(";") if part.strip()]
    return maker(job, job.layout, output) + extra


def run_sub() -> list[str]:
    """Return the directives of run.sub, which are true of every config."""
    return ["--job-name=stormbench", "--output=%x-%j.out", "--open-mode=append", "--requeue", "--exclusive", f"--signal=B:USR1@{WARNING_S}"]


def description(layout: Layout) -> str:
    """Return the layout in words for a scheduler's free text, where its options don't hold all of it."""
    ranks = f"ranks_per_node={layout.ranks_per_node} cores_per_rank={layout.cores_asked}"
    return f"nodes={layout.nodes} {ranks} gpus_per_node={layout.gpus_per_node}"


def lsf_time(layout: Layout) -> str:
    """Return the wall time as LSF wants it, H:MM, rounded up to whole minutes."""
    minutes = lsf_minutes(layout)
    return f"{minutes // 60}:{minutes % 60:02d}"


def lsf_minutes(layout: Layout) -> int:
    """Return the wall time in whole minutes, rounded up."""
    return -(-(layout.wall_s or 0) // 60)


def pbs_select(job: Job) -> str:
    """Return the chunk of PBS's select."""
    layout = job.layout
    assert layout is not None
    parts = [str(layout.nodes), f"ncpus={layout.ranks_per_node * layout.cores_asked}", f"mpiprocs={layout.ranks_per_node}"]
    if layout.gpus_per_node:
        parts.append(f"ngpus={layout.gpus_per_node}")
    return ":".join([*parts, *([job.config.select] if job.config.select else [])])


def _slurm(job: Job, layout: Layout, output: str | None) -> list[str]:
    config = job.config
    lines = [f"--job-name=stormbench-{job.benchmark}", f"--nodes={layout.nodes}"]
    if config.tasks_in_directives:
        lines += [f"--ntasks-per-node={layout.ranks_per_node}", f"--cpus-per-task={layout.cores_asked}"]
    if layout.wall_s is not None:
        lines.append(f"--time={clock(layout.wall_s)}")
    if layout.gpus_per_node:
        kind = f"{config.gpu_type}:" if config.gpu_type else ""
        lines += {
            "gpus-per-node": [f"--gpus-per-node={kind}{layout.gpus_per_node}"],
            "gres": [f"--gres=gpu:{kind}{layout.gpus_per_node}"],
            "gpus": [f"--gpus={kind}{layout.gpus}"],
            "none": [],
        }[config.gpu_request]
    for name in _FROM_SBATCH:
        value = job.values.get(f"SBATCH_{name}", "").strip()
        if value:
            word = f"--{_NAMES.get(name, name.lower().replace('_', '-'))}"
            lines.append(word if value == "exclusive" and name == "EXCLUSIVE" else f"{word}={shlex.quote(value)}")
    if config.runtime == "shifter" and config.container:
        lines.append(f"--image={shlex.quote(config.container)}")
    # an output that is appended to survives a job that queues itself again
    lines += [f"--output={_word(output) if output else '%x-%j.out'}", "--open-mode=append", "--requeue"]
    if config.stop_before_limit():
        lines.append(f"--signal=B:USR1@{config.stop_before_limit()}")
    return [*lines, f'--comment="{description(layout)}"']


def _lsf(job: Job, layout: Layout, output: str | None) -> list[str]:
    config = job.config
    name = f"stormbench-{job.benchmark}"
    lines = [f"-J {name}", f"-nnodes {layout.nodes}", f"-W {lsf_time(layout)}", f"-o {_word(output) if output else name + '.%J.out'}"]
    if config.queue:
        lines.append(f"-q {shlex.quote(config.queue)}")
    before = -(-config.stop_before_limit() // 60)
    # LSF counts in minutes, and refuses a warning that isn't below the limit
    if 0 < before < lsf_minutes(layout):
        lines += ["-wa USR1", f"-wt {before}"]
    return [*lines, f'-Jd "{description(layout)}"']


def _pbs(job: Job, layout: Layout, output: str | None) -> list[str]:
    config = job.config
    lines = [f"-N stormbench-{job.benchmark}", f"-l select={pbs_select(job)}"]
    if layout.wall_s is not None:
        lines.append(f"-l walltime={clock(layout.wall_s)}")
    if config.queue:
        lines.append(f"-q {shlex.quote(config.queue)}")
    return [*lines, "-j oe", *([f"-o {quoted(output)}"] if output else [])]


def _word(path: str) -> str:
    """Return a path as schedulers take it in a directive: in double quotes where it has blanks or the like."""
    return (
        path
        if shlex.quote(path) == path or all(letter.isalnum() or letter in "%/._-" for letter in path)
        else '"' + path.replace('"', '\\"') + '"'
    )
