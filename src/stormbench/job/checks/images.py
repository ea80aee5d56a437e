"""The instruction set of a container image, read from the image itself: a .sif's header, a program in a .sqsh, docker's own record."""

from __future__ import annotations

import struct
from pathlib import Path

from stormbench.job.checks.machine import Machine

SIF_MAGIC = b"SIF_MAGIC"
SIF_MAGIC_AT, SIF_ARCH_AT = 32, 45
"""A SIF file begins with a 32-byte launch line; then come magic (10 bytes), version (3) and architecture (3), each ending in NUL."""
SIF_ARCHITECTURES = {
    "01": "i386", "02": "x86_64", "03": "arm", "04": "aarch64", "05": "ppc64", "06": "ppc64le", "07": "mips", "08": "mipsle",
    "09": "mips64", "10": "mips64le", "11": "s390x", "12": "riscv64",
}  # fmt: skip
ELF_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
GO_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}
PROGRAMS_IN_IMAGES = ("usr/bin/bash", "bin/bash", "usr/bin/dash", "bin/busybox", "usr/bin/env", "bin/sh")
"""Names that are files rather than links in most distributions."""


def sif_architecture(header: bytes) -> str | None:
    """Return the architecture of a .sif by its first 48 bytes; None if they are no SIF header, or it names none."""
    if header[SIF_MAGIC_AT : SIF_MAGIC_AT + len(SIF_MAGIC)] != SIF_MAGIC:
        return None
    return SIF_ARCHITECTURES.get(header[SIF_ARCH_AT : SIF_ARCH_AT + 2].decode("ascii", errors="replace"))


def elf_architecture(header: bytes) -> str | None:
    """Return the architecture of a program by its first 20 bytes; None if it is no ELF file or an unknown one."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order = "<" if header[5] == 1 else ">"
    name = ELF_MACHINES.get(struct.unpack_from(f"{order}H", header, 18)[0])
    return "ppc64le" if name == "ppc64" and order == "<" else name


def is_file(image: str) -> bool:
    """Whether the image is named as a file rather than in a registry."""
    return image.startswith(("/", "./", "../", "~")) or image.endswith((".sif", ".sqsh", ".simg"))


def architecture(machine: Machine, image: str) -> tuple[str | None, str]:
    """Return the image's architecture and how it was read, or None and why it is unknown."""
    if not is_file(image):
        return _of_docker(machine, image)
    path = machine.path(image)
    if path.is_dir():
        return _of_folder(path)
    with path.open("rb") as stream:
        header = stream.read(48)
    found = sif_architecture(header)
    if found is not None:
        return found, "its SIF header"
    if header[:4] == b"hsqs":
        return _of_squashfs(machine, path)
    return None, f"{path} is neither a SIF nor a squashfs file"


def _of_folder(path: Path) -> tuple[str | None, str]:
    for name in PROGRAMS_IN_IMAGES:
        if (path / name).is_file():
            with (path / name).open("rb") as stream:
                return elf_architecture(stream.read(20)), f"its /{name}"
    return None, f"{path} holds none of {', '.join(PROGRAMS_IN_IMAGES)}"


def _of_squashfs(machine: Machine, path: Path) -> tuple[str | None, str]:
    program = machine.which("unsquashfs")
    if program is None:
        return None, "unsquashfs, which reads a .sqsh, is not on this machine"
    for name in PROGRAMS_IN_IMAGES:
        # od turns the header into text; head ends unsquashfs after it, so a large program isn't unpacked to its end
        told = machine.ask("sh", "-c", '"$1" -cat "$2" "$3" 2>/dev/null | head -c 20 | od -An -v -tx1', "sh", program, str(path), name)
        found = elf_architecture(bytes.fromhex("".join(told.out.split())))
        if found is not None:
            return found, f"its /{name}"
    return None, f"no program could be read from {path}"


def _of_docker(machine: Machine, image: str) -> tuple[str | None, str]:
    if "docker" not in machine.runtimes:
        return None, f"{image} is in a registry, which is not asked"
    told = machine.ask("docker", "image", "inspect", "--format", "{{.Architecture}}", image)
    if told.code != 0:
        return None, f"docker doesn't have {image} yet ({told.why})"
    name = told.out.strip()
    return GO_NAMES.get(name, name), "docker image inspect"
