"""The DeepCAM network: its table of stages, sizes and parameters, its formulas, and what may be done with the module."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stormbench.core.errors import UserError
from stormbench.deepcam.layers import ASPP, Block
from stormbench.deepcam.model import build, plain

TABLE = {
    "backbone.conv1": (4_608 + 2 * 32, (32, 384, 576)),
    "backbone.conv2": (18_432 + 2 * 64, (64, 384, 576)),
    "backbone.block1": (52_800, (128, 192, 288)),
    "backbone.block2": (203_904, (256, 96, 144)),
    "backbone.block3": (1_452_480, (728, 48, 72)),
    **{f"backbone.block{i}": (1_613_976, (728, 48, 72)) for i in range(4, 20)},
    "backbone.block20": (3_097_376, (1024, 48, 72)),
    "backbone.conv3": (1_582_080 + 2 * 1536, (1536, 48, 72)),
    "backbone.conv4": (2_373_120 + 2 * 1536, (1536, 48, 72)),
    "backbone.conv5": (3_159_552 + 2 * 2048, (2048, 48, 72)),
    "aspp": (15_535_104, (256, 48, 72)),
    "low_level": (6_240, (48, 192, 288)),
    "decoder.up1": (589_824 + 2 * 256, (256, 96, 144)),
    "decoder.up2": (589_824 + 2 * 256, (256, 192, 288)),
    "decoder.conv1": (700_416 + 2 * 256, (256, 192, 288)),
    "decoder": (3_134_976, (3, 768, 1152)),
}


@pytest.fixture(scope="module")
def skeleton() -> nn.Module:
    """The full network without memory behind its weights: shapes only."""
    with torch.device("meta"):
        return build()


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(1)
    return build(n_channels=4, width=0.05)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_network_has_the_published_number_of_parameters(skeleton: nn.Module) -> None:
    assert count(skeleton) == 56_454_720


@pytest.mark.parametrize(("kind", "number"), [(nn.Conv2d, 142), (nn.ConvTranspose2d, 4), (nn.BatchNorm2d, 76)])
def test_network_has_the_published_number_of_layers(skeleton: nn.Module, kind: type[nn.Module], number: int) -> None:
    assert sum(isinstance(module, kind) for module in skeleton.modules()) == number


@pytest.mark.parametrize("stage", TABLE)
def test_stage_has_its_parameters(skeleton: nn.Module, stage: str) -> None:
    assert count(skeleton.get_submodule(stage)) == TABLE[stage][0]


def test_stages_have_their_shapes_at_full_size(skeleton: nn.Module) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = []
    for stage in TABLE:

        def keep(_module: nn.Module, _inputs: object, output: Tensor, stage: str = stage) -> None:
            shapes[stage] = tuple(output.shape[1:])

        hooks.append(skeleton.get_submodule(stage).register_forward_hook(keep))
    logits_nchw = skeleton(torch.empty(2, 16, 768, 1152, device="meta"))
    for hook in hooks:
        hook.remove()
    assert logits_nchw.shape == (2, 3, 768, 1152)
    assert shapes == {stage: shape for stage, (_, shape) in TABLE.items()}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (16, 112), (96, 32)])
def test_logits_have_the_height_and_width_of_the_image(small: nn.Module, height: int, width: int) -> None:
    assert small(torch.randn(2, 4, height, width)).shape == (2, 3, height, width)


@pytest.mark.parametrize(("n_channels", "n_classes"), [(1, 2), (7, 5)])
def test_channels_and_classes_are_free(n_channels: int, n_classes: int) -> None:
    network = build(n_channels=n_channels, n_classes=n_classes, width=0.01)
    assert network(torch.randn(1, n_channels, 32, 16)).shape == (1, n_classes, 32, 16)


@pytest.mark.parametrize("width", [0.5, 0.25, 0.05, 0.001])
def test_width_scales_the_hidden_channels_to_multiples_of_eight(width: int) -> None:
    with torch.device("meta"):
        network = build(width=width)
    hidden = {module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert min(hidden) >= 8
    assert all(channels % 8 == 0 for channels in hidden)
    assert max(hidden) == max(8, round(2048 * width / 8) * 8)


@pytest.mark.parametrize(("height", "width"), [(100, 160), (160, 100), (0, 16), (8, 8)])
def test_other_sizes_are_refused_with_the_value_and_the_fix(small: nn.Module, height: int, width: int) -> None:
    with pytest.raises(UserError, match=rf"{height} x {width} pixels.*multiples of 16"):
        small(torch.randn(1, 4, height, width))


@pytest.mark.parametrize("shape", [(1, 16, 32, 32), (4, 32, 32)])
def test_other_shapes_are_refused(small: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(n, 4, height, width\)"):
        small(torch.randn(shape))


def test_one_smallest_image_can_be_predicted_but_not_trained_on(small: nn.Module) -> None:
    image_nchw = torch.randn(1, 4, 16, 16)
    with pytest.raises(UserError, match="batch of 2"):
        small(image_nchw)
    assert small.eval()(image_nchw).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 1.5}, {"width": math.nan}, {"n_channels": 0}, {"n_classes": -1}])
def test_impossible_networks_are_refused(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        build(**wrong)


def test_backbone_and_aspp_start_kaiming_normal_and_the_decoder_as_torch() -> None:
    network = build(width=0.5)
    for weight in (network.backbone.block7.steps[1].conv.pointwise.weight, network.aspp.branches[2].conv.weight):
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
        assert weight.abs().max() > 3 * math.sqrt(2 / fan_in)
    weight = network.decoder.conv1.conv.weight
    assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(weight[0].numel()), rel=0.01)


def separable(x_nchw: Tensor, state: dict[str, Tensor], name: str, stride: int = 1) -> Tensor:
    depthwise = state[f"{name}.depthwise.weight"]
    x_nchw = F.conv2d(x_nchw, depthwise, stride=stride, padding=1, groups=len(depthwise))
    return F.conv2d(x_nchw, state[f"{name}.pointwise.weight"])


def normalise(x_nchw: Tensor) -> Tensor:
    mean, variance = x_nchw.mean((0, 2, 3), keepdim=True), x_nchw.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x_nchw - mean) / torch.sqrt(variance + 1e-5)


def test_strided_block_is_its_formula() -> None:
    block = Block(8, (16, 16), stride=2).double()
    state, x = dict(block.named_parameters()), torch.randn(2, 8, 12, 10, dtype=torch.float64)
    y = normalise(separable(x, state, "steps.0.conv"))
    y = normalise(separable(F.relu(y), state, "steps.1.conv"))
    y = separable(y, state, "tail", stride=2) + normalise(F.conv2d(x, state["skip.conv.weight"], stride=2))
    torch.testing.assert_close(block(x), F.relu(y), rtol=1e-12, atol=1e-12)


def test_middle_block_adds_its_own_input() -> None:
    block = Block(16, (16, 16, 16)).double()
    state, x = dict(block.named_parameters()), torch.randn(2, 16, 12, 10, dtype=torch.float64)
    y = normalise(separable(x, state, "steps.0.conv"))
    y = normalise(separable(F.relu(y), state, "steps.1.conv"))
    y = normalise(separable(F.relu(y), state, "steps.2.conv"))
    torch.testing.assert_close(block(x), F.relu(y + x), rtol=1e-12, atol=1e-12)


def test_aspp_joins_four_rates_and_the_mean_of_the_map() -> None:
    aspp = ASPP(8, 16).double()
    nn.init.normal_(aspp.pool.affine.weight)
    nn.init.normal_(aspp.pool.affine.bias)
    state, x = dict(aspp.named_parameters()), torch.randn(2, 8, 14, 20, dtype=torch.float64)
    maps = [normalise(F.conv2d(x, state["branches.0.conv.weight"]))]
    for i, rate in enumerate((6, 12, 18), start=1):
        maps.append(normalise(F.conv2d(x, state[f"branches.{i}.conv.weight"], padding=rate, dilation=rate)))
    pooled = F.conv2d(x.mean((2, 3), keepdim=True), state["pool.conv.weight"])
    pooled = state["pool.affine.weight"] * pooled + state["pool.affine.bias"]
    maps.append(pooled.expand_as(maps[0]))
    expected = F.relu(normalise(F.conv2d(F.relu(torch.cat(maps, dim=1)), state["merge.conv.weight"])))
    torch.testing.assert_close(aspp(x), expected, rtol=1e-11, atol=1e-11)


def test_low_level_features_are_block1_after_a_relu(small: nn.Module) -> None:
    seen: dict[str, Tensor] = {}
    small.low_level.register_forward_pre_hook(lambda _module, inputs: seen.update(low=inputs[0].clone()))
    small.backbone.block2.register_forward_pre_hook(lambda _module, inputs: seen.update(next=inputs[0].clone()))
    small(torch.randn(2, 4, 32, 32))
    assert seen["low"].min() == 0
    assert torch.equal(seen["low"], seen["next"])


def test_names_of_the_weights_say_where_they_are(small: nn.Module) -> None:
    names = set(small.state_dict())
    assert {"backbone.block4.steps.2.conv.depthwise.weight", "aspp.pool.affine.bias", "low_level.bn.running_var"} <= names


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), plain])
def test_copies_have_the_weights_but_not_their_memory(small: nn.Module, copied: object) -> None:
    twin = copied(small)  # type: ignore[operator]
    image_nchw = torch.randn(1, 4, 32, 48)
    torch.testing.assert_close(twin.eval()(image_nchw), small.eval()(image_nchw), rtol=1e-4, atol=1e-4)
    nn.init.zeros_(twin.decoder.up4.weight)
    assert small.decoder.up4.weight.any()


def test_weights_move_between_equal_networks(small: nn.Module) -> None:
    other = build(n_channels=4, width=0.05)
    other.load_state_dict(small.state_dict())
    image_nchw = torch.randn(1, 4, 32, 48)
    assert torch.equal(other.eval()(image_nchw), small.eval()(image_nchw))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_parameter_gets_a_gradient_in_every_precision(small: nn.Module, dtype: torch.dtype) -> None:
    small = small.to(dtype)
    small(torch.randn(2, 4, 32, 48, dtype=dtype)).float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in small.parameters())


def test_autocast_computes_in_half_precision_with_full_gradients(small: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_nchw = small(torch.randn(2, 4, 32, 48))
    assert logits_nchw.dtype == torch.bfloat16
    logits_nchw.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in small.parameters())


def test_network_compiles_to_one_graph_with_the_same_result(small: nn.Module) -> None:
    image_nchw = torch.randn(2, 4, 32, 48)
    small.eval()
    torch._dynamo.reset()
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image_nchw), small(image_nchw), rtol=1e-4, atol=1e-4)


def test_network_trains_under_distributed_data_parallel(small: nn.Module, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = nn.parallel.DistributedDataParallel(copy.deepcopy(small))
        image_nchw = torch.randn(2, 4, 32, 48)
        network(image_nchw).square().mean().backward()
        small(image_nchw).square().mean().backward()
        for ours, single in zip(network.module.parameters(), small.parameters(), strict=True):
            assert torch.equal(ours.grad, single.grad)
    finally:
        torch.distributed.destroy_process_group()
