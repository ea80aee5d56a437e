"""docker and podman-hpc: their options checked, and the container's command run on this machine under the container's name."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import sys
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job.standins.containers import basics, bind, workspace
from stormbench.job.standins.mapping import Bind, mapped, mapped_values
from stormbench.job.standins.options import Rejected, Table, every, last, table
from stormbench.job.standins.plan import State
from stormbench.job.standins.ranks import run_child

RUN = """
add-host= annotation= attach,a= blkio-weight= cap-add= cap-drop= cgroup-parent= cgroupns= cidfile= cpu-period= cpu-quota= cpu-shares,c=
cpus= cpuset-cpus=
cpuset-mems= detach,d device= device-cgroup-rule= device-read-bps= dns= domainname= entrypoint= env,e= env-file= expose= gpus= group-add=
health-cmd=
hostname,h= init interactive,i ip= ipc= isolation= label,l= label-file= link= log-driver= log-opt= mac-address= memory,m=
memory-reservation= memory-swap=
memory-swappiness= mount= name= network,net= no-healthcheck oom-kill-disable oom-score-adj= pid= pids-limit= platform= privileged
publish,p= publish-all,P
pull= quiet,q read-only restart= rm runtime= security-opt= shm-size= sig-proxy stop-signal= stop-timeout= storage-opt= sysctl= tmpfs=
tty,t ulimit= user,u=
userns= uts= volume,v= volume-driver= volumes-from= workdir,w=
"""
PODMAN = "gpu mpi mpich cuda-mpich nccl openmpi-pmi2 openmpi-pmix userns= group-add= env-host passwd tz= systemd= "
_ULIMIT = re.compile(r"[a-z]+=(-1|\d+)(:(-1|\d+))?")
_SIZE = re.compile(r"\d+(\.\d+)?[bkmgBKMG]?[bB]?")
_VERBS = "run, rm, kill, stop, ps, pull, image inspect, info and version"
_IMAGE = re.compile(r"(?=[a-z0-9])([\w.-]+(:\d+)?/)?[a-z0-9._-]+(/[a-z0-9._-]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII)
_PORT = re.compile(r"(([\d.]+:)?(\d+(-\d+)?)?:)?\d+(-\d+)?(/(tcp|udp|sctp))?", re.ASCII)
_CONTAINER = r"container:[\w.-]+"
_SPACES = {
    "ipc": re.compile(rf"|none|host|private|shareable|{_CONTAINER}"), "pid": re.compile(rf"|host|private|{_CONTAINER}"),
    "network": re.compile(rf"bridge|none|host|slirp4netns|private|{_CONTAINER}"), "uts": re.compile("|host|private"),
}  # fmt: skip
"""What a container may share, as docker and podman name it; a network of one's own is not on this machine."""


def docker(state: State, arguments: list[str]) -> int:
    """Run docker's verbs that job scripts use."""
    return _dispatch(state, arguments, table(RUN, "cobra"))


def podman_hpc(state: State, arguments: list[str]) -> int:
    """As docker, with podman-hpc's own modules of flags and image handling; it has no part of docker's that hands out GPUs."""
    if arguments[:1] in (["migrate"], ["images"]):
        state.record("accepted")
        return 0
    return _dispatch(state, arguments, table(RUN.replace(" gpus= ", " ") + PODMAN, "cobra"))


def _dispatch(state: State, arguments: list[str], known: Table) -> int:
    match arguments:
        case ["run" | "shared-run", *words] | ["container", "run", *words]:
            return _run(state, words, known)
        case ["rm", *words] | ["container", "rm", *words]:
            _remove(state, words)
        case ["kill", *words]:
            _kill(state, words, signal.SIGKILL)
        case ["stop", *words]:
            _kill(state, words, signal.SIGTERM)
        case ["image", "inspect", *words]:
            return _inspect(state, words)
        case ["image", "exists", name]:
            return 0 if _image(state, name).exists() else 1
        case ["pull" | "image", *words] if arguments[0] == "pull" or words[:1] == ["pull"]:
            _pull(state, words[1:] if arguments[0] == "image" else words)
        case ["image", "prune", *_] | ["login", *_]:
            pass
        case ["info", *_]:
            print("Server Version: rehearsal")
        case ["version", *_] | ["--version"]:
            print("Docker version 24.0.0, rehearsal")
        case ["ps", *_]:
            print(*["CONTAINER ID   NAMES", *(name for name, pid in _running(state).items() if pid)], sep="\n")
        case _:
            raise Rejected(f"'{' '.join(arguments[:2])}' is not a command that the rehearsal knows; it has {_VERBS}")
    state.record("accepted")
    return 0


def _run(state: State, words: list[str], known: Table) -> int:
    options, rest = known.parse(words)
    if not rest:
        raise Rejected(f"{state.program} run requires at least 1 argument: the image")
    image = _image(state, rest[0])
    _check(options)
    # what isn't here is pulled
    image.touch()
    mounts = [_mount(value) for value in every(options, "mount")]
    binds = [bind(value, "--volume") for value in every(options, "volume")] + [each for each in mounts if each is not None]
    binds = workspace(state, binds)
    name = last(options, "name")
    if name is not None and _running(state).get(name, None) is not None:
        raise UserError(
            f'Conflict. The container name "/{name}" is already in use by another container; remove it with {state.program} rm -f {name}'
        )
    entrypoint = last(options, "entrypoint")
    command = mapped([*([entrypoint] if entrypoint else []), *rest[1:]] or ["/bin/sh"], binds)
    environment = {**basics(state), **_environment(options, stars=state.program == "podman-hpc")}
    if last(options, "env-host") is not None:
        environment = {**os.environ, **environment}
    environment = {**mapped_values(environment, binds), **state.plan.environment}
    folder = last(options, "workdir")
    mark = state.kept("containers", name or str(os.getpid()))
    state.record("accepted")
    try:
        return run_child(command, environment, mapped([folder], binds)[0] if folder else None, lambda pid: _note(mark, pid))
    finally:
        if last(options, "rm") is not None or name is None:
            mark.unlink(missing_ok=True)


def _image(state: State, name: str) -> Path:
    """Return the path whose existence tells that an image has been pulled.

    Raises:
        UserError: it is no name of an image.
    """
    if not _IMAGE.fullmatch(name):
        raise UserError(f"invalid reference format: {name}")
    return state.kept("images", name.replace("/", "+"))


def _pull(state: State, words: list[str]) -> None:
    _, names = table("all-tags,a disable-content-trust platform= quiet,q", "cobra").parse(words)
    if len(names) != 1:
        raise Rejected(f"{state.program} pull requires exactly 1 argument, {len(names)} given")
    _image(state, names[0]).touch()
    print(names[0])


def _inspect(state: State, words: list[str]) -> int:
    """Print what is known of images; that one isn't here is an answer too, by which scripts decide to pull it."""
    options, names = table("format,f= platform=", "cobra").parse(words)
    if not names:
        raise Rejected(f"{state.program} image inspect requires at least 1 argument")
    missing = [name for name in names if not _image(state, name).exists()]
    state.record("accepted")
    if missing:
        print(f"[]\nError: No such image: {missing[0]}", file=sys.stderr)
        return 1
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    print({"{{.Architecture}}": machine}.get(last(options, "format") or "", "[]"))
    return 0


def _check(options: list[tuple[str, str]]) -> None:
    for name, value in options:
        if name == "ulimit" and not _ULIMIT.fullmatch(value):
            raise Rejected(f'invalid argument "{value}" for "--ulimit" flag: write NAME=SOFT[:HARD]')
        if name in ("shm-size", "memory", "memory-swap") and not _SIZE.fullmatch(value) and value != "-1":
            raise Rejected(f'invalid argument "{value}" for "--{name}" flag: invalid size')
        if name in _SPACES and not _SPACES[name].fullmatch(value):
            raise UserError(f"--{name}: invalid {name.upper()} mode: {value}" if name != "network" else f"network {value} not found")
        if name == "cpus" and not re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
            raise Rejected(f'invalid argument "{value}" for "--cpus" flag: failed to parse {value} as a rational number')
        if name == "publish" and not _PORT.fullmatch(value):
            raise Rejected(f'invalid argument "{value}" for "-p, --publish" flag: invalid containerPort')
        if name == "device" and not Path(value.partition(":")[0]).exists():
            raise UserError(f'error gathering device information while adding custom device "{value}": no such file or directory')
        if name == "gpus" and not re.fullmatch(r'all|\d+|"?device=[\w,-]+"?|count=\w+(,.*)?', value):
            raise Rejected(f'invalid argument "{value}" for "--gpus" flag')
        if name == "name" and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", value):
            raise UserError(f"Invalid container name ({value}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if name == "workdir" and not value.startswith("/"):
            raise UserError(f"the working directory '{value}' is invalid, it needs to be an absolute path")
    names = {name for name, _ in options}
    if {"interactive", "tty"} <= names and not sys.stdin.isatty():
        raise UserError("the input device is not a TTY")
    if {"rm", "restart"} <= names:
        raise Rejected("Conflicting options: --restart and --rm")
    if "detach" in names:
        raise UserError("--detach is not rehearsed: the container would outlive its job; run it in the foreground")


def _environment(options: list[tuple[str, str]], *, stars: bool) -> dict[str, str]:
    """Return the variables of --env-file and --env; a name alone takes the caller's value.

    With `stars`, as in podman alone, a name that ends in * takes those of all names that begin so.
    """
    lines: list[str] = []
    for file in every(options, "env-file"):
        try:
            lines += [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
        except OSError as error:
            raise UserError(f"open {file}: {error.strerror}") from error
    found: dict[str, str] = {}
    for item in [*lines, *every(options, "env")]:
        name, sign, value = item.partition("=")
        if not name or re.search(r"\s", name):
            raise Rejected(f"invalid environment variable: {item!r}")
        if sign:
            found[name] = value
        elif stars and name.endswith("*"):
            found |= {each: text for each, text in os.environ.items() if each.startswith(name[:-1])}
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _mount(text: str) -> Bind | None:
    items = dict(item.partition("=")[::2] for item in text.split(","))
    source, target = items.get("source") or items.get("src"), items.get("target") or items.get("destination") or items.get("dst")
    if items.get("type", "volume") == "tmpfs":
        return None
    if items.get("type") != "bind" or not source or not target:
        raise Rejected(f'invalid argument "{text}" for "--mount" flag: write type=bind,source=SRC,target=DST[,readonly]')
    return bind(f"{source}:{target}", "--mount")


def _note(mark: Path, pid: int) -> None:
    mark.write_text(str(pid), encoding="utf-8")


def _running(state: State) -> dict[str, int | None]:
    """Return the process of each container that has not been removed, None of one that has ended."""
    found: dict[str, int | None] = {}
    for mark in state.kept("containers", "x").parent.iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(mark.read_text(encoding="utf-8"))
            found[mark.name] = pid if Path(f"/proc/{pid}").exists() else 0
    return found


def _kill(state: State, words: list[str], number: int) -> None:
    options, names = table("signal,s= time,t=", "cobra").parse(words)
    given = last(options, "signal")
    if given is not None:
        number = int(given) if given.isdigit() else getattr(signal, f"SIG{given.upper().removeprefix('SIG')}")
    for name in names:
        pid = _running(state).get(name)
        if not pid:
            raise UserError(f"Cannot kill container: {name}: No such container: {name}")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)


def _remove(state: State, words: list[str]) -> None:
    options, names = table("force,f volumes,v link,l", "cobra").parse(words)
    for name in names:
        running = _running(state)
        if name not in running:
            if last(options, "force") is not None:
                continue
            raise UserError(f"No such container: {name}")
        pid = running[name]
        if pid and last(options, "force") is None:
            raise UserError(f'cannot remove container "/{name}": container is running: stop the container before removing or force remove')
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        state.kept("containers", name).unlink(missing_ok=True)
