"""The container engines: which of them this machine can use, and how each is told to build, run, inspect and save."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Sequence
from typing import Any

from stormbench.core.errors import RunError, UserError
from stormbench.job.images import run

GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le"}
"""What `uname -m` says, and what image engines call it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine: `program` is what is called; `does` are the verbs that it has."""

    name: str
    programs: tuple[str, ...]
    does: tuple[str, ...]

    @property
    def program(self) -> str:
        """The program that is here, else the first name it could have."""
        return next((name for name in self.programs if shutil.which(name)), self.programs[0])


BUILD, RUN, EXPORT = "build", "test", "export"
ENGINES = (
    Engine(name="docker", programs=("docker",), does=(BUILD, RUN, EXPORT)),
    Engine(name="podman", programs=("podman",), does=(BUILD, RUN, EXPORT)),
    Engine(name="buildah", programs=("buildah",), does=(BUILD, EXPORT)),
    Engine(name="apptainer", programs=("apptainer", "singularity"), does=(BUILD, RUN, EXPORT)),
    Engine(name="enroot", programs=("enroot",), does=(RUN, EXPORT)),
)
"""In the order in which they are tried."""
NAMES = tuple(engine.name for engine in ENGINES)
BY_NAME = {engine.name: engine for engine in ENGINES}
CANNOT = {
    ("buildah", RUN): "buildah starts no containers of a finished image; podman uses the same store: --engine podman",
    ("enroot", BUILD): "enroot imports images and builds none; build with docker or podman, then: stormbench images export --format sqsh",
}


def state(engine: Engine, verb: str) -> tuple[bool, str]:
    """Return whether this machine's engine can do `verb`, and its version or why not.

    A docker command line without its service, or without buildx for the secrets of a build, is of no use.
    """
    program = engine.program
    if shutil.which(program) is None:
        return False, "not on PATH"
    if engine.name == "docker":
        good, told = run.answers([program, "version", "--format", "{{.Server.Version}}"])
        if not good:
            return False, f"its service doesn't answer: {told}"
        if verb == BUILD:
            # a build's secrets and further contexts are BuildKit's
            buildx, why = run.answers([program, "buildx", "version"])
            if not buildx:
                return False, f"it has no buildx, which builds with secrets need: {why}"
        return True, told
    if engine.name == "enroot":
        return run.answers([program, "version"])
    return run.answers([program, "--version"])


def choose(given: str | None, verb: str, *, dry_run: bool, among: Sequence[str] = NAMES) -> Engine:
    """Return the engine that was asked for, else the first of this machine that can do `verb`.

    A dry run also prints commands of engines that are elsewhere; where none is here it takes the first.

    Raises:
        UserError: the engine can't do it, isn't here, or there is none.
    """
    if given is not None:
        engine = BY_NAME[given]
        if verb not in engine.does:
            raise UserError(f"--engine {given}: {CANNOT[(given, verb)]}")
        if given not in among:
            raise UserError(f"--engine {given}: can't serve here; use one of {', '.join(among)}")
        if not dry_run:
            good, why = state(engine, verb)
            if not good:
                rest = [other for other in ENGINES if other.name in among and verb in other.does and other is not engine]
                other = next((other.name for other in rest if state(other, verb)[0]), None)
                fix = f"use --engine {other}" if other else "install it or start its service"
                raise UserError(f"--engine {given}: not usable here ({why}); {fix}")
        return engine
    reasons = []
    for engine in ENGINES:
        if engine.name in among and verb in engine.does:
            good, why = state(engine, verb)
            if good:
                return engine
            reasons.append(f"{engine.name}: {why}")
    if dry_run:
        first = next(engine for engine in ENGINES if engine.name in among and verb in engine.does)
        run.note(f"no engine of this machine can {verb} images; these are the commands for {first.name}")
        return first
    raise UserError(f"no engine of this machine can {verb} images ({'; '.join(reasons)}); install podman or start docker, or see --dry-run")


def reference(engine: Engine, tag: str) -> str:
    """Return the name under which the engine's store has a local image; podman puts `localhost/` before a name without a registry."""
    first = tag.split("/", 1)[0]
    has_registry = "/" in tag and ("." in first or ":" in first or first == "localhost")
    return tag if engine.name == "docker" or has_registry else f"localhost/{tag}"


def inspect(engine: Engine, name: str) -> dict[str, Any]:
    """Return what the engine knows of an image: id, digests, labels, architecture, size in bytes.

    Raises:
        UserError: the engine has no such image.
        RunError: the engine doesn't answer.
    """
    words = [engine.program, "inspect", "--type", "image", name] if engine.name == "buildah" else [engine.program, "image", "inspect", name]
    try:
        told = run.ask(words)
    except RunError as error:
        # docker, podman and buildah each say it in words of their own
        if any(text in str(error).lower() for text in ("no such image", "not known", "not found", "unable to find", "no such object")):
            raise UserError(f"{name}: {engine.name} has no such image; build it first: stormbench images build") from error
        raise
    try:
        found = json.loads(told)
        return _buildah(found) if engine.name == "buildah" else _docker(found[0])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{' '.join(words)}: its answer can't be read ({type(error).__name__}: {error})") from error


def _docker(found: dict[str, Any]) -> dict[str, Any]:
    config = found.get("Config") or {}
    digests = [text.rpartition("@")[2] for text in found.get("RepoDigests") or []]
    return {
        "id": _sha256(found["Id"]),
        "digest": found.get("Digest") or (digests[0] if digests else ""),
        "labels": config.get("Labels") or {},
        "architecture": found.get("Architecture", ""),
        "size_bytes": found.get("Size"),
        "healthcheck": (config.get("Healthcheck") or {}).get("Test") or (found.get("HealthCheck") or {}).get("Test") or [],
    }


def _buildah(found: dict[str, Any]) -> dict[str, Any]:
    # with format docker the image's own record is below Docker, with format oci below OCIv1
    docker = found.get("Docker") or {}
    config = docker.get("config") or {}
    oci = found.get("OCIv1") or {}
    return {
        "id": _sha256(found["FromImageID"]),
        "digest": found.get("FromImageDigest") or "",
        "labels": config.get("Labels") or (oci.get("config") or {}).get("Labels") or {},
        "architecture": docker.get("architecture") or oci.get("architecture") or "",
        "size_bytes": None,
        "healthcheck": (config.get("Healthcheck") or {}).get("Test") or [],
    }


def _sha256(identity: str) -> str:
    return identity if identity.startswith("sha256:") else f"sha256:{identity}"


def foreign(architectures: Sequence[str], wanted: str | None) -> str | None:
    """Return the engines' name of the architecture to build for where it isn't this machine's, else None.

    Raises:
        UserError: the image doesn't exist for it.
    """
    here = platform.machine()
    name = wanted or here
    if name not in architectures:
        origin = f"--arch {wanted}" if wanted else f"this machine is {here}"
        fix = f"build with --arch {architectures[0]}" if not wanted else f"choose {' or '.join(architectures)}"
        raise UserError(f"{origin}: the image exists only for {', '.join(architectures)}; {fix}")
    return None if name == here else GO_NAMES.get(name, name)
