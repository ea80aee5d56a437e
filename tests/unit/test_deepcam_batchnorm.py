"""Batch norm over ranks, with real processes: a group of ranks must equal one process that has all their data."""

import copy
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stormbench.core.errors import UserError
from stormbench.deepcam.batchnorm import GroupBatchNorm2d, _replace, combine_statistics, convert

CHANNELS, EPS = 5, 1e-3
SIZES = ((2, 4, 6), (3, 4, 6), (1, 4, 6), (2, 4, 6))


def network():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS, eps=EPS, momentum=0.3), nn.ReLU(inplace=True))
    nn.init.uniform_(model[1].weight)
    nn.init.uniform_(model[1].bias)
    return model.double()


def batch(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    n, height, width = SIZES[rank]
    # a large offset, which sums of squares would not survive
    return torch.randn(n, 3, height, width, generator=generator, dtype=torch.float64) + 50.0 + rank


def train(model, ranks, steps=3):
    """Run some steps on the batches of `ranks` joined; return what the last one gave."""
    for step in range(steps):
        model.zero_grad()
        x_nchw = torch.cat([batch(rank, step) for rank in ranks]).requires_grad_()
        y_nchw = model(x_nchw)
        (y_nchw * torch.cos(torch.arange(y_nchw[0].numel()).view_as(y_nchw[0]))).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"y": y_nchw.detach(), "dx": x_nchw.grad, "grads": grads, "state": {k: v.clone() for k, v in model.state_dict().items()}}


def rank_main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    model = convert(network(), 2)
    found["kind"] = type(model[1]).__name__
    found["train"] = train(model, [rank])
    found["eval"] = model.eval()(batch(0, 9)).detach()
    cumulative = convert(nn.BatchNorm2d(3, momentum=None, affine=False).double(), 2)
    for step in range(3):
        cumulative(batch(rank, step))
    found["cumulative"] = dict(cumulative.named_buffers())
    empty = GroupBatchNorm2d(3).double()
    x_nchw = (batch(rank, 0) if rank else batch(rank, 0)[:0]).requires_grad_()
    empty(x_nchw).sum().backward()
    found["empty"] = {**dict(empty.named_buffers()), "dx": x_nchw.grad}
    found["float32"] = dict(_float32(rank))
    try:
        convert(network(), 3)
    except UserError as error:
        found["indivisible"] = str(error)
    alone = network()
    train(alone, [rank])
    found["before"] = copy.deepcopy(alone.state_dict())
    combine_statistics(nn.Sequential(alone, nn.BatchNorm2d(2, track_running_stats=False)))
    found["combined"] = alone.state_dict()
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _float32(rank):
    layer = GroupBatchNorm2d(3)
    for dtype in (torch.float32, torch.bfloat16):
        x_nchw = batch(rank, 0).to(dtype).requires_grad_()
        y_nchw = layer(x_nchw)
        y_nchw.float().square().sum().backward()
        yield str(dtype), {"y": y_nchw.detach(), "dx": x_nchw.grad, "dtype": layer.weight.grad.dtype}


def launch(world, folder):
    # ranks forked from a server that has imported torch once, and has run no threads yet
    multiprocessing.set_forkserver_preload(["torch", "stormbench.deepcam.batchnorm"])
    torch.multiprocessing.start_processes(rank_main, args=(world, folder), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launch(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory):
    return launch(4, tmp_path_factory.mktemp("four"))


def assert_equals_one_process(found, ranks):
    """The ranks' results joined are those of one process with their joined batch."""
    expected = train(network(), ranks)
    results = [found[rank]["train"] for rank in ranks]
    close(torch.cat([one["y"] for one in results]), expected["y"])
    close(torch.cat([one["dx"] for one in results]), expected["dx"])
    for name, grad in expected["grads"].items():
        close(sum(one["grads"][name] for one in results), grad)
    for one in results:
        for name, value in expected["state"].items():
            close(one["state"][name], value)


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def test_two_ranks_of_different_batch_sizes_equal_one_process_with_both_batches(two_ranks):
    assert two_ranks[0]["kind"] == "GroupBatchNorm2d"
    assert_equals_one_process(two_ranks, [0, 1])


def test_four_ranks_in_two_groups_equal_two_processes(four_ranks):
    assert_equals_one_process(four_ranks, [0, 1])
    assert_equals_one_process(four_ranks, [2, 3])
    assert not torch.equal(four_ranks[0]["train"]["state"]["1.running_mean"], four_ranks[2]["train"]["state"]["1.running_mean"])


def test_a_rank_keeps_its_own_share_of_the_gradients_of_weight_and_bias(two_ranks):
    one, other = (found["train"]["grads"]["1.weight"] for found in two_ranks)
    assert not torch.allclose(one, other)


def test_evaluation_uses_the_running_statistics_alone(two_ranks):
    model = network()
    train(model, [0, 1])
    for found in two_ranks:
        close(found["eval"], model.eval()(batch(0, 9)).detach())


def test_cumulative_averages_and_layers_without_weights_are_followed(two_ranks):
    expected = nn.BatchNorm2d(3, momentum=None, affine=False).double()
    for step in range(3):
        expected(torch.cat([batch(0, step), batch(1, step)]))
    for found in two_ranks:
        for name, value in expected.named_buffers():
            close(found["cumulative"][name], value)


def test_a_rank_with_an_empty_batch_takes_part(two_ranks):
    expected = nn.BatchNorm2d(3).double()
    expected(batch(1, 0))
    for found in two_ranks:
        close(found["empty"]["running_mean"], expected.running_mean)
        close(found["empty"]["running_var"], expected.running_var)
    assert two_ranks[0]["empty"]["dx"].shape == (0, 3, 4, 6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_float32_and_bfloat16_inputs_keep_their_type_and_sound_statistics(two_ranks, dtype, tolerance):
    reference = nn.BatchNorm2d(3).double()
    x_nchw = torch.cat([batch(0, 0), batch(1, 0)]).to(dtype).double().requires_grad_()
    expected = reference(x_nchw)
    expected.square().sum().backward()
    found = [one["float32"][str(dtype)] for one in two_ranks]
    assert {one["y"].dtype for one in found} == {one["dx"].dtype for one in found} == {dtype}
    assert {one["dtype"] for one in found} == {torch.float32}
    close(torch.cat([one["y"] for one in found]).double(), expected.detach(), tolerance)
    close(torch.cat([one["dx"] for one in found]).double(), x_nchw.grad, 20 * tolerance)


@pytest.mark.parametrize("world", ["two_ranks", "four_ranks"])
def test_combined_statistics_are_those_of_the_pooled_data(world, request):
    found = request.getfixturevalue(world)
    means = torch.stack([one["before"]["1.running_mean"] for one in found])
    variances = torch.stack([one["before"]["1.running_var"] for one in found])
    for one in found:
        close(one["combined"]["1.running_mean"], means.mean(0))
        close(one["combined"]["1.running_var"], variances.mean(0) + means.var(0, correction=0))
        assert torch.equal(one["combined"]["0.weight"], one["before"]["0.weight"])
    assert (means.var(0, correction=0) > 1e-6).all()


def test_all_ranks_hold_the_same_bits_after_combining(four_ranks):
    for name in ("1.running_mean", "1.running_var"):
        assert all(torch.equal(one["combined"][name], four_ranks[0]["combined"][name]) for one in four_ranks)


def test_a_group_size_that_does_not_divide_the_ranks_is_refused(two_ranks):
    assert "--batchnorm_group_size 3" in two_ranks[0]["indivisible"]
    assert "2 ranks" in two_ranks[0]["indivisible"]


def test_one_process_alone_takes_only_a_group_of_one():
    model = network()
    assert convert(model, 1) is model
    assert type(model[1]) is nn.BatchNorm2d
    with pytest.raises(UserError, match="1 rank "):
        convert(model, 2)
    with pytest.raises(UserError, match="at least 1"):
        convert(model, 0)


def test_combining_without_processes_changes_nothing():
    model = network()
    before = copy.deepcopy(model.state_dict())
    combine_statistics(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_conversion_keeps_tensors_settings_and_mode_of_subclasses_too():
    class Special(nn.BatchNorm2d):
        pass

    model = nn.ModuleDict({"inner": nn.Sequential(Special(4, eps=0.5, momentum=0.25))}).eval()
    old = model["inner"][0]
    made = _replace(model, None)["inner"][0]
    assert type(made) is GroupBatchNorm2d
    assert made.weight is old.weight
    assert made.running_var is old.running_var
    assert (made.eps, made.momentum, made.training) == (0.5, 0.25, False)
    assert list(nn.Sequential(made).state_dict()) == list(nn.Sequential(old).state_dict())


def test_alone_the_layer_is_plain_batch_norm():
    x_nchw = torch.randn(2, 4, 3, 3)
    plain, group = nn.BatchNorm2d(4), GroupBatchNorm2d(4)
    assert torch.equal(plain(x_nchw), group(x_nchw))
    assert torch.equal(plain.running_var, group.running_var)
