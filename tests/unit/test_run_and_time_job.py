"""What the job-side entry does for a job script: stop file, exit code in a file, RESULT line, binding, caches, profiling."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.test_run_and_time import HEARS, SCRIPT, started, workload

SHOWS = """\
import os, sys
print("cores", *sorted(os.sched_getaffinity(0)))
for name in ("UCX_NET_DEVICES", "ROCR_VISIBLE_DEVICES", "MIOPEN_USER_DB_PATH", "XDG_CACHE_HOME", "STORMBENCH_RESULT_FILE"):
    print(name, os.environ.get(name, "unset"))
"""
CORES = sorted(os.sched_getaffinity(0))


def shown(tmp_path: Path, **environ: str) -> dict[str, str]:
    """Run the script once and return what its workload saw, by name."""
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env={**workload(tmp_path, SHOWS), **environ}, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line and not line.startswith(("STARTING", "ENDING")))


def test_rank_0_leaves_the_workloads_exit_code_where_a_launcher_hides_it(tmp_path: Path) -> None:
    status = tmp_path / "status"
    environ = {**workload(tmp_path, "raise SystemExit(75)"), "STORMBENCH_STATUS_FILE": str(status)}
    assert subprocess.run([str(SCRIPT)], env=environ, capture_output=True, check=False).returncode == 75
    assert status.read_text() == "75\n"


def test_other_ranks_leave_no_code(tmp_path: Path) -> None:
    status = tmp_path / "status"
    environ = {**workload(tmp_path, "raise SystemExit(1)"), "STORMBENCH_STATUS_FILE": str(status), "PMI_RANK": "3"}
    assert subprocess.run([str(SCRIPT)], env=environ, capture_output=True, check=False).returncode == 1
    assert not status.exists()


def test_a_stop_that_all_agreed_on_is_told_by_rank_0_alone_as_launchers_end_all_ranks_with_the_first(tmp_path: Path) -> None:
    stopped = {**workload(tmp_path, "raise SystemExit(75)"), "PMI_RANK": "3"}
    assert subprocess.run([str(SCRIPT)], env=stopped, capture_output=True, check=False).returncode == 75
    in_a_job = {**stopped, "STORMBENCH_STATUS_FILE": str(tmp_path / "status")}
    assert subprocess.run([str(SCRIPT)], env=in_a_job, capture_output=True, check=False).returncode == 0
    assert not (tmp_path / "status").exists()


def test_a_stop_file_asks_the_workload_to_stop_as_the_scheduler_would(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    process = started({**workload(tmp_path, HEARS), "STORMBENCH_STOP_FILE": str(stop)})
    stop.touch()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "heard SIGUSR1\n" in out


def test_a_stop_file_that_is_there_from_the_start_waits_until_the_workload_can_hear(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    process = started({**workload(tmp_path, "import time; time.sleep(1.5)\n" + HEARS), "STORMBENCH_STOP_FILE": str(stop)})
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "heard SIGUSR1\n" in out


@pytest.mark.parametrize(("word", "left"), [("", True), ("cancelled\n", False)])
def test_a_cancelled_job_has_each_node_clean_its_scratch_folder(tmp_path: Path, word: str, left: bool) -> None:
    stop, scratch = tmp_path / "stop", tmp_path / "scratch"
    process = started({**workload(tmp_path, HEARS), "STORMBENCH_STOP_FILE": str(stop), "STORMBENCH_CACHE": str(scratch)})
    assert scratch.is_dir()
    stop.write_text(word)
    process.communicate(timeout=30)
    assert scratch.exists() is left


def test_nothing_is_left_when_the_workload_ends_without_a_stop(tmp_path: Path) -> None:
    environ = {**workload(tmp_path, "print('done')"), "STORMBENCH_STOP_FILE": str(tmp_path / "never"), "TMPDIR": str(tmp_path)}
    mark = str(tmp_path / "never").encode()
    subprocess.run([str(SCRIPT)], env=environ, capture_output=True, check=True)
    time.sleep(0.2)

    def holds_mark(process: Path) -> bool:
        try:
            return mark in (process / "environ").read_bytes()
        except OSError:
            return False

    assert [path for path in Path("/proc").glob("[0-9]*") if holds_mark(path)] == []
    assert list(tmp_path.glob("tmp.*")) == []


def test_the_result_line_repeats_what_the_workload_tells(tmp_path: Path) -> None:
    body = "import os\nopen(os.environ['STORMBENCH_RESULT_FILE'], 'w').write('time_to_target_s=38.5\\ntime_to_16_epochs_s=240.0\\n')"
    environ = {**workload(tmp_path, body), "STORMBENCH_CONTINUED": "2", "SEED": "7"}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=environ, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT,"))
    assert line.split(",")[:3] == ["RESULT", "DEEPCAM", "7"]
    assert line.split(",")[-3:] == ["time_to_target_s=38.5", "time_to_16_epochs_s=240.0", "continued=2"]


def test_check_judges_the_logs_of_one_trial_and_starts_no_workload(tmp_path: Path) -> None:
    environ = workload(tmp_path, "import sys\nprint(sys.argv[1:])")
    done = subprocess.run([str(SCRIPT), "check", "/a b", "/c", "2"], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout == "['results', 'check', '--any_settings', '/a b/result_2.txt', '/c/result_2.txt']\n"


def test_allreduce_is_no_run_and_has_no_result(tmp_path: Path) -> None:
    environ = workload(tmp_path, "import sys\nprint(sys.argv[1:])")
    done = subprocess.run([str(SCRIPT), "allreduce"], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout == "['deepcam', 'allreduce']\n"
    other = {**environ, "STORMBENCH_BENCHMARK": "cloudmask"}
    done = subprocess.run([str(SCRIPT), "allreduce"], capture_output=True, text=True, env=other, check=True)
    assert done.stdout == "['cloudmask', 'allreduce']\n", "whose image has no PyTorch"


def test_cloudmask_is_the_other_benchmark_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    environ = workload(tmp_path, "import sys\nprint(sys.argv[1:])")
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env={**environ, "STORMBENCH_BENCHMARK": "cloudmask"}, check=True)
    assert "['cloudmask', 'train']" in done.stdout
    assert "RESULT,CLOUDMASK,1234," in done.stdout, "its own default seed"
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env={**environ, "STORMBENCH_BENCHMARK": "nope"}, check=False)
    assert (done.returncode, "nope is unknown" in done.stderr) == (2, True)


@pytest.mark.skipif(len(CORES) < 2, reason="one core can't be shared out")
def test_ranks_that_no_launcher_bound_get_equal_shares_of_the_cores(tmp_path: Path) -> None:
    shares = [shown(tmp_path, STORMBENCH_BIND="auto", DGXNGPU="2", SLURM_LOCALID=str(rank))["cores"].split() for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(CORES) // 2
    assert not set(shares[0]) & set(shares[1])


def test_a_rank_that_is_bound_or_told_not_to_bind_keeps_its_cores(tmp_path: Path) -> None:
    everything = " ".join(map(str, CORES))
    assert shown(tmp_path, STORMBENCH_BIND="none", DGXNGPU="2", SLURM_LOCALID="1")["cores"] == everything
    bound = {"STORMBENCH_BIND": "auto", "DGXNGPU": "2", "SLURM_LOCALID": "1", "STORMBENCH_CORES_PER_RANK": str(len(CORES))}
    assert shown(tmp_path, **bound)["cores"] == everything


def test_a_list_of_cores_binds_each_local_rank_and_one_that_the_node_lacks_binds_none(tmp_path: Path) -> None:
    order = f"{CORES[-1]} {CORES[0]}"
    bound = {"STORMBENCH_BIND": "auto", "DGXNGPU": "2"}
    ranks = [shown(tmp_path, **bound, LOCAL_RANK=str(rank), STORMBENCH_RANK_CORES=order)["cores"] for rank in (0, 1)]
    assert ranks == [str(CORES[-1]), str(CORES[0])]
    lacking = shown(tmp_path, **bound, LOCAL_RANK="0", STORMBENCH_RANK_CORES="4000-4001 4002-4003")["cores"]
    assert lacking == " ".join(map(str, CORES))


def test_each_local_rank_gets_its_network_card_and_its_amd_gpu(tmp_path: Path) -> None:
    cards = {"STORMBENCH_BIND": "auto", "STORMBENCH_NICS": "mlx5_0 mlx5_1", "DGXNGPU": "4", "STORMBENCH_GPU_VENDOR": "amd"}
    seen = [shown(tmp_path, **cards, SLURM_LOCALID=str(rank)) for rank in range(4)]
    assert [each["UCX_NET_DEVICES"] for each in seen] == ["mlx5_0:1", "mlx5_0:1", "mlx5_1:1", "mlx5_1:1"]
    assert [each["ROCR_VISIBLE_DEVICES"] for each in seen] == ["0", "1", "2", "3"]
    assert shown(tmp_path, **cards, UCX_NET_DEVICES="all", ROCR_VISIBLE_DEVICES="5")["UCX_NET_DEVICES"] == "all"


def test_caches_go_to_the_jobs_scratch_folder_which_is_made_before_the_launch(tmp_path: Path) -> None:
    seen = shown(tmp_path, STORMBENCH_CACHE=str(tmp_path / "scratch"))
    assert seen["MIOPEN_USER_DB_PATH"] == str(tmp_path / "scratch" / "miopen")
    assert (tmp_path / "scratch" / "miopen").is_dir()
    assert seen["XDG_CACHE_HOME"].startswith(str(tmp_path))


def test_profiling_wraps_the_first_rank_of_a_node_and_needs_nsys(tmp_path: Path) -> None:
    environ = {**workload(tmp_path, "print('ran')"), "ENABLE_PROFILING": "1", "LOGDIR": str(tmp_path), "RUN_TAG": "run"}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=environ, check=False)
    assert (done.returncode, "nsys is not in the search path" in done.stderr) == (2, True)
    # nsys takes its own options first, then the program
    nsys = tmp_path / "bin" / "nsys"
    nsys.write_text(f"#!{sys.executable}\nimport os, sys\nn = next(i for i, w in enumerate(sys.argv[2:], 2) if not w.startswith('--'))\n"
                    "print('profiled', *sys.argv[1:n], flush=True)\nos.execvp(sys.argv[n], sys.argv[n:])\n")  # fmt: skip
    nsys.chmod(0o755)
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=environ, check=True)
    assert f"--output={tmp_path}/run/profile_1_rank0" in done.stdout
    assert "ran" in done.stdout
    other = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env={**environ, "LOCAL_RANK": "1", "RANK": "1"}, check=True)
    assert "profiled" not in other.stdout
