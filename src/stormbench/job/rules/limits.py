"""What the system allows: limits of the QoS or queue, and the memory of a GPU or node against the local batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stormbench.core.errors import did_you_mean
from stormbench.core.workloads import WORKLOADS
from stormbench.job import memory
from stormbench.job.findings import Finding, error, warning
from stormbench.job.known import workload_options
from stormbench.job.layout import Layout

if TYPE_CHECKING:
    from stormbench.job.load import Job

QUEUES = {"slurm": ("SBATCH_QOS", "SBATCH_PARTITION"), "lsf": ("STORMBENCH_QUEUE",), "pbs": ("STORMBENCH_QUEUE",)}
"""Where each scheduler's jobs name the QoS or queue whose limits hold, the first that is set."""


def _queue(job: Job) -> Iterator[Finding]:
    """Nodes, GPUs and wall time lie within the limits of the job's QoS or queue."""
    limits = dict(job.config.limits)
    variable = next((name for name in QUEUES.get(job.config.scheduler, ()) if job.values.get(name, "").strip()), None)
    if not limits or variable is None or job.layout is None:
        return
    name = job.values[variable].strip()
    if name not in limits:
        near = did_you_mean(name, limits)
        yield warning(job.where(variable), f"{variable}={name}: its limits are not known, only those of {', '.join(limits)}{near}")
        return
    others = [other for other, theirs in limits.items() if other != name and not breaches(theirs, job.layout)]
    fix = f"use {variable}={others[0]}, or change " if others else "no other known one allows it; change "
    for what, cause, value, limit in breaches(limits[name], job.layout):
        above = "below" if what == "min_nodes" else "above"
        unit = {"min_nodes": "nodes", "gpus": "GPUs"}.get(what, what)
        yield error(job.where(cause, variable), f"{value} {unit} is {above} the {limit} that {variable}={name} allows; {fix}{cause}")


def breaches(limits: Mapping[str, int], layout: Layout) -> list[tuple[str, str, str, int]]:
    """Return (limit's name, variable to change, value, limit) for each limit that the layout is not within."""
    found = []
    if layout.nodes > limits.get("nodes", layout.nodes):
        found.append(("nodes", "DGXNNODES", str(layout.nodes), limits["nodes"]))
    if layout.nodes < limits.get("min_nodes", 0):
        found.append(("min_nodes", "DGXNNODES", str(layout.nodes), limits["min_nodes"]))
    if layout.gpus > limits.get("gpus", layout.gpus):
        found.append(("gpus", "DGXNNODES", str(layout.gpus), limits["gpus"]))
    if layout.wall_s is not None and "minutes" in limits and layout.wall_s > 60 * limits["minutes"]:
        found.append(("minutes", "WALLTIME", f"{layout.wall_s / 60:.10g}", limits["minutes"]))
    return found


def _memory(job: Job) -> Iterator[Finding]:
    """The local batch fits in the memory that a rank has."""
    config, layout = job.config, job.layout
    if job.workload is None or layout is None:
        return
    if layout.gpus_per_node:
        available, whose = config.gpu_memory, f"a GPU has {config.gpu_memory:g} GB (STORMBENCH_GPU_MEMORY)"
    else:
        available = config.node_memory / config.ranks_per_node
        whose = f"a rank has {available:.3g} GB, {config.node_memory:g} GB (STORMBENCH_NODE_MEMORY) over {config.ranks_per_node} ranks"
    need = memory.need(job.benchmark, job.workload)
    variable = WORKLOADS[job.benchmark].batch
    if not available or need is None:
        return
    batch = getattr(job.workload, workload_options(job.benchmark)[variable].name)
    largest = need.largest(available)
    if batch > largest:
        fix = f"set {variable} to at most {largest}" if largest else "not even 1 fits; use fewer ranks per node or larger memory"
        yield error(job.where(variable), f"{job.said(variable)}: needs about {need.total(batch):.3g} GB, but {whose}; {fix}")


RULES = (_queue, _memory)
