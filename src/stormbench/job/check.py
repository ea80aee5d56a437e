"""`stormbench check`: everything that can be known to be wrong with a config before it waits in a queue, in one line each."""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from stormbench.core.errors import EXIT_DONE, EXIT_USER, UserError
from stormbench.core.progress import say
from stormbench.core.workloads import WORKLOADS
from stormbench.job.findings import ERROR, Finding, counted, error
from stormbench.job.load import Job, load
from stormbench.job.rules.science import global_batch
from stormbench.job.values import clock

LONGEST = 1000
"""Characters of a printed finding; a longer one has a value in it that nobody reads to its end."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="shell configs, such as configs/config_DGXA100_16x8x1.sh")
    parser.add_argument("--benchmark", choices=tuple(WORKLOADS), metavar="NAME", help="check for this benchmark, not the config's own")
    parser.add_argument("--json", action="store_true", help="as a JSON list, with every finding and the layout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every config, tell what was found, and return 2 if any of them has an error.

    Raises:
        UserError: no config is given.
    """
    if not arguments.configs:
        raise UserError("stormbench check: no config is given; name some of those in configs/, such as configs/config_DGXA100_16x8x1.sh")
    overrides = {"STORMBENCH_BENCHMARK": arguments.benchmark} if arguments.benchmark else {}
    wrong, rows = False, []
    for path in arguments.configs:
        job, findings = examine(path, overrides)
        failed = any(finding.level == ERROR for finding in findings)
        wrong = wrong or failed
        if arguments.json:
            rows.append(_row(path, job, findings, not failed))
            continue
        for finding in findings:
            say(one_line(str(finding)))
        if job is not None and not failed:
            print(one_line(f"{path}: OK, {describe(job)}"))
    if arguments.json:
        print(json.dumps(rows, indent=2))
    return EXIT_USER if wrong else EXIT_DONE


def examine(path: str, overrides: dict[str, str]) -> tuple[Job | None, tuple[Finding, ...]]:
    """Return a config's job and findings; a config that can't be sourced has no job and one finding."""
    try:
        job = load(path, os.environ, overrides)
    except UserError as wrong:
        return None, (placed(path, str(wrong)),)
    return job, job.findings


def placed(path: str, sentence: str) -> Finding:
    """Return the error of a sentence that begins with its place: `path`, or a file sourced by it, with or without a line."""
    place = re.match(rf"({re.escape(path)}|[^:\n]+)(:\d+)?: ", sentence)
    if place is None:
        return error(path, sentence)
    return error(place[0][:-2], sentence[place.end() :])


def describe(job: Job) -> str:
    """Return what the job will be: nodes x ranks, global batch, wall time."""
    layout = job.layout
    if layout is None:
        return job.benchmark
    parts = [f"{job.benchmark} on {layout.nodes} x {layout.ranks_per_node} = {counted(layout.ranks, 'rank')}"]
    if layout.instances > 1:
        parts.append(f"{layout.instances} instances of {counted(layout.ranks_per_instance, 'rank')}")
    batch = global_batch(job)
    if batch is not None:
        parts.append(f"global batch {batch}")
    parts.append(f"wall time {clock(layout.wall_s)}" if layout.wall_s is not None else "no wall time")
    return ", ".join(parts)


def one_line(text: str) -> str:
    """Return `text` as one printable line: a value may hold line ends, escape sequences or bytes that are no text."""
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"


def _row(path: str, job: Job | None, findings: tuple[Finding, ...], ok: bool) -> dict[str, Any]:
    told = [{"level": finding.level, "where": one_line(finding.where), "text": one_line(finding.text)} for finding in findings]
    return {"config": path, "ok": ok, "findings": told, "layout": _layout(job)}


def _layout(job: Job | None) -> dict[str, Any] | None:
    if job is None or job.layout is None:
        return None
    layout = job.layout
    return {
        "benchmark": job.benchmark, "nodes": layout.nodes, "ranks_per_node": layout.ranks_per_node, "ranks": layout.ranks,
        "instances": layout.instances, "ranks_per_instance": layout.ranks_per_instance, "cores_per_rank": layout.cores_per_rank,
        "gpus_per_node": layout.gpus_per_node, "gpus": layout.gpus, "global_batch": global_batch(job), "wall_s": layout.wall_s,
    }  # fmt: skip
