"""The cloud-mask U-Net as a Keras model: 39 layers and 1,948,609 parameters, for images of any size divisible by 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

FILTERS = (32, 64, 128)
BOTTLENECK = 256


def unet(input_shape: Sequence[int | None], width: float = 1.0) -> Any:
    """Return the network as a keras.Model: (h, w, 9) -> (h, w, 1), the probability of cloud.

    Two 3 x 3 convolutions with ReLU a level (32, 64, 128 filters; 256 at the bottom), max-pooling by 2 between them on the
    way down; nearest up-sampling by 2 and concatenation [up-sampled, skipped] on the way up; at the end one 1 x 1 convolution
    with a sigmoid (Ronneberger et al. 2015, as published for this benchmark). Kernels start He-normal, biases at 0.

    Args:
        input_shape: height, width and channels; None for height and width takes images of any size.
        width: scales the filters, for rehearsals.
    """
    keras = tf.keras
    filters = [max(1, round(count * width)) for count in FILTERS]
    image = keras.Input(shape=tuple(input_shape), name="image")
    x = image
    skips = []
    for level, count in enumerate(filters):
        x = _convolution(x, count, f"down{level}_conv1")
        x = _convolution(x, count, f"down{level}_conv2")
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
    bottom = max(1, round(BOTTLENECK * width))
    x = _convolution(x, bottom, "bottom_conv1")
    x = _convolution(x, bottom, "bottom_conv2")
    for level in reversed(range(len(filters))):
        x = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}_sample")(x)
        x = keras.layers.Concatenate(axis=-1, name=f"up{level}_concatenate")([x, skips[level]])
        x = _convolution(x, filters[level], f"up{level}_conv1")
        x = _convolution(x, filters[level], f"up{level}_conv2")
    cloud = keras.layers.Conv2D(1, 1, padding="same", activation="sigmoid", kernel_initializer="he_normal", name="cloud")(x)
    return keras.Model(image, cloud, name="cloudmask_unet")


def raw_variables(model: Any) -> list[tf.Variable]:
    """Return the model's weights as TensorFlow's variables, kernel and bias of each convolution in order.

    Keras 3 wraps them, and neither Horovod nor TensorFlow's operations take the wrappers.
    """
    return [weight if isinstance(weight, tf.Variable) else weight.value for weight in model.trainable_variables]


def _convolution(x: Any, filters: int, name: str) -> Any:
    keras = tf.keras
    x = keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=name)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
