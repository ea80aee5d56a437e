"""Whole runs of LSF and PBS jobs under strict stand-ins: stopped before the limit, queued again, and continued to the same numbers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.verdict import judge
from stormbench.job.load import load
from stormbench.job.render import render
from stormbench.job.standins import PROGRAMS, Plan, install
from tests.cluster.test_slurm_jobs import SLOW, program, state_of
from tests.conftest import clean_environment, metrics, record
from tests.e2e.test_train import assert_same_weights

ROOT = Path(__file__).parents[2]
RUN = """\
export DGXSYSTEM=T DGXNNODES=2 DGXNGPU=2 LOCAL_BATCH_SIZE=2 SEED=40 WALLTIME={minutes} STORMBENCH_WARNING={warning} RUN_TAG=run
export STORMBENCH_SCHEDULER={scheduler} STORMBENCH_CORES_PER_RANK=1 STORMBENCH_WIDTH=0.05 MAX_EPOCHS={epochs} TARGET_IOU=1 MAX_THREADS=1
export OMP_NUM_THREADS=1 LOGGING_FREQUENCY=1 STORMBENCH_DETERMINISTIC=1 STORMBENCH_SCRATCH={folder}/scratch NEXP={trials}
"""
SUBMIT = {"lsf": "bsub < job.sh", "pbs": "qsub -V job.sh"}


class Site:
    """A folder with the stand-ins of one scheduler, its job and what it leaves."""

    def __init__(
        self, folder: Path, scheduler: str, data: Path, *, minutes: int = 30, warning: int = 60, trials: int = 1, epochs: int = 3
    ) -> None:  # fmt: skip
        self.folder, self.scheduler = folder, scheduler
        (folder / "scratch").mkdir(parents=True)
        install(folder / "bin", PROGRAMS, Plan(ranks=2, calls=str(folder / "calls.jsonl")))
        config = folder / "config.sh"
        values = {
            "minutes": minutes, "warning": warning, "scheduler": scheduler, "folder": shlex.quote(str(folder)), "trials": trials,
            "epochs": epochs,
        }  # fmt: skip
        config.write_text(RUN.format(**values))
        job = load(config, {"HOME": "/root", "PATH": os.environ["PATH"]})
        assert not job.errors, [str(finding) for finding in job.errors]
        (folder / "job.sh").write_text(render(job))
        search = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"DATADIR": str(data), "LOGDIR": str(folder / "results"), "LSB_DEFAULTPROJECT": "p", "STORMBENCH_HOME": str(ROOT)}
        self.environ = {**clean_environment(**own), "PATH": search}

    def start(self) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = ["bash", "-c", SUBMIT[self.scheduler]]
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, text=True, start_new_session=True, **pipes)

    def to_the_end(self) -> str:
        process = self.start()
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed[-4000:]
        return printed

    @property
    def run(self) -> Path:
        return self.folder / "results" / "run"

    def state(self) -> list[str]:
        return state_of(self.run)

    def programs(self) -> list[str]:
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        assert [call for call in calls if call["verdict"].startswith("rejected")] == []
        return [call["program"] for call in calls]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same job that nothing stops."""
    site = Site(tmp_path_factory.mktemp("site") / "whole", "pbs", data)
    site.to_the_end()
    return site.run


def steps(site: Site) -> int:
    figures = site.run / "metrics.jsonl"
    return sum('"step"' in line for line in figures.read_text().splitlines()) if figures.exists() else 0


def wait_for_steps(site: Site, least: int) -> None:
    deadline = time.monotonic() + 60
    while steps(site) < least:
        assert time.monotonic() < deadline, "no step is logged"
        time.sleep(0.1)


def script_of(site: Site) -> int:
    """Return the process of the job script, the leader of the job's processes."""
    name = str(site.folder / "bin" / "state" / "scripts").encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name in (folder / "cmdline").read_bytes() and os.getpgid(int(folder.name)) == int(folder.name):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("the job script doesn't run")


def assert_same_numbers(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    same = ("epoch", "iou", "train_loss", "validation_loss")
    first, second = ([{key: line[key] for key in same} for line in metrics(run, "epoch")] for run in (one, other))
    assert first == second


def seeds(printed: str) -> list[str]:
    """Return the seeds of the trials whose results were printed."""
    return [line.split(",")[2] for line in printed.splitlines() if line.startswith("RESULT,")]


def test_two_trials_run_to_their_verdicts(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "it's a; site", "lsf", data, trials=2, epochs=1)
    assert seeds(site.to_the_end()) == ["40", "41"]
    for trial in (1, 2):
        assert judge(site.run / f"result_{trial}.txt").verdict == "complete, target missed"
    assert site.programs().count("jsrun") >= 4
    assert site.state()[-1] == "done 0"
    assert list((site.folder / "scratch").iterdir()) == []


def test_a_pbs_job_that_is_warned_submits_a_successor_and_ends_with_the_same_numbers(data: Path, whole: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "cut", "pbs", data)
    slow = program(tmp_path, SLOW)
    site.environ["PATH"] = f"{slow}{os.pathsep}{site.environ['PATH']}"
    process = site.start()
    wait_for_steps(site, 2)
    # as its own clock does, which may not be set to a time that this machine needs for its start
    os.kill(script_of(site), signal.SIGUSR1)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed[-4000:]
    assert "the time limit is near" in printed
    assert site.programs().count("qsub") == 2
    assert "continued 1 time(s)" in printed
    assert record(site.run)["trials"]["1"]["attempt"] == 2
    assert_same_numbers(whole, site.run)


HALTS = """\
import os, signal, sys, time
open(os.environ["SEEN"], "a").write(f"{os.environ['EXPERIMENT_ID']} {os.environ['SEED']}\\n")
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
if os.environ["EXPERIMENT_ID"] == "2" and os.environ["STORMBENCH_CONTINUED"] == "0":
    time.sleep(120)
"""


def test_a_pbs_job_watches_its_clock_and_one_of_an_array_goes_on_with_its_seeds_and_account(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "cut", "pbs", data, minutes=1, warning=52, trials=2)
    script = site.folder / "job.sh"
    script.write_text(script.read_text().replace("CHECK_COMPLIANCE='1'", "CHECK_COMPLIANCE='0'").replace("export SEED=", "unset SEED #"))
    halts = program(tmp_path, HALTS + "sys.exit(0)\n")
    site.environ |= {"PATH": f"{halts}{os.pathsep}{site.environ['PATH']}", "STORMBENCH_SEEDS": "11 22"}
    seen = {}
    for index in (1, 2):
        site.environ |= {"SEEN": str(tmp_path / f"seen{index}")}
        done = subprocess.run(
            ["qsub", "-V", "-A", "project", "-J", f"{index}-{index + 1}:2", "job.sh"],
            cwd=site.folder, env=site.environ, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        ranks = (tmp_path / f"seen{index}").read_text().splitlines()
        seen[index] = [tuple(map(int, line.split())) for line in dict.fromkeys(ranks)]
    calls = [json.loads(line)["argv"] for line in (site.folder / "calls.jsonl").read_text().splitlines() if '"qsub"' in line]
    assert [words[words.index("-A") + 1] for words in calls] == ["project"] * 4
    # each trial has one seed, before its job was cut and after
    assert seen == {1: [(1, 11), (2, 11 + 100003)], 2: [(1, 22), (2, 22 + 100003)]}


def test_an_lsf_job_whose_every_process_is_warned_requeues_itself_to_the_same_numbers(data: Path, whole: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "cut", "lsf", data)
    # LSF ends all processes of the job it requeues, the one that asked for it too, which then tells no success
    asker = site.folder / "bin" / "brequeue"
    asker.write_text(asker.read_text().replace("exec ", "") + "sleep 60\n")
    slow = program(tmp_path, SLOW)
    site.environ["PATH"] = f"{slow}{os.pathsep}{site.environ['PATH']}"
    process = site.start()
    wait_for_steps(site, 2)
    os.killpg(script_of(site), signal.SIGUSR1)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed[-4000:]
    assert "queues itself again" in printed
    assert "brequeue" in site.programs()
    assert site.state()[1:] == ["restarts 1", "trial 1 seed 40 code 0", "done 0"]
    assert_same_numbers(whole, site.run)


def test_a_job_that_may_not_requeue_stops_with_its_checkpoint_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "cut", "lsf", data)
    script = site.folder / "job.sh"
    text = script.read_text().replace("STORMBENCH_MAX_REQUEUES='3'", "STORMBENCH_MAX_REQUEUES='0'")
    script.write_text(text.replace("MAX_EPOCHS='3'", "MAX_EPOCHS='999'"))
    process = site.start()
    wait_for_steps(site, 2)
    os.killpg(script_of(site), signal.SIGUSR1)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 75, printed[-4000:]
    assert "STORMBENCH_MAX_REQUEUES=0 allows no more" in printed
    assert "the same job with RUN_TAG=run continues it" in printed
    assert any((site.run / "checkpoints").glob("*.pt"))
    assert site.state()[1:] == ["done 75"]


def test_a_killed_job_leaves_no_process(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "cut", "pbs", data)
    script = site.folder / "job.sh"
    script.write_text(script.read_text().replace("MAX_EPOCHS='3'", "MAX_EPOCHS='999'"))
    process = site.start()
    wait_for_steps(site, 2)
    deleted: Any = subprocess.run(["qdel", "1001"], env=site.environ, capture_output=True, text=True, check=False)
    assert deleted.returncode == 0, deleted.stderr
    process.communicate(timeout=120)
    assert process.returncode != 0
    with pytest.raises(AssertionError, match="doesn't run"):
        script_of(site)
    assert judge(site.run / "result_1.txt").verdict == "failed"
    assert "trial 1" not in (site.run / "job_state").read_text()


def test_a_new_submission_under_the_same_name_does_again_what_failed_and_nothing_else(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "it's a; site", "pbs", data, trials=2, epochs=1)
    path = site.environ["PATH"]
    broken = program(tmp_path, "if os.environ.get('EXPERIMENT_ID') == '2': sys.exit('the second trial breaks')\n")
    site.environ["PATH"] = f"{broken}{os.pathsep}{path}"
    process = site.start()
    failed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert seeds(failed) == ["40"]
    assert site.state()[1:] == ["trial 1 seed 40 code 0", "trial 2 seed 41 code 1", "done 1"]
    first = (site.run / "result_1.txt").read_bytes()
    site.environ["PATH"] = path
    printed = site.to_the_end()
    assert "1 trial(s) had been done before this start" in printed
    assert seeds(printed)[-1] == "41"
    assert (site.run / "result_1.txt").read_bytes() == first
    for trial in (1, 2):
        assert judge(site.run / f"result_{trial}.txt").verdict == "complete, target missed"
    assert site.state()[-2:] == ["trial 2 seed 41 code 0", "done 0"]
    assert site.programs().count("mpiexec") >= 4
    assert list((site.folder / "scratch").iterdir()) == []


def test_a_second_job_in_the_same_run_folder_is_refused_and_the_first_is_not_disturbed(data: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", "pbs", data, epochs=3)
    site.environ["PATH"] = f"{program(tmp_path, SLOW)}{os.pathsep}{site.environ['PATH']}"
    first = site.start()
    wait_for_steps(site, 1)
    second = site.start()
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 2, told
    assert "RUN_TAG=run: another job is at work in" in told
    printed, _ = first.communicate(timeout=240)
    assert first.returncode == 0, printed[-4000:]
    assert site.state()[1:] == ["trial 1 seed 40 code 0", "done 0"]
