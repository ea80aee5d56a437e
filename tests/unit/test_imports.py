"""The house's rules of import, read off the source and off a running interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stormbench

ROOT = Path(stormbench.__file__).parent
HEAVY = {"torch", "tensorflow", "keras", "horovod"}
ALLOWED = {
    "core": {"core"},
    "results": {"results", "core"},
    "job": {"job", "core"},
    "deepcam": {"deepcam", "core"},
    "cloudmask": {"cloudmask", "core"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    names = imported(path)
    if part in ALLOWED:
        theirs = {name.split(".")[1] for name in names if name.startswith("stormbench.")}
        assert theirs <= ALLOWED[part], f"{part} must not import {theirs - ALLOWED[part]}"
    if part not in ("deepcam", "cloudmask"):
        assert not {name.split(".")[0] for name in names} & HEAVY
    if part == "core":
        foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert foreign <= {"stormbench", "numpy", "mlperf_logging", "tqdm", "mpi4py"}


JOB_COMMANDS = ("check", "render", "submit", "status", "logs", "cancel", "rehearse", "doctor")
CONFIG = ROOT.parents[1] / "configs" / "config_DGXA100_16x8x1.sh"


@pytest.mark.parametrize(
    "words",
    ["--help", "deepcam --help", "deepcam train --help", "cloudmask --help", "cloudmask convert-hdf --help", "variables",
     "results check --help", "images --help", "images list", "images build deepcam --engine docker --dry_run",
     *(f"{name} --help" for name in JOB_COMMANDS), f"check {CONFIG}"],
)  # fmt: skip
def test_help_needs_no_heavy_package(words: str) -> None:
    code = (
        "import sys; from stormbench.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"loaded = {sorted(HEAVY | {'h5py', 'numpy', 'mlperf_logging', 'pandas', 'tqdm', 'jinja2'})!r}\n"
        "loaded = [name for name in loaded if name in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
