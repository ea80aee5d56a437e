"""Reads a config's text without running it: files that it would write, what it would redefine, and the files that it sources.

A redirection of a compound command is in no trace, and has cut its file before any command of it runs; so it is found in the text.
"""

from __future__ import annotations

import dataclasses
import re

from stormbench.job.driver import BUILTINS

WRITES, CALLS, REDEFINES, SOURCES, NESTS = "writes", "calls", "redefines", "sources", "nests"
_BLANKS, _ENDS = " \t", " \t\n;&|()<>"
_LEADING = {"if", "then", "elif", "else", "while", "until", "do", "!", "{", "time"}
_REDEFINED = {
    *BUILTINS, "cd", "command", "declare", "dirs", "echo", "exit", "export", "local", "mapfile", "printf", "read", "readonly", "return",
    "set", "shift", "shopt", "source", "test", "times", "true", "type", "typeset", "ulimit", "umask", "unset", "wait", ".", ":", "[",
}  # fmt: skip
_REDIRECTION = re.compile(r"(?:&>>|&>|>>|>\||>&|<>|>)[ \t]*")
_HEREDOC = re.compile(r"<<(-?)[ \t]*((?:\\.|'[^'\n]*'|\"[^\"\n]*\"|[^\s;&|()<>'\"\\])+)")
_HARMLESS = re.compile(r"&(\d+-?|-|\$\{?\w+\}?)|[\"']?/dev/null[\"']?")
_PLAIN = re.compile(r"[\w./:,@%+-]+")
_NEVER_CLOSED = -1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """One thing that the text does: its kind, line, and the file, command or function it is about."""

    kind: str
    line: int
    what: str


def mentions(text: str) -> list[Mention]:
    """Return what the text writes, calls, redefines and sources, in its order; what stands in an unclosed quote is left out."""
    reader = _Reader(text)
    try:
        reader.commands("")
    except RecursionError:
        return [Mention(kind=NESTS, line=1, what="")]
    end = len(text) if reader.unclosed == _NEVER_CLOSED else reader.unclosed
    return [Mention(kind=kind, line=text.count("\n", 0, at) + 1, what=what) for at, kind, what in sorted(reader.found) if at < end]


class _Reader:
    """Walks through shell text as bash's own parser does, as far as quotes, substitutions, tests and redirections go."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.closing = text, 0, ""
        self.found: list[tuple[int, str, str]] = []
        self.unclosed = _NEVER_CLOSED
        self.heredocs: list[tuple[str, bool, bool]] = []

    def commands(self, closing: str) -> None:
        """Read commands up to `closing`, one of `)`, a backtick or the text's end."""
        opened, cases, first, outer = self.at, 0, True, self.closing
        self.closing = closing
        while self.at < len(self.text):
            letter = self.text[self.at]
            if letter == closing and not (cases and closing == ")"):
                self.at += 1
                self.closing = outer
                return
            if letter == "\n":
                self.at += 1
                self._skip_heredocs()
                first = True
            elif letter in ";&|()" and not self.text.startswith(("&>", ">"), self.at):
                first = letter != ")" or bool(cases)
                self._punctuation(letter)
            elif letter in _BLANKS:
                self.at += 1
            elif letter == "#":
                self._to("\n", keep=True)
            elif letter in "<>" or self.text.startswith("&>", self.at):
                self._redirection()
            else:
                first, change = self._word(first)
                cases = max(0, cases + change)
        self.closing = outer
        if closing:
            self._left_open(opened)

    def _punctuation(self, letter: str) -> None:
        if letter == "(" and self.text.startswith("((", self.at):
            self._arithmetic(2)
        else:
            self.at += 1
            if letter == "(":
                self.commands(")")

    def _word(self, first: bool) -> tuple[bool, int]:
        """Read a word; returns whether the next one begins a command, and by how much the number of open cases changes."""
        start = self.at
        self._rest_of_word()
        word = self.text[start : self.at]
        after = self.text[self.at : self.at + 40].lstrip(_BLANKS)
        if after.startswith("(") and after[1:].lstrip(_BLANKS).startswith(")"):
            self._defines(start, word)
            return True, 0
        if not first:
            return False, 0
        if word == "function":
            self._skip_blanks()
            start = self.at
            self._rest_of_word()
            self._defines(start, self.text[start : self.at])
            return True, 0
        if word == "[[":
            self._test()
        elif word in ("source", "."):
            self._skip_blanks()
            at = self.at
            self._rest_of_word()
            self.found.append((start, SOURCES, self.text[at : self.at]))
        elif word in BUILTINS:
            self.found.append((start, CALLS, word))
        is_assignment = re.match(r"[A-Za-z_]\w*(\[[^]]*\])?\+?=", word) is not None
        return word in _LEADING or is_assignment, {"case": 1, "esac": -1}.get(word, 0)

    def _defines(self, start: int, word: str) -> None:
        if word in _REDEFINED:
            self.found.append((start, REDEFINES, word))

    def _rest_of_word(self) -> None:
        start = self.at
        ends = _ENDS + self.closing
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at = plain.end() if (plain := _PLAIN.match(self.text, self.at)) else self.at
            if self.at == len(self.text) or self.text[self.at] in ends:
                break
            self._piece()
            if self.text.startswith("(", self.at) and re.match(r"[\w\[\]+]+=$", self.text[start : self.at]):
                # the words of an array
                self.at += 1
                self.commands(")")

    def _piece(self) -> None:
        """Read one letter, quotation or expansion."""
        letter = self.text[self.at]
        if letter == "\\":
            self.at = min(self.at + 2, len(self.text))
        elif letter == "'":
            self._to("'")
        elif letter == '"':
            self._quoted()
        elif letter == "`":
            self.at += 1
            self.commands("`")
        elif letter == "$":
            self._expansion(in_quotes=False)
        else:
            self.at += 1

    def _expansion(self, in_quotes: bool) -> None:
        start = self.at
        if self.text.startswith("$((", start):
            self._arithmetic(3)
        elif self.text.startswith("$(", start):
            self.at += 2
            self.commands(")")
        elif self.text.startswith("${", start):
            self.at += 2
            while self.at < len(self.text) and self.text[self.at] != "}":
                self._piece() if not in_quotes or self.text[self.at] != "'" else self._skip()
            self.at += 1
            if self.at > len(self.text):
                self._left_open(start)
        elif self.text.startswith("$'", start) and not in_quotes:
            self.at += 2
            while self.at < len(self.text) and self.text[self.at] != "'":
                self.at += 2 if self.text[self.at] == "\\" else 1
            self.at += 1
        else:
            self.at += 1

    def _quoted(self) -> None:
        start = self.at
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != '"':
            if self.text[self.at] in "\\`":
                self._piece()
            elif self.text[self.at] == "$":
                self._expansion(in_quotes=True)
            else:
                plain = _PLAIN.match(self.text, self.at)
                self.at = plain.end() if plain else self.at + 1
        self.at += 1
        if self.at > len(self.text):
            self._left_open(start)

    def _arithmetic(self, width: int) -> None:
        """Read `((...))`, where > compares."""
        start, depth = self.at, 2
        self.at += width
        while self.at < len(self.text) and depth:
            letter = self.text[self.at]
            if letter in "()":
                depth += 1 if letter == "(" else -1
                self.at += 1
            else:
                self._piece()
        if depth:
            self._left_open(start)

    def _test(self) -> None:
        """Read `[[ ... ]]`, where > compares too."""
        start = self.at
        while self.at < len(self.text):
            if self.text.startswith("]]", self.at) and self.text[self.at - 1] in " \t\n":
                self.at += 2
                return
            self._piece()
        self._left_open(start)

    def _redirection(self) -> None:
        start = self.at
        if self.text.startswith(("<(", ">("), start):
            self.at += 2
            self.commands(")")
        elif self.text.startswith("<<<", start):
            self.at += 3
        elif heredoc := _HEREDOC.match(self.text, start):
            word = heredoc[2]
            quoted = any(letter in word for letter in "'\"\\")
            self.heredocs.append((re.sub(r"['\"\\]", "", word), bool(heredoc[1]), quoted))
            self.at = heredoc.end()
        elif match := _REDIRECTION.match(self.text, start):
            # the & of >& and &> belongs to what a descriptor's number follows
            self.at = match.end() - (1 if match[0].rstrip() == ">&" and match[0] == ">&" else 0)
            at = self.at
            if self.text.startswith("&", at):
                self.at += 1
            self._rest_of_word()
            target = self.text[at : self.at]
            if not _HARMLESS.fullmatch(target):
                self.found.append((start, WRITES, target))
        else:
            self.at += 1

    def _skip_heredocs(self) -> None:
        for word, tabs, quoted in self.heredocs:
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end]
                if not quoted:
                    self._substitutions(end)
                self.at = max(self.at, min(len(self.text), end + 1))
                if (line.lstrip("\t") if tabs else line) == word:
                    break
        self.heredocs.clear()

    def _substitutions(self, end: int) -> None:
        while self.at < end:
            if self.text[self.at] in "\\`":
                self._piece()
            elif self.text[self.at] == "$":
                self._expansion(in_quotes=True)
            else:
                self.at += 1

    def _to(self, letter: str, keep: bool = False) -> None:
        start = self.at
        end = self.text.find(letter, self.at + 1)
        if end < 0:
            self.at = len(self.text)
            if not keep:
                self._left_open(start)
        else:
            self.at = end if keep else end + 1

    def _left_open(self, at: int) -> None:
        self.unclosed = at if self.unclosed == _NEVER_CLOSED else min(self.unclosed, at)

    def _skip_blanks(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1

    def _skip(self) -> None:
        self.at += 1
