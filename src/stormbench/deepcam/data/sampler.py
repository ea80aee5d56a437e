"""Which samples each rank reads in an epoch, and in which order: from the seed and the epoch alone, with nothing to exchange.

The generator is NumPy's legacy one, whose streams are frozen, so an order outlives updates of NumPy.
"""

from __future__ import annotations

import numpy as np

from stormbench.core.errors import UserError, did_you_mean

MODES = ("global", "node", "gpu")
_DEAL, _EPOCH = 1, 2


def epoch_order(
    n: int,
    epoch: int,
    seed: int,
    world: int,
    rank: int,
    local_batch: int = 1,
    accumulation: int = 1,
    mode: str = "global",
    ranks_per_node: int = 1,
) -> np.ndarray:
    """Return the positions in the file list that `rank` trains on in `epoch`: int64 (steps, accumulation, local_batch).

    A global batch holds world x local_batch x accumulation samples; an epoch has n // global batch steps, and no sample
    comes twice in it. `global` permutes the whole list in each epoch, and the samples of a step don't depend on how the
    global batch is made up: its micro-batches of local_batch samples go to the ranks in turn. `node` and `gpu` deal the
    list once, by the seed, to the nodes or ranks, and permute each share in each epoch. A node is ranks_per_node
    consecutive ranks.

    Raises:
        UserError: n is below the global batch, the mode is unknown, or ranks_per_node doesn't divide world.
    """
    global_batch = world * local_batch * accumulation
    if n < global_batch:
        raise UserError(
            f"{n} training samples are fewer than one global batch of {global_batch} ({world} ranks x --local_batch_size {local_batch} "
            f"x --gradient_accumulation_frequency {accumulation}); lower one of these, or use more data"
        )
    steps = n // global_batch
    groups = _groups(mode, world, ranks_per_node)
    group, member = divmod(rank, world // groups)
    share = _share(n, seed, groups, group)
    order = share[_generator(seed, _EPOCH, epoch, group).permutation(len(share))][: steps * (global_batch // groups)]
    return order.reshape(steps, accumulation, world // groups, local_batch)[:, :, member].copy()


def validation_share(n: int, world: int, rank: int) -> np.ndarray:
    """Return the positions that `rank` validates: over all ranks each sample once, in shares that differ by one at most."""
    return np.arange(rank, n, world, dtype=np.int64)


def _groups(mode: str, world: int, ranks_per_node: int) -> int:
    """Return into how many fixed shares the list is dealt."""
    if mode not in MODES:
        raise UserError(f"--shuffle_mode {mode}: must be one of {', '.join(MODES)}{did_you_mean(mode, MODES)}")
    if mode == "node" and (ranks_per_node < 1 or world % ranks_per_node):
        raise UserError(
            f"--shuffle_mode node: {world} ranks can't be {ranks_per_node} on every node; "
            "start the same number of ranks on each node, or use --shuffle_mode global or gpu"
        )
    return {"global": 1, "node": world // max(1, ranks_per_node), "gpu": world}[mode]


def _share(n: int, seed: int, groups: int, group: int) -> np.ndarray:
    # shares differ by one at most, so the smallest still holds the group's part of n // global batch steps
    dealt = _generator(seed, _DEAL).permutation(n) if groups > 1 else np.arange(n)
    return dealt[group::groups].astype(np.int64, copy=False)


def _generator(seed: int, *stream: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, *stream))))
