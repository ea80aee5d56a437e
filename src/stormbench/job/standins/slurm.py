"""Slurm's own commands: sbatch runs the script here with a batch job's environment, the others know its job."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.hostlist import expand
from stormbench.job import directives_slurm
from stormbench.job.directives_base import Given, Request
from stormbench.job.standins import batch
from stormbench.job.standins.options import Rejected, last, table
from stormbench.job.standins.plan import State

VARIABLES = {
    "SBATCH_ACCOUNT": "account", "SBATCH_ARRAY_INX": "array", "SBATCH_CONSTRAINT": "constraint", "SBATCH_CORE_SPEC": "core-spec",
    "SBATCH_CPUS_PER_GPU": "cpus-per-gpu", "SBATCH_DISTRIBUTION": "distribution", "SBATCH_ERROR": "error",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_EXPORT": "export", "SBATCH_GPU_BIND": "gpu-bind", "SBATCH_GPUS": "gpus", "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-task", "SBATCH_GRES": "gres", "SBATCH_HINT": "hint", "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_CPU": "mem-per-cpu", "SBATCH_MEM_PER_GPU": "mem-per-gpu", "SBATCH_MEM_PER_NODE": "mem", "SBATCH_NETWORK": "network",
    "SBATCH_NO_REQUEUE": "no-requeue", "SBATCH_OPEN_MODE": "open-mode", "SBATCH_OUTPUT": "output", "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos", "SBATCH_REQUEUE": "requeue", "SBATCH_RESERVATION": "reservation", "SBATCH_SIGNAL": "signal",
    "SBATCH_THREADS_PER_CORE": "threads-per-core", "SBATCH_TIMELIMIT": "time", "SBATCH_WAIT": "wait", "SBATCH_WCKEY": "wckey",
}  # fmt: skip
"""What sbatch reads from the environment: it overrides directives, and the command line overrides it. None gives a number of nodes."""
_SQUEUE = table(
    """
    account,A= all,a array,r clusters,M= format,o= Format,O= help hide iterate,i= jobs,j= json long,l me name,n= noheader,h nodelist,w=
    noconvert partition,p= priority,P qos,q= sort,S= start states,t= steps,s? usage user,u= verbose,v version,V yaml
    """
)
_SCANCEL = table(
    """
    account,A= batch,b full,f hurry,H interactive,i name,n= me partition,p= qos,q= quiet,Q reservation,R= signal,s= state,t= user,u=
    verbose,v version,V
    """
)
DEFAULT = "rehearsal"
"""The partition of a job that names none."""
_SHORT = {"PENDING": "PD", "RUNNING": "R", "COMPLETED": "CD", "FAILED": "F", "CANCELLED": "CA", "TIMEOUT": "TO"}


def sbatch(state: State, arguments: list[str]) -> int:
    """Submit a script: check directives, variables and options, then run it; `--test-only` only checks."""
    options, words = directives_slurm.SBATCH.parse(arguments)
    text, name = _script(options, words)
    layers = [
        directives_slurm.read_script(text, name),
        [
            Given(name=option, value=os.environ[variable], where=variable)
            for variable, option in VARIABLES.items()
            if os.environ.get(variable)
        ],
        [Given(name=option, value=value, where="the command line") for option, value in options],
    ]
    request = directives_slurm.interpret(_merged(layers))
    if "test-only" in request.options:
        print(f"sbatch: Job 1001 to start now using {request.nodes} nodes in partition {request.queue or DEFAULT}", file=sys.stderr)
        return 0
    job = _job(state, request, words[1:], name)
    number = batch.take(state, text, job)
    state.record("accepted")
    print(number if "parsable" in request.options else f"Submitted batch job {number}", flush=True)
    return batch.run_all(state, number)


def environment(state: State, job: batch.Job, number: str, index: int | None, restarts: int) -> dict[str, str]:
    """Return the variables of the batch script: those of the full allocation, as on the real nodes."""
    nodes, width = job["nodes"], max(3, len(str(job["nodes"])))
    names = f"node[{1:0{width}d}-{nodes:0{width}d}]" if nodes > 1 else f"node{1:0{width}d}"
    ranks, cores = job["ranks_per_node"] or 1, job["cores_per_rank"] or 1
    many = f"(x{nodes})" if nodes > 1 else ""
    node_cores = job["node_cores"] or ranks * cores
    values = {
        "SLURM_JOB_ID": number, "SLURM_JOBID": number, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NNODES": nodes, "SLURM_JOB_NODELIST": names,
        "SLURM_NODELIST": names, "SLURM_SUBMIT_DIR": job["submitted_from"], "SLURM_SUBMIT_HOST": socket.gethostname(),
        "SLURM_JOB_NAME": job["name"],
        "SLURM_JOB_PARTITION": job["queue"] or DEFAULT, "SLURM_CLUSTER_NAME": "rehearsal", "SLURM_JOB_USER": getpass.getuser(),
        "SLURM_JOB_UID": os.getuid(), "SLURM_CPUS_ON_NODE": node_cores, "SLURM_JOB_CPUS_PER_NODE": f"{node_cores}{many}",
        "SLURM_TASKS_PER_NODE": f"{ranks}{many}", "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_GTIDS": 0,
        "SLURMD_NODENAME": expand(names)[0], "SLURM_NODE_ALIASES": "(null)", "SLURM_EXPORT_ENV": "ALL", "ENVIRONMENT": "BATCH",
    }  # fmt: skip
    if job["ranks_per_node"]:
        values |= {"SLURM_NTASKS_PER_NODE": ranks, "SLURM_NTASKS": nodes * ranks, "SLURM_NPROCS": nodes * ranks}
    if job["cores_per_rank"]:
        values["SLURM_CPUS_PER_TASK"] = cores
    if job["gpus_per_node"]:
        values["SLURM_GPUS_ON_NODE"] = job["gpus_per_node"]
        values["SLURM_GPUS_PER_NODE"] = job["gpus_per_node"]
    if job["exclusive"]:
        values["STORMBENCH_STANDIN_WHOLE_NODES"] = 1
    if restarts:
        values["SLURM_RESTART_COUNT"] = restarts
    if index is not None:
        indices = job["array"]
        values |= {
            "SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_TASK_COUNT": len(indices),
            "SLURM_ARRAY_TASK_MIN": min(indices), "SLURM_ARRAY_TASK_MAX": max(indices),
        }  # fmt: skip
    kept = {variable: value for variable, value in job["variables"].items() if not variable.startswith(("SLURM_", "SLURMD_"))}
    return {**kept, **{variable: str(value) for variable, value in values.items()}}


def scontrol(state: State, arguments: list[str]) -> int:
    """`show job ID`, `show partition NAME`, `show hostnames [LIST]` and `requeue ID`."""
    words = [word for word in arguments if word not in ("-o", "--oneliner", "-d", "--details")]
    state.record("accepted")
    match words:
        case ["show", "hostnames" | "hostname", *given]:
            print(*expand(given[0] if given else os.environ.get("SLURM_JOB_NODELIST", "")), sep="\n")
        case ["show", "job" | "jobs", number]:
            job = state.jobs().get(number)
            if job is None:
                raise UserError("slurm_load_jobs error: Invalid job id specified")
            restarts = job.get("restarts", 0)
            print(f"JobId={number} JobName={job['name']}\n   JobState={job['state']} Reason=None Dependency=(null)")
            print(f"   Priority=1 Nice=0 Account={job['account'] or '(null)'} QOS={job['qos'] or 'normal'}")
            print(f"   Partition={job['queue'] or DEFAULT} AllocNode:Sid={socket.gethostname()}:1")
            print(f"   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode={job['code'] or 0}:0\n   NumNodes={job['nodes']}")
            print(f"   Command={job['command']}\n   WorkDir={job['cwd']}")
        case ["show", "partition" | "partitions", name]:
            print(f"PartitionName={name}\n   AllowGroups=ALL Default={'YES' if name == DEFAULT else 'NO'} State=UP")
        case ["requeue", number]:
            if not batch.end(state, "requeue", number):
                raise UserError(f"Invalid job id specified for job {number}")
        case ["ping"]:
            print("Slurmctld(primary) at rehearsal is UP")
        case _:
            raise UserError(f"invalid keyword: {' '.join(words)}; the rehearsal knows show job, partition and hostnames, requeue, ping")
    return 0


def squeue(state: State, arguments: list[str]) -> int:
    """Print jobs by -h, -j and -o with %i %j %t %T %r %D %P %M; finished ones only if asked for by id."""
    options, words = _SQUEUE.parse(arguments)
    if words:
        raise Rejected(f"Unrecognized option: {words[0]}")
    wanted = (last(options, "jobs") or "").split(",") if last(options, "jobs") else None
    rows = {number: job for number, job in state.jobs().items() if (number in wanted if wanted else job["state"] in ("PENDING", "RUNNING"))}
    if wanted and not rows:
        raise UserError("slurm_load_jobs error: Invalid job id specified")
    state.record("accepted")
    form = last(options, "format") or "%i %P %j %t %D %r"
    if last(options, "noheader") is None:
        print(
            _formatted(
                form,
                {
                    "i": "JOBID",
                    "A": "JOBID",
                    "j": "NAME",
                    "t": "ST",
                    "T": "STATE",
                    "r": "REASON",
                    "R": "REASON",
                    "D": "NODES",
                    "P": "PARTITION",
                    "M": "TIME",
                },
            )
        )
    for number, job in rows.items():
        short = _SHORT[job["state"]]
        values = {
            "i": number,
            "A": number,
            "j": job["name"],
            "t": short,
            "T": job["state"],
            "r": "None",
            "R": "None",
            "D": str(job["nodes"]),
        }
        print(_formatted(form, {**values, "P": job["queue"] or DEFAULT, "M": "0:00"}))
    return 0


def scancel(state: State, arguments: list[str]) -> int:
    """End jobs by id."""
    options, words = _SCANCEL.parse(arguments)
    if not words and not options:
        raise Rejected("No job identification provided")
    state.record("accepted")
    for number in words:
        if not batch.end(state, "cancel", number.partition("_")[0].partition(".")[0]):
            raise UserError(f"Kill job error on job id {number}: Invalid job id specified")
    return 0


def _script(options: list[tuple[str, str]], words: list[str]) -> tuple[str, str]:
    """Return the batch script's text and name: a file, --wrap, or standard input."""
    wrapped = last(options, "wrap")
    if wrapped is not None:
        if words:
            raise Rejected("Script arguments not permitted with --wrap option")
        return f"#!/bin/sh\n{wrapped}\n", "wrap"
    if words:
        try:
            text, name = batch.script_text(words[0]), words[0]
        except OSError as error:
            raise UserError(f"Unable to open file {words[0]}: {error.strerror}") from error
    else:
        text, name = sys.stdin.read(), "stdin"
    if not text.startswith("#!"):
        raise UserError(
            "This does not look like a batch script.  The first line must start with #! followed by the path to an interpreter."
        )
    if "\r\n" in text:
        raise UserError("Batch script contains DOS line breaks (\\r\\n) instead of expected UNIX line breaks (\\n).")
    return text, name


def _merged(layers: list[list[Given]]) -> list[Given]:
    """Return all options, those of a later layer in place of an earlier one's."""
    merged: dict[str, list[Given]] = {}
    for layer in layers:
        merged.update({each.name: [other for other in layer if other.name == each.name] for each in layer})
    return [each for group in merged.values() for each in group[-1:]]


def _job(state: State, request: Request, words: list[str], name: str) -> batch.Job:
    options = {option: values[-1] for option, values in request.options.items()}
    warning = None
    if "signal" in options:
        match = re.fullmatch(r"(?:([RB]+):)?([^@]+)(?:@(\d+))?", options["signal"])
        assert match is not None
        warning = [match[2], int(match[3] or 60), "B" in (match[1] or "")]
    depends = re.findall(r"(?:([a-z]+):|:)?(\d+)", options.get("dependency", ""))
    cwd = options.get("chdir", str(Path.cwd()))
    if not Path(cwd).is_dir():
        raise UserError(f"couldn't chdir to `{cwd}': No such file or directory")
    return {
        "scheduler": "slurm", "name": request.name or Path(name).name, "words": words, "cwd": cwd,
        "command": str(Path(name).absolute()) if Path(name).exists() else "(null)", "account": options.get("account"),
        "qos": options.get("qos"),
        "variables": _exported(options.get("export", "ALL")),
        "nodes": request.nodes,
        # a description in the comment is for readers: Slurm itself sets nothing from it
        "ranks_per_node": request.ranks_per_node if {"ntasks", "ntasks-per-node"} & set(options) else None,
        "cores_per_rank": request.cores_per_rank if "cpus-per-task" in options else None,
        # but a node that is taken whole has the cores that the description speaks of
        "node_cores": (request.ranks_per_node or 1) * (request.cores_per_rank or 1) if "exclusive" in options else None,
        "gpus_per_node": request.gpus_per_node, "wall_s": request.wall_s, "array": list(request.array),
        "output": options.get("output"),
        "error": options.get("error"), "append": options.get("open-mode", "t").startswith("a"), "shell": None, "warning": warning,
        "depends": [[kind or "afterok", number] for kind, number in depends], "queue": request.queue, "submitted_from": str(Path.cwd()),
        "exclusive": "exclusive" in options, "comment": options.get("comment"), "parent": os.environ.get("STORMBENCH_STANDIN_JOB"),
        "time": time.time(),
    }  # fmt: skip


def _exported(export: str) -> dict[str, str]:
    """Return the submitter's variables that --export lets through."""
    if export == "ALL":
        return dict(os.environ)
    names = export.split(",")
    always = ("PATH", "HOME", "USER", "SHELL")
    kept = dict(os.environ) if "ALL" in names else {name: os.environ[name] for name in always if name in os.environ}
    for name in names:
        bare, sign, value = name.partition("=")
        if sign:
            kept[bare] = value
        elif bare in os.environ:
            kept[bare] = os.environ[bare]
    return kept


def _formatted(form: str, values: Mapping[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[2] not in values:
            raise Rejected(f"Invalid job format specification: {match[2]}")
        width = int(match[1].lstrip(".") or 0) if match[1] else 0
        return values[match[2]].ljust(width)

    return re.sub(r"%(\.?\d*)([A-Za-z])", one, form)
