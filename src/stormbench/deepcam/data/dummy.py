"""Random samples without files: what is left of a training run when reading costs nothing."""

from __future__ import annotations

import numpy as np

from stormbench.deepcam.data.sample import SampleShape, check_buffers

_SHIFTS = 1024
# background, cyclone and river as often as in the real data
_FREQUENCIES = (0.986267818390377, 0.0004578708870701058, 0.01327431072255291)


class DummyDataset:
    """Deterministic samples: each is a window of one pool of random numbers, so a read is a copy and memory is about one sample."""

    def __init__(self, shape: SampleShape, length: int, seed: int = 0) -> None:
        if length < 1 or min(shape) < 1:
            raise ValueError(f"needs at least one sample of at least one pixel, not {length} of {shape}")
        self._shape = SampleShape(*shape)
        self._length = length
        generator = np.random.default_rng((seed, 0x5707))
        pixels = shape[0] * shape[1]
        self._values = generator.random((pixels + _SHIFTS) * shape[2], dtype=np.float32)
        draws = generator.random(pixels + _SHIFTS, dtype=np.float32)
        self._labels = np.digitize(draws, np.cumsum(_FREQUENCIES)[:2]).astype(np.uint8)

    @property
    def shape(self) -> SampleShape:
        return self._shape

    def __len__(self) -> int:
        return self._length

    def check(self, rank: int = 0, world: int = 1) -> None:
        """There are no files that could be wrong."""

    def read(self, index: int, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
        """Fill the buffers with sample `index`: values from 0 to 1, and labels with the frequencies of the real data."""
        check_buffers(self._shape, image_hwc_out, label_hw_out)
        if not 0 <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        start = index % _SHIFTS
        count, channels = label_hw_out.size, self._shape.channels
        np.copyto(image_hwc_out.reshape(-1), self._values[start * channels : (start + count) * channels])
        np.copyto(label_hw_out.reshape(-1), self._labels[start : start + count], casting="unsafe")
