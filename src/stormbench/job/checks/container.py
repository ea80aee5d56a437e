"""Checks of the container runtime: is it there, may it start containers, does the image fit, does anything of the host leak in."""

from __future__ import annotations

import stat
from pathlib import Path

from stormbench.job.checks import fit, images
from stormbench.job.checks.machine import RUNTIME_PROGRAMS, Machine, on_nodes_only
from stormbench.job.checks.result import Result, not_applicable, ok, problem, warning

NO_CONTAINER = "the job runs without a container"
NO_RUNTIME = "no container runtime is on this machine"
PREFIX = "stormbench-"
"""Begins the name of every container that a job makes."""
_STARTERS = ("libexec/apptainer/bin/starter-suid", "libexec/singularity/bin/starter-suid")
INSIDE = (Path("/results"), Path("/data"), Path("/scratch"), Path("/workspace"))
"""What every container of a job has: LOGDIR, DATADIR, scratch, and the image's own copy of the kit."""


def runtime(machine: Machine) -> Result:
    """Look for the runtime's program, and for Slurm's pyxis plugin where the job uses it."""
    if machine.job is None:
        names = ", ".join(machine.runtimes)
        return ok(names) if names else not_applicable(NO_RUNTIME)
    if not machine.runtimes:
        return not_applicable(NO_CONTAINER)
    name = machine.runtimes[0]
    programs = [program for program in RUNTIME_PROGRAMS[name] if machine.which(program)]
    if name == "pyxis" and machine.which("srun"):
        told = machine.ask("srun", "--help")
        if told.code == 0 and "--container-image" not in told.out + told.err:
            return problem(
                "srun knows no --container-image, so Slurm has no pyxis plugin",
                "render with --runtime apptainer, or ask the site to install pyxis",
            )
    if programs and name == "docker" and machine.runs_the_job:
        told = machine.ask("docker", "info", "--format", "{{.ServerVersion}}")
        if told.code != 0:
            return problem(f"docker doesn't answer: {told.why}", "start docker's service, or ask for membership of the group docker")
    if programs:
        return ok(f"{name}: {machine.which(programs[0])}")
    missing = f"STORMBENCH_RUNTIME={name}: {' or '.join(RUNTIME_PROGRAMS[name])} is not on PATH"
    if not machine.runs_the_job:
        return not_applicable(f"{missing} of this machine; --job looks on a node")
    return problem(missing, "load the module that brings it, or choose another runtime with STORMBENCH_RUNTIME")


def user_namespaces(machine: Machine) -> Result:
    """Tell whether rootless runtimes may make the user namespace that they need."""
    needing = [name for name in machine.runtimes if name in ("pyxis", "apptainer", "podman-hpc")]
    if not needing:
        return not_applicable("no runtime here needs user namespaces")
    if not machine.runs_the_job:
        return on_nodes_only()
    if needing == ["apptainer"] and (starter := _setuid_starter(machine)):
        return ok(f"not needed: {starter} is setuid")
    for name, off, why in (
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone"),
    ):
        value = (machine.read(f"proc/sys/{name}") or "").strip()
        if value == off and (machine.uid != 0 or name.startswith("user/")):
            return problem(
                f"off: {why}={value}, so {', '.join(needing)} can't start containers",
                f"ask the administrator for {why} above 0, or for apptainer's setuid package",
            )
    if machine.uid != 0 and (machine.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns") or "").strip() == "1":
        return warning(
            "restricted: sysctl kernel.apparmor_restrict_unprivileged_userns=1",
            f"ask the administrator for an AppArmor profile that gives {', '.join(needing)} `userns`, or to set it to 0",
        )
    limit = (machine.read("proc/sys/user/max_user_namespaces") or "").strip()
    if not limit:
        return warning("/proc/sys/user/max_user_namespaces can't be read, so the kernel may have none", "try: unshare --user true")
    return ok(f"on, at most {limit}")


def _setuid_starter(machine: Machine) -> Path | None:
    for program in RUNTIME_PROGRAMS["apptainer"]:
        found = machine.which(program)
        for starter in _STARTERS if found else ():
            path = Path(found or "").resolve().parent.parent / starter
            if path.is_file() and path.stat().st_mode & stat.S_ISUID:
                return path
    return None


def host_python(machine: Machine) -> Result:
    """Look for Python packages of the host that would be imported inside the container in place of the image's."""
    if not machine.runtimes:
        return not_applicable(NO_CONTAINER if machine.job else NO_RUNTIME)
    leaking = [f"{name}={machine.environ[name]}" for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE") if machine.environ.get(name)]
    if leaking:
        names = " ".join(text.partition("=")[0] for text in leaking)
        return warning(
            f"{', '.join(leaking)} would lead the image's Python to the host's packages", f"before submitting, run: unset {names}"
        )
    packages = [path for path in sorted((machine.home / ".local" / "lib").glob("python3*/site-packages")) if any(path.iterdir())]
    if (
        packages
        and not machine.value("PYTHONNOUSERSITE")
        and any(name in ("apptainer", "shifter", "podman-hpc") for name in machine.runtimes)
    ):
        return warning(
            f"{packages[0]} is in the home folder, which {', '.join(machine.runtimes)} may mount",
            "before submitting, run: export PYTHONNOUSERSITE=1",
        )
    return ok("nothing of the host's leaks in")


def image(machine: Machine) -> Result:
    """Compare the image's architecture with the node's."""
    name = machine.value("CONT")
    if machine.job is not None and not machine.runtimes:
        return not_applicable(NO_CONTAINER)
    if not name:
        if machine.job is None:
            return not_applicable("CONT is not set")
        return (problem if machine.is_meant else warning)(
            "CONT is not set, so the job has no image",
            "set CONT to a registry's name or a .sqsh or .sif file, in configs/data.sh or the environment",
        )
    if images.is_file(name) and not machine.path(name).exists():
        verdict = problem if machine.is_meant else warning
        return verdict(f"CONT={name}: no such file on this machine", "build or copy the image there, or set CONT to the one that exists")
    node = machine.job.config.architecture if machine.job is not None and not machine.runs_the_job else machine.architecture
    found, how = images.architecture(machine, name)
    if found is None:
        known, whence = fit.facts(machine)
        found, how = (known["architecture"], whence) if known.get("architecture") else (None, how)
    if found is None:
        return not_applicable(f"CONT={name}: architecture unknown: {how}")
    if found != node:
        return problem(f"CONT={name}: {found} by {how}, the node is {node}", f"build or pull the image for {node}")
    return ok(f"CONT={name}: {found} by {how}")


def mounts(machine: Machine) -> Result:
    """Tell whether the folders to mount exist, and whether the entry and the paths in ADDITIONAL_ARGS are there inside the container.

    The container works in /results, not in the folder from which the job was submitted.
    """
    job = machine.job
    if job is None or not machine.runtimes:
        return not_applicable(NO_CONTAINER if job else "needs a config")
    pairs = [mount.split(":") for mount in job.config.mounts]
    absent = [pair[0] for pair in pairs if not machine.path(pair[0]).exists()]
    if absent:
        verdict = problem if machine.is_meant and machine.runs_the_job else warning
        found = f"STORMBENCH_MOUNTS ({job.where('STORMBENCH_MOUNTS')}): {absent[0]} doesn't exist on this machine"
        return verdict(found, "make the folder, or take it out of STORMBENCH_MOUNTS")
    inside = [Path(pair[1] if len(pair) > 1 else pair[0]) for pair in pairs] + list(INSIDE)
    entry = job.config.entry
    if entry and not _within(Path(entry), inside):
        return problem(
            f"STORMBENCH_ENTRY={entry} ({job.where('STORMBENCH_ENTRY')}) is in no mount of the container",
            f"add {machine.path(entry).parent} to STORMBENCH_MOUNTS, or leave STORMBENCH_ENTRY out to use the image's own",
        )
    words = [word.rpartition("=")[2] for word in job.config.additional_args.split()]
    outside = [word for word in words if "/" in word and machine.path(word).exists() and not _within(Path(word), inside)]
    if outside:
        folder = machine.path(outside[0]).resolve().parent
        return warning(
            f"ADDITIONAL_ARGS ({job.where('ADDITIONAL_ARGS')}) has {outside[0]}, which is absent in the container",
            f"add {folder}:{folder} to STORMBENCH_MOUNTS and write {folder / Path(outside[0]).name}",
        )
    return ok(f"the container works in /results and sees {', '.join(map(str, inside))}")


def _within(path: Path, folders: list[Path]) -> bool:
    return any(folder == path or folder in path.parents for folder in folders)


def stale_containers(machine: Machine) -> Result:
    """Look for stopped containers that earlier jobs of this kit left, which hold space and may take a name."""
    if machine.which("enroot") and "pyxis" in machine.runtimes:
        told = machine.ask("enroot", "list", "--fancy")
        lines = [line.split() for line in told.out.splitlines()]
        left = [words[0] for words in lines if len(words) == 1 and words[0].removeprefix("pyxis_").startswith(PREFIX)]
        remove = "enroot remove --force"
    elif machine.which("docker") and "docker" in machine.runtimes:
        told = machine.ask("docker", "ps", "--all", "--filter", f"name={PREFIX}", "--format", "{{.Names}}\t{{.Status}}")
        pairs = [line.partition("\t")[::2] for line in told.out.splitlines()]
        left = [name for name, state in pairs if name.startswith(PREFIX) and not state.startswith("Up")]
        remove = "docker rm"
    else:
        return not_applicable("no runtime here keeps named containers")
    if told.code != 0:
        return warning(f"not known: {told.why}", "start the runtime's service or check your access to it, then run this again")
    if left:
        return warning(f"left by earlier jobs: {', '.join(left)}", f"if no job of yours is using them, run: {remove} {' '.join(left)}")
    return ok("none is left by earlier jobs")
