"""Batch normalisation over several ranks: statistics shared by a group in training, and pooled over all ranks for validation."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from stormbench.core.errors import UserError

_REDUCED = (0, 2, 3)


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks of `group` or of all; 1 where processes were never joined."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def combine_statistics(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give every rank the running statistics of all ranks' data, in place; does nothing for one process.

    Ranks weigh the same, and by the law of total variance

        mean = average of mean_i        var = average of (var_i + (mean_i - mean) ** 2)

    computed in float64, as one reduction of the means of all layers and one of the variances: squared distances, unlike
    average(mean_i ** 2) - mean ** 2, can't cancel or turn negative. All ranks must call it.
    """
    ranks = world_size(group)
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if ranks == 1 or not layers:
        return
    means = [layer.running_mean for layer in layers]
    variances = [layer.running_var for layer in layers]
    own_mean = torch.cat([mean.double() for mean in means])  # type: ignore[union-attr]
    mean = own_mean.clone()
    dist.all_reduce(mean, group=group)
    mean /= ranks
    variance = torch.cat([variance.double() for variance in variances])  # type: ignore[union-attr]
    variance += (own_mean - mean) ** 2
    dist.all_reduce(variance, group=group)
    variance /= ranks
    for buffers, combined in ((means, mean), (variances, variance)):
        for buffer, value in zip(buffers, combined.split([len(buffer) for buffer in buffers]), strict=True):  # type: ignore[arg-type]
            buffer.copy_(value)  # type: ignore[union-attr]


def convert(model: nn.Module, group_size: int, timeout: datetime.timedelta | None = None) -> nn.Module:
    """Return `model` with every BatchNorm2d synchronised over groups of `group_size` consecutive ranks, which may span nodes.

    Parameters and buffers are kept as they are. On a GPU the layers become torch's SyncBatchNorm, elsewhere `GroupBatchNorm2d`, which
    does the same; so the model has to be on its device already. A size of 1 returns the model unchanged. All ranks must call it.

    Raises:
        UserError: the size is below 1, or the number of ranks is no multiple of it.
    """
    if group_size < 1:
        raise UserError(f"--batchnorm_group_size {group_size}: must be at least 1 rank")
    ranks = world_size()
    if ranks % group_size:
        fix = "choose a divisor of the number of ranks, or another number of ranks"
        raise UserError(f"--batchnorm_group_size {group_size}: does not divide the {ranks} rank{'s' * (ranks > 1)} of this run; {fix}")
    return model if group_size == 1 else _replace(model, _own_group(ranks, group_size, timeout))


def _own_group(ranks: int, size: int, timeout: datetime.timedelta | None) -> dist.ProcessGroup:
    own = dist.get_rank() // size
    # every rank has to make every group, in the same order
    groups = [dist.new_group(list(range(first, first + size)), timeout=timeout) for first in range(0, ranks, size)]
    return groups[own]


def _replace(module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        return _synchronised(module, group)
    for name, child in module.named_children():
        setattr(module, name, _replace(child, group))
    return module


def _synchronised(layer: nn.BatchNorm2d, group: dist.ProcessGroup) -> nn.Module:
    tensors = [*layer.parameters(), *layer.buffers()]
    on_gpu = bool(tensors) and all(tensor.is_cuda for tensor in tensors)
    kind: Any = nn.SyncBatchNorm if on_gpu else GroupBatchNorm2d
    made = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, process_group=group)
    # the same objects, so that optimizers and averaged copies made before keep pointing at them
    made._parameters.update(layer._parameters)
    made._buffers.update(layer._buffers)
    made.train(layer.training)
    return made


class GroupBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all ranks in `process_group`, on any device.

    Follows SyncBatchNorm of torch, which is for GPUs only: batches may differ in size between ranks, evaluation is local, and the
    gradients of weight and bias are this rank's share, which data-parallel training then averages.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape. Raises ValueError where the whole group has one value per channel."""
        if not self.training or world_size(self.process_group) == 1:
            return super().forward(input)
        self._check_input_dim(input)
        output_nchw, mean_c, variance_c, count = _GroupNormalise.apply(input, self.weight, self.bias, self.eps, self.process_group)
        if self.track_running_stats:
            self._update_running(mean_c, variance_c, count)
        return output_nchw

    @torch.no_grad()
    def _update_running(self, mean_c: Tensor, variance_c: Tensor, count: float) -> None:
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]
        self.running_mean.lerp_(mean_c.to(self.running_mean.dtype), share)  # type: ignore[union-attr]
        unbiased_c = variance_c * (count / (count - 1))
        self.running_var.lerp_(unbiased_c.to(self.running_var.dtype), share)  # type: ignore[union-attr]


class _GroupNormalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and var over all ranks of a group (Ioffe and Szegedy 2015)."""

    @staticmethod
    def forward(
        ctx: Any, x_nchw: Tensor, weight_c: Tensor | None, bias_c: Tensor | None, eps: float, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        mean_c, variance_c, count = _group_statistics(x_nchw, group)
        if count < 2:
            raise ValueError(f"batch norm in training needs more than 1 value per channel in the group; the input is {tuple(x_nchw.shape)}")
        dtype = torch.promote_types(x_nchw.dtype, torch.float32)
        inverse_c = (variance_c + eps).rsqrt()
        ctx.save_for_backward(x_nchw, weight_c, mean_c.to(dtype), inverse_c.to(dtype))
        ctx.count, ctx.group = count, group
        ctx.mark_non_differentiable(mean_c, variance_c)
        scale_c, shift_c = (None if value is None else value.to(dtype) for value in (weight_c, bias_c))
        output_nchw = F.batch_norm(x_nchw, mean_c.to(dtype), variance_c.to(dtype), scale_c, shift_c, eps=eps)
        return output_nchw, mean_c, variance_c, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nchw: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x_nchw, weight_c, mean_c, inverse_c = ctx.saved_tensors
        centred_nchw = x_nchw - _per_channel(mean_c)
        sum_grad_c = grad_nchw.sum(_REDUCED, dtype=mean_c.dtype)
        sum_product_c = (grad_nchw * centred_nchw).sum(_REDUCED)
        grad_weight_c = (sum_product_c * inverse_c).to(weight_c.dtype) if ctx.needs_input_grad[1] else None
        grad_bias_c = sum_grad_c.to(weight_c.dtype) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight_c, grad_bias_c, None, None
        total = torch.cat([sum_grad_c, sum_product_c]).double()
        dist.all_reduce(total, group=ctx.group)
        mean_grad_c, mean_product_c = (total / ctx.count).to(mean_c.dtype).chunk(2)
        factor_c = inverse_c if weight_c is None else inverse_c * weight_c
        # dx = factor * (dy - mean(dy) - (x - mean) * inverse^2 * mean(dy * (x - mean)))
        slope_c = mean_product_c * inverse_c**2
        grad_x_nchw = (grad_nchw - _per_channel(mean_grad_c)).sub_(centred_nchw.mul_(_per_channel(slope_c))).mul_(_per_channel(factor_c))
        return grad_x_nchw.to(x_nchw.dtype), grad_weight_c, grad_bias_c, None, None


def _group_statistics(x_nchw: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, float]:
    """Return mean and biased variance of each channel over the group's inputs, float64, and the number of values per channel.

    Each rank's own mean and variance are merged by their counts (Chan, Golub and LeVeque 1979), which is stable where sums of squares
    are not. Only one exchange, of 2 c + 1 numbers per rank.
    """
    n, channels, height, width = x_nchw.shape
    own = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x_nchw.device)
    own[-1] = n * height * width
    if x_nchw.numel():
        wide_nchw = x_nchw.to(torch.promote_types(x_nchw.dtype, torch.float32))
        mean_c = wide_nchw.mean(_REDUCED)
        # in two passes: several times as fast as torch.var_mean on a CPU, and as accurate
        own[:-1] = torch.cat([mean_c, (wide_nchw - _per_channel(mean_c)).square_().mean(_REDUCED)])
    gathered = own.new_empty(world_size(group), len(own))
    dist.all_gather(list(gathered.unbind()), own, group=group)
    mean_rc, variance_rc, count_r1 = gathered.split([channels, channels, 1], dim=1)
    share_r1 = count_r1 / count_r1.sum()
    mean_c = (share_r1 * mean_rc).sum(0)
    variance_c = (share_r1 * (variance_rc + (mean_rc - mean_c) ** 2)).sum(0)
    return mean_c, variance_c, float(count_r1.sum())


def _per_channel(value_c: Tensor) -> Tensor:
    return value_c.view(1, -1, 1, 1)
