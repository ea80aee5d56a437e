"""The trained network, applied to frames: whole where memory allows, else in windows that give the same mask."""

from __future__ import annotations

import contextlib
import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import host, tiling
from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.patches import N_CHANNELS
from stormbench.core.errors import RunError, UserError
from stormbench.core.launch import Launch
from stormbench.core.memory import available_bytes
from stormbench.core.progress import say

BYTES_PER_PIXEL = 1400
"""Memory that the network takes at its peak for each pixel in float32 on the CPU, with what the allocator keeps."""
SHARE = 0.7
"""The part of the available memory that a frame may take."""
EDGES = (1024, 768, 512, 384, 256, 128, 64)
"""Pixels of the windows tried where a whole frame is too much, largest first: the halo costs least in those."""
AUTO, WHOLE = "auto", "whole"
N_WEIGHTS = 30
"""Kernel and bias of 15 convolutions: two at each of three levels on both ways, two at the bottom, and the last."""
ENDINGS = (".keras", ".h5", ".hdf5")
CHECK_EDGE = 64
"""Pixels of the random image on which a loaded model and ours are compared."""
SHOWN_CAUSE = 200
"""Characters of Keras' own words on a file that it can't load: some hold the whole network."""
EXACT, HALF_PRECISION = 1e-4, 0.1
"""How far their answers may differ: by the order of sums, or by the half precision that a model computes in."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a model file, which tells masks of one model from those of another.

    Raises:
        UserError: no such file, or not the ending of a model.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: must end in one of {', '.join(ENDINGS)}, as Keras models do")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({(error.strerror or str(error)).lower()}); give a trained model") from error


def parse_tile(text: str) -> int | str | None:
    """Return what --tile asks for: AUTO, None for whole frames, or the pixels of a window's kept part.

    Raises:
        UserError: it is neither auto, nor whole, nor a multiple of 8.
    """
    if text == AUTO:
        return AUTO
    if text == WHOLE:
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(f"--tile {text}: must be {AUTO}, {WHOLE}, or the pixels of a window, a multiple of {tiling.MULTIPLE}")
    tiling.check_edge(int(text))
    return int(text)


def set_up(launch: Launch, *, threads: int | None = None, cpu_only: bool = False, onednn: bool | None = None) -> None:
    """Set TensorFlow up for this rank, as training does, with one GPU of those that its node has; before anything else uses it.

    Raises:
        UserError: TensorFlow is not installed, or was imported before with another choice of kernels.
    """
    # what has used TensorFlow in this process before has set it up, and that can't be changed any more
    with contextlib.suppress(RuntimeError):
        host.prepare(TrainConfig(cpu_only=cpu_only, intra_threads=threads or 0, onednn=onednn), launch)
    import tensorflow as tf

    gpus = [] if cpu_only else tf.config.list_physical_devices("GPU")
    if gpus:
        own = gpus[(launch.local_rank or 0) % len(gpus)]
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices(own, "GPU")
            tf.config.experimental.set_memory_growth(own, True)


def gpus_in_use() -> int:
    """Return 1 where this process has GPUs, of which it uses one, else 0."""
    import tensorflow as tf

    return int(bool(tf.config.get_visible_devices("GPU")))


def load(path: Path) -> list[NDArray[np.float32]]:
    """Return the weights in a model file, `.keras` or the public versions' `.h5`, as `network.logits` takes them.

    The file's own loss and optimizer are not needed and not loaded. That its network is ours is proven by its answer to a
    random image.

    Raises:
        UserError: the file is no such model.
        RunError: the file is damaged.
    """
    import tensorflow as tf

    from stormbench.cloudmask import network

    try:
        given = tf.keras.models.load_model(path, compile=False)
        weights = [np.asarray(weight, np.float32) for weight in given.get_weights()]
    except Exception as error:  # Keras raises many kinds on a file that is not whole
        why = textwrap.shorten(str(error) or type(error).__name__, SHOWN_CAUSE, placeholder=" ...")
        version = f"Keras of TensorFlow {tf.__version__}"
        raise RunError(f"{path}: can't be loaded by {version} ({why}); the file is damaged, or of another version of Keras") from error
    _check_shapes(path, weights)
    _compute_in_full()
    shape = [size or CHECK_EDGE for size in given.input_shape[1:3]]
    image_nhwc = tf.constant(np.random.default_rng(1).normal(size=(1, *shape, N_CHANNELS)).astype(np.float32))
    ours_nhw = tf.sigmoid(network.logits(weights, image_nhwc))
    theirs_nhw = tf.cast(given(image_nhwc, training=False), tf.float32)[..., 0]
    difference = float(tf.reduce_max(tf.abs(ours_nhw - theirs_nhw)))
    exact = all(str(getattr(layer, "compute_dtype", "float32")) == "float32" for layer in given.layers)
    if not difference < (EXACT if exact else HALF_PRECISION):
        raise UserError(f"{path}: is another network: with the same weights, the U-Net's answers differ from its by {difference:.2g}")
    return weights


def _compute_in_full() -> None:
    """Keep GPUs from products of 10 bits (TF32): they would make a frame and its windows, or two networks, differ by 1e-3."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


def _check_shapes(path: Path, weights: Sequence[NDArray[np.float32]]) -> None:
    """Raise UserError unless the weights have the shapes of the U-Net's, of whatever width, for our channels."""
    shapes = [weight.shape for weight in weights]
    if len(shapes) == N_WEIGHTS and all(shapes) and shapes == _shapes([shape[-1] for shape in shapes[:16:4]]):
        return
    count = sum(weight.size for weight in weights)
    raise UserError(f"{path}: is another network, of {count} parameters, not the U-Net for {N_CHANNELS} channels")


def _shapes(filters: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the U-Net's kernels and biases, in order; `filters` has those of the levels, then of the bottom."""
    given, skipped = N_CHANNELS, []
    pairs = []
    for count in filters:
        pairs += [(given, count), (count, count)]
        skipped.append(count)
        given = count
    for count in reversed(skipped[:-1]):
        pairs += [(given + count, count), (count, count)]
        given = count
    convolutions = [shape for pair in pairs for shape in ((3, 3, *pair), pair[1:])]
    return [*convolutions, (1, 1, given, 1), (1,)]


class Predictor:
    """Makes masks with the network of these weights; `edge` is the kept part of a window in pixels, None for whole frames, or AUTO.

    `ranks` share this machine's memory.
    """

    def __init__(self, weights: Sequence[NDArray[np.float32]], *, edge: int | str | None = AUTO, ranks: int = 1, gpu: bool = False) -> None:
        import tensorflow as tf

        from stormbench.cloudmask import network

        _compute_in_full()
        constants = [tf.constant(weight) for weight in weights]

        @tf.function
        def apply(image_nhwc: Any) -> Any:
            return tf.sigmoid(network.logits(constants, image_nhwc))

        self._apply = apply
        self._edge = None if isinstance(edge, str) else edge
        self._may_choose, self._ranks, self._gpu = edge == AUTO, ranks, gpu
        # pixels of the largest frame that has been decided about
        self._decided = 0
        self.method = ""
        """How the last frame was done, in words."""

    def __call__(self, image_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of cloud (h, w) in an image (h, w, 9), normalised, without NaN."""
        height, width = image_hwc.shape[:2]
        padded_hwc = tiling.pad(image_hwc)
        if self._may_choose and height * width > self._decided:
            # windows that had to be made smaller before stay so
            self._edge = min((edge for edge in (self._edge, self._affordable(height, width)) if edge is not None), default=None)
            self._decided = height * width
        elif not self._decided and self._edge is None and self._affordable(height, width) is not None:
            need_gib = tiling.padded(height) * tiling.padded(width) * BYTES_PER_PIXEL / 2**30
            say(f"--tile {WHOLE}: a frame takes about {need_gib:.1f} GiB, more than is safe here; --tile {AUTO} would take windows")
            self._decided = height * width
        while True:
            try:
                return self._mask(padded_hwc, height, width)
            except Exception as error:
                self._edge = self._smaller(error)

    def _mask(self, padded_hwc: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        if self._edge is None:
            self.method = "whole frames"
            return self._network(padded_hwc)[:height, :width]
        self.method = f"windows of {self._edge} pixels and {tiling.HALO} more around"
        mask_hw = np.empty((height, width), np.float32)
        for tile in tiling.tiles(height, width, self._edge):
            window_hw = self._network(padded_hwc[tile.window])
            mask_hw[tile.rows, tile.columns] = window_hw[tile.kept]
        return mask_hw

    def _network(self, image_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
        import tensorflow as tf

        return self._apply(tf.constant(image_hwc[None])).numpy()[0]

    def _affordable(self, height: int, width: int) -> int | None:
        """Return None where a whole frame fits in memory, else the largest window that does, or the smallest there is."""
        available = None if self._gpu else available_bytes()
        if available is None:
            return None
        budget = SHARE * available / self._ranks / BYTES_PER_PIXEL
        if tiling.padded(height) * tiling.padded(width) <= budget:
            return None
        return next((edge for edge in EDGES if tiling.window_pixels(height, width, edge) <= budget), EDGES[-1])

    def _smaller(self, error: Exception) -> int:
        """Return the next smaller window where `error` says that memory, most likely a GPU's, has run out; else raise it."""
        import tensorflow as tf

        if not isinstance(error, tf.errors.ResourceExhaustedError):
            raise error
        what = "whole frames" if self._edge is None else f"windows of {self._edge} pixels"
        left = [edge for edge in EDGES if self._edge is None or edge < self._edge]
        if not left or not self._may_choose:
            raise RunError(f"memory ran out for {what}; use smaller windows by --tile, or fewer ranks on this machine") from error
        return left[0]
