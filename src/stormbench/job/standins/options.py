"""Command lines read as strictly as the real programs read theirs: one table for each program, shared by stand-ins and directives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stormbench.core.errors import UserError, did_you_mean

NONE, REQUIRED, OPTIONAL, PAIR, EITHER = "", "=", "?", "==", "=?"
"""What an option takes: nothing, a value, perhaps a value (only as --name=value), two words, or two words unless the first has a `=`."""


class Rejected(UserError):
    """What the real program would refuse, in about its own words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The options of one program: `kinds` by their first name, `names` from each name to the first."""

    kinds: dict[str, str]
    names: dict[str, str]
    style: str

    def parse(self, words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """Return (option's first name, value) pairs in order, and the words from the first that is no option's.

        Raises:
            Rejected: an unknown option, a value missing, or one too many.
        """
        found: list[tuple[str, str]] = []
        rest = list(words)
        while rest and rest[0].startswith("-") and rest[0] != "-":
            word = rest.pop(0)
            if word == "--":
                break
            if self.style in ("single", "either"):
                found.append(self._single(word, rest))
            elif word.startswith("--"):
                found.append(self._long(word, rest))
            else:
                found += self._cluster(word, rest)
        # a flag that was switched off, which only cobra has, is as good as absent
        return [(name, value) for name, value in found if not (self.kinds[name] == NONE and value == "false")], rest

    def _single(self, word: str, rest: list[str]) -> tuple[str, str]:
        """Read `-name value`; style `either` also takes two dashes and `--name=value`."""
        either = self.style == "either"
        name, equals, value = word.partition("=") if either and word.startswith("--") else (word, "", "")
        bare = name[2:] if either and name.startswith("--") else name[1:]
        if bare not in self.names:
            raise Rejected(f"unrecognized option '{name}'{did_you_mean(name, [f'-{known}' for known in self.names])}")
        return self._taken(self.names[bare], name, value if equals else None, rest)

    def _long(self, word: str, rest: list[str]) -> tuple[str, str]:
        name, equals, value = word[2:].partition("=")
        if name not in self.names or len(name) == 1:
            longer = {self.names[known] for known in self.names if known.startswith(name) and len(known) > 1}
            if self.style != "gnu" or not longer:
                known = [f"--{each}" for each in self.names if len(each) > 1]
                raise Rejected(f"unrecognized option '--{name}'{did_you_mean(f'--{name}', known)}")
            if len(longer) > 1:
                raise Rejected(f"option '--{name}' is ambiguous; possibilities: {' '.join(f'--{each}' for each in sorted(longer))}")
            first = longer.pop()
        else:
            first = self.names[name]
        return self._taken(first, f"--{name}", value if equals else None, rest)

    def _cluster(self, word: str, rest: list[str]) -> list[tuple[str, str]]:
        """Read `-x`, `-xVALUE`, `-x VALUE`, or several flags in one word."""
        found = []
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in self.names:
                raise Rejected(f"invalid option -- '{letter}' in {word}")
            first = self.names[letter]
            if self.kinds[first] == NONE:
                found.append((first, ""))
                continue
            attached = letters or None
            if self.kinds[first] == OPTIONAL:
                found.append((first, attached or ""))
            else:
                # cobra's short options also take -x=VALUE; getopt's would keep the sign as part of the value
                if attached and self.style == "cobra":
                    attached = attached.removeprefix("=")
                found.append(self._taken(first, f"-{letter}", attached, rest))
            break
        return found

    def _taken(self, first: str, shown: str, value: str | None, rest: list[str]) -> tuple[str, str]:
        kind = self.kinds[first]
        if kind == NONE:
            if value is not None and not (self.style == "cobra" and value in ("true", "false")):
                raise Rejected(f"option '{shown}' doesn't allow an argument, {value!r} given")
            return first, value if value == "false" else ""
        if value is None and kind in (REQUIRED, PAIR, EITHER):
            if not rest:
                raise Rejected(f"option '{shown}' requires an argument")
            value = rest.pop(0)
            if kind == PAIR or (kind == EITHER and "=" not in value):
                if not rest:
                    raise Rejected(f"option '{shown}' requires two arguments")
                value = f"{value}={rest.pop(0)}"
        return first, value or ""


def table(text: str, style: str = "gnu") -> Table:
    """Return the table of `name,alias=` words; `=` ends one that takes a value, `?` perhaps one, `==` two words, `=?` NAME VALUE
    or NAME=VALUE.

    Styles: gnu (getopt_long, with unambiguous abbreviations), cobra (the same without), single (`-name value`, as LSF),
    either (one dash or two, as MPI launchers).
    """
    kinds: dict[str, str] = {}
    names: dict[str, str] = {}
    for word in text.split():
        bare = word.rstrip("=?")
        first, *aliases = bare.split(",")
        kinds[first] = word[len(bare) :]
        names.update(dict.fromkeys((first, *aliases), first))
    return Table(kinds=kinds, names=names, style=style)


def last(options: Sequence[tuple[str, str]], name: str) -> str | None:
    """Return the value of the last option of this name, or None."""
    return next((value for option, value in reversed(options) if option == name), None)


def every(options: Sequence[tuple[str, str]], name: str) -> list[str]:
    """Return the values of all options of this name."""
    return [value for option, value in options if option == name]


def count(text: str, what: str, minimum: int = 1) -> int:
    """Return a whole number.

    Raises:
        Rejected: it is none, or too small.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < minimum:
        raise Rejected(f"{what}: {text!r} is not a whole number of at least {minimum}")
    return int(text)
