"""The names a config may set: the declared options of jobs and workloads, MLPerf's own names, and the libraries' prefixes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from stormbench.core.options import Option, options_of
from stormbench.core.workloads import WORKLOADS
from stormbench.job.config import JobConfig

PREFIXES = ("NCCL_", "FI_", "UCX_", "MPICH_", "OMP_", "CUDA_", "ROCR_", "MIOPEN_", "TF_", "HOROVOD_", "SBATCH_")
"""Variables of libraries and of sbatch: they pass a config unchecked and enter the container."""
WITHOUT_EFFECT = {
    "DATA_OVERSAMPLING_FACTOR": "samples are never read twice in an epoch here",
    "DATA_CACHE_DIRECTORY": "data are read from DATADIR",
    "ENABLE_GDS": "training reads through the page cache",
    **{
        f"STAGE_{name}": "data are read from DATADIR, not staged"
        for name in (
            "DIR_PREFIX", "MODE", "BATCH_SIZE", "NUM_READ_WORKERS", "NUM_WRITE_WORKERS",
            "VERIFY", "ONLY", "FULL_DATA_PER_NODE", "USE_DIRECT_IO",
        )
    },
}  # fmt: skip
"""Names of MLPerf's kits that a config may hold, but that change nothing here, with what happens instead."""
SET_BY_JOBS = ("EXPERIMENT_ID", "STORMBENCH_CACHE_CLEARED", "STORMBENCH_CACHE_REASON")
"""Options of a workload that the job script sets for each trial; a config that sets them is overruled."""


@functools.cache
def job_options() -> dict[str, Option]:
    """Return the job's own options by variable."""
    return {spec.variable: spec for spec in options_of(JobConfig)}


@functools.cache
def workload_options(benchmark: str) -> dict[str, Option]:
    """Return a workload's options by variable."""
    return {spec.variable: spec for spec in options_of(WORKLOADS[benchmark].options())}


@functools.cache
def documented() -> frozenset[str]:
    """Return every documented name."""
    return frozenset({*job_options(), *WITHOUT_EFFECT, *(name for benchmark in WORKLOADS for name in workload_options(benchmark))})


def passes(name: str) -> bool:
    """Whether a variable of the caller's environment reaches a config, and a job's variable its container."""
    return name in documented() or name.startswith(PREFIXES)


def passed_through(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environ` that a config sees and a job keeps."""
    return {name: value for name, value in environ.items() if passes(name)}


def foreign_to(benchmark: str) -> frozenset[str]:
    """Return the names that only other workloads have, which a job of `benchmark` needn't carry."""
    others = {name for other in WORKLOADS if other != benchmark for name in workload_options(other)}
    return frozenset(others - set(workload_options(benchmark)) - set(job_options()))
