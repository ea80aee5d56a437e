"""Training as a user starts it, in one process: what it leaves behind, stops, continues and refuses."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stormbench.cloudmask import names
from stormbench.core.verdict import read_events
from tests.cloudmask_files import write_products
from tests.conftest import Run, begin, clean_environment, metrics, record
from tests.forks import Fork

pytest.importorskip("tensorflow")

N_PRODUCTS, N_TEST = 10, 2
SMALL = ("--batch-size", 4, "--patch-size", 32, "--clip-offset", 4, "--width", 0.1, "--intra_threads", 1, "--logging_frequency", 1)
WHOLE = (*SMALL, "--epochs", 2, "--save_frequency", 2)
STEPS = 8 * 6 // 4
"""Of an epoch: eight products of 2 x 3 patches, four at a time."""


def onednn_by_default() -> bool:
    """What TensorFlow itself chooses on this machine, when nobody tells it."""
    environ = clean_environment()
    environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    program = "from tensorflow.python.util import _pywrap_util_port as port; print(port.IsMklEnabled())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True)
    return done.stdout.strip() == "True"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cloudmask") / "hdf"
    write_products(folder, N_PRODUCTS, invalid=0.05, generated=True)
    return folder


def words(products: Path, output: Path, *more: object) -> list[str]:
    return ["cloudmask", "train", str(products), str(output), "--run_tag", "run", *map(str, more)]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "checkpoints" / "cloudmask_1.npz") as file:
        return {name: file[name] for name in file.files if name != "about"}


def of_trial_1(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in metrics(folder, kind) if line["experiment_id"] == 1]


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights and moments to the last bit, the same models byte by byte, the same scores, and one log in order."""
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    for name in ("best", "last"):
        path = Path("checkpoints") / f"cloudmask_1_{name}.keras"
        assert (one / path).read_bytes() == (other / path).read_bytes()
    assert (one / "history_1.csv").read_bytes() == (other / "history_1.csv").read_bytes()
    timed = re.compile("seconds|_ms|imgs_per_s|waiting|attempt")
    figures = [
        {line["epoch"]: {name: value for name, value in line.items() if not timed.search(name)} for line in of_trial_1(folder, "epoch")}
        for folder in (one, other)
    ]
    assert figures[0] == figures[1]
    keys = [event["key"] for event in read_events(other / "result_1.txt")]
    assert [keys.count(key) for key in ("init_start", "init_stop", "run_start", "run_stop", "result")] == [1] * 5
    assert keys.count("epoch_start") == keys.count("epoch_stop") == keys.count("eval_accuracy") == 2


@pytest.fixture(scope="module")
def finished(stormbench: Run, products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of two epochs."""
    output = tmp_path_factory.mktemp("finished")
    done = stormbench(*words(products, output, *WHOLE))
    assert done.returncode == 0, done.stderr
    (output / "stdout").write_text(done.stdout)
    (output / "stderr").write_text(done.stderr)
    return output / "run"


def test_a_run_leaves_its_folder_with_provenance_log_figures_and_models(finished: Path) -> None:
    kept = record(finished)
    assert {"command", "config", "versions", "git_commit", "host", "devices", "notes", "seed", "start", "end", "outcome"} <= kept.keys()
    assert kept["outcome"] in ("success", "target missed")
    assert kept["config"]["batch_size"] == 4
    assert (kept["strategy"], kept["cache"], kept["generated_data"], kept["benchmark"]) == ("none", "memory", True, "cloudmask")
    assert any(note.startswith(f"oneDNN: {'on' if onednn_by_default() else 'off'}, TensorFlow's choice") for note in kept["notes"])
    assert kept["compute"] == {"onednn": onednn_by_default(), "intra_threads": 1, "inter_threads": 1}
    assert any("compute threads: 1 in an operation" in note for note in kept["notes"])
    assert [line["epoch"] for line in of_trial_1(finished, "epoch")] == [1, 2]
    assert [line["step"] for line in of_trial_1(finished, "step")] == list(range(1, 2 * STEPS + 1))
    files = {path.name for path in (finished / "checkpoints").iterdir()}
    assert files == {"cloudmask_1.npz", "cloudmask_1.previous.npz", "cloudmask_1_best.keras", "cloudmask_1_last.keras"}


def test_the_split_is_written_down_by_orbit(finished: Path) -> None:
    split = json.loads((finished / "split.json").read_text())
    assert (len(split["train"]), len(split["test"]), split["method"]) == (N_PRODUCTS - N_TEST, N_TEST, "orbit")
    orbits = [{names.parse(stem).relative_orbit for stem in split[side]} for side in ("train", "test")]
    assert not orbits[0] & orbits[1]


def test_the_log_is_in_order_and_has_the_keys_of_the_science_rules(finished: Path) -> None:
    events = read_events(finished / "result_1.txt")
    keys = [event["key"] for event in events]
    order = ("cache_clear", "init_start", "submission_benchmark", "init_stop", "run_start", "epoch_start", "eval_start", "eval_accuracy",
             "epoch_stop", "result", "run_stop")  # fmt: skip
    positions = [keys.index(key) for key in order]
    assert positions == sorted(positions)
    assert keys[-1] == "run_stop"
    values = {event["key"]: event for event in events}
    for key in ("benchmark", "org", "division", "version", "github_commit_version", "status", "platform"):
        assert values[f"submission_{key}"]["value"], key
    assert values["submission_division"]["value"] == "open"
    result = values["result"]
    assert result["event_type"] == "POINT_IN_TIME"
    assert result["value"]["test_accuracy"] == of_trial_1(finished, "epoch")[-1]["test_accuracy"]
    assert result["value"]["generated_data"] is True


def test_the_only_complaints_of_the_official_checker_are_the_small_patches_and_the_accuracy(finished: Path) -> None:
    complaints = record(finished)["trials"]["1"]["verdict"]["complaints"]
    assert all("patch_size" in complaint or "eval_accuracy" in complaint for complaint in complaints), complaints


def test_figures_count_what_was_processed_over_the_whole_test_split(finished: Path) -> None:
    for line in of_trial_1(finished, "epoch"):
        assert (line["train_patches"], line["test_patches"]) == (48, 12)
        assert line["imgs_per_s"] == pytest.approx(48 / line["train_seconds"])
        # 5% of the pixels have no measurement, and the edges of patches are left out
        assert line["test_pixels"] == pytest.approx(0.95 * 12 * 24**2, rel=0.02)
        assert line["test_day_pixels"] + line["test_night_pixels"] == line["test_pixels"]
        assert 0 <= line["waiting_for_data"] <= 1
        for name in ("test_accuracy", "test_balanced_accuracy", "test_f1", "test_day_accuracy", "test_night_accuracy"):
            assert 0 <= line[name] <= 1
        assert set(line["test_class_recall"]) == {"clear", "cloud"}
    assert of_trial_1(finished, "epoch")[1]["train_loss"] < of_trial_1(finished, "epoch")[0]["train_loss"]


def test_the_row_of_the_published_table_is_there(finished: Path) -> None:
    with open(finished / "train_1.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1
    last = of_trial_1(finished, "epoch")[-1]
    assert float(rows[0]["test_accuracy"]) == last["test_accuracy"]
    assert float(rows[0]["imgs_per_s_second_epoch"]) == last["imgs_per_s"]
    assert rows[0]["data"] == "generated"
    assert (rows[0]["python"] == "onednn") == onednn_by_default()
    assert (rows[0]["intra_threads"], rows[0]["inter_threads"]) == ("1", "1")
    with open(finished / "history_1.csv", newline="") as stream:
        history = list(csv.DictReader(stream))
    assert [int(line["epoch"]) for line in history] == [1, 2]
    assert float(history[1]["test_accuracy"]) == last["test_accuracy"]


def test_the_end_shows_a_table_with_its_caveat(finished: Path) -> None:
    shown = (finished.parent / "stdout").read_text()
    for told in ("always cloud would score", "balanced accuracy", "reduced: a rehearsal", "says nothing about accuracy", str(finished)):
        assert told in shown
    assert not [line for line in (finished.parent / "stderr").read_text().splitlines() if "oneDNN custom" in line or "absl" in line]


def test_a_done_trial_is_not_run_over_and_the_next_one_reuses_the_split(stormbench: Run, products: Path, finished: Path) -> None:
    before = (finished / "result_1.txt").read_bytes()
    done = stormbench(*words(products, finished.parent, *WHOLE))
    assert done.returncode == 2
    assert "give another --run_tag or --experiment_id" in done.stderr
    assert (finished / "result_1.txt").read_bytes() == before
    split = (finished / "split.json").read_bytes()
    done = stormbench(
        *words(products, finished.parent, *SMALL), "--epochs", 1, "--experiment_id", 2, "--seed", 7, "--no-cache", "--save_epochs",
        "--onednn", "off" if onednn_by_default() else "on", "--inter-threads", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with open(finished / "train_2.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["python"], row["inter_threads"]) == ("vanilla" if onednn_by_default() else "onednn", "2")
    assert record(finished)["compute"]["onednn"] is not onednn_by_default()
    assert (finished / "split.json").read_bytes() == split
    assert "split: reused from" in done.stderr
    assert {"cloudmask_2_best.keras", "cloudmask_2_last.keras", "cloudmask_2_epoch1.keras"} <= {
        path.name for path in (finished / "checkpoints").iterdir()
    }
    # another seed on the same split: other numbers
    second = [line for line in metrics(finished, "step") if line["experiment_id"] == 2]
    assert second[0]["loss"] != of_trial_1(finished, "step")[0]["loss"]


def start(products: Path, output: Path, *more: object) -> subprocess.Popen[str] | Fork:
    return begin(*words(products, output, *more))


def wait_for_steps(folder: Path, steps: int, process: subprocess.Popen[str] | Fork) -> None:
    deadline = time.monotonic() + 240
    path = folder / "metrics.jsonl"
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count('"kind": "step"') >= steps:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError(f"no {steps} steps in {folder}")


@pytest.mark.parametrize("steps", [5, STEPS + 3])
def test_a_killed_run_goes_on_to_the_same_files(stormbench: Run, products: Path, finished: Path, tmp_path: Path, steps: int) -> None:
    process = start(products, tmp_path, *WHOLE)
    wait_for_steps(tmp_path / "run", steps, process)
    process.kill()
    process.communicate()
    done = stormbench(*words(products, tmp_path, *WHOLE))
    assert done.returncode == 0, done.stderr
    assert_same_run(finished, tmp_path / "run")
    assert "goes on from" in done.stderr
    events = [event["key"] for event in read_events(tmp_path / "run" / "result_1.txt")]
    assert events.count("job_resumed") == 1
    assert record(tmp_path / "run")["trials"]["1"]["attempt"] == 2
    assert not [path for path in (tmp_path / "run").rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_stop_that_is_asked_for_writes_a_checkpoint_and_auto_goes_on(
    stormbench: Run, products: Path, finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    more = [*map(str, WHOLE), "--save_frequency", "0", "--checkpoint", "auto"]
    command = ["cloudmask", "train", str(products), str(tmp_path), *more]
    process = begin(*command)
    deadline = time.monotonic() + 240
    while not (found := list(tmp_path.glob("cloudmask-*/metrics.jsonl"))) or found[0].read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 75, told
    folder = found[0].parent
    assert record(folder)["outcome"] == "stopped"
    last = read_events(folder / "result_1.txt")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert f"--run_tag {folder.name} continues it" in told
    done = stormbench(*command)
    assert done.returncode == 0, done.stderr
    assert_same_run(finished, folder)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--patch-size", 72), r"hdf: --patch_size 72: an image of 64 x 96 pixels has no patch of this size; use at most 64$"),
        (("--checkpoint", "none.npz", "--patch-size", 32), r"--checkpoint none\.npz: there is no such file"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_no_folder(
    stormbench: Run, products: Path, tmp_path: Path, more: tuple[object, ...], told: str
) -> None:
    done = stormbench(*words(products, tmp_path / "out", *more))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("stormbench: ")]
    assert len(lines) == 1
    assert re.search(told, lines[0])
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named_before_anything_is_trained(stormbench: Run, tmp_path: Path) -> None:
    victim = write_products(tmp_path / "hdf", 4)[1]
    victim.write_bytes(victim.read_bytes()[:-3000])
    done = stormbench(*words(tmp_path / "hdf", tmp_path / "out", "--patch-size", 32))
    assert done.returncode == 2
    assert f"stormbench: {victim}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_run_and_time_serves_it_from_the_environment(products: Path, tmp_path: Path) -> None:
    environ = {
        "STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": str(products), "LOGDIR": str(tmp_path), "RUN_TAG": "run", "SEED": "77",
        "STORMBENCH_CLOUDMASK_EPOCHS": "1", "STORMBENCH_CLOUDMASK_BATCH_SIZE": "8", "STORMBENCH_CLOUDMASK_PATCH_SIZE": "32",
        "STORMBENCH_CLOUDMASK_CLIP_OFFSET": "4", "STORMBENCH_WIDTH": "0.1", "STORMBENCH_STATUS_FILE": str(tmp_path / "status"),
    }  # fmt: skip
    script = str(Path(__file__).parents[2] / "run_and_time.sh")
    environment = {**clean_environment(**environ), "PYTHON": sys.executable}
    done = subprocess.run([script], capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[:3] for line in done.stdout.splitlines() if line.startswith("RESULT")] == [["RESULT", "CLOUDMASK", "77"]]
    assert (tmp_path / "status").read_text().strip() == "0"
    assert record(tmp_path / "run")["config"]["patch_size"] == 32
    assert (tmp_path / "run" / "result_1.txt").exists()
