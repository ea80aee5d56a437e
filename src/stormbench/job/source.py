"""Source a shell config the way a login shell would, but alone: in a clean bash that can do little else than set variables.

What the config changes is taken as a difference of environments, each variable with the file and line that set it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError

TIME_LIMIT_S = 5.0
OUTPUT_LIMIT = 16 * 2**20
MAX_BYTES = 2**20
NEEDED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "HOSTNAME")
"""What a config may read of the user's own environment, beside documented variables."""
ALLOWED = ("basename", "cat", "cut", "date", "dirname", "grep", "head", "hostname", "id", "nproc", "readlink", "realpath", "sed", "seq",
           "sort", "tail", "tr", "uname", "wc", "whoami")  # fmt: skip
"""Programs that a config may call; anything else is no business of a file that sets variables."""
NO_PATH = "/nonexistent"
_CONFLICT = re.compile(rb"^(<{7}|\|{7}|={7}|>{7})( |$)", re.MULTILINE)
_MESSAGE = re.compile(r"^(?P<file>.+?): line (?P<line>\d+): (?P<text>.*)$")
# The trap tells file, line and text of every command; names that bash itself sets are left out in python. It also ends what calls a
# program by its path or writes a file: bash's own restricted mode would refuse `source systems/x.sh` too.
_DRIVER = r"""
set -euo pipefail -CT
command_not_found_handle() {
    trap - DEBUG
    local folder word
    for word in "${@:2}"; do
        # these write files or set the clock
        case "$1 $word" in
            'sort -o'* | 'sort -'[!-]*o* | 'sort --o'* | 'sed -i'* | 'sed -'[nEsruz]*i* | 'sed --i'* | 'date -s'* | 'date --s'*)
                printf '%s\n' "$1 $word" >&"$STORMBENCH_REFUSED_"
                return 127
                ;;
        esac
    done
    # nor may GNU's sed run or write what its script says
    [ "$1" != sed ] || ! /bin/sed --sandbox p </dev/null >/dev/null 2>&1 || set -- sed --sandbox "${@:2}"
    case " $STORMBENCH_ALLOWED_ " in
        *" $1 "*) for folder in /usr/local/bin /usr/bin /bin; do [ ! -x "$folder/$1" ] || { "$folder/$1" "${@:2}"; return; }; done ;;
        *) printf '%s\n' "$1" >&"$STORMBENCH_REFUSED_" ;;
    esac
    return 127
}
stormbench_guard_() {
    local rest=$3 word before
    printf '%s\0' "$@" >&"$STORMBENCH_TRACE_"
    # this driver's own commands belong to no file
    [ -n "$1" ] && [ "${FUNCNAME[1]:-}" != command_not_found_handle ] || return 0
    while word=${rest%%[[:space:]]*}; do
        # a value with quotes or expansions may go on behind the blank
        case $word in "$rest" | [!A-Za-z_]* | *[\"\'\`\(\$\\]*) break ;; *=*) rest=${rest#*[[:space:]]} ;; *) break ;; esac
    done
    case $word in
        [A-Za-z_]*=* | '(('*) word='' ;;
        */* | [\"\'\$\`]* | exec | hash | enable | trap | coproc | builtin) ;;
        command) case $rest in 'command -'[vV]*) word='' ;; esac ;;
        *) word='' ;;
    esac
    case $3 in
        *'> '* | *'>| '*)
            before=${3%%>[ |]*}
            before=${before//[!\"\']/}
            # behind an even number of quotes it stands outside of them
            [ $((${#before} % 2)) -ne 0 ] || case ${3#*>} in ' /dev/null'*) ;; *) word='>' ;; esac
            ;;
    esac
    [ -z "$word" ] || { printf '%s\n' "$word" >&"$STORMBENCH_REFUSED_"; exit 127; }
}
unset PATH
export PATH=/nonexistent
readonly PATH
readonly -f stormbench_guard_ command_not_found_handle
trap 'stormbench_guard_ "${BASH_SOURCE[0]:-}" "$LINENO" "$BASH_COMMAND"' DEBUG
source "$STORMBENCH_CONFIG_"
trap - DEBUG
set +eu
while IFS= read -r name; do printf 'exported\0%s\0%s\0' "$name" "${!name}"; done < <(compgen -e) >&"$STORMBENCH_RESULT_"
while IFS= read -r name; do printf 'set\0%s\0%s\0' "$name" "${!name-}"; done < <(compgen -v) >&"$STORMBENCH_RESULT_"
printf 'end\0\0\0' >&"$STORMBENCH_RESULT_"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sourced:
    """What a config does: `exported` changed or passed through, `unexported` only set; `origin` says where, as `file:line`."""

    exported: dict[str, str]
    passed: dict[str, str]
    unexported: dict[str, str]
    origin: dict[str, str]
    files: tuple[str, ...]


def source_config(path: str | os.PathLike[str], passed: Mapping[str, str], environ: Mapping[str, str]) -> Sourced:
    """Source the config at `path` with the variables `passed` already exported.

    Raises:
        UserError: it can't be read, isn't a clean shell file, fails, exits, calls programs, or runs longer than 5 s.
    """
    path = os.fspath(path)
    _refuse_unclean(path)
    base = {name: environ[name] for name in NEEDED if name in environ} | dict(passed)
    trace, refused, result, errors, code = _run(path, base)
    commands = [item for item in _triples(trace) if item[0] != "environment"]
    files = tuple(dict.fromkeys([path, *(file for file, _, _ in commands if file and file != path and "/" in file)]))
    for file in files[1:]:
        _refuse_unclean(file)
    found = _triples(result)
    if refused or not found or found[-1][0] != "end":
        raise UserError(_why_it_ended(path, commands, refused, errors, code))
    exported = {name: value for kind, name, value in found if kind == "exported" and _own(name) and (name, value) != ("PATH", NO_PATH)}
    unexported = {name: value for kind, name, value in found if kind == "set" and name not in exported and name != "PATH" and _own(name)}
    changed = {name: value for name, value in exported.items() if base.get(name) != value}
    removed = {name for name in passed if name not in exported}
    kept = {name: value for name, value in passed.items() if name not in changed and name not in removed}
    # a config may also set a variable to the value that it already has, as after `source CONFIG` in the same shell
    origin = {**dict.fromkeys([*changed, *unexported], path), **_origins({*changed, *unexported, *kept}, commands, path)}
    return Sourced(exported=changed, passed=kept, unexported=unexported, origin=origin, files=files)


def _refuse_unclean(path: str) -> None:
    """Raise UserError if the file can't be a shell config: unreadable, binary, with CRLF line ends or merge-conflict markers."""
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
    ):
        if wrong:
            line = content.count(b"\n", 0, wrong.start()) + 1
            raise UserError(f"{path}:{line}: {why}")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _run(path: str, base: Mapping[str, str]) -> tuple[bytes, bytes, bytes, bytes, int | None]:
    """Run bash over the config; returns what came through trace, refusals, result and stderr, and the exit code (None: time limit)."""
    bash = shutil.which("bash") or "/bin/bash"
    pipes = [os.pipe() for _ in range(4)]
    readers, writers = [pipe[0] for pipe in pipes], [pipe[1] for pipe in pipes]
    own = {
        "STORMBENCH_CONFIG_": path if "/" in path else f"./{path}", "STORMBENCH_TRACE_": str(writers[0]),
        "STORMBENCH_REFUSED_": str(writers[1]), "STORMBENCH_RESULT_": str(writers[2]),
        "STORMBENCH_ALLOWED_": " ".join(ALLOWED),
    }  # fmt: skip
    try:
        process = subprocess.Popen(
            # the file-size limit keeps a config from writing anything
            [bash, "--noprofile", "--norc", "-c", f"ulimit -f 0 -c 0 -t {int(TIME_LIMIT_S) + 1}; {_DRIVER}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writers[3], env={**base, **own}, pass_fds=writers[:3],
            start_new_session=True,
        )  # fmt: skip
    finally:
        for writer in writers:
            os.close(writer)
    try:
        received, in_time = _collect(readers, TIME_LIMIT_S)
        code: int | None = None
        if in_time:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=1)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            os.close(reader)
    return received[0], received[1], received[2], received[3], code


def _collect(readers: list[int], limit_s: float) -> tuple[list[bytes], bool]:
    """Read all pipes to their ends; returns what came, and whether they ended within the limits of time and size."""
    received = [bytearray() for _ in readers]
    deadline = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, selectors.EVENT_READ, number)
        while selector.get_map():
            ready = selector.select(timeout=max(0.0, deadline - time.monotonic()))
            if not ready or sum(map(len, received)) > OUTPUT_LIMIT:
                return [bytes(item) for item in received], False
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                received[key.data] += piece
                if not piece:
                    selector.unregister(key.fd)
    return [bytes(item) for item in received], True


def _triples(data: bytes) -> list[tuple[str, str, str]]:
    words = data.decode("utf-8", errors="replace").split("\0")
    return list(zip(words[0::3], words[1::3], words[2::3], strict=False))


def _own(name: str) -> bool:
    """Whether a variable may be the config's: not one that bash or this file sets."""
    return not (
        name in _SHELLS or name in NEEDED or name.startswith("BASH_FUNC_") or (name.startswith("STORMBENCH_") and name.endswith("_"))
    )


_SHELLS = {
    "_", "BASH", "BASHOPTS", "BASHPID", "COPROC", "COPROC_PID", "BASH_ALIASES", "BASH_ARGC", "BASH_ARGV", "BASH_ARGV0", "BASH_CMDS",
    "BASH_COMMAND", "BASH_EXECUTION_STRING", "BASH_REMATCH",
    "BASH_LINENO", "BASH_LOADABLES_PATH", "BASH_SOURCE", "BASH_SUBSHELL", "BASH_VERSINFO", "BASH_VERSION", "COMP_WORDBREAKS", "DIRSTACK",
    "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "GROUPS", "HISTCMD", "HOSTNAME", "HOSTTYPE", "IFS", "LINENO", "MACHTYPE",
    "OLDPWD", "OPTERR", "OPTIND",
    "OSTYPE", "PIPESTATUS", "PPID", "PS4", "PWD", "RANDOM", "SECONDS", "SHELL", "SHELLOPTS", "SHLVL", "SRANDOM", "TERM", "UID", "name",
    "REPLY",
}  # fmt: skip


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


def _why_it_ended(path: str, commands: list[tuple[str, str, str]], refused: bytes, errors: bytes, code: int | None) -> str:
    """Return the sentence for a config that did not come to its end."""
    program = refused.decode(errors="replace").split("\n", 1)[0]
    calls = [item for item in commands if program and program.split()[0] in item[2].split()] or commands
    file, line, command = calls[-1] if calls else (path, "", "")
    where = f"{file or path}:{line}" if line else path
    command = " ".join(command.split())[:80]
    if code is None:
        return f"{where}: runs longer than {TIME_LIMIT_S:g} s (at `{command}`); a config may only set variables"
    if program == ">":
        return f"{where}: `{command}` writes a file; a config may only set variables, remove it"
    if refused and program != "exec":
        return f"{where}: calls {program}, which a config may not; it may set variables and call {', '.join(ALLOWED)}"
    messages = [match for text in errors.decode("utf-8", errors="replace").splitlines() if (match := _MESSAGE.match(text))]
    syntax = next((match for match in messages if "syntax error" in match["text"] or "unexpected" in match["text"]), None)
    if syntax is not None:
        name = syntax["file"] if "/" in path else syntax["file"].removeprefix("./")
        return f"{name}:{syntax['line']}: {syntax['text'].strip()}; mend the shell syntax"
    if code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ) or "File size limit" in errors.decode("utf-8", errors="replace"):
        return f"{where}: `{command}` writes a file; a config may only set variables, remove it"
    if re.match(r"(exit|exec|logout|kill)\b", command):
        return f"{where}: `{command}` ends the shell that sources the config; a config may only set variables, remove it"
    if messages:
        last, text = messages[-1], messages[-1]["text"].strip()
        if last["file"] in {each for each, _, _ in commands}:
            # a compound command's redirection or a function's definition is in no trace
            where = f"{last['file']}:{last['line']}"
        if text.startswith("PATH: readonly"):
            return f"{where}: sets PATH, which is not a variable of this kit; remove it, or name modules in STORMBENCH_MODULES"
        if text.endswith("cannot overwrite existing file"):
            return f"{where}: writes a file; a config may only set variables, remove it"
        return f"{where}: {text}; every command of a config must succeed under set -euo pipefail"
    return f"{where}: `{command}` ends the config with exit code {code}; every command must succeed under set -euo pipefail"
