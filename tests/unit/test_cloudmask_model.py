"""The U-Net: its size, its layers, and that the faster arithmetic of training computes the same function and gradients."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from stormbench.cloudmask import network  # noqa: E402
from stormbench.cloudmask.model import raw_variables, unet  # noqa: E402


@pytest.fixture(scope="module")
def small():
    tf.keras.utils.set_random_seed(5)
    model = unet((None, None, 9), width=0.125)
    random = np.random.default_rng(0)
    # biases that are not 0, as after training
    model.set_weights([value + random.normal(0, 0.1, value.shape).astype(np.float32) for value in model.get_weights()])
    return model


def plain_logits(weights, image, dtype):
    """The network layer by layer, as the Keras model has it, in any precision."""
    weights = [tf.cast(weight, dtype) for weight in weights]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))

    def convolution(x, pair):
        return tf.nn.relu(tf.nn.conv2d(x, pair[0], 1, "SAME") + pair[1])

    x, skips = tf.cast(image, dtype), []
    for level in range(3):
        x = convolution(convolution(x, pairs[2 * level]), pairs[2 * level + 1])
        skips.append(x)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = convolution(convolution(x, pairs[6]), pairs[7])
    for number, skip in enumerate(reversed(skips)):
        x = tf.concat([tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2), skip], -1)
        x = convolution(convolution(x, pairs[8 + 2 * number]), pairs[9 + 2 * number])
    return (tf.nn.conv2d(x, pairs[-1][0], 1, "SAME") + pairs[-1][1])[..., 0]


def test_it_has_the_published_parameters_and_layers() -> None:
    model = unet((256, 256, 9))
    assert model.count_params() == 1_948_609
    assert len(model.layers) == 39
    assert model.output_shape == (None, 256, 256, 1)
    assert not any("norm" in layer.name or "dropout" in layer.name for layer in model.layers)


@pytest.mark.parametrize("shape", [(8, 8), (64, 24), (104, 256)])
def test_any_size_divisible_by_8_gives_a_probability_for_each_pixel(small, shape: tuple[int, int]) -> None:
    cloud = np.asarray(small(np.random.default_rng(1).normal(size=(2, *shape, 9)).astype(np.float32)))
    assert cloud.shape == (2, *shape, 1)
    assert 0 <= cloud.min() <= cloud.max() <= 1


def test_kernels_start_he_normal_and_biases_at_zero() -> None:
    tf.keras.utils.set_random_seed(1)
    weights = unet((None, None, 9)).get_weights()
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        fan_in = np.prod(kernel.shape[:3])
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
        assert not bias.any()


@pytest.mark.parametrize("clip", [0, 5])
def test_the_training_arithmetic_is_the_same_function(small, clip: int) -> None:
    image = np.random.default_rng(2).normal(size=(2, 32, 40, 9)).astype(np.float32)
    weights = raw_variables(small)
    expected = plain_logits(weights, image, tf.float64).numpy()
    kept = (slice(None), slice(clip, 32 - clip), slice(clip, 40 - clip))
    found = network.logits(weights, image, clip, tf.float64).numpy()
    np.testing.assert_allclose(found, expected[kept], rtol=1e-11, atol=1e-11)
    probability = np.asarray(small(image))[..., 0][kept]
    np.testing.assert_allclose(1 / (1 + np.exp(-network.logits(weights, image, clip).numpy())), probability, atol=5e-5)


def test_the_training_arithmetic_has_the_same_gradients(small) -> None:
    image = np.random.default_rng(3).normal(size=(1, 24, 16, 9))
    weights = [tf.Variable(weight, dtype=tf.float64) for weight in small.get_weights()]
    gradients = []
    for function in (network.logits, plain_logits):
        with tf.GradientTape() as tape:
            logit = function(weights, image, dtype=tf.float64)
            value = tf.reduce_sum(tf.sin(logit))
        gradients.append(tape.gradient(value, weights))
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


def test_a_transposed_convolution_is_the_convolution_of_the_up_sampled_image() -> None:
    # by hand, in one dimension's worth: kernel rows a, b, c meet rows 2i-1 to 2i+2 as c, b+c, a+b, a
    kernel = np.zeros((3, 3, 1, 1))
    kernel[:, 1, 0, 0] = 1, 10, 100
    made = network.up_kernel(tf.constant(kernel))[:, :, 0, 0].numpy()
    np.testing.assert_array_equal(made[:, 1], [100, 110, 11, 1])
    np.testing.assert_array_equal(made[:, 2], [100, 110, 11, 1])
    assert not made[:, [0, 3]].any()


def test_bfloat16_stays_near(small) -> None:
    image = np.random.default_rng(4).normal(size=(1, 32, 32, 9)).astype(np.float32)
    weights = raw_variables(small)
    exact, rough = (network.logits(weights, image, 0, dtype) for dtype in (tf.float32, tf.bfloat16))
    assert rough.dtype == tf.float32
    assert 0 < np.abs((exact - rough).numpy()).mean() < 0.1 * np.abs(exact.numpy()).mean()
