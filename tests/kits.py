"""A machine whose only engines are stand-ins, and a kit with one small image, for the tests of `stormbench images`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import BIN, clean_environment

ROOT = Path(__file__).parents[1]
Call = Callable[..., subprocess.CompletedProcess[str]]
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy")
LINKED = ("git", "sh", "cat")
"""What the machine has of the real one's programs, and so no engine that the tests' own machine has."""


def command(tmp_path: Path, **environ: str) -> dict[str, str]:
    """Return the environment of that machine."""
    own = clean_environment(STANDINS=str(tmp_path / "state"), PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    for name in PROXIES:
        own.pop(name, None)
        own.pop(name.upper(), None)
    return {**own, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{BIN}", **environ}


def caller(tmp_path: Path) -> Call:
    """Return a function that runs `stormbench images WORD...` there."""
    (tmp_path / "bin").mkdir()
    for name in LINKED:
        for folder in (Path("/usr/bin"), Path("/bin")):
            if (folder / name).exists() and not (tmp_path / "bin" / name).exists():
                (tmp_path / "bin" / name).symlink_to(folder / name)

    def run(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, "-m", "stormbench", "images", *map(str, words)]
        own = command(tmp_path, **environ)
        return subprocess.run(full, capture_output=True, text=True, timeout=120, env=own, cwd=tmp_path, check=False)

    return run


def kit_with(tmp_path: Path, line: str = "") -> Path:
    """A kit with one small image; `line` replaces or adds a key."""
    table = {
        "title": '"X"', "description": '"x"', "recipe": '"docker/x.Dockerfile"', "base": '"docker.io/library/debian:1"', "imports": "[]",
        "requirements": '"docker/requirements/x-cpu.txt"', "constraints": '"docker/constraints/x-cpu.txt"',
        "device_imports": "[]", "architectures": '["x86_64"]', "python": '"3.11"', "glibc": '"2.36"', "mpi": '"openmpi"',
        "max_size_gb": "1",
    }  # fmt: skip
    name = line.partition("=")[0].strip()
    lines = [f"{key} = {value}\n" for key, value in table.items() if key != name]
    kit = tmp_path / "kit"
    for folder in ("docker/requirements", "docker/constraints", "apptainer"):
        (kit / folder).mkdir(parents=True, exist_ok=True)
    (kit / "docker/images.toml").write_text("[x.cpu]\n" + "".join(lines) + line + "\n")
    return kit
