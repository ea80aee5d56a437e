"""What holds of every epoch's order, on any number of ranks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.cloudmask.deal import NOTHING, Deal, share

products = st.lists(st.integers(1, 25), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(products, st.integers(1, 6), st.integers(1, 8), st.integers(1, 2**32 - 1), st.integers(1, 5))
def test_every_patch_comes_once_an_epoch_and_ranks_have_equal_steps(
    counts: list[int], ranks: int, local: int, seed: int, epoch: int
) -> None:
    deal = Deal(counts, ranks * local, seed)
    table = deal.epoch(epoch)
    assert table.shape == (deal.steps, ranks * local)
    assert deal.steps == -(-sum(counts) // (ranks * local))
    assert sorted(table[table != NOTHING]) == list(range(sum(counts)))
    # only the last batch may be short, and its patches are spread over the ranks
    assert (table[:-1] != NOTHING).all()
    last = [(table[-1, deal.places(rank, ranks)] != NOTHING).sum() for rank in range(ranks)]
    assert max(last) - min(last) <= 1
    met = [set(deal.own_patches(rank, ranks)) for rank in range(ranks)]
    for rank in range(ranks):
        mine = table[:, deal.places(rank, ranks)]
        assert set(mine[mine != NOTHING]) == met[rank]
    assert sum(map(len, met)) == sum(counts)


@settings(max_examples=100, deadline=None)
@given(products, st.integers(1, 4), st.integers(1, 4), st.integers(1, 2**32 - 1))
def test_the_batches_are_the_same_on_any_number_of_ranks(counts: list[int], ranks: int, local: int, seed: int) -> None:
    one, several = Deal(counts, ranks * local, seed), Deal(counts, ranks * local, seed)
    for epoch in (1, 2):
        joined = np.concatenate([several.epoch(epoch)[:, several.places(rank, ranks)] for rank in range(ranks)], axis=1)
        np.testing.assert_array_equal(one.epoch(epoch)[:, one.places(0, 1)], joined)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 500), st.integers(1, 20))
def test_every_test_patch_is_one_ranks_and_shares_are_even(n: int, ranks: int) -> None:
    parts = [share(n, rank, ranks) for rank in range(ranks)]
    assert np.concatenate(parts).tolist() == list(range(n))
    sizes = list(map(len, parts))
    assert max(sizes) - min(sizes) <= 1
