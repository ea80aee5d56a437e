"""Commands that call one function and print its summary: what the data tools of both workloads have in common."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from typing import Any

from stormbench.core.errors import EXIT_DONE

Options = Callable[[argparse.Namespace], dict[str, Any]]


def positive(text: str) -> int:
    """An argument type: a whole number of at least 1."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """An argument type: a whole number of at least 0."""
    return _whole(text, 0)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the summary as JSON."""
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the number of processes, and the summary as JSON."""
    parser.add_argument("--workers", type=positive, default=None, metavar="N", help="processes (default: one for each core)")
    add_json(parser)


def set_tool(parser: argparse.ArgumentParser, module: str, options: Options, *positions: str) -> None:
    """Let the command call `run` of `module` with the named positional arguments and `options`; rank 0 prints what it returns.

    A module with a function `text` says itself how its summary reads.
    """

    def run(arguments: argparse.Namespace) -> int:
        tool = importlib.import_module(module)
        summary = tool.run(*(getattr(arguments, name) for name in positions), **options(arguments))
        from stormbench.core.work import world

        if world().rank == 0:
            if getattr(arguments, "json", False):
                print(json.dumps(summary, indent=2, default=str))
            elif hasattr(tool, "text"):
                print(tool.text(summary))
            else:
                print("\n".join(f"{name}: {value}" for name, value in summary.items()))
        return EXIT_DONE

    parser.set_defaults(run=run)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least {least}")
    return value
