"""Training as a user starts it, in one process: what it leaves behind, stops, continues and refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stormbench.core.verdict import judge, read_events
from tests.conftest import N_TRAIN, N_VALIDATION, Run, begin, clean_environment, metrics, record
from tests.forks import Fork

SMALL = ("--width", "0.05", "--local_batch_size", "2", "--local_batch_size_validation", "2", "--run_tag", "run", "--num_threads", "1")


WHOLE = ("--max_epochs", 2, "--target_iou", 1, "--logging_frequency", 1)


def train_words(data: Path, output: Path, *words: object) -> list[str]:
    return ["deepcam", "train", "--data_dir_prefix", str(data), "--output_dir", str(output), *SMALL, *map(str, words)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "deepcam_1.pt", weights_only=True)["model"]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def finished(stormbench: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that can't reach its target."""
    output = tmp_path_factory.mktemp("finished")
    done = stormbench(*train_words(data, output, *WHOLE))
    assert done.returncode == 0, done.stderr
    (output / "stdout").write_text(done.stdout)
    return output / "run"


def test_a_run_leaves_its_folder_with_provenance_log_figures_and_weights(finished: Path) -> None:
    kept = record(finished)
    assert {"command", "config", "versions", "git_commit", "host", "devices", "seed", "start", "end", "outcome"} <= kept.keys()
    assert kept["outcome"] == "target missed"
    assert kept["generated_data"] is True
    assert kept["config"]["local_batch_size"] == 2
    assert kept["trials"]["1"]["verdict"]["verdict"] == "complete, target missed"
    assert [line["epoch"] for line in metrics(finished, "epoch")] == [1, 2]
    assert [line["step"] for line in metrics(finished, "step")] == list(range(1, N_TRAIN // 2 * 2 + 1))
    assert weights(finished)


def test_the_only_complaint_of_the_official_checker_is_the_accuracy(finished: Path) -> None:
    verdict = judge(finished / "result_1.txt")
    assert verdict.verdict == "complete, target missed"
    assert all("eval_accuracy" in complaint for complaint in verdict.complaints)


def test_the_log_is_in_order(finished: Path) -> None:
    keys = [event["key"] for event in read_events(finished / "result_1.txt")]
    order = ("cache_clear", "init_start", "init_stop", "run_start", "epoch_start", "eval_start", "run_stop")
    positions = [keys.index(key) for key in order]
    assert positions == sorted(positions)
    assert keys[-1] == "run_stop"
    assert keys.count("epoch_start") == keys.count("epoch_stop") == keys.count("eval_accuracy") == 2


def test_throughput_counts_what_was_processed(finished: Path) -> None:
    for line in metrics(finished, "epoch"):
        assert line["train_samples"] == N_TRAIN
        assert line["samples_per_s"] == pytest.approx(N_TRAIN / line["train_seconds"])
        assert line["validation_samples"] == N_VALIDATION


def test_the_end_shows_a_table_with_its_caveat(finished: Path) -> None:
    shown = (finished.parent / "stdout").read_text()
    for words in ("tropical cyclone", "atmospheric river", "training, first epoch", "reduced: a rehearsal", "says nothing about accuracy"):
        assert words in shown
    assert str(finished) in shown


def test_the_seed_decides_every_bit_and_another_seed_another_order(
    stormbench: Run, data: Path, finished: Path, tmp_path: Path
) -> None:
    assert stormbench(*train_words(data, tmp_path / "same", *WHOLE)).returncode == 0
    assert_same_weights(finished, tmp_path / "same" / "run")
    assert stormbench(*train_words(data, tmp_path / "other", *WHOLE), SEED="334").returncode == 0
    assert [m["loss"] for m in metrics(tmp_path / "other" / "run", "step")] != [m["loss"] for m in metrics(finished, "step")]


def test_a_done_trial_is_not_run_over(stormbench: Run, data: Path, finished: Path) -> None:
    before = (finished / "result_1.txt").read_bytes()
    done = stormbench(*train_words(data, finished.parent))
    assert done.returncode == 2
    assert "give another --run_tag or --experiment_id" in done.stderr
    assert (finished / "result_1.txt").read_bytes() == before


def start(data: Path, output: Path, *words: object) -> subprocess.Popen[str] | Fork:
    return begin(*train_words(data, output, "--max_epochs", 2, "--target_iou", 1, *words))


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "metrics.jsonl").exists() and len(metrics_so_far(folder)) >= steps:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {steps} steps in {folder}")


def metrics_so_far(folder: Path) -> list[str]:
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"step"' in line]


@pytest.mark.parametrize(("steps", "number"), [(3, signal.SIGUSR1), (11, signal.SIGTERM)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    stormbench: Run, data: Path, finished: Path, tmp_path: Path, steps: int, number: signal.Signals
) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1)
    wait_for_steps(tmp_path / "run", steps)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert record(tmp_path / "run")["outcome"] == "stopped"
    assert "continues it" in stderr
    last = read_events(tmp_path / "run" / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    done = stormbench(*train_words(data, tmp_path, *WHOLE, "--checkpoint", "auto"))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished, tmp_path / "run")
    same = ("epoch", "iou", "class_iou", "train_loss", "validation_loss", "train_samples")
    found = {m["epoch"]: {k: m[k] for k in same} for m in metrics(tmp_path / "run", "epoch")}
    assert found == {m["epoch"]: {k: m[k] for k in same} for m in metrics(finished, "epoch")}
    keys = [event["key"] for event in read_events(tmp_path / "run" / "result_1.txt")]
    assert keys.count("run_start") == keys.count("run_stop") == keys.count("init_stop") == 1
    assert keys.count("epoch_start") == keys.count("epoch_stop") == 2
    assert record(tmp_path / "run")["trials"]["1"]["attempt"] == 2


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(
    stormbench: Run, data: Path, finished: Path, tmp_path: Path
) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1, "--save_frequency", 3)
    wait_for_steps(tmp_path / "run", 8)
    process.kill()
    process.communicate(timeout=60)
    assert judge(tmp_path / "run" / "result_1.txt").verdict == "failed"
    done = stormbench(*train_words(data, tmp_path, "--max_epochs", 2, "--target_iou", 1))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished, tmp_path / "run")
    assert (tmp_path / "run" / "attempt1_result_1.txt").exists()
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["deepcam_1.previous.pt", "deepcam_1.pt"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_final_signal_ends_the_run_with_a_log_that_says_aborted(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1, "--max_epochs", 100)
    wait_for_steps(tmp_path / "run", 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    last = read_events(tmp_path / "run" / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert number.name in last["metadata"]["reason"]
    assert record(tmp_path / "run")["outcome"] == "failed"
    assert judge(tmp_path / "run" / "result_1.txt").verdict == "failed"


def test_one_trial_is_not_run_twice_at_once(stormbench: Run, data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1, "--max_epochs", 100)
    wait_for_steps(tmp_path / "run", 1)
    second = stormbench(*train_words(data, tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr


def test_min_epochs_goes_on_after_the_target_and_gives_the_time_for_16_epochs(stormbench: Run, data: Path, tmp_path: Path) -> None:
    words = ("--max_epochs", 20, "--min_epochs", 16, "--target_iou", "0.01", "--local_batch_size", 8)
    done = stormbench(*train_words(data, tmp_path, *words))
    assert done.returncode == 0, done.stderr
    events = read_events(tmp_path / "run" / "result_1.txt")
    assert len([e for e in events if e["key"] == "epoch_stop"]) == 16
    value = {e["key"]: e["value"] for e in events}
    at = {(e["key"], (e["metadata"] or {}).get("epoch_num")): e["time_ms"] for e in events}
    assert value["time_to_16_epochs"] == pytest.approx((at["epoch_stop", 16] - at["epoch_start", 1]) / 1000, abs=0.05)
    assert value["time_to_target"] <= value["time_to_16_epochs"]
    assert "time for 16 epochs" in done.stdout
    assert "time to target" in done.stdout


def test_without_validation_a_run_is_complete_but_shows_no_target(stormbench: Run, data: Path, tmp_path: Path) -> None:
    done = stormbench(*train_words(data, tmp_path, "--max_epochs", 1, "--disable_validation"))
    assert done.returncode == 0, done.stderr
    assert "complete, target missed: validation was disabled" in done.stdout
    assert "IoU" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--precision_mode", "amp-bf16"), ("--precision_mode", "amp"), ("--enable_nhwc",), ("--channels", "0", "1", "2", "10"),
        ("--optimizer", "LAMB", "--lr_schedule", 'type="multistep",milestones="2 3",decay_rate="0.5"'), ("--deterministic",),
        ("--gradient_accumulation_frequency", "4"), ("--shuffle_mode", "gpu"), ("--data_format", "dummy", "--dummy_height", "32",
        "--dummy_width", "32", "--dummy_train", "8", "--dummy_validation", "3"),
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_every_way_of_computing_trains(stormbench: Run, data: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = stormbench(*train_words(data, tmp_path, "--max_epochs", 1, "--target_iou", 1, *words))
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run", "epoch")[0]["train_loss"] > 0


def test_a_checkpoint_of_another_run_is_a_starting_point(stormbench: Run, data: Path, finished: Path, tmp_path: Path) -> None:
    source = finished / "checkpoints" / "deepcam_1.pt"
    done = stormbench(*train_words(data, tmp_path, "--max_epochs", 3, "--target_iou", 1, "--checkpoint", source))
    assert done.returncode == 0, done.stderr
    assert [m["epoch"] for m in metrics(tmp_path / "run", "epoch")] == [3]
    assert record(tmp_path / "run")["trials"]["1"]["epochs"] == 1
    assert record(tmp_path / "run")["trials"]["1"]["run_seconds"] > 0
    refused = stormbench(*train_words(data, tmp_path / "other", "--max_epochs", 2, "--checkpoint", source))
    assert refused.returncode == 2
    assert "--max_epochs 2: the checkpoint" in refused.stderr
    assert judge(tmp_path / "run" / "result_1.txt").verdict == "complete, target missed"


def test_numpy_files_train_to_the_same_bits_as_the_hdf5_files_they_came_from(
    stormbench: Run, data: Path, finished: Path, tmp_path: Path
) -> None:
    for part in ("train", "validation"):
        done = stormbench("deepcam", "convert", "--input_directory", data / part, "--output_directory", tmp_path / "npy" / part)
        assert done.returncode == 0, done.stderr
    (tmp_path / "npy" / "stats.h5").write_bytes((data / "stats.h5").read_bytes())
    done = stormbench(*train_words(tmp_path / "npy", tmp_path, "--data_format", "numpy", *WHOLE))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished, tmp_path / "run")
    assert record(tmp_path / "run")["generated_data"] is True


def test_compiling_without_a_compiler_is_refused_with_what_to_install(stormbench: Run, data: Path, tmp_path: Path) -> None:
    done = stormbench(*train_words(data, tmp_path, "--enable_jit"), CXX="no-such-compiler")
    assert done.returncode == 2
    assert "install g++" in done.stderr


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(stormbench: Run, data: Path, finished: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1, "--save_frequency", 2)
    wait_for_steps(tmp_path / "run", 8)
    process.kill()
    process.communicate(timeout=60)
    newest = tmp_path / "run" / "checkpoints" / "deepcam_1.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    (newest.parent / f".{newest.name}.1.x.partial").write_bytes(b"left by a killed save")
    done = stormbench(*train_words(data, tmp_path, *WHOLE))
    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stderr
    assert "previous.pt" in done.stderr
    assert_same_weights(finished, tmp_path / "run")
    assert not list(newest.parent.glob(".*"))


def test_a_run_that_goes_on_keeps_the_options_its_log_tells(stormbench: Run, data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path, "--logging_frequency", 1, "--max_epochs", 100)
    wait_for_steps(tmp_path / "run", 2)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    log = (tmp_path / "run" / "result_1.txt").read_bytes()
    done = stormbench(*train_words(data, tmp_path, "--target_iou", 1, "--start_lr", "0.5"))
    assert done.returncode == 2
    assert "start_lr 0.001, this one has 0.5" in done.stderr
    assert (tmp_path / "run" / "result_1.txt").read_bytes() == log


def test_a_stop_before_the_first_step_leaves_a_checkpoint(data: Path, tmp_path: Path) -> None:
    # from its very start, before torch is imported
    command = [sys.executable, "-m", "stormbench", *train_words(data, tmp_path, "--max_epochs", 2, "--target_iou", 1)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment())
    deadline = time.monotonic() + 60
    while not process_handles(process.pid, signal.SIGUSR1):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert (tmp_path / "run" / "checkpoints" / "deepcam_1.pt").exists()


def process_handles(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)


def test_step_lines_count_the_samples_since_the_line_before(stormbench: Run, data: Path, tmp_path: Path) -> None:
    done = stormbench(*train_words(data, tmp_path, "--max_epochs", 2, "--target_iou", 1, "--logging_frequency", 3))
    assert done.returncode == 0, done.stderr
    lines = metrics(tmp_path / "run", "step")
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15]
    # the third line comes one step into the second epoch: counting three steps there would treble its rate
    ninth = next(line for line in lines if line["step"] == 9)
    assert ninth["samples"] == 2
    assert [line["samples"] for line in lines if line["step"] != 9] == [6, 6, 6, 6]


def test_output_that_nobody_reads_neither_ends_a_run_nor_hides_how_it_ended(stormbench: Run, data: Path, tmp_path: Path) -> None:
    words = train_words(data, tmp_path, "--max_epochs", 1, "--target_iou", 1)
    done = stormbench(*words, prefix=("sh", "-c", '"$0" "$@" >/dev/full 2>/dev/full'))
    assert done.returncode == 0
    assert record(tmp_path / "run")["outcome"] == "target missed"


def test_runs_started_in_one_second_do_not_meet(stormbench: Run, data: Path, tmp_path: Path) -> None:
    words = [word for word in train_words(data, tmp_path, "--max_epochs", 1, "--target_iou", 1) if word not in ("--run_tag", "run")]
    both = [subprocess.Popen([sys.executable, "-m", "stormbench", *words], env=clean_environment()) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")]) == 2
