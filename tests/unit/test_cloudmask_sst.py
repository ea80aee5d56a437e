"""Satellite against buoy: the statistics by hand, each filter, both subsets, and what is said where something is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stormbench.cloudmask import masks, sources, sst
from stormbench.core.errors import RunError, UserError
from tests.cloudmask_masks import product_name, write_mask

GOOD = {
    "isst": 15.0, "slat": 10.0, "slon": 20.0, "latitude_an": 10.0, "longitude_an": 20.0, "satzan": 30.0, "satzao": 55.0, "quality_level": 5,
    "sst_algorithm_type": 4, "sat_sst_2": 288.15, "y_cems": 3, "x_cems": 4, "pcloudn": 0.1, "pcloudo": 0.2, "bayes_in": 0,
}  # fmt: skip
HEIGHT, WIDTH = 10, 12


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    mask_hw = np.full((HEIGHT, WIDTH), 0.9, np.float32)
    mask_hw[3, 4:8] = 0.1
    mask_hw[9, 11] = 0.5
    write_mask(tmp_path / "masks" / f"{product_name(0)}.h5", mask_hw)
    return tmp_path / "masks"


def write_table(path: Path, *rows: dict[str, Any], key: str = "data") -> Path:
    """Write match-ups that are good but for what a row says otherwise."""
    columns = [{"cems_path": f"/archive/2019/{product_name(0)}.zip", **GOOD, **row} for row in rows]
    pd.DataFrame(columns).to_hdf(path, key=key)
    return path


def differing(kelvin: float, **more: Any) -> dict[str, Any]:
    """Return a match-up where the satellite is so much warmer than the buoy."""
    return {"sat_sst_2": 15.0 + 273.15 + kelvin, **more}


def left(record: dict[str, Any]) -> list[int]:
    return [step["left"] for step in record["filters"]]


def test_robust_standard_deviation_by_hand() -> None:
    # the median is 3, the deviations 2 1 0 1 7, their median 1
    assert sst.robust_std([1.0, 2.0, 3.0, 4.0, 10.0]) == pytest.approx(1.4826)
    # between two numbers in the middle lies their mean: median 2.5, deviations 1.5 0.5 0.5 1.5
    assert sst.robust_std(np.array([1, 2, 3, 4])) == pytest.approx(1.4826)
    assert sst.robust_std([5.0]) == 0.0


def test_robust_standard_deviation_of_normal_numbers_is_theirs() -> None:
    assert sst.robust_std(np.random.default_rng(0).normal(7, 2.5, 200_000)) == pytest.approx(2.5, rel=0.01)


def test_robust_standard_deviation_leaves_out_what_is_missing() -> None:
    assert sst.robust_std(pd.Series([1.0, math.nan, 2.0, 3.0])) == pytest.approx(1.4826)
    assert math.isnan(sst.robust_std([]))
    assert math.isnan(sst.robust_std([math.nan]))


def test_statistics_of_both_masks_by_hand(tmp_path: Path, predictions: Path) -> None:
    cloudy = {"y_cems": 5, "x_cems": 5}
    table = write_table(
        tmp_path / "t.h5",
        differing(0.1), differing(-0.2), differing(0.4), differing(-3.0, bayes_in=1, **cloudy), differing(1.0, pcloudo=0.95, bayes_in=2),
    )  # fmt: skip
    record = sst.run(table, predictions)
    # Bayesian: -3, -0.2, 0.1, 0.4: median -0.05, deviations 2.95 0.15 0.15 0.45, their median 0.3
    assert record["bayes"] == {"count": 4, "median": pytest.approx(-0.05), "robust_std": pytest.approx(1.4826 * 0.3)}
    # model: -0.2, 0.1, 0.4, 1.0: median 0.25, deviations 0.45 0.15 0.15 0.75, their median 0.3
    assert record["model"] == {"count": 4, "median": pytest.approx(0.25), "robust_std": pytest.approx(1.4826 * 0.3)}
    # the masks differ on the last row only; the selections on the last two
    assert record["agreement"] == pytest.approx(4 / 5)
    assert record["selection_agreement"] == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"slat": 10.005}, 1), ({"slat": 9.994}, 1), ({"slon": 20.01}, 2), ({"slon": 19.98}, 2), ({"isst": 0.0}, 3), ({"isst": -1.8}, 3),
        ({"satzan": 55.01}, 4), ({"satzao": 56.0}, 4), ({"quality_level": 4}, 5), ({"sst_algorithm_type": 3}, 6),
        ({"sat_sst_2": 273.15}, 7), ({"sat_sst_2": math.nan}, 7), ({"isst": math.nan}, 3),
    ],
)  # fmt: skip
def test_each_filter_takes_its_match_ups_and_is_counted(tmp_path: Path, predictions: Path, change: dict[str, float], step: int) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {}, change, {}), predictions, plot=False)
    assert left(record) == [3] * step + [2] * (10 - step)


@pytest.mark.parametrize(
    "change",
    [{"slat": 10.0049}, {"slon": 19.9901}, {"isst": 0.1, "sat_sst_2": 273.2}, {"satzan": 55.0, "satzao": 55.0}, {"sat_sst_2": 273.16}],
)
def test_match_ups_within_the_limits_stay(tmp_path: Path, predictions: Path, change: dict[str, float]) -> None:
    assert left(sst.run(write_table(tmp_path / "t.h5", {}, change), predictions, plot=False))[-1] == 2


@pytest.mark.parametrize(("near", "far", "count"), [(0.89, 0.89, 2), (0.9, 0.1, 1), (0.1, 0.9, 1)])
def test_bayesian_subset_needs_both_views_clear(tmp_path: Path, predictions: Path, near: float, far: float, count: int) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {}, {"pcloudn": near, "pcloudo": far}), predictions, plot=False)
    assert record["bayes"]["count"] == count


def test_mask_of_one_half_is_cloud(tmp_path: Path, predictions: Path) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {}, {"y_cems": 9, "x_cems": 11, "bayes_in": 1}), predictions, plot=False)
    assert record["model"]["count"] == 1
    assert record["agreement"] == 1.0


def test_min_sst_moves_both_of_its_filters(tmp_path: Path, predictions: Path) -> None:
    table = write_table(tmp_path / "t.h5", {}, {"isst": 1.0}, {"sat_sst_2": 274.0})
    assert left(sst.run(table, predictions, min_sst=275.0, plot=False))[3] == 2
    assert left(sst.run(table, predictions, min_sst=275.0, plot=False))[-1] == 1


def test_pixels_without_a_measurement_are_left_out(tmp_path: Path, predictions: Path) -> None:
    valid_hw = np.ones((HEIGHT, WIDTH), bool)
    valid_hw[3, 4] = False
    write_mask(predictions / f"{product_name(1)}.h5", np.zeros((HEIGHT, WIDTH)), valid_hw)
    mask_hw = np.zeros((HEIGHT, WIDTH))
    mask_hw[3, 4] = np.nan
    write_mask(predictions / f"{product_name(2)}.h5", mask_hw)
    rows = [{"cems_path": f"{product_name(number)}.SEN3"} for number in (0, 1, 2)]
    record = sst.run(write_table(tmp_path / "t.h5", *rows), predictions, plot=False)
    assert left(record)[-2:] == [3, 1]
    assert record["model"]["count"] == 1


@pytest.mark.parametrize("path", ["{}.SEN3", "/neodc/{}.zip", "{}", "a\\b\\{}.SEN3", "/x/{}.SEN3/geodetic_an.nc", "{}.SEN3/"])
def test_product_is_found_in_any_path(tmp_path: Path, predictions: Path, path: str) -> None:
    table = write_table(tmp_path / "t.h5", {"cems_path": path.format(product_name(0))})
    assert left(sst.run(table, predictions, plot=False))[-1] == 1


def test_masks_of_the_public_program_are_found_by_their_names(tmp_path: Path, predictions: Path) -> None:
    path = predictions / f"{product_name(0)}.h5"
    path.rename(path.with_name(f"{product_name(0)}.hdf.h5"))
    assert left(sst.run(write_table(tmp_path / "t.h5", {}), predictions, plot=False))[-1] == 1


def test_columns_may_be_in_capitals_and_further_ones_are_passed_over(tmp_path: Path, predictions: Path) -> None:
    columns = {name.upper(): [value] for name, value in GOOD.items()} | {"CEMS_PATH": [product_name(0)], "buoy": ["4711"]}
    pd.DataFrame(columns).to_hdf(tmp_path / "t.h5", key="x", format="table")
    assert left(sst.run(tmp_path / "t.h5", predictions, plot=False))[-1] == 1


def test_products_without_a_mask_are_counted_and_named(tmp_path: Path, predictions: Path) -> None:
    rows = [{"cems_path": product_name(number)} for number in (0, 7, 8, 8)]
    record = sst.run(write_table(tmp_path / "t.h5", *rows), predictions, plot=False)
    assert left(record)[-3:] == [4, 1, 1]
    (note,) = record["notes"]
    assert f"2 products of the table have no mask in {predictions}: {product_name(7)}, {product_name(8)}" in note


def test_no_mask_at_all_is_refused(tmp_path: Path, predictions: Path) -> None:
    with pytest.raises(UserError, match=r"masks: has no mask <product>\.h5 of any of the 1 products of .*t\.h5, such as S3A_"):
        sst.run(write_table(tmp_path / "t.h5", {"cems_path": product_name(5)}), predictions)


def test_empty_subsets_are_told_and_have_no_numbers(tmp_path: Path, predictions: Path) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {"y_cems": 0, "x_cems": 0, "pcloudn": 0.99}), predictions)
    for name in ("bayes", "model"):
        assert record[name] == {"count": 0, "median": None, "robust_std": None}
    assert record["notes"] == [
        "The Bayesian mask calls none of the 1 match-ups clear, so it has no statistics.",
        "The model's mask calls none of the 1 match-ups clear, so it has no statistics.",
    ]
    assert "none" in sst.text(record)


def test_nothing_left_after_the_filters_is_told(tmp_path: Path, predictions: Path) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {"quality_level": 1}), predictions)
    assert record["notes"] == ["No match-up passes the filters, so there is nothing to compare."]
    assert record["agreement"] is None
    assert "no match-ups to agree on" in sst.text(record)


def test_result_is_written_as_json_and_picture(tmp_path: Path, predictions: Path) -> None:
    record = sst.run(write_table(tmp_path / "t.h5", {}, differing(0.3)), predictions, output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "sst_comparison.json").read_text()) == record
    assert (tmp_path / "out" / "sst_comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in predictions.iterdir()) == [f"{product_name(0)}.h5"]


def test_table_for_people_has_all_figures(tmp_path: Path, predictions: Path) -> None:
    shown = sst.text(sst.run(write_table(tmp_path / "t.h5", {}, differing(0.5), differing(-1)), predictions, plot=False))
    lines = [line.split() for line in shown.splitlines()]
    assert ["Bayesian", "3", "+0.0000", "0.7413"] in lines
    assert ["quality", "level", "5", "3"] in lines
    assert "Agreement: 100.00% of the match-ups have the same mask in both." in shown


def test_several_tables_need_a_key(tmp_path: Path, predictions: Path) -> None:
    table = write_table(tmp_path / "t.h5", {})
    write_table(table, {}, {}, key="more")
    with pytest.raises(UserError, match=r"t\.h5: holds 2 tables; give one of data, more by --key"):
        sst.run(table, predictions)
    with pytest.raises(UserError, match=r"--key mroe: not a table of .*; did you mean more\?"):
        sst.run(table, predictions, key="mroe")
    assert left(sst.run(table, predictions, key="more", plot=False))[0] == 2


def without_column(path: Path) -> str:
    write_table(path, {})
    pd.read_hdf(path).drop(columns="pcloudo").rename(columns={"pcloudn": "pclouds"}).to_hdf(path, key="data", mode="w")
    return r"t\.h5: the table has no column pcloudn; did you mean pclouds\?"


def of_words(path: Path) -> str:
    write_table(path, {"isst": "warm"})
    return r"t\.h5: column isst holds something other than numbers"


def of_text(path: Path) -> str:
    path.write_text("isst,slat\n")
    return r"t\.h5: can't be read as a table of pandas \(file signature not found\)"


def cut_off(path: Path) -> str:
    write_table(path, {})
    path.write_bytes(path.read_bytes()[:3000])
    return r"t\.h5: can't be read as a table of pandas"


def a_series(path: Path) -> str:
    pd.Series([1.0, 2.0]).to_hdf(path, key="data")
    return r"t\.h5: holds a Series, must hold a table with columns"


def without_table(path: Path) -> str:
    write_mask(path, np.zeros((2, 2)))
    return r"t\.h5: holds no table of pandas"


@pytest.mark.parametrize("damage", [without_column, of_words, of_text, cut_off, a_series, without_table])
def test_bad_tables_are_told_in_one_sentence(tmp_path: Path, predictions: Path, damage) -> None:
    with pytest.raises(RunError, match=damage(tmp_path / "t.h5")) as caught:
        sst.run(tmp_path / "t.h5", predictions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"y_cems": 10}, {"x_cems": -1}, {"y_cems": 1.5}, {"x_cems": math.nan}])
def test_pixel_outside_the_mask_is_refused(tmp_path: Path, predictions: Path, change: dict[str, float]) -> None:
    with pytest.raises(RunError, match=r"a match-up points at row .*, which is no pixel of its 10 x 12"):
        sst.run(write_table(tmp_path / "t.h5", {}, change), predictions)


def test_damaged_masks_are_named(tmp_path: Path, predictions: Path) -> None:
    path = predictions / f"{product_name(0)}.h5"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(RunError, match=r"S3A_.*\.h5: can't be read as a mask .*predict its product again"):
        sst.run(write_table(tmp_path / "t.h5", {}), predictions)


def test_missing_table_and_folder_are_refused(tmp_path: Path, predictions: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.h5: no such file; give the table of match-ups"):
        sst.run(tmp_path / "nothing.h5", predictions)
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        sst.run(write_table(tmp_path / "t.h5", {}), tmp_path / "nowhere")


def test_product_with_two_masks_is_refused(tmp_path: Path, predictions: Path) -> None:
    write_mask(predictions / "old" / f"{product_name(0)}.h5", np.zeros((HEIGHT, WIDTH)))
    with pytest.raises(UserError, match=r"is a mask of the same product as .*; give the folder of one run"):
        sst.run(write_table(tmp_path / "t.h5", {}), predictions)


@pytest.mark.parametrize("kelvin", [273.0, math.nan, math.inf])
def test_lowest_temperature_below_freezing_is_refused(tmp_path: Path, predictions: Path, kelvin: float) -> None:
    with pytest.raises(UserError, match=r"--min_sst .*: must be at least 273\.15, in kelvin"):
        sst.run(write_table(tmp_path / "t.h5", {}), predictions, min_sst=kelvin)


def by_the_table(table: Path, predictions: Path) -> None:
    with pd.HDFStore(table) as store:
        store.get_storer("data").attrs.comment = "Generated, no observation."


def by_a_mask(table: Path, predictions: Path) -> None:
    masks.write_mask(
        predictions / f"{product_name(0)}.h5", np.zeros((HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), bool), {"generated": True}
    )  # fmt: skip


@pytest.mark.parametrize("mark", [by_the_table, by_a_mask])
def test_generated_data_is_said_to_be_generated(tmp_path: Path, predictions: Path, mark: Callable[[Path, Path], None]) -> None:
    table = write_table(tmp_path / "t.h5", {}, {})
    plain = sst.run(table, predictions, plot=False)
    assert not plain["generated"]
    assert "enerated" not in sst.text(plain)
    mark(table, predictions)
    record = sst.run(table, predictions)
    assert record["generated"]
    assert "Generated data: this shows that everything works, and says nothing about accuracy" in sst.text(record)
    assert json.loads((predictions / "sst_comparison.json").read_text())["notes"] == [sources.GENERATED_NOTE]


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
def test_paths_may_be_bytes(tmp_path: Path, predictions: Path) -> None:
    table = write_table(tmp_path / "t.h5", {"cems_path": f"/x/{product_name(0)}.SEN3".encode()})
    assert left(sst.run(table, predictions, plot=False))[-1] == 1
