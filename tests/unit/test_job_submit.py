"""submit, status, logs and cancel: real jobs of this machine, and strict programs in the place of bsub, qsub and sbatch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.job import follow
from stormbench.job.submission import Submission, find, progress_of, read
from stormbench.job.submit import parse_seeds
from tests.conftest import Run, clean_environment

HOSTILE = 'it\'s; a "path" $HOME 50%j'
CONFIG = """\
export DGXSYSTEM=T
export DGXNNODES={nodes}
export DGXNGPU=1
export WALLTIME=20
export LOCAL_BATCH_SIZE=2
export DATA_FORMAT=dummy
export CHECK_COMPLIANCE=0
export STORMBENCH_SCHEDULER={scheduler}
export STORMBENCH_CORES_PER_NODE=1
"""
WORKS = 'echo "hello from $RUN_TAG seed $SEED"; echo 0 >"$STORMBENCH_STATUS_FILE"\n'
SLEEPS = "echo begun; sleep 600 & wait\n"
BSUB = """\
while [ $# -gt 0 ]; do
    case $1 in -w|-J|-P) shift 2 ;; *) echo "bsub: illegal option -- $1. Job not submitted." >&2; exit 255 ;; esac
done
script=$(cat)
case $script in '#!'*) ;; *) echo "Empty job. Job not submitted." >&2; exit 255 ;; esac
printf '%s\\n' "$script" >"$FAKE/script"
echo "Job <4242> is submitted to queue <normal>."
"""
BJOBS = """\
case $1$2$3 in -a-noheader-o) ;; *) echo "bjobs: unexpected $*" >&2; exit 255 ;; esac
[ "$5" = 4242 ] || { echo "Job <$5> is not found" >&2; exit 255; }
cat "$FAKE/states"
"""
QSUB = """\
while [ $# -gt 1 ]; do
    case $1 in -V) shift ;; -A|-W|-J) shift 2 ;; *) echo "qsub: invalid option $1" >&2; exit 2 ;; esac
done
[ -r "$1" ] || { echo "qsub: script file: $1: No such file" >&2; exit 1; }
cp "$1" "$FAKE/script"
echo 77.server
"""


@dataclasses.dataclass
class Site:
    """A folder with a config, an entry that stands for run_and_time.sh, and programs first on PATH."""

    folder: Path
    stormbench: Run

    def config(self, scheduler: str, entry: str = WORKS, nodes: int = 1) -> Path:
        path = self.folder / f"config_T_{nodes}x1x2.sh"
        path.write_text(CONFIG.format(scheduler=scheduler, nodes=nodes))
        (self.folder / "entry").write_text(f"#!/bin/bash\n{entry}")
        (self.folder / "entry").chmod(0o755)
        return path

    def program(self, name: str, body: str) -> None:
        """Install a program, which keeps its words in calls/NAME, one on each line."""
        (self.folder / "bin").mkdir(exist_ok=True)
        (self.folder / "calls").mkdir(exist_ok=True)
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/bash\nprintf \'%s\\n\' "$@" >"$FAKE/calls/{name}"\n{body}')
        path.chmod(0o755)

    def words(self, name: str) -> list[str]:
        return (self.folder / "calls" / name).read_text().splitlines()

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "LOGDIR": str(self.folder / "results"), "STORMBENCH_ENTRY": str(self.folder / "entry"), "FAKE": str(self.folder),
            "STORMBENCH_SCRATCH": str(self.folder / "scratch"), "PATH": f"{self.folder / 'bin'}{os.pathsep}{clean_environment()['PATH']}",
        }  # fmt: skip
        return own | more

    def run(self, *words: Any, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.stormbench(*words, timeout=60, **self.environment(**environ))

    def submit(self, *words: Any, **environ: str) -> Submission:
        done = self.run("submit", "--json", *words, **environ)
        assert done.returncode == 0, done.stderr
        return read(Path(json.loads(done.stdout)["folder"]))

    def runs(self) -> list[Path]:
        return sorted(path for path in (self.folder / "results").glob("*"))

    def status(self, run: Any, code: int) -> dict[str, Any]:
        done = self.run("status", run, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)[0]

    def until(self, run: Submission, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while True:
            found = json.loads(self.run("status", run.folder, "--json").stdout)[0]
            if found["state"] == state or time.monotonic() > deadline:
                assert found["state"] == state, (found, (run.folder / "job.out").read_text())
                return found
            time.sleep(0.1)


@pytest.fixture
def site(tmp_path: Path, stormbench: Run) -> Iterator[Site]:
    """A site below a path with quotes, blanks and shell characters; local jobs left over are ended."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    yield Site(folder, stormbench)
    for record in folder.glob("results/*/submission.json"):
        run = read(record.parent)
        if run.scheduler == "local":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(run.job_id), signal.SIGKILL)


def processes_below(folder: Path) -> list[str]:
    """Return the command lines of processes whose FAKE variable is `folder`, but for dead ones."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"FAKE={folder}\0".encode() in (process / "environ").read_bytes() + b"\0":
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_local_job_runs_to_its_end_in_a_new_run_folder(site: Site) -> None:
    run = site.submit(site.config("local"), SEED="7")
    row = site.until(run, "COMPLETED")
    assert (row["job"], row["trials"]) == (run.job_id, "1/1")
    assert sorted(path.name for path in site.runs()) == [run.folder.name]
    assert f"hello from {run.folder.name} seed 7" in (run.folder / "job.out").read_text()
    assert site.run("logs", run.folder).stdout == (run.folder / "job.out").read_text()


def test_logs_follow_a_local_job_to_its_end(site: Site) -> None:
    run = site.submit(site.config("local", "for i in 1 2 3; do echo line $i; sleep 0.3; done\n" + WORKS))
    done = site.run("logs", run.folder, "-f")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (run.folder / "job.out").read_text()
    assert "all 1 trial(s) done" in done.stdout


def test_an_interrupt_ends_logs_quietly_and_not_the_job(site: Site) -> None:
    run = site.submit(site.config("local", SLEEPS))
    command = [sys.executable, "-m", "stormbench", "logs", "-f", str(run.folder)]
    environ = clean_environment(**site.environment())
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as logs:
        assert logs.stdout is not None and logs.stderr is not None
        lines = iter(logs.stdout.readline, "")
        assert any("begun" in line for line in lines), "it ended before the job had printed"
        logs.send_signal(signal.SIGINT)
        assert logs.wait(timeout=20) == 130
        assert logs.stderr.read() == ""
    assert site.status(run.folder, 0)["state"] == "RUNNING"


def test_cancel_leaves_no_process_of_a_local_job(site: Site) -> None:
    run = site.submit(site.config("local", SLEEPS))
    deadline = time.monotonic() + 60
    while not list(run.folder.glob("trial_1.out")):
        assert time.monotonic() < deadline, "no trial begins"
        time.sleep(0.05)
    assert processes_below(site.folder)
    done = site.run("cancel", run.folder)
    assert (done.returncode, done.stdout) == (0, f"process {run.job_id} ({run.folder.name}) cancelled\n"), done.stderr
    assert processes_below(site.folder) == []
    assert site.status(run.folder, 1)["state"] == "CANCELLED"


def test_cancelling_what_has_ended_says_so_and_is_no_failure(site: Site) -> None:
    run = site.submit(site.config("local"))
    site.until(run, "COMPLETED")
    done = site.run("cancel", run.folder)
    assert done.returncode == 0
    assert "isn't under way (COMPLETED); nothing to cancel" in done.stdout


def test_a_failed_trial_is_a_failed_run(site: Site) -> None:
    run = site.submit(site.config("local", "exit 3\n"))
    assert site.until(run, "FAILED")["reason"] == "exit code 1"
    site.status(run.folder, 1)


def test_a_job_that_was_killed_is_told_from_one_that_ended(site: Site) -> None:
    run = site.submit(site.config("local", SLEEPS))
    os.killpg(int(run.job_id), signal.SIGKILL)
    assert site.until(run, "FAILED")["reason"] != ""


def test_another_process_with_the_jobs_number_is_left_alone(site: Site) -> None:
    run = site.submit(site.config("local"))
    site.until(run, "COMPLETED")
    (run.folder / "job_state").unlink()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            dataclasses.replace(run, job_id=str(other.pid)).write()
            assert "nothing to cancel" in site.run("cancel", run.folder).stdout
            assert other.poll() is None
        finally:
            other.kill()


def test_two_submissions_in_one_second_have_a_folder_each(site: Site) -> None:
    config = site.config("local")
    assert len({site.submit(config).folder for _ in range(2)}) == len(site.runs()) == 2


def test_bsub_reads_the_script_from_its_input_with_array_dependency_and_own_words(site: Site) -> None:
    site.program("bsub", BSUB)
    run = site.submit(site.config("lsf"), "--array", "3-4,9", "--after", "17", "--", "-P", "a project")
    assert site.words("bsub") == ["-w", "done(17)", "-J", "stormbench-deepcam[1-3]", "-P", "a project"]
    assert (run.job_id, run.array, run.after) == ("4242", (3, 4, 9), "17")
    script = (site.folder / "script").read_text()
    assert script.strip() == (run.folder / "job.sh").read_text().strip()
    assert "export STORMBENCH_SEEDS='3 4 9'" in script
    assert f"export RUN_TAG='{run.folder.name}'" in script
    assert "job-%J_%I.out" in script


def test_each_task_of_an_lsf_array_has_a_row_with_its_own_trials(site: Site) -> None:
    site.program("bsub", BSUB)
    site.program("bjobs", BJOBS)
    run = site.submit(site.config("lsf"), "--array", "3,4")
    (site.folder / "states").write_text("2|RUN|-|-|-\n1|DONE|-|-|-\n")
    run.task_folder(1).mkdir()
    (run.task_folder(1) / "job_state").write_text("seed 3\ntrial 1 seed 3 code 0\ndone 0\n")
    done = site.run("status", "4242", "--json")
    assert done.returncode == 0
    rows = [(row["task"], row["state"], row["trials"]) for row in json.loads(done.stdout)]
    assert rows == [(1, "COMPLETED", "1/1"), (2, "RUNNING", "0/1")]


def test_a_job_that_lsf_has_forgotten_has_the_state_that_it_noted_itself(site: Site) -> None:
    site.program("bsub", BSUB)
    site.program("bjobs", BJOBS)
    run = site.submit(site.config("lsf"))
    dataclasses.replace(run, job_id="17").write()
    assert site.status(run.folder, 1)["state"] == "UNKNOWN"
    noted_and_read = (("restarts 1", "FAILED", 1), ("done 75", "STOPPED", 1), ("done 143", "CANCELLED", 1), ("done 0", "COMPLETED", 0))
    for noted, state, code in noted_and_read:
        with (run.folder / "job_state").open("a") as stream:
            stream.write(noted + "\n")
        assert site.status(run.folder, code)["state"] == state


def test_an_lsf_that_knows_no_formats_is_asked_for_its_table(site: Site) -> None:
    site.program("bsub", BSUB)
    run = site.submit(site.config("lsf"))
    table = "JOBID USER STAT QUEUE FROM_HOST EXEC_HOST JOB_NAME SUBMIT_TIME\n4242 u RUN normal a b stormbench-deepcam Nov 21 10:00"
    site.program("bjobs", f'[ "$*" = "-a -w 4242" ] || {{ echo "bjobs: illegal option -- o" >&2; exit 255; }}\necho \'{table}\'\n')
    assert site.status(run.folder, 0)["state"] == "RUNNING"


def test_logs_of_a_pending_job_say_so(site: Site) -> None:
    site.program("bsub", BSUB)
    site.program("bjobs", BJOBS)
    run = site.submit(site.config("lsf"))
    (site.folder / "states").write_text("0|PEND|-|-|New job is waiting for scheduling;\n")
    done = site.run("logs", run.folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert "is PENDING (New job is waiting for scheduling) and has printed nothing; -f waits for it" in done.stderr


def test_bkill_gets_the_job_and_its_refusal_is_told(site: Site) -> None:
    site.program("bsub", BSUB)
    site.program("bjobs", BJOBS)
    site.program("bkill", 'echo "Job <4242>: User permission denied" >&2; exit 255\n')
    run = site.submit(site.config("lsf"))
    (site.folder / "states").write_text("0|RUN|-|-|-\n")
    done = site.run("cancel", run.folder)
    assert site.words("bkill") == ["4242"]
    assert (done.returncode, done.stderr) == (1, "stormbench: bkill: job 4242: Job <4242>: User permission denied\n")


def test_qsub_gets_the_script_and_writes_into_the_run_folder(site: Site) -> None:
    site.program("qsub", QSUB)
    run = site.submit(site.config("pbs"), "--after", "12.server", "--", "-A", "project")
    assert site.words("qsub") == ["-V", "-W", "depend=afterok:12.server", "-A", "project", str(run.folder / "job.sh")]
    assert run.job_id == "77.server"
    assert find("77", [site.folder / "results"]) == find("77.server", [site.folder / "results"]) == run


def test_a_job_can_wait_for_the_run_of_a_folder(site: Site) -> None:
    site.program("qsub", QSUB)
    config = site.config("pbs")
    first = site.submit(config)
    assert site.submit(config, "--after", first.folder).after == "77.server"


def test_a_pbs_without_history_is_asked_again_and_knows_a_resubmitted_job_by_its_new_number(site: Site) -> None:
    site.program("qsub", QSUB)
    site.program("qstat", '[ "$*" = "-f 78.server" ] || { echo "qstat: PBS is not configured to maintain job history" >&2; exit 1; }\n'
                          "printf 'Job Id: 78.server\\n    job_state = H\\n    comment = waits\\n'\n")  # fmt: skip
    run = site.submit(site.config("pbs"))
    (run.folder / "job_state").write_text("seed 1\nrestarts 1\njob 78.server\n")
    row = site.status("78.server", 0)
    assert (row["state"], row["job"], row["reason"]) == ("REQUEUED", "78.server", "waits")


def test_what_the_scheduler_refuses_leaves_no_run_folder_and_its_words_are_told(site: Site) -> None:
    site.program("bsub", BSUB)
    done = site.run("submit", site.config("lsf"), "--", "-Z")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "stormbench: bsub refused the job: bsub: illegal option -- -Z. Job not submitted."
    assert site.runs() == []


def test_a_submission_without_a_job_id_keeps_its_script_as_it_may_be_queued(site: Site) -> None:
    site.program("bsub", "echo all fine\n")
    done = site.run("submit", site.config("lsf"))
    assert done.returncode == 1
    assert "bsub named no job id" in done.stderr and "all fine" in done.stderr
    assert [path.name for run in site.runs() for path in run.iterdir()] == ["job.sh"]


@pytest.mark.parametrize("end", ["kill -s KILL $$", "exit 143"], ids=["a signal", "a wrapper's code for one"])
def test_a_submission_that_was_killed_keeps_its_script_as_it_may_be_queued(site: Site, end: str) -> None:
    site.program("sbatch", f"{end}\n")
    done = site.run("submit", site.config("slurm"))
    assert done.returncode == 1
    assert "sbatch was ended by signal" in done.stderr and "look whether" in done.stderr
    assert [path.name for run in site.runs() for path in run.iterdir()] == ["job.sh"]


SILENT_ONCE = """\
n=$(cat "$FAKE/asked" 2>/dev/null || echo 0); echo $((n + 1)) >"$FAKE/asked"
case $n in
    0) echo '0|RUN|-|-|-' ;;
    1 | 2) echo "LSF is down. Please wait ..." >&2; exit 255 ;;
    *) echo '0|DONE|-|-|-' ;;
esac
"""


def test_logs_wait_for_a_scheduler_that_stops_answering_and_say_so_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.program("bsub", BSUB)
    run = site.submit(site.config("lsf"))
    # asked twice for each answer: in the form that can be chosen, and then for the table
    site.program("bjobs", SILENT_ONCE.replace("1 | 2", "1 | 2 | 3 | 4"))
    for name, value in site.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(follow, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(follow, "POLL_S", 0.02)
    assert follow.run_logs(argparse.Namespace(name=str(run.folder), follow=True)) == 0
    assert capsys.readouterr().err.count("LSF is down") == 1


def test_logs_of_a_scheduler_that_never_answered_say_so(site: Site) -> None:
    site.program("bsub", BSUB)
    run = site.submit(site.config("lsf"))
    site.program("bjobs", 'echo "LSF is down. Please wait ..." >&2; exit 255\n')
    done = site.run("logs", "-f", run.folder)
    assert (done.returncode, done.stderr) == (1, "stormbench: bjobs: job 4242: LSF is down. Please wait ...\n")


def test_a_missing_scheduler_names_the_ways_out(site: Site) -> None:
    done = site.run("submit", site.config("lsf"))
    assert done.returncode == 2
    assert "bsub: not found on this machine; submit from a login node of the system, or stormbench rehearse " in done.stderr
    assert site.runs() == []


def test_a_dry_run_shows_the_command_and_writes_and_starts_nothing(site: Site) -> None:
    site.program("sbatch", "exit 1\n")
    before = sorted(site.folder.rglob("*"))
    config = site.config("slurm")
    done = site.run("submit", config, "--dry-run", "--array", "1-3", "--after", "5", "--", "-A", "p")
    assert done.returncode == 0, done.stderr
    assert "command: sbatch --parsable --dependency=afterok:5 --array=1-3 -A p '" in done.stdout
    assert sorted(site.folder.rglob("*")) == sorted([*before, config, site.folder / "entry"])


def test_missing_data_are_refused_where_the_job_is_submitted(site: Site) -> None:
    site.program("bsub", BSUB)
    config = site.config("lsf")
    config.write_text(config.read_text().replace("DATA_FORMAT=dummy", "DATADIR=/no/such/data"))
    done = site.run("submit", config)
    assert done.returncode == 2
    assert f"{config}:6: DATADIR=/no/such/data: no such folder on this machine" in done.stderr
    assert site.runs() == []


def test_errors_of_the_config_are_all_told(site: Site) -> None:
    config = site.config("local")
    config.write_text(config.read_text() + "export DGXNGPUS=3\nexport NEXP=0\n")
    done = site.run("submit", config)
    assert done.returncode == 2
    assert f"{config}:10: DGXNGPUS" in done.stderr and f"{config}:11: NEXP=0" in done.stderr


@pytest.mark.parametrize(
    ("words", "named"), [(("--array", "1,2"), "--array"), (("--after", "7"), "--after 7"), (("--", "-p", "x"), "-p x")]
)
def test_a_local_job_refuses_what_needs_a_queue_and_leaves_nothing(site: Site, words: tuple[str, ...], named: str) -> None:
    done = site.run("submit", site.config("local"), *words)
    assert (done.returncode, site.runs()) == (2, [])
    assert done.stderr.splitlines()[-1].startswith(f"stormbench: {named}: STORMBENCH_SCHEDULER=local has no ")


@pytest.mark.parametrize("run", ["12345", "no/such/folder", "."])
def test_a_run_that_is_none_is_named_with_what_to_give(site: Site, run: str) -> None:
    done = site.run("status", run)
    assert done.returncode == 2
    assert "give the " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "job_id": 3}', "\udcff"])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "submission.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"submission\.json: "):
        read(tmp_path)


def test_a_later_line_of_the_jobs_notes_stands_above_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "job_state").write_text("seed 5\ntrial 1 seed 5 code 0\nrestarts 1\ndone 75\nrestarts 2\ntrial 2 seed 6 code 1\n")
    progress = progress_of(tmp_path)
    assert (progress.restarts, progress.codes, progress.done) == (2, {1: 0, 2: 1}, None)


@pytest.mark.parametrize(
    "text", ["", "0", "1,1", "5-3", "1-3,2", "4294967296", "1-1001", "1-9999999999", "-3", "1;2", "a", "1,,2", "1.5", "٣", "1-2-3", "$(id)"]
)
def test_seeds_that_make_no_array_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--array "):
        parse_seeds(text)


@given(st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=50, unique=True))
def test_distinct_seeds_come_back_in_their_order(seeds: list[int]) -> None:
    assert parse_seeds(",".join(map(str, seeds))) == tuple(seeds)


@given(st.integers(1, 2**32 - 1000), st.integers(1, 1000))
def test_a_range_of_seeds_has_both_its_ends(first: int, number: int) -> None:
    assert parse_seeds(f"{first}-{first + number - 1}") == tuple(range(first, first + number))
