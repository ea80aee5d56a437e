"""Files appear whole or not at all, and a failed write is one sentence."""

import errno
import os
import stat
from pathlib import Path

import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.core.files import atomic_path, writable_folder, write_json, write_text


def test_a_finished_write_appears_under_its_name_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ValueError, match="boom"), atomic_path(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise ValueError("boom")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_finished_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    with open(tmp_path / "b.txt", "w"):
        pass
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "b.txt").stat().st_mode)


def test_a_full_disk_is_a_run_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.txt: not written, no space left on device; free some space"), atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_writable_folder_is_made(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b", "--output_dir").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--output_dir .*file: the folder can't be written \(file exists\); choose one"):
        writable_folder(tmp_path / "file", "--output_dir")
