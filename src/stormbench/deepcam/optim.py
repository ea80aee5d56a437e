"""Builds the optimizer that was asked for from the fastest implementation of the same algorithm that this machine has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stormbench.core.errors import UserError, did_you_mean
from stormbench.deepcam.lamb import LAMB

NAMES = ("Adam", "AdamW", "LAMB")
EPS = 1e-6
"""The benchmark's rules fix it for every optimizer; torch's default would be 1e-8."""
MAX_GRAD_NORM = 1.0


def build(
    name: str,
    parameters: Iterable[Any],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = EPS,
    weight_decay: float = 1e-6,
) -> torch.optim.Optimizer:
    """Return the optimizer `name` over `parameters`, tensors or parameter groups.

    Adam takes weight decay as L2 regularisation, AdamW and LAMB decoupled from the gradient. Adam and AdamW are torch's, fused where
    its kernels take the parameters' device and type; LAMB is Apex FusedLAMB on GPUs where Apex is installed, else `lamb.LAMB`.

    Raises:
        UserError: the name is not known, or a value is outside its limits.
    """
    if name not in NAMES:
        raise UserError(f"optimizer {name!r} is not known; use one of {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    for key, value in {"learning rate": lr, "eps": eps, "weight decay": weight_decay}.items():
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{key} {value:g} must be a finite number of at least 0")
    betas = tuple(betas)  # type: ignore[assignment]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"optimizer betas {betas} must be two numbers of at least 0 and below 1")
    given = list(parameters)
    common: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    tensors = _tensors(given)
    if name == "LAMB":
        return _apex_lamb(given, tensors, common) or LAMB(given, max_grad_norm=MAX_GRAD_NORM, **common)
    fused = _can_fuse(tensors)
    if name == "Adam":
        return torch.optim.Adam(given, fused=fused, **common)
    return torch.optim.AdamW(given, fused=fused, **common)


def describe(optimizer: torch.optim.Optimizer) -> str:
    """Return which implementation `build` chose, such as `torch AdamW fused`, `Apex FusedLAMB` or `stormbench LAMB`."""
    kind = type(optimizer)
    origin = kind.__module__.partition(".")[0]
    fused = " fused" if origin == "torch" and optimizer.defaults.get("fused") else ""
    return f"{origin.capitalize() if origin == 'apex' else origin} {kind.__name__}{fused}"


def _tensors(given: list[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for item in given:
        if isinstance(item, dict):
            item["params"] = [item["params"]] if isinstance(item["params"], Tensor) else list(item["params"])
            found += item["params"]
        else:
            found.append(item[1] if isinstance(item, tuple) else item)
    return found


def _can_fuse(tensors: list[Tensor]) -> bool:
    """Whether torch's fused kernels take these: dense real tensors on CPUs or GPUs; on CPUs only full precision is worth it."""
    on_cpu = (torch.float32, torch.float64)
    on_gpu = (*on_cpu, torch.float16, torch.bfloat16)
    kinds = {"cpu": on_cpu, "cuda": on_gpu}
    return bool(tensors) and all(tensor.dtype in kinds.get(tensor.device.type, ()) for tensor in tensors)


def _apex_lamb(given: list[Any], tensors: list[Tensor], common: dict[str, Any]) -> torch.optim.Optimizer | None:
    """Return Apex FusedLAMB, or None where it can't be had. The package `apex` on PyPI is something else, hence the attribute."""
    if not tensors or any(tensor.device.type != "cuda" for tensor in tensors):
        return None
    try:
        from apex.optimizers import FusedLAMB
    except Exception:  # the unrelated package fails at import in ways of its own
        return None
    try:
        return FusedLAMB(given, max_grad_norm=MAX_GRAD_NORM, **common)
    except RuntimeError:
        # Apex is there but was built without its CUDA kernels
        return None
