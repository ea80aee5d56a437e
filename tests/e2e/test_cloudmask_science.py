"""The MLCommons Science form from its config.yaml to a log that the official checker's program passes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.cloudmask_files import frame, mpirun, product_name, write_products
from tests.cloudmask_logs import REQUIRED, check, events, position, write_events, write_log
from tests.conftest import BIN, Run, clean_environment, record

SMALL = {"STORMBENCH_WIDTH": "0.125", "STORMBENCH_GIT_COMMIT": "4c6bd93"}
CONFIG = """\
benchmark: CloudMask
organisation: STFC
division: open
status: research
platform: test machine
accelerators_per_node: 1
train_dir: {folder}/train
inference_dir: {folder}/ssts
model_file: {out}/cloudModel.h5
output_dir: {out}
log_file: {out}/cloudMask_Log
mlperf_logfile: {out}/mlperf.log
PATCH_SIZE: 256
IMAGE_H: 256
IMAGE_W: 256
N_CHANNELS: 9
MIN_SST: 273.15
CROP_SIZE: 80
seed: 1234
learning_rate: 0.01
epochs: 2
batch_size: 2
train_split: 0.6
clip_offset: 15
no_cache: False
nodes: {nodes}
gpu: {gpu}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products to train on, products to predict, and match-ups with buoys in one of the latter."""
    folder = tmp_path_factory.mktemp("science")
    write_products(folder / "train", 5, height=256, width=256)
    write_products(folder / "ssts", 4, height=256, width=256)
    (folder / "empty").mkdir()
    clear = ~(frame(0, 256, 256).bayes_hw > 0)
    rows = [
        {
            "isst": 15.0 + number / 100, "slat": 1.0, "slon": 2.0, "latitude_an": 1.0, "longitude_an": 2.0, "satzan": 10.0, "satzao": 20.0,
            "quality_level": 5, "sst_algorithm_type": 4, "sat_sst_2": 288.2, "y_cems": number * 20, "x_cems": 100, "pcloudn": 0.1,
            "pcloudo": 0.1, "bayes_in": int(not clear[number * 20, 100]), "cems_path": f"/x/{product_name(0)}.zip",
        }
        for number in range(10)
    ]  # fmt: skip
    pd.DataFrame(rows).to_hdf(folder / "ssts" / "sst_matchups.h5", key="data")
    return folder


def write_config(folder: Path, out: Path, *, nodes: int = 1, gpu: int = 0, change: tuple[str, str] = ("", "")) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.yaml"
    path.write_text(CONFIG.format(folder=folder, out=out, nodes=nodes, gpu=gpu).replace(*change))
    return path


@pytest.fixture(scope="module")
def finished(folder: Path, stormbench: Run) -> Path:
    """The output folder of a whole run."""
    out = folder / "out"
    done = stormbench("cloudmask", "run", "--config", write_config(folder, out), **SMALL)
    assert done.returncode == 0, done.stderr
    assert "mlperf.log: compliant" in done.stdout
    return out


def run_folder(out: Path) -> Path:
    (found,) = out.glob("cloudmask-*")
    return found


def test_official_checker_passes_the_log(finished: Path) -> None:
    for more in ((), ("--usage", "hpc", "--ruleset", "3.0.0", "--werror")):
        done = check(finished / "mlperf.log", *more)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["result", "submission_github_commit_version", "eval_accuracy", "run_start"])
def test_official_checker_fails_the_log_without_a_key(finished: Path, tmp_path: Path, key: str) -> None:
    lines = [line for line in events(finished / "mlperf.log") if line["key"] != key]
    assert check(write_events(tmp_path / "log.txt", lines)).returncode == 1


def test_log_has_the_keys_in_order_and_says_what_came_of_it(finished: Path) -> None:
    lines = events(finished / "mlperf.log")
    order = ["cache_clear", "init_start", "submission_benchmark", "init_stop", "run_start", "epoch_start", "inference_start", "result"]
    positions = [position(lines, key) for key in (*order, "run_stop")]
    assert positions == sorted(positions)
    assert {line["key"] for line in lines} >= set(REQUIRED)
    told = {line["key"]: line["value"] for line in lines}
    assert (told["submission_org"], told["submission_platform"], told["submission_division"]) == ("STFC", "test machine", "open")
    assert (told["submission_github_commit_version"], told["seed"], told["patch_size"]) == ("4c6bd93", 1234, 256)
    assert told["science_config"]["CROP_SIZE"] == 80
    result = next(line for line in lines if line["key"] == "result")
    assert result["event_type"] == "POINT_IN_TIME"
    assert result["value"]["inference_products"] == 4
    assert 0.5 < result["value"]["inference_accuracy"] <= 1
    assert result["value"]["sst"]["bayes"]["count"] == 10
    assert lines[-1]["metadata"]["status"] == "success"


def test_everything_that_the_file_asks_for_is_there(finished: Path) -> None:
    masks = {path.name for path in finished.glob("S3A*.h5")}
    assert masks == {f"{product_name(number)}.h5" for number in range(4)}
    assert json.loads((finished / "inference.json").read_text())["products"] == 4
    assert (finished / "cloudModel.h5").stat().st_size > 10_000
    assert (finished / "sst_comparison.json").is_file()
    training, inference = (finished / "cloudMask_Log").read_text().splitlines()
    assert training.startswith("CloudMask training, epochs=2, bs=2, nodes=1, gpus=0, time_per_epoch=")
    assert inference.startswith("CloudMask inference, inferences=4, bs=2, nodes=1, gpus=0, time_per_inference=")
    assert (finished / "mlperf.log").read_bytes() == (run_folder(finished) / "result_1.txt").read_bytes()
    assert record(run_folder(finished))["outcome"] == "success"


def test_saved_model_infers_by_itself(finished: Path, folder: Path, tmp_path: Path, stormbench: Run) -> None:
    done = stormbench("cloudmask", "inference", finished / "cloudModel.h5", folder / "ssts", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == json.loads((finished / "inference.json").read_text())["accuracy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": 4}, "nodes: 4: but the job that this runs in has 1 node "),
        ({"gpu": 8}, "gpu: 8: but the job that this runs in has 0 GPUs "),
        ({"change": ("epochs: 2", "epochs: [2")}, "config.yaml:22: is not YAML"),
        ({"change": ("epochs: 2", "epoch: 2")}, "config.yaml:21: epoch: is not a key of this benchmark; did you mean epochs?"),
        ({"change": ("seed: 1234", "seed: 1")}, "config.yaml:19: seed: 1: must be 1234"),
        ({"change": ("/train", "/nothing")}, "no such folder"),
        ({"change": ("/ssts", "/empty")}, "empty: no .hdf files and no .SEN3 products in it"),
    ],
)  # fmt: skip
def test_mistakes_stop_it_with_code_2_before_anything_is_done(folder: Path, tmp_path: Path, stormbench: Run, options, words: str) -> None:
    out = tmp_path / "out"
    done = stormbench("cloudmask", "run", "--config", write_config(folder, out, **options), CUDA_VISIBLE_DEVICES="", **SMALL)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in out.iterdir()] == ["config.yaml"]


def test_run_killed_in_inference_goes_on_and_its_log_passes(folder: Path, tmp_path: Path, stormbench: Run) -> None:
    many = tmp_path / "many"
    write_products(many / "ssts", 12, height=256, width=256)
    shutil.copytree(folder / "train", many / "train")
    out = tmp_path / "out"
    config = write_config(many, out, change=("epochs: 2", "epochs: 1"))
    foreign = write_log(out / "mlperf.log").read_bytes()
    command = [sys.executable, "-m", "stormbench", "cloudmask", "run", "--config", str(config)]
    child = subprocess.Popen(command, start_new_session=True, env=clean_environment(**SMALL), stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list(out.glob("S3A*.h5"))) < 2:
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = {path.name: path.read_bytes() for path in out.glob("S3A*.h5")}
    assert len(before) < 12, "it was done before it could be killed: write more products"
    done = stormbench("cloudmask", "run", "--config", config, **SMALL)
    assert done.returncode == 0, done.stderr
    assert f"{12 - len(before)} predicted, {len(before)} were complete" in done.stdout
    assert all((out / name).read_bytes() == content for name, content in before.items())
    assert run_folder(out).is_dir()
    assert (out / "mlperf.log.1").read_bytes() == foreign
    assert check(out / "mlperf.log").returncode == 0


def test_two_ranks_train_and_infer_together(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_on_two_ranks(write_config(folder, out, change=("epochs: 2", "epochs: 1")))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "inference.json").read_text())["num_ranks"] == 2
    assert len(list(out.glob("S3A*.h5"))) == 4
    lines = events(out / "mlperf.log")
    assert lines[position(lines, "number_of_ranks")]["value"] == 2
    assert lines[-1]["metadata"]["status"] == "success"
    assert check(out / "mlperf.log").returncode == 0
    wrong = run_on_two_ranks(write_config(folder, tmp_path / "other", gpu=4))
    assert wrong.returncode == 2
    assert wrong.stderr.count("gpu: 4: but the job that this runs in has 0 GPUs") == 1


def run_on_two_ranks(config: Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark on two ranks of Horovod's MPI, or without Horovod, of the MPI at hand for TensorFlow's own strategy."""
    launcher = mpirun(2) or [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
    command = [*launcher, sys.executable, "-m", "stormbench", "cloudmask", "run", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=clean_environment(**SMALL), check=False)
