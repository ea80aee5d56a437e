"""The split: neighbours stay on one side, versions of one image are used once, and a manifest is reused or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stormbench.cloudmask import names, split
from stormbench.core.errors import UserError
from tests.cloudmask_files import product_name

DAY = [product_name(number) for number in range(40)]
"""Ten orbits of four products."""


def orbit(stem: str) -> int:
    return names.parse(stem).relative_orbit


def test_whole_orbits_are_on_one_side_and_the_share_is_met() -> None:
    made = split.make(DAY, method="orbit", train_split=0.8, seed=1)
    assert len(made.test) == 8
    assert not {orbit(stem) for stem in made.train} & {orbit(stem) for stem in made.test}
    assert sorted((*made.train, *made.test)) == DAY
    assert list(made.train) == sorted(made.train)


def test_the_same_orbit_number_in_another_cycle_or_of_another_satellite_is_another_orbit() -> None:
    stems = [product_name(0, orbit=7), product_name(1, orbit=7, mission="S3B"), product_name(2, orbit=7).replace("_043_", "_044_")]
    assert sorted(map(len, split.by_orbit([names.parse(stem) for stem in stems]))) == [1, 1, 1]


def test_blocks_of_time_hold_neighbours() -> None:
    blocks = split.by_time([names.parse(stem) for stem in reversed(DAY)])
    assert [stem for block in blocks for stem in block] == DAY
    assert [len(block) for block in blocks] == [8] * 5
    many = [product_name(number) for number in range(200)]
    assert {len(block) for block in split.by_time([names.parse(stem) for stem in many])} == {10}


def test_what_two_satellites_saw_at_one_time_stays_together() -> None:
    stems = [product_name(number, mission=mission) for number in range(6) for mission in ("S3A", "S3B")]
    made = split.make(stems, method="time", train_split=0.6, seed=3)
    assert not {names.parse(stem).start for stem in made.train} & {names.parse(stem).start for stem in made.test}


def test_one_orbit_is_split_by_time_unless_orbits_were_asked_for() -> None:
    one = [product_name(number, orbit=5) for number in range(6)]
    made = split.make(one, method="orbit", train_split=0.8, seed=1, asked_for=False)
    assert made.method == "time"
    assert "one orbit" in made.note
    with pytest.raises(UserError, match="--split orbit: all 6 products are of one orbit; use --split time or random"):
        split.make(one, method="orbit", train_split=0.8, seed=1)


def test_at_random_the_share_is_exact_and_the_seed_decides() -> None:
    made = split.make(DAY, method="random", train_split=0.8, seed=1234)
    assert len(made.test) == 8
    assert made == split.make(list(reversed(DAY)), method="random", train_split=0.8, seed=1234)
    assert made.test != split.make(DAY, method="random", train_split=0.8, seed=1235).test


@pytest.mark.parametrize("train_split", [0.01, 0.5, 0.99])
def test_both_sides_get_something(train_split: float) -> None:
    for method in ("orbit", "time", "random"):
        made = split.make(DAY, method=method, train_split=train_split, seed=2)
        assert made.train
        assert made.test


def test_of_one_sensing_time_the_newest_version_is_used() -> None:
    old, new = product_name(3), product_name(3, created="20200101T000000")
    reprocessed = product_name(3, created="20190501T000000", baseline="004")
    kept, left = split.without_duplicates([*DAY[:3], old, new, reprocessed])
    assert kept == [*DAY[:3], reprocessed]
    assert left == sorted([old, new])
    assert split.without_duplicates([product_name(3), product_name(3, mission="S3B")])[1] == []


def test_other_names_can_only_be_split_at_random() -> None:
    made = split.make(["a", "b", "c"], method="random", train_split=0.7, seed=1)
    assert (len(made.train), len(made.test)) == (2, 1)
    with pytest.raises(UserError, match=r"--split time: a: not the name .* use --split random"):
        split.make(["a", "b", "c"], method="time", train_split=0.7, seed=1)


def test_one_product_can_not_be_split() -> None:
    with pytest.raises(UserError, match="give at least two of different sensing times"):
        split.make([product_name(1), product_name(1, created="20200101T000000")], method="random", train_split=0.5, seed=1)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = split.make(DAY, method="orbit", train_split=0.8, seed=1)
    split.write(tmp_path / "split.json", made)
    assert split.read(tmp_path / "split.json") == made


@pytest.mark.parametrize(
    "damage",
    [lambda found: "{", lambda found: "[]", lambda found: json.dumps({**found, "format": 9}),
     lambda found: json.dumps({**found, "test": found["train"][:1]}), lambda found: json.dumps({**found, "test": []}),
     lambda found: json.dumps({name: value for name, value in found.items() if name != "train"})],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "split.json"
    split.write(path, split.make(DAY, method="orbit", train_split=0.8, seed=1))
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(UserError, match="remove it to have it made anew"):
        split.read(path)


def fits(made: split.Split, origins: dict[str, str], stems: list[str], train_split: float = 0.8, method: str = "orbit") -> str:
    return split.check_fits(Path("split.json"), made, train_split=train_split, method=method, origins=origins, stems=stems)


def test_a_manifest_is_reused_also_where_new_products_came() -> None:
    made = split.make(DAY, method="orbit", train_split=0.8, seed=1)
    assert fits(made, {}, DAY) == "split: reused from split.json"
    assert "2 products that it doesn't name are left out" in fits(made, {}, [*DAY, product_name(50), product_name(51)])


def test_a_manifest_that_contradicts_an_option_or_lacks_products_is_refused() -> None:
    made = split.make(DAY, method="orbit", train_split=0.8, seed=1)
    with pytest.raises(UserError, match=r"--train_split 0.7: split.json was made with 0.8"):
        fits(made, {"train_split": "--train_split 0.7"}, DAY, train_split=0.7)
    with pytest.raises(UserError, match=r"--split random: split.json was made by orbit"):
        fits(made, {"split": "--split random"}, DAY, method="random")
    with pytest.raises(UserError, match=r"1 of its 40 products are not in the data folder, such as " + DAY[0]):
        fits(made, {}, DAY[1:])
