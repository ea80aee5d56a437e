"""apptainer, singularity, shifter and enroot: options checked, then the command run on this machine with the container's variables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.job.standins.mapping import Bind, mapped, mapped_values
from stormbench.job.standins.options import Rejected, every, last, table
from stormbench.job.standins.plan import INSIDE, VARIABLE, State

APPTAINER = table(
    """
    add-caps= allow-setuid app= apply-cgroups= bind,B= blkio-weight= cleanenv,e compat contain,c containall,C cpus= cpuset-cpus= cwd,pwd=
    disable-cache
    dns= drop-caps= env= env-file= fakeroot,f fusemount= home,H= hostname= ipc,i keep-privs memory= mount= net network= network-args=
    no-compat no-eval
    no-home no-https no-init no-mount= no-privs no-umask nv nvccli oom-kill-disable overlay,o= pid,p pids-limit= rocm scratch,S= security=
    sparse unsquash userns,u uts workdir,W= writable,w writable-tmpfs
    """,
    "cobra",
)
PULL = table(
    """
    arch= arch-variant= authfile= dir= disable-cache docker-host= docker-login force,F library= no-cleanup no-https help,h allow-unsigned,U
    allow-unauthenticated name=
    """,
    "cobra",
)
"""Of apptainer and, from allow-unsigned on, of singularity."""
_GLOBAL = table("debug,d quiet,q silent,s verbose,v nocolor config,c= version", "cobra")
SHIFTER = table("image,i= module,m= volume,V= env,e= env-file= entrypoint? workdir,w= clearenv,c ccm verbose,v help,h")
ENROOT_START = table("root,r rw,w mount,m= env,e= rc,c= conf= ", "cobra")
_NO_MOUNT = {"proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"}
_BASICS = ("HOME", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TZ", INSIDE, VARIABLE)
_IMAGE_SCHEMES = ("docker://", "library://", "oras://", "docker-daemon:", "docker-archive:", "oci:", "shub://", "instance://")


def basics(state: State) -> dict[str, str]:
    """Return the variables that a container has by itself, with a PATH on which this machine's Python and the stand-ins are."""
    path = os.pathsep.join(
        [str(state.folder), str(Path(sys.executable).parent), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    )
    return {**{name: os.environ[name] for name in _BASICS if name in os.environ}, "PATH": path}


def workspace(state: State, binds: Iterable[Bind]) -> list[Bind]:
    """Return the binds with /workspace, where images hold the kit, as this checkout unless something is bound there."""
    binds = list(binds)
    return (
        binds
        if any(bind.target.rstrip("/") == "/workspace" for bind in binds)
        else [*binds, Bind(source=state.checkout(), target="/workspace")]
    )


def bind(text: str, what: str) -> Bind:
    """Return the bind of `SRC[:DST[:OPTIONS]]`.

    Raises:
        Rejected: the source doesn't exist, or the parts aren't a bind's.
    """
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not source or (options and not set(options.split(",")) <= {"ro", "rw", "z", "Z", "rshared", "rslave", "rprivate"}):
        raise Rejected(f"{what} {text}: invalid bind; write SRC[:DST[:ro|rw]]")
    if target and not target.startswith("/"):
        raise Rejected(f"{what} {text}: the destination must be an absolute path")
    if not Path(source).exists():
        raise UserError(f"{what} {text}: mount source {source} doesn't exist")
    return Bind(source=str(Path(source).absolute()), target=target or source)


def pairs(words: Iterable[str]) -> dict[str, str]:
    """Return the variables of `NAME=VALUE,NAME=VALUE` words, as apptainer splits them.

    Raises:
        Rejected: a word has no name and sign.
    """
    found: dict[str, str] = {}
    for word in words:
        for item in re.split(r",(?=[A-Za-z_]\w*=)", word):
            name, sign, value = item.partition("=")
            if not sign or not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise Rejected(f"--env {item}: must be formatted as NAME=VALUE")
            found[name] = value
    return found


def execute(state: State, command: list[str], environment: Mapping[str, str], binds: list[Bind], folder: str | None) -> int:
    """Become the container's command; return only if it can't be started.

    Raises:
        Rejected: the command or its folder isn't there.
    """
    state.record("accepted")
    words = mapped(command, binds)
    where = mapped([folder], binds)[0] if folder else None
    variables = {**mapped_values(environment, binds), **state.plan.environment}
    try:
        if where is not None:
            os.chdir(where)
    except OSError as error:
        raise UserError(f"chdir to {folder}: {error.strerror}; it must exist in the container") from error
    try:
        os.execvpe(words[0], words, variables)
    except OSError as error:
        raise UserError(f'exec: "{words[0]}": executable file not found in $PATH ({error.strerror})') from error


def apptainer(state: State, arguments: list[str]) -> int:
    """`exec`, `run` and `pull`; also `--version`, and `inspect` of an image that exists."""
    general, words = _GLOBAL.parse(arguments)
    if last(general, "version") is not None or words[:1] == ["version"]:
        print(f"{state.program} version 1.3.0")
        return 0
    if words[:1] == ["inspect"] and len(words) > 1:
        _image(words[-1])
        return 0
    if words[:1] == ["pull"]:
        return _pull(state, words[1:])
    if words[:1] not in (["exec"], ["run"], ["shell"]):
        raise Rejected(f"unknown command {' '.join(words[:1]) or '(none)'!r} for the rehearsal, which knows exec, run and pull")
    options, rest = APPTAINER.parse(words[1:])
    if not rest or (words[0] == "exec" and len(rest) < 2):
        raise Rejected(f"{words[0]} requires an image and a command, {len(rest)} words given")
    _image(rest[0])
    # commas separate binds, but also the options of one: /a:/b:ro,/c:/d
    binds = [bind(part, "--bind") for value in every(options, "bind") for part in re.split(r",(?!r[ow](?:,|$))", value)]
    binds += [_mount(value) for value in every(options, "mount")]
    for value in every(options, "no-mount"):
        unknown = [each for each in value.split(",") if each not in _NO_MOUNT and not each.startswith("/")]
        if unknown:
            raise Rejected(f"--no-mount {value}: {unknown[0]} is not one of {', '.join(sorted(_NO_MOUNT))}, nor a path")
    names = {name for name, _ in options}
    if "nv" in names and "rocm" in names:
        raise Rejected("--nv and --rocm: choose the one of the node's GPUs")
    if "home" in names:
        source, _, target = (last(options, "home") or "").partition(":")
        binds.append(bind(f"{source}:{target or source}", "--home"))
    environment = basics(state) if names & {"cleanenv", "containall", "compat"} else {**os.environ, "PATH": basics(state)["PATH"]}
    prefixes = ("APPTAINERENV_", "SINGULARITYENV_")
    environment |= {name[len(prefix) :]: value for prefix in prefixes for name, value in os.environ.items() if name.startswith(prefix)}
    environment |= pairs(every(options, "env"))
    environment |= {"APPTAINER_CONTAINER": rest[0], "SINGULARITY_CONTAINER": rest[0]}
    return execute(state, rest[1:] or ["/bin/sh"], environment, workspace(state, binds), last(options, "cwd"))


def _pull(state: State, words: list[str]) -> int:
    """`pull [OPTIONS] [FILE] URI`: nothing comes over the network, but the file is there afterwards."""
    options, rest = PULL.parse(words)
    if not 1 <= len(rest) <= 2:
        raise Rejected(f"pull takes [FILE] URI, {len(rest)} words given")
    uri = rest[-1]
    match = re.fullmatch(r"(docker|library|oras|shub|ipfs|https?)://([^\s]+)", uri)
    if match is None:
        raise Rejected(f"pull {uri}: not a URI; write docker://IMAGE[:TAG], oras://, library:// or https://")
    name = re.sub(r"[:@]", "_", match[2].rpartition("/")[2].removesuffix(".sif"))
    output = Path(last(options, "dir") or "", rest[0] if len(rest) == 2 else f"{name if '_' in name else f'{name}_latest'}.sif")
    if output.exists() and last(options, "force") is None:
        raise UserError(f'Image file already exists: "{output}" - will not overwrite')
    try:
        output.write_bytes(b"SIF rehearsal\n")
    except OSError as error:
        raise UserError(f"while creating {output}: {(error.strerror or '').lower()}") from error
    state.record("accepted")
    return 0


def shifter(state: State, arguments: list[str]) -> int:
    """Run a command in an image, named by --image or by the job."""
    options, command = SHIFTER.parse(arguments)
    image = last(options, "image") or os.environ.get("SHIFTER_IMAGE") or os.environ.get("SLURM_SPANK_SHIFTER_IMAGE")
    if not image:
        raise Rejected("No image specified: give --image, or #SBATCH --image")
    if not command:
        raise Rejected("No command given to run in the image")
    binds = []
    for value in every(options, "volume"):
        for part in value.split(";"):
            found = bind(part, "--volume")
            if re.match(r"/(bin|dev|etc|lib|lib64|proc|sys|usr)(/|$)", found.target):
                raise Rejected(f"Invalid Volume Map: {part}: the destination is reserved; choose another one")
            binds.append(found)
    unknown = [
        each
        for value in every(options, "module")
        for each in value.split(",")
        if each not in ("gpu", "cuda-mpich", "mpich", "nccl-2.15", "nccl-2.18", "nccl-plugin", "cvmfs", "none")
    ]
    if unknown:
        raise Rejected(f"--module={unknown[0]}: no such module; use gpu, mpich or none")
    environment = {
        **(basics(state) if last(options, "clearenv") is not None else os.environ),
        "PATH": basics(state)["PATH"],
        **pairs(every(options, "env")),
    }
    return execute(state, command, environment, workspace(state, binds), last(options, "workdir"))


def enroot(state: State, arguments: list[str]) -> int:
    """`import -o FILE URI`, `create [-n NAME] FILE`, `start NAME CMD...`, `remove [-f] NAME`, `list`, `version`."""
    verb, words = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb == "import":
        options, rest = table("output,o= arch,a=", "cobra").parse(words)
        if len(rest) != 1 or not re.match(r"(docker|dockerd|podman)://\S+", rest[0]):
            raise Rejected(f"Invalid argument: {' '.join(rest) or 'no URI'}; write docker://[REGISTRY#]IMAGE[:TAG]")
        output = Path(last(options, "output") or re.sub(r"[/:]", "+", rest[0].split("://")[1]) + ".sqsh")
        if output.exists():
            raise UserError(f"File already exists: {output}")
        output.write_bytes(b"hsqs rehearsal\n")
    elif verb == "create":
        options, rest = table("name,n= force,f", "cobra").parse(words)
        if len(rest) != 1 or not Path(rest[0]).is_file():
            raise UserError(f"No such file or directory: {' '.join(rest)}")
        name = last(options, "name") or Path(rest[0]).stem
        if "/" in name:
            raise Rejected(f"Invalid argument: {name}: a container's name has no slash")
        mark = state.enroot(name)
        if mark.exists() and last(options, "force") is None:
            raise UserError(f"File already exists: {mark.name}; use -f to overwrite it")
        mark.touch()
    elif verb == "remove":
        options, rest = table("force,f", "cobra").parse(words)
        missing = [name for name in rest if not state.enroot(name).exists()]
        if not rest or missing:
            raise UserError(f"No such file or directory: {' '.join(missing) or 'no name given'}")
        for name in rest:
            state.enroot(name).unlink()
    elif verb == "start":
        options, rest = ENROOT_START.parse(words)
        if not rest or not (state.enroot(rest[0]).exists() or Path(rest[0]).is_file()):
            raise UserError(f"No such file or directory: {' '.join(rest[:1]) or 'no name given'}")
        binds = [bind(value, "--mount") for value in every(options, "mount")]
        return execute(state, rest[1:] or ["/bin/sh"], {**os.environ, **pairs(every(options, "env"))}, workspace(state, binds), None)
    elif verb == "list":
        table("fancy,f", "cobra").parse(words)
        print(*sorted(path.name for path in state.enroot("x").parent.iterdir()), sep="\n")
    elif verb == "version":
        print("3.4.1")
    else:
        raise Rejected(f"Invalid command: {verb or '(none)'}; the rehearsal knows import, create, start, remove, list and version")
    state.record("accepted")
    return 0


def _mount(text: str) -> Bind:
    """Return the bind of `type=bind,src=SRC,dst=DST[,ro]`."""
    items = dict(item.partition("=")[::2] for item in text.split(","))
    source = items.get("source") or items.get("src")
    target = items.get("destination") or items.get("dst") or items.get("target")
    unknown = set(items) - {
        "type",
        "source",
        "src",
        "destination",
        "dst",
        "target",
        "ro",
        "readonly",
        "image-src",
        "id",
        "bind-propagation",
    }
    if items.get("type", "bind") != "bind" or not source or not target or unknown:
        raise Rejected(f"--mount {text}: write type=bind,src=SRC,dst=DST[,ro]")
    return bind(f"{source}:{target}", "--mount")


def _image(name: str) -> None:
    if name.startswith("-"):
        raise Rejected(f"{name} stands where the image is expected")
    if not name.startswith(_IMAGE_SCHEMES) and not Path(name).exists():
        raise UserError(f"could not open image {name}: failed to retrieve path for {name}: no such file or directory")
