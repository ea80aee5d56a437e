"""The tags of a config's file name against its content: a global batch, a precision or a workload that people will quote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stormbench.core.workloads import WORKLOADS
from stormbench.job.findings import Finding, error
from stormbench.job.rules.names import read_name
from stormbench.job.rules.science import global_batch

if TYPE_CHECKING:
    from stormbench.job.load import Job

PRECISIONS = {
    "deepcam": ("PRECISION_MODE", {"fp32": "fp32", "amp": "amp", "fp16": "amp", "bf16": "amp-bf16", "amp-bf16": "amp-bf16"}),
    "cloudmask": ("STORMBENCH_CLOUDMASK_PRECISION", {"fp32": "fp32", "bf16": "bf16", "amp": "mixed", "fp16": "mixed", "mixed": "mixed"}),
}
"""By workload the variable of its number format, and what each tag says of it."""


def _tags(job: Job) -> Iterator[Finding]:
    """What a tag says is true of the config's own workload."""
    name = read_name(job.path)
    for tag in name.tags if name is not None else ():
        if tag in WORKLOADS and tag != job.own_benchmark:
            yield error(
                job.where("STORMBENCH_BENCHMARK"),
                f"the file's name says {tag}, but the config is for {job.own_benchmark}; set STORMBENCH_BENCHMARK={tag}, or rename it",
            )
        if job.benchmark == job.own_benchmark and job.workload is not None:
            yield from _batch(job, tag)
            yield from _precision(job, tag)


def _batch(job: Job, tag: str) -> Iterator[Finding]:
    match, batch = re.fullmatch(r"gb([0-9]+)", tag), global_batch(job)
    if match is not None and batch is not None and int(match[1]) != batch:
        variable = WORKLOADS[job.benchmark].batch
        yield error(
            job.where("GRADIENT_ACCUMULATION_FREQUENCY", variable),
            f"the global batch is {batch}, but the file's name says {match[1]}; change {variable} or GRADIENT_ACCUMULATION_FREQUENCY, "
            f"or rename {tag} to gb{batch}",
        )


def _precision(job: Job, tag: str) -> Iterator[Finding]:
    variable, formats = PRECISIONS.get(job.benchmark, ("", {}))
    used = getattr(job.workload, "precision_mode", getattr(job.workload, "precision", None))
    if tag in formats and used != formats[tag]:
        yield error(
            job.where(variable), f"{job.said(variable)}, but the file's name says {tag}; set {variable}={formats[tag]}, or rename the file"
        )


RULES = (_tags,)
