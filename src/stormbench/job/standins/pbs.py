"""PBS Pro's commands: qsub runs the script here in a plain shell from the home folder, as PBS does; the others know its job."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import time
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job import directives_pbs
from stormbench.job.directives_base import Given, Request
from stormbench.job.standins import batch
from stormbench.job.standins.options import Rejected, last, table
from stormbench.job.standins.plan import INSIDE, State

SERVER = "rehearsal"
_QSTAT = table("a B E f F= G H i J M n p q Q r s S t T u= w x 1 version", "gnu")
_STATES = {"PENDING": "Q", "RUNNING": "R", "COMPLETED": "F", "FAILED": "F", "CANCELLED": "F", "TIMEOUT": "F"}


def qsub(state: State, arguments: list[str]) -> int:
    """Submit a script; its directives count, and the command line's options override them."""
    options, words = directives_pbs.QSUB.parse(arguments)
    if last(options, "version") is not None:
        print("pbs_version = 2022.1.3")
        return 0
    # a command of its own stands behind two dashes, which the options' reader has dropped
    dashes = len(words) < len(arguments) and arguments[-len(words) - 1] == "--"
    text, name = (f"#!/bin/sh\nexec {shlex.join(words)}\n", "STDIN") if dashes and words else _script(words, dashes)
    line = directives_pbs.split([Given(name=option, value=value, where="the command line") for option, value in options])
    selects = [each for each in line if directives_pbs.key(each) == "l select"]
    if len(selects) > 1:
        raise Rejected("a second -l select overrides the first; write one")
    merged: dict[str, Given] = {}
    for each in [*directives_pbs.read_script(text, name), *line]:
        merged[directives_pbs.key(each)] = each
    request = directives_pbs.interpret(merged.values())
    if {"I", "X"} & set(request.options):
        raise UserError("interactive jobs are not rehearsed; submit a script")
    number = batch.take(state, text, _job(request, name))
    state.record("accepted")
    if "z" not in request.options:
        print(_id(number, request.array), flush=True)
    return batch.run_all(state, number)


def environment(state: State, job: batch.Job, number: str, index: int | None, restarts: int) -> dict[str, str]:
    """Return the variables of the job script: a login's, and PBS's own with the node file of the full allocation."""
    nodes, ranks, width = job["nodes"], job["ranks_per_node"] or 1, max(3, len(str(job["nodes"])))
    file = state.kept("pbs", f"nodes.{number}")
    file.write_text("".join(f"node{each:0{width}d}\n" * ranks for each in range(1, nodes + 1)), encoding="utf-8")
    values = {
        "PBS_JOBID": f"{number}{f'[{index}]' if index is not None else ''}.{SERVER}", "PBS_JOBNAME": job["name"],
        "PBS_O_WORKDIR": job["submitted_from"],
        "PBS_NODEFILE": str(file), "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_QUEUE": job["queue"] or "workq",
        "PBS_O_QUEUE": job["queue"] or "workq",
        "PBS_O_HOST": socket.gethostname(), "PBS_O_HOME": os.environ.get("HOME", "/"), "PBS_O_PATH": os.environ.get("PATH", ""),
        "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1", "PBS_MOMPORT": "15003", "PBS_JOBDIR": job["cwd"], "NCPUS": str(ranks * (job["cores_per_rank"] or 1)),
        "ENVIRONMENT": "BATCH",
    }  # fmt: skip
    if index is not None:
        values |= {"PBS_ARRAY_INDEX": str(index), "PBS_ARRAY_ID": f"{number}[].{SERVER}"}
    return {**{name: value for name, value in job["variables"].items() if not name.startswith("PBS_")}, **values}


def qstat(state: State, arguments: list[str]) -> int:
    """Print jobs; `-f` in full, `-x` finished ones as well."""
    options, words = _QSTAT.parse(arguments)
    jobs, finished = state.jobs(), last(options, "x") is not None
    for word in words:
        job = jobs.get(_number(word))
        if job is None:
            raise UserError(f"Unknown Job Id {word}")
        if not finished and job["state"] not in ("PENDING", "RUNNING"):
            raise UserError(f"{word} Job has finished, use -x or -H to obtain historical job information")
    state.record("accepted")
    numbers = [_number(word) for word in words] or [
        each for each, job in jobs.items() if finished or job["state"] in ("PENDING", "RUNNING")
    ]
    if last(options, "f") is not None:
        for number in numbers:
            job = jobs[number]
            print(f"Job Id: {number}.{SERVER}\n    Job_Name = {job['name']}\n    job_state = {_STATES[job['state']]}")
            print(f"    queue = {job['queue'] or 'workq'}")
            if job["account"]:
                print(f"    Account_Name = {job['account']}")
            if job["code"] is not None:
                print(f"    Exit_status = {job['code']}")
            print(f"    Resource_List.nodect = {job['nodes']}\n")
        return 0
    if numbers:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
    for number in numbers:
        job = jobs[number]
        user, queue = os.environ.get("USER", "user"), job["queue"] or "workq"
        print(f"{number + '.' + SERVER:<17} {job['name'][:16]:<16} {user:<16}  00:00:00 {_STATES[job['state']]} {queue}")
    return 0


def qdel(state: State, arguments: list[str]) -> int:
    """End jobs by id."""
    return _ask(state, arguments, "cancel", table("W= x"))


def qrerun(state: State, arguments: list[str]) -> int:
    """Kill running jobs and run them again."""
    return _ask(state, arguments, "requeue", table("W="))


def _ask(state: State, arguments: list[str], kind: str, known: object) -> int:
    _, words = known.parse(arguments)  # type: ignore[attr-defined]
    if not words:
        raise Rejected("no job id given")
    state.record("accepted")
    for word in words:
        if not batch.end(state, kind, _number(word)):
            raise UserError(f"Job has finished {word}" if _number(word) in state.jobs() else f"Unknown Job Id {word}")
    return 0


def _number(word: str) -> str:
    return re.split(r"[.\[]", word)[0]


def _id(number: str, array: tuple[int, ...]) -> str:
    return f"{number}{'[]' if array else ''}.{SERVER}"


def _script(words: list[str], dashes: bool) -> tuple[str, str]:
    if dashes or len(words) > 1:
        raise Rejected("-- needs a command behind it" if dashes else f"{words[1]!r} stands behind the script, which must be the last word")
    if not words or words[0] == "-":
        return sys.stdin.read(), "STDIN"
    try:
        text = batch.script_text(words[0])
    except OSError as error:
        raise UserError(f"script file:: {error.strerror}: {words[0]}") from error
    if "\0" in text:
        raise UserError(f"script file:: {words[0]} is a program, not a script; use qsub -- {words[0]}")
    return text, words[0]


def _job(request: Request, name: str) -> batch.Job:
    options = request.options
    home = os.environ.get("HOME", "/")
    variables = (
        dict(os.environ)
        if "V" in options
        else {each: os.environ[each] for each in ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ", "MAIL") if each in os.environ}
    )
    for item in re.split(r",(?=[A-Za-z_])", ",".join(options.get("v", []))):
        bare, sign, value = item.partition("=")
        if sign:
            variables[bare] = value.strip("'\"")
        elif bare in os.environ:
            variables[bare] = os.environ[bare]
    joined = options.get("j", ["n"])[-1]
    output, error = (_path(options[option][-1]) if option in options else None for option in ("o", "e"))
    attributes = dict(each.partition("=")[::2] for each in options.get("W", []))
    depends = [
        [kind, number]
        for kind, rest in re.findall(r"(\w+)((?::[\w.\[\]@-]+)+)", attributes.get("depend", ""))
        for number in re.findall(r":(\d+)", rest)
    ]
    return {
        "scheduler": "pbs", "name": request.name or Path(name).name[:230], "words": [], "cwd": home, "variables": variables,
        "nodes": request.nodes,
        "ranks_per_node": request.ranks_per_node, "cores_per_rank": request.cores_per_rank, "gpus_per_node": request.gpus_per_node,
        "wall_s": request.wall_s, "array": list(request.array), "output": (error or output) if joined == "eo" else output,
        "error": None if joined in ("oe", "eo") else error, "append": False, "shell": options.get("S", ["/bin/bash"])[-1],
        "warning": None,
        "depends": depends, "queue": request.queue, "account": options.get("A", [None])[-1], "submitted_from": str(Path.cwd()),
        "parent": os.environ.get(INSIDE), "time": time.time(),
    }  # fmt: skip


def _path(text: str) -> str:
    """Return the local path of `[HOST:]PATH`, from the folder of submission; a folder gets PBS's own name for the file."""
    path = Path(Path.cwd(), text.rpartition(":")[2])
    return str(path / f"%j.{SERVER}.OU") if path.is_dir() else str(path)
