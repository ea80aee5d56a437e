"""The published split: its permutation, its boundaries, and placing files so that nothing is lost or mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.deepcam import split

N = 23
SETS = ("train", "validation", "test")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for index in range(N):
        path = tmp_path / "in" / ("a" if index % 3 else "b") / f"data-{index:03d}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"sample {index}")
    return tmp_path / "in"


def sets(folder: Path) -> dict[str, list[str]]:
    return {name: sorted(path.name for path in (folder / name).glob("data-*")) for name in SETS}


def texts(folder: Path) -> list[str]:
    return sorted(path.read_text() for name in SETS for path in (folder / name).glob("data-*"))


ALL = sorted(f"sample {index}" for index in range(N))


def test_permutation_is_that_of_the_legacy_generator() -> None:
    np.testing.assert_array_equal(split.permutation(10), np.random.RandomState(12345).permutation(10))
    assert split.permutation(12).tolist() == [8, 0, 3, 7, 11, 10, 6, 9, 4, 1, 5, 2]


def test_size_of_the_published_sets_is_reproduced() -> None:
    ends = split.boundaries(151583)
    assert (ends[0], ends[1] - ends[0]) == (121266, 15158)
    assert ends == [int(0.8 * 151583), int(0.9 * 151583), 151583]


@pytest.mark.parametrize("link", split.LINKS)
def test_every_file_is_in_one_set_with_its_content(source: Path, tmp_path: Path, link: str) -> None:
    done = split.run(source, tmp_path / "out", link=link, progress=False)
    names = sorted(f"data-{index:03d}.h5" for index in range(N))
    order = [names[i] for i in np.random.RandomState(12345).permutation(N)]
    assert sets(tmp_path / "out") == {"train": sorted(order[:18]), "validation": sorted(order[18:20]), "test": sorted(order[20:])}
    assert (tmp_path / "out" / "train" / "files.txt").read_text().split() == order[:18]
    assert texts(tmp_path / "out") == ALL
    assert (done["files"], done["placed"], done["train"], done["validation"], done["test"]) == (N, N, 18, 2, 3)
    assert len(list(source.rglob("data-*.h5"))) == (0 if link == "move" else N)
    one = tmp_path / "out" / "train" / order[0]
    assert one.is_symlink() == (link == "symlink")
    assert one.stat().st_nlink == (2 if link == "hardlink" else 1)


@pytest.mark.parametrize("link", split.LINKS)
def test_rerun_restores_what_is_missing_and_changes_nothing_else(source: Path, tmp_path: Path, link: str) -> None:
    split.run(source, tmp_path / "out", link=link, progress=False)
    before = sets(tmp_path / "out")
    # as if the first run had been stopped before these two files
    for name in before["train"][:2]:
        path = tmp_path / "out" / "train" / name
        if link == "move":
            shutil.move(path, source / "a" / name)
        else:
            path.unlink()
    done = split.run(source, tmp_path / "out", link=link, progress=False)
    assert done["placed"] == 2
    assert sets(tmp_path / "out") == before
    assert texts(tmp_path / "out") == ALL
    assert split.run(source, tmp_path / "out", link=link, progress=False)["placed"] == 0


def test_move_that_stopped_between_copy_and_removal_is_finished(source: Path, tmp_path: Path) -> None:
    split.run(source, tmp_path / "out", link="move", progress=False)
    name = sets(tmp_path / "out")["test"][0]
    shutil.copy(tmp_path / "out" / "test" / name, source / "a" / name)
    split.run(source, tmp_path / "out", link="move", progress=False)
    assert not (source / "a" / name).exists()
    assert texts(tmp_path / "out") == ALL


def test_links_survive_moving_input_and_output_together(source: Path, tmp_path: Path) -> None:
    split.run(source, source.parent / "out", progress=False)
    (tmp_path / "elsewhere").mkdir()
    for name in ("in", "out"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert texts(tmp_path / "elsewhere" / "out") == ALL


def test_folder_is_split_in_place(tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / f"data-{index}.h5").write_text(f"sample {index}")
    split.run(tmp_path, tmp_path, link="move", progress=False)
    assert [len(names) for names in sets(tmp_path).values()] == [8, 1, 1]
    assert not list(tmp_path.glob("data-*"))
    assert split.run(tmp_path, tmp_path, link="move", progress=False)["placed"] == 0


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    done = split.run(source, tmp_path / "out", dry_run=True)
    assert (done["dry_run"], done["placed"], done["train"]) == (True, 0, 18)
    assert not (tmp_path / "out").exists()


def test_other_arguments_are_refused_where_a_split_is(source: Path, tmp_path: Path) -> None:
    split.run(source, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="the split there has seed 12345, not 1"):
        split.run(source, tmp_path / "out", seed=1, progress=False)
    with pytest.raises(UserError, match="the split there has link symlink, not copy"):
        split.run(source, tmp_path / "out", link="copy", progress=False)


def test_foreign_sample_in_the_output_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "data-foreign.h5").write_text("")
    with pytest.raises(UserError, match=r"data-foreign\.h5: isn't part of this split"):
        split.run(source, tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["train", "data-foreign.h5"]


def test_file_of_a_planned_name_with_other_content_is_never_replaced(source: Path, tmp_path: Path) -> None:
    split.run(source, tmp_path / "out", link="copy", progress=False)
    name = sets(tmp_path / "out")["train"][0]
    (tmp_path / "out" / "train" / name).write_text("someone else's")
    with pytest.raises(UserError, match=f"{name}: is there, but isn't"):
        split.run(source, tmp_path / "out", link="copy", progress=False)
    assert (tmp_path / "out" / "train" / name).read_text() == "someone else's"


def test_file_that_came_later_is_refused(source: Path, tmp_path: Path) -> None:
    split.run(source, tmp_path / "out", progress=False)
    (source / "data-late.h5").write_text("")
    with pytest.raises(UserError, match=r"data-late\.h5: came after the split"):
        split.run(source, tmp_path / "out", progress=False)


def test_file_that_is_gone_is_reported(source: Path, tmp_path: Path) -> None:
    split.run(source, tmp_path / "out", progress=False)
    (source / "b" / "data-003.h5").unlink()
    with pytest.raises(RunError, match=r"data-003\.h5: is neither below"):
        split.run(source, tmp_path / "out", progress=False)


def test_two_files_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "a" / "data-003.h5").write_text("")
    with pytest.raises(UserError, match=r"data-003\.h5: has the same name as .*a/data-003\.h5"):
        split.run(source, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"fractions": (0.8, 0.1)}, "--fractions 0.8 0.1: must be three numbers"),
        ({"fractions": (0.8, 0.1, 0.2)}, "their sum is 1.1, must be 1"),
        ({"fractions": (1.2, -0.1, -0.1)}, "must be three numbers from 0 to 1"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "must be three numbers from 0 to 1"),
        ({"seed": -1}, "--seed -1: must be from 0 to 4294967295"),
        ({"link": "hard"}, "--link hard: must be one of symlink, hardlink, copy, move"),
    ],
)
def test_wrong_arguments_are_refused(source: Path, tmp_path: Path, wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        split.run(source, tmp_path / "out", progress=False, **wrong)
    assert not (tmp_path / "out").exists()


def test_empty_or_missing_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=r"in: no data-\*\.h5 files below it"):
        split.run(tmp_path / "in", tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        split.run(tmp_path / "nowhere", tmp_path / "out", progress=False)
