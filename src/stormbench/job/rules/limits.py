"""What the system allows: limits of the QoS or queue, and the memory of a GPU or node against the local batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stormbench.core.errors import did_you_mean
from stormbench.core.workloads import WORKLOADS
from stormbench.job import memory
from stormbench.job.findings import Finding, counted, error, warning
from stormbench.job.known import workload_options
from stormbench.job.layout import Layout
from stormbench.job.values import clock

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
        # a time that is no whole number of minutes is told as a clock shows it
        told = f"{value} is {above} the {limit} {unit}" if ":" in value else f"{value} {unit} is {above} the {limit}"
        yield error(job.where(cause, variable), f"{told} that {variable}={name} allows; {fix}{cause}")


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
        found.append(("minutes", "WALLTIME", clock(layout.wall_s) if layout.wall_s % 60 else str(layout.wall_s // 60), limits["minutes"]))
    return found


def _memory(job: Job) -> Iterator[Finding]:
    """The local batch fits in the memory that a rank has."""
    if job.workload is None or job.layout is None:
        return
    available, whose = _available(job)
    need = memory.need(job.benchmark, job.workload)
    variable = WORKLOADS[job.benchmark].batch
    if not available or need is None:
        return
    batch = getattr(job.workload, workload_options(job.benchmark)[variable].name)
    largest = need.largest(available)
    if batch > largest:
        fix = f"set {variable} to at most {largest}" if largest else "not even 1 fits; use fewer ranks per node or larger memory"
        yield error(job.where(variable), f"{job.said(variable)}: needs about {need.total(batch):.3g} GB, but {whose}; {fix}")


def _available(job: Job) -> tuple[float, str]:
    """Return the GB that a rank has, 0 where that is unknown, and the words for it."""
    config = job.config
    if job.layout is None:
        return 0.0, ""
    if job.layout.gpus_per_node:
        return config.gpu_memory, f"a GPU has {config.gpu_memory:g} GB (STORMBENCH_GPU_MEMORY)"
    available = config.node_memory / config.ranks_per_node
    shares = f"{config.node_memory:g} GB (STORMBENCH_NODE_MEMORY) over {counted(config.ranks_per_node, 'rank')}"
    return available, f"a rank has {available:.3g} GB, {shares}"


def _validation(job: Job) -> Iterator[Finding]:
    """The validation batch fits too; it keeps nothing for a backward pass, so that more samples of it do."""
    batch = getattr(job.workload, "local_batch_size_validation", None)
    available, whose = _available(job)
    need = memory.need(job.benchmark, job.workload, training=False) if job.workload is not None else None
    if batch is None or need is None or not available or getattr(job.workload, "disable_validation", False):
        return
    largest = need.largest(available)
    if batch > largest:
        name = "LOCAL_VALIDATION_BATCH_SIZE"
        fix = f"set {name} to at most {largest}" if largest else "not even 1 fits; use fewer ranks per node or larger memory"
        yield error(job.where(name), f"{job.said(name)}: needs about {need.total(batch):.3g} GB, but {whose}; {fix}")


def _seen(job: Job) -> Iterator[Finding]:
    """A batch that the estimate allows, but at a known site proved too large."""
    if job.benchmark != "deepcam" or job.workload is None or job.layout is None or not job.layout.gpus_per_node or job.workload.width < 1:
        return
    most = memory.SEEN.get(job.config.gpu_memory)
    if most is not None and job.workload.data_format != "dummy" and job.workload.local_batch_size > most:
        told = f"{job.said('LOCAL_BATCH_SIZE')}: EPCC found at most {most} to fit on Cirrus's GPUs of {job.config.gpu_memory:g} GB"
        yield warning(job.where("LOCAL_BATCH_SIZE"), f"{told}; use that, or try it on one node first")


RULES = (_queue, _memory, _validation, _seen)
