"""Statistics of the channels: what is read, and what each broken file is told."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.core.errors import UserError
from stormbench.deepcam.data import CHANNELS, stats

LOW = np.linspace(-50, 200, 16).astype(np.float32)
HIGH = LOW + np.linspace(1, 90000, 16).astype(np.float32)


def write(path: Path, *, minval: np.ndarray | None = LOW, maxval: np.ndarray | None = HIGH) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in (("minval", minval), ("maxval", maxval)):
            if values is not None:
                file[f"climate/{name}"] = values
    return path


def changed(values: np.ndarray, channel: int, value: float) -> np.ndarray:
    copy = values.copy()
    copy[channel] = value
    return copy


def test_there_are_sixteen_channels_in_the_files_order():
    assert len(CHANNELS) == 16
    assert CHANNELS[0] == "TMQ"
    assert CHANNELS.index("PRECT") == 10


def test_the_ranges_come_in_the_order_of_the_chosen_channels(tmp_path):
    found = stats.read(write(tmp_path / "stats.h5"), (10, 0, 2))
    assert found.minval.dtype == found.maxval.dtype == np.float32
    np.testing.assert_array_equal(found.minval, LOW[[10, 0, 2]])
    np.testing.assert_array_equal(found.maxval, HIGH[[10, 0, 2]])


def test_float64_statistics_become_float32(tmp_path):
    found = stats.read(write(tmp_path / "stats.h5", minval=LOW.astype(np.float64)))
    assert found.minval.dtype == np.float32
    np.testing.assert_array_equal(found.minval, LOW)


def test_a_missing_file_is_named_with_the_option_that_led_to_it(tmp_path):
    with pytest.raises(UserError, match=r"stats\.h5: no such file; DATADIR must be the folder"):
        stats.read(tmp_path / "stats.h5", origin="DATADIR")


def test_a_truncated_file_is_a_user_error(tmp_path):
    path = write(tmp_path / "stats.h5")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"stats\.h5: can't be read as HDF5, it is truncated"):
        stats.read(path)


def test_a_file_of_another_kind_is_a_user_error(tmp_path):
    path = tmp_path / "stats.h5"
    path.write_text("minval: 3")
    with pytest.raises(UserError, match="broken or not HDF5"):
        stats.read(path)


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(UserError, match="has no dataset climate/maxval"):
        stats.read(write(tmp_path / "stats.h5", maxval=None))


@pytest.mark.parametrize("values", [LOW[:4], np.zeros((16, 1), np.float32), np.array([b"a"] * 16)])
def test_anything_but_sixteen_numbers_is_refused(tmp_path, values):
    with pytest.raises(UserError, match=r"climate/minval is .*; must be 16 numbers"):
        stats.read(write(tmp_path / "stats.h5", minval=values), (0, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, LOW[2], LOW[2] - 1])
def test_a_chosen_channel_without_a_finite_growing_range_is_named(tmp_path, value):
    path = write(tmp_path / "stats.h5", maxval=changed(HIGH, 2, value))
    with pytest.raises(UserError, match=r"channel 2 \(V850\) has minval"):
        stats.read(path, (0, 2))


def test_a_range_that_overflows_float32_is_refused(tmp_path):
    path = write(tmp_path / "stats.h5", minval=changed(LOW, 2, -3e38), maxval=changed(HIGH, 2, 3e38))
    with pytest.raises(UserError, match="channel 2"):
        stats.read(path)


def test_channels_that_are_not_used_may_be_anything(tmp_path):
    path = write(tmp_path / "stats.h5", maxval=changed(HIGH, 2, np.nan))
    np.testing.assert_array_equal(stats.read(path, (0, 1)).maxval, HIGH[:2])


@pytest.mark.parametrize("channel", [-1, 16])
def test_a_channel_that_no_file_has_is_refused(tmp_path, channel):
    with pytest.raises(UserError, match=f"channel {channel}: must be from 0 to 15"):
        stats.read(write(tmp_path / "stats.h5"), (channel,))
