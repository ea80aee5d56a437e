"""What holds for the order of an epoch, whatever the number of samples, ranks, batches and accumulated batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.deepcam.data.sampler import MODES, epoch_order, validation_share
from stormbench.deepcam.split import permutation

SEEDS = st.integers(1, 2**32 - 1)
EPOCHS = st.integers(0, 300)


@st.composite
def layouts(draw: st.DrawFn, modes: tuple[str, ...] = MODES) -> dict:
    ranks_per_node = draw(st.integers(1, 4))
    world = ranks_per_node * draw(st.integers(1, 4))
    local_batch, accumulation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    global_batch = world * local_batch * accumulation
    return {
        "n": draw(st.integers(global_batch, 4 * global_batch + 50)),
        "epoch": draw(EPOCHS),
        "seed": draw(SEEDS),
        "world": world,
        "local_batch": local_batch,
        "accumulation": accumulation,
        "mode": draw(st.sampled_from(modes)),
        "ranks_per_node": ranks_per_node,
    }


def all_ranks(layout: dict) -> list[np.ndarray]:
    return [epoch_order(rank=rank, **layout) for rank in range(layout["world"])]


def global_batch(layout: dict) -> int:
    return layout["world"] * layout["local_batch"] * layout["accumulation"]


@given(layouts())
def test_every_rank_gets_the_same_number_of_whole_batches(layout):
    steps = layout["n"] // global_batch(layout)
    for order in all_ranks(layout):
        assert order.dtype == np.int64
        assert order.shape == (steps, layout["accumulation"], layout["local_batch"])


@given(layouts())
def test_no_sample_comes_twice_in_an_epoch_and_each_is_in_the_list(layout):
    seen = np.concatenate([order.reshape(-1) for order in all_ranks(layout)])
    assert len(np.unique(seen)) == len(seen)
    assert seen.min() >= 0
    assert seen.max() < layout["n"]


@given(layouts())
def test_less_than_one_global_batch_is_dropped(layout):
    assert 0 <= layout["n"] - sum(order.size for order in all_ranks(layout)) < global_batch(layout)


@given(layouts())
def test_the_same_arguments_give_the_same_order(layout):
    for order, again in zip(all_ranks(layout), all_ranks(layout), strict=True):
        np.testing.assert_array_equal(order, again)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 60), SEEDS, EPOCHS)
def test_globally_a_step_has_the_same_micro_batches_however_ranks_and_accumulation_share_them(a, b, local_batch, extra, seed, epoch):
    world = a * b
    n = 3 * world * local_batch + extra

    def micro_batches(ranks: int, accumulation: int) -> list[set[tuple[int, ...]]]:
        orders = [epoch_order(n, epoch, seed, ranks, rank, local_batch, accumulation) for rank in range(ranks)]
        return [{tuple(micro) for order in orders for micro in order[step]} for step in range(len(orders[0]))]

    wanted = micro_batches(world, 1)
    assert micro_batches(1, world) == wanted
    assert micro_batches(a, b) == wanted


@given(st.integers(1, 6), st.integers(1, 60), SEEDS, EPOCHS)
def test_globally_the_samples_of_a_step_are_consecutive_in_one_permutation(world, steps, seed, epoch):
    n = steps * world
    alone = epoch_order(n, epoch, seed, 1, 0).reshape(-1)
    assert sorted(alone) == list(range(n))
    orders = [epoch_order(n, epoch, seed, world, rank) for rank in range(world)]
    for step in range(steps):
        assert {int(order[step, 0, 0]) for order in orders} == set(alone[step * world : (step + 1) * world].tolist())


@given(layouts(modes=("node", "gpu")), EPOCHS)
def test_a_node_or_rank_meets_only_its_own_share_in_every_epoch(layout, other_epoch):
    group = layout["ranks_per_node"] if layout["mode"] == "node" else 1
    met: dict[int, set[int]] = {}
    for rank in range(layout["world"]):
        for epoch in (layout["epoch"], other_epoch):
            met.setdefault(rank // group, set()).update(epoch_order(rank=rank, **{**layout, "epoch": epoch}).reshape(-1).tolist())
    assert sum(map(len, met.values())) == len(set().union(*met.values()))
    assert all(len(share) <= -(-layout["n"] // len(met)) for share in met.values())


def test_over_the_epochs_the_shares_of_all_nodes_are_the_whole_list():
    orders = [epoch_order(19, epoch, 333, 4, rank, 2, mode="node", ranks_per_node=2) for epoch in range(40) for rank in range(4)]
    assert set(np.concatenate([order.reshape(-1) for order in orders]).tolist()) == set(range(19))


@given(SEEDS, EPOCHS, st.sampled_from(MODES))
def test_another_epoch_or_seed_gives_another_order(seed, epoch, mode):
    def order(*, seed: int = seed, epoch: int = epoch) -> list[int]:
        return epoch_order(200, epoch, seed, 2, 1, mode=mode, ranks_per_node=1).reshape(-1).tolist()

    assert order() != order(epoch=epoch + 1)
    assert order() != order(seed=seed - 1 or 2)


def test_globally_the_dropped_samples_change_from_epoch_to_epoch():
    dropped = [set(range(19)) - set(epoch_order(19, epoch, 333, 1, 0, 16).reshape(-1).tolist()) for epoch in range(40)]
    assert set().union(*dropped) == set(range(19))


def test_the_order_of_a_seed_never_changes():
    assert epoch_order(10, 0, 333, 1, 0).reshape(-1).tolist() == [8, 0, 7, 9, 1, 5, 2, 6, 3, 4]


@given(st.integers(0, 500), st.integers(1, 40))
def test_every_sample_is_validated_once_in_even_shares(n, world):
    shares = [validation_share(n, world, rank) for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_few_samples_are_refused_with_the_numbers_and_the_fix():
    product = r"32 \(4 ranks x --local_batch_size 2 x --gradient_accumulation_frequency 4\)"
    with pytest.raises(UserError, match=rf"31 training samples are fewer than one global batch of {product}; lower"):
        epoch_order(31, 0, 333, 4, 0, 2, 4)


def test_ranks_that_nodes_cannot_share_evenly_are_refused():
    with pytest.raises(UserError, match="--shuffle_mode node: 6 ranks can't be 4 on every node"):
        epoch_order(100, 0, 333, 6, 0, mode="node", ranks_per_node=4)


def test_an_unknown_mode_gets_the_nearest_name():
    with pytest.raises(UserError, match="--shuffle_mode globl: must be one of global, node, gpu; did you mean global"):
        epoch_order(100, 0, 333, 1, 0, mode="globl")


@given(st.one_of(st.integers(max_value=-1), st.floats(), st.text(max_size=3), st.none()))
def test_a_split_of_what_is_no_number_of_files_is_refused_in_one_sentence(n):
    with pytest.raises(UserError, match=r"^n .*: must be a whole number from 0 to \d+$") as caught:
        permutation(n)
    assert isinstance(caught.value, ValueError)


@given(st.one_of(st.integers(max_value=-1), st.integers(min_value=2**32), st.floats()))
def test_a_split_by_what_is_no_seed_is_refused_in_one_sentence(seed):
    with pytest.raises(UserError, match=r"^seed .*: must be a whole number from 0 to 4294967295$"):
        permutation(3, seed)
