"""The one command. Every group of subcommands lives beside its part of the program and is imported only when it is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import sys
import time
from collections.abc import Sequence

from stormbench import __version__
from stormbench.core import garbage
from stormbench.core.arguments import Parser
from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, StormbenchError, UserError, did_you_mean
from stormbench.core.progress import UNWRITABLE, discard, say

GROUPS = {
    "deepcam": ("storms in climate data (PyTorch): make data, convert it, train", "stormbench.deepcam.commands"),
    "cloudmask": ("clouds in satellite images (TensorFlow): make data, convert it, train, infer, compare", "stormbench.cloudmask.commands"),
    "check": ("validate shell configs before anything is queued", "stormbench.job.check"),
    "render": ("turn a config into the script of its scheduler", "stormbench.job.render"),
    "submit": ("check, render and submit a config", "stormbench.job.submit"),
    "status": ("how submitted runs stand", "stormbench.job.follow:configure_status"),
    "logs": ("what submitted runs print", "stormbench.job.follow:configure_logs"),
    "cancel": ("end submitted runs", "stormbench.job.follow:configure_cancel"),
    "rehearse": ("run the very job script on this machine, with stand-ins for the scheduler and the containers", "stormbench.job.rehearse"),
    "doctor": ("check this machine, or a node in a job, for what often goes wrong", "stormbench.job.doctor"),
    "images": ("build, try and export container images, and lock what they are made of", "stormbench.job.images.commands"),
    "results": ("judge what runs have left in their folders", "stormbench.results.commands"),
    "variables": ("all options with their environment variables, defaults and bounds", "stormbench.variables"),
}
SILENT_S = 5.0
"""How long a rank that has nothing to tell stays, for the one that has: launchers that end all ranks at its end don't wait for it."""
DESCRIPTION = """\
Scientific deep-learning benchmarks, from raw data to a checked, comparable result.

Each option can be given as a flag or as an environment variable; `stormbench variables` lists them all.
Exit codes: 0 done, 1 something failed, 2 the input is wrong, 75 stopped as asked with a checkpoint, to be continued."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; mistakes end in one sentence on standard error."""
    code = _guarded(list(sys.argv[1:] if argv is None else argv))
    try:
        # here, as an error in the interpreter's own last flush would be a traceback and another exit code
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if code == EXIT_DONE and not isinstance(error, BrokenPipeError):
            code = _failed(error)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except UNWRITABLE:
        discard(sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    code = main()
    told = os.environ.get("STORMBENCH_RESULT_FILE")
    if told:
        # the job-side entry reads it where the shell has lost the code
        with contextlib.suppress(OSError), open(told, "a", encoding="utf-8") as stream:
            stream.write(f"exit_code={code}\n")
    garbage.leave()
    sys.exit(code)


def _guarded(words: list[str]) -> int:
    """Run the command; whatever ends it becomes an exit code and at most one sentence."""
    try:
        return _run(words)
    except StormbenchError as error:
        text = str(error)
        if text:
            say(text if text.startswith("stormbench ") else f"stormbench: {text}")
        else:
            # another rank tells what ended all; mpirun kills the others as soon as one has left with an error, so that one goes first
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(SILENT_S)
        return error.exit_code
    except KeyboardInterrupt:
        say("stormbench: interrupted")
        return 130
    except SystemExit as leave:
        # argparse leaves so after --help
        return leave.code if isinstance(leave.code, int) else EXIT_FAILED if leave.code else EXIT_DONE
    except OSError as error:
        left = isinstance(error, BrokenPipeError) and _reader_has_left()
        # the interpreter must not complain at exit
        if error.filename is None:
            discard(sys.stdout)
        return EXIT_DONE if left else _failed(error)


def _failed(error: OSError) -> int:
    """Say in one sentence what an OSError was about; those that name no file come from writing to a stream."""
    why = (error.strerror or str(error) or type(error).__name__).lower()
    if error.filename is not None:
        say(f"stormbench: {error.filename}: {why}")
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
        say(f"stormbench: standard output: not written, {why}")
    else:
        say(f"stormbench: the operating system refused the work: {why}")
    return EXIT_FAILED


def _reader_has_left() -> bool:
    """Whether nobody reads our output any more, as after `| head`, rather than some other pipe having broken."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        return bool(poller.poll(0))
    except (AttributeError, *UNWRITABLE):
        return False


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
            path, _, function = module.partition(":")
            getattr(importlib.import_module(path), function or "configure")(group)
    arguments = parser.parse_args(words)
    if getattr(arguments, "run", None) is None:
        (parser if chosen is None else groups.choices[chosen]).print_help()
        return EXIT_DONE
    return arguments.run(arguments)
