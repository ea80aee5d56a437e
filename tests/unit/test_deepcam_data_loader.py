"""The loader: order, layout, lifetime of batches, errors, and the end of its threads, on real files and threads."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from stormbench.core.errors import RunError
from stormbench.deepcam import data
from stormbench.deepcam.data.loader import Loader

HEIGHT, WIDTH, COUNT = 12, 20, 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    for number in range(COUNT):
        generator = np.random.default_rng(number)
        with h5py.File(folder / f"data-{number:02d}.h5", "w") as file:
            file["climate/data"] = generator.random((HEIGHT, WIDTH, 16), dtype=np.float32)
            file["climate/labels_0"] = generator.integers(0, 3, (HEIGHT, WIDTH))
    return folder


@pytest.fixture
def dataset(folder: Path) -> data.Dataset:
    return data.open_dataset("hdf5", folder)


def expected(dataset: data.Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    image, label = np.empty(dataset.shape, np.float32), np.empty(dataset.shape[:2], np.int64)
    dataset.read(index, image, label)
    return image.transpose(2, 0, 1), label


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def wait_until(condition) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited 30 s in vain"
        time.sleep(0.005)


class Scripted:
    """A dataset of constant samples that counts reads, and can fail or be held back."""

    shape = data.SampleShape(2, 3, 4)

    def __init__(self, length: int, fail_at: tuple[int, ...] = ()) -> None:
        self.length, self.fail_at = length, fail_at
        self.reads: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def __len__(self) -> int:
        return self.length

    def check(self, rank: int = 0, world: int = 1) -> None:
        pass

    def read(self, index: int, image_hwc_out: np.ndarray, label_hw_out: np.ndarray) -> None:
        self.reads.append(index)
        self.open.wait()
        if index in self.fail_at:
            raise RunError(f"sample {index} is broken")
        image_hwc_out[:] = index
        label_hw_out[:] = index % 3


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_batches_come_in_the_order_given_and_the_last_may_be_smaller(dataset, channels_last, threads, batch):
    order = np.random.default_rng(1).permutation(COUNT)
    seen = 0
    with Loader(dataset, order, batch=batch, threads=threads, channels_last=channels_last) as loader:
        assert len(loader) == -(-COUNT // batch)
        for image_nchw, label_nhw in loader:
            assert image_nchw.shape[1:] == (16, HEIGHT, WIDTH)
            for image, label in zip(image_nchw, label_nhw, strict=True):
                wanted_image, wanted_label = expected(dataset, order[seen])
                np.testing.assert_array_equal(image, wanted_image)
                np.testing.assert_array_equal(label, wanted_label)
                seen += 1
    assert seen == loader.samples == COUNT


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_have_the_layout_asked_for_and_labels_are_int64(dataset, channels_last):
    with Loader(dataset, np.arange(4), batch=2, channels_last=channels_last) as loader:
        image_nchw, label_nhw = next(loader)
        assert image_nchw.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert image_nchw.is_contiguous() != channels_last
        assert image_nchw.dtype == torch.float32
        assert label_nhw.dtype == torch.int64


def test_an_order_of_steps_and_micro_batches_is_read_flat(dataset):
    order = data.sampler.epoch_order(COUNT, 0, 333, 2, 1, 1, 2)
    with Loader(Scripted(COUNT), order, batch=1) as loader:
        assert [int(image[0, 0, 0, 0]) for image, _ in loader] == order.reshape(-1).tolist()


def test_a_rest_of_the_order_continues_where_the_whole_was_left():
    order = np.random.default_rng(2).permutation(COUNT)
    with Loader(Scripted(COUNT), order, batch=2) as loader:
        whole = [image[:, 0, 0, 0].tolist() for image, _ in loader]
    with Loader(Scripted(COUNT), order[3 * 2 :], batch=2) as loader:
        rest = [image[:, 0, 0, 0].tolist() for image, _ in loader]
    assert rest == whole[3:]


def test_an_empty_order_gives_no_batches():
    with Loader(Scripted(3), np.array([], np.int64), batch=2) as loader:
        assert len(loader) == 0
        assert list(loader) == []


def test_a_batch_stays_valid_until_the_one_after_the_next_is_asked_for():
    with Loader(Scripted(60), np.arange(60), batch=2, threads=3, depth=1) as loader:
        previous = None
        for number, (image, _) in enumerate(loader):
            assert image[:, 0, 0, 0].tolist() == [2 * number, 2 * number + 1]
            if previous is not None:
                assert previous[:, 0, 0, 0].tolist() == [2 * number - 2, 2 * number - 1]
            previous = image


def test_reading_ahead_stops_at_the_depth():
    dataset = Scripted(100)
    with Loader(dataset, np.arange(100), batch=2, threads=3, depth=4) as loader:
        next(loader)
        # two buffers may be in the caller's hands, four are ahead
        wait_until(lambda: len(dataset.reads) == 2 * (4 + 2))
        time.sleep(0.05)
        assert len(dataset.reads) == 2 * (4 + 2)


def test_buffers_depend_on_batch_and_depth_and_not_on_the_number_of_samples():
    def addresses(samples: int) -> int:
        with Loader(Scripted(samples), np.arange(samples), batch=2, depth=3) as loader:
            return len({image.data_ptr() for image, _ in loader})

    assert addresses(40) == addresses(400) == 3 + 2


def test_single_sample_batches_keep_all_threads_busy():
    dataset = Scripted(100)
    dataset.open.clear()
    loader = Loader(dataset, np.arange(100), batch=1, threads=6)
    try:
        wait_until(lambda: len(dataset.reads) == 6)
    finally:
        dataset.open.set()
        loader.close()


def test_an_error_comes_at_its_batch_after_the_whole_ones_before_it():
    loader = Loader(Scripted(20, fail_at=(7,)), np.arange(20), batch=2, threads=4)
    good = []
    with pytest.raises(RunError, match="sample 7 is broken"):
        for image, _ in loader:
            good.append(image[0, 0, 0, 0].item())
    assert good == [0, 2, 4]
    assert list(loader) == []
    assert not reading_threads()


def test_of_several_errors_in_a_batch_the_first_in_order_is_raised():
    for _ in range(20):
        with pytest.raises(RunError, match="sample 1 is broken"):
            list(Loader(Scripted(8, fail_at=(1, 2, 3, 5)), np.arange(8), batch=4, threads=4))


def test_a_broken_file_is_named_in_the_consumer(dataset, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copied = data.open_dataset("hdf5", tmp_path)
    (tmp_path / "data-05.h5").write_bytes(b"overwritten")
    with pytest.raises(RunError, match=r"data-05\.h5: isn't an HDF5 file"), Loader(copied, np.arange(COUNT), batch=1) as loader:
        for _ in loader:
            pass
    assert loader.samples == 5


def test_waiting_is_counted(monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("stormbench.deepcam.data.loader.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with Loader(Scripted(2), np.arange(2), batch=1) as loader:
        next(loader)
        assert loader.waited_s == 2.5
        next(loader)
        assert loader.waited_s == 2.75


def test_the_threads_end_after_the_last_batch():
    list(Loader(Scripted(5), np.arange(5), batch=2))
    assert not reading_threads()


def test_closing_early_ends_the_threads_and_the_iteration():
    loader = Loader(Scripted(100), np.arange(100), batch=2)
    next(loader)
    loader.close()
    assert not reading_threads()
    assert list(loader) == []


def test_a_loader_that_is_dropped_ends_its_threads():
    loader = Loader(Scripted(100), np.arange(100), batch=2)
    next(loader)
    assert reading_threads()
    del loader
    gc.collect()
    wait_until(lambda: not reading_threads())


@pytest.mark.parametrize("order", [[0, 3], [-1]])
def test_positions_outside_the_dataset_are_refused(order):
    with pytest.raises(ValueError, match="the dataset 3 samples"):
        Loader(Scripted(3), np.array(order), batch=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels_last", [True, False])
def test_on_a_gpu_batches_are_the_callers_own(dataset, channels_last):
    order = np.tile(np.arange(COUNT), 20)
    with Loader(dataset, order, batch=2, threads=4, device="cuda", channels_last=channels_last) as loader:
        batches = [(image, label) for image, label in loader]
    flat = [(image.cpu().numpy(), label.cpu().numpy()) for images, labels in batches for image, label in zip(images, labels, strict=True)]
    for index, (image, label) in zip(order, flat, strict=True):
        wanted_image, wanted_label = expected(dataset, index)
        np.testing.assert_array_equal(image, wanted_image)
        np.testing.assert_array_equal(label, wanted_label)
