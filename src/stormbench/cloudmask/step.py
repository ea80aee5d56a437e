"""One training step and one scoring step as TensorFlow runs them: gradients of the summed loss, added up over all ranks, then Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from stormbench.cloudmask import metrics, network
from stormbench.cloudmask.adam import Adam
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.loss import pixel_losses
from stormbench.cloudmask.patches import LABEL, N_CHANNELS, VALID
from stormbench.cloudmask.ranks import World

COMPUTE_TYPES = {"fp32": tf.float32, "bf16": tf.bfloat16, "mixed": tf.float16}


class Steps:
    """The compiled steps of this process. Batches are lists with one (image, bits, day) for each of its devices:

    images (n, size, size, 9), mask bits (n, size, size) and 1 for day, 0 for night (n); n may differ.
    """

    def __init__(self, config: TrainConfig, world: World, weights: Sequence[tf.Variable], adam: Adam) -> None:
        self._config, self._world, self._weights, self._adam = config, world, list(weights), adam
        self._dtype = COMPUTE_TYPES[config.precision]
        # of the size of the mean's divisor, so that gradients are neither tiny nor huge before that is known
        self._typical = float(config.batch_size * world.size * config.kept_pixels)
        self._gradients = tf.function(self._gradients_of, jit_compile=True, autograph=False) if config.xla else self._gradients_of
        self._scores = tf.function(self._scores_of, jit_compile=True, autograph=False) if config.xla else self._scores_of
        size = config.patch_size
        batch = [
            tf.TensorSpec((None, size, size, N_CHANNELS), tf.float32),
            tf.TensorSpec((None, size, size), tf.uint8),
            tf.TensorSpec((None,), tf.uint8),
        ]
        self.train = world.compiled(self._train, batch, [tf.TensorSpec((), tf.float32), tf.TensorSpec((2,), tf.float32)])
        """train(batches, rate, flags): one update; returns for each device the same vector, scores then flags, summed over all ranks."""
        self.score = world.compiled(self._scores, batch, [])
        """score(batches): returns each device's own vector of scores."""

    def _train(self, image_nhwc: Any, bits_nhw: Any, day_n: Any, rate: Any, flags: Any) -> Any:
        scale = self._adam.scale
        gradients, scores = self._gradients(image_nhwc, bits_nhw, day_n, scale / self._typical)
        # what the ranks have to tell each other rides along, so that a step has one exchange
        *summed, told = self._world.add_up([*gradients, tf.concat([scores, flags], 0)])
        valid = tf.reduce_sum(told[1 : metrics.SIZE])
        factor = self._typical / (tf.maximum(valid, 1.0) * scale)
        self._adam.apply([gradient * factor for gradient in summed], rate)
        return told

    def _gradients_of(self, image_nhwc: Any, bits_nhw: Any, day_n: Any, factor: Any) -> tuple[list[Any], Any]:
        """Return the gradients of factor x summed loss, and the batch's scores."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._weights)
            objective, scores = self._measure(image_nhwc, bits_nhw, day_n, factor)
        return tape.gradient(objective, self._weights), scores

    def _scores_of(self, image_nhwc: Any, bits_nhw: Any, day_n: Any) -> Any:
        return self._measure(image_nhwc, bits_nhw, day_n, 1.0)[1]

    def _measure(self, image_nhwc: Any, bits_nhw: Any, day_n: Any, factor: Any) -> tuple[Any, Any]:
        clip = self._config.clip_offset
        logit_nhw = network.logits(self._weights, image_nhwc, clip, self._dtype)
        if clip:
            bits_nhw = bits_nhw[:, clip:-clip, clip:-clip]
        label_nhw = tf.cast(tf.bitwise.bitwise_and(bits_nhw, LABEL) > 0, tf.float32)
        valid_nhw = tf.cast(tf.bitwise.bitwise_and(bits_nhw, VALID) > 0, tf.float32)
        loss_sum = tf.reduce_sum(valid_nhw * pixel_losses(label_nhw, logit_nhw, self._config.beta))
        return loss_sum * factor, tf.concat([[loss_sum], _counts(label_nhw, valid_nhw, logit_nhw, day_n)], 0)


def _counts(label_nhw: Any, valid_nhw: Any, logit_nhw: Any, day_n: Any) -> Any:
    """Return the valid pixels as [time of day][label][prediction], flat; cloud is predicted from probability 0.5 on."""
    predicted_nhw = tf.cast(logit_nhw >= 0, tf.float32)
    cloud_nhw = valid_nhw * label_nhw
    # per patch, then by time of day: exact in float32 up to 4096 x 4096 pixels a patch and day's sum
    valid_n, cloud_n, predicted_n, hit_n = (
        tf.reduce_sum(part_nhw, (1, 2)) for part_nhw in (valid_nhw, cloud_nhw, valid_nhw * predicted_nhw, cloud_nhw * predicted_nhw)
    )
    counts_n22 = tf.stack([valid_n - cloud_n - predicted_n + hit_n, predicted_n - hit_n, cloud_n - hit_n, hit_n], 1)
    daylight_n1 = tf.cast(day_n, tf.float32)[:, None]
    return tf.concat([tf.reduce_sum(counts_n22 * (1 - daylight_n1), 0), tf.reduce_sum(counts_n22 * daylight_n1, 0)], 0)
