"""The directives of a job script, read as strictly as schedulers read them: so it is known what a rendered script asks for."""

from __future__ import annotations

from collections.abc import Callable

from stormbench.core.errors import UserError, did_you_mean
from stormbench.job import directives_lsf, directives_pbs, directives_slurm
from stormbench.job.directives_base import Given, Request

__all__ = ["Given", "Request", "parse"]

_PARSERS: dict[str, Callable[[str, str], Request]] = {
    "slurm": lambda text, origin: directives_slurm.interpret(directives_slurm.read_script(text, origin)),
    "lsf": lambda text, origin: directives_lsf.interpret(directives_lsf.read_script(text, origin)),
    "pbs": lambda text, origin: directives_pbs.interpret(directives_pbs.read_script(text, origin)),
}


def parse(text: str, scheduler: str, origin: str = "job") -> Request:
    """Return what the directives of the script `text` ask `scheduler` (slurm, lsf or pbs) for.

    `origin` is the script's name for messages. Directives count up to the first command; one further down is an error
    here, as the scheduler would ignore it without a word.

    Raises:
        UserError: an unknown option, a value that doesn't fit, or options that contradict each other; it begins with the place.
    """
    if scheduler not in _PARSERS:
        raise UserError(f"{scheduler} has no directives; use one of {', '.join(_PARSERS)}{did_you_mean(scheduler, _PARSERS)}")
    return _PARSERS[scheduler](text, origin)
