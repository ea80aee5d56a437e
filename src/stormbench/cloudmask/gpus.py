"""How many GPUs this process sees, without a library that would take hold of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
NVIDIA = Path("/proc/driver/nvidia/gpus")
"""NVIDIA's driver lists the node's GPUs here, one folder each; some containers hide it."""
DEVICES = Path("/dev")
"""Where a GPU of NVIDIA is `nvidia<number>`, and one of AMD `dri/renderD<number>` beside `kfd`."""


def visible_gpus(environ: Mapping[str, str] | None = None) -> int:
    """Return how many GPUs this process sees: by the variables that choose among them, else by what the drivers list."""
    variables = os.environ if environ is None else environ
    for name in VISIBLE:
        if name in variables:
            words = [word.strip() for word in variables[name].split(",")]
            # what follows a negative number is hidden too
            return next((index for index, word in enumerate(words) if not word or word.startswith("-")), len(words))
    try:
        listed = sum(1 for _ in NVIDIA.iterdir())
    except OSError:
        listed = 0
    if listed:
        return listed
    nvidia = sum(path.name.removeprefix("nvidia").isdigit() for path in DEVICES.glob("nvidia*"))
    return nvidia or (len(list(DEVICES.glob("dri/renderD*"))) if (DEVICES / "kfd").exists() else 0)
