"""The nodes and GPUs of a Science config against the job: equal, or both are told; how the job's are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stormbench.cloudmask import gpus, science, science_config, science_job
from stormbench.cloudmask.config import TrainConfig
from stormbench.core import work
from stormbench.core.errors import UserError
from stormbench.core.launch import detect
from tests.cloudmask_logs import write_log
from tests.conftest import LAUNCHER_VARIABLES

FILE = "train_dir: a\ninference_dir: b\noutput_dir: {out}\nnodes: {nodes}\ngpu: {gpu}\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No launcher, no GPU, no Horovod."""
    import os

    for name in list(os.environ):
        if name.startswith((*LAUNCHER_VARIABLES, "STORMBENCH")) or name in (*gpus.VISIBLE, "RANK", "WORLD_SIZE", "SEED", "RUN_TAG"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(gpus, "NVIDIA", tmp_path / "no driver")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "no devices")
    monkeypatch.setattr(science_job.importlib.util, "find_spec", lambda name: None)


def ranks(monkeypatch: pytest.MonkeyPatch, size: int, local_size: int) -> None:
    """Pretend that mpirun started so many ranks, so many a node."""
    for name, value in (("SIZE", size), ("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_SIZE", local_size)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))


def check(tmp_path: Path, nodes: int, gpu: int, **training: object) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE.format(out=tmp_path / "out", nodes=nodes, gpu=gpu))
    config, origins = science_config.read(path)
    science_job.check(config, origins, dataclasses.replace(TrainConfig(), **training))


def test_one_process_is_one_node_with_the_gpu_that_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"config\.yaml:5: gpu: 1: but the job that this runs in has 0 GPUs .*; set gpu: 0, or start"):
        check(tmp_path, 1, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    check(tmp_path, 1, 1)
    with pytest.raises(UserError, match=r"gpu: 1: but the job .* has 0 GPUs"):
        check(tmp_path, 1, 1, cpu_only=True)


def test_other_number_of_nodes_stops_with_both(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml:4: nodes: 4: but the job that this runs in has 1 node .*; set nodes: 1, or start"):
        check(tmp_path, 4, 0)


def test_other_number_of_gpus_stops_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"config\.yaml:5: gpu: 8: but the job that this runs in has 1 GPU .*; set gpu: 1, or start"):
        check(tmp_path, 1, 8)


def test_a_key_that_is_left_out_is_whatever_the_job_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks(monkeypatch, 4, 4)
    path = tmp_path / "config.yaml"
    path.write_text(f"train_dir: a\ninference_dir: b\noutput_dir: {tmp_path}\n")
    config, origins = science_config.read(path)
    for devices in ("0,1,2,3", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        science_job.check(config, origins, TrainConfig())


def test_ranks_of_mpirun_on_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks(monkeypatch, 8, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    check(tmp_path, 2, 8)
    with pytest.raises(UserError, match=r"nodes: 1: but the job .* has 2 nodes \(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=8"):
        check(tmp_path, 1, 8)
    with pytest.raises(UserError, match=r"gpu: 4: but the job .* has 8 GPUs"):
        check(tmp_path, 2, 4)


def test_cpu_run_has_any_number_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, 1, 0)
    ranks(monkeypatch, 4, 4)
    check(tmp_path, 1, 0)


def test_one_process_takes_all_gpus_that_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    check(tmp_path, 1, 4)
    with pytest.raises(UserError, match=r"gpu: 1: but the job .* has 4 GPUs"):
        check(tmp_path, 1, 1)
    check(tmp_path, 1, 1, strategy="none")


def test_horovod_has_one_gpu_a_rank_and_other_strategies_a_share_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks(monkeypatch, 4, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    check(tmp_path, 2, 8)
    monkeypatch.setattr(science_job.importlib.util, "find_spec", lambda name: object())
    check(tmp_path, 2, 4)
    check(tmp_path, 2, 8, strategy="multiworker")


def test_replicas_of_a_cpu_are_no_gpus(tmp_path: Path) -> None:
    check(tmp_path, 1, 0, strategy="mirrored", replicas=3)
    with pytest.raises(UserError, match=r"gpu: 3: but the job .* has 0 GPUs"):
        check(tmp_path, 1, 3, strategy="mirrored", replicas=3)


def test_launcher_that_does_not_tell_its_nodes_is_asked_by_the_hosts_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks(monkeypatch, 3, 3)
    launch = dataclasses.replace(detect(), n_nodes=None)

    class Comm:
        def allgather(self, value: object) -> list[object]:
            return ["a", "b", "a"]

    monkeypatch.setattr(science_job.work, "world", lambda: work.Team(rank=0, size=3, comm=Comm()))
    assert science_job.nodes_of(launch) == 2

    def missing() -> work.Team:
        raise UserError("mpi4py is missing")

    monkeypatch.setattr(science_job.work, "world", missing)
    assert science_job.nodes_of(launch) is None


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0,1", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-ab, GPU-cd", 2)])
def test_variables_say_which_gpus_are_seen(text: str, count: int) -> None:
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": text}) == count


def test_driver_says_how_many_gpus_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "NVIDIA", tmp_path)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert gpus.visible_gpus({}) == 2


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), 2), (("kfd", "dri/renderD128", "dri/renderD129", "dri/card0"), 2),
        (("dri/renderD128",), 0), (("nvidiactl",), 0),
    ],
)  # fmt: skip
def test_devices_count_where_the_driver_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple, count: int) -> None:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    (tmp_path / "dri").mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert gpus.visible_gpus({}) == count


def test_file_decides_and_variables_fill_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    more = "epochs: 3\nlearning_rate: 0.002\nno_cache: 1\norganisation: STFC\n"
    path.write_text(FILE.format(out=tmp_path / "out", nodes=1, gpu=0) + more)
    monkeypatch.setenv("STORMBENCH_CLOUDMASK_EPOCHS", "99")
    monkeypatch.setenv("STORMBENCH_CLOUDMASK_PRECISION", "bf16")
    monkeypatch.setenv("STORMBENCH_CACHE_CLEARED", "1")
    monkeypatch.setenv("RUN_TAG", "trial7")
    training, origins = science.training_config(*science_config.read(path))
    assert (training.epochs, training.learning_rate, training.cache, training.submission_org) == (3, 0.002, "none", "STFC")
    assert (training.seed, training.patch_size, training.target_accuracy, training.loss) == (1234, 256, 0.9, "bce")
    assert (training.precision, training.cache_cleared, training.cpu_only, training.run_tag) == ("bf16", True, True, "trial7")
    assert (training.data_dir, training.output_dir) == (Path("a"), tmp_path / "out")
    assert origins["epochs"] == f"{path}:6: epochs: 3"


def test_copy_of_an_earlier_log_makes_way_and_any_other_is_kept(tmp_path: Path) -> None:
    run_folder = tmp_path / "cloudmask-1"
    run_folder.mkdir()
    write_log(run_folder / "result_1.txt")
    log = tmp_path / "mlperf.log"
    log.write_bytes((run_folder / "result_1.txt").read_bytes())
    science._clear(log, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cloudmask-1"]
    for number in (1, 2):
        log.write_text(f"log {number}")
        science._clear(log, tmp_path)
        assert not log.exists()
        assert (tmp_path / f"mlperf.log.{number}").read_text() == f"log {number}"
