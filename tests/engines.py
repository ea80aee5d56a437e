"""Stand-ins for docker, podman, buildah, apptainer and enroot: they refuse what the real ones refuse, and keep images as small files.

`install` puts them into a folder for PATH. What each was called with is kept below STANDINS; FAIL names a program and verb that fail,
SLOW those that wait. Grammar after docker buildx 0.2x, podman 4.3, apptainer 1.4 and enroot 3.4.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from stormbench.job.standins.options import Rejected, every, last, table

MANIFEST = "image deepcam-cpu\nsystem libc6 2.36-9\nsystem openmpi-bin 4.1.4-3\npython torch 2.13.0+cpu\npython numpy 2.4.6\n"
PROGRAMS = ("docker", "podman", "buildah", "apptainer", "enroot", "unsquashfs")
NAME = re.compile(r"([\w.-]+(:\d+)?/)*[a-z0-9._-]+(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII)
BUILDX = """
add-host= allow= annotation= attest= build-arg= build-context= builder= cache-from= cache-to= call= cgroup-parent= check file,f= iidfile=
label= load metadata-file= network= no-cache no-cache-filter= output,o= platform= progress= provenance= pull push quiet,q sbom= secret=
shm-size= ssh= tag,t= target= ulimit=
"""
PODMAN = """
add-host= annotation= arch= authfile= build-arg= build-context= cache-from= cap-add= cap-drop= cert-dir= device= file,f= force-rm format=
http-proxy ignorefile= iidfile= isolation= jobs= label= layers logfile= memory,m= network= no-cache os= output,o= platform= pull? quiet,q
retry= rm secret= security-opt= squash ssh= tag,t= target= timestamp= tls-verify ulimit= userns= variant= volume,v=
"""
RUN = """
cap-drop= device= entrypoint= env,e= gpus= group-add= init ipc= name= network= privileged pull= read-only rm shm-size= tmpfs= ulimit=
user,u= userns= volume,v= workdir,w=
"""
APPTAINER_BUILD = (
    "arch= bind,B= build-arg= disable-cache docker-login fakeroot,f force,F ignore-subuid mksquashfs-args= nv rocm notest,T sandbox,s"
)
APPTAINER_EXEC = "bind,B= cleanenv,e contain,c containall,C env= no-home nv rocm pwd= writable-tmpfs"


def install(folder: Path, *names: str) -> Path:
    """Put these stand-ins, all by default, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or PROGRAMS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.engines {name} "$@"\n')
        path.chmod(0o755)
    return folder


def state() -> Path:
    return Path(os.environ["STANDINS"])


def calls(folder: Path, program: str = "") -> list[list[str]]:
    """Return what the stand-ins of a state folder were called with, without their questions of version."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    found = [json.loads(line) for line in lines]
    return [words for words in found if words[0].startswith(program) and "version" not in " ".join(words[1:3])]


def put_image(folder: Path, name: str, content: str = "one", **more: Any) -> str:
    """Put an image into the store; return its id."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(content.encode()).hexdigest()
    record = {"id": identity, "architecture": "amd64", "labels": {}, "content": content, **more}
    (folder / "images" / name.replace("/", "+")).write_text(json.dumps(record))
    return f"sha256:{identity}"


def image(name: str) -> dict[str, Any]:
    for candidate in (name, f"localhost/{name}", name.removeprefix("localhost/")):
        with contextlib.suppress(FileNotFoundError):
            return json.loads((state() / "images" / candidate.replace("/", "+")).read_text())
    raise Rejected(f"Error: No such image: {name}")


def check_build(options: list[tuple[str, str]], rest: list[str], program: str) -> None:
    """Refuse what BuildKit and podman refuse, then keep the image with what it was built from."""
    if len(rest) != 1 or not Path(rest[0]).is_dir():
        raise Rejected(f'ERROR: "{program} build" requires exactly 1 argument, a folder: {rest}')
    if not Path(last(options, "file") or "").is_file():
        raise Rejected(f"ERROR: failed to read dockerfile: open {last(options, 'file')}: no such file or directory")
    tag = last(options, "tag") or ""
    if not NAME.fullmatch(tag):
        raise Rejected(f'ERROR: invalid tag "{tag}": invalid reference format')
    secrets = {}
    for text in every(options, "secret"):
        items = dict(item.partition("=")[::2] for item in text.split(","))
        if set(items) - {"id", "src", "source", "type", "env"} or not Path(items.get("src", "")).is_file():
            raise Rejected(f"ERROR: failed to stat {items.get('src')}: no such file or directory: {text}")
        secrets[items["id"]] = Path(items["src"]).read_text()
    contexts = dict(text.partition("=")[::2] for text in every(options, "build-context"))
    for name, path in contexts.items():
        if not Path(path).is_dir():
            raise Rejected(f"ERROR: failed to get build context {name}: stat {path}: no such file or directory")
    for text in every(options, "build-arg") + every(options, "label"):
        if "=" not in text:
            raise Rejected(f"ERROR: {text}: not NAME=VALUE")
    platform = last(options, "platform")
    if platform and not re.fullmatch(r"linux/(amd64|arm64|ppc64le)", platform):
        raise Rejected(f'ERROR: failed to parse platform "{platform}"')
    labels = dict(text.partition("=")[::2] for text in every(options, "label"))
    print("STEP 1: FROM base", flush=True)
    put_image(state(), tag if program == "docker" else f"localhost/{tag}", json.dumps([labels, tag]), labels=labels)
    (state() / "secrets.json").write_text(json.dumps(secrets))


def docker(words: list[str]) -> None:
    match words:
        case ["version", "--format", "{{.Server.Version}}"]:
            print("28.2.2")
        case ["buildx", "version"]:
            print("github.com/docker/buildx v0.24.0")
        case ["buildx", "build", *rest]:
            options, paths = table(BUILDX, "cobra").parse(rest)
            if last(options, "load") is None:
                print("WARNING: No output specified with docker-container driver")
            check_build(options, paths, "docker")
        case ["image", "inspect", name]:
            found = image(name)
            config = {"Labels": found["labels"], "Healthcheck": {"Test": ["CMD", "python"]}}
            print(
                json.dumps(
                    [
                        {
                            "Id": f"sha256:{found['id']}",
                            "RepoDigests": [],
                            "Config": config,
                            "Architecture": found["architecture"],
                            "Size": 99,
                        }
                    ]
                )
            )
        case ["run", *rest]:
            container(table(RUN, "cobra"), rest)
        case _:
            raise Rejected(f"docker: unknown command: docker {' '.join(words[:2])}")


def podman(words: list[str]) -> None:
    match words:
        case ["--version"]:
            print("podman version 4.3.1")
        case ["build", *rest]:
            options, paths = table(PODMAN, "cobra").parse(rest)
            if last(options, "format") not in (None, "oci", "docker"):
                raise Rejected(f"Error: unrecognized image type {last(options, 'format')}")
            check_build(options, paths, "podman")
        case ["image", "inspect", name]:
            found = image(name)
            print(json.dumps([{
                "Id": found["id"], "Digest": "sha256:" + "d" * 64, "RepoDigests": [], "Config": {"Labels": found["labels"]},
                "Architecture": found["architecture"], "Size": 10**9,
            }]))  # fmt: skip
        case ["save", *rest]:
            options, names = table("compress format= multi-image-archive,m output,o= quiet,q uncompressed", "cobra").parse(rest)
            archive(Path(last(options, "output") or ""), names[0], last(options, "format"))
        case ["run", *rest]:
            container(table(RUN.replace(" gpus=", ""), "cobra"), rest)
        case _:
            raise Rejected(f"Error: unrecognized command `podman {' '.join(words[:2])}`")


def buildah(words: list[str]) -> None:
    match words:
        case ["--version"]:
            print("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)")
        case ["build", *rest]:
            options, paths = table(PODMAN, "cobra").parse(rest)
            check_build(options, paths, "buildah")
        case ["inspect", "--type", "image", name]:
            found = image(name)
            inner = {"architecture": found["architecture"], "config": {"Labels": found["labels"]}}
            print(json.dumps({"FromImageID": found["id"], "FromImageDigest": "sha256:" + "b" * 64, "Docker": inner, "OCIv1": {}}))
        case ["push", name, target]:
            transport, path, *tag = target.split(":", 2)
            if transport != "docker-archive" or not tag:
                raise Rejected(f"Error: invalid destination {target}")
            archive(Path(path), name, "docker-archive")
        case _:
            raise Rejected(f"Error: unknown command {' '.join(words[:2])}")


def archive(path: Path, name: str, form: str | None) -> None:
    if form != "docker-archive":
        raise Rejected(f"Error: unknown format {form}")
    if path.exists():
        raise Rejected("Error: docker-archive doesn't support modifying existing images")
    found = image(name)
    path.write_text("half")
    slow()
    path.write_text(json.dumps(found))


def apptainer(words: list[str]) -> None:
    match words:
        case ["--version"]:
            print("apptainer version 1.4.5")
        case ["build", *rest]:
            options, names = table(APPTAINER_BUILD, "cobra").parse(rest)
            if len(names) != 2:
                raise Rejected('Error for command "build": accepts 2 arg(s)')
            target, source = names
            if Path(target).exists() and last(options, "force") is None:
                raise Rejected(
                    f"FATAL: While checking build target: build target '{target}' already exists. Use --force if you want to overwrite it"
                )
            built(Path(target), source)
        case ["exec", *rest]:
            options, (name, *command) = table(APPTAINER_EXEC, "cobra").parse(rest)
            if not Path(name).is_file():
                raise Rejected(f"FATAL: could not open image {name}: no such file or directory")
            inside(command, every(options, "bind"))
        case _:
            raise Rejected(f"Error for command: unknown command {words[:2]}")


def built(target: Path, source: str) -> None:
    scheme, _, name = source.partition(":")
    if source.endswith(".def"):
        if not Path(source).is_file():
            raise Rejected(f"FATAL: Unable to build from {source}: no such file or directory")
        content = Path(source).read_text()
    elif scheme == "docker-daemon":
        if name.startswith("//") or ":" not in name:
            raise Rejected(f"FATAL: invalid docker-daemon reference {name}: a tag is needed")
        content = json.dumps(image(name))
    elif scheme == "docker-archive":
        content = Path(name).read_text()
        json.loads(content)
    else:
        raise Rejected(f"FATAL: Unable to build from {source}: no such file or directory")
    target.write_text("half")
    slow()
    target.write_text("SIF " + content)


def enroot(words: list[str]) -> None:
    match words:
        case ["version"]:
            print("3.4.1")
        case ["import", *rest]:
            options, names = table("arch,a= output,o=", "gnu").parse(rest)
            match_uri = re.fullmatch(r"(dockerd|podman)://([\w/.:-]+)", names[0] if len(names) == 1 else "", re.ASCII)
            if match_uri is None:
                raise Rejected(f"[ERROR] Invalid argument: {' '.join(names)}")
            target = Path(last(options, "output") or "image.sqsh")
            if target.exists():
                raise Rejected(f"[ERROR] File already exists: {target}")
            found = image(match_uri[2])
            target.write_text("half")
            slow()
            target.write_text("hsqs" + json.dumps(found))
        case ["create", *rest]:
            options, names = table("name,n= force,f", "gnu").parse(rest)
            if len(names) != 1 or not Path(names[0]).is_file():
                raise Rejected(f"[ERROR] No such file or directory: {names}")
            (state() / f"container-{last(options, 'name')}").touch()
        case ["start", *rest]:
            options, (name, *command) = table("conf,c= env,e= mount,m= rc= root,r rw,w", "gnu").parse(rest)
            if not (state() / f"container-{name}").exists():
                raise Rejected(f"[ERROR] No such file or directory: {name}")
            inside(command, every(options, "mount"))
        case ["remove", *rest]:
            _, names = table("force,f", "gnu").parse(rest)
            (state() / f"container-{names[0]}").unlink()
        case _:
            raise Rejected(f"[ERROR] Invalid command: {words}")


def unsquashfs(words: list[str]) -> None:
    option, path, name = words
    if option != "-cat" or not Path(path).read_text().startswith("hsqs") or name != "opt/stormbench/manifest.txt":
        raise Rejected(f"unsquashfs: {words}")
    print(MANIFEST, end="")


def container(known: Any, words: list[str]) -> None:
    options, (name, *command) = known.parse(words)
    image(name)
    inside(command, every(options, "volume"))


def inside(command: list[str], mounts: list[str]) -> None:
    """Do what the image would: its manifest, its health, and a training that leaves a record."""
    folders = {target: Path(source) for source, target in (text.split(":")[:2] for text in mounts)}
    for path in folders.values():
        if not path.is_dir():
            raise Rejected(f"statfs {path}: no such file or directory")
    if command[:1] == ["cat"]:
        print(MANIFEST, end="")
    if command[:1] == ["mpirun"]:
        folder = folders["/results"] / command[command.index("--run_tag") + 1]
        folder.mkdir()
        outcome = os.environ.get("OUTCOME", "success")
        (folder / "run.json").write_text(json.dumps({"outcome": outcome, "world_size": int(os.environ.get("WORLD", command[2]))}))


def slow() -> None:
    if os.environ.get("SLOW"):
        (state() / "slow").write_text(str(os.getpid()))
        time.sleep(float(os.environ["SLOW"]))


def main(program: str, words: list[str]) -> int:
    state().mkdir(parents=True, exist_ok=True)
    with (state() / "calls").open("a") as stream:
        stream.write(json.dumps([program, *words]) + "\n")
    if f"{program} {' '.join(words)}".startswith(os.environ.get("FAIL", "nothing")):
        print("it went well at first", "then it did not: no space left", sep="\n", file=sys.stderr)
        return 125
    try:
        globals()[program](words)
    except Rejected as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
