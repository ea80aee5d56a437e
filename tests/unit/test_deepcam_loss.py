"""The class-weighted cross entropy, against its formula in NumPy."""

import numpy as np
import pytest
import torch

from stormbench.deepcam import loss
from stormbench.deepcam.loss import CLASS_FREQUENCIES, CLASS_NAMES, class_weights, weighted_cross_entropy
from stormbench.deepcam.metric import LabelError


def sample(dtype=torch.float64, n=2, height=5, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits_nchw = torch.randn(n, 3, height, width, generator=generator, dtype=torch.float64).to(dtype)
    return logits_nchw, torch.randint(0, 3, (n, height, width), generator=generator)


def by_formula(logits_nchw, label_nhw, weights):
    x = logits_nchw.double().numpy()
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    picked = np.take_along_axis(log_p, label_nhw.numpy()[:, None].astype(np.int64), 1)[:, 0]
    return -(np.asarray(weights)[label_nhw.numpy()] * picked).mean()


def test_the_weights_are_the_published_frequencies_to_the_power_minus_an_eighth():
    assert class_weights() == pytest.approx([f ** (-1 / 8) for f in CLASS_FREQUENCIES], rel=1e-15)
    assert dict(zip(CLASS_NAMES, (round(w, 3) for w in class_weights()), strict=True)) == {
        "background": 1.002, "tropical cyclone": 2.615, "atmospheric river": 1.716,
    }  # fmt: skip


def test_it_is_the_mean_over_all_pixels_not_over_their_weights():
    logits_nchw, label_nhw = sample()
    found = weighted_cross_entropy(logits_nchw, label_nhw)
    assert found.shape == ()
    assert float(found) == pytest.approx(by_formula(logits_nchw, label_nhw, class_weights()), rel=1e-14)
    torch_mean = torch.nn.functional.cross_entropy(logits_nchw, label_nhw, torch.tensor(class_weights(), dtype=torch.float64))
    assert float(found) > 1.3 * float(torch_mean)


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes_times_the_weight():
    label_nhw = torch.full((1, 4, 4), 1)
    assert float(weighted_cross_entropy(torch.zeros(1, 3, 4, 4), label_nhw)) == pytest.approx(np.log(3) * class_weights()[1], rel=1e-6)


def test_other_weights_may_be_given_for_any_number_of_classes():
    logits_nchw, label_nhw = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randint(0, 5, (2, 3, 4))
    weights = [0.5, 1.0, 2.0, 3.0, 0.0]
    expected = by_formula(logits_nchw, label_nhw, weights)
    assert float(weighted_cross_entropy(logits_nchw, label_nhw, weights)) == pytest.approx(expected, rel=1e-14)
    assert float(weighted_cross_entropy(logits_nchw, label_nhw, torch.tensor(weights))) == pytest.approx(expected, rel=1e-14)


def test_the_gradient_is_that_of_the_formula():
    logits_nchw, label_nhw = sample(n=1, height=2, width=3)
    logits_nchw.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_cross_entropy(x, label_nhw), logits_nchw)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_labels_may_have_any_integer_type(dtype):
    logits_nchw, label_nhw = sample()
    assert weighted_cross_entropy(logits_nchw, label_nhw.to(dtype)) == weighted_cross_entropy(logits_nchw, label_nhw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits_nchw, label_nhw = sample(dtype)
    found = weighted_cross_entropy(logits_nchw, label_nhw)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(by_formula(logits_nchw, label_nhw, class_weights()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_does_not_lower_the_precision(dtype):
    logits_nchw, label_nhw = sample(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = weighted_cross_entropy(logits_nchw, label_nhw)
    assert found.dtype == dtype
    assert found == weighted_cross_entropy(logits_nchw, label_nhw)


def test_channels_last_logits_give_the_same_loss_and_gradient():
    logits_nchw, label_nhw = sample()
    found, grads = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = logits_nchw.clone(memory_format=memory_format).requires_grad_()
        value = weighted_cross_entropy(x, label_nhw)
        value.backward()
        found.append(float(value.detach()))
        grads.append(x.grad)
    assert found[0] == pytest.approx(found[1], rel=1e-15)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-14, atol=0)


def test_training_works_after_validation_in_inference_mode():
    logits_nchw, label_nhw = sample(torch.float32)
    loss._published_weights.cache_clear()
    with torch.inference_mode():
        weighted_cross_entropy(logits_nchw.clone(), label_nhw)
    weighted_cross_entropy(logits_nchw.requires_grad_(), label_nhw).backward()
    assert logits_nchw.grad.abs().sum() > 0


@pytest.mark.parametrize("label", [3, 255, -1, -100])
def test_a_label_that_is_no_class_is_refused(label):
    logits_nchw, label_nhw = sample()
    label_nhw[0, 0, 0] = label
    with pytest.raises(LabelError, match=rf"{label}.*3 classes, 0 to 2"):
        weighted_cross_entropy(logits_nchw, label_nhw)


def test_shapes_types_and_numbers_of_weights_that_do_not_fit_are_refused():
    logits_nchw, label_nhw = sample()
    with pytest.raises(LabelError, match=r"\(2, 5, 6\).*\(2, 5, 7\)"):
        weighted_cross_entropy(logits_nchw, label_nhw[..., :-1])
    with pytest.raises(LabelError, match=r"\(n, c, h, w\)"):
        weighted_cross_entropy(logits_nchw[0], label_nhw[0])
    with pytest.raises(LabelError, match="integer"):
        weighted_cross_entropy(logits_nchw, label_nhw.double())
    with pytest.raises(LabelError, match="2 class weights for 3 classes"):
        weighted_cross_entropy(logits_nchw, label_nhw, [1.0, 2.0])
    with pytest.raises(LabelError, match="3 class weights for 4 classes"):
        weighted_cross_entropy(torch.zeros(2, 4, 5, 7), label_nhw)
