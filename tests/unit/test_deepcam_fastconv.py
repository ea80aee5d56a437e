"""The fast paths on a CPU compute the function of torch's convolutions: outputs, gradients and running statistics."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stormbench.deepcam.fastconv import DilatedConv2d, PointwiseConv2d, StridedPointwiseConv2d, UpConv2d, applies, without_fast_paths
from stormbench.deepcam.model import build, plain

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def difference(ours: Tensor, theirs: Tensor, scale: float = 0.0) -> float:
    """The largest difference relative to the largest value, or to `scale` where that is larger."""
    return ((ours - theirs).abs().max() / max(theirs.abs().max().item(), scale)).item()


def assert_same(layer: nn.Module, x_nchw: Tensor) -> None:
    """Outputs, input gradient and weight gradient of the layer are those of torch's own class, to 1e-12."""
    stock = without_fast_paths(layer)
    assert type(stock) in (nn.Conv2d, nn.ConvTranspose2d)
    layer.zero_grad()
    ours_nchw, theirs_nchw = x_nchw.clone().requires_grad_(), x_nchw.clone().requires_grad_()
    ours, theirs = layer(ours_nchw), stock(theirs_nchw)
    gradient = torch.randn_like(theirs)
    ours.backward(gradient)
    theirs.backward(gradient)
    assert difference(ours, theirs) < 1e-12
    assert difference(ours_nchw.grad, theirs_nchw.grad) < 1e-12
    assert difference(layer.weight.grad, stock.weight.grad) < 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(12, 18), (1, 1), (5, 40), (40, 5), (6, 7), (19, 13)])
@pytest.mark.parametrize("rate", [6, 12, 18])
def test_dilated_convolution_is_torchs(
    rate: int, height: int, width: int, layout: torch.memory_format, weight_layout: torch.memory_format
) -> None:
    # 3 channels make weights smaller than the map, 64 larger: the two ways differ
    for n_in in (3, 64):
        layer = DilatedConv2d(n_in, 8, rate).double().to(memory_format=weight_layout)
        assert_same(layer, torch.randn(2, n_in, height, width, dtype=torch.float64).contiguous(memory_format=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n_in", "n_out"), [(8, 8), (40, 24)])
def test_pointwise_convolution_is_torchs(n_in: int, n_out: int, layout: torch.memory_format) -> None:
    layer = PointwiseConv2d(n_in, n_out).double()
    for height, width in ((1, 1), (3, 5), (12, 18)):
        assert_same(layer, torch.randn(2, n_in, height, width, dtype=torch.float64).contiguous(memory_format=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (12, 18), (5, 3)])
def test_transposed_convolution_is_torchs(
    height: int, width: int, layout: torch.memory_format, weight_layout: torch.memory_format
) -> None:
    layer = UpConv2d(6, 4).double().to(memory_format=weight_layout)
    assert_same(layer, torch.randn(3, 6, height, width, dtype=torch.float64).contiguous(memory_format=layout))


def test_a_given_output_size_is_honoured() -> None:
    layer = UpConv2d(2, 2)
    assert layer(torch.randn(1, 2, 4, 4), output_size=[7, 8]).shape == (1, 2, 7, 8)


def test_taps_beyond_the_map_get_an_exact_zero_gradient() -> None:
    layer = DilatedConv2d(3, 4, 12)
    layer(torch.randn(1, 3, 12, 18)).square().sum().backward()
    assert layer.weight.grad.shape == (4, 3, 3, 3)
    assert layer.weight.grad[:, :, [0, 2]].count_nonzero() == 0
    assert layer.weight.grad[:, :, 1].count_nonzero() == 4 * 3 * 3


def train_step(network: nn.Module, image_nchw: Tensor) -> Tensor:
    logits_nchw = network(image_nchw)
    label_nhw = torch.arange(image_nchw[:, 0].numel()).reshape(image_nchw[:, 0].shape) % 3
    F.cross_entropy(logits_nchw, label_nhw).backward()
    return logits_nchw.detach()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(48, 80), (96, 144)])
def test_network_is_torchs_in_outputs_gradients_and_statistics(height: int, width: int, layout: torch.memory_format) -> None:
    torch.manual_seed(3)
    network = build(width=0.25).double()
    reference = plain(network)
    image_nchw = torch.randn(2, 16, height, width, dtype=torch.float64)
    ours = train_step(network, image_nchw.contiguous(memory_format=layout))
    theirs = train_step(reference, image_nchw)
    assert difference(ours, theirs) < 1e-12
    largest = max(parameter.grad.abs().max().item() for parameter in reference.parameters())
    for (name, ours), theirs in zip(network.named_parameters(), reference.parameters(), strict=True):
        # batch norm after the pooled branch cancels part of its gradient, so tiny gradients are held to the scale of the largest
        assert difference(ours.grad, theirs.grad, scale=1e-3 * largest) < 1e-12, name
    for (name, ours), theirs in zip(network.named_buffers(), reference.buffers(), strict=True):
        assert difference(ours.double(), theirs.double()) < 1e-12, name


def test_logits_keep_the_layout_of_the_image() -> None:
    network = build(n_channels=4, width=0.05)
    image_nchw = torch.randn(2, 4, 32, 48)
    assert network(image_nchw).is_contiguous()
    channels_last = network(image_nchw.contiguous(memory_format=torch.channels_last))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)


def test_no_layer_leaves_the_channels_last_layout() -> None:
    network = build(n_channels=4, width=0.05)
    kinds = (nn.BatchNorm2d, nn.ConvTranspose2d)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    wrong = []
    for name, module in layers.items():

        def look(_module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            if not inputs[0].is_contiguous(memory_format=torch.channels_last):
                wrong.append(name)

        module.register_forward_pre_hook(look)
    network(torch.randn(2, 4, 32, 48))
    # the dilated branches of ASPP run contiguous on small maps
    assert [name for name in wrong if not name.startswith("aspp.branches")] == []


def test_prediction_is_torchs() -> None:
    torch.manual_seed(5)
    network = build(n_channels=4, width=0.25).double().eval()
    image_nchw = torch.randn(1, 4, 96, 144, dtype=torch.float64)
    with torch.inference_mode():
        assert difference(network(image_nchw), plain(network)(image_nchw)) < 1e-12


def test_fast_paths_step_aside_under_autocast() -> None:
    network = build(n_channels=4, width=0.25)
    image_nchw = torch.randn(2, 4, 32, 48)
    reference = plain(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not applies(image_nchw)
        assert torch.equal(network(image_nchw), reference(image_nchw))


NARROW_BFLOAT16 = """
import torch
from stormbench.deepcam.model import build
network = build(n_channels=4, width=0.05).to(memory_format=torch.channels_last)
image_nchw = torch.randn(1, 4, 32, 48).contiguous(memory_format=torch.channels_last)
for _ in range(10):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_nchw = network(image_nchw)
    logits_nchw.float().square().mean().backward()
"""


def test_narrow_network_survives_bfloat16_channels_last() -> None:
    run = subprocess.run([sys.executable, "-c", NARROW_BFLOAT16], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_strided_pointwise_convolution_is_torchs_in_bfloat16() -> None:
    layer = StridedPointwiseConv2d(16, 8, 2)
    x_nchw = torch.randn(2, 16, 8, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x_nchw), without_fast_paths(layer)(x_nchw))


def test_fast_paths_step_aside_on_other_devices_and_types() -> None:
    assert applies(torch.empty(1))
    assert not applies(torch.empty(1, dtype=torch.bfloat16))
    assert not applies(torch.empty(1, device="meta"))


def test_fast_paths_step_aside_under_compile() -> None:
    torch._dynamo.reset()
    seen = []

    @torch.compile(backend="eager", fullgraph=True)
    def look(x: Tensor) -> Tensor:
        seen.append(applies(x))
        return x + 1

    look(torch.ones(2))
    assert seen == [False]


def test_plain_leaves_the_network_as_it_was() -> None:
    network = build(n_channels=4, width=0.05)
    before = copy.deepcopy(network.state_dict())
    plain(network)
    assert isinstance(network.decoder.up1.conv, UpConv2d)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    own = (UpConv2d, DilatedConv2d, PointwiseConv2d, StridedPointwiseConv2d)
    assert not any(isinstance(module, own) for module in plain(network).modules())
