"""The layout of a job: how many ranks stand where, with which cores and GPUs, for how long. All that a scheduler is asked for."""

from __future__ import annotations

import dataclasses

from stormbench.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Nodes, ranks, cores and GPUs of one job; `cores_per_rank` 0 is unknown, `wall_s` None is no limit.

    Raises:
        UserError: the parts contradict each other; the sentence has the numbers.
    """

    nodes: int
    ranks_per_node: int
    cores_per_rank: int = 0
    gpus_per_node: int = 0
    wall_s: int | None = None
    instances: int = 1

    def __post_init__(self) -> None:
        if self.nodes % self.instances:
            raise UserError(f"{self.nodes} nodes: not divisible by {self.instances} instances; each instance needs whole nodes")

    @property
    def ranks(self) -> int:
        """Ranks of all instances."""
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def nodes_per_instance(self) -> int:
        return self.nodes // self.instances

    @property
    def ranks_per_instance(self) -> int:
        return self.nodes_per_instance * self.ranks_per_node

    @property
    def cores_asked(self) -> int:
        """Cores of a rank to ask the scheduler for; at least one."""
        return max(1, self.cores_per_rank)
