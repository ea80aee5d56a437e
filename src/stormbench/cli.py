"""The one command. Every group of subcommands lives beside its part of the program and is imported only when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from stormbench import __version__
from stormbench.core.arguments import Parser
from stormbench.core.errors import EXIT_DONE, StormbenchError, UserError, did_you_mean

GROUPS = {
    "deepcam": ("storms in climate data (PyTorch): make data, convert it, train", "stormbench.deepcam.commands"),
    "results": ("judge what runs have left in their folders", "stormbench.results.commands"),
    "variables": ("all options with their environment variables, defaults and bounds", "stormbench.variables"),
}
DESCRIPTION = """\
Scientific deep-learning benchmarks, from raw data to a checked, comparable result.

Each option can be given as a flag or as an environment variable; `stormbench variables` lists them all.
Exit codes: 0 done, 1 something failed, 2 the input is wrong, 75 stopped as asked with a checkpoint, to be continued."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; mistakes end in one sentence on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except StormbenchError as error:
        text = str(error)
        if text:
            print(text if text.startswith("stormbench ") else f"stormbench: {text}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stormbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output has left, as `head` does; the interpreter must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _run(words: list[str]) -> int:
    parser = Parser(prog="stormbench", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"stormbench {__version__}")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", dest="group")
    chosen = next((word for word in words if not word.startswith("-")), None)
    if chosen is not None and chosen not in GROUPS:
        raise UserError(f"{chosen} is not a command{did_you_mean(chosen, GROUPS)}; see stormbench --help")
    for name, (summary, module) in GROUPS.items():
        group = groups.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:
            importlib.import_module(module).configure(group)
    arguments = parser.parse_args(words)
    if getattr(arguments, "run", None) is None:
        (parser if chosen is None else groups.choices[chosen]).print_help()
        return EXIT_DONE
    return arguments.run(arguments)
