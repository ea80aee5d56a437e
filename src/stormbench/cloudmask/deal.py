"""Deals patches to global batches and ranks: an epoch's order that mixes products and is the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NOTHING = -1
"""Where the last global batch has no patch."""


class Deal:
    """The order of a training set over epochs.

    Products are shuffled once, and their patches laid out in a row, which is cut into as many stretches as the global batch
    has places. Place j of every batch takes its patch from stretch j, in an order that is shuffled anew for each epoch. So

    * each epoch has every patch once, and each global batch has patches of as many products as it can;
    * the patches of a batch don't depend on the number of ranks, as long as the global batch stays;
    * a rank meets only its own stretches, so that the ranks together keep one copy of the data, not one each;
    * all ranks have the same number of steps. Where places outnumber what is left, the last batch has fewer patches, spread
      evenly over the ranks; all data is used.
    """

    def __init__(self, patches_of_products: Sequence[int], global_batch: int, seed: int) -> None:
        counts = np.asarray(patches_of_products, np.int64)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        products = np.random.default_rng([seed, 0]).permutation(len(counts))
        self._row = np.concatenate([np.arange(first[p], first[p] + counts[p]) for p in products])
        self._seed = seed
        self.global_batch = global_batch
        n = len(self._row)
        # whole numbers, so that stretches differ by one patch at most, and the longer ones lie evenly among the others
        self._edges = np.arange(global_batch + 1) * n // global_batch
        self.steps = -(-n // global_batch)

    def places(self, rank: int, ranks: int) -> slice:
        """Return the places of a rank in each global batch."""
        local = self.global_batch // ranks
        return slice(rank * local, (rank + 1) * local)

    def own_patches(self, rank: int, ranks: int) -> NDArray[np.int64]:
        """Return all patches that a rank meets in any epoch, sorted."""
        where = self.places(rank, ranks)
        return np.sort(self._row[self._edges[where.start] : self._edges[where.stop]])

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Return the patches of an epoch, (steps, global batch), NOTHING where the last batch has none."""
        keys = np.random.default_rng([self._seed, number]).random(len(self._row))
        stretch = np.repeat(np.arange(self.global_batch), np.diff(self._edges))
        order = self._row[np.lexsort((keys, stretch))]
        table = np.full((self.steps, self.global_batch), NOTHING, np.int64)
        position = np.arange(len(order)) - self._edges[stretch]
        table[position, stretch] = order
        return table


def share(n: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """Return a rank's part of `n` test patches: consecutive ones, so that it reads few products; each is in one part."""
    return np.arange(n * rank // ranks, n * (rank + 1) // ranks)
