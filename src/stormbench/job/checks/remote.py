"""The same checks on a node: the doctor itself inside a job of one task, its findings brought back under the node's name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.files import write_text
from stormbench.job.checks.machine import BATCH, Answer, Machine, execute
from stormbench.job.checks.result import Result, problem
from stormbench.job.known import passes
from stormbench.job.load import Job

MINUTES = 5
NAME = "stormbench-doctor"
LAUNCHERS = {"slurm": "srun", "lsf": "bsub", "pbs": "qsub"}
SBATCH_OPTIONS = {
    "SBATCH_PARTITION": "--partition", "SBATCH_QOS": "--qos", "SBATCH_ACCOUNT": "--account", "SBATCH_CONSTRAINT": "--constraint",
    "SBATCH_RESERVATION": "--reservation", "SBATCH_CLUSTERS": "--clusters",
}  # fmt: skip
"""srun reads none of sbatch's variables; totals of the whole job, such as SBATCH_GPUS, make no sense for one node."""
_OUTPUT_WAIT_S = 10.0


def doctor_words(config: str | None, benchmark: str | None) -> list[str]:
    """Return the command that runs on the node, with this Python and the config's whole path."""
    words = [sys.executable, "-m", "stormbench", "doctor", "--json"]
    words += ["--benchmark", benchmark] if benchmark else []
    return words + ([str(Path(config).absolute())] if config else [])


def slurm_words(job: Job | None, values: Mapping[str, str], account: str | None) -> list[str]:
    """Return srun's words for one task on one node of the job's kind."""
    words = ["srun", "--nodes=1", "--ntasks=1", f"--time={MINUTES}", f"--job-name={NAME}", "--quiet"]
    given = {**values, "SBATCH_ACCOUNT": account or values.get("SBATCH_ACCOUNT", "")}
    given["SBATCH_QOS"] = for_one_node(job, given.get("SBATCH_QOS"))
    words += [f"{option}={given[name]}" for name, option in SBATCH_OPTIONS.items() if given.get(name)]
    if "SBATCH_EXCLUSIVE" in given:
        words.append(f"--exclusive={given['SBATCH_EXCLUSIVE']}" if given["SBATCH_EXCLUSIVE"] in ("user", "mcs", "topo") else "--exclusive")
    return words + _slurm_gpus(job)


def _slurm_gpus(job: Job | None) -> list[str]:
    if job is None or job.config.gpu_vendor == "none" or not job.config.gpus_per_node:
        return []
    kind = f"{job.config.gpu_type}:" if job.config.gpu_type else ""
    count = job.config.gpus_per_node
    options = {"gpus-per-node": f"--gpus-per-node={kind}{count}", "gres": f"--gres=gpu:{kind}{count}", "gpus": f"--gpus={kind}{count}"}
    return [options[job.config.gpu_request]] if job.config.gpu_request in options else []


def for_one_node(job: Job | None, name: str | None) -> str:
    """Return the job's QoS or queue, or where that takes only larger jobs, one that the config's limits let a single node into."""
    limits = dict(job.config.limits) if job is not None else {}
    if name and limits.get(name, {}).get("min_nodes", 1) > 1:
        return next((other for other, limit in limits.items() if limit.get("min_nodes", 1) <= 1), name)
    return name or ""


def _queue(job: Job) -> list[str]:
    """Return the options of bsub and qsub for the queue, and the config's further directives, which have the same grammar."""
    queue = for_one_node(job, job.config.queue)
    words = ["-q", queue] if queue else []
    for directive in job.config.directives.split(";"):
        words += shlex.split(directive)
    return words


def lsf_words(job: Job | None, account: str | None, command: list[str]) -> list[str]:
    """Return bsub's words for an interactive job of one node, in which jsrun starts one task with the node's cores and GPUs."""
    words = ["bsub", "-I", "-nnodes", "1", "-W", str(MINUTES), "-J", NAME]
    cores, gpus = 1, 0
    if job is not None:
        words += _queue(job)
        cores, gpus = max(1, job.config.cores_per_node), job.config.gpus_per_node
    words += ["-P", account] if account else []
    # a shell reads the command again on the node, so it is one quoted word
    return [*words, shlex.join(["jsrun", "-n", "1", "-a", "1", "-c", str(cores), "-g", str(gpus), *command])]


def pbs_words(job: Job | None, account: str | None, folder: Path) -> list[str]:
    """Return qsub's words for a small script that it waits for."""
    chunk, words = "1", []
    if job is not None:
        config = job.config
        gpus = config.gpus_per_node if config.gpu_vendor != "none" else 0
        parts = ["1", f"ncpus={max(1, config.cores_per_node)}", f"ngpus={gpus}" if gpus else "", config.select or ""]
        chunk = ":".join(part for part in parts if part)
        words += _queue(job)
    words += ["-A", account] if account else []
    asked = ["-l", f"select={chunk}", "-l", f"walltime=00:{MINUTES:02d}:00"]
    return ["qsub", "-N", NAME, *asked, *words, "-j", "oe", "-o", str(folder / "output"), "-W", "block=true", str(folder / "doctor.sh")]


def pbs_script(command: list[str], environ: Mapping[str, str], cwd: Path, folder: Path) -> str:
    """Return the script: PBS starts it in the home folder with a bare environment, so it carries what the doctor needs."""
    needed = {
        name: value for name, value in environ.items() if passes(name) or name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    }
    lines = [
        "#!/bin/bash",
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(needed.items())),
        f"cd {shlex.quote(str(cwd))}",
    ]
    partial, whole = shlex.quote(str(folder / "found.partial")), shlex.quote(str(folder / "found.json"))
    return "\n".join([*lines, f"{shlex.join(command)} > {partial}", f"mv {partial} {whole}", ""])


def found_in(text: str) -> list[Result]:
    """Return the findings in what a job printed, which a site's prolog may have surrounded with other lines."""
    decoder = json.JSONDecoder()
    start = text.find("[")
    while start >= 0:
        with contextlib.suppress(ValueError):
            rows, _ = decoder.raw_decode(text, start)
            if rows and all(isinstance(row, dict) and "verdict" in row for row in rows):
                return [Result.from_row(row) for row in rows]
        start = text.find("[", start + 1)
    return []


def scheduler_of(machine: Machine) -> str:
    """Return the scheduler whose node is to be looked at.

    Raises:
        UserError: there is none, or its program isn't here.
    """
    name = machine.scheduler
    if name is None:
        raise UserError("--job: no sbatch, bsub or qsub is on PATH, so there is no node to look at; leave --job out to check this machine")
    if name not in BATCH:
        raise UserError(f"--job: STORMBENCH_SCHEDULER={name} runs on this machine itself; leave --job out, the same checks are made here")
    if machine.which(LAUNCHERS[name]) is None:
        raise UserError(f"--job: {LAUNCHERS[name]} is not on this machine; run it on a login node of the system, or leave --job out")
    return name


def on_a_node(machine: Machine, command: list[str], account: str | None, limit_s: float) -> list[Result]:
    """Run `command` as a job of one task and return its findings, or one problem that says why there are none."""
    name = scheduler_of(machine)
    values = machine.job.values if machine.job is not None else machine.environ
    if name == "pbs":
        answer = _by_pbs(machine, command, account, limit_s)
    else:
        words = [*slurm_words(machine.job, values, account), *command] if name == "slurm" else lsf_words(machine.job, account, command)
        # an interactive bsub passes Ctrl-C on to its job; srun gives its allocation back at SIGTERM
        answer = _run(machine, words, limit_s, signal.SIGTERM if name == "slurm" else signal.SIGINT)
    found = found_in(answer.out)
    if found:
        return found
    if answer.code is None:
        failed = problem(
            f"{LAUNCHERS[name]} got no node within {limit_s:g} s", "wait longer with --wait SECONDS, or try again when the queue is shorter"
        )
    else:
        failed = problem(
            f"{LAUNCHERS[name]} ended with code {answer.code}: {answer.why}",
            "mend what the scheduler says; partition, account and QoS come from the config",
        )
    return [dataclasses.replace(failed, group="scheduler", check="job on a node", host=machine.host)]


def _run(machine: Machine, words: list[str], limit_s: float, stop: int) -> Answer:
    try:
        return execute([machine.which(words[0]) or words[0], *words[1:]], machine.environ, limit_s, stop=stop, cwd=machine.cwd)
    except OSError as error:
        return Answer(code=127, out="", err=f"{words[0]}: {(error.strerror or str(error)).lower()}")


def _by_pbs(machine: Machine, command: list[str], account: str | None, limit_s: float) -> Answer:
    """Submit a script that leaves its findings in a file here: interactive jobs of PBS need a terminal."""
    # in the working folder, which the nodes must see anyway, as /tmp is each node's own
    folder = Path(tempfile.mkdtemp(prefix=".stormbench-doctor-", dir=machine.cwd))
    answer = None
    try:
        write_text(folder / "doctor.sh", pbs_script(command, machine.environ, machine.cwd, folder))
        with (folder / "submitted").open("w") as stream:
            # to a file, from which the job's id can be read even if qsub is interrupted
            words = ["sh", "-c", f'exec "$@" > {shlex.quote(stream.name)}', "sh", *pbs_words(machine.job, account, folder)]
            answer = _run(machine, words, limit_s, signal.SIGTERM)
        deadline = time.monotonic() + (_OUTPUT_WAIT_S if answer.code == 0 else 0.0)
        while not (folder / "found.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        told = next((path.read_text(errors="replace") for path in (folder / "found.json", folder / "output") if path.exists()), "")
        return Answer(code=answer.code, out=told, err=answer.err or told)
    finally:
        if answer is None or answer.code is None:
            _delete_pbs(machine, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _delete_pbs(machine: Machine, folder: Path) -> None:
    """Delete the job: a qsub that is stopped leaves it in the queue."""
    with contextlib.suppress(OSError):
        words = (folder / "submitted").read_text().split()
        if words:
            machine.ask("qdel", words[0])
