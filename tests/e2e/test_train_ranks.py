"""Training over several real ranks: the same result as one rank, failures that reach everyone, launchers as users start them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch

from stormbench.core.verdict import read_events
from tests.conftest import BIN, N_TRAIN, N_VALIDATION, Run, clean_environment, metrics, record
from tests.e2e.test_train import WHOLE, train_words, wait_for_steps, weights

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
MPIRUN = [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "-np"]
STORMBENCH = ["-m", "stormbench"]


def launch(prefix: list[str], ranks: int, words: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    program = STORMBENCH if "torch.distributed.run" in prefix else [sys.executable, *STORMBENCH]
    command = [*prefix, str(ranks), *program, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=clean_environment(**environ), check=False)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name].double() - value.double()).abs().max()) for name, value in other.items() if value.is_floating_point())


ONE_UPDATE = ("--max_epochs", 1, "--target_iou", 1, "--optimizer", "AdamW", "--disable_validation", "--logging_frequency", 1)


def test_two_ranks_compute_what_one_rank_with_accumulation_does(data: Path, stormbench: Run, tmp_path: Path) -> None:
    two = launch(TORCHRUN, 2, train_words(data, tmp_path / "two", *ONE_UPDATE, "--local_batch_size", 4))
    assert two.returncode == 0, two.stderr
    one = stormbench(
        *train_words(data, tmp_path / "one", *ONE_UPDATE, "--local_batch_size", 4, "--gradient_accumulation_frequency", 2)
    )
    assert one.returncode == 0, one.stderr
    other = stormbench(*train_words(data, tmp_path / "other", *ONE_UPDATE, "--local_batch_size", 8))
    assert other.returncode == 0, other.stderr
    names = [name for name in weights(tmp_path / "one" / "run") if "running" not in name and "num_batches" not in name]
    kept = {k: {n: v for n, v in weights(tmp_path / k / "run").items() if n in names} for k in ("one", "two", "other")}
    # rounding only; batch norm over 8 samples instead of 4 shows that the comparison can tell a difference
    assert largest_difference(kept["one"], kept["two"]) < 2e-4
    assert largest_difference(kept["one"], kept["other"]) > 2e-3
    logs = [read_events(tmp_path / k / "run" / "result_1.txt") for k in ("one", "two")]
    assert {e["value"] for events in logs for e in events if e["key"] == "global_batch_size"} == {8}


def test_uneven_validation_counts_every_sample_once_whatever_the_ranks(data: Path, stormbench: Run, tmp_path: Path) -> None:
    words = ("--max_epochs", 1, "--target_iou", 1, "--optimizer", "LAMB", "--start_lr", "0", "--batchnorm_group_size")
    one = stormbench(*train_words(data, tmp_path / "one", *words, 1, "--local_batch_size", 4))
    assert one.returncode == 0, one.stderr
    three = launch(MPIRUN, 2, train_words(data, tmp_path / "two", *words, 2, "--local_batch_size", 2))
    assert three.returncode == 0, three.stderr
    first, second = metrics(tmp_path / "one" / "run", "epoch")[0], metrics(tmp_path / "two" / "run", "epoch")[0]
    assert first["validation_samples"] == second["validation_samples"] == N_VALIDATION
    # with a rate of 0 and statistics shared by both ranks the networks agree, so the scores must
    assert second["iou"] == pytest.approx(first["iou"], abs=2e-3)
    assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=2e-3)


def test_a_rank_that_meets_bad_data_ends_all_ranks_with_one_sentence_and_an_aborted_log(own_data: Path, tmp_path: Path) -> None:
    victim = sorted((own_data / "train").glob("data-*.h5"))[3]
    with h5py.File(victim, "r+") as file:
        file["climate/data"][7, 9, 4] = float("nan")
    done = launch(MPIRUN, 2, train_words(own_data, tmp_path / "out", "--max_epochs", 2, "--target_iou", 1))
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(told) == 1
    assert re.search(rf"rank [01]: .*{victim.name}: channel 4 \(VBOT\)", told[0])
    assert "Traceback" not in done.stderr
    last = read_events(tmp_path / "out" / "run" / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert record(tmp_path / "out" / "run")["outcome"] == "failed"


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def started(data: Path, output: Path, *words: object) -> tuple[subprocess.Popen[str], list[int]]:
    command = [*TORCHRUN, "2", *STORMBENCH, *train_words(data, output, *WHOLE, *words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment())
    wait_for_steps(output / "run", 2)
    ranks = [p for p in children(process.pid) if b"deepcam\0train" in Path(f"/proc/{p}/cmdline").read_bytes()]
    return process, ranks


def test_a_killed_rank_ends_the_others_and_the_log_says_aborted(data: Path, tmp_path: Path) -> None:
    process, ranks = started(data, tmp_path, "--max_epochs", 100)
    by_rank = {int(value): pid for pid in ranks for value in [environ_of(pid)["RANK"]]}
    os.kill(by_rank[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    last = read_events(tmp_path / "run" / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    wait_until_gone(ranks)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of two ranks."""
    output = tmp_path_factory.mktemp("whole")
    done = launch(TORCHRUN, 2, train_words(data, output, *WHOLE, "--deterministic"))
    assert done.returncode == 0, done.stderr
    return output / "run"


def assert_same_run(folder: Path, whole: Path) -> None:
    first, second = weights(whole), weights(folder)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    names = ("epoch", "iou", "train_loss", "validation_loss")
    figures = {m["epoch"]: [m[name] for name in names] for m in metrics(folder, "epoch")}
    assert figures == {m["epoch"]: [m[name] for name in names] for m in metrics(whole, "epoch")}
    keys = [event["key"] for event in read_events(folder / "result_1.txt")]
    once = ("init_start", "init_stop", "run_start", "run_stop")
    assert [keys.count(key) for key in once] == [1, 1, 1, 1]
    assert keys.count("epoch_start") == keys.count("epoch_stop") == 2


def test_a_stop_asked_of_one_rank_stops_all_and_auto_goes_on_to_the_same_bits(data: Path, whole: Path, tmp_path: Path) -> None:
    process, ranks = started(data, tmp_path, "--deterministic", "--checkpoint", "auto")
    os.kill(ranks[-1], signal.SIGUSR1)
    process.communicate(timeout=120)
    assert record(tmp_path / "run")["outcome"] == "stopped"
    done = launch(TORCHRUN, 2, train_words(data, tmp_path, *WHOLE, "--deterministic", "--checkpoint", "auto"))
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", whole)


def test_a_signal_to_torchrun_reaches_the_ranks(data: Path, tmp_path: Path) -> None:
    process, _ = started(data, tmp_path, "--max_epochs", 100)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert record(tmp_path / "run")["outcome"] == "stopped"
    assert (tmp_path / "run" / "checkpoints" / "deepcam_1.pt").exists()


def test_killed_ranks_go_on_from_their_last_checkpoint_to_the_same_bits(data: Path, whole: Path, tmp_path: Path) -> None:
    process, ranks = started(data, tmp_path, "--deterministic", "--save_frequency", 1)
    # in the second epoch
    wait_for_steps(tmp_path / "run", 6)
    for pid in (process.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_until_gone(ranks)
    done = launch(TORCHRUN, 2, train_words(data, tmp_path, *WHOLE, "--deterministic", "--checkpoint", "auto"))
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", whole)


def test_a_run_goes_on_with_another_number_of_ranks(data: Path, stormbench: Run, tmp_path: Path) -> None:
    process, ranks = started(data, tmp_path)
    os.kill(ranks[0], signal.SIGUSR1)
    process.communicate(timeout=120)
    words = train_words(data, tmp_path, *WHOLE, "--checkpoint", "auto")
    done = stormbench(*words, "--gradient_accumulation_frequency", 2)
    assert done.returncode == 0, done.stderr
    assert [m["epoch"] for m in metrics(tmp_path / "run", "epoch")] == [1, 2]
    steps = [m["step"] for m in metrics(tmp_path / "run", "step")]
    assert steps == list(range(1, 9))
    assert metrics(tmp_path / "run", "epoch")[-1]["train_samples"] == N_TRAIN


def test_wrong_input_is_told_once_and_not_by_every_rank(data: Path, tmp_path: Path) -> None:
    done = launch(MPIRUN, 2, train_words(data, tmp_path, "--local_batch_size", 9))
    assert done.returncode == 2
    assert done.stderr.count("fewer than") == 1
    assert "Traceback" not in done.stderr


def test_run_and_time_runs_each_rank_and_prints_one_result_line(data: Path, tmp_path: Path) -> None:
    environ = {
        "DATADIR": str(data), "LOGDIR": str(tmp_path), "STORMBENCH_WIDTH": "0.05", "MAX_EPOCHS": "1", "RUN_TAG": "run", "SEED": "77",
        "LOCAL_BATCH_SIZE": "2", "ADDITIONAL_ARGS": "--target_iou 0.9 --logging_frequency 2",
    }  # fmt: skip
    script = str(Path(__file__).parents[2] / "run_and_time.sh")
    command = [*MPIRUN, "2", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=clean_environment(**environ), check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[:3] for line in done.stdout.splitlines() if line.startswith("RESULT")] == [["RESULT", "DEEPCAM", "77"]]
    assert record(tmp_path / "run")["config"]["target_iou"] == 0.9


def environ_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"processes are left: {pids}"
        time.sleep(0.05)


