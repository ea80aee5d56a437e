"""Checks of the scheduler, that its programs are here, answer, and know the job's queue; and the config's own findings as results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from stormbench.job.checks.machine import BATCH, SUBMIT, Machine
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning
from stormbench.job.findings import ERROR
from stormbench.job.load import Job

QUESTIONS = {"slurm": ("sinfo", "--noheader", "--format=%R %a"), "lsf": ("bqueues", "-w"), "pbs": ("qstat", "-Q")}
QUEUE_VARIABLES = {"slurm": "SBATCH_PARTITION", "lsf": "STORMBENCH_QUEUE", "pbs": "STORMBENCH_QUEUE"}
_NOT_QUEUES = {"QUEUE_NAME", "Queue", "----------------"}


def programs(machine: Machine) -> Result:
    """Tell whether the scheduler can be asked from here, and whether it has the job's partition or queue."""
    name = machine.scheduler
    if name is None:
        return not_applicable("no sbatch, bsub or qsub is on PATH")
    if name not in BATCH:
        return not_applicable(f"STORMBENCH_SCHEDULER={name} queues nothing")
    if machine.in_a_job:
        return not_applicable("inside a job already")
    if not machine.which(SUBMIT[name]):
        return warning(
            f"{SUBMIT[name]}: not on this machine, the job is for {name}",
            "submit from a login node of the system; stormbench rehearse CONFIG runs it here",
        )
    told = machine.ask(*QUESTIONS[name])
    program = QUESTIONS[name][0]
    if told.code != 0:
        # without a job, such as on a laptop, a client that isn't set up hinders nobody
        return (warning if machine.job is None else problem)(
            f"{program} doesn't answer: {told.why}",
            f"see whether {program} works in a new shell; if not, the scheduler is down, ask the site",
        )
    queues = {words[0].rstrip("*") for line in told.out.splitlines() if (words := line.split())} - _NOT_QUEUES
    variable = QUEUE_VARIABLES[name]
    wanted = machine.value(variable) if machine.job is not None else ""
    unknown = [queue for queue in wanted.split(",") if queue and queue not in queues]
    if unknown and queues:
        where = machine.job.where(variable) if machine.job is not None else ""
        return problem(f"{variable}={wanted} ({where}): {program} knows {_few(sorted(queues))}", f"set {variable} to one of them")
    return ok(f"{program} answers: {_few(sorted(queues)) or 'no queue'}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def config_results(job: Job) -> list[Result]:
    """Return the findings of `stormbench check` (limits, cores, names and paths) as results of the doctor."""
    group = {"group": "config", "check": "config"}
    if not job.findings:
        return [dataclasses.replace(ok(f"{job.path}: {job.config.nodes} nodes x {job.config.ranks_per_node} ranks, no objection"), **group)]
    results = []
    for finding in job.findings:
        # the sentences end in their fix
        said, _, fix = finding.text.rpartition("; ")
        verdict: Callable[[str, str], Result] = problem if finding.level == ERROR else warning
        results.append(
            dataclasses.replace(verdict(f"{finding.where}: {said or fix}", fix if said else f"correct {finding.where}"), **group)
        )
    return results
