"""LSF's commands: bsub as on Summit, whose esub insists on project, wall time and nodes, and which parses no script given as a word."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from stormbench.core.errors import UserError
from stormbench.job import directives_lsf
from stormbench.job.directives_base import Given, Request
from stormbench.job.standins import batch
from stormbench.job.standins.options import Rejected, every, last, table
from stormbench.job.standins.plan import INSIDE, State

NODE_CORES, NODE_GPUS = 42, 6
"""Of a Summit node, unless the job's description says more."""
_BJOBS = table("a A d G= J= l m= noheader N= o= P= p q= r s u= UF V w W WL X json h", "single")
_BKILL = table("b C= d J= l m= q= r s= stat= u= V h", "single")
_STATES = {"PENDING": "PEND", "RUNNING": "RUN", "COMPLETED": "DONE", "FAILED": "EXIT", "CANCELLED": "EXIT", "TIMEOUT": "EXIT"}


def bsub(state: State, arguments: list[str]) -> int:
    """Submit `bsub < script`, or `bsub script`, whose directives count only where LSB_BSUB_PARSE_SCRIPT=Y."""
    options, words = directives_lsf.BSUB.parse(arguments)
    if words:
        name, text = words[0], _named_script(words[0])
        parsed = text is not None and os.environ.get("LSB_BSUB_PARSE_SCRIPT", "N").upper() == "Y"
        # a shell reads the words again on the node, so that those with blanks or quotes in them are a command line of their own
        arguments, text = (words[1:], text) if text is not None else ([], f"#!/bin/sh\n{' '.join(words)}\n")
    else:
        arguments = []
        name, text, parsed = "standard input", sys.stdin.read(), True
        if not text.strip():
            raise Rejected("Empty job")
    layers = [
        directives_lsf.read_script(text, name) if parsed else [],
        [Given(name=option, value=value, where="the command line") for option, value in options],
    ]
    given = {
        name: [each for layer in layers for each in layer if each.name == name]
        for layer in layers
        for name in {each.name for each in layer}
    }
    request = directives_lsf.interpret(
        [each for name, group in given.items() for each in (group if name in directives_lsf.REPEATABLE else group[-1:])]
    )
    _insist(request, name if words and not parsed and "#BSUB" in text else None)
    job = _job(request, arguments, text)
    number = batch.take(state, text, job)
    state.record("accepted")
    print(f"Job <{number}> is submitted to {'' if request.queue else 'default '}queue <{request.queue or 'batch'}>.", flush=True)
    return batch.run_all(state, number)


def _named_script(name: str) -> str | None:
    """Return the text of a job script; None for any other command."""
    try:
        text = batch.script_text(name)
    except (OSError, ValueError):
        return None
    return None if "\0" in text else text


def environment(state: State, job: batch.Job, number: str, index: int | None, restarts: int) -> dict[str, str]:
    """Return the variables of the job script, which runs on a launch node beside the compute nodes."""
    nodes, cores = job["nodes"], max(NODE_CORES, (job["ranks_per_node"] or 0) * (job["cores_per_rank"] or 0))
    width = max(3, len(str(nodes)))
    hosts = [f"node{each:0{width}d}" for each in range(1, nodes + 1)]
    file = state.kept("lsf", f"hosts.{number}")
    file.write_text("batch1\n" + "".join(f"{host}\n" * cores for host in hosts), encoding="utf-8")
    values = {
        "LSB_JOBID": number, "LSB_JOBNAME": job["name"] + (f"[{index}]" if index is not None else ""), "LSB_DJOB_HOSTFILE": str(file),
        "LSB_DJOB_NUMPROC": str(nodes * cores + 1), "LSB_MAX_NUM_PROCESSORS": str(nodes * cores + 1), "LS_SUBCWD": job["submitted_from"],
        "LSB_HOSTS": " ".join(["batch1", *hosts]), "LSB_MCPU_HOSTS": " ".join(["batch1 1", *(f"{host} {cores}" for host in hosts)]),
        "LSB_JOBINDEX": str(index or 0), "LSB_QUEUE": job["queue"] or "batch", "LSB_SUB_HOST": socket.gethostname(),
        "LSF_BINDIR": str(state.folder),
        "LSB_BATCH_JID": number if index is None else f"{number}[{index}]", "STORMBENCH_STANDIN_CORES": str(cores),
        "STORMBENCH_STANDIN_GPUS": str(max(NODE_GPUS, job["gpus_per_node"])),
    }  # fmt: skip
    if len(values["LSB_HOSTS"]) > 4096:
        # LSF leaves out the list that would be too long for the environment; the file has it
        del values["LSB_HOSTS"]
    if restarts:
        values["LSB_RESTART"] = "Y"
    kept = {
        name: value for name, value in job["variables"].items() if not name.startswith(("LSB_DJOB", "LSB_JOB", "LSB_HOSTS", "LSB_MCPU"))
    }
    return {**kept, **values}


def bjobs(state: State, arguments: list[str]) -> int:
    """Print jobs, as a table or by -o and -noheader."""
    options, words = _BJOBS.parse(arguments)
    jobs = state.jobs()
    unknown = [word for word in words if word.partition("[")[0] not in jobs]
    if unknown:
        raise UserError(f"Job <{unknown[0]}> is not found")
    shown = {
        number: job
        for number, job in jobs.items()
        if (number in words if words else last(options, "a") is not None or job["state"] in ("PENDING", "RUNNING"))
    }
    state.record("accepted")
    fields = re.split(r"[ :]+", re.sub(r"delimiter=\S+", "", last(options, "o") or "").strip()) if last(options, "o") else None
    if fields is None:
        fields = ["jobid", "user", "stat", "queue", "from_host", "exec_host", "job_name"]
    if not shown:
        raise UserError("No unfinished job found")
    if last(options, "noheader") is None:
        print(" ".join(field.upper() for field in fields))
    for number, job in shown.items():
        values = {
            "jobid": number, "stat": _STATES[job["state"]], "queue": job["queue"] or "batch", "job_name": job["name"],
            "user": os.environ.get("USER", "user"),
            "from_host": socket.gethostname(), "exec_host": "batch1", "exit_code": str(job["code"] or "-"), "pend_reason": "-",
        }  # fmt: skip
        missing = [field for field in fields if field not in values]
        if missing:
            raise Rejected(f"{missing[0]}: Bad field name in -o")
        print(" ".join(values[field] for field in fields))
    return 0


def bkill(state: State, arguments: list[str]) -> int:
    """End jobs by id."""
    return _ask(state, arguments, "cancel", "Job <{}> is being terminated")


def brequeue(state: State, arguments: list[str]) -> int:
    """Kill running jobs and run them again."""
    return _ask(state, arguments, "requeue", "Job <{}> is being requeued")


def _ask(state: State, arguments: list[str], kind: str, told: str) -> int:
    _, words = (_BKILL if kind == "cancel" else table("a d e H J= p r s u= h V", "single")).parse(arguments)
    if not words:
        raise Rejected("Job ID is missing")
    state.record("accepted")
    for word in words:
        if not batch.end(state, kind, word.partition("[")[0]):
            raise UserError(f"Job <{word}>: Job has already finished" if word in state.jobs() else f"Job <{word}>: No matching job found")
        print(told.format(word))
    return 0


def _insist(request: Request, unparsed: str | None) -> None:
    """Raise for what Summit's esub refuses; `unparsed` is a script whose directives were not read."""
    hint = ""
    if unparsed is not None:
        hint = f" (the #BSUB lines of {unparsed} are read with `bsub < {unparsed}`, or where the site sets LSB_BSUB_PARSE_SCRIPT=Y)"

    def missing(what: str) -> NoReturn:
        raise UserError(f"{what}{hint}. Request aborted by esub")

    if "P" not in request.options and "LSB_DEFAULTPROJECT" not in os.environ:
        missing("No project specified: use -P, or set LSB_DEFAULTPROJECT")
    if request.wall_s is None:
        missing("No wall time specified: use -W [H:]MM")
    if "nnodes" not in request.options and "csm" not in request.options:
        missing("No number of nodes specified: use -nnodes")


def _job(request: Request, words: list[str], text: str) -> batch.Job:
    options = {option: values[-1] for option, values in request.options.items()}
    warning = None
    if "wa" in options:
        name = options["wa"].upper().removeprefix("SIG")
        if re.fullmatch(r"HUP|INT|QUIT|TERM|USR1|USR2|URG|CONT|[1-9]\d?", name):
            # LSF signals the job's whole process group; shells that trap it and what they started alike
            warning = [name, directives_lsf.minutes(Given(name="wt", value=options["wt"], where="-wt")) * 60, True]
    cwd = options.get("cwd", str(Path.cwd()))
    first = text.splitlines()[0]
    variables = dict(os.environ)
    for item in re.split(r",\s*", options.get("env", "all")):
        name, sign, value = item.partition("=")
        if sign:
            variables[name] = value.strip("'\"")
        elif name == "none":
            variables = {name: os.environ[name] for name in ("HOME", "PATH", "USER", "SHELL") if name in os.environ}
    depends = re.findall(r"(done|ended|exit|started)\(\s*\"?(\d+)", options.get("w", ""))
    return {
        "scheduler": "lsf", "name": request.name or "job", "words": words, "cwd": cwd, "variables": variables, "nodes": request.nodes,
        "ranks_per_node": request.ranks_per_node, "cores_per_rank": request.cores_per_rank, "gpus_per_node": request.gpus_per_node,
        "wall_s": request.wall_s, "array": list(request.array), "output": options.get("oo", options.get("o")),
        "error": options.get("eo", options.get("e")), "append": "oo" not in options,
        "shell": options.get("L") or (None if first.startswith("#!") else "/bin/sh"),
        "warning": warning, "depends": [list(pair) for pair in depends], "queue": request.queue, "submitted_from": str(Path.cwd()),
        "parent": os.environ.get(INSIDE), "time": time.time(),
        "resources": every([("R", value) for value in request.options.get("R", [])], "R"),
    }  # fmt: skip
