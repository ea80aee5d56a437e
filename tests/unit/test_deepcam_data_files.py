"""Reading samples from real HDF5 and NumPy files of every layout, and what each broken file or wrong folder is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.deepcam import data
from stormbench.deepcam.data import sample

# large enough for several pieces and an odd rest
HEIGHT, WIDTH = 149, 131
LOW = np.linspace(-50, 200, 16).astype(np.float32)
STATS = data.Stats(minval=LOW, maxval=LOW + np.linspace(1, 900, 16).astype(np.float32))


def make_sample(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(height, width, 16)).astype(np.float32) * 100, generator.integers(0, 3, (height, width))


def write_h5(path: Path, image: np.ndarray, label: np.ndarray, *, file: Any = (), **options: Any) -> Path:
    with h5py.File(path, "w", **dict(file)) as handle:
        handle.create_dataset("climate/data", data=image, **options)
        handle.create_dataset("climate/labels_0", data=label, **options)
    return path


def write_npy(path: Path, image: np.ndarray, label: np.ndarray) -> Path:
    np.save(path, image)
    np.save(data.npy.label_path(path), label)
    return path


WRITERS: dict[str, Callable[..., Path]] = {"hdf5": write_h5, "numpy": write_npy}
SUFFIX = {"hdf5": ".h5", "numpy": ".npy"}


def read(dataset: data.Dataset, index: int = 0, label_dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    image, label = np.full(dataset.shape, -9, np.float32), np.full(dataset.shape[:2], 99, label_dtype)
    dataset.read(index, image, label)
    return image, label


def normalised(image: np.ndarray) -> np.ndarray:
    return (image - STATS.minval) / (STATS.maxval - STATS.minval)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
def test_a_sample_is_normalised_exactly_and_its_label_kept(tmp_path, data_format):
    image, label = make_sample()
    WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", image, label)
    dataset = data.open_dataset(data_format, tmp_path, stats=STATS)
    assert dataset.shape == (HEIGHT, WIDTH, 16)
    found_image, found_label = read(dataset)
    np.testing.assert_array_equal(found_image, normalised(image))
    np.testing.assert_array_equal(found_label, label)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
@pytest.mark.parametrize("channels", [(0, 1, 2, 10), (15,), (3, 0, 7), tuple(range(15, -1, -1))])
def test_chosen_channels_come_in_the_order_given(tmp_path, data_format, channels):
    image, label = make_sample()
    WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", image, label)
    chosen = data.Stats(minval=STATS.minval[list(channels)], maxval=STATS.maxval[list(channels)])
    dataset = data.open_dataset(data_format, tmp_path, channels=channels, stats=chosen)
    assert dataset.shape.channels == len(channels)
    np.testing.assert_array_equal(read(dataset)[0], normalised(image)[..., list(channels)])


def test_without_statistics_values_stay_as_they_are(tmp_path):
    image, label = make_sample()
    write_h5(tmp_path / "data-a.h5", image, label)
    np.testing.assert_array_equal(read(data.open_dataset("hdf5", tmp_path))[0], image)


LAYOUTS = {
    "chunked and compressed": ({"chunks": True, "compression": "gzip"}, {}, np.float32),
    "checksummed": ({"chunks": True, "fletcher32": True}, {}, np.float32),
    "float64": ({}, {}, np.float64),
    "big-endian": ({}, {}, ">f4"),
    "behind a user block": ({}, {"userblock_size": 512}, np.float32),
    "latest file format": ({}, {"libver": "latest"}, np.float32),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [tuple(range(16)), (2, 10)])
def test_every_hdf5_layout_gives_the_same_values(tmp_path, layout, channels):
    options, file, dtype = LAYOUTS[layout]
    image, label = make_sample()
    write_h5(tmp_path / "data-a.h5", image.astype(dtype), label, file=file, **options)
    chosen = data.Stats(minval=STATS.minval[list(channels)], maxval=STATS.maxval[list(channels)])
    found_image, found_label = read(data.open_dataset("hdf5", tmp_path, channels=channels, stats=chosen))
    np.testing.assert_array_equal(found_image, normalised(image)[..., list(channels)])
    np.testing.assert_array_equal(found_label, label)


def test_a_dataset_in_an_external_file_is_read_through_hdf5(tmp_path):
    image, label = make_sample()
    with h5py.File(tmp_path / "data-a.h5", "w") as file:
        values = file.create_dataset("climate/data", image.shape, "f4", external=[(str(tmp_path / "values.raw"), 0, image.nbytes)])
        values[:] = image
        file["climate/labels_0"] = label
    np.testing.assert_array_equal(read(data.open_dataset("hdf5", tmp_path, stats=STATS))[0], normalised(image))


def test_a_dataset_that_was_never_written_has_its_fill_value(tmp_path):
    with h5py.File(tmp_path / "data-a.h5", "w") as file:
        file.create_dataset("climate/data", (4, 6, 16), "f4", fillvalue=1.5)
        file.create_dataset("climate/labels_0", (4, 6), "u1", fillvalue=2)
    image, label = read(data.open_dataset("hdf5", tmp_path))
    assert (image == 1.5).all()
    assert (label == 2).all()


@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.float16])
def test_numpy_files_of_other_floating_types_are_converted(tmp_path, dtype):
    image, label = make_sample()
    write_npy(tmp_path / "data-a.npy", image.astype(dtype), label)
    np.testing.assert_array_equal(read(data.open_dataset("numpy", tmp_path))[0], image.astype(dtype).astype(np.float32))


def test_numpy_files_in_fortran_order_are_read_right(tmp_path):
    image, label = make_sample()
    write_npy(tmp_path / "data-a.npy", np.asfortranarray(image), np.asfortranarray(label))
    found_image, found_label = read(data.open_dataset("numpy", tmp_path))
    np.testing.assert_array_equal(found_image, image)
    np.testing.assert_array_equal(found_label, label)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
@pytest.mark.parametrize("stored", [np.int64, np.int32, np.uint8, ">i2", np.uint64])
@pytest.mark.parametrize("wanted", [np.uint8, np.int64])
def test_labels_of_every_integer_type_fill_every_label_buffer(tmp_path, data_format, stored, wanted):
    image, label = make_sample()
    WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", image, label.astype(stored))
    found = read(data.open_dataset(data_format, tmp_path), label_dtype=wanted)[1]
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, label)


def test_threads_read_different_samples_at_once(tmp_path):
    samples = [make_sample(seed) for seed in range(8)]
    for number, (image, label) in enumerate(samples):
        write_h5(tmp_path / f"data-{number}.h5", image, label)
    dataset = data.open_dataset("hdf5", tmp_path, stats=STATS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: read(dataset, index % 8), range(64)))
    for index, (image, label) in enumerate(found):
        np.testing.assert_array_equal(image, normalised(samples[index % 8][0]))
        np.testing.assert_array_equal(label, samples[index % 8][1])


def test_a_short_read_of_the_system_is_continued(tmp_path, monkeypatch):
    image, label = make_sample()
    write_h5(tmp_path / "data-a.h5", image, label)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [memoryview(buffers[0]).cast("B")[:10007]], offset))
    found_image, found_label = read(data.open_dataset("hdf5", tmp_path))
    np.testing.assert_array_equal(found_image, image)
    np.testing.assert_array_equal(found_label, label)


def test_large_finite_values_are_no_error(tmp_path):
    image, label = make_sample()
    image[5, 5, 3] = 3e38
    write_h5(tmp_path / "data-a.h5", image, label)
    assert read(data.open_dataset("hdf5", tmp_path))[0][5, 5, 3] == np.float32(3e38)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (77, 64), (HEIGHT - 1, WIDTH - 1)])
def test_a_value_that_is_not_finite_names_file_channel_and_place(tmp_path, data_format, value, place):
    image, label = make_sample()
    image[(*place, 10)] = value
    WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", image, label)
    expected = rf"data-a\{SUFFIX[data_format]}: channel 10 \(PRECT\) isn't finite at row {place[0]}, column {place[1]} \(1 such"
    with pytest.raises(RunError, match=expected):
        read(data.open_dataset(data_format, tmp_path, stats=STATS))


def test_a_channel_that_is_not_chosen_may_be_anything(tmp_path):
    image, label = make_sample()
    image[3, 3, 10] = np.nan
    write_h5(tmp_path / "data-a.h5", image, label)
    found = read(data.open_dataset("hdf5", tmp_path, channels=(0, 1)))[0]
    np.testing.assert_array_equal(found, image[..., :2])


@pytest.mark.parametrize(("data_format", "named"), [("hdf5", r"data-a\.h5"), ("numpy", r"label-a\.npy")])
@pytest.mark.parametrize(("dtype", "value"), [(np.int64, 3), (np.int64, -1), (np.uint8, 255), (np.int32, 2**31 - 1), (">i4", -7)])
@pytest.mark.parametrize("place", [(0, 0), (HEIGHT - 1, 7)])
def test_a_label_that_is_no_class_names_file_value_and_place(tmp_path, data_format, named, dtype, value, place):
    image, label = make_sample()
    label = label.astype(dtype)
    label[place] = value
    WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", image, label)
    with pytest.raises(RunError, match=rf"{named}: label {value} at row {place[0]}, column {place[1]}; must be 0, 1 or 2"):
        read(data.open_dataset(data_format, tmp_path))


def test_the_shape_is_known_from_the_headers(tmp_path):
    image, label = make_sample()
    expected = data.SampleShape(HEIGHT, WIDTH, 16)
    assert data.hdf5.inspect(write_h5(tmp_path / "data-a.h5", image, label)) == expected
    assert data.npy.inspect(write_npy(tmp_path / "data-a.npy", image, label)) == expected


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
def test_a_file_cut_in_the_middle_is_called_truncated_with_both_sizes(tmp_path, data_format):
    path = WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", *make_sample())
    size = path.stat().st_size
    os.truncate(path, size // 2)
    with pytest.raises(RunError, match=rf"data-a.*: truncated, {size // 2} of {size} bytes") as caught:
        data.open_dataset(data_format, tmp_path)
    assert "again" in str(caught.value)


def test_a_file_cut_while_it_is_open_is_called_truncated(tmp_path):
    path = write_npy(tmp_path / "data-a.npy", *make_sample())
    scaling = sample.Scaling(range(16), None)
    image, label = np.empty((HEIGHT, WIDTH, 16), np.float32), np.empty((HEIGHT, WIDTH), np.uint8)
    os.truncate(data.npy.label_path(path), 3000)
    with pytest.raises(RunError, match=r"label-a\.npy: truncated, 3000 of"):
        data.npy.read(path, data.SampleShape(HEIGHT, WIDTH, 16), scaling, image, label)


@pytest.mark.parametrize("text", [b"", b"not a data file at all" * 100])
def test_a_file_of_another_kind_is_named(tmp_path, text):
    (tmp_path / "data-a.h5").write_bytes(text)
    with pytest.raises(RunError, match=rf"data-a\.h5: isn't an HDF5 file \({len(text)} bytes\)"):
        data.hdf5.inspect(tmp_path / "data-a.h5")
    (tmp_path / "data-a.npy").write_bytes(text)
    with pytest.raises(RunError, match=rf"data-a\.npy: isn't a complete NumPy file \({len(text)} bytes\)"):
        data.npy.inspect(tmp_path / "data-a.npy")


def test_damage_inside_an_hdf5_file_is_a_run_error(tmp_path):
    path = write_h5(tmp_path / "data-a.h5", *make_sample(), compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : -len(content) // 4] = b"\xff" * len(content[len(content) // 4 : -len(content) // 4])
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"data-a\.h5: "):
        read(data.open_dataset("hdf5", tmp_path))


def test_missing_files_are_run_errors(tmp_path):
    for inspect, name in ((data.hdf5.inspect, "data-a.h5"), (data.npy.inspect, "data-a.npy")):
        with pytest.raises(RunError, match=rf"{name}: the file is gone"):
            inspect(tmp_path / name)


@pytest.mark.parametrize("missing", ["climate/data", "climate/labels_0"])
def test_a_missing_dataset_is_named(tmp_path, missing):
    path = write_h5(tmp_path / "data-a.h5", *make_sample())
    with h5py.File(path, "r+") as file:
        del file[missing]
    with pytest.raises(RunError, match=f"has no dataset {missing}"):
        data.hdf5.inspect(path)


def test_a_group_in_the_place_of_a_dataset_is_no_dataset(tmp_path):
    path = tmp_path / "data-a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("climate/data")
    with pytest.raises(RunError, match="has no dataset climate/data"):
        data.hdf5.inspect(path)


WRONG = {
    "a rank too many": (np.zeros((1, 4, 6, 16), np.float32), np.zeros((4, 6), np.uint8)),
    "integers as data": (np.zeros((4, 6, 16), np.int32), np.zeros((4, 6), np.uint8)),
    "floats as labels": (np.zeros((4, 6, 16), np.float32), np.zeros((4, 6), np.float32)),
    "one-hot labels": (np.zeros((4, 6, 16), np.float32), np.zeros((4, 6, 3), np.uint8)),
    "no pixels": (np.zeros((0, 6, 16), np.float32), np.zeros((0, 6), np.uint8)),
}


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_ranks_and_types_are_told_with_what_must_be(tmp_path, data_format, what):
    path = WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", *WRONG[what])
    with pytest.raises(RunError, match=r"must be (floating-point|integer) \(h, w"):
        data.files.FORMATS[data_format].inspect(path)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
def test_a_label_of_another_size_is_told_with_both_shapes(tmp_path, data_format):
    path = WRITERS[data_format](tmp_path / f"data-a{SUFFIX[data_format]}", np.zeros((4, 6, 16), np.float32), np.zeros((6, 4), np.uint8))
    with pytest.raises(RunError, match=r"\(4, 6, 16\).*\(6, 4\)"):
        data.files.FORMATS[data_format].inspect(path)


def test_files_must_have_sixteen_channels(tmp_path):
    write_h5(tmp_path / "data-a.h5", np.zeros((4, 6, 4), np.float32), np.zeros((4, 6), np.uint8))
    with pytest.raises(RunError, match=r"data-a\.h5: has 4 channels, must have 16"):
        data.open_dataset("hdf5", tmp_path)


@pytest.mark.parametrize("data_format", ["hdf5", "numpy"])
def test_check_finds_the_one_file_of_another_shape_on_the_rank_that_has_it(tmp_path, data_format):
    for number in range(6):
        shape = (8, 6) if number == 4 else (4, 6)
        WRITERS[data_format](tmp_path / f"data-{number}{SUFFIX[data_format]}", *make_sample(number, *shape))
    dataset = data.open_dataset(data_format, tmp_path)
    with pytest.raises(RunError, match=rf"data-4.*: its shape is 8 x 6 x 16, that of data-0\{SUFFIX[data_format]} 4 x 6 x 16"):
        dataset.check(1, 3)
    dataset.check(0, 3)
    dataset.check(2, 3)
    with pytest.raises(RunError, match=r"data-4.*: its shape is 8 x 6 x 16"):
        read(dataset, 4)


def test_buffers_that_do_not_fit_are_refused(tmp_path):
    write_h5(tmp_path / "data-a.h5", *make_sample())
    dataset = data.open_dataset("hdf5", tmp_path)
    image, label = np.empty(dataset.shape, np.float32), np.empty(dataset.shape[:2], np.uint8)
    for wrong_image, wrong_label in ((image[1:], label), (image.astype(np.float64), label), (image, label[:, ::-1]), (image, label[1:])):
        with pytest.raises(ValueError, match="buffer must be contiguous"):
            dataset.read(0, wrong_image, wrong_label)


def test_files_are_found_sorted_and_nothing_else_is(tmp_path):
    for name in ("data-b.h5", "data-a.h5", ".data-c.h5.12.partial", "data-d.h5.partial", "stats.h5", "data-e.npy"):
        (tmp_path / name).touch()
    assert data.find(tmp_path, "hdf5") == [tmp_path / "data-a.h5", tmp_path / "data-b.h5"]


def test_a_data_file_without_its_label_file_is_a_user_error(tmp_path):
    for name in ("data-a.npy", "label-a.npy", "data-b.npy"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"data-b\.npy: its label-b\.npy is missing"):
        data.find(tmp_path, "numpy")


@pytest.mark.parametrize(("there", "asked"), [("numpy", "hdf5"), ("hdf5", "numpy")])
def test_a_folder_of_the_other_format_says_so(tmp_path, there, asked):
    (tmp_path / f"data-a{SUFFIX[there]}").touch()
    with pytest.raises(UserError, match=rf"no data-\*\{SUFFIX[asked]} files; .*use --data_format {there}"):
        data.find(tmp_path, asked)


def test_an_empty_folder_says_what_the_option_must_be(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"train: no data-\*\.h5 files; DATADIR must be the folder with train/"):
        data.find(tmp_path / "train", "hdf5", origin="DATADIR")


def test_the_folder_of_the_files_instead_of_the_one_above_is_recognised(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-a.h5").touch()
    with pytest.raises(UserError, match=rf"no such file or directory; DATADIR should be {tmp_path},"):
        data.find(tmp_path / "train" / "train", "hdf5", origin="DATADIR")


def test_the_folder_above_the_right_one_is_recognised(tmp_path):
    (tmp_path / "All-Hist" / "train").mkdir(parents=True)
    (tmp_path / "All-Hist" / "train" / "data-a.h5").touch()
    with pytest.raises(UserError, match=rf"did you mean --data_dir_prefix {tmp_path}/All-Hist\?"):
        data.find(tmp_path / "train", "hdf5")


def test_a_file_in_the_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "train").touch()
    with pytest.raises(UserError, match="train: not a directory"):
        data.find(tmp_path / "train", "hdf5")


def test_an_unknown_format_gets_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="--data_format hdf: must be one of hdf5, numpy, dummy; did you mean hdf5"):
        data.open_dataset("hdf", tmp_path)


def test_files_need_a_folder():
    with pytest.raises(UserError, match="--data_format numpy: needs --data_dir_prefix"):
        data.open_dataset("numpy", None)


@pytest.mark.parametrize("channels", [(), (1, 1), (16,), (-1,)])
def test_channels_that_no_sample_has_are_refused(tmp_path, channels):
    with pytest.raises(UserError, match="--channels"):
        data.open_dataset("dummy", channels=channels)


def test_dummy_samples_depend_on_index_and_seed_alone():
    first, again = (data.open_dataset("dummy", length=5, height=48, width=64, channels=(0, 1, 2), seed=7) for _ in range(2))
    other = data.open_dataset("dummy", length=5, height=48, width=64, channels=(0, 1, 2), seed=8)
    assert first.shape == (48, 64, 3)
    assert len(first) == 5
    np.testing.assert_array_equal(read(first, 3)[0], read(again, 3)[0])
    np.testing.assert_array_equal(read(first, 3)[1], read(again, 3)[1])
    assert not np.array_equal(read(first, 3)[0], read(first, 4)[0])
    assert not np.array_equal(read(first, 3)[0], read(other, 3)[0])


def test_dummy_samples_look_like_normalised_ones():
    image, label = read(data.open_dataset("dummy", height=192, width=288), 2)
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() <= 1
    counts = np.bincount(label.reshape(-1), minlength=3) / label.size
    assert counts[0] > 0.97
    assert 0 < counts[1] < 0.002
    assert 0.01 < counts[2] < 0.02


def test_dummy_samples_end_at_their_length():
    with pytest.raises(IndexError):
        read(data.open_dataset("dummy", length=3, height=16, width=16), 3)


@pytest.mark.parametrize("channels", [(0, 1, 2, 3, 4), (4, 1)])
def test_single_files_with_another_number_of_channels_can_be_read(tmp_path, channels):
    image, label = make_sample()
    path = write_h5(tmp_path / "data-a.h5", image[..., :5], label)
    out, label_out = np.empty((HEIGHT, WIDTH, len(channels)), np.float32), np.empty((HEIGHT, WIDTH), np.uint8)
    data.hdf5.read(path, data.hdf5.inspect(path), sample.Scaling(channels, None), out, label_out)
    np.testing.assert_array_equal(out, image[..., list(channels)])
