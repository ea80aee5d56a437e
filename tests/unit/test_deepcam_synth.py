"""Generated data sets: their layout, their physics, and that reruns and the number of workers never change a byte."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from stormbench.core.errors import UserError
from stormbench.deepcam import fields, synth
from stormbench.deepcam.data import CHANNELS, hdf5

SMALL = {"train": 3, "validation": 2, "test": 1, "height": 32, "width": 48, "progress": False}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["climate/data"][()], file["climate/labels_0"][()]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "set"
    synth.run(folder, workers=1, **SMALL)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two dozen drawn samples of 192 x 288, enough for means over storms."""
    grid = fields.Grid(height=192, width=288, storm_scale=fields.default_storm_scale(192, 288))
    flat = np.zeros((192, 288), np.float32)
    return [fields.draw(np.random.default_rng([7, index]), flat, grid, index) for index in range(24)]


def test_layout_is_that_of_the_real_files(small: Path) -> None:
    path = sorted((small / "train").iterdir())[0]
    with h5py.File(path) as file:
        data, labels = file["climate/data"], file["climate/labels_0"]
        assert (data.shape, data.dtype, data.chunks, data.compression) == ((32, 48, 16), np.float32, None, None)
        assert (labels.shape, labels.dtype, labels.chunks) == ((32, 48), np.int32, None)
        assert set(np.unique(labels[()])) <= {0, 1, 2}
        assert file["climate"].attrs["generated_by"] == b"stormbench deepcam synth"
        assert file["climate"].attrs["seed"] == 333
    assert hdf5.inspect(path) == (32, 48, 16)


def test_each_split_has_its_number_of_files_and_no_two_share_a_name(small: Path) -> None:
    names = {split: [path.name for path in (small / split).iterdir()] for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in names.items()} == {"train": 3, "validation": 2, "test": 1}
    assert len({name for found in names.values() for name in found}) == 6
    assert sorted(names["train"])[0] == "data-1996-01-01-00-0.h5"


def test_no_two_samples_are_alike(small: Path) -> None:
    assert len({arrays(path)[0].tobytes() for path in small.rglob("data-*.h5")}) == 6


def test_statistics_are_those_of_the_training_set(small: Path) -> None:
    train = np.stack([arrays(path)[0] for path in (small / "train").iterdir()])
    with h5py.File(small / "stats.h5") as file:
        np.testing.assert_array_equal(file["climate/minval"][()], train.min(axis=(0, 1, 2)))
        np.testing.assert_array_equal(file["climate/maxval"][()], train.max(axis=(0, 1, 2)))


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(small: Path, tmp_path: Path, workers: int) -> None:
    synth.run(tmp_path / "other", workers=workers, **SMALL)
    assert digests(tmp_path / "other") == digests(small)


def test_another_seed_draws_another_set(small: Path, tmp_path: Path) -> None:
    synth.run(tmp_path, seed=334, workers=1, **SMALL)
    assert not {*digests(tmp_path).values()} & {*digests(small).values()}


def test_rerun_keeps_complete_files_and_restores_damaged_ones(tmp_path: Path) -> None:
    synth.run(tmp_path, workers=1, **SMALL)
    before = digests(tmp_path)
    truncated, altered, removed = sorted((tmp_path / "train").iterdir())
    kept = sorted((tmp_path / "validation").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    truncated.write_bytes(truncated.read_bytes()[:-4])
    with h5py.File(altered, "r+") as file:
        file["climate/data"][3, 4, 5] += 1.0
    removed.unlink()
    left = tmp_path / "train" / f".{removed.name}.123.abc.partial"
    left.write_bytes(b"left by a killed run")
    done = synth.run(tmp_path, workers=1, **SMALL)
    assert (done["written"], done["kept"]) == (3, 3)
    assert digests(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_other_parameters_are_refused_where_a_set_is(small: Path) -> None:
    before = digests(small)
    with pytest.raises(UserError, match=r"synth\.json: the data there has seed 333, not 1"):
        synth.run(small, seed=1, **SMALL)
    assert digests(small) == before


def test_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"isn't empty \(it holds thesis.tex\)"):
        synth.run(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"height": 0}, "--height 0: must be a positive multiple of 16"),
        ({"width": -48}, "--width -48: must be a positive multiple of 16"),
        ({"height": 100}, "--height 100: .*; use 96"),
        ({"train": -1}, "--train -1: must be 0 or more"),
        ({"train": 0, "validation": 0, "test": 0}, "there is nothing to write"),
        ({"seed": -3}, "--seed -3: "),
        ({"storm_scale": float("nan")}, "--storm_scale nan: "),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"train": 10**9, "height": 768, "width": 1152}, "GB are needed and .* GB free"),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(tmp_path: Path, wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        synth.run(tmp_path / "out", **{**SMALL, **wrong})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("data-*"))


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out: the folder can't be written"):
        synth.run(tmp_path / "out", **SMALL)


def test_record_says_that_the_data_is_generated(small: Path) -> None:
    record = json.loads((small / "synth.json").read_text())
    assert record["generated_by"] == "stormbench deepcam synth"
    assert (record["seed"], record["height"], record["storm_scale"]) == (333, 32, pytest.approx(3.2 / (5.5 * 32 / 768)))


def test_works_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    code = f"from stormbench.deepcam import synth; print(synth.run({str(tmp_path / 'out')!r}, workers=2, **{SMALL!r})['written'])"
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


def test_full_disk_ends_with_one_sentence_and_the_rerun_completes_the_set(small: Path, tmp_path: Path) -> None:
    # a limit on the size of files stands in for a full disk: the kernel refuses the write in the same way
    parameters = {**SMALL, "workers": 1}
    code = f"from stormbench.deepcam import synth; synth.run({str(tmp_path / 'out')!r}, **{parameters!r})"
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 50; exec "$@"', "bash", sys.executable, "-c", code]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert "RunError" in done.stderr.splitlines()[-1]
    assert "data-1996-01-01-00-0.h5: can't be written" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out" / "train").iterdir())
    synth.run(tmp_path / "out", **parameters)
    assert digests(tmp_path / "out") == digests(small)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 160), (240, 32)])
def test_any_multiple_of_16_can_be_drawn(height: int, width: int) -> None:
    grid = fields.Grid(height=height, width=width, storm_scale=fields.default_storm_scale(height, width))
    image_hwc, label_hw = fields.draw(np.random.default_rng(0), np.zeros((height, width), np.float32), grid, 0)
    assert image_hwc.shape == (height, width, 16)
    assert np.isfinite(image_hwc).all()
    assert (label_hw == fields.RIVER).any()


def test_class_frequencies_at_full_size_are_near_the_published_ones() -> None:
    grid = fields.Grid(height=768, width=1152, storm_scale=1.0)
    label_hw = np.zeros((768, 1152), np.int32)
    counts = np.zeros(3)
    no_image = np.zeros((16, 768, 1152), np.float32)
    for index in range(40):
        label_hw[:] = 0
        rng = np.random.default_rng([3, index])
        fields._draw_rivers(rng, no_image, label_hw, grid, index)
        fields._draw_cyclones(rng, no_image, label_hw, grid, index)
        counts += np.bincount(label_hw.ravel(), minlength=3)
    cyclone, river = counts[1:] / counts.sum()
    assert cyclone == pytest.approx(0.000458, rel=0.2)
    assert river == pytest.approx(0.01327, rel=0.2)


def test_values_are_in_plausible_si_ranges(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    values = np.stack([image_hwc for image_hwc, _ in scenes]).reshape(-1, 16)
    low, high = values.min(axis=0), values.max(axis=0)
    limits = {
        "TMQ": (0, 80), "U850": (-80, 80), "V850": (-80, 80), "UBOT": (-70, 70), "VBOT": (-70, 70), "QREFHT": (0, 0.03),
        "PS": (5e4, 1.07e5), "PSL": (9.3e4, 1.07e5), "T200": (180, 250), "T500": (210, 290), "PRECT": (0, 5e-6), "TS": (190, 330),
        "TREFHT": (190, 330), "Z1000": (-600, 500), "Z200": (10_000, 13_000), "ZBOT": (40, 80),
    }  # fmt: skip
    for position, name in enumerate(CHANNELS):
        assert limits[name][0] <= low[position] < high[position] <= limits[name][1], name


def anomaly(image_hwc: np.ndarray, name: str) -> np.ndarray:
    """The channel without its mean at each latitude."""
    plane = image_hwc[..., CHANNELS.index(name)]
    return plane - plane.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["TMQ", "QREFHT", "PRECT", "T200", "T500"])
def test_cyclones_have_a_warm_moist_core(scenes: list[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    inside = np.concatenate([anomaly(image, name)[label == fields.CYCLONE] for image, label in scenes])
    outside = np.concatenate([anomaly(image, name)[label == fields.BACKGROUND] for image, label in scenes])
    assert inside.mean() > outside.mean() + 1.0 * outside.std()


@pytest.mark.parametrize("name", ["PS", "PSL", "Z1000"])
def test_cyclones_are_lows(scenes: list[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    inside = np.concatenate([anomaly(image, name)[label == fields.CYCLONE] for image, label in scenes])
    outside = np.concatenate([anomaly(image, name)[label == fields.BACKGROUND] for image, label in scenes])
    assert inside.mean() < outside.mean() - 1.5 * outside.std()


@pytest.mark.parametrize(("east", "north"), [("U850", "V850"), ("UBOT", "VBOT")])
def test_cyclones_turn_with_the_sense_of_their_hemisphere(scenes: list[tuple[np.ndarray, np.ndarray]], east: str, north: str) -> None:
    senses: dict[bool, list[float]] = {True: [], False: []}
    for image, label in scenes:
        # relative vorticity, rows counting northward: positive is counter-clockwise
        vorticity = np.gradient(anomaly(image, north), axis=1) - np.gradient(anomaly(image, east), axis=0)
        rows, columns = np.nonzero(label == fields.CYCLONE)
        for northern in (True, False):
            senses[northern] += vorticity[rows, columns][(rows >= 96) == northern].tolist()
    assert np.mean(senses[True]) > 0.5
    assert np.mean(senses[False]) < -0.5


@pytest.mark.parametrize("name", ["TMQ", "QREFHT", "PRECT", "U850"])
def test_rivers_are_moist_with_a_wind_toward_the_east(scenes: list[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    inside = np.concatenate([anomaly(image, name)[label == fields.RIVER] for image, label in scenes])
    outside = np.concatenate([anomaly(image, name)[label == fields.BACKGROUND] for image, label in scenes])
    assert inside.mean() > outside.mean() + 0.5 * outside.std()


def test_share_of_samples_without_a_cyclone_is_the_same_in_any_run_of_indices() -> None:
    for start in (0, 7, 100):
        counts = [fields.storm_count(index, 1.0) for index in range(start, start + 60)]
        assert [round(counts.count(n) / 20) for n in (0, 1, 2)] == [1, 1, 1]
        assert np.mean(counts) == pytest.approx(1.0, abs=0.05)


def test_noise_has_the_asked_deviation_and_is_smooth_across_the_date_line() -> None:
    plane = np.zeros((512, 512), np.float32)
    fields.add_smooth_noise(np.random.default_rng(1), plane, 8.0, 2.0)
    assert plane.std() == pytest.approx(2.0, rel=0.05)
    seam = np.abs(plane[:, 0] - plane[:, -1]).mean()
    assert seam == pytest.approx(np.abs(np.diff(plane, axis=1)).mean(), rel=0.15)
