"""The workloads by name: where each declares its options and whether its job side is installed, without importing either part.

The host side may not import a workload; it asks here for the declarations, which are plain data.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One benchmark. `declared` is `module:class` of its training options, `batch` the variable that a config's name repeats."""

    name: str
    title: str
    declared: str
    batch: str
    job_side: str

    def options(self) -> type:
        """Return the dataclass that declares the options."""
        module, _, name = self.declared.partition(":")
        return getattr(importlib.import_module(module), name)

    def installed(self) -> bool:
        """Whether the part that runs on the compute nodes is there, not only its declarations."""
        return importlib.util.find_spec(self.job_side) is not None


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="deepcam", title="DeepCAM training", declared="stormbench.deepcam.config:TrainConfig", batch="LOCAL_BATCH_SIZE",
            job_side="stormbench.deepcam.train",
        ),
        Workload(
            name="cloudmask", title="CloudMask training", declared="stormbench.cloudmask.config:TrainConfig",
            batch="STORMBENCH_CLOUDMASK_BATCH_SIZE", job_side="stormbench.cloudmask.train",
        ),
    )
}  # fmt: skip
"""A further benchmark, such as DeepCAM inference, is one more entry here and one more line in run_and_time.sh."""
