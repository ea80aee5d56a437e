"""Batches as tensors on the device where they are used, read ahead by threads into a fixed set of buffers."""

from __future__ import annotations

import threading
import time
import weakref
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from stormbench.deepcam.data.readahead import Fill, ReadAhead
from stormbench.deepcam.data.sample import Dataset

_HELD = 2
_TRANSPOSED_ROWS = 4


class _Slot(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


class _Copy(NamedTuple):
    image_nchw: torch.Tensor
    label_nhw: torch.Tensor
    finished: torch.cuda.Event


class Loader:
    """Iterates once over `order` in batches: (image_nchw float32, label_nhw int64) on `device`.

    `order` holds positions in the dataset, of any shape: it is read flat, `batch` samples at a time, and the last batch may be
    smaller. To start in the middle, give the rest of the order. `depth` batches are read ahead; the buffers hold depth + 2.
    With `channels_last` images keep the files' order of values (torch.channels_last), else they are contiguous.

    On a CPU a batch is a view of a buffer: it is valid until the batch after the next is asked for. On a GPU it is the caller's;
    copies run beside the computation. Labels are int64 for the loss; a GPU gets them as bytes and widens them itself.

    An error while reading is raised at its batch, after all batches before it. Use as a context manager, or call `close`; a
    loader that is dropped ends its threads too. `waited_s` is the time spent waiting for data, `samples` the number handed over.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: np.ndarray,
        *,
        batch: int,
        threads: int = 2,
        depth: int | None = None,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
    ) -> None:
        positions = np.array(order, dtype=np.int64).reshape(-1)
        if batch < 1 or threads < 1 or (depth is not None and depth < 1):
            raise ValueError(f"batch {batch}, threads {threads} and depth {depth} must be at least 1")
        if positions.size and not (positions.min() >= 0 and positions.max() < len(dataset)):
            raise ValueError(f"the order has positions from {positions.min()} to {positions.max()}, the dataset {len(dataset)} samples")
        self.waited_s = 0.0
        self.samples = 0
        self._length = -(-positions.size // batch)
        self._number = 0
        device = torch.device(device)
        # every thread finds a sample to read also where batches are single samples
        depth = max(2, -(-threads // batch) + 1) if depth is None else depth
        count = min(depth + _HELD, self._length)
        rows = min(batch, positions.size)
        slots = [_new_slot(dataset, rows, device=device, channels_last=channels_last) for _ in range(count)]
        transposed = device.type == "cpu" and not channels_last
        fill = _filler(dataset, positions, slots, transposed=transposed)
        self._slots = slots
        self._copies = _Copies(device, channels_last=channels_last) if device.type == "cuda" else None
        self._device = device
        self._channels_last = channels_last
        self._ahead = ReadAhead(fill, samples=positions.size, batch=batch, slots=max(1, count), threads=threads)
        self._stop = weakref.finalize(self, self._ahead.stop)

    def __len__(self) -> int:
        """Number of batches."""
        return self._length

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        number = self._number
        if number >= self._length or not self._stop.alive:
            self.close()
            raise StopIteration
        try:
            taken = self._from_slot(number) if self._copies is None else self._from_copy(number, self._copies)
        except BaseException:
            self.close()
            raise
        self._number += 1
        self.samples += taken[0].shape[0]
        return taken

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and wait for them; iterating further gives nothing."""
        self._stop()
        self._ahead.join()

    def _from_slot(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if number >= _HELD:
            self._ahead.release(number - _HELD)
        self._wait(number)
        slot, size = self._slots[number % len(self._slots)], self._ahead.size(number)
        image = slot.image[:size]
        return (image.permute(0, 3, 1, 2) if self._channels_last else image), slot.label[:size]

    def _from_copy(self, number: int, copies: _Copies) -> tuple[torch.Tensor, torch.Tensor]:
        if not copies.started(number):
            self._start_copy(number, copies)
        taken = copies.take(number)
        # the next copy starts now if it can, so that it runs beside this batch even if the caller waits for the GPU in each step
        if number + 1 < self._length and self._ahead.ready(number + 1):
            self._start_copy(number + 1, copies)
        return taken

    def _start_copy(self, number: int, copies: _Copies) -> None:
        if number >= _HELD:
            copies.wait(number - _HELD)
            self._ahead.release(number - _HELD)
        self._wait(number)
        copies.start(number, self._slots[number % len(self._slots)], self._ahead.size(number))

    def _wait(self, number: int) -> None:
        start = time.perf_counter()
        try:
            self._ahead.wait(number)
        finally:
            self.waited_s += time.perf_counter() - start


class _Copies:
    """Copies from pinned buffers on a stream of their own, each with the event that marks its end."""

    def __init__(self, device: torch.device, *, channels_last: bool) -> None:
        self._device = device
        self._channels_last = channels_last
        self._stream = torch.cuda.Stream(device)
        self._running: dict[int, _Copy] = {}
        self._finished: dict[int, torch.cuda.Event] = {}

    def started(self, number: int) -> bool:
        return number in self._running

    def start(self, number: int, slot: _Slot, size: int) -> None:
        with torch.cuda.stream(self._stream):
            image_nchw = slot.image[:size].to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            if not self._channels_last:
                image_nchw = image_nchw.contiguous()
            label_nhw = slot.label[:size].to(self._device, non_blocking=True).long()
            finished = torch.cuda.Event()
            finished.record(self._stream)
        self._running[number] = _Copy(image_nchw, label_nhw, finished)
        self._finished[number] = finished

    def take(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Hand a copy to the caller's stream: it waits for the copy, and the memory isn't reused before it has done its work."""
        copy = self._running.pop(number)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copy.finished)
        copy.image_nchw.record_stream(stream)
        copy.label_nhw.record_stream(stream)
        return copy.image_nchw, copy.label_nhw

    def wait(self, number: int) -> None:
        """Wait until copy `number` has left its buffer."""
        self._finished.pop(number).synchronize()


def _new_slot(dataset: Dataset, rows: int, *, device: torch.device, channels_last: bool) -> _Slot:
    height, width, channels = dataset.shape
    pinned = device.type == "cuda"
    shape = (rows, height, width, channels) if pinned or channels_last else (rows, channels, height, width)
    image = torch.empty(shape, dtype=torch.float32, pin_memory=pinned)
    label = torch.empty((rows, height, width), dtype=torch.uint8 if pinned else torch.int64, pin_memory=pinned)
    return _Slot(image, label)


def _filler(dataset: Dataset, positions: np.ndarray, slots: list[_Slot], *, transposed: bool) -> Fill:
    images, labels = [slot.image.numpy() for slot in slots], [slot.label.numpy() for slot in slots]
    if not transposed:
        return lambda position, slot, row: dataset.read(int(positions[position]), images[slot][row], labels[slot][row])
    own = threading.local()

    def fill(position: int, slot: int, row: int) -> None:
        if not hasattr(own, "image_hwc"):
            own.image_hwc = np.empty(tuple(dataset.shape), np.float32)
        dataset.read(int(positions[position]), own.image_hwc, labels[slot][row])
        _transpose(own.image_hwc, images[slot][row])

    return fill


def _transpose(image_hwc: np.ndarray, image_chw_out: np.ndarray) -> None:
    # a few rows at a time stay in the cache while their 16 channels are written to 16 places
    for start in range(0, image_hwc.shape[0], _TRANSPOSED_ROWS):
        rows = slice(start, start + _TRANSPOSED_ROWS)
        np.copyto(image_chw_out[:, rows], image_hwc[rows].transpose(2, 0, 1))
