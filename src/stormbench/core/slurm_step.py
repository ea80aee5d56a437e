"""What an srun step tells its tasks, and how a task is told from the shell of a batch script, which looks much like rank 0."""

from __future__ import annotations

from collections.abc import Mapping

from stormbench.core.errors import UserError
from stormbench.core.hostlist import expand, expand_counts
from stormbench.core.launchers import Launch, Named, build, number

_FIRST_SPECIAL_STEP = 0xFFFFFFF0
"""Step ids from here on (batch script, interactive, extern; slurm.h) belong to shells, not to tasks that srun started."""


def read_step(variables: Mapping[str, str]) -> Launch | None:
    """Return the place in the srun step that started this process, or None outside a step, as in a batch script.

    Raises:
        UserError: the step's variables are incomplete, no numbers, or contradict each other.
    """
    step = number(variables, "SLURM_STEP_ID", "SLURM_STEPID")
    rank = number(variables, "SLURM_PROCID")
    if not _started_by_srun(variables, step, rank):
        return None
    world_size = number(variables, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS", minimum=1)
    if rank is None or world_size is None:
        present, missing = ("SLURM_STEP_ID", "SLURM_PROCID") if rank is None else ("SLURM_PROCID", "SLURM_NTASKS")
        raise UserError(f"{present} is set but {missing} is not; pass all SLURM_ variables on to this process, or none")
    node_rank = number(variables, "SLURM_NODEID")
    tasks = _tasks_per_node(variables, world_size)
    n_nodes = (tasks[0], len(tasks[1])) if tasks else number(variables, "SLURM_STEP_NUM_NODES", minimum=1)
    if node_rank and n_nodes and node_rank[1] >= n_nodes[1]:
        raise UserError(f"SLURM_NODEID={node_rank[1]}: must be below the {n_nodes[1]} nodes of {n_nodes[0]}; unset the one not from srun")
    local_size = None
    if tasks and (node_rank or len(set(tasks[1])) == 1):
        local_size = (tasks[0], tasks[1][node_rank[1] if node_rank else 0])
    return build(
        variables, "slurm", rank, world_size, local_rank=number(variables, "SLURM_LOCALID"), local_size=local_size, node_rank=node_rank,
        n_nodes=n_nodes, hosts=_hosts(variables, n_nodes), job_id=_job_id(variables, step),
    )  # fmt: skip


def _started_by_srun(variables: Mapping[str, str], step: Named | None, rank: Named | None) -> bool:
    """Tell a task of srun from the batch script and from salloc's shell, which have SLURM_PROCID=0 and SLURM_NTASKS too."""
    if step:
        return step[1] < _FIRST_SPECIAL_STEP and (rank is not None or "SLURM_STEP_NUM_TASKS" in variables)
    if not rank:
        return False
    # a container may have been given only part of the variables; every batch script has its job's id
    if "SLURM_STEP_NUM_TASKS" in variables or "SLURM_JOB_ID" not in variables:
        return True
    if rank[1] > 0:
        raise UserError(f"SLURM_PROCID={rank[1]} is set but SLURM_STEP_ID is not; pass all SLURM_ variables on to this process, or none")
    return False


def _tasks_per_node(variables: Mapping[str, str], world_size: Named) -> tuple[str, list[int]] | None:
    """Return the ranks on each node of the step, with their variable's name, or None if only the job's are known."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        if name not in variables:
            continue
        counts = expand_counts(variables[name], name)
        if sum(counts) == world_size[1]:
            return name, counts
        # the job's value rightly differs from a smaller step's, and each part of a heterogeneous job has its own
        if name == "SLURM_STEP_TASKS_PER_NODE" and "SLURM_HET_SIZE" not in variables:
            told = f"{name}={variables[name]}: adds up to {sum(counts)} tasks, but {world_size[0]}={world_size[1]}"
            raise UserError(f"{told}; unset the one that did not come from srun")
    return None


def _hosts(variables: Mapping[str, str], n_nodes: Named | None) -> tuple[str, ...]:
    """Return the step's nodes; the job's list counts only where it is as long, else its order says nothing of the step."""
    name = next((name for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") if name in variables), None)
    if name is None:
        return ()
    hosts = tuple(expand(variables[name], name))
    return hosts if name == "SLURM_STEP_NODELIST" or (n_nodes and len(hosts) == n_nodes[1]) else ()


def _job_id(variables: Mapping[str, str], step: Named | None) -> str | None:
    if step is None or "SLURM_JOB_ID" not in variables:
        return None
    # a requeued job keeps its id and begins its steps at 0 again: only the restart count differs
    return f"slurm-{variables['SLURM_JOB_ID']}.{step[1]}.{variables.get('SLURM_RESTART_COUNT', '0')}"
