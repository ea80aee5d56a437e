"""`stormbench check` as a user starts it: verdicts for all configs, errors with place on standard error, the exit code, JSON, speed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from stormbench.job.check import LONGEST, one_line, placed
from tests.conftest import Run
from tests.mutations import write_config


def test_a_good_config_is_one_line(stormbench: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    done = stormbench("check", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: OK, deepcam on 2 x 4 = 8 ranks, global batch 128, wall time 02:00:00\n"


def test_every_config_is_checked_though_the_first_is_wrong(stormbench: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    wrong, good = write_config(tmp_path / "a", DGXNNODES="0"), write_config(tmp_path)
    done = stormbench("check", "missing.sh", wrong, good)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "missing.sh: can't be read (no such file or directory); give the path of a config",
        f"{wrong}:3: DGXNNODES=0: must be at least 1, at most 100000",
    ]
    assert done.stdout.startswith(f"{good}: OK, ")


def test_warnings_leave_a_config_good(stormbench: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path, OPTIMIZER="Adam")
    done = stormbench("check", path)
    assert done.returncode == 0
    assert done.stderr.startswith(f"{path}:11: warning: OPTIMIZER=Adam: ")
    assert len(done.stderr.splitlines()) == len(done.stdout.splitlines()) == 1


def test_one_rank_is_one_rank(stormbench: Run, tmp_path: Path) -> None:
    path = tmp_path / "config_TEST_1x1x1.sh"
    path.write_text("export DGXSYSTEM=TEST STORMBENCH_SCHEDULER=local DATA_FORMAT=dummy STORMBENCH_WIDTH=0.5\n")
    assert "deepcam on 1 x 1 = 1 rank, global batch 1" in stormbench("check", path).stdout


def test_weak_scaling_tells_its_instances(stormbench: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path, "config_TEST_2x1x4x2_weak.sh", TRAINING_INSTANCE_SIZE="4", GRADIENT_ACCUMULATION_FREQUENCY="16")
    assert "8 ranks, 2 instances of 4 ranks, global batch 128" in stormbench("check", path).stdout


def test_json_has_findings_and_layout_of_each(stormbench: Run, tmp_path: Path) -> None:
    good = write_config(tmp_path)
    bad = write_config(tmp_path, "config_TEST_3x4x2.sh")
    done = stormbench("check", good, bad, "missing.sh", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    first, second, third = json.loads(done.stdout)
    assert first == {
        "config": str(good),
        "ok": True,
        "findings": [],
        "layout": {
            "benchmark": "deepcam", "nodes": 2, "ranks_per_node": 4, "ranks": 8, "instances": 1, "ranks_per_instance": 8,
            "cores_per_rank": 16, "gpus_per_node": 4, "gpus": 8, "global_batch": 128, "wall_s": 7200,
        },
    }  # fmt: skip
    assert not second["ok"]
    assert [(one["level"], one["where"]) for one in second["findings"]] == [("error", f"{bad}:3")]
    assert third["layout"] is None
    assert third["findings"][0]["where"] == "missing.sh"


def test_another_benchmark_can_be_asked_of_a_config(stormbench: Run, tmp_path: Path) -> None:
    done = stormbench("check", write_config(tmp_path), "--benchmark", "cloudmask", DATADIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "OK, cloudmask on 2 x 4 = 8 ranks, global batch 256" in done.stdout


def test_an_unknown_benchmark_is_refused_with_the_known_ones(stormbench: Run, tmp_path: Path) -> None:
    done = stormbench("check", write_config(tmp_path), "--benchmark", "deepcat")
    assert done.returncode == 2
    assert "must be one of deepcam, cloudmask; did you mean deepcam?" in done.stderr


def test_no_config_is_an_error_that_names_where_they_are(stormbench: Run) -> None:
    done = stormbench("check")
    assert done.returncode == 2
    assert "configs/" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_value_with_line_ends_and_escapes_stays_one_line(stormbench: Run, tmp_path: Path) -> None:
    done = stormbench("check", write_config(tmp_path, DGXSYSTEM="a\nb\x1b[31mc"))
    assert len(done.stderr.splitlines()) == 1
    assert r"DGXSYSTEM=a\nb\x1b[31mc, but" in done.stderr


def test_a_config_in_a_folder_with_blanks_and_quotes_is_found(stormbench: Run, tmp_path: Path) -> None:
    folder = tmp_path / "it's; a $(folder)"
    folder.mkdir()
    path = write_config(folder, DGXNNODES="5", SBATCH_GPUS="20")
    done = stormbench("check", path)
    assert done.stderr.startswith(f"{path}:3: DGXNNODES=5, but the file's name says 2 nodes")


def test_a_finding_is_split_from_its_place() -> None:
    assert str(placed("a: b.sh", "a: b.sh:12: wrong: x")) == "a: b.sh:12: wrong: x"
    assert placed("a: b.sh", "a: b.sh:12: wrong: x").where == "a: b.sh:12"
    assert placed("c.sh", "systems/s.sh:3: wrong").where == "systems/s.sh:3"
    assert placed("c.sh", "no place").where == "c.sh"


def test_long_and_broken_text_is_shortened_to_a_printable_line() -> None:
    assert one_line("\udc80é") == "\\udc80é"
    assert len(one_line("9" * 10**6)) < LONGEST + 10


def test_a_check_takes_less_than_half_a_second(stormbench: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path, DATA_FORMAT="hdf5", DATADIR="/nonexistent", STORMBENCH_HOSTS="x")
    seconds = []
    for _ in range(3):
        before = os.times()
        stormbench("check", path)
        after = os.times()
        # of the processors, not of the clock: other tests run at the same time
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5
