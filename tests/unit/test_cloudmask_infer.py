"""Inference over many products: masks from converted and raw ones, scores by hand, resuming, and broken products."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.cloudmask import infer, masks, predict, sources
from stormbench.cloudmask.convert import run as convert
from stormbench.cloudmask.patches import normalise
from stormbench.core.errors import RunError, UserError
from stormbench.core.work import Team
from tests import sen3_files
from tests.cloudmask_masks import frame, mask_files, product_name, random_weights, read_mask, write_frames, write_model

PUBLISHED_COLUMNS = ["section", "index", "system", "python", "num_gpus", "num_ranks", "ntasks_per_node", "total", "imgs_per_s"]
MARKS, PREPARE = "TEST_MARKS", infer.prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_frames(tmp_path / "hdf", 4)
    return tmp_path / "hdf"


def marking(cloud_bits: int, source: sources.Source) -> infer.Prepared | str:
    """Prepare a product, then leave a file that says in which process."""
    prepared = PREPARE(cloud_bits, source)
    (Path(os.environ[MARKS]) / source.name).write_text(str(os.getpid()))
    return prepared


def run(model: Path, data: Path, output: Path, **more) -> dict:
    return infer.run(model, data, output, **{"workers": 0, "progress": False, **more})


def test_each_product_gets_a_mask_of_its_size(model: Path, data: Path, tmp_path: Path) -> None:
    record = run(model, data, tmp_path / "masks")
    assert (record["products"], record["predicted"], record["skipped"], record["failed"]) == (4, 4, 0, 0)
    assert sorted(mask_files(tmp_path / "masks")) == [f"{product_name(number)}.h5" for number in range(4)]
    apply = predict.Predictor(random_weights())
    for number in range(4):
        image_hwc, _, valid_hw = normalise(frame(number, day=number % 2 == 0))
        mask = read_mask(tmp_path / "masks" / f"{product_name(number)}.h5")
        assert (mask.shape, mask.dtype) == ((1, 40, 60, 1), np.float32)
        np.testing.assert_allclose(mask[0, ..., 0][valid_hw], apply(image_hwc)[valid_hw], rtol=0, atol=1e-6)


def test_pixels_without_a_measurement_are_never_clear(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, data, tmp_path / "masks")
    with h5py.File(tmp_path / "masks" / f"{product_name(0)}.h5") as file:
        mask_hw, valid_hw = file["mask"][0, ..., 0], file["valid"][0, ..., 0]
        assert file["mask"].attrs["where_invalid"] == 1
    # one missing channel is enough, and at night the missing reflectances are none
    assert not valid_hw[:2, :5].any() and not valid_hw[4, 3:9].any() and not valid_hw[7, 7]
    assert (valid_hw == 0).sum() == 10 + 6 + 1
    assert (mask_hw[valid_hw == 0] == 1).all()
    assert np.isfinite(mask_hw).all() and mask_hw.min() >= 0 and mask_hw.max() <= 1
    with h5py.File(tmp_path / "masks" / f"{product_name(1)}.h5") as file:
        assert (file["valid"][:] == 0).sum() == 10 + 6


def test_pixel_for_which_the_network_has_no_number_is_not_valid(model: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    apply = predict.Predictor.__call__

    def absurd(self: predict.Predictor, image_hwc: np.ndarray) -> np.ndarray:
        mask_hw = apply(self, image_hwc).copy()
        mask_hw[20, 30] = np.nan
        return mask_hw

    monkeypatch.setattr(predict.Predictor, "__call__", absurd)
    record = run(model, data / "day" / f"{product_name(0)}.hdf", tmp_path / "masks")
    mask_hw, valid_hw = masks.read_mask(tmp_path / "masks" / f"{product_name(0)}.h5")
    assert (valid_hw[20, 30], mask_hw[20, 30]) == (False, 1)
    assert record["pixels"] == valid_hw.sum() == 2400 - 17 - 1


def test_scores_are_those_of_all_valid_pixels(model: Path, data: Path, tmp_path: Path) -> None:
    record = run(model, data, tmp_path / "masks")
    right = {True: 0, False: 0}
    pixels, found, cloudy, called = 0, 0, 0, 0
    for number in range(4):
        day = number % 2 == 0
        _, label_hw, valid_hw = normalise(frame(number, day=day))
        says_hw = read_mask(tmp_path / "masks" / f"{product_name(number)}.h5")[0, ..., 0] >= 0.5
        truth, says = label_hw[valid_hw] > 0, says_hw[valid_hw]
        right[day] += int((truth == says).sum())
        pixels, found, cloudy, called = pixels + says.size, found + int((truth & says).sum()), cloudy + truth.sum(), called + says.sum()
    assert record["pixels"] == pixels == 2 * (2400 - 17) + 2 * (2400 - 16)
    assert record["accuracy"] == pytest.approx((right[True] + right[False]) / pixels)
    clear_found = right[True] + right[False] - found
    assert record["balanced_accuracy"] == pytest.approx((found / cloudy + clear_found / (pixels - cloudy)) / 2)
    assert record["f1"] == pytest.approx(2 * found / (cloudy + called))
    assert record["day"]["accuracy"] == pytest.approx(right[True] / (2 * (2400 - 17)))
    assert record["night"]["accuracy"] == pytest.approx(right[False] / (2 * (2400 - 16)))


def test_bits_of_the_bayesian_mask_decide_what_is_cloud(model: Path, data: Path, tmp_path: Path) -> None:
    any_bit = run(model, data, tmp_path / "any")
    one_bit = run(model, data, tmp_path / "one", cloud_bits=8)
    assert one_bit["cloud_share"] < any_bit["cloud_share"] / 2
    assert read_mask(tmp_path / "one" / f"{product_name(0)}.h5") == pytest.approx(read_mask(tmp_path / "any" / f"{product_name(0)}.h5"))


def test_windows_give_the_same_masks_and_scores(model: Path, data: Path, tmp_path: Path) -> None:
    whole, tiled = run(model, data, tmp_path / "whole"), run(model, data, tmp_path / "tiled", tile="16")
    assert (whole["method"], tiled["method"]) == ("whole frames", "windows of 16 pixels and 56 more around")
    for name in mask_files(tmp_path / "whole"):
        difference = np.abs(read_mask(tmp_path / "whole" / name) - read_mask(tmp_path / "tiled" / name))
        assert difference.max() <= 1e-5
    assert tiled["counts"] == whole["counts"]


def test_raw_products_give_the_masks_of_their_converted_files(model: Path, tmp_path: Path) -> None:
    for number in range(2):
        sen3_files.write(tmp_path / "raw" / sen3_files.name_of(number), sen3_files.scene(24, 40, seed=number))
    convert(tmp_path / "raw", tmp_path / "hdf", workers=1, progress=False)
    raw, converted = run(model, tmp_path / "raw", tmp_path / "a", workers=2), run(model, tmp_path / "hdf", tmp_path / "b")
    assert len(mask_files(tmp_path / "a")) == 2
    for name in mask_files(tmp_path / "a"):
        np.testing.assert_array_equal(read_mask(tmp_path / "a" / name), read_mask(tmp_path / "b" / name))
    assert raw["counts"] == converted["counts"]


def test_reading_processes_change_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, data, tmp_path / "none")
    run(model, data, tmp_path / "two", workers=2)
    assert mask_files(tmp_path / "none") == mask_files(tmp_path / "two")


def test_another_process_converts_while_the_network_works(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        sen3_files.write(tmp_path / "raw" / sen3_files.name_of(number), sen3_files.scene(24, 40, seed=number))
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv(MARKS, str(marks))
    monkeypatch.setattr(infer, "prepare", marking)
    apply, calls = predict.Predictor.__call__, []

    def slow(self: predict.Predictor, image_hwc: np.ndarray) -> np.ndarray:
        """Work for as long as the next product takes to be converted: for ever, if that waits for this one."""
        calls.append(len(calls))
        limit = time.monotonic() + 60
        while len(list(marks.iterdir())) < min(len(calls) + 1, 3):
            assert time.monotonic() < limit, "the next product is not converted while the network works"
            time.sleep(0.005)
        return apply(self, image_hwc)

    monkeypatch.setattr(predict.Predictor, "__call__", slow)
    assert run(model, tmp_path / "raw", tmp_path / "masks", workers=None)["predicted"] == 3
    pids = {path.read_text() for path in marks.iterdir()}
    assert len(calls) == 3
    assert str(os.getpid()) not in pids


def test_complete_masks_are_kept_and_count_in_the_scores(model: Path, data: Path, tmp_path: Path) -> None:
    first = run(model, data, tmp_path / "masks")
    before = mask_files(tmp_path / "masks")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "masks").glob("*.h5")}
    names = sorted(before)
    os.truncate(tmp_path / "masks" / names[0], 2000)
    (tmp_path / "masks" / names[2]).unlink()
    second = run(model, data, tmp_path / "masks")
    assert (second["predicted"], second["skipped"], second["products"]) == (2, 2, 4)
    assert mask_files(tmp_path / "masks") == before
    assert all((tmp_path / "masks" / name).stat().st_mtime_ns == times[name] for name in (names[1], names[3]))
    assert all(second[name] == first[name] for name in ("accuracy", "counts", "day", "night", "pixels"))


def test_nothing_left_to_do_gives_the_scores_and_no_rate(model: Path, data: Path, tmp_path: Path) -> None:
    first = run(model, data, tmp_path / "masks")
    second = run(model, data, tmp_path / "masks")
    assert (second["predicted"], second["skipped"]) == (0, 4)
    assert (second["imgs_per_s"], second["products_per_s"]) == (None, None)
    assert second["accuracy"] == first["accuracy"]
    assert "0 predicted, 4 were complete" in infer.text(second)


def other_model(model: Path, data: Path, tmp_path: Path) -> dict:
    return {"model": write_model(tmp_path / "other.keras", seed=4)}


def other_bits(model: Path, data: Path, tmp_path: Path) -> dict:
    return {"cloud_bits": 3}


def overwrite(model: Path, data: Path, tmp_path: Path) -> dict:
    return {"overwrite": True}


@pytest.mark.parametrize("change", [other_model, other_bits, overwrite])
def test_masks_made_otherwise_are_made_again(model: Path, data: Path, tmp_path: Path, change) -> None:
    run(model, data, tmp_path / "masks")
    options = {"model": model, **change(model, data, tmp_path)}
    assert run(options.pop("model"), data, tmp_path / "masks", **options)["predicted"] == 4


def test_product_that_has_changed_is_predicted_again(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, data, tmp_path / "masks")
    path = data / "day" / f"{product_name(0)}.hdf"
    newer_ns = (tmp_path / "masks" / f"{product_name(0)}.h5").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(newer_ns, newer_ns))
    assert run(model, data, tmp_path / "masks")["predicted"] == 1


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def no_bayes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["bayes"]


@pytest.mark.parametrize("damage", [cut_off, no_bayes])
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_product_is_named_and_all_others_are_done(model: Path, data: Path, tmp_path: Path, damage, workers: int) -> None:
    path = data / "night" / f"{product_name(1)}.hdf"
    damage(path)
    with pytest.raises(RunError, match=r"1 of 4 products of .*hdf have no mask, the others are done: ") as caught:
        run(model, data, tmp_path / "masks", workers=workers)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(mask_files(tmp_path / "masks")) == [f"{product_name(number)}.h5" for number in (0, 2, 3)]
    assert json.loads((tmp_path / "masks" / "inference.json").read_text())["failed"] == 1


def test_summary_and_row_of_the_published_table_are_written(model: Path, data: Path, tmp_path: Path) -> None:
    record = run(model, data, tmp_path / "masks", system="PEARL")
    assert json.loads((tmp_path / "masks" / "inference.json").read_text()) == record
    with open(tmp_path / "masks" / "inference.csv", newline="") as stream:
        header, row = csv.reader(stream)
    assert header == PUBLISHED_COLUMNS == list(record["row"])
    values = dict(zip(header, row, strict=True))
    assert (values["system"], values["num_gpus"], values["num_ranks"], values["index"]) == ("PEARL", "0", "1", "masks")
    assert float(values["imgs_per_s"]) == pytest.approx(4 / float(values["total"]))
    assert record["products_per_s"] == pytest.approx(4 / record["total"])


def test_full_product_counts_as_twenty_images() -> None:
    from stormbench.cloudmask import summary_infer

    assert summary_infer.images_of(1200, 1500) == 20
    assert summary_infer.images_of(100, 100) == 1


def test_generated_data_is_said_to_be_generated(model: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "hdf", 1, comment="Generated data, no observation.")
    record = run(model, tmp_path / "hdf", tmp_path / "masks")
    assert record["generated"]
    assert "says nothing about accuracy" in infer.text(record)
    assert "says nothing about accuracy" in (tmp_path / "masks" / "inference.json").read_text()


def test_one_file_or_one_product_is_taken_too(model: Path, data: Path, tmp_path: Path) -> None:
    assert run(model, data / "day" / f"{product_name(0)}.hdf", tmp_path / "a")["products"] == 1
    folder = sen3_files.write(tmp_path / "raw" / sen3_files.name_of(0), sen3_files.scene(16, 24))
    assert run(model, folder, tmp_path / "b")["products"] == 1


def test_converted_file_goes_before_its_raw_product(tmp_path: Path) -> None:
    write_frames(tmp_path, 1)
    (tmp_path / f"{product_name(0)}.SEN3").mkdir()
    (tmp_path / f"{product_name(1)}.SEN3").mkdir()
    assert [(source.name, source.raw) for source in sources.find(tmp_path)] == [(product_name(0), False), (product_name(1), True)]


def test_two_files_of_one_product_are_refused(data: Path) -> None:
    shutil.copy(data / "day" / f"{product_name(0)}.hdf", data / "night")
    with pytest.raises(UserError, match=r"is the same product as .*both masks would have one name"):
        sources.find(data)


def test_data_without_products_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        run(model, tmp_path / "nowhere", tmp_path / "masks")
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"data: no \.hdf files and no \.SEN3 products in it; give the folder"):
        run(model, tmp_path / "data", tmp_path / "masks")
    (tmp_path / "data" / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"extract its archives first"):
        run(model, tmp_path / "data", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": -1}, "--workers -1: must be at least 0"), ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"cloud_bits": 0}, "--cloud-bits 0: must be from 1 to 255"), ({"tile": "12"}, "--tile 12: must be a multiple of 8"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(model: Path, data: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(model, data, tmp_path / "masks", **options)


def test_unwritable_output_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the output folder .*file: the folder can't be written"):
        run(model, data, tmp_path / "file")


@pytest.mark.parametrize(
    ("cores", "ranks", "gpus", "readers"),
    [(2, 1, 0, 1), (64, 1, 0, 8), (64, 1, 1, 63), (64, 4, 1, 15), (16, 4, 1, 15), (64, 64, 1, 1), (64, 4, 0, 2)],
)
def test_readers_are_as_many_as_a_rank_has_cores_for(monkeypatch, cores: int, ranks: int, gpus: int, readers: int) -> None:
    # of 64 cores a rank sees its own 16, or all where ranks are not bound
    monkeypatch.setattr(infer.work, "cores", lambda: cores)
    monkeypatch.setattr(infer.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(infer, "visible_gpus", lambda: gpus)
    if ranks > 1:
        for name, value in (("SIZE", ranks), ("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_SIZE", ranks)):
            monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    task = infer.Task(output=Path("out"), model_digest="", cloud_bits=1, overwrite=False)
    setting = infer._Setting(
        model=Path("m"), edge=None, workers=None, threads=None, cpu_only=False, onednn=None, progress=False, is_set_up=True,
        stop=lambda: False,
    )  # fmt: skip
    assert infer._Rank(task, setting, Team(size=ranks))._workers() == readers
