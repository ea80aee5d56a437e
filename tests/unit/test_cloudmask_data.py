"""Patches of real files: which there are, where they are kept, in what order they come, and what is said of bad ones."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.cloudmask import cache, data, hdf, patches
from stormbench.cloudmask.cache import KeptStore, Store, bytes_needed, choose
from stormbench.cloudmask.data import PatchSet, by_stem, find, read_header
from stormbench.cloudmask.deal import Deal
from stormbench.cloudmask.loader import Loader
from stormbench.core.errors import RunError, UserError
from tests.cloudmask_files import frame, product_name, write_products


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("products")
    write_products(where, 4, height=70, width=96, invalid=0.1)
    return where


@pytest.fixture
def patch_set(folder: Path) -> PatchSet:
    return PatchSet([read_header(path) for path in find(folder)], 32)


def test_a_header_tells_size_and_time_of_day(folder: Path) -> None:
    headers = {header.stem: header for header in map(read_header, find(folder))}
    assert {(header.height, header.width) for header in headers.values()} == {(70, 96)}
    assert [headers[product_name(number)].day for number in range(4)] == [True, True, False, True]
    assert not any(header.generated for header in headers.values())


def test_patches_are_those_of_the_whole_frame(folder: Path, patch_set: PatchSet) -> None:
    assert len(patch_set) == 4 * 2 * 3
    path = find(folder)[1]
    image, label, valid = patches.normalise(hdf.read(path))
    found, bits = patch_set.read_patch(6 + 4)
    rows, columns = slice(3 + 32, 3 + 64), slice(32, 64)
    np.testing.assert_allclose(found, image[rows, columns], atol=2e-3)
    np.testing.assert_array_equal(bits & 1, label[rows, columns])
    np.testing.assert_array_equal(bits >> 1, valid[rows, columns])
    assert 0.8 < valid.mean() < 0.95


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_kept_patch_is_the_same_and_its_file_is_read_once(patch_set: PatchSet, tmp_path: Path, kind: str, monkeypatch) -> None:
    wanted = np.array([0, 3, 7, 11, 20])
    expected = [patch_set.read_patch(number) for number in wanted]
    reads = []
    monkeypatch.setattr(patch_set, "read_product", lambda position, read=patch_set.read_product: reads.append(position) or read(position))
    store = KeptStore(patch_set, wanted, tmp_path if kind == "disk" else None)
    for _ in range(2):
        for number, (image, bits) in zip(wanted, expected, strict=True):
            np.testing.assert_array_equal(store.patch(int(number))[0], image)
            np.testing.assert_array_equal(store.patch(int(number))[1], bits)
    assert sorted(reads) == [0, 1, 3]
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_both_layouts_give_the_same_patches(tmp_path: Path) -> None:
    night = frame(5, day=False, invalid=0.1)
    night.rads_hwc = np.zeros((64, 96, 6), np.float32)
    for layout in ("compact", "published"):
        (tmp_path / layout / "night").mkdir(parents=True)
        hdf.write(tmp_path / layout / "night" / f"{product_name(5)}.hdf", night, layout)
    one, other = (PatchSet([read_header(find(tmp_path / layout)[0])], 32) for layout in ("compact", "published"))
    assert not one.is_day(0)
    assert not other.is_day(0)
    for number in range(len(one)):
        (image, bits), (published, published_bits) = one.read_patch(number), other.read_patch(number)
        np.testing.assert_array_equal(bits, published_bits)
        # the compact file holds temperatures in steps of a quarter kelvin
        np.testing.assert_allclose(image, published, atol=0.13 / 22)


def test_the_room_needed_is_19_bytes_a_pixel(patch_set: PatchSet) -> None:
    assert bytes_needed(1, 256) == 256 * 256 * 19
    # the published set of 970 products
    assert bytes_needed(19400, 256) == pytest.approx(24.2e9, rel=0.01)
    store = KeptStore(patch_set, np.arange(len(patch_set)), None)
    assert store._images.nbytes + store._bits.nbytes == bytes_needed(len(patch_set), 32)


GIB = 2**30


def chosen(monkeypatch, tmp_path: Path, wanted: str, asked_for: bool, memory: float, disk: float) -> tuple[str, str]:
    monkeypatch.setattr(cache, "available_bytes", lambda: memory * GIB)
    monkeypatch.setattr(cache, "_free", lambda folder: disk * GIB)
    return choose(wanted, asked_for=asked_for, need=4 * GIB, need_on_node=8 * GIB, cache_dir=tmp_path, what="the patches")


@pytest.mark.parametrize(
    ("wanted", "memory", "disk", "expected"),
    [("memory", 11, 0, "memory"), ("memory", 9, 8, "disk"), ("memory", 9, 7, "none"), ("disk", 0, 9, "disk"), ("none", 99, 99, "none")],
)
def test_memory_gives_way_to_disk_and_disk_to_none(monkeypatch, tmp_path, wanted, memory, disk, expected) -> None:
    kind, note = chosen(monkeypatch, tmp_path, wanted, False, memory, disk)
    assert kind == expected
    assert note.startswith("cache: ")
    if wanted == "memory" and kind != "memory":
        assert "need 8.0 GiB, and there are 9.0 GiB of memory, of which they may take 80%" in note


@pytest.mark.parametrize(("wanted", "fix"), [("memory", "use --cache disk"), ("disk", "use --cache_dir on a larger disk")])
def test_a_cache_that_was_asked_for_and_does_not_fit_is_refused(monkeypatch, tmp_path, wanted: str, fix: str) -> None:
    with pytest.raises(UserError, match=rf"--cache {wanted}: the patches need 8.0 GiB, and there are .*{fix}"):
        chosen(monkeypatch, tmp_path, wanted, True, 9, 7)


def test_a_full_disk_is_found_when_the_room_is_taken(patch_set: PatchSet, monkeypatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="no space left on device; free some space"):
        KeptStore(patch_set, np.arange(4), tmp_path)


def test_batches_come_in_the_order_of_the_plan(patch_set: PatchSet) -> None:
    plan = [[np.array([5, 0]), np.array([23])], [np.array([7, 8]), np.array([], np.int64)]]
    with Loader(Store(patch_set), plan, threads=3) as loader:
        first, second = loader.next(), loader.next()
        with pytest.raises(StopIteration):
            loader.next()
    np.testing.assert_array_equal(first[0][0][1], patch_set.read_patch(0)[0])
    np.testing.assert_array_equal(first[1][0][0], patch_set.read_patch(23)[0])
    assert [len(batch[0]) for batch in (*first, *second)] == [2, 1, 2, 1]
    assert not second[1][1].any(), "no pixel of an empty batch counts"
    # products are sorted by path, those of the day first
    assert [batch[2].tolist() for batch in first] == [[1, 1], [0]]


def test_short_batches_are_filled_up_with_what_does_not_count(patch_set: PatchSet) -> None:
    with Loader(Store(patch_set), [[np.array([5])]], threads=1, full=3) as loader:
        images, bits, day = loader.next()[0]
    assert images.shape == (3, 32, 32, 9)
    assert bits[0].any()
    assert not bits[1:].any()
    assert len(day) == 3


def test_waiting_for_data_is_counted_and_reading_goes_on_meanwhile(patch_set: PatchSet, monkeypatch) -> None:
    going = threading.Event()

    def slow(number: int) -> tuple[np.ndarray, np.ndarray]:
        going.set()
        time.sleep(0.05)
        return np.zeros((32, 32, 9), np.float16), np.zeros((32, 32), np.uint8)

    monkeypatch.setattr(patch_set, "read_patch", slow)
    with Loader(Store(patch_set), [[np.array([0])]] * 3, threads=1) as loader:
        assert going.wait(5)
        loader.next()
        waited = loader.waited_s
        assert waited > 0
        time.sleep(0.3)
        loader.waited_s = 0.0
        loader.next()
        assert loader.waited_s < 0.04


def test_a_file_that_breaks_meanwhile_is_named_when_its_batch_is_due(folder: Path, tmp_path: Path) -> None:
    write_products(tmp_path, 1)
    path = find(tmp_path)[0]
    patch_set = PatchSet([read_header(path)], 32)
    path.write_bytes(path.read_bytes()[:5000])
    with Loader(Store(patch_set), [[np.array([0])]], threads=1) as loader, pytest.raises(RunError, match=str(path)):
        loader.next()


def test_a_file_whose_size_changed_is_refused(tmp_path: Path) -> None:
    write_products(tmp_path, 1)
    path = find(tmp_path)[0]
    patch_set = PatchSet([read_header(path)], 32)
    hdf.write(path, frame(0, 96, 96))
    with pytest.raises(RunError, match="has 96 x 96 pixels, 64 x 96 at the start"):
        patch_set.read_patch(0)


@pytest.mark.parametrize("damage", ["cut", "empty", "lacking", "text"])
def test_a_damaged_file_is_refused_before_training(tmp_path: Path, damage: str) -> None:
    write_products(tmp_path, 1)
    path = find(tmp_path)[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no HDF5")
    else:
        with h5py.File(path, "r+") as file:
            del file["bayes"]
    with pytest.raises(UserError, match=f"^{path}: "):
        read_header(path)


def test_a_folder_without_products_and_a_product_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no converted products"):
        find(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find(tmp_path / "none")
    with pytest.raises(UserError, match=r"the product is there twice, also as .*day"):
        by_stem([tmp_path / "day" / "x.hdf", tmp_path / "night" / "x.hdf"])


def test_an_image_smaller_than_a_patch_names_its_file(tmp_path: Path) -> None:
    write_products(tmp_path, 1)
    header = read_header(find(tmp_path)[0])
    with pytest.raises(UserError, match=f"^{header.path}: --patch_size 72: an image of 64 x 96 pixels"):
        PatchSet([header], 72)


def test_a_batch_mixes_products() -> None:
    deal = Deal([20] * 64, 32, 7)
    for row in deal.epoch(1)[:-1]:
        assert len({number // 20 for number in row}) >= 24
    assert not np.array_equal(deal.epoch(1), deal.epoch(2))


def test_zero_patches_count_nothing() -> None:
    images, bits, day = data.zeros(2, 8)
    assert images.shape == (2, 8, 8, 9)
    assert not bits.any()
    assert not day.any()
