"""Convolutions that compute what torch's do in less time on a CPU: torch's classes and weights, with another order of the arithmetic.

Elsewhere, and under torch.compile, tracing or autocast, they are torch's own to the bit.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)


def applies(x_nchw: Tensor) -> bool:
    """Whether the fast paths run for this input: eager, on a CPU, in single or double precision."""
    return (
        x_nchw.device.type == "cpu"
        and x_nchw.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def layout(x_nchw: Tensor) -> torch.memory_format:
    """Return channels_last for a tensor that is so in memory, otherwise contiguous_format."""
    channels_last = x_nchw.is_contiguous(memory_format=torch.channels_last) and not x_nchw.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


class _SplitLayout(torch.autograd.Function):
    """A convolution without bias in the layout of its input, except that the weight's gradient runs contiguous.

    oneDNN's weight gradient of a strided or dilated 3x3 convolution takes 2 to 4 times as long channels-last as contiguous,
    while the output and the input gradient are the faster ones channels-last.
    """

    @staticmethod
    def forward(ctx: Any, x_nchw: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x_nchw, weight)
        ctx.geometry = geometry
        return torch.convolution(x_nchw, weight, None, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nchw: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_nchw, weight = ctx.saved_tensors
        backward = torch.ops.aten.convolution_backward
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = backward(grad_nchw, x_nchw, weight, None, *ctx.geometry, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            # Only the shape of the weight matters here, and a channels-last one would turn the layout back.
            operands = (grad_nchw.contiguous(), x_nchw.contiguous(), weight.new_empty(weight.shape))
            grad_weight = backward(*operands, None, *ctx.geometry, (False, True, False))[1]
        return grad_x, grad_weight, None


class _SmallMap(torch.autograd.Function):
    """A 1x1 convolution whose weight's gradient is one matrix product over the pixels."""

    @staticmethod
    def forward(ctx: Any, x_nchw: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x_nchw, weight)
        return F.conv2d(x_nchw, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nchw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_nchw, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            geometry = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
            grad_x = torch.ops.aten.convolution_backward(grad_nchw, x_nchw, weight, None, *geometry, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            grad_weight = torch.mm(rows(grad_nchw).t(), rows(x_nchw)).view_as(weight)
        return grad_x, grad_weight


def rows(x_nchw: Tensor) -> Tensor:
    """(n, c, h, w) -> (n h w, c), without a copy where the tensor is channels-last."""
    return x_nchw.permute(0, 2, 3, 1).reshape(-1, x_nchw.shape[1])


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, stride 1, no bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 1, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(n, n_in, h, w) -> (n, n_out, h, w)."""
        # With few pixels the product is quicker than oneDNN's gradient, which pays for two more passes over the weight.
        if applies(x_nchw) and self.weight.numel() > x_nchw.numel():
            return _SmallMap.apply(x_nchw, self.weight)
        return super().forward(x_nchw)


class StridedPointwiseConv2d(nn.Conv2d):
    """A strided 1x1 convolution without bias, which reads one pixel of stride x stride."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__(n_in, n_out, 1, stride, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(n, n_in, h, w) -> (n, n_out, h / stride, w / stride)."""
        half = x_nchw.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if x_nchw.device.type == "cpu" and half:
            # torch 2.13's bfloat16 gradient of this convolution writes outside its memory at 8 channels channels-last.
            step_h, step_w = self.stride
            return F.conv2d(x_nchw[:, :, ::step_h, ::step_w], self.weight)
        return super().forward(x_nchw)


class DilatedConv2d(nn.Conv2d):
    """A dilated 3x3 convolution, stride 1, padding = dilation, no bias, that leaves out the taps which meet only padding.

    A map of h rows sees nothing of a tap h or more rows away: at 12 x 18 pixels the rates 6, 12, 18 need 9, 3, 1 taps of 9.
    """

    def __init__(self, n_in: int, n_out: int, rate: int) -> None:
        super().__init__(n_in, n_out, 3, padding=rate, dilation=rate, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(n, n_in, h, w) -> (n, n_out, h, w)."""
        if not applies(x_nchw):
            return super().forward(x_nchw)
        kernel, padding = self.weight, list(self.padding)
        for axis, size in enumerate(x_nchw.shape[2:]):
            if self.dilation[axis] >= size:
                kernel, padding[axis] = kernel.narrow(2 + axis, 1, 1), 0
        geometry: tuple[Any, ...] = (self.stride, padding, self.dilation, False, (0, 0), 1)
        if kernel.numel() <= x_nchw.numel():
            return _SplitLayout.apply(x_nchw, kernel, geometry)
        # On small maps the weight is the larger operand, and bringing it into channels-last order would cost more than it gains.
        return torch.convolution(x_nchw.contiguous(), kernel, None, *geometry).contiguous(memory_format=layout(x_nchw))


class UpConv2d(nn.ConvTranspose2d):
    """A 3x3 transposed convolution without bias that doubles height and width: 2 (h - 1) - 2 padding + 3 + output padding = 2 h."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, stride=2, padding=1, output_padding=1, bias=False)

    def forward(self, x_nchw: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(n, n_in, h, w) -> (n, n_out, 2 h, 2 w)."""
        if output_size is not None or not applies(x_nchw):
            return super().forward(x_nchw, output_size)
        return _SplitLayout.apply(x_nchw, self.weight, (self.stride, self.padding, self.dilation, True, self.output_padding, 1))


def without_fast_paths(module: Module) -> Module:
    """Return a copy, of the same weights, whose convolutions are torch's own classes."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, (PointwiseConv2d, StridedPointwiseConv2d, DilatedConv2d, UpConv2d)):
            object.__setattr__(part, "__class__", type(part).__base__)
    return module
