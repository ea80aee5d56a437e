"""`python -m stormbench.job.standins PROGRAM ARG...` behaves as PROGRAM; the wrappers that `install` writes call it."""

from __future__ import annotations

import importlib
import os
import sys

from stormbench.core.errors import StormbenchError
from stormbench.job.standins.options import Rejected
from stormbench.job.standins.plan import PROGRAMS, State


def main(words: list[str]) -> int:
    """Run one stand-in and return its exit code; what the real program refuses is told on stderr, with code 1 or the program's own."""
    if not words or words[0] not in PROGRAMS:
        print(f"stand-ins: {words[0] if words else 'nothing'} is none of {', '.join(sorted(PROGRAMS))}", file=sys.stderr)
        return 2
    program, *arguments = words
    where, refusal = PROGRAMS[program]
    module, _, function = where.partition(":")
    state = State.open(program, arguments, os.environ)
    try:
        return int(getattr(importlib.import_module(f"stormbench.job.standins.{module}"), function)(state, arguments))
    except StormbenchError as error:
        state.record(f"rejected: {error}")
        prefix, hint, code = refusal
        print(prefix + str(error), *([hint] if hint and isinstance(error, Rejected) else []), sep="\n", file=sys.stderr)
        return code
    except BrokenPipeError:
        # the reader has what it wanted, as after `| head -1`; the interpreter must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
