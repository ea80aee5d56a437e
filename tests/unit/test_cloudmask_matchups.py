"""Match-ups of generated products: the published table, buoys that agree with the products, and rows for every filter."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stormbench.cloudmask import matchups, names, scene, sen3
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import pixels
from stormbench.core.errors import UserError

GRANULES = [Granule(seed=5, orbit=number, frame=frame, height=96, width=128) for number in range(3) for frame in (9, 11, 12, 13, 14)]


@pytest.fixture(scope="module")
def found() -> matchups.Rows:
    return matchups.join([matchups.rows(granule, scene.draw(granule)) for granule in GRANULES])


@pytest.fixture(scope="module")
def table(found: matchups.Rows, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("matchups") / matchups.NAME
    matchups.write(path, found)
    return pd.read_hdf(path)


def filters(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The published filters, each true where it keeps a row."""
    return {
        "latitude": (table.slat - table.latitude_an).abs() < 0.005,
        "longitude": (table.slon - table.longitude_an).abs() < 0.01,
        "buoy": table.isst + 273.15 > 273.15,
        "nadir": table.satzan <= 55,
        "oblique": table.satzao <= 55,
        "quality": table.quality_level == 5,
        "algorithm": table.sst_algorithm_type == 4,
        "satellite": table.sat_sst_2 > 273.15,
    }


def kept(table: pd.DataFrame) -> pd.DataFrame:
    return table[np.logical_and.reduce(list(filters(table).values()))]


def difference(table: pd.DataFrame) -> np.ndarray:
    return (table.sat_sst_2 - (table.isst + 273.15)).to_numpy()


def robust_std(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def test_columns_are_the_published_ones(table: pd.DataFrame) -> None:
    assert set(table.columns) == {
        "isst", "slat", "slon", "latitude_an", "longitude_an", "satzan", "satzao", "quality_level", "sst_algorithm_type",
        "sat_sst_2", "cems_path", "y_cems", "x_cems", "pcloudn", "pcloudo", "bayes_in",
    }  # fmt: skip
    assert all(table[name].dtype == kind for name, kind in matchups.COLUMNS.items())


def test_every_filter_rejects_rows_that_all_others_keep(table: pd.DataFrame) -> None:
    keeps = filters(table)
    for name, mask in keeps.items():
        others = np.logical_and.reduce([other for key, other in keeps.items() if key != name])
        assert (others & ~mask).any(), name
        assert (others & mask).sum() > 50, name


def test_satellite_agrees_with_the_buoys_where_it_is_clear_and_is_colder_where_it_is_cloudy(table: pd.DataFrame) -> None:
    good = kept(table)
    clear, cloudy = good[good.pcloudn < 0.1], good[good.pcloudn > 0.9]
    assert abs(np.median(difference(clear))) < 0.15
    assert robust_std(difference(clear)) < 0.4
    assert np.median(difference(cloudy)) < -1
    bayes = good[(good.pcloudn < 0.9) & (good.pcloudo < 0.9)]
    assert len(clear) <= len(bayes) < len(good)
    assert robust_std(difference(bayes)) < robust_std(difference(good))


def test_paths_name_products_and_pixels_lie_in_them(table: pd.DataFrame) -> None:
    sensed = {names.parse(granule.name).sensing for granule in GRANULES}
    assert {names.parse(path).sensing for path in table.cems_path} <= sensed
    assert table.y_cems.between(0, 95).all()
    assert table.x_cems.between(0, 127).all()


def test_rows_are_what_the_products_say_at_their_pixels() -> None:
    granule = GRANULES[3]
    drawn = scene.draw(granule)
    rows = matchups.rows(granule, drawn)
    y, x = rows["y_cems"], rows["x_cems"]
    import netCDF4

    contents = {name: content for name, content in sen3.files(granule, drawn) if name in ("geodetic_an.nc", "flags_in.nc", "S8_BT_in.nc")}
    with netCDF4.Dataset("a", memory=contents["geodetic_an.nc"]) as file:
        latitude, longitude = (file[name][...] for name in ("latitude_an", "longitude_an"))
    with netCDF4.Dataset("b", memory=contents["flags_in.nc"]) as file:
        bayes, confidence = file["bayes_in"][...], file["confidence_in"][...]
        probability = file["probability_cloud_single_in"][...]
    np.testing.assert_array_equal(rows["bayes_in"], bayes[y, x])
    np.testing.assert_allclose(rows["pcloudn"], probability[y, x])
    assert (confidence[y, x] & 2 > 0).all()
    assert (confidence[y, x] & (32 | 256) == 0).all()
    for row in range(len(y)):
        # one of the four 500 m pixels in the pixel of 1 km
        block = np.s_[2 * y[row] : 2 * y[row] + 2, 2 * x[row] : 2 * x[row] + 2]
        places = list(zip(latitude[block].ravel(), longitude[block].ravel(), strict=True))
        place = (rows["latitude_an"][row], rows["longitude_an"][row])
        assert any(math.dist(place, other) < 2e-6 for other in places)


def test_buoys_lie_under_clear_sky_and_under_cloud() -> None:
    rows = matchups.rows(GRANULES[3], scene.draw(GRANULES[3]))
    assert len(rows["isst"]) == matchups.BUOYS_A_PRODUCT
    assert (rows["pcloudn"] > 0.5).sum() == matchups.BUOYS_A_PRODUCT // 2


def test_reprocessed_products_would_have_the_same_buoys() -> None:
    one, other = (Granule(seed=5, orbit=0, frame=12, height=96, width=128, reprocessing=number) for number in (0, 1))
    first, second = (matchups.rows(granule, scene.draw(granule)) for granule in (one, other))
    np.testing.assert_array_equal(first["isst"], second["isst"])


def test_products_without_sea_have_no_rows() -> None:
    granule = GRANULES[0]
    drawn = scene.draw(granule)
    drawn.confidence_hw[...] = 8
    rows = matchups.rows(granule, drawn)
    assert all(len(values) == 0 for values in rows.values())


def test_same_rows_give_the_same_bytes(found: matchups.Rows, tmp_path: Path) -> None:
    digests = set()
    for name in ("a.h5", "b.h5"):
        matchups.write(tmp_path / name, found)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        time.sleep(1.1)
    assert len(digests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_damaged_tables_are_told_from_complete_ones(found: matchups.Rows, tmp_path: Path) -> None:
    path = tmp_path / matchups.NAME
    assert not matchups.is_complete(path)
    matchups.write(path, found)
    assert matchups.is_complete(path)
    content = bytearray(path.read_bytes())
    place = content.find(found["slat"][:1].tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)
    assert not matchups.is_complete(path)
    path.write_bytes(content[: len(content) // 2])
    assert not matchups.is_complete(path)
    path.write_bytes(b"no table")
    assert not matchups.is_complete(path)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tables" else name)
    with pytest.raises(UserError, match=r"tables isn't installed, which writes sst_matchups\.h5"):
        matchups.check()


def test_adjacent_pixels_of_the_grid_are_not_all_buoys() -> None:
    """Buoys are drawn over the whole frame."""
    granule = GRANULES[3]
    rows = matchups.rows(granule, scene.draw(granule))
    assert np.ptp(rows["y_cems"]) > 40
    assert not pixels(granule, 1000).unfilled[rows["y_cems"], rows["x_cems"]].any()
