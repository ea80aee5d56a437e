"""Wrong input ends in one sentence that names the file or option, with exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from stormbench import cli
from tests.conftest import Run, clean_environment
from tests.e2e.test_train import train_words


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call `stormbench WORD...` in this process, which has torch already: what is refused before any training leaves nothing of it here."""

    def call(*words: Any, **environ: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name in os.environ.keys() - clean_environment().keys():
                patch.delenv(name)
            for name, value in environ.items():
                patch.setenv(name, value)
            capfd.readouterr()
            code = cli.main([*map(str, words)])
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return call


def first(folder: Path) -> Path:
    return sorted((folder / "train").glob("data-*.h5"))[2]


def truncate(folder: Path) -> str:
    with first(folder).open("r+b") as stream:
        stream.truncate(20000)
    return first(folder).name


def garbage(folder: Path) -> str:
    first(folder).write_bytes(b"this is not HDF5" * 100)
    return first(folder).name


def drop_labels(folder: Path) -> str:
    with h5py.File(first(folder), "r+") as file:
        del file["climate/labels_0"]
    return "labels_0"


def other_shape(folder: Path) -> str:
    with h5py.File(first(folder), "r+") as file:
        for name in ("data", "labels_0"):
            values = file[f"climate/{name}"][()]
            del file[f"climate/{name}"]
            file[f"climate/{name}"] = values[:16]
    return first(folder).name


def empty(folder: Path) -> str:
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    return "no data-*.h5 files"


def no_stats(folder: Path) -> str:
    (folder / "stats.h5").unlink()
    return "stats.h5: no such file"


def stats_of_other_channels(folder: Path) -> str:
    with h5py.File(folder / "stats.h5", "r+") as file:
        for name in ("minval", "maxval"):
            del file[f"climate/{name}"]
            file[f"climate/{name}"] = np.zeros(4, np.float32)
    return "stats.h5"


def stats_with_nan(folder: Path) -> str:
    with h5py.File(folder / "stats.h5", "r+") as file:
        file["climate/minval"][3] = np.nan
    return "channel 3 (UBOT)"


Damage = Callable[[Path], str]
DAMAGES: list[Damage] = [truncate, garbage, drop_labels, other_shape, empty, no_stats, stats_of_other_channels, stats_with_nan]


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("stormbench")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_data_is_refused_before_training(called: Run, own_data: Path, tmp_path: Path, damage: Damage) -> None:
    expected = damage(own_data)
    done = called(*train_words(own_data, tmp_path / "out"))
    assert done.returncode == 2
    assert_one_sentence(done, expected)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--local_batch_size", "0"), "--local_batch_size 0: must be at least 1"),
        (("--local_batch_size", "-3"), "--local_batch_size -3: must be at least 1"),
        (("--max_epochs", "0"), "--max_epochs 0"),
        (("--seed", "0"), "--seed 0"),
        (("--start_lr", "-0.1"), "--start_lr -0.1"),
        (("--lr_schedule", 'type="multistep",milestones="10 banana",decay_rate="0.1"'), "banana"),
        (("--lr_schedule_type", "cosine_annealing"), "--lr_t_max"),
        (("--lr_schedule_type", "multistpe"), "did you mean multistep?"),
        (("--lr_milestones", "100:x"), "'x'"),
        (("--min_epochs", "9", "--max_epochs", "3"), "--min_epochs 9: above --max_epochs 3"),
        (("--channels", "0", "0"), "--channels 0 0"),
        (("--channels", "16"), "--channels 16"),
        (("--optimizer", "SGD"), "must be one of Adam, AdamW, LAMB"),
        (("--wireup_method", "mpi"), "built without MPI"),
        (("--wireup_method", "nccl-file"), "CUDA"),
        (("--batchnorm_group_size", "2"), "--batchnorm_group_size 2"),
        (("--local_batch_size", "17"), "16 training samples are fewer than the global batch of 17"),
        (("--checkpoint", "/nowhere/x.pt"), "--checkpoint /nowhere/x.pt: there is no such file"),
        (("--run_tag", "../up"), "--run_tag ../up"),
        (("--local-bach-size", "2"), "did you mean --local_batch_size?"),
        (("--submission_division", "closed"), "STORMBENCH_SUBMISSION_ORG"),
        (("--output_dir", "/proc/nowhere"), "--output_dir /proc/nowhere: the folder can't be written"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_a_wrong_option_is_refused(called: Run, data: Path, tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    done = called(*train_words(data, tmp_path / "out", *words))
    assert done.returncode == 2
    assert_one_sentence(done, expected)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_variable_is_named_as_the_user_gave_it(stormbench: Run, data: Path, tmp_path: Path) -> None:
    done = stormbench("deepcam", "train", DATADIR=str(data), LOGDIR=str(tmp_path / "out"), LR_WARMUP_STEPS="-1")
    assert done.returncode == 2
    assert_one_sentence(done, "LR_WARMUP_STEPS=-1: must be at least 0")


CLOSED = {
    "STORMBENCH_SUBMISSION_DIVISION": "closed", "STORMBENCH_SUBMISSION_ORG": "x", "STORMBENCH_SUBMISSION_STATUS": "onprem",
    "STORMBENCH_SUBMISSION_PLATFORM": "y", "STORMBENCH_CACHE_CLEARED": "1",
}  # fmt: skip
SCHEDULE = ("--lr_schedule", 'type="multistep",milestones="5",decay_rate="0.1"')


@pytest.mark.parametrize(
    ("environ", "words", "expected"),
    [
        ({}, ("--width", "0.5"), "--width 0.5 is for rehearsals"),
        ({"STORMBENCH_CACHE_CLEARED": "0"}, ("--width", "1"), "STORMBENCH_CACHE_CLEARED must be 1"),
        ({}, ("--width", "1"), "a closed run needs the full 121266 training and 15158 validation samples"),
        ({}, ("--width", "1", "--channels", "0", "1"), "--channels must be all 16"),
    ],
)  # fmt: skip
def test_a_closed_run_that_cannot_count_is_refused(
    called: Run, data: Path, tmp_path: Path, environ: dict[str, str], words: tuple[str, ...], expected: str
) -> None:
    done = called(*train_words(data, tmp_path / "out", *SCHEDULE, *words), **CLOSED | environ)
    assert done.returncode == 2
    assert_one_sentence(done, expected)


def test_a_checkpoint_of_another_model_is_refused_with_both_values(stormbench: Run, called: Run, data: Path, tmp_path: Path) -> None:
    words = ("--max_epochs", 1, "--target_iou", 1, "--local_batch_size", 8)
    made = stormbench(*train_words(data, tmp_path, *words))
    assert made.returncode == 0, made.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "deepcam_1.pt"
    done = called(*train_words(data, tmp_path / "out", "--checkpoint", checkpoint, "--channels", "0", "1"))
    assert done.returncode == 2
    assert_one_sentence(done, "channels", "this one has 0 1")
    for damage, expected in ((checkpoint.read_bytes()[:5000], "not a whole checkpoint"), (b"garbage", "not a whole checkpoint")):
        checkpoint.write_bytes(damage)
        done = called(*train_words(data, tmp_path / "out", "--checkpoint", checkpoint))
        assert done.returncode == 2
        assert_one_sentence(done, expected)
    torch.save({"anything": 1}, checkpoint)
    done = called(*train_words(data, tmp_path / "out", "--checkpoint", checkpoint))
    assert_one_sentence(done, "not a checkpoint that `stormbench deepcam train` has written")


FULL_DISK = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs -o size=300k none "$0" && exec "$@"')


def test_a_full_disk_ends_in_one_sentence_without_a_half_written_checkpoint(stormbench: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    # the file system vanishes with the command's own mount namespace, so what is left there is listed from inside
    listing = ("sh", "-c", '"$@"; code=$?; find "$0" -type f; exit $code', str(tmp_path / "small"))
    words = ("--max_epochs", 1, "--target_iou", 1, "--local_batch_size", 8)
    done = stormbench(*train_words(data, tmp_path / "small", *words), prefix=(*FULL_DISK, str(tmp_path / "small"), *listing))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "deepcam_1.pt" in done.stderr
    assert "full" in done.stderr or "no space" in done.stderr
    assert "result_1.txt" in done.stdout
    assert ".pt" not in done.stdout.replace("deepcam_1.pt:", "")
