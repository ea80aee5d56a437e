"""The three optimizers: Adam and AdamW as torch has them, LAMB against its formula written in NumPy."""

import copy
import io
import sys
import types

import numpy as np
import pytest
import torch

from stormbench.core.errors import UserError
from stormbench.deepcam.lamb import LAMB
from stormbench.deepcam.optim import build, describe

SHAPES = [(4, 3, 2, 2), (7,), (1,), (5, 6)]


def numpy_lamb(weights, grads_of_steps, *, lr, betas, eps, weight_decay, max_grad_norm=1.0):
    weights = [w.copy() for w in weights]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, grads in enumerate(grads_of_steps, start=1):
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        clip = norm / max_grad_norm if norm > max_grad_norm else 1.0
        for i, grad in enumerate(grads):
            g = grad / clip
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g**2
            update = (m[i] / (1 - betas[0] ** t)) / (np.sqrt(v[i] / (1 - betas[1] ** t)) + eps) + weight_decay * weights[i]
            w_norm, u_norm = np.sqrt((weights[i] ** 2).sum()), np.sqrt((update**2).sum())
            ratio = w_norm / u_norm if weight_decay != 0 and w_norm > 0 and u_norm > 0 else 1.0
            weights[i] = weights[i] - lr * ratio * update
    return weights


def values(scale, steps, seed=0, zero=()):
    generator = np.random.default_rng(seed)
    weights = [generator.normal(size=shape) * (i not in zero) for i, shape in enumerate(SHAPES)]
    return weights, [[generator.normal(size=shape) * scale for shape in SHAPES] for _ in range(steps)]


def run(optimizer, parameters, grads_of_steps):
    for grads in grads_of_steps:
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = torch.as_tensor(grad, dtype=parameter.dtype).clone()
        optimizer.step()
    return [parameter.detach().double().numpy() for parameter in parameters]


def parameters_of(weights, dtype=torch.float64):
    return [torch.tensor(w, dtype=dtype, requires_grad=True) for w in weights]


def assert_lamb_follows_the_formula(weights, grads, **options):
    options = {"lr": 0.02, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01} | options
    parameters = parameters_of(weights)
    found = run(build("LAMB", parameters, **options), parameters, grads)
    for one, other in zip(found, numpy_lamb(weights, grads, **options), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-3, 5.0], ids=["clip inactive", "clip active"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_lamb_follows_the_formula_over_several_steps(scale, weight_decay):
    assert_lamb_follows_the_formula(*values(scale, steps=6), weight_decay=weight_decay)


def test_lamb_follows_the_formula_with_other_betas_eps_and_rate():
    assert_lamb_follows_the_formula(*values(0.3, steps=4), lr=0.7, betas=(0.5, 0.9), eps=1e-2, weight_decay=0.3)
    assert_lamb_follows_the_formula(*values(0.3, steps=3), betas=(0.0, 0.0))


def test_lamb_takes_plain_steps_for_weights_that_are_zero():
    assert_lamb_follows_the_formula(*values(0.5, steps=3, zero=(1, 2)))


def test_lamb_decays_weights_whose_gradients_are_zero():
    weights, grads = values(0.5, steps=3)
    for step in grads:
        step[0] = np.zeros_like(step[0])
    assert_lamb_follows_the_formula(weights, grads)


def test_lamb_leaves_zero_weights_with_zero_gradients_at_zero():
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert (run(build("LAMB", [parameter], weight_decay=0.01), [parameter], [[np.zeros(3)]] * 2)[0] == 0).all()


def test_lamb_leaves_weights_alone_whose_update_is_zero():
    parameter = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    # the smallest number above 0: there is a weight decay, but its product with the weights is 0
    optimizer = build("LAMB", [parameter], weight_decay=5e-324)
    assert (run(optimizer, [parameter], [[np.zeros(3)]])[0] == 0.1).all()


def test_lamb_clips_by_the_norm_over_all_groups_and_leaves_the_gradients_alone():
    weights, grads = values(3.0, steps=1)
    parameters = parameters_of(weights)
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}]
    run(build("LAMB", groups, lr=0.1, weight_decay=0.01), parameters, grads)
    plain = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-6}
    with_decay, without = (numpy_lamb(weights, grads, weight_decay=decay, **plain) for decay in (0.01, 0.0))
    for found, expected in zip(parameters, with_decay[:2] + without[2:], strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    for parameter, grad in zip(parameters, grads[0], strict=True):
        assert (parameter.grad.numpy() == grad).all()


def test_lamb_follows_the_rate_that_is_set_before_each_step():
    weights, grads = values(0.2, steps=2)
    parameters = parameters_of(weights)
    optimizer = build("LAMB", parameters, lr=1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    assert all((a == b).all() for a, b in zip(run(optimizer, parameters, grads), weights, strict=True))


def test_lamb_skips_parameters_without_a_gradient():
    used, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = build("LAMB", [used, unused], lr=0.1)
    optimizer.step()
    used.grad = torch.ones(3)
    optimizer.step()
    assert (unused == 1).all()
    assert (used < 1).all()


def test_lamb_in_channels_last_memory_equals_contiguous():
    generator = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(2, 8, 4, 3, 3, generator=generator, dtype=torch.float64)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = weight.clone(memory_format=memory_format).requires_grad_()
        found.append(run(build("LAMB", [parameter], lr=0.1, weight_decay=0.01), [parameter], [[grad]] * 3)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-13)


def test_lamb_moves_float32_weights_as_float64_ones_to_rounding():
    weights, grads = values(0.5, steps=5)
    parameters = parameters_of(weights, torch.float32)
    found = run(build("LAMB", parameters, lr=0.02, weight_decay=0.01), parameters, grads)
    expected = numpy_lamb(weights, grads, lr=0.02, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_lamb_works_with_a_gradient_scaler_which_skips_infinite_gradients():
    parameter = torch.ones(4, requires_grad=True)
    optimizer = build("LAMB", [parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale((parameter * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (parameter == 1).all()
    optimizer.zero_grad()
    scaler.scale(parameter.sum() * 1e-3).backward()
    scaler.step(optimizer)
    reference = torch.ones(4, requires_grad=True)
    run(build("LAMB", [reference], lr=0.1), [reference], [[np.full(4, 1e-3)]])
    torch.testing.assert_close(parameter, reference)


def test_lamb_refuses_half_precision_parameters_and_sparse_gradients():
    with pytest.raises(UserError, match="float16"):
        build("LAMB", [torch.zeros(2, dtype=torch.float16, requires_grad=True)])
    parameter = torch.ones(3, requires_grad=True)
    optimizer = build("LAMB", [parameter])
    parameter.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    with pytest.raises(UserError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "LAMB"])
def test_a_saved_state_continues_to_the_same_bits(name):
    weights, grads = values(0.5, steps=6)
    unbroken = parameters_of(weights, torch.float32)
    run(build(name, unbroken, lr=0.01, weight_decay=0.01), unbroken, grads)

    first = parameters_of(weights, torch.float32)
    optimizer = build(name, first, lr=0.01, weight_decay=0.01)
    run(optimizer, first, grads[:3])
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    second = [parameter.detach().clone().requires_grad_() for parameter in first]
    resumed = build(name, second, lr=0.5)
    stream.seek(0)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    run(resumed, second, grads[3:])
    assert all(torch.equal(a, b) for a, b in zip(second, unbroken, strict=True))


@pytest.mark.parametrize(("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_and_adamw_are_fused_and_do_what_torch_does_unfused(name, kind, dtype):
    weights, grads = values(0.5, steps=4)
    options = {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}
    found, expected = parameters_of(weights, dtype), parameters_of(weights, dtype)
    optimizer = build(name, found, **options)
    assert type(optimizer) is kind
    assert describe(optimizer) == f"torch {name} fused"
    run(optimizer, found, grads)
    run(kind(expected, eps=1e-6, fused=False, foreach=False, **options), expected, grads)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)


def test_weight_decay_is_l2_for_adam_and_decoupled_for_adamw():
    steps = {}
    for name in ("Adam", "AdamW"):
        parameter = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
        run(build(name, [parameter], lr=0.1, weight_decay=0.5), [parameter], [[np.zeros(1)]])
        steps[name] = 2.0 - float(parameter.detach())
    assert steps["Adam"] == pytest.approx(0.1, rel=1e-5)
    assert steps["AdamW"] == pytest.approx(0.1 * 0.5 * 2.0, rel=1e-12)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "LAMB"])
def test_eps_is_1e_6_and_parameters_may_be_a_generator(name):
    model = torch.nn.Linear(3, 2)
    optimizer = build(name, (parameter for parameter in model.parameters()), lr=0.1)
    assert [group["eps"] for group in optimizer.param_groups] == [1e-6]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_parameters_that_no_fused_kernel_takes_get_the_default_implementation():
    parameter = torch.zeros(2, device="meta", requires_grad=True)
    assert describe(build("AdamW", [parameter])) == "torch AdamW"


def test_lamb_on_a_cpu_is_our_own_even_where_a_package_named_apex_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    optimizer = build("LAMB", [torch.zeros(2, requires_grad=True)])
    assert type(optimizer) is LAMB
    assert describe(optimizer) == "stormbench LAMB"
    assert optimizer.param_groups[0]["max_grad_norm"] == 1.0


@pytest.mark.parametrize(("name", "near"), [("lamb", ""), ("FusedLAMB", "LAMB"), ("adamW", "AdamW"), ("SGD", "")])
def test_an_unknown_name_is_refused_with_the_known_ones(name, near):
    with pytest.raises(UserError) as caught:
        build(name, [torch.zeros(1, requires_grad=True)])
    assert repr(name) in str(caught.value)
    assert "Adam, AdamW, LAMB" in str(caught.value)
    assert str(caught.value).endswith(f"did you mean {near}?") or not near


@pytest.mark.parametrize("name", ["Adam", "AdamW", "LAMB"])
@pytest.mark.parametrize(
    ("bad", "named"),
    [({"lr": -1.0}, "learning rate -1"), ({"lr": float("nan")}, "nan"), ({"betas": (0.9, 1.0)}, "1.0"), ({"weight_decay": -0.1}, "-0.1")],
)
def test_values_outside_their_limits_are_refused(name, bad, named):
    with pytest.raises(UserError, match=named):
        build(name, [torch.zeros(1, requires_grad=True)], **bad)


def test_an_optimizer_can_be_copied():
    parameter = torch.ones(2, requires_grad=True)
    optimizer = build("LAMB", [parameter])
    run(optimizer, [parameter], [[np.ones(2)]])
    assert copy.deepcopy(optimizer).state_dict()["param_groups"][0]["step"] == 1
