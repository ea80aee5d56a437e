"""Adam on TensorFlow's own variables, so that one code serves Keras 2 and 3, every strategy, and checkpoints to the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
"""Keras' defaults, with which the published runs were made."""
FIRST_SCALE, GROW_AFTER = 2.0**15, 2000
"""Of the loss with float16: the scale at the start, and the steps without overflow after which it doubles (Micikevicius et al. 2018)."""


class Adam:
    """Moments of `weights` and the number of updates (Kingma and Ba 2015); with `scaled`, dynamic loss scaling too.

    Make it in the strategy's scope. `apply` is traced inside the strategy's replicas, which all get the same gradients.
    """

    def __init__(self, weights: Sequence[tf.Variable], *, scaled: bool = False) -> None:
        self._weights = list(weights)
        self._first = [_like(weight, "m") for weight in weights]
        self._second = [_like(weight, "v") for weight in weights]
        self._count = tf.Variable(np.int64(0), trainable=False, name="updates")
        self._scaled = scaled
        self._scale = tf.Variable(np.float32(FIRST_SCALE if scaled else 1), trainable=False, name="loss_scale")
        self._good = tf.Variable(np.int64(0), trainable=False, name="steps_without_overflow")

    @property
    def variables(self) -> list[tf.Variable]:
        """The optimizer's whole state."""
        return [*self._first, *self._second, self._count, self._scale, self._good]

    @property
    def scale(self) -> Any:
        """The factor of the loss before its gradients are taken."""
        return _read(self._scale)

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Update the weights by gradients of the unscaled loss; with loss scaling, an overflow skips the update and halves the scale."""
        if not self._scaled:
            self._update(gradients, rate)
            return
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def update() -> Any:
            self._update(gradients, rate)
            return tf.constant(True)

        tf.cond(finite, update, lambda: tf.constant(False))
        good = tf.where(finite, _read(self._good) + 1, tf.zeros((), tf.int64))
        grows = good >= GROW_AFTER
        factor = tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5)
        _assign(self._scale, tf.maximum(_read(self._scale) * factor, 1.0))
        _assign(self._good, tf.where(grows, tf.zeros((), tf.int64), good))

    def _update(self, gradients: Sequence[Any], rate: Any) -> None:
        count = _read(self._count) + 1
        _assign(self._count, count)
        # in float64: 1 - beta_2 ** t has four digits left in float32
        t = tf.cast(count, tf.float64)
        correction = tf.sqrt(1 - tf.constant(BETA_2, tf.float64) ** t) / (1 - tf.constant(BETA_1, tf.float64) ** t)
        corrected = tf.cast(tf.cast(rate, tf.float64) * correction, tf.float32)
        for weight, m, v, gradient in zip(self._weights, self._first, self._second, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle, m=m.handle, v=v.handle, beta1_power=0.0, beta2_power=0.0, lr=corrected,
                beta1=BETA_1, beta2=BETA_2, epsilon=EPSILON, grad=gradient,
            )  # fmt: skip


def values(variables: Sequence[tf.Variable]) -> list[NDArray[Any]]:
    """Return the variables' values."""
    return [np.asarray(_local(variable).numpy()) for variable in variables]


def assign(variables: Sequence[tf.Variable], given: Sequence[NDArray[Any]]) -> None:
    """Set the variables, on all devices of this process."""
    for variable, value in zip(variables, given, strict=True):
        variable.assign(tf.constant(value, dtype=variable.dtype))


def _like(weight: tf.Variable, name: str) -> tf.Variable:
    return tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=name)


def _local(variable: tf.Variable) -> Any:
    """Return a mirrored variable's copy on the first device of this process, any other one as it is."""
    with contextlib.suppress(AttributeError):
        return variable.values[0]
    return variable


def _read(variable: tf.Variable) -> Any:
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _assign(variable: tf.Variable, value: Any) -> None:
    # by the handle: a mirrored variable's own method would have to be told how replicas agree, and they do
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
