"""Fixtures of the shipped configs, and of a machine with stand-ins for container engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kits import Call, caller
from tests.shipped import CONFIGS, NAMES, Exported, sourced


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configs without this checkout's own data.sh, in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("with a blank") / "configs"
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("data.sh"))
    return folder


@pytest.fixture(scope="module")
def alone(shipped: Path) -> dict[str, Exported]:
    """What each config exports when nothing was there before, from another folder and a path with a blank."""
    return {name: sourced(shipped / f"{name}.sh") for name in NAMES}


@pytest.fixture
def images(tmp_path: Path) -> Call:
    """Run `stormbench images WORD...` on a machine that has the engines which tests.engines.install puts there."""
    return caller(tmp_path)
