"""The learning rate of each optimizer step, as a pure function of the step, so that a continued run needs no scheduler state.

Imports no torch: the command line parses schedules on login nodes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from stormbench.core.errors import UserError, did_you_mean

MULTISTEP, COSINE = "multistep", "cosine_annealing"
TYPES = (MULTISTEP, COSINE)
_KEYS = {MULTISTEP: ("milestones", "decay_rate"), COSINE: ("t_max", "eta_min")}
_PIECE = re.compile(r"""\s*([^=,"'\s]+)\s*=\s*("[^"]*"|'[^']*'|[^,"']*)\s*(?:,|$)""")
_EXAMPLE = 'type="multistep",milestones="5000 10000",decay_rate="0.1" or type="cosine_annealing",t_max="9000",eta_min="0"'


class ScheduleError(UserError, ValueError):
    """A schedule that can't be. It is a ValueError too, so that the option it came from is put before its sentence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What follows warm-up. `type` None keeps the rate; milestones and `t_max` are in steps after the end of warm-up.

    Raises:
        ScheduleError: a value is outside its limits, or the type lacks what it needs.
    """

    type: str | None = None
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    t_max: int | None = None
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        if self.type is not None and self.type not in TYPES:
            raise ScheduleError(f"schedule type {self.type!r} is not known; use one of {', '.join(TYPES)}{did_you_mean(self.type, TYPES)}")
        _check_milestones(self.milestones)
        if not 0 < self.decay_rate <= 1:
            raise ScheduleError(f"decay_rate {self.decay_rate:g} must be above 0 and at most 1")
        if self.t_max is not None and self.t_max < 1:
            raise ScheduleError(f"t_max {self.t_max} must be at least 1 step")
        if not (self.eta_min >= 0 and math.isfinite(self.eta_min)):
            raise ScheduleError(f"eta_min {self.eta_min:g} must be a finite number of at least 0")
        if self.type == COSINE and self.t_max is None:
            raise ScheduleError(f'schedule type {COSINE} needs t_max, the length of half a period in steps; add t_max="9000"')


def learning_rate(
    step: int,
    start_lr: float,
    type: str | None = None,
    warmup_steps: int = 0,
    warmup_factor: float = 1.0,
    milestones: Sequence[int] = (),
    decay_rate: float = 0.1,
    t_max: int | None = None,
    eta_min: float = 0.0,
) -> float:
    """Return the rate that the 0-based optimizer step `step` uses.

    Warm-up is linear from `start_lr` to target = `warmup_factor` * `start_lr`, or from 0 to `start_lr` where the factor is 1; the
    last warm-up step, `warmup_steps` - 1, uses the target itself. After it, with k = `step` - `warmup_steps`:

        None              target
        multistep         target * decay_rate ** (number of milestones <= k)
        cosine_annealing  eta_min + (target - eta_min) * (1 + cos(pi * k / t_max)) / 2

    The cosine is Loshchilov and Hutter 2017, eq. 5, without restarts, and as `CosineAnnealingLR` of torch it goes up again after
    `t_max`, which is half a period. A rate of 0 during warm-up never occurs: step 0 already uses 1 / `warmup_steps` of the way.

    Raises:
        ScheduleError: `step` is negative, the type is unknown, or cosine annealing has no `t_max`.
    """
    if step < 0:
        raise ScheduleError(f"step {step} must be at least 0")
    if type is not None and type not in TYPES:
        raise ScheduleError(f"schedule type {type!r} is not known; use one of {', '.join(TYPES)}{did_you_mean(type, TYPES)}")
    target = start_lr if warmup_steps < 1 else warmup_factor * start_lr
    if step < warmup_steps:
        base = 0.0 if warmup_factor == 1 else start_lr
        done = (step + 1) / warmup_steps
        return base * (1 - done) + target * done
    after = step - warmup_steps
    if type == MULTISTEP:
        return target * decay_rate ** sum(milestone <= after for milestone in milestones)
    if type == COSINE:
        if t_max is None or t_max < 1:
            raise ScheduleError(f"t_max {t_max} must be at least 1 step for {COSINE}")
        return eta_min + (target - eta_min) * (1 + math.cos(math.pi * after / t_max)) / 2
    return target


def parse(text: str) -> Schedule:
    """Read `type="multistep",milestones="5000 10000",decay_rate="0.1"` or `type="cosine_annealing",t_max="9000",eta_min="0"`.

    Quotes may be missing, as shells take them away. decay_rate and eta_min have defaults (0.1 and 0); milestones may be empty.

    Raises:
        ScheduleError: names the piece that is wrong and what would be right.
    """
    pieces = _pieces(text)
    kind = pieces.pop("type", None)
    if kind is None:
        raise ScheduleError(f"{text!r} has no type; write {_EXAMPLE}")
    if kind not in TYPES:
        raise ScheduleError(f"type={kind!r} is not a schedule; use one of {', '.join(TYPES)}{did_you_mean(kind, TYPES)}")
    for key in pieces:
        if key not in _KEYS[kind]:
            known = ", ".join(_KEYS[kind])
            raise ScheduleError(f"{key} does not belong to the schedule {kind}, which takes {known}{did_you_mean(key, _KEYS[kind])}")
    if kind == MULTISTEP and "milestones" not in pieces:
        raise ScheduleError(f'{text!r} has no milestones; add milestones="5000 10000", or milestones="" for none')
    convert: dict[str, Callable[[str], Any]] = {
        "milestones": parse_milestones,
        "decay_rate": lambda value: _number("decay_rate", value, float),
        "t_max": lambda value: _number("t_max", value, int),
        "eta_min": lambda value: _number("eta_min", value, float),
    }
    return Schedule(type=kind, **{key: convert[key](value) for key, value in pieces.items()})


def parse_milestones(text: str) -> tuple[int, ...]:
    """Read milestones, steps separated by spaces or colons, such as `1100 4096` or `1100:4096`; an empty text has none.

    Raises:
        ScheduleError: one is not a whole number of at least 1, or they do not rise.
    """
    words = text.replace(":", " ").split()
    milestones = tuple(_number("milestones", word, int, "; separate steps by spaces or colons, as in 5000 10000") for word in words)
    _check_milestones(milestones)
    return milestones


def _check_milestones(milestones: Sequence[int]) -> None:
    for milestone in milestones:
        if milestone < 1:
            raise ScheduleError(f"milestones: {milestone} must be at least 1 step")
    for before, milestone in itertools.pairwise(milestones):
        if milestone == before:
            raise ScheduleError(f"milestones: {milestone} is given twice; leave one out")
        if milestone < before:
            raise ScheduleError(f"milestones: {milestone} comes after {before}; give them in rising order")


def _pieces(text: str) -> dict[str, str]:
    """Cut `key="value",...` at the commas outside quotes."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text) or position == 0 or text[position - 1] == ",":
        match = _PIECE.match(text, position)
        if match is None:
            rest = text[position:].strip()
            raise ScheduleError(f'{rest!r} can\'t be read as key="value" pieces separated by commas; write {_EXAMPLE}')
        key = match[1].lower()
        if key in found:
            raise ScheduleError(f"{key} is given twice; leave one out")
        found[key] = match[2].strip().strip("\"'").strip()
        position = match.end()
    return found


def _number(key: str, text: str, kind: type[int] | type[float], hint: str = "") -> Any:
    what = "a whole number of steps" if kind is int else "a number"
    # int() and float() also take digit separators and foreign digits, which no shell config means
    plain = text.isascii() and "_" not in text
    try:
        value = kind(text) if plain else None
    except ValueError:
        value = None
    if value is None or (kind is float and not math.isfinite(value)):
        raise ScheduleError(f"{key}: {text!r} is not {what}{hint}")
    return value
