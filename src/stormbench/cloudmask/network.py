"""The U-Net's arithmetic, from the same weights as the Keras model and to the same result, in fewer operations.

On the way up each level convolves [up-sampled, skipped]. A 3 x 3 convolution of an image up-sampled by 2 meets each of its
pixels four times, so it is a transposed convolution of the small image with a 4 x 4 kernel, the sums of neighbouring taps:
4 products instead of 9. By linearity the skipped part is convolved by itself and added. That leaves 81% of the products of
the whole network, and neither the up-sampled image nor the concatenation is ever stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from stormbench.cloudmask.model import FILTERS

LEVELS = len(FILTERS)
N_WEIGHTS = 2 * (4 * LEVELS + 3)
"""Kernel and bias of two convolutions a level on each way, two at the bottom and one at the end."""


def logits(weights: Sequence[Any], image_nhwc: Any, clip: int = 0, dtype: Any = tf.float32) -> Any:
    """Return the logit of cloud (n, h - 2 clip, w - 2 clip) for normalised images (n, h, w, 9): float32, or float64 if `dtype` is.

    Args:
        weights: kernels and biases in the order of `model.raw_variables`, float32.
        clip: pixels at each edge that are left out of the result.
        dtype: type of the arithmetic; the last convolution is never done in less than float32.
    """
    wide = dtype if dtype == tf.float64 else tf.float32
    kernels = [tf.cast(weight, wide) for weight in weights[:-2:2]]
    biases = [tf.cast(weight, dtype) for weight in weights[1:-2:2]]
    layers = iter(zip(kernels, biases, strict=True))
    x = tf.cast(image_nhwc, dtype)
    skips = []
    for _ in range(LEVELS):
        x = _convolution(x, *next(layers))
        x = _convolution(x, *next(layers))
        skips.append(x)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = _convolution(x, *next(layers))
    x = _convolution(x, *next(layers))
    for skip in reversed(skips):
        kernel, bias = next(layers)
        x = tf.nn.relu(tf.nn.bias_add(_of_both(x, skip, kernel), bias))
        x = _convolution(x, *next(layers))
    if clip:
        x = x[:, clip:-clip, clip:-clip]
    kernel, bias = (tf.cast(weight, wide) for weight in weights[-2:])
    return tf.squeeze(tf.nn.bias_add(tf.nn.conv2d(tf.cast(x, wide), kernel, 1, "VALID"), bias), -1)


def _convolution(x: Any, kernel: Any, bias: Any) -> Any:
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, tf.cast(kernel, x.dtype), 1, "SAME"), bias))


def _of_both(small: Any, skip: Any, kernel: Any) -> Any:
    """Return conv2d([up-sampled `small`, `skip`], `kernel`)."""
    n_small = small.shape[-1]
    # taps are added up before they are rounded to a shorter type
    below, beside = tf.cast(up_kernel(kernel[:, :, :n_small]), small.dtype), tf.cast(kernel[:, :, n_small:], small.dtype)
    size = tf.concat([tf.shape(skip)[:3], [kernel.shape[-1]]], 0)
    return tf.nn.conv2d_transpose(small, below, size, 2, "SAME") + tf.nn.conv2d(skip, beside, 1, "SAME")


def up_kernel(kernel_hwio: Any) -> Any:
    """Return the kernel (4, 4, out, in) whose transposed convolution by 2 is `kernel_hwio` (3, 3, in, out) after nearest up-sampling.

    A transposed convolution adds image pixel i times tap t to row 2 i + t - 1. Row r of the convolution meets image pixel i
    with the taps that lie on rows 2 i and 2 i + 1, so tap t is the sum of the original taps 2 - t and 3 - t.
    """
    padded = tf.pad(kernel_hwio, [[1, 1], [1, 1], [0, 0], [0, 0]])
    sums = padded[:-1] + padded[1:]
    sums = sums[:, :-1] + sums[:, 1:]
    return tf.transpose(tf.reverse(sums, [0, 1]), [0, 1, 3, 2])
