"""Folders appear whole or not at all, and unfinished ones of a killed run are cleared away."""

import os
import stat
from pathlib import Path

import pytest

from stormbench.core import work
from stormbench.core.errors import RunError
from stormbench.core.files import atomic_folder


def test_a_finished_folder_appears_under_its_name_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as folder:
        assert folder.parent == tmp_path
        (folder / "x").write_text("whole")
        assert not (tmp_path / "a").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "whole"


def test_a_finished_folder_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["new"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with pytest.raises(ValueError, match="boom"), atomic_folder(tmp_path / "a") as folder:
        (folder / "half").write_text("half")
        raise ValueError("boom")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["old"]


def test_a_finished_folder_has_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    with atomic_folder(tmp_path / "a"):
        pass
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o777 & ~mask


def test_a_folder_below_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/a: can't be written \(no such file or directory\)"), atomic_folder(tmp_path / "none" / "a"):
        pass


def test_unfinished_folders_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".a.1.x.partial", ".b.1.x.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with work.claimed(tmp_path, ("a",)):
        assert not (tmp_path / ".a.1.x.partial").exists()
    assert [p.name for p in tmp_path.iterdir()] == [".b.1.x.partial"]
