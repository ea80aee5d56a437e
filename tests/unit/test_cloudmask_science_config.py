"""The Science form's config.yaml: all keys with types and bounds, and mistakes told with their file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stormbench.cloudmask import science_config
from stormbench.core.errors import UserError
from stormbench.core.options import options_of

PUBLISHED_KEYS = [
    "benchmark", "organisation", "division", "status", "platform", "accelerators_per_node", "train_dir", "inference_dir", "model_file",
    "output_dir", "log_file", "mlperf_logfile", "PATCH_SIZE", "IMAGE_H", "IMAGE_W", "N_CHANNELS", "MIN_SST", "CROP_SIZE", "seed",
    "learning_rate", "epochs", "batch_size", "train_split", "clip_offset", "no_cache", "nodes", "gpu",
]  # fmt: skip
WHOLE = """\
# the public form
benchmark: CloudMask
organisation: STFC
division: open
status: research
platform: nvidia dgx-2
accelerators_per_node: 16

train_dir: data/one-day   # to train on
inference_dir: data/ssts
model_file: out/cloudModel.h5
output_dir: out
log_file: ./cloudMask_Log
mlperf_logfile: ./mlperf.log

PATCH_SIZE: 256
IMAGE_H: 1200
IMAGE_W: 1500
N_CHANNELS: 9
MIN_SST: 273.15
CROP_SIZE: 80
seed: 1234
learning_rate: 1e-3
epochs: 5
batch_size: 32
train_split: 0.8
clip_offset: 15
no_cache: True
nodes: 2
gpu: 8
"""


def read(tmp_path: Path, text: str) -> science_config.ScienceConfig:
    (tmp_path / "config.yaml").write_text(text)
    return science_config.read(tmp_path / "config.yaml")[0]


def changed(key: str, value: str) -> str:
    return "".join(f"{key}: {value}\n" if line.startswith(f"{key}:") else f"{line}\n" for line in WHOLE.splitlines())


def line_of(key: str) -> int:
    return next(number for number, line in enumerate(WHOLE.splitlines(), 1) if line.startswith(f"{key}:"))


def test_all_published_keys_are_known_and_no_others() -> None:
    assert sorted(spec.variable for spec in options_of(science_config.ScienceConfig)) == sorted(PUBLISHED_KEYS)


def test_whole_file_is_understood(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE)
    assert (config.benchmark, config.organisation, config.platform) == ("cloudmask", "STFC", "nvidia dgx-2")
    assert (config.train_dir, config.model_file) == (Path("data/one-day"), Path("out/cloudModel.h5"))
    assert (config.learning_rate, config.epochs, config.train_split, config.no_cache) == (0.001, 5, 0.8, True)
    assert (config.nodes, config.gpu, config.accelerators_per_node) == (2, 8, 16)
    assert config.min_sst == 273.15


def test_defaults_are_the_published_ones(tmp_path: Path) -> None:
    config = read(tmp_path, "train_dir: a\ninference_dir: b\noutput_dir: c\n")
    assert (config.patch_size, config.image_h, config.image_w, config.n_channels, config.crop_size) == (256, 1200, 1500, 9, 80)
    assert (config.seed, config.learning_rate, config.batch_size, config.train_split, config.clip_offset) == (1234, 0.001, 32, 0.8, 15)
    assert (config.min_sst, config.no_cache, config.nodes, config.gpu) == (273.15, False, 1, 1)
    assert (config.model_file, config.log_file) == (Path("c/cloudModel.keras"), Path("c/cloudMask_Log"))
    assert config.mlperf_logfile == Path("c/mlperf_cloudmask.log")


def test_home_folder_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read(tmp_path, changed("train_dir", "~/data")).train_dir == Path("/home/me/data")


def test_each_value_is_known_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(WHOLE)
    _, origins = science_config.read(tmp_path / "config.yaml")
    assert origins["gpu"] == f"{tmp_path / 'config.yaml'}:{line_of('gpu')}: gpu: 8"
    assert set(origins) == set(PUBLISHED_KEYS)


@pytest.mark.parametrize(
    ("wrong", "right"), [("epoch", "epochs"), ("patch_size", "PATCH_SIZE"), ("PACTH_SIZE", "PATCH_SIZE"), ("gpus", "gpu"), ("Seed", "seed")]
)
def test_unknown_key_is_told_with_its_line_and_the_nearest_one(tmp_path: Path, wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=rf"config\.yaml:3: {wrong}: is not a key of this benchmark; did you mean {right}\?"):
        read(tmp_path, f"\n# comment\n{wrong}: 1\n")


def test_unknown_key_that_is_like_no_other_gets_no_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml:1: zzz: is not a key of this benchmark$"):
        read(tmp_path, "zzz: 1\n")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epochs", "0", "must be at least 1"), ("epochs", "1.5", "must be a whole number"), ("epochs", "many", "must be a whole number"),
        ("learning_rate", "0", "must be above 0"), ("learning_rate", ".nan", "must be a number"), ("train_split", "1.0", "below 1"),
        ("train_split", "0", "must be above 0"), ("batch_size", "-3", "at least 1"), ("clip_offset", "128", "below 128"),
        ("seed", "7", "must be 1234"), ("PATCH_SIZE", "512", "must be 256"), ("N_CHANNELS", "3", "must be 9"), ("MIN_SST", "270", "273.15"),
        ("CROP_SIZE", "256", "below 256"), ("IMAGE_H", "100", "at least 256"), ("no_cache", "maybe", "must be 1 or 0"),
        ("benchmark", "deepcam", "must be cloudmask"), ("division", "closed", "must be open"), ("division", "SciML", "must be open"),
        ("status", "sucess", "must be one of"), ("nodes", "0", "at least 1"), ("gpu", "-1", "at least 0"), ("gpu", "[1]", "several values"),
        ("accelerators_per_node", "x", "whole number"), ("model_file", "model.pt", r"must end in \.keras or \.h5"),
        ("organisation", '""', "must not be empty"), ("train_dir", '" "', "must not be empty"), ("platform", "{a: b}", "several values"),
        ("epochs", "", "has no value"), ("output_dir", "~", "has no value"),
    ],
)  # fmt: skip
def test_wrong_value_is_told_with_its_line(tmp_path: Path, key: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"config\.yaml:{line_of(key)}: {key}: ?.*{words}") as caught:
        read(tmp_path, changed(key, value))
    assert "\n" not in str(caught.value)


def test_repeated_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"config\.yaml:31: gpu: is given twice, first at .*config\.yaml:{line_of('gpu')}: gpu: 8"):
        read(tmp_path, WHOLE + "gpu: 8\n")


def test_missing_keys_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: has no inference_dir, output_dir; add them"):
        read(tmp_path, "train_dir: a\n")


def test_block_of_the_older_form_gives_the_versions(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE + "submission:\n  org: STFC\n  version: 1.0\n  github_commit_version: 4c6bd93\n")
    assert (config.version, config.commit) == ("1.0", "4c6bd93")
    assert (read(tmp_path, WHOLE).version, read(tmp_path, WHOLE).commit) == (None, None)


def test_mistakes_in_the_block_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml:32: submission\.verson: is not a key of this benchmark; did you mean version\?"):
        read(tmp_path, WHOLE + "submission:\n  verson: 1.0\n")
    with pytest.raises(UserError, match=r"config\.yaml:31: submission: must be a block of benchmark, org"):
        read(tmp_path, WHOLE + "submission: 1.0\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 3\n  seed: [1\n", r"config\.yaml:2: is not YAML \(.*\); correct this line"), ("epochs: {1\n", "is not YAML"),
        ("- epochs\n", r"config\.yaml: holds no `key: value` lines"), ("", r"config\.yaml: holds no `key: value` lines"),
        ("hello", "holds no `key: value` lines"), ("? [a, b]\n: c\n", r"config\.yaml:1: a key must be one word"),
    ],
)  # fmt: skip
def test_what_is_no_config_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--config .*nothing\.yaml: can't be read \(no such file or directory\)"):
        science_config.read(tmp_path / "nothing.yaml")
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match=r"--config .*config\.yaml: is not a text file"):
        science_config.read(tmp_path / "config.yaml")
