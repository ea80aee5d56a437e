"""The commands under `stormbench results`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, UserError
from stormbench.core.tables import show
from stormbench.core.verdict import judge


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="the verdict on each trial's MLPerf log",
        description="Judge MLPerf logs by the official checker (hpc 3.0.0). The verdict is one of: compliant; complete, target missed; "
        "non-compliant; failed. The exit code is 1 if any is one of the last two.",
    )
    check.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a result_<n>.txt")
    check.add_argument(
        "--any_settings", action="store_true",
        help="exit with 0 too where a complete run only has another seed or patch size than CloudMask's rules fix, as jobs do",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="as a JSON list, with every complaint")
    check.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    """Judge every log of the folders and files given."""
    logs = [log for run in arguments.runs for log in logs_of(run)]
    verdicts = [(log, judge(log)) for log in logs]
    if arguments.json:
        fields = [{"log": str(log), "verdict": v.verdict, "reason": v.reason, "complaints": list(v.complaints)} for log, v in verdicts]
        print(json.dumps(fields, indent=2))
    else:
        show([{"log": str(log), "verdict": v.verdict, "reason": v.reason} for log, v in verdicts], as_json=False)
        for log, verdict in verdicts:
            for complaint in verdict.complaints:
                print(f"{log}: {complaint}")
    failed = any(verdict.exit_code and not (arguments.any_settings and verdict.only_settings) for _, verdict in verdicts)
    return EXIT_FAILED if failed else EXIT_DONE


def logs_of(run: Path) -> list[Path]:
    """Return the logs of a run folder in the order of their trials, or the file itself.

    Raises:
        UserError: there is no such folder or file, or it has no result_<n>.txt.
    """
    if run.is_file():
        return [run]
    logs = sorted(run.glob("result_*.txt"), key=lambda path: (len(path.name), path.name))
    if not logs:
        raise UserError(f"{run}: no result_<n>.txt there; give a run folder or a log")
    return logs
