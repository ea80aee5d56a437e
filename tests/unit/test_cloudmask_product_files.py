"""Products as different programs store them all read alike, with and without the fast inflater; damaged ones are named."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest

from stormbench.cloudmask import chunks
from stormbench.cloudmask.frame import Frame
from stormbench.cloudmask.netcdf import NetCDF
from stormbench.cloudmask.product import FILES, read_frame
from stormbench.core.errors import RunError
from tests import sen3_files
from tests.sen3_files import NAME, change, scene

STORAGES = {
    "contiguous": ("netCDF4", {}),
    "deflated": ("netCDF4", {"zlib": True, "complevel": 4, "shuffle": False}),
    "shuffled": ("netCDF4", {"zlib": True, "complevel": 1, "shuffle": True}),
    "uneven chunks": ("netCDF4", {"zlib": True, "chunksizes": (5, 7)}),
    "checksummed": ("netCDF4", {"zlib": True, "fletcher32": True}),
    "h5py": ("h5py", {}),
    "h5py deflated": ("h5py", {"chunks": (3, 80), "compression": "gzip", "shuffle": True}),
    "h5py lzf": ("h5py", {"chunks": (4, 8), "compression": "lzf"}),
}


def same(one: Frame, other: Frame) -> None:
    for name in ("refs_hwc", "bts_hwc", "rads_hwc", "bayes_hw", "summary_hw"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.day == other.day


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product that tests may read; they copy it to damage it."""
    return sen3_files.write(tmp_path_factory.mktemp("whole") / NAME, scene(), zlib=True)


@pytest.fixture
def own(product: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(product, tmp_path / NAME))


@pytest.fixture(params=[True, False], ids=["libdeflate", "hdf5"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(chunks, "inflater", lambda: None)
    elif chunks.inflater() is None:
        pytest.skip("the package deflate isn't installed")


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(product: Path, tmp_path: Path, storage: str) -> None:
    writer, options = STORAGES[storage]
    other = sen3_files.write(tmp_path / NAME, scene(), writer=writer, **options)
    same(read_frame(other, rads=True), read_frame(product, rads=True))


@pytest.mark.parametrize("storage", ["deflated", "shuffled", "uneven chunks", "h5py deflated"])
def test_deflated_chunks_do_not_go_through_the_filters_of_hdf5(tmp_path: Path, storage: str) -> None:
    if chunks.inflater() is None:
        pytest.skip("the package deflate isn't installed")
    writer, options = STORAGES[storage]
    folder = sen3_files.write(tmp_path / NAME, scene(), writer=writer, **options)
    for name in ("S1_radiance_an", "S7_BT_in"):
        with h5py.File(folder / f"{name}.nc") as file:
            out = np.empty(file[name].shape, file[name].dtype)
            assert chunks.read(file[name], out)
            np.testing.assert_array_equal(out, file[name][...])


def test_chunks_that_nobody_wrote_hold_the_fill(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as file:
        data = file.create_dataset("x", (8, 8), "i2", chunks=(4, 4), compression="gzip", fillvalue=-5)
        data[:4] = 1
        data.attrs["_FillValue"] = np.int16(-5)
    with NetCDF(tmp_path / "x.nc") as file:
        np.testing.assert_array_equal(file.variable("x").values(), np.repeat([[1.0], [np.nan]], 4, axis=0).repeat(8, axis=1))


def test_chunk_that_a_writer_left_unfiltered_is_read(tmp_path: Path) -> None:
    array = np.arange(32, dtype=np.int16).reshape(4, 8)
    with h5py.File(tmp_path / "x.nc", "w") as file:
        data = file.create_dataset("x", (4, 8), "i2", chunks=(4, 4), compression="gzip", shuffle=True)
        data[:, :4] = array[:, :4]
        # the bits of both filters, as HDF5 sets them where a filter made a chunk no smaller
        data.id.write_direct_chunk((0, 4), array[:, 4:].tobytes(), filter_mask=3)
    with NetCDF(tmp_path / "x.nc") as file:
        np.testing.assert_array_equal(file.variable("x").raw(), array)


def test_chunk_of_another_size_is_reported(tmp_path: Path) -> None:
    if chunks.inflater() is None:
        pytest.skip("the package deflate isn't installed")
    with h5py.File(tmp_path / "x.nc", "w") as file:
        data = file.create_dataset("x", (4, 4), "i2", chunks=(4, 4), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(30)))
    with NetCDF(tmp_path / "x.nc") as file, pytest.raises(RunError, match=r"x\.nc: x can't be read .*has 30 bytes, must have 32"):
        file.variable("x").raw()


@pytest.mark.parametrize("kind", ["f4", "f8", ">f4", ">i4", "i4", "i8"])
def test_stored_types_do_not_matter(product: Path, own: Path, kind: str) -> None:
    def store(file: h5py.File) -> None:
        for name in ("S1_radiance_an", "S7_BT_in"):
            if name in file:
                attributes, array = dict(file[name].attrs), file[name][...]
                del file[name]
                data = file.create_dataset(name, data=array.astype(kind))
                for key in ("scale_factor", "add_offset", "_FillValue"):
                    data.attrs[key] = attributes[key]

    change(own / "S1_radiance_an.nc", store)
    change(own / "S7_BT_in.nc", store)
    same(read_frame(own, rads=True), read_frame(product, rads=True))


def test_signed_bytes_declared_unsigned_are_read_as_such(product: Path, own: Path) -> None:
    def store(file: h5py.File) -> None:
        for name, signed in (("detector_an", "i1"), ("bayes_in", "i1"), ("confidence_in", "i2")):
            if name in file:
                attributes, array = dict(file[name].attrs), file[name][...]
                del file[name]
                data = file.create_dataset(name, data=array.view(signed))
                data.attrs["_Unsigned"] = "true"
                for key, value in attributes.items():
                    if key in ("flag_meanings", "flag_masks", "_FillValue"):
                        data.attrs[key] = value if isinstance(value, (str, bytes)) else value.view(signed)

    change(own / "indices_an.nc", store)
    change(own / "flags_in.nc", store)
    same(read_frame(own, rads=True), read_frame(product, rads=True))


def test_numbers_fills_and_masks_of_signed_types_that_mean_unsigned_ones(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as file:
        data = file.create_dataset("x", data=np.array([[60000, 65534], [5, 40000]], np.uint16).view(np.int16))
        data.attrs.update({"_Unsigned": "true", "_FillValue": np.int16(-2), "scale_factor": 0.5})
        flags = file.create_dataset("flags", data=np.array([[-32768, 1], [3, 0]], np.int16))
        flags.attrs.update({"flag_meanings": "low high", "flag_masks": np.array([1, -32768], np.int16)})
    with NetCDF(tmp_path / "x.nc") as file:
        np.testing.assert_array_equal(file.variable("x").values(), [[30000, np.nan], [2.5, 20000]])
        bits, masks = file.variable("flags").flags()
    assert masks == {"low": 1, "high": 32768}
    np.testing.assert_array_equal((bits & masks["high"]) > 0, [[True, False], [False, False]])


@pytest.mark.parametrize("value", [np.float32(0.02), 0.02, np.array([0.02]), np.array([0.02], ">f4"), np.array(0.02, np.float16)])
def test_scale_may_be_of_any_form(own: Path, value: np.ndarray) -> None:
    def store(file: h5py.File) -> None:
        file["S1_radiance_an"].attrs["scale_factor"] = value

    change(own / "S1_radiance_an.nc", store)
    with NetCDF(own / "S1_radiance_an.nc") as file:
        assert file.variable("S1_radiance_an").packing().scale == float(np.ravel(value)[0])


def test_absent_packing_and_other_fills_follow_the_conventions(own: Path) -> None:
    def store(file: h5py.File) -> None:
        attributes = file["S7_BT_in"].attrs
        for key in ("scale_factor", "add_offset", "_FillValue"):
            del attributes[key]

    change(own / "S7_BT_in.nc", store)
    with NetCDF(own / "S7_BT_in.nc") as file:
        packing = file.variable("S7_BT_in").packing()
    assert (packing.scale, packing.offset, packing.fills) == (1.0, 0.0, (-32767,))
    change(own / "S7_BT_in.nc", lambda file: file["S7_BT_in"].attrs.create("missing_value", np.float32(-1)))
    with NetCDF(own / "S7_BT_in.nc") as file:
        assert file.variable("S7_BT_in").packing().fills == (-1,)


@pytest.mark.parametrize("text", ["[ 16000 1000 ]", "[1000, 16000]", b"[ 16000 1000 ]", np.array([16000, 1000])])
def test_resolution_is_understood_in_any_form(product: Path, own: Path, text: object) -> None:
    change(own / "geometry_tn.nc", lambda file: file.attrs.create("resolution", text))
    same(read_frame(own, rads=True), read_frame(product, rads=True))


def test_netcdf_library_reads_the_same_numbers(product: Path) -> None:
    with netCDF4.Dataset(product / "S3_radiance_an.nc") as reference, NetCDF(product / "S3_radiance_an.nc") as file:
        np.testing.assert_allclose(file.variable("S3_radiance_an").values(), reference["S3_radiance_an"][...].filled(np.nan), rtol=1e-12)


def set_attribute(variable: str, name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[variable].attrs.create(name, value)


def put(variable: str, array: np.ndarray, **attributes: object) -> Callable[[h5py.File], None]:
    def store(file: h5py.File) -> None:
        kept = dict(file[variable].attrs)
        del file[variable]
        data = file.create_dataset(variable, data=array)
        for key, value in {**kept, **attributes}.items():
            if key not in ("DIMENSION_LIST", "CLASS", "NAME", "REFERENCE_LIST"):
                data.attrs[key] = value

    return store


def remove(variable: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(variable)


DAMAGES = {
    "no radiance variable": ("S4_radiance_an.nc", remove("S4_radiance_an")),
    "no temperature variable": ("S8_BT_in.nc", remove("S8_BT_in")),
    "no irradiance": ("S2_quality_an.nc", remove("S2_solar_irradiance_an")),
    "no detectors": ("indices_an.nc", remove("detector_an")),
    "no zenith": ("geometry_tn.nc", remove("solar_zenith_tn")),
    "no confidence": ("flags_in.nc", remove("confidence_in")),
    "no Bayesian mask": ("flags_in.nc", remove("bayes_in")),
    "variable is a group": ("S8_BT_in.nc", lambda file: (file.__delitem__("S8_BT_in"), file.create_group("S8_BT_in"))),
    "variable is text": ("S8_BT_in.nc", put("S8_BT_in", np.full((6, 40), b"x"))),
    "radiances too small": ("S5_radiance_an.nc", put("S5_radiance_an", np.zeros((6, 40), np.int16))),
    "radiances transposed": ("S1_radiance_an.nc", put("S1_radiance_an", np.zeros((80, 12), np.int16))),
    "three dimensions": ("S7_BT_in.nc", put("S7_BT_in", np.zeros((1, 6, 40), np.int16))),
    "a scalar": ("S7_BT_in.nc", put("S7_BT_in", np.array(3, np.int16))),
    "no rows": ("S7_BT_in.nc", put("S7_BT_in", np.zeros((0, 40), np.int16))),
    "temperatures of another size": ("S9_BT_in.nc", put("S9_BT_in", np.zeros((6, 41), np.int16))),
    "flags of another size": ("flags_in.nc", put("confidence_in", np.zeros((5, 40), np.uint16))),
    "zenith as a row": ("geometry_tn.nc", put("solar_zenith_tn", np.zeros(130))),
    "scale 0": ("S1_radiance_an.nc", set_attribute("S1_radiance_an", "scale_factor", 0.0)),
    "scale NaN": ("S1_radiance_an.nc", set_attribute("S1_radiance_an", "scale_factor", np.nan)),
    "scale infinite": ("S7_BT_in.nc", set_attribute("S7_BT_in", "scale_factor", np.inf)),
    "scale huge": ("S6_radiance_an.nc", set_attribute("S6_radiance_an", "scale_factor", 1e30)),
    "scale tiny": ("S6_radiance_an.nc", set_attribute("S6_radiance_an", "scale_factor", 1e-30)),
    "scale of a thousandfold": ("S7_BT_in.nc", set_attribute("S7_BT_in", "scale_factor", 10.0)),
    "scale of many": ("S1_radiance_an.nc", set_attribute("S1_radiance_an", "scale_factor", np.ones(3))),
    "scale as text": ("S1_radiance_an.nc", set_attribute("S1_radiance_an", "scale_factor", "much")),
    "offset huge": ("S7_BT_in.nc", set_attribute("S7_BT_in", "add_offset", 1e20)),
    "offset of centigrade": ("S7_BT_in.nc", set_attribute("S7_BT_in", "add_offset", 10.58)),
    "radiances beyond the sun's": ("S6_radiance_an.nc", set_attribute("S6_radiance_an", "scale_factor", 1.0)),
    "zenith absurd": ("geometry_tn.nc", put("solar_zenith_tn", np.full((7, 130), 1e12))),
    "irradiance zero": ("S3_quality_an.nc", put("S3_solar_irradiance_an", np.zeros(4))),
    "irradiance absurd": ("S3_quality_an.nc", put("S3_solar_irradiance_an", np.full(4, 1e20))),
    "detector out of range": ("indices_an.nc", put("detector_an", np.full((12, 80), 4, np.uint8))),
    "detector as fraction": ("indices_an.nc", put("detector_an", np.full((12, 80), 0.5), _FillValue=np.float64(255))),
    "flags without meanings": ("flags_in.nc", set_attribute("confidence_in", "flag_meanings", "coastline ocean")),
    "flags as fractions": ("flags_in.nc", put("confidence_in", np.zeros((6, 40)))),
    "no start offset": ("S1_radiance_an.nc", lambda file: file.attrs.__delitem__("start_offset")),
    "start offset NaN": ("geometry_tn.nc", lambda file: file.attrs.create("start_offset", np.nan)),
    "tie points of another orbit": ("geometry_tn.nc", lambda file: file.attrs.create("start_offset", 10)),
    "resolution as words": ("geometry_tn.nc", lambda file: file.attrs.create("resolution", "fine")),
    "channels at different places": ("S4_radiance_an.nc", lambda file: file.attrs.create("start_offset", 152896)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_sentence_that_names_the_file(own: Path, damage: str) -> None:
    name, how = DAMAGES[damage]
    change(own / name, how)
    with pytest.raises(RunError) as caught:
        read_frame(own)
    assert str(own / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(own: Path, name: str) -> None:
    (own / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: the file is missing"):
        read_frame(own)


@pytest.mark.parametrize("name", ["S1_radiance_an.nc", "S9_BT_in.nc", "flags_in.nc", "indices_an.nc"])
@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_truncated_file_is_named(own: Path, name: str, keep: float) -> None:
    size = (own / name).stat().st_size
    os.truncate(own / name, int(keep * size) if 0 < keep < 1 else int(keep))
    with pytest.raises(RunError, match=rf"{name}: can't be read"):
        read_frame(own)


def test_truncated_file_of_a_night_product_is_named_too(tmp_path: Path) -> None:
    folder = sen3_files.write(tmp_path / NAME, scene(zenith=(100, 120)), zlib=True)
    assert np.isnan(read_frame(folder).refs_hwc).all()
    os.truncate(folder / "S3_radiance_an.nc", 4000)
    with pytest.raises(RunError, match=r"S3_radiance_an.nc: can't be read"):
        read_frame(folder)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"CDF\x01" + bytes(100), os.urandom(5000)])
def test_other_files_are_refused(own: Path, content: bytes) -> None:
    (own / "S1_radiance_an.nc").write_bytes(content)
    with pytest.raises(RunError, match=r"S1_radiance_an.nc: (can't be read|a file of the classic NetCDF format)"):
        read_frame(own)


@pytest.mark.usefixtures("inflater")
def test_chunk_with_wrong_bytes_is_reported(own: Path) -> None:
    with h5py.File(own / "S1_radiance_an.nc") as file:
        at = file["S1_radiance_an"].id.get_chunk_info(0)
    with open(own / "S1_radiance_an.nc", "r+b") as raw:
        raw.seek(at.byte_offset + at.size // 2)
        raw.write(b"\xff" * 40)
    with pytest.raises(RunError, match=r"S1_radiance_an.nc: S1_radiance_an can't be read"):
        read_frame(own)


def test_folder_with_another_name_and_no_folder_are_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"other\.SEN3: .*not the name of an SLSTR level 1 product"):
        read_frame(own.rename(tmp_path / "other.SEN3"))
    with pytest.raises(RunError, match="not a folder"):
        read_frame(tmp_path / NAME)
