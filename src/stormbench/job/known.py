"""The names a config may set: the declared options of jobs and workloads, MLPerf's own names, and the libraries' prefixes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from stormbench.core.errors import did_you_mean
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


SYNONYMS = {
    "BATCH_SIZE": "LOCAL_BATCH_SIZE", "VALIDATION_BATCH_SIZE": "LOCAL_VALIDATION_BATCH_SIZE", "LEARNING_RATE": "START_LR",
    "LR": "START_LR", "EPOCHS": "MAX_EPOCHS", "TARGET": "TARGET_IOU", "PRECISION": "PRECISION_MODE", "DATA_DIR": "DATADIR",
    "DATA_DIR_PREFIX": "DATADIR", "OUTPUT_DIR": "LOGDIR", "LOG_DIR": "LOGDIR", "CONTAINER": "CONT", "IMAGE": "CONT",
    "TIME": "WALLTIME", "WALL_TIME": "WALLTIME", "NODES": "DGXNNODES", "NNODES": "DGXNNODES", "NUM_NODES": "DGXNNODES",
    "NGPU": "DGXNGPU", "NUM_GPUS": "DGXNGPU", "NUM_THREADS": "MAX_THREADS", "GRAD_ACCUM_FREQ": "GRADIENT_ACCUMULATION_FREQUENCY",
    "STORMBENCH_GPUS": "STORMBENCH_GPUS_PER_NODE", "SEEDS": "STORMBENCH_SEEDS", "STORMBENCH_PARTITION": "SBATCH_PARTITION",
    "STORMBENCH_QOS": "SBATCH_QOS", "STORMBENCH_ACCOUNT": "SBATCH_ACCOUNT",
}  # fmt: skip
"""What people write who come from other kits, where the spelling alone leads to a wrong name or to none."""


def suggestion(name: str) -> str:
    """Return `; did you mean X?` for an unknown name, in whatever case, or an empty text."""
    meant = SYNONYMS.get(name.upper())
    if meant is not None:
        return f"; did you mean {meant}?"
    return did_you_mean(name, documented()) or did_you_mean(name.upper(), documented())


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
