"""The command line's parser: options accept `-` and `_` alike, mistakes are one sentence with exit code 2."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from stormbench.core.errors import UserError, did_you_mean
from stormbench.core.options import Option, options_of

_NEGATIVE_NUMBER = re.compile(r"-(\.?\d.*|inf|infinity|nan)$", re.IGNORECASE)
"""What is a value and never a flag. argparse's own pattern has no exponents, so `--start_lr -1e-3` would miss its bound's sentence."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that speaks in sentences and takes `--local-batch-size` for `--local_batch_size` and back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = _NEGATIVE_NUMBER

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as a UserError instead of printing the usage."""
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Spell the flags as they were declared, then parse; an unknown flag is an error that names the nearest one."""
        words = [self._spelled(word) for word in (sys.argv[1:] if args is None else args)]
        found, rest = super().parse_known_args(words, namespace)
        unknown = [word for word in rest if word.startswith("-")] or rest
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            flag = unknown[0].split("=", 1)[0]
            raise UserError(f"{self.prog}: {flag} is not an option of this command{did_you_mean(flag, known)}; see {self.prog} --help")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(name) for name in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            raise UserError(f"{self.prog}: {value} is not a command{did_you_mean(value, names)}; see {self.prog} --help")
        flag = "/".join(action.option_strings) or action.dest
        raise UserError(f"{self.prog}: {flag} {value}: must be one of {', '.join(names)}{did_you_mean(str(value), names)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        # the standard one passes over an output that can't be written
        stream = file or sys.stdout
        if message and stream is not None:
            stream.write(message)

    def _spelled(self, word: str) -> str:
        if not word.startswith("--") or word == "--":
            return word
        name, equals, value = word.partition("=")
        if name not in self._option_string_actions:
            for other in ("--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
                if other in self._option_string_actions:
                    return other + equals + value
        return word


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add one flag for each option of a config dataclass, grouped and documented."""
    groups: dict[str, Any] = {}
    for spec in options_of(config):
        group = groups.get(spec.group) or groups.setdefault(spec.group, parser.add_argument_group(spec.group))
        extra: dict[str, Any] = {}
        if spec.kind is bool:
            extra = {"nargs": "?", "const": "true", "metavar": "1|0"}
        elif spec.many:
            extra = {"nargs": "+", "metavar": spec.metavar or "N"}
        else:
            extra = {"metavar": spec.metavar or (spec.kind.__name__.upper() if not spec.choices else "NAME")}
        group.add_argument(spec.flag, dest=spec.name, default=None, help=_help(spec), **extra)


def given_flags(namespace: argparse.Namespace, config: type) -> dict[str, str | None]:
    """Return the texts of the flags that were given, by option name, for `options.resolve`."""
    texts: dict[str, str | None] = {}
    for spec in options_of(config):
        value = getattr(namespace, spec.name, None)
        texts[spec.name] = " ".join(value) if isinstance(value, list) else value
    return texts


def default_text(spec: Option) -> str:
    """Return the default as a user would write it, or an empty string where there is none."""
    if spec.default is None or spec.default == ():
        return ""
    if isinstance(spec.default, bool):
        return "1" if spec.default else "0"
    if isinstance(spec.default, tuple):
        return " ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in spec.default)
    return f"{spec.default:g}" if isinstance(spec.default, float) else str(spec.default)


def _help(spec: Option) -> str:
    facts = [f"default {default_text(spec)}" if default_text(spec) else "", spec.unit or "", spec.bounds, f"variable {spec.variable}"]
    return textwrap.dedent(spec.help).replace("%", "%%") + " (" + "; ".join(fact for fact in facts if fact) + ")"
