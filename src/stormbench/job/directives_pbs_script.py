"""The `#PBS` lines of a script as OpenPBS's qsub finds them, which differs from how Slurm and LSF find theirs.

White space may stand before the prefix and none has to stand behind it, a backslash at the end of a directive joins the next line,
and a line that begins with a colon is no command (get_script, pbs_ispbsdir and make_argv in OpenPBS's src/cmds and Libcmds).
"""

from __future__ import annotations

from stormbench.core.errors import UserError

PREFIX = "#PBS"


def directive_words(text: str, origin: str) -> list[tuple[str, list[str]]]:
    """Return (place, words) of each directive before the first command.

    Raises:
        UserError: a directive after the first command, which qsub would ignore silently; quotes that don't close; DOS line ends.
    """
    found: list[tuple[str, list[str]]] = []
    lines = text.split("\n")
    number = command = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        where = f"{origin}:{number}"
        if not line.lstrip().startswith(PREFIX):
            if not command and _is_command(line):
                command = number
            continue
        if command:
            raise UserError(f"{where}: {line.strip()} comes after the first command (line {command}), so it would be ignored; move it up")
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number]
            number += 1
        if line.endswith("\r"):
            raise UserError(f"{where}: ends in a DOS line break, which schedulers refuse; convert the file with dos2unix")
        words = split(line.lstrip()[len(PREFIX) :], where)
        if not words:
            raise UserError(f"{where}: {PREFIX} without an option; remove the line")
        found.append((where, words))
    return found


def split(text: str, where: str) -> list[str]:
    """Return the words of a directive: quotes of both kinds keep blanks, and outside of them a backslash keeps one character.

    Raises:
        UserError: a quote isn't closed.
    """
    words: list[str] = []
    word: list[str] | None = None
    rest = iter(text)
    for letter in rest:
        if letter in "\"'":
            word = [] if word is None else word
            for inner in rest:
                if inner == letter:
                    break
                word.append(inner)
            else:
                raise UserError(f"{where}: {PREFIX}{text.rstrip()}: no closing quotation; close it")
        elif letter.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = [] if word is None else word
            word.append(next(rest, "") if letter == "\\" else letter)
    return words if word is None else [*words, "".join(word)]


def quoted(word: str) -> str:
    """Return a word as qsub reads it back from a directive."""
    return "".join(f"\\{letter}" if letter.isspace() or letter in "\"'\\" else letter for letter in word)


def _is_command(line: str) -> bool:
    """Whether qsub stops looking for directives here."""
    return bool(line.strip()) and not line.startswith(":") and not line.lstrip().startswith("#")
