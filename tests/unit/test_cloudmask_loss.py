"""The losses: by hand, against TensorFlow's own, and at the ends where logarithms break."""

from __future__ import annotations

import math

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from stormbench.cloudmask.loss import pixel_losses, weighted_binary_cross_entropy  # noqa: E402


def test_four_pixels_by_hand() -> None:
    y_true, y_pred = np.array([[1, 1, 0, 0]], np.float32), np.array([[0.9, 0.2, 0.9, 0.2]], np.float32)
    expected = (-0.5 * math.log(0.9) - 0.5 * math.log(0.2) - math.log(0.1) - math.log(0.8)) / 4
    loss = weighted_binary_cross_entropy(0.5)(y_true, y_pred)
    assert loss.shape == ()
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_with_beta_1_it_is_the_binary_cross_entropy() -> None:
    random = np.random.default_rng(0)
    y_true, y_pred = random.integers(0, 2, (2, 8, 8, 1)), random.random((2, 8, 8, 1), np.float32)
    theirs = tf.keras.losses.binary_crossentropy(tf.cast(y_true, tf.float32), y_pred)
    assert float(weighted_binary_cross_entropy(1.0)(y_true, y_pred)) == pytest.approx(float(tf.reduce_mean(theirs)), rel=1e-5)


@pytest.mark.parametrize("beta", [0.25, 0.5, 3.0])
def test_it_is_the_mean_of_what_training_minimises(beta: float) -> None:
    random = np.random.default_rng(1)
    label, logit = random.integers(0, 2, (2, 5, 5)).astype(np.float32), random.normal(0, 3, (2, 5, 5)).astype(np.float32)
    on_probabilities = weighted_binary_cross_entropy(beta)(label, tf.sigmoid(logit))
    assert float(on_probabilities) == pytest.approx(float(tf.reduce_mean(pixel_losses(label, logit, beta))), rel=1e-5)


@pytest.mark.parametrize("y_pred", [0.0, 1.0])
@pytest.mark.parametrize("y_true", [0, 1])
def test_certain_predictions_have_finite_losses(y_true: int, y_pred: float) -> None:
    loss = float(weighted_binary_cross_entropy(0.5)(np.full((1, 2, 2, 1), y_true), np.full((1, 2, 2, 1), y_pred, np.float32)))
    wrong = y_true != y_pred
    assert loss == pytest.approx((0.5 if y_true else 1.0) * -math.log(1e-7), rel=0.02) if wrong else loss < 1e-6


def test_logits_of_any_size_have_finite_losses_and_gradients() -> None:
    logit = tf.Variable([-1e4, -100.0, 100.0, 1e4])
    with tf.GradientTape() as tape:
        loss = pixel_losses(tf.constant([1.0, 1.0, 0.0, 0.0]), logit, 0.5)
    np.testing.assert_allclose(loss, [5e3, 50, 100, 1e4])
    np.testing.assert_allclose(tape.gradient(loss, logit), [-0.5, -0.5, 1, 1])


def test_a_label_without_the_channel_axis_is_not_spread_over_all_pixels() -> None:
    random = np.random.default_rng(2)
    label, cloud = random.integers(0, 2, (2, 4, 4)), random.random((2, 4, 4, 1), np.float32)
    function = weighted_binary_cross_entropy(0.5)
    assert float(function(label, cloud)) == float(function(label[..., None], cloud))


def test_half_precision_predictions_are_taken_in_float32() -> None:
    loss = weighted_binary_cross_entropy(1.0)(np.ones((1, 1, 1, 1)), tf.zeros((1, 1, 1, 1), tf.float16))
    assert float(loss) == pytest.approx(-math.log(1e-7), rel=1e-3)


def test_keras_takes_it_as_a_loss() -> None:
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, activation="sigmoid")])
    model.compile(loss=weighted_binary_cross_entropy(0.5), optimizer="adam")
    history = model.fit(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32), verbose=0)
    assert math.isfinite(history.history["loss"][0])
