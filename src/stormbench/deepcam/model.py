"""DeepLabv3+ with a modified Xception backbone at output stride 16: the network of the DeepCAM benchmark, built from `layers`.

Chen et al. 2018 (arXiv:1802.02611) describe the network, Kurth et al. 2018 (arXiv:1810.01993) its full-resolution decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stormbench.core.errors import UserError
from stormbench.deepcam.fastconv import UpConv2d, applies, without_fast_paths
from stormbench.deepcam.layers import ASPP, Block, ConvNorm, SeparableNorm

OUTPUT_STRIDE = 16


class Xception(nn.Module):
    """The backbone: (n, channels, h, w) -> features (n, 2048, h / 16, w / 16) and low-level features (n, 128, h / 4, w / 4), at width 1."""

    def __init__(self, n_channels: int, width: float) -> None:
        super().__init__()
        c32, c64, c128, c256, c728, c1024, c1536, c2048 = (scaled(c, width) for c in (32, 64, 128, 256, 728, 1024, 1536, 2048))
        self.conv1 = ConvNorm(nn.Conv2d(n_channels, c32, 3, stride=2, padding=1, bias=False))
        self.conv2 = ConvNorm(nn.Conv2d(c32, c64, 3, padding=1, bias=False))
        self.block1 = Block(c64, (c128, c128), stride=2, relu=False)
        self.block2 = Block(c128, (c256, c256), stride=2)
        self.block3 = Block(c256, (c728, c728), stride=2)
        for i in range(4, 20):
            self.add_module(f"block{i}", Block(c728, (c728, c728, c728)))
        self.block20 = Block(c728, (c728, c1024), tail=True, relu=False)
        self.conv3 = SeparableNorm(c1024, c1536, dilation=2)
        self.conv4 = SeparableNorm(c1536, c1536, dilation=2)
        self.conv5 = SeparableNorm(c1536, c2048, dilation=2)

    def forward(self, image_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the low-level features, both after a ReLU."""
        low_nchw = F.relu_(self.block1(self.conv2(self.conv1(image_nchw))))
        x_nchw = low_nchw
        for i in range(2, 21):
            x_nchw = self.get_submodule(f"block{i}")(x_nchw)
        for conv in (self.conv3, self.conv4, self.conv5):
            x_nchw = F.relu_(conv(x_nchw))
        return x_nchw, low_nchw


class Decoder(nn.Module):
    """Transposed convolutions up to the image's size, with the low-level features joined at a quarter of it."""

    def __init__(self, n_features: int, n_low: int, n_classes: int) -> None:
        super().__init__()
        n = n_features
        self.up1 = ConvNorm(UpConv2d(n, n))
        self.up2 = ConvNorm(UpConv2d(n, n))
        self.conv1 = ConvNorm(nn.Conv2d(n + n_low, n, 3, padding=1, bias=False))
        self.conv2 = ConvNorm(nn.Conv2d(n, n, 3, padding=1, bias=False))
        self.conv3 = nn.Conv2d(n, n, 1)
        self.up3 = ConvNorm(UpConv2d(n, n))
        self.up4 = UpConv2d(n, n_classes)

    def forward(self, x_nchw: Tensor, low_nchw: Tensor) -> Tensor:
        """(n, features, h / 16, w / 16) and (n, low, h / 4, w / 4) -> (n, classes, h, w)."""
        x_nchw = torch.cat((self.up2(self.up1(x_nchw)), low_nchw), dim=1)
        return self.up4(self.up3(self.conv3(self.conv2(self.conv1(x_nchw)))))


class DeepLabV3Plus(nn.Module):
    """image_nchw -> logits_nchw of the same height and width."""

    def __init__(self, n_channels: int, n_classes: int, width: float) -> None:
        super().__init__()
        n_features, n_low = scaled(256, width), scaled(48, width)
        self.n_channels = n_channels
        self.fast = True
        self.backbone = Xception(n_channels, width)
        self.aspp = ASPP(scaled(2048, width), n_features)
        self.low_level = ConvNorm(nn.Conv2d(scaled(128, width), n_low, 1, bias=False))
        self.decoder = Decoder(n_features, n_low, n_classes)
        for module in (*self.backbone.modules(), *self.aspp.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image_nchw: Tensor) -> Tensor:
        """(n, n_channels, h, w) -> (n, n_classes, h, w); h and w are multiples of 16, otherwise UserError."""
        check_shape(image_nchw.shape, self.n_channels, training=self.training)
        # On a CPU the pointwise and depthwise convolutions and batch norm gain most from channels-last.
        turn = self.fast and applies(image_nchw) and image_nchw.is_contiguous()
        x_nchw = image_nchw.contiguous(memory_format=torch.channels_last) if turn else image_nchw
        x_nchw, low_nchw = self.backbone(x_nchw)
        logits_nchw = self.decoder(self.aspp(x_nchw), self.low_level(low_nchw))
        return logits_nchw.contiguous() if turn else logits_nchw


def build(n_channels: int = 16, n_classes: int = 3, width: float = 1.0) -> nn.Module:
    """Return the DeepCAM network: image_nchw -> logits_nchw of the same height and width, both multiples of 16.

    `width` in (0, 1] scales the hidden channels, to multiples of 8 and at least 8, for rehearsals; 1 is the benchmark's network,
    with 56,454,720 parameters at 16 channels and 3 classes. Raises UserError for sizes that make no network.
    """
    for name, value in (("n_channels", n_channels), ("n_classes", n_classes)):
        if value < 1:
            raise UserError(f"{name}={value} makes no network; it must be at least 1")
    if not 0 < width <= 1:
        raise UserError(f"width={width} is outside (0, 1]; use 1 for the benchmark's network, 0.25 for a quick rehearsal")
    return DeepLabV3Plus(n_channels, n_classes, width)


def plain(model: nn.Module) -> nn.Module:
    """Return a copy with the same weights and every fast path off: torch's own convolutions in the input's layout, the reference."""
    reference = without_fast_paths(model)
    for part in reference.modules():
        if isinstance(part, DeepLabV3Plus):
            part.fast = False
    return reference


def scaled(n_channels: int, width: float) -> int:
    """Return the hidden channel count at this width, rounded to a multiple of 8 and at least 8; unchanged at width 1."""
    return n_channels if width == 1 else max(8, 8 * round(n_channels * width / 8))


def check_shape(shape: torch.Size, n_channels: int, *, training: bool) -> None:
    """Raise UserError unless the shape is (n, n_channels, h, w) with h and w positive multiples of 16, and can be trained on."""
    if len(shape) != 4 or shape[1] != n_channels:
        raise UserError(f"image batch of shape {tuple(shape)} does not fit the network; it must be (n, {n_channels}, height, width)")
    n, _, height, width = shape
    if height % OUTPUT_STRIDE or width % OUTPUT_STRIDE or not (height and width):
        raise UserError(
            f"image of {height} x {width} pixels does not fit the network's output stride; "
            f"crop or pad height and width to multiples of {OUTPUT_STRIDE}"
        )
    if training and n * height * width == OUTPUT_STRIDE**2:
        raise UserError(
            f"one image of {height} x {width} pixels leaves batch norm a single value to train on; use a batch of 2 or larger images"
        )
