"""Source a shell config the way a login shell would, but alone: in a clean bash that can do little else than set variables.

What the config changes is taken as a difference of environments, each variable with the file and line that set it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job import bash
from stormbench.job.driver import NO_PATH, OWN
from stormbench.job.ended import complaints, left_behind, why_it_ended
from stormbench.job.findings import Finding, warning
from stormbench.job.unclean import refuse_unclean, text_of

NEEDED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "HOSTNAME")
"""What a config may read of the user's own environment, beside documented variables."""
FIELD_SEPARATORS = " \t\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sourced:
    """What a config does: `exported` changed or passed through, `unexported` only set; `origin` says where, as `file:line`.

    `arrays` are those of the unexported that bash can't export at all, with their words. `findings` are what bash complained of.
    """

    exported: dict[str, str]
    passed: dict[str, str]
    unexported: dict[str, str]
    origin: dict[str, str]
    files: tuple[str, ...]
    arrays: dict[str, str]
    findings: tuple[Finding, ...]


def source_config(path: str | os.PathLike[str], passed: Mapping[str, str], environ: Mapping[str, str]) -> Sourced:
    """Source the config at `path` with the variables `passed` already exported.

    Raises:
        UserError: it can't be read, isn't a clean shell file, fails, exits, calls programs, leaves one behind, or runs longer than 5 s.
    """
    path = os.fspath(path)
    read = refuse_unclean(path)
    base = {name: environ[name] for name in NEEDED if name in environ} | dict(passed)
    ran = bash.run(path, base, read)
    files = tuple(dict.fromkeys([path, *(file for file, _, _ in ran.commands if file and file != path and "/" in file)]))
    if not ran.to_its_end or ran.code is None:
        raise UserError(why_it_ended(path, ran))
    if ran.left_behind:
        raise UserError(left_behind(path, ran))
    for file in files[1:]:
        # one whose name the config computes was not seen before
        text_of(file)
    arrays = {name: value for kind, name, value in ran.found if kind == "array" and name not in _SHELLS}
    exported = {
        name: value for kind, name, value in ran.found
        if kind == "exported" and name not in arrays and name not in _EXPORTED and _own(name) and (name, value) != ("PATH", NO_PATH)
        and (name not in NEEDED or base.get(name) != value)
    }  # fmt: skip
    unexported = {
        name: value for kind, name, value in ran.found
        if kind == "set" and name not in exported and name not in _SHELLS and name not in NEEDED and name != "PATH" and _own(name)
    }  # fmt: skip
    changed = {name: value for name, value in exported.items() if base.get(name) != value}
    removed = {name for name in passed if name not in exported}
    kept = {name: value for name, value in passed.items() if name not in changed and name not in removed}
    # a config may also set a variable to the value that it already has, as after `source CONFIG` in the same shell
    shown = {*changed, *unexported, *kept, "IFS"}
    origin = {**dict.fromkeys([*changed, *unexported], path), **_origins(shown, ran.commands, path)}
    findings = complaints(ran)
    if dict(item[1:] for item in ran.found if item[0] == "set").get("IFS", FIELD_SEPARATORS) != FIELD_SEPARATORS:
        told = "leaves IFS changed for the shell that sources the config, which then splits words otherwise; set it back"
        findings.append(warning(origin.get("IFS", path), told))
    return Sourced(
        exported=changed, passed=kept, unexported=unexported, origin={name: origin[name] for name in origin if name != "IFS"}, files=files,
        arrays=arrays, findings=tuple(findings),
    )  # fmt: skip


def _own(name: str) -> bool:
    """Whether a variable may be the config's: not one that this kit's own shell sets."""
    return name not in OWN and not name.startswith("BASH_FUNC_")


_EXPORTED = {"_", "PWD", "OLDPWD", "SHLVL"}
"""What bash exports of itself."""
_SHELLS = {
    "_", "BASH", "BASHOPTS", "BASHPID", "BASH_ALIASES", "BASH_ARGC", "BASH_ARGV", "BASH_ARGV0", "BASH_CMDS",
    "BASH_COMMAND", "BASH_EXECUTION_STRING", "BASH_REMATCH", "BASH_LINENO", "BASH_LOADABLES_PATH", "BASH_SOURCE", "BASH_SUBSHELL",
    "BASH_VERSINFO", "BASH_VERSION", "COMP_WORDBREAKS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "GROUPS",
    "HISTCMD", "HOSTNAME", "HOSTTYPE", "IFS", "LINENO", "MACHTYPE", "MAPFILE", "OLDPWD", "OPTARG", "OPTERR", "OPTIND", "OSTYPE",
    "PIPESTATUS", "PPID", "PS4", "PWD", "RANDOM", "REPLY", "SECONDS", "SHELL", "SHELLOPTS", "SHLVL", "SRANDOM", "TERM", "UID",
}  # fmt: skip
"""What bash sets of itself."""


def _origins(names: set[str], commands: list[tuple[str, str, str]], path: str) -> dict[str, str]:
    """Return `file:line` of the last command that mentions each name as one it sets."""
    # a value may mention the name too: export SBATCH_GPUS=$((DGXNNODES * 8)), export SBATCH_TIMELIMIT=$WALLTIME
    sets = r"(?<![\w$]){0}(\[[^]]*\])?(\+?=(?!=)|:=)|\b(read|mapfile|for|export|declare)\s([^\"'$]*\s)?{0}(\s|$)"
    patterns = {name: re.compile(sets.format(re.escape(name))) for name in names}
    found: dict[str, str] = {}
    for file, line, command in reversed(commands):
        missing = [name for name in names if name not in found]
        if not missing:
            break
        for name in missing:
            if name in command and patterns[name].search(command):
                found[name] = f"{file or path}:{_exact_line(file or path, int(line), name)}"
    return found


def _exact_line(file: str, line: int, name: str) -> int:
    """Return the line of a command over several lines on which `name` stands; bash tells only its first."""
    with contextlib.suppress(OSError):
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
        for number in range(line, len(lines) + 1):
            if re.search(rf"\b{re.escape(name)}\b", lines[number - 1]):
                return number
            if not lines[number - 1].endswith("\\"):
                break
    return line
