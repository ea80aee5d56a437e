"""What holds for every product: grids agree, invalid stays invalid, storage is invisible, damage ends in one sentence."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.cloudmask import chunks, hdf
from stormbench.cloudmask.frame import Frame
from stormbench.cloudmask.netcdf import Packing
from stormbench.cloudmask.product import FILES, Grid, read_frame, reflectance, tie_position
from stormbench.cloudmask.radiometry import BlockMeans, Channel
from stormbench.core.errors import RunError
from tests import sen3_files
from tests.sen3_files import FILL, NAME, scene

OFFSETS = st.integers(0, 10**6)
PIXELS = st.integers(0, 3000)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sen3_files.write(tmp_path_factory.mktemp("whole") / NAME, scene(), zlib=True)


@given(row=PIXELS, col=PIXELS, start=OFFSETS, track=OFFSETS, tie_start=OFFSETS, tie_track=OFFSETS)
def test_tie_position_is_the_same_place_on_the_ground(row: int, col: int, start: int, track: int, tie_start: int, tie_track: int) -> None:
    image, ties = Grid(500, 500, start, track), Grid(1000, 16000, tie_start, tie_track)
    tie_row, tie_col = tie_position(row, col, image, ties)
    assert (tie_row + tie_start) * 1000 == pytest.approx((row + start) * 500, abs=1e-3)
    assert (tie_col - tie_track) * 16000 == pytest.approx((col - track) * 500, abs=1e-3)


@given(
    radiance=st.floats(0, 1000), irradiance=st.floats(1, 3000), zenith=st.floats(0, 180), share=st.floats(0.1, 10)
)  # fmt: skip
def test_reflectance_grows_with_light_and_is_missing_by_night(radiance: float, irradiance: float, zenith: float, share: float) -> None:
    found = reflectance(radiance, irradiance, zenith)
    assert np.isnan(found) == (zenith >= 90)
    if zenith < 89:
        assert found == pytest.approx(np.pi * radiance / irradiance / np.cos(np.radians(zenith)), rel=1e-9)
        assert reflectance(share * radiance, irradiance, zenith) == pytest.approx(share * found, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 20), cols=st.integers(1, 9), seed=st.integers(0, 10**6), missing=st.floats(0, 1), dark=st.floats(0, 1),
    scale=st.sampled_from([0.02, -0.02, 1.0]), offset=st.sampled_from([0.0, 3.0, -0.5]),
)  # fmt: skip
def test_block_is_valid_where_a_pixel_is_and_lies_between_them(
    rows: int, cols: int, seed: int, missing: float, dark: float, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(-2000, 20000, (2 * rows, 2 * cols)).astype(np.int16)
    raw[rng.random(raw.shape) < missing] = FILL
    factor = np.where(rng.random(raw.shape) < dark, 0, rng.uniform(1, 50, raw.shape)).astype(np.float32)
    detector = rng.integers(0, 3, raw.shape).astype(np.uint8)
    flux = np.array([900.0, np.nan, 1100.0])
    channel = Channel(packing=Packing(scale=scale, offset=offset, fills=(FILL,)), adjustment=1.11, irradiance=flux)
    means = BlockMeans(detector, 3, factor)
    refs, rads = np.empty((rows, cols), np.float32), np.empty((rows, cols), np.float32)
    means.reflectances(raw, channel, refs)
    means.radiances(raw, channel, rads)
    light = np.where(raw == FILL, np.nan, (raw.astype(np.float64) * scale + offset) * 1.11)
    bright = np.where(factor > 0, np.pi * light * factor / flux[detector], np.nan)
    for found, pixels in ((rads, light), (refs, bright)):
        blocks = pixels.reshape(rows, 2, cols, 2).transpose(0, 2, 1, 3).reshape(rows, cols, 4)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(blocks).all(axis=-1))
        valid = ~np.isnan(found)
        if valid.any():
            np.testing.assert_allclose(found[valid], np.nanmean(blocks[valid], axis=-1), rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), part=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["i1", "u1", "i2", "u2", "i4", "f4", "f8", "i8"]), shuffle=st.booleans(), level=st.integers(0, 9),
)  # fmt: skip
def test_chunks_of_any_size_and_type_are_read_as_hdf5_reads_them(
    shape: tuple[int, int], part: tuple[int, int], kind: str, shuffle: bool, level: int
) -> None:
    array = np.random.default_rng(3).integers(0, 256, (*shape, np.dtype(kind).itemsize)).astype(np.uint8).view(kind)[..., 0]
    size = tuple(min(pair) for pair in zip(shape, part, strict=True))
    with tempfile.TemporaryFile() as store, h5py.File(store, "w") as file:
        data = file.create_dataset("x", data=array, chunks=size, shuffle=shuffle, compression="gzip", compression_opts=level)
        out = np.zeros(shape, kind)
        assert chunks.read(data, out) == (chunks.inflater() is not None)
        if chunks.inflater() is not None:
            assert out.tobytes() == array.tobytes()


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 230), width=st.integers(1, 12), seed=st.integers(0, 10**6), layout=st.sampled_from(hdf.LAYOUTS),
    missing=st.floats(0, 1), zeros=st.booleans(), day=st.booleans(),
)  # fmt: skip
def test_frames_survive_their_files(height: int, width: int, seed: int, layout: str, missing: float, zeros: bool, day: bool) -> None:
    rng = np.random.default_rng(seed)
    arrays = []
    for channels, base in ((6, 0.01), (3, 200), (6, 1)):
        array = (base + 100 * rng.random((height, width, channels))).astype(np.float16).astype(np.float32)
        array[rng.random(array.shape) < missing] = np.nan
        arrays.append(array)
    bits = rng.integers(0, 16, (height, width)).astype(np.uint8)
    frame = Frame(refs_hwc=arrays[0], bts_hwc=arrays[1], rads_hwc=arrays[2], bayes_hw=bits, summary_hw=bits & 1, day=day)
    with tempfile.TemporaryDirectory() as folder:
        hdf.write(Path(folder) / "x.hdf", frame, layout, zeros=zeros and layout == "published")
        assert hdf.is_complete(Path(folder) / "x.hdf")
        found = hdf.read(Path(folder) / "x.hdf", [*hdf.FIELDS, "rads"])
    for name in ("refs_hwc", "bts_hwc", "rads_hwc", "bayes_hw", "summary_hw"):
        np.testing.assert_array_equal(getattr(found, name), getattr(frame, name))
    assert found.day == day


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=64), cut=st.booleans()
)  # fmt: skip
def test_damage_anywhere_ends_in_a_frame_or_in_one_sentence(product: Path, name: str, where: float, junk: bytes, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / NAME
        own.mkdir()
        for other in FILES:
            (own / other).symlink_to(product / other)
        (own / name).unlink()
        shutil.copyfile(product / name, own / name)
        with open(own / name, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(int(where * size))
            file.write(junk[: size - int(where * size)])
            if cut:
                file.truncate(int(where * size))
        try:
            read_frame(own)
        except RunError as error:
            assert str(own) in str(error)
            assert "\n" not in str(error)
