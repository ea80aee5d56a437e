"""Options declared once: one dataclass field carries flag, environment variable, unit, bounds and help.

The command line, the shell variables, the README's table, the JSON schema and the log keys all come from these fields.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stormbench.core.errors import UserError, did_you_mean

KEY = "stormbench.option"
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
C = TypeVar("C")
BLANKS = " \t\n\r\v\f"
"""Only these count as blanks around and between values: a no-break space, pasted from a web page, is no blank to a shell."""


def words_of(text: str, also: str = "") -> list[str]:
    """Return the words of a list, separated by blanks and the characters of `also`."""
    return [word for word in re.split(f"[{BLANKS}{also}]+", text) if word]


def blank(text: str) -> bool:
    """Whether a variable's text counts as unset, as `export X=` in a shell config means."""
    return not text.strip(BLANKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of one option; `kind` is the type of its value, `many` says that it holds several."""

    name: str
    variable: str
    default: Any
    kind: type
    many: bool
    help: str
    group: str
    unit: str | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    count: int | None = None
    choices: tuple[str, ...] | None = None
    convert: Callable[[str], Any] | None = None
    log_keys: tuple[str, ...] = ()
    metavar: str | None = None
    pattern: str | None = None
    """What a value with a grammar of its own looks like, a word of it where there are several: a regular expression."""

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def bounds(self) -> str:
        """The limits in words, such as `at least 1`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return ", ".join(([f"{self.count} numbers"] if self.count is not None else []) + self._limits)

    @property
    def _limits(self) -> list[str]:
        limits = (("at least", self.minimum), ("above", self.above), ("at most", self.maximum), ("below", self.below))
        return [f"{words} {_figure(limit)}" for words, limit in limits if limit is not None]

    def parse(self, text: str, origin: str) -> Any:
        """Turn `text` into a checked value.

        Raises:
            UserError: it doesn't fit; the sentence begins with `origin`, such as `--seed 0` or `SEED=0`.
        """
        try:
            if self.kind is not str and (foreign := next((letter for letter in text if letter.isspace() and letter not in BLANKS), None)):
                raise ValueError(f"{self._kind_in_words}, and U+{ord(foreign):04X} in it is no blank to a shell; retype it")
            if self.convert is not None:
                return self.convert(text)
            if self.many:
                words = words_of(text.strip(BLANKS).strip("[]()"), ",:")
                values = tuple(self._one_of_many(word) for word in words)
                if self.count is not None and len(values) != self.count:
                    raise ValueError(f"needs {self.count} numbers, {len(values)} given")
                return values
            return self._one(text)
        except ValueError as error:
            raise UserError(f"{origin}: {error}") from error

    def _one_of_many(self, word: str) -> Any:
        try:
            return self._one(word)
        except ValueError as error:
            raise ValueError(f"{word} {error}") from error

    @property
    def _kind_in_words(self) -> str:
        """What the value must be, with its limits, as an error says it."""
        words = {int: "a whole number", float: "a number", bool: "1 or 0 (true or false)"}.get(self.kind, "plain text")
        return "must be " + ", ".join([words, *self._limits])

    def _one(self, text: str) -> Any:
        text = text.strip(BLANKS)
        if self.kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError(self._kind_in_words)
            return text.lower() in _TRUE
        if self.kind is str:
            if self.choices and text not in self.choices:
                same = next((choice for choice in self.choices if choice.lower() == text.lower()), "")
                raise ValueError(f"must be {self.bounds}{f'; did you mean {same}?' if same else did_you_mean(text, self.choices)}")
            return text
        if self.kind is Path:
            if not text:
                raise ValueError("must not be empty")
            return Path(text)
        try:
            # int() and float() also take digit separators and foreign digits, which no shell config means
            value = self.kind(text if text.isascii() and "_" not in text else "")
        except ValueError:
            raise ValueError(self._kind_in_words) from None
        self._check_bounds(value)
        return value

    def _check_bounds(self, value: float) -> None:
        # whole numbers are finite, and may be too large to be asked
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be " + ", ".join(["finite", *self._limits]))
        too_low = (self.minimum is not None and value < self.minimum) or (self.above is not None and value <= self.above)
        too_high = (self.maximum is not None and value > self.maximum) or (self.below is not None and value >= self.below)
        if too_low or too_high:
            raise ValueError("must be " + ", ".join(self._limits))


def option(
    default: Any,
    *,
    variable: str,
    help: str,
    group: str,
    unit: str | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    count: int | None = None,
    choices: Sequence[str] | None = None,
    convert: Callable[[str], Any] | None = None,
    log_keys: Sequence[str] = (),
    metavar: str | None = None,
    pattern: str | None = None,
) -> Any:
    """Declare a dataclass field as an option; the field's name is the flag's, its annotation the value's type."""
    about = {
        "variable": variable,
        "help": help,
        "group": group,
        "unit": unit,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "below": below,
        "count": count,
        "choices": tuple(choices) if choices else None,
        "convert": convert,
        "log_keys": tuple(log_keys),
        "metavar": metavar,
        "pattern": pattern,
    }
    return dataclasses.field(default=default, metadata={KEY: about})


def options_of(config: type) -> list[Option]:
    """Return the options of a config dataclass in the order of declaration."""
    hints = typing.get_type_hints(config)
    found = []
    for field in dataclasses.fields(config):
        if KEY in field.metadata:
            kind, many = _kind(hints[field.name])
            found.append(Option(name=field.name, default=field.default, kind=kind, many=many, **field.metadata[KEY]))
    return found


def resolve(config: type[C], flags: Mapping[str, str | None], environ: Mapping[str, str]) -> tuple[C, dict[str, str]]:
    """Build the config from flags, else environment variables, else defaults.

    An empty variable counts as unset, as `export X=` in a shell config means. Returns the config and, for each
    option that isn't at its default, where its value came from, such as `--seed 7` or `SEED=7`.

    Raises:
        UserError: a value doesn't fit its option, or the config's own `validate` refuses the combination.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for spec in options_of(config):
        text = flags.get(spec.name)
        if text is not None:
            origins[spec.name] = f"{spec.flag} {text}".rstrip()
        elif not blank(environ.get(spec.variable, "")):
            text = environ[spec.variable]
            origins[spec.name] = f"{spec.variable}={text}"
        if text is not None:
            values[spec.name] = spec.parse(text, origins[spec.name])
    built = config(**values)
    if hasattr(built, "validate"):
        built.validate(origins)
    return built, origins


def plain(value: Any) -> Any:
    """Return an option's value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in dataclasses.asdict(value).items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def _figure(limit: float) -> str:
    """Return a limit with all its digits, and whole numbers without a point."""
    return str(int(limit)) if float(limit).is_integer() and abs(limit) < 1e15 else repr(limit)


def _kind(hint: Any) -> tuple[type, bool]:
    """Return the element type and whether there are several, for hints such as `int | None` or `tuple[float, ...]`."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        return _kind(inner[0])
    if origin is tuple:
        return _kind(typing.get_args(hint)[0])[0], True
    return hint, False
