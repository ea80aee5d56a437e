"""The cross entropies of cloud-mask training: on probabilities, as the published code has them, and on logits, as we train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

EPSILON = 1e-7
"""Keeps logarithms finite; the value that Keras uses."""


def weighted_binary_cross_entropy(beta: float) -> Callable[[Any, Any], Any]:
    """Return the loss -mean(beta y log p + (1 - y) log(1 - p)) as a function of y_true and y_pred.

    That is the weighted cross entropy of the logit of p (tf.nn.weighted_cross_entropy_with_logits with pos_weight beta);
    beta is the weight of the cloud class, and 1 gives the plain binary cross entropy.

    Both arguments have one shape, whichever: labels 0 or 1 of any type, and probabilities. The loss is a float32 scalar,
    the mean over all pixels given.
    """

    def loss(y_true: Any, y_pred: Any) -> Any:
        p = tf.clip_by_value(tf.cast(y_pred, tf.float32), EPSILON, 1 - EPSILON)
        y = tf.cast(y_true, tf.float32)
        if y.shape != p.shape:
            # a label without the channel axis would be spread over all pairs of pixels
            y = tf.reshape(y, tf.shape(p))
        return -tf.reduce_mean(beta * y * tf.math.log(p) + (1 - y) * tf.math.log1p(-p))

    return loss


def pixel_losses(label: Any, logit: Any, beta: float) -> Any:
    """Return the loss of each pixel, of the logits' shape, from labels and logits in float32.

    The same function as above, in the form that is exact for logits of any size:
    (1 - y) z + (1 + (beta - 1) y) (log(1 + exp(-|z|)) + max(-z, 0)).
    """
    return tf.nn.weighted_cross_entropy_with_logits(label, logit, beta)
