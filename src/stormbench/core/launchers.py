"""The variables in which each launcher tells a process its rank, and how to read them: one row for each launcher.

Names come from the launchers' own documentation and headers. Slurm, whose rows need more thought, is in `slurm_step`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stormbench.core.errors import UserError

Named = tuple[str, int]
"""A number with the variable it came from."""

LAUNCH_ID = "STORMBENCH_LAUNCH_ID"
"""Set equal on all ranks of a launch, and different for each launch, where the launcher gives no such key."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process's place in its launch. A field is None where the launcher doesn't tell."""

    rank: int
    world_size: int
    local_rank: int | None
    """Rank within the node."""
    local_size: int | None
    """Ranks on this node."""
    n_nodes: int | None
    """Nodes of the launch; for launchers that don't tell it, world size / local size where that divides."""
    node_rank: int | None
    hosts: tuple[str, ...] = ()
    """The nodes' names, that of node rank 0 first, or empty."""
    master_address: str | None
    """MASTER_ADDR, else the first node."""
    master_port: int | None
    """MASTER_PORT."""
    launcher: str
    """torchrun (also RANK and WORLD_SIZE set by hand), horovodrun (with Gloo), jsrun, openmpi, mvapich, flux, mpich, slurm, pals,
    pmix or none."""
    job_id: str | None
    """Equal on all ranks of this launch, different for every launch."""
    evidence: str
    """The variables this was read from, with their values."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The variables of one launcher; where several names stand, the first that is set counts."""

    launcher: str
    marker: str
    """Its presence says that this launcher started the process."""
    rank: str
    world_size: str
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()
    node_rank: tuple[str, ...] = ()
    n_nodes: tuple[str, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()
    """Each set together tells launches apart; the first that is complete counts."""


TORCHRUN = Source(
    launcher="torchrun", marker="RANK", rank="RANK", world_size="WORLD_SIZE", local_rank=("LOCAL_RANK",), local_size=("LOCAL_WORLD_SIZE",),
    node_rank=("GROUP_RANK",), n_nodes=("GROUP_WORLD_SIZE",),
    # the run id alone is "none" in every static launch
    keys=(("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),),
)  # fmt: skip
HOROVODRUN = Source(
    launcher="horovodrun", marker="HOROVOD_RANK", rank="HOROVOD_RANK", world_size="HOROVOD_SIZE", local_rank=("HOROVOD_LOCAL_RANK",),
    local_size=("HOROVOD_LOCAL_SIZE",), node_rank=("HOROVOD_CROSS_RANK",), n_nodes=("HOROVOD_CROSS_SIZE",),
    keys=(("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"),),
)  # fmt: skip
JSRUN = Source(
    launcher="jsrun", marker="JSM_NAMESPACE_RANK", rank="JSM_NAMESPACE_RANK", world_size="JSM_NAMESPACE_SIZE",
    local_rank=("JSM_NAMESPACE_LOCAL_RANK",), local_size=("JSM_NAMESPACE_LOCAL_SIZE",), keys=(("LSB_JOBID", "PMIX_NAMESPACE"),),
)  # fmt: skip
OPENMPI = Source(
    launcher="openmpi", marker="OMPI_COMM_WORLD_RANK", rank="OMPI_COMM_WORLD_RANK", world_size="OMPI_COMM_WORLD_SIZE",
    local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",), local_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    keys=(("PMIX_NAMESPACE",), ("OMPI_MCA_ess_base_jobid",)),
)  # fmt: skip
MVAPICH = Source(
    launcher="mvapich", marker="MV2_COMM_WORLD_RANK", rank="MV2_COMM_WORLD_RANK", world_size="MV2_COMM_WORLD_SIZE",
    local_rank=("MV2_COMM_WORLD_LOCAL_RANK",), local_size=("MV2_COMM_WORLD_LOCAL_SIZE",), node_rank=("MV2_NODE_ID",),
    n_nodes=("MV2_NUM_NODES_IN_JOB",), keys=(("MPIRUN_ID",),),
)  # fmt: skip
FLUX = Source(
    launcher="flux", marker="FLUX_TASK_RANK", rank="FLUX_TASK_RANK", world_size="FLUX_JOB_SIZE", local_rank=("FLUX_TASK_LOCAL_ID",),
    n_nodes=("FLUX_JOB_NNODES",), keys=(("FLUX_JOB_ID",),),
)  # fmt: skip
HYDRA = Source(
    launcher="mpich", marker="MPI_LOCALRANKID", rank="PMI_RANK", world_size="PMI_SIZE", local_rank=("MPI_LOCALRANKID",),
    local_size=("MPI_LOCALNRANKS",),
)  # fmt: skip
PALS = Source(
    launcher="pals", marker="PALS_RANKID", rank="PALS_RANKID", world_size="PMI_SIZE", local_rank=("PALS_LOCAL_RANKID", "PMI_LOCAL_RANK"),
    local_size=("PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"), node_rank=("PALS_NODEID",), keys=(("PALS_APID",),),
)  # fmt: skip
PMI = Source(
    launcher="mpich", marker="PMI_RANK", rank="PMI_RANK", world_size="PMI_SIZE", local_rank=("PMI_LOCAL_RANK",),
    local_size=("PMI_LOCAL_SIZE",), keys=(("PMI_JOBID",),),
)  # fmt: skip
PMIX = Source(
    launcher="pmix", marker="PMIX_RANK", rank="PMIX_RANK", world_size="PMIX_SIZE", local_rank=("PMIX_LOCAL_RANK",),
    local_size=("PMIX_LOCAL_SIZE",), keys=(("PMIX_NAMESPACE",),),
)  # fmt: skip


def read(variables: Mapping[str, str], source: Source) -> Launch | None:
    """Return what the variables of `source` say, or None if its marker is not there.

    Raises:
        UserError: the set is incomplete, holds something that is no number, or contradicts itself.
    """
    if source.marker not in variables:
        if source.world_size in variables and source in (JSRUN, OPENMPI, MVAPICH, PMI):
            told = f"{source.world_size}={variables[source.world_size]} is set but {source.rank} is not"
            raise UserError(f"{told}; unset {source.world_size}, or start the ranks with a launcher")
        return None
    rank, world_size = number(variables, source.rank), number(variables, source.world_size, minimum=1)
    if rank is None or world_size is None:
        missing = source.rank if rank is None else source.world_size
        told = f"{source.marker}={variables[source.marker]} is set but {missing} is not"
        raise UserError(f"{told}; unset {source.marker}, or start with a launcher that sets both, such as torchrun, srun or mpirun")
    return build(
        variables, source.launcher, rank, world_size,
        local_rank=number(variables, *source.local_rank),
        local_size=number(variables, *source.local_size, minimum=1),
        node_rank=number(variables, *source.node_rank),
        n_nodes=number(variables, *source.n_nodes, minimum=1),
        hosts=_lsf_hosts(variables) if source is JSRUN else (),
        job_id=_key(variables, source),
    )  # fmt: skip


def build(
    variables: Mapping[str, str], launcher: str, rank: Named, world_size: Named, *, local_rank: Named | None = None,
    local_size: Named | None = None, node_rank: Named | None = None, n_nodes: Named | None = None, hosts: tuple[str, ...] = (),
    job_id: str | None = None,
) -> Launch:  # fmt: skip
    """Return the Launch after checking that the numbers fit together.

    Raises:
        UserError: a rank is not below its size, or a part is larger than the whole.
    """
    for low, high in ((rank, world_size), (local_rank, local_size), (local_rank, world_size), (node_rank, n_nodes)):
        if low and high and low[1] >= high[1]:
            told = f"{low[0]}={low[1]}: must be below {_shown(variables, high)}"
            raise UserError(f"{told}; unset the one that is left over from another launch")
    for part in (local_size, n_nodes):
        if part and part[1] > world_size[1]:
            told = f"{part[0]}={part[1]}: must be at most {_shown(variables, world_size)}"
            raise UserError(f"{told}; unset the one that is left over from another launch")
    size = local_size[1] if local_size else (1 if world_size[1] == 1 else None)
    address, port = master(variables)
    items = (rank, world_size, local_rank, local_size, node_rank, n_nodes)
    return Launch(
        rank=rank[1],
        world_size=world_size[1],
        local_rank=local_rank[1] if local_rank else (0 if size == 1 else None),
        local_size=size,
        n_nodes=n_nodes[1] if n_nodes else _nodes(world_size[1], size),
        node_rank=node_rank[1] if node_rank else (0 if size == world_size[1] else None),
        hosts=hosts,
        master_address=address or (hosts[0] if hosts else None),
        master_port=port,
        launcher=launcher,
        job_id=variables.get(LAUNCH_ID, job_id),
        evidence=", ".join(f"{name}={variables.get(name)}" for name in dict.fromkeys(item[0] for item in items if item)),
    )


def _shown(variables: Mapping[str, str], item: Named) -> str:
    """Return the number with its origin: `4 (SLURM_NTASKS)`, or `2 (SLURM_STEP_TASKS_PER_NODE=2(x2))` where it was worked out."""
    raw = variables.get(item[0], "")
    return f"{item[1]} ({item[0]})" if raw == str(item[1]) else f"{item[1]} ({item[0]}={raw})"


def number(variables: Mapping[str, str], *names: str, minimum: int = 0) -> Named | None:
    """Return the first of `names` that is set, with its value as a whole number, or None.

    Raises:
        UserError: it isn't a whole number, or is below `minimum`.
    """
    name = next((name for name in names if name in variables), None)
    if name is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", variables[name], re.ASCII) is None or int(variables[name]) < minimum:
        raise UserError(f"{name}={variables[name]}: must be a whole number, at least {minimum}; correct or unset it")
    return name, int(variables[name])


def master(variables: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Return MASTER_ADDR and MASTER_PORT, each None where it isn't set.

    Raises:
        UserError: the port is no number from 1 to 65535.
    """
    port = number(variables, "MASTER_PORT", minimum=1)
    if port and port[1] > 65535:
        raise UserError(f"MASTER_PORT={port[1]}: must be from 1 to 65535; correct it, or unset it to let a free port be found")
    return variables.get("MASTER_ADDR"), port[1] if port else None


def _nodes(world_size: int, local_size: int | None) -> int | None:
    return world_size // local_size if local_size and world_size % local_size == 0 else None


def _key(variables: Mapping[str, str], source: Source) -> str | None:
    for names in source.keys:
        if all(name in variables for name in names):
            return "-".join((source.launcher, *(variables[name] for name in names)))
    return None


def _lsf_hosts(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the compute nodes of an LSF job from `batch1 1 h1 42 h2 42`: jsrun puts no rank on the launch node, which has one slot."""
    words = variables.get("LSB_MCPU_HOSTS", "").split()
    slots = list(zip(words[::2], words[1::2], strict=False))
    if len(slots) > 1 and slots[0][1] == "1":
        slots = slots[1:]
    return tuple(host for host, _ in slots)
