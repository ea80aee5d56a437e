"""Refuses what can't be a clean shell config before anything of it runs: Windows line ends, merge markers, files it would write."""

from __future__ import annotations

import re
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job import shelltext
from stormbench.job.driver import ALLOWED

MAX_BYTES = 2**20
MOST_FILES = 50
ONLY = "a config may only set variables, remove it"
_CONFLICT = re.compile(rb"^(<{7}|\|{7}|={7}|>{7})( |$)", re.MULTILINE)
_NO_MARK = r"sed -i '1s/^\xEF\xBB\xBF//'"
_BESIDE = re.compile(r'"?(?:\$\(dirname "\$\{BASH_SOURCE\[0\](?::-\$0)?\}"\)|"\$\(dirname \$\{BASH_SOURCE\[0\]\}\)")(/[^"$`*?~\\]+)"?')
"""How a config names a file beside itself."""
_LITERAL = re.compile(r"""(["']?)([^"'$`*?~\\]+)\1""")


def refuse_unclean(path: str) -> set[str]:
    """Raise UserError if the config, or a file whose name it says in so many words when it sources it, can't be a shell config.

    Returns the files that were read, by the names that bash will have for them.
    """
    waiting, seen = [path], {path}
    while waiting and len(seen) < MOST_FILES:
        one = waiting.pop()
        for mention in shelltext.mentions(text_of(one)):
            _refuse(one, mention)
            if mention.kind == shelltext.SOURCES and (named := _named(one, mention.what)) and named not in seen and Path(named).is_file():
                seen.add(named)
                waiting.append(named)
    return seen


def text_of(path: str) -> str:
    """Return the file's text, or raise UserError if it is no clean text: unreadable, binary, CRLF line ends, merge-conflict markers."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size} bytes, a shell config has at most {MAX_BYTES}; give a config file")
        if not Path(path).is_file():
            raise UserError(f"{path}: not a file; give a config such as configs/config_local_1x1x2_demo.sh")
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: can't be read ({why.lower()}); give the path of a config") from error
    for wrong, why in (
        (_CONFLICT.search(content), "a merge-conflict marker; settle the conflict and keep one side"),
        (re.search(rb"\r", content), "a carriage return (Windows line end), which becomes part of values; run: sed -i 's/\\r$//' " + path),
        (re.search(rb"\0", content), "a NUL byte, so this is no shell script; give a config"),
        (re.match(rb"\xef\xbb\xbf", content), f"a byte-order mark (BOM), which bash takes for a command; run: {_NO_MARK} {path}"),
    ):
        if wrong:
            line = content.count(b"\n", 0, wrong.start()) + 1
            raise UserError(f"{path}:{line}: {why}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def may_not(program: str) -> str:
    """Return why a config may not call a program or builtin."""
    if program == "eval":
        return "calls eval, which hides from the checks what it does; write the command itself"
    return f"calls {program}, which a config may not; it may set variables and call {', '.join(ALLOWED)}"


def _refuse(path: str, mention: shelltext.Mention) -> None:
    told = {
        shelltext.WRITES: f"`>{mention.what}` writes a file; {ONLY}",
        shelltext.CALLS: may_not(mention.what),
        shelltext.REDEFINES: f"redefines {mention.what}, which every command of a config relies on; give the function another name",
        shelltext.NESTS: "nests deeper than a shell config does; give a config file",
    }
    if mention.kind in told:
        raise UserError(f"{path}:{mention.line}: {told[mention.kind]}")


def _named(path: str, word: str) -> str | None:
    """Return the path of a sourced file, as bash will say it, if the word holds no other expansion than the config's own folder."""
    if beside := _BESIDE.fullmatch(word):
        return (str(Path(path).parent) if "/" in path else ".") + beside[1]
    literal = _LITERAL.fullmatch(word)
    # source looks along PATH for a name without a slash
    return literal[2] if literal and "/" in literal[2] else None
