"""Why a config did not come to its end, and what bash complained of on the way: each a sentence with its line."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job.bash import TIME_LIMIT_S, Ran
from stormbench.job.driver import WITHOUT_EFFECT
from stormbench.job.findings import Finding, error, warning
from stormbench.job.unclean import ONLY, may_not, text_of

SUCCEED = "every command of a config must succeed under set -euo pipefail"
_MESSAGE = re.compile(r"^(?P<file>.+?): line (?P<line>\d+): (?P<text>.*)$")


def why_it_ended(path: str, ran: Ran) -> str:
    """Return the sentence for a config that did not come to its end."""
    if (unclean := _unclean(ran)) is not None:
        return unclean
    program = ran.refused.split("\n", 1)[0]
    calls = [item for item in ran.commands if program.split() and program.split()[0] in item[2].split()] or ran.commands
    file, line, command = calls[-1] if calls else (path, "", "")
    where = f"{file or path}:{line}" if line else path
    command = " ".join(command.split())[:80]
    if ran.code is None:
        return f"{where}: runs longer than {TIME_LIMIT_S:g} s (at `{command}`); a config may only set variables"
    if program == ">":
        return f"{where}: `{command}` writes a file; {ONLY}"
    if program in ("set", "shopt", "source", "."):
        return f"{where}: `{command}` would hide from the checks what the config does; remove it"
    if program and program != "exec":
        return f"{where}: {may_not(program)}"
    if ran.left_behind:
        return left_behind(path, ran)
    messages = _messages(ran)
    syntax = next((match for match in messages if "syntax error" in match["text"] or "unexpected" in match["text"]), None)
    if syntax is not None:
        return f"{syntax['file']}:{syntax['line']}: {syntax['text'].strip()}; mend the shell syntax"
    if ran.code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ) or "File size limit" in ran.errors:
        return f"{where}: `{command}` writes a file; {ONLY}"
    if re.match(r"(exit|exec|logout)\b", command):
        return f"{where}: `{command}` ends the shell that sources the config; {ONLY}"
    if messages:
        last, text = messages[-1], messages[-1]["text"].strip()
        if Path(last["file"]).is_file():
            # a compound command's redirection or a function's definition is in no trace
            where = f"{last['file']}:{last['line']}"
        return f"{where}: {_explained(text)}"
    return f"{where}: `{command}` ends the config with exit code {ran.code}; every command must succeed under set -euo pipefail"


def _unclean(ran: Ran) -> str | None:
    """Return why a file that was sourced under a computed name is no clean text: a merge marker is a syntax error only to bash."""
    for file in dict.fromkeys([*(file for file, _, _ in ran.commands), *(match["file"] for match in _messages(ran))]):
        if "/" in file and Path(file).is_file():
            try:
                text_of(file)
            except UserError as unclean:
                return str(unclean)
    return None


def left_behind(path: str, ran: Ran) -> str:
    """Return the sentence for a config that ended, but not all that it started."""
    # bash tells the command of a job without its &
    file, line, command = next((item for item in reversed(ran.commands) if _runs_on(item)), (ran.commands or [(path, "", "")])[-1])
    where = f"{file or path}:{line}" if line else path
    return f"{where}: leaves a process behind (`{' '.join(command.split())[:80]}` perhaps); {ONLY}"


def _runs_on(item: tuple[str, str, str]) -> bool:
    """Whether the line of a traced command ends a job with a single &."""
    with contextlib.suppress(OSError, ValueError, IndexError, UserError):
        return re.search(r"(?<![&>|])&\s*(#.*)?$", text_of(item[0]).splitlines()[int(item[1]) - 1]) is not None
    return False


def complaints(ran: Ran) -> list[Finding]:
    """Return what bash said is wrong though the config went on, and the commands that no job would see anything of."""
    found = []
    for match in _messages(ran):
        tell = warning if match["text"].startswith("warning:") else error
        text = match["text"].removeprefix("warning:").strip()
        found.append(tell(f"{match['file']}:{match['line']}", f"{text}; mend it, as {SUCCEED}"))
    for file, line, command in ran.commands:
        if command.split(maxsplit=1)[:1] and command.split(maxsplit=1)[0] in WITHOUT_EFFECT:
            told = f"`{command}` changes only the shell that sources the config, and nothing in the job; remove it"
            found.append(warning(f"{file}:{line}", told))
    return list(dict.fromkeys(found))


def _messages(ran: Ran) -> list[re.Match[str]]:
    """Return bash's own lines on stderr; what the config and its programs print has no such place in front."""
    files = {file for file, _, _ in ran.commands}
    return [match for text in ran.errors.splitlines() if (match := _MESSAGE.match(text)) and _is_place(match["file"], files)]


def _is_place(file: str, files: set[str]) -> bool:
    return file in files or "/" in file or file == "environment" or file.endswith("bash")


def _explained(text: str) -> str:
    if text.startswith("PATH: readonly"):
        return "sets PATH, which is not a variable of this kit; remove it, or name modules in STORMBENCH_MODULES"
    if text.endswith("cannot overwrite existing file") or text.endswith("Permission denied"):
        return f"writes a file ({text}); {ONLY}"
    if unbound := re.match(r"(\w+): unbound variable$", text):
        name = unbound[1]
        fix = f"write the path itself, export it under a documented name, or write ${{{name}:-}} where it may be missing"
        return f"{text}: the check's shell has only documented names, so that a config means the same everywhere; {fix}"
    return f"{text}; {SUCCEED}"
