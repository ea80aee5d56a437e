"""What the directives of all schedulers have in common: where they stand in a script, and what they add up to."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection, Iterable

from stormbench.core.errors import UserError
from stormbench.job.standins.options import Table

DESCRIBED = ("nodes", "ranks_per_node", "cores_per_rank", "gpus_per_node")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a job script asks its scheduler for; None where it doesn't say."""

    nodes: int
    ranks_per_node: int | None = None
    cores_per_rank: int | None = None
    gpus_per_node: int = 0
    wall_s: int | None = None
    name: str | None = None
    queue: str | None = None
    array: tuple[int, ...] = ()
    options: dict[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """One option with its value ("" for a flag) and where it was given, such as `job.sh:3`."""

    name: str
    value: str
    where: str

    def wrong(self, why: str) -> UserError:
        """Return the error that names this option; `why` says what is the matter and what to do."""
        return UserError(f"{self.where}: {why}")


def directive_words(text: str, prefix: str, origin: str) -> list[tuple[str, list[str]]]:
    """Return (place, words) of each directive line before the first command.

    Raises:
        UserError: a directive after the first command, which the scheduler would ignore silently; quotes that don't close;
            DOS line ends.
    """
    found = []
    command = 0
    start = re.compile(rf"{re.escape(prefix)}(?=\s|$)")
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{origin}:{number}"
        if start.match(line):
            if line.endswith("\r"):
                raise UserError(f"{where}: ends in a DOS line break, which schedulers refuse; convert the file with dos2unix")
            if command:
                raise UserError(
                    f"{where}: {line.strip()} comes after the first command (line {command}), so it would be ignored; move it up"
                )
            try:
                words = shlex.split(line[len(prefix) :], comments=True)
            except ValueError as error:
                raise UserError(f"{where}: {line.strip()}: {str(error).lower()}; close it") from error
            if not words:
                raise UserError(f"{where}: {prefix} without an option; remove the line")
            found.append((where, words))
        elif line.strip() and not line.lstrip().startswith("#") and not command:
            command = number
    return found


def read(directives: Iterable[tuple[str, list[str]]], prefix: str, table: Table) -> list[Given]:
    """Return the options of all directives, given as (place, words).

    Raises:
        UserError: an unknown option, a missing value, or a word that belongs to none.
    """
    found: list[Given] = []
    for where, words in directives:
        try:
            options, rest = table.parse(words)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if rest:
            raise UserError(f"{where}: {rest[0]!r} belongs to no option of {prefix}; quote a value with blanks, or remove it")
        found += [Given(name=name, value=value, where=where) for name, value in options]
    return found


def refuse_repeats(given: Iterable[Given], repeatable: Collection[str], shown: str) -> None:
    """Raise if an option comes twice with different values: only one of them would count.

    Raises:
        UserError: naming both.
    """
    seen: dict[str, Given] = {}
    for each in given:
        first = seen.setdefault(each.name, each)
        if each.name not in repeatable and first.value != each.value:
            name = f"{shown if len(each.name) > 1 else '-'}{each.name}"
            raise each.wrong(f"{name} {each.value} contradicts {name} {first.value} at {first.where}; keep one of them")


def grouped(given: Iterable[Given]) -> dict[str, list[str]]:
    """Return the values of each option in order."""
    options: dict[str, list[str]] = {}
    for each in given:
        options.setdefault(each.name, []).append(each.value)
    return options


def number(each: Given, text: str, shown: str, minimum: int = 1) -> int:
    """Return a whole number of an option.

    Raises:
        UserError: it is none, or too small.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < minimum:
        raise each.wrong(f"{shown}={text}: must be a whole number, at least {minimum}")
    return int(text)


def described(each: Given | None) -> dict[str, int]:
    """Return the layout in a job's description, such as `nodes=2 ranks_per_node=4`; empty for other descriptions.

    Raises:
        UserError: one of its known names has a value that is no number.
    """
    if each is None:
        return {}
    pairs = [word.partition("=") for word in each.value.split()]
    return {
        name: number(each, value, name, 0 if name == "gpus_per_node" else 1) for name, sign, value in pairs if sign and name in DESCRIBED
    }


def agreed(each: Given | None, asked: dict[str, int | None]) -> dict[str, int | None]:
    """Return the layout that options ask for, with what they leave open from the description `each`.

    Raises:
        UserError: the description contradicts the options.
    """
    told = described(each)
    for name, value in told.items():
        if each is not None and asked.get(name) not in (None, value):
            raise each.wrong(f"the description says {name}={value}, but the options ask for {asked[name]}; make them equal")
    return {name: told.get(name) if asked.get(name) is None else asked[name] for name in DESCRIBED}
