"""`stormbench doctor`: what would make a job fail on this machine, or on a node of its own, each finding with its remedy."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, UserError
from stormbench.core.tables import show
from stormbench.core.workloads import WORKLOADS

DETAIL = """\
With CONFIG the checks are about that job: its runtime, image, folders, cores, GPUs and limits. On a login node, what belongs to the
nodes is left out; --job starts the same checks on one, in a job of one task. Exit code 1 if there is a problem."""
WAIT_S = 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.description = f"{parser.description or ''}\n\n{DETAIL}".strip()
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the job that the checks are about")
    parser.add_argument(
        "--benchmark",
        choices=tuple(WORKLOADS),
        metavar="NAME",
        help=f"the workload, one of {', '.join(WORKLOADS)}; by default the config's own",
    )
    parser.add_argument("--job", action="store_true", help="run the checks on a node too, in a job of one task and five minutes")
    parser.add_argument("--account", metavar="NAME", help="account for --job, where the scheduler's own variables don't give one")
    parser.add_argument("--wait", metavar="SECONDS", default=f"{WAIT_S:g}", help=f"how long --job waits for a node (default {WAIT_S:g})")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the checks, print them, and return 1 if one of them is a problem."""
    from stormbench.core.progress import say
    from stormbench.job.checks import examine
    from stormbench.job.checks.batch import config_results
    from stormbench.job.checks.machine import Machine
    from stormbench.job.checks.remote import doctor_words, on_a_node, scheduler_of
    from stormbench.job.checks.result import PROBLEM, Result
    from stormbench.job.load import load

    wait_s = _seconds(arguments.wait)
    overrides = {"STORMBENCH_BENCHMARK": arguments.benchmark} if arguments.benchmark else {}
    environ = {**os.environ, **overrides}
    job = load(arguments.config, os.environ, overrides) if arguments.config else None
    machine = Machine(environ=environ, job=job)
    if arguments.job:
        scheduler_of(machine)
    results: list[Result] = [dataclasses.replace(result, host=machine.host) for result in (config_results(job) if job is not None else [])]
    results += examine(machine)
    if arguments.job:
        say(f"waiting at most {wait_s:g} s for a node")
        of_node = on_a_node(machine, doctor_words(arguments.config, arguments.benchmark), arguments.account, wait_s)
        # the config's own findings are told once, unless the node sees others, such as a path that is absent there
        told = {(result.group, result.found) for result in results}
        results += [result for result in of_node if result.group != "config" or (result.group, result.found) not in told]
    report(results, as_json=arguments.json)
    return EXIT_FAILED if any(result.verdict == PROBLEM for result in results) else EXIT_DONE


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise UserError(f"--wait {text}: must be a number of seconds, above 0 and at most 86400")
    return seconds


def report(results: Sequence, *, as_json: bool) -> None:
    """Print the findings as a table with the remedies below it, or all as JSON."""
    if as_json:
        show([result.row() for result in results], as_json=True)
        return
    several = len({result.host for result in results}) > 1
    rows = [{name: text for name, text in result.row().items() if name != "remedy" and (several or name != "host")} for result in results]
    show(rows, as_json=False)
    remedies = [result for result in results if result.remedy]
    if remedies:
        # a column of their own would push sentences off any screen
        print()
        rows = [{"to do": f"{f'{result.host}: ' if several else ''}{result.check}", "remedy": result.remedy} for result in remedies]
        show(rows, as_json=False)
    counts = Counter(result.verdict for result in results)
    print("\n" + ", ".join(f"{counts[name]} {name}" for name in ("problem", "warning", "ok", "not applicable") if counts[name]))
