"""What holds of every split, whatever products there are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.cloudmask import names, split
from stormbench.core.errors import UserError
from tests.cloudmask_files import product_name

stems = st.lists(
    st.builds(
        product_name, st.integers(0, 300), mission=st.sampled_from(["S3A", "S3B"]), orbit=st.integers(1, 6),
        created=st.sampled_from(["20190402T000000", "20190403T000000"]),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(stems, st.sampled_from(["orbit", "time", "random"]), st.floats(0.05, 0.95), st.integers(1, 2**32 - 1))
def test_a_split_is_complete_disjoint_sorted_and_keeps_groups_whole(found: list[str], method: str, share: float, seed: int) -> None:
    kept, duplicates = split.without_duplicates(found)
    assert sorted({*kept, *duplicates}) == sorted(set(found))
    sensed = [names.parse(stem).sensing for stem in kept]
    assert len(sensed) == len(set(sensed))
    if len(kept) < 2 or (method != "random" and len({start for _, start in sensed}) < 2):
        with pytest.raises(UserError):
            split.make(found, method=method, train_split=share, seed=seed)
        return
    made = split.make(found, method=method, train_split=share, seed=seed, asked_for=False)
    assert sorted((*made.train, *made.test)) == kept
    assert list(made.train) == sorted(made.train)
    assert list(made.test) == sorted(made.test)
    assert made.train
    assert made.test
    assert made.duplicates == tuple(duplicates)
    assert made == split.make(list(reversed(found)), method=method, train_split=share, seed=seed, asked_for=False)
    if made.method == "orbit":
        sides = [{key(stem) for stem in side} for side in (made.train, made.test)]
        assert not sides[0] & sides[1]
    if made.method == "time":
        assert not {names.parse(stem).start for stem in made.train} & {names.parse(stem).start for stem in made.test}


def key(stem: str) -> tuple[str, int, int]:
    name = names.parse(stem)
    return name.mission, name.cycle, name.relative_orbit
