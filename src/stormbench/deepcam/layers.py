"""The blocks of DeepLabv3+ and its modified Xception backbone: small modules with their shapes, so that the model reads as a list."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stormbench.deepcam.fastconv import DilatedConv2d, PointwiseConv2d, StridedPointwiseConv2d, layout


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation, and ReLU unless `relu` is False."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.relu = relu

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the normalised convolution; batch norm saves its input, so the ReLU may overwrite its output."""
        y_nchw = self.bn(self.conv(x_nchw))
        return F.relu_(y_nchw) if self.relu else y_nchw


class Separable(nn.Sequential):
    """A depthwise 3x3 convolution and a 1x1 convolution, with nothing between: (n, in, h, w) -> (n, out, h / stride, w / stride)."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(n_in, n_in, 3, stride, padding=dilation, dilation=dilation, groups=n_in, bias=False)
        self.pointwise = PointwiseConv2d(n_in, n_out)


class SeparableNorm(nn.Sequential):
    """A separable convolution and batch normalisation."""

    def __init__(self, n_in: int, n_out: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Separable(n_in, n_out, dilation=dilation)
        self.bn = nn.BatchNorm2d(n_out)


class Block(nn.Module):
    """Separable convolutions with batch norm, ReLU between them, then `tail` (one more without batch norm), plus the skip.

    `widths` are the output channels of the separable convolutions in turn. The skip is a strided 1x1 convolution with batch norm
    where the shape changes, otherwise the input itself. `relu` puts a ReLU on the sum.
    """

    def __init__(self, n_in: int, widths: tuple[int, ...], *, stride: int = 1, tail: bool = False, relu: bool = True) -> None:
        super().__init__()
        n_out = widths[-1]
        steps = [SeparableNorm(a, b) for a, b in zip((n_in, *widths), widths, strict=False)]
        self.steps = nn.ModuleList(steps)
        self.tail = Separable(n_out, n_out, stride=stride) if tail or stride > 1 else None
        changes = n_in != n_out or stride > 1
        self.skip = ConvNorm(StridedPointwiseConv2d(n_in, n_out, stride), relu=False) if changes else None
        self.relu = relu

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(n, n_in, h, w) -> (n, widths[-1], h / stride, w / stride)."""
        y_nchw = x_nchw
        for i, step in enumerate(self.steps):
            y_nchw = step(F.relu_(y_nchw) if i else y_nchw)
        if self.tail is not None:
            y_nchw = self.tail(y_nchw)
        y_nchw = y_nchw.add_(x_nchw if self.skip is None else self.skip(x_nchw))
        return F.relu_(y_nchw) if self.relu else y_nchw


class ScaleShift(nn.Module):
    """y = weight * x + bias with one learned pair per channel: batch norm's affine part without its statistics."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(n_channels, 1, 1))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Same shape as the input."""
        return torch.addcmul(self.bias, x_nchw, self.weight)


class GlobalPool(nn.Sequential):
    """The mean over the map, a 1x1 convolution, scale and shift, ReLU: (n, in, h, w) -> (n, out, 1, 1).

    One value per channel and sample has no batch variance, hence no batch norm here.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.affine = ScaleShift(n_out)
        self.relu = nn.ReLU(inplace=True)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2018): convolutions dilated by several rates and a global pool, merged by a 1x1."""

    def __init__(self, n_in: int, n_out: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        dilated = [DilatedConv2d(n_in, n_out, rate) for rate in rates]
        self.branches = nn.ModuleList(ConvNorm(conv) for conv in (PointwiseConv2d(n_in, n_out), *dilated))
        self.pool = GlobalPool(n_in, n_out)
        self.merge = ConvNorm(PointwiseConv2d((len(rates) + 2) * n_out, n_out))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(n, n_in, h, w) -> (n, n_out, h, w)."""
        maps = [branch(x_nchw) for branch in self.branches]
        # Without its own memory in the others' layout, the broadcast map would turn the whole decoder contiguous.
        maps.append(self.pool(x_nchw).expand_as(maps[0]).contiguous(memory_format=layout(maps[0])))
        return self.merge(torch.cat(maps, dim=1))
