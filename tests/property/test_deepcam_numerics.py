"""Invariants of loss, metric, schedule and LAMB that hold for every input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.deepcam.loss import weighted_cross_entropy
from stormbench.deepcam.metric import IoU, class_iou, confusion, iou
from stormbench.deepcam.optim import build
from stormbench.deepcam.schedule import learning_rate, parse, parse_milestones

SEED = st.integers(0, 2**32 - 1)
milestone_sets = st.lists(st.integers(1, 200), max_size=5, unique=True).map(sorted)


def frames(seed, n, n_classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, n_classes, (2, n, 5, 7), generator=generator)


@given(SEED, st.lists(st.integers(0, 3), min_size=1, max_size=4), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_iou_is_the_same_to_the_last_bit_however_samples_are_spread_over_ranks(seed, spread, random):
    n = 12
    prediction_nhw, label_nhw = frames(seed, n)
    whole = IoU()
    whole.update(prediction_nhw, label_nhw)
    order = list(range(n))
    random.shuffle(order)
    ranks = [IoU() for _ in range(len(spread))]
    while order:
        for rank, size in zip(ranks, spread, strict=True):
            take, order = order[: size + 1], order[size + 1 :]
            if take:
                rank.update(prediction_nhw[take], label_nhw[take])
    total = torch.stack([rank.state() for rank in ranks]).sum(0)
    assert IoU.from_state(total).result() == whole.result()


@given(SEED, st.integers(1, 4), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_the_iou_is_symmetric_bounded_and_equals_the_count_of_masks(seed, n, n_classes):
    prediction_nhw, label_nhw = frames(seed, n, n_classes)
    expected = 0.0
    for prediction_hw, label_hw in zip(prediction_nhw, label_nhw, strict=True):
        for c in range(n_classes):
            union = int(((prediction_hw == c) | (label_hw == c)).sum())
            expected += int(((prediction_hw == c) & (label_hw == c)).sum()) / union if union else 1.0
    found = iou(prediction_nhw, label_nhw, n_classes)
    assert found == pytest.approx(expected / n / n_classes, rel=1e-14)
    assert found == pytest.approx(iou(label_nhw, prediction_nhw, n_classes), rel=1e-14)
    assert 0 <= found <= 1
    assert int(confusion(prediction_nhw, label_nhw, n_classes).sum()) == label_nhw.numel()
    assert ((class_iou(confusion(label_nhw, label_nhw, n_classes))) == 1).all()


@given(SEED, st.floats(-1e3, 1e3))
@settings(max_examples=40, deadline=None)
def test_the_loss_ignores_an_offset_of_all_logits_and_is_the_mean_of_the_samples(seed, offset):
    generator = torch.Generator().manual_seed(seed)
    logits_nchw = torch.randn(3, 3, 4, 5, generator=generator, dtype=torch.float64)
    label_nhw = torch.randint(0, 3, (3, 4, 5), generator=generator)
    whole = float(weighted_cross_entropy(logits_nchw, label_nhw))
    assert whole > 0
    assert float(weighted_cross_entropy(logits_nchw + offset, label_nhw)) == pytest.approx(whole, rel=1e-11)
    each = [float(weighted_cross_entropy(logits_nchw[i : i + 1], label_nhw[i : i + 1])) for i in range(3)]
    assert sum(each) / 3 == pytest.approx(whole, rel=1e-13)


@given(st.integers(1, 500), st.floats(1e-6, 1.0), st.floats(1.0, 64.0))
@settings(deadline=None)
def test_warmup_rises_to_the_target_which_its_last_step_uses_exactly(warmup_steps, start_lr, factor):
    rates = [learning_rate(step, start_lr, warmup_steps=warmup_steps, warmup_factor=factor) for step in range(warmup_steps + 2)]
    assert rates[warmup_steps - 1] == rates[warmup_steps] == rates[warmup_steps + 1] == factor * start_lr
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in itertools.pairwise(rates))
    assert all(rate > 0 for rate in rates)


@given(st.integers(0, 300), st.integers(0, 50), milestone_sets, st.floats(0.01, 1.0))
@settings(deadline=None)
def test_multistep_decays_once_for_each_milestone_passed(step, warmup_steps, milestones, decay):
    assume(step >= warmup_steps)
    passed = len([m for m in milestones if warmup_steps + m <= step])
    found = learning_rate(step, 1.0, "multistep", warmup_steps=warmup_steps, milestones=milestones, decay_rate=decay)
    assert found == pytest.approx(decay**passed, rel=1e-12)


@given(st.integers(0, 5000), st.integers(1, 700), st.floats(0, 0.5))
@settings(deadline=None)
def test_cosine_stays_between_its_ends_and_repeats_after_two_half_periods(step, t_max, eta_min):
    found = learning_rate(step, 0.5, "cosine_annealing", t_max=t_max, eta_min=eta_min)
    assert eta_min - 1e-12 <= found <= 0.5 + 1e-12
    assert found == pytest.approx(learning_rate(step + 2 * t_max, 0.5, "cosine_annealing", t_max=t_max, eta_min=eta_min), abs=1e-9)


@given(milestone_sets, st.floats(0.001, 1.0), st.sampled_from([" ", ":", ": ", "  "]), st.sampled_from(['"', "'", ""]))
@settings(deadline=None)
def test_what_is_written_as_a_schedule_is_read_back(milestones, decay, separator, quote):
    values = {"type": "multistep", "milestones": separator.join(map(str, milestones)), "decay_rate": repr(decay)}
    found = parse(",".join(f"{key}={quote}{value}{quote}" for key, value in values.items()))
    assert (found.milestones, found.decay_rate) == (tuple(milestones), decay)


@given(st.one_of(st.text(max_size=60), st.text(alphabet="typemilsonc=_,\"' 019.-:", max_size=60)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_schedule_or_a_user_error(text):
    for read in (parse, parse_milestones):
        try:
            read(text)
        except UserError as error:
            assert str(error)


@given(SEED, st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_with_decay_a_lamb_step_changes_each_tensor_by_the_rate_times_its_norm(seed, scale):
    generator = np.random.default_rng(seed)
    parameters = [torch.tensor(generator.normal(size=shape) * scale, requires_grad=True) for shape in ((3, 4), (5,))]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = build("LAMB", parameters, lr=0.01, weight_decay=0.01)
    for parameter in parameters:
        parameter.grad = torch.tensor(generator.normal(size=parameter.shape))
    optimizer.step()
    for parameter, old in zip(parameters, before, strict=True):
        assert float((parameter.detach() - old).norm()) == pytest.approx(0.01 * float(old.norm()), rel=1e-9)


@given(SEED, st.floats(2.0, 1e6))
@settings(max_examples=30, deadline=None)
def test_above_the_clipping_norm_the_size_of_the_gradients_makes_no_difference(seed, factor):
    generator = np.random.default_rng(seed)
    weight, grad = generator.normal(size=(2, 6))
    grad /= math.sqrt((grad**2).sum()) / 1.5
    found = []
    for scale in (1.0, factor):
        parameter = torch.tensor(weight, requires_grad=True)
        optimizer = build("LAMB", [parameter], lr=0.1, weight_decay=0.01)
        parameter.grad = torch.tensor(grad * scale)
        optimizer.step()
        found.append(parameter.detach().numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
