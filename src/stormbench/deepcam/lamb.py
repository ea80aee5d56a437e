"""LAMB in torch alone, the same algorithm as Apex FusedLAMB by default, for machines without Apex and for CPUs.

You et al. 2020, algorithm 2, in the variant of Apex: the gradients of all tensors are clipped together, and tensors without weight
decay take plain steps. For step t, with g the gradient divided by max(1, global norm / max_grad_norm):

    m = beta1 * m + (1 - beta1) * g            v = beta2 * v + (1 - beta2) * g * g
    u = (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + eps) + weight_decay * w
    w = w - lr * r * u,   r = |w| / |u| for each tensor; 1 where the weight decay is 0 or either norm is 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from stormbench.core.errors import UserError


class LAMB(torch.optim.Optimizer):
    """LAMB with bias correction, gradient averaging, decoupled weight decay and global gradient-norm clipping.

    Parameters are float32 or float64. The step count is kept in each parameter group, as Apex does. Gradients are left as they are;
    infinite ones give NaN weights, so skipping such steps is left to a GradScaler.

    Raises:
        UserError: a hyperparameter is outside its limits, or a parameter is half-precision.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
    ) -> None:
        limits = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        for name, value in limits.items():
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"LAMB: {name} {value} must be a finite number of at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"LAMB: betas {tuple(betas)} must be at least 0 and below 1")
        if not max_grad_norm > 0:
            raise UserError(f"LAMB: max_grad_norm {max_grad_norm} must be above 0")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "max_grad_norm": max_grad_norm, "step": 0}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dtype not in (torch.float32, torch.float64):
                    raise UserError(f"LAMB: a parameter is {weight.dtype}; keep parameters in float32 and use autocast for half precision")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one update of every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [weight.grad for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        if grads:
            norm = _global_norm(grads)
            for group in self.param_groups:
                self._step_group(group, norm)
        return loss

    def _step_group(self, group: dict[str, Any], norm: Tensor) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        group["step"] += 1
        if not weights:
            return
        # a comparison instead of clamp: a norm of NaN then leaves the other tensors' gradients as they are, as in Apex
        clip = torch.where(norm > group["max_grad_norm"], norm / group["max_grad_norm"], 1.0)
        for batch in _batches(weights):
            for weight in batch:
                if not self.state[weight]:
                    self.state[weight]["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                    self.state[weight]["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            _update(
                batch,
                [self.state[weight]["exp_avg"] for weight in batch],
                [self.state[weight]["exp_avg_sq"] for weight in batch],
                clip.to(device=batch[0].device, dtype=batch[0].dtype),
                group,
            )


def _update(weights: list[Tensor], means: list[Tensor], squares: list[Tensor], clip: Tensor, group: dict[str, Any]) -> None:
    """Move `weights` of one device and type, and their moments, by one step in place."""
    beta1, beta2 = group["betas"]
    grads = torch._foreach_div([weight.grad for weight in weights if weight.grad is not None], clip)
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)

    # m/c1 / (sqrt(v/c2) + eps) = factor * m / (sqrt(v) + eps * sqrt(c2)); the factor cancels in the trust ratio times the update
    correction1, correction2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
    factor = math.sqrt(correction2) / correction1
    updates = grads  # their memory is used again: on a CPU fresh pages cost more than the arithmetic
    torch._foreach_copy_(updates, squares)
    torch._foreach_sqrt_(updates)
    torch._foreach_add_(updates, group["eps"] * math.sqrt(correction2))
    torch._foreach_reciprocal_(updates)
    torch._foreach_mul_(updates, means)

    if group["weight_decay"] == 0:
        torch._foreach_add_(weights, updates, alpha=-group["lr"] * factor)
        return
    torch._foreach_add_(updates, weights, alpha=group["weight_decay"] / factor)
    weight_norms = torch.stack(torch._foreach_norm(weights))
    update_norms = torch.stack(torch._foreach_norm(updates))
    ratios = torch.where((weight_norms > 0) & (update_norms > 0), weight_norms / update_norms, factor)
    torch._foreach_addcmul_(weights, updates, list(ratios.unbind()), value=-group["lr"])


def _global_norm(grads: list[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients together, on the device of the first, without waiting for it."""
    if any(grad.is_sparse for grad in grads):
        raise UserError("LAMB: a gradient is sparse; use dense gradients")
    device = grads[0].device
    batches: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in grads:
        batches.setdefault((grad.device, grad.dtype), []).append(grad)
    norms = [norm.to(device=device, dtype=torch.float64) for batch in batches.values() for norm in torch._foreach_norm(batch)]
    return torch.linalg.vector_norm(torch.stack(norms))


def _batches(weights: list[Tensor]) -> list[list[Tensor]]:
    """Group tensors for the multi-tensor kernels: on a CPU one by one, so that a tensor stays in the cache over all passes."""
    batches: dict[Any, list[Tensor]] = {}
    for weight in weights:
        key = id(weight) if weight.device.type == "cpu" else (weight.device, weight.dtype)
        batches.setdefault(key, []).append(weight)
    return list(batches.values())
