"""What schedulers print, in the forms of several versions, and what is read from it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.job.config import SCHEDULERS
from stormbench.job.schedulers import base, by_name
from stormbench.job.schedulers.base import TaskState, call
from stormbench.job.schedulers.local import Local, start_time
from stormbench.job.schedulers.lsf import parse_chosen, parse_table
from stormbench.job.schedulers.pbs import parse_qstat
from stormbench.job.schedulers.slurm import parse_scontrol, parse_squeue
from stormbench.job.submission import Submission
from tests.machines import program


@pytest.mark.parametrize(
    ("scheduler", "printed", "expected"),
    [
        ("slurm", "123\n", ("123", None)),
        ("slurm", "123;cluster2\n", ("123", "cluster2")),
        ("slurm", "Submitted batch job 123\n", ("123", None)),
        ("slurm", "Submitted batch job 123 on cluster alpha\n", ("123", "alpha")),
        ("slurm", "sbatch: your project has 77 hours left\n-- checking --\n123\n", ("123", None)),
        ("slurm", "", None),
        ("slurm", "sbatch: 123 hours left\n", None),
        ("lsf", "Job <123> is submitted to queue <normal>.\n", ("123", None)),
        ("lsf", "Memory reservation is (MB): 1024\nJob <123> is submitted to default queue <batch>.\n", ("123", None)),
        ("lsf", "Job not submitted.\n", None),
        ("pbs", "123.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov\n", ("123.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov", None)),
        ("pbs", "Job will be charged to x\n123[].gadi-pbs\n", ("123[].gadi-pbs", None)),
        ("pbs", "123\n", ("123", None)),
        ("pbs", "qsub: waiting\n", None),
    ],
)
def test_the_job_id_is_found_in_what_the_submission_prints(scheduler: str, printed: str, expected: tuple[str, str | None] | None) -> None:
    assert by_name(scheduler).job_id(printed) == expected


def submitted(folder: Path) -> Submission:
    """Return the record of job 7."""
    words = {"config": "", "benchmark": "", "script": "", "directory": "", "time": ""}
    return Submission(job_id="7", scheduler="slurm", command=(), trials=1, folder=folder, **words)


SQUEUE_22_05 = """\
2|FAILED|NonZeroExitCode
4|PENDING|Dependency
3_2|RUNNING|None
3_1|CANCELLED|None
"""
SCONTROL_22_05 = """\
JobId=2 JobName=f.sh
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=3:0

JobId=3 ArrayJobId=3 ArrayTaskId=3 JobName=s.sh UserId=root(0) JobState=RUNNING Reason=None Dependency=(null) Requeue=1
JobId=7 ArrayJobId=3 ArrayTaskId=2 JobName=s.sh UserId=root(0) JobState=PENDING Reason=DependencyNeverSatisfied Dependency=afterok:1(failed)
"""


def test_squeue_tells_state_reason_and_task() -> None:
    assert parse_squeue(SQUEUE_22_05) == [
        TaskState(state="FAILED", reason="NonZeroExitCode"),
        TaskState(state="PENDING", reason="Dependency"),
        TaskState(state="CANCELLED", task=1),
        TaskState(state="RUNNING", task=2),
    ]


def test_scontrol_is_read_on_one_line_or_on_several() -> None:
    assert parse_scontrol(SCONTROL_22_05) == [
        TaskState(state="FAILED", reason="NonZeroExitCode"),
        TaskState(state="PENDING", reason="DependencyNeverSatisfied", task=2),
        TaskState(state="RUNNING", task=3),
    ]


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("1|CANCELLED by 1000|None", base.CANCELLED),
        ("1|CANCELLED+|None", base.CANCELLED),
        ("1|CONFIGURING|None", base.PENDING),
        ("1|COMPLETING|None", base.COMPLETING),
        ("1|TIMEOUT|TimeLimit", base.TIMEOUT),
        ("1|NODE_FAIL|None", base.FAILED),
        ("1|OUT_OF_MEMORY|OutOfMemory", base.FAILED),
        ("1|REQUEUE_HOLD|job requeued in held state", base.REQUEUED),
        ("1|A_STATE_OF_THE_FUTURE|None", base.UNKNOWN),
        ("CLUSTER: alpha\n1|RUNNING|None", base.RUNNING),
    ],
)
def test_every_state_of_slurm_becomes_one_word(line: str, state: str) -> None:
    assert [found.state for found in parse_squeue(line)] == [state]


def test_a_state_of_slurm_that_is_no_word_of_ours_is_in_the_reason() -> None:
    assert parse_squeue("1|NODE_FAIL|None")[0].reason == "NODE_FAIL"


def test_the_rest_of_a_pending_array_in_scontrol_is_no_task() -> None:
    text = "JobId=9 ArrayJobId=9 ArrayTaskId=2-40%4 JobState=PENDING Reason=Priority"
    assert parse_scontrol(text) == [TaskState(state="PENDING", reason="Priority")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0|PEND|-|-|Job dependency condition not satisfied;", TaskState(state="PENDING", reason="Job dependency condition not satisfied")),
        ("0|RUN|-|-|-", TaskState(state="RUNNING")),
        ("3|DONE|-|-|-", TaskState(state="COMPLETED", task=3)),
        ("0|EXIT|1|-|-", TaskState(state="FAILED", reason="exit code 1")),
        ("0|EXIT|130|TERM_OWNER: job killed by owner|-", TaskState(state="CANCELLED", reason="TERM_OWNER: job killed by owner")),
        ("0|EXIT|143|-|-", TaskState(state="CANCELLED")),
        (
            "0|EXIT|140|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-",
            TaskState(state="TIMEOUT", reason="TERM_RUNLIMIT: job killed after reaching LSF run time limit"),
        ),
        ("0|PSUSP|-|-|-", TaskState(state="SUSPENDED")),
    ],
)
def test_bjobs_in_the_chosen_form(line: str, expected: TaskState) -> None:
    assert parse_chosen(line + "\n") == [expected]


BJOBS_TABLE = """\
JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME
711     user1   RUN   normal     login1      h1:h1:h2    stormbench-deepcam[2] Nov 21 10:01
711     user1   DONE  normal     login1      h3          stormbench-deepcam[1] Nov 21 10:01
"""


def test_bjobs_plain_table_has_the_tasks_of_an_array() -> None:
    assert parse_table(BJOBS_TABLE) == [TaskState(state="COMPLETED", task=1), TaskState(state="RUNNING", task=2)]


QSTAT_PBS_PRO = """\
Job Id: 123.polaris-pbs-01
    Job_Name = stormbench-deepcam
    job_state = {state}
    Resource_List.select = 2:ncpus=32:mpiprocs=4:ngpus=4:system=polaris
    comment = {comment}
    Submit_arguments = -V /lus/eagle/a very long folder that is broken by the
\tserver/job.sh job_state = Q
{more}
"""


@pytest.mark.parametrize(
    ("state", "comment", "more", "expected"),
    [
        ("Q", "Not Running: no ngpus", "", TaskState(state="PENDING", reason="Not Running: no ngpus")),
        ("H", "Job held by depend on Wed", "", TaskState(state="PENDING", reason="Job held by depend on Wed")),
        ("R", "Job run at Sat Nov 21", "", TaskState(state="RUNNING")),
        ("E", "", "", TaskState(state="COMPLETING")),
        ("F", "finished", "    Exit_status = 0", TaskState(state="COMPLETED")),
        ("F", "finished", "    Exit_status = 1", TaskState(state="FAILED", reason="exit code 1")),
        ("F", "terminated", "    Exit_status = 271", TaskState(state="CANCELLED", reason="terminated")),
        ("F", "over", "    Exit_status = -29", TaskState(state="TIMEOUT", reason="over its wall time")),
        ("F", "deleted in the queue", "    substate = 91", TaskState(state="CANCELLED", reason="deleted in the queue")),
        ("C", "", "    exit_status = 0", TaskState(state="COMPLETED")),
    ],
)  # fmt: skip
def test_qstat_full_listing(state: str, comment: str, more: str, expected: TaskState) -> None:
    assert parse_qstat(QSTAT_PBS_PRO.format(state=state, comment=comment, more=more)) == [expected]


def test_qstat_lists_the_tasks_of_an_array_instead_of_the_array() -> None:
    ended = "    job_state = X\n    Exit_status = 0\n"
    text = f"Job Id: 7[].srv\n    job_state = B\n\nJob Id: 7[2].srv\n    job_state = Q\n\nJob Id: 7[1].srv\n{ended}"
    assert parse_qstat(text) == [TaskState(state="COMPLETED", task=1), TaskState(state="PENDING", task=2)]


def test_an_array_of_which_only_the_parent_is_listed_has_its_state() -> None:
    assert parse_qstat("Job Id: 7[].srv\n    job_state = B\n") == [TaskState(state="RUNNING")]


def test_the_xml_of_another_qstat_holds_no_states() -> None:
    assert parse_qstat("<Data><Job><Job_Id>7.srv</Job_Id><job_state>R</job_state></Job></Data>") == []


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("slurm", ("sbatch", "--parsable", "--dependency=afterok:7", "--array=1-3", "-A", "p", "/a b/job.sh")),
        ("lsf", ("bsub", "-w", "done(7)", "-J", "name[1-3]", "-A", "p")),
        ("pbs", ("qsub", "-V", "-W", "depend=afterok:7", "-J", "1-3", "-A", "p", "/a b/job.sh")),
    ],
)
def test_dependency_array_and_the_users_own_words_stand_before_the_script(scheduler: str, expected: tuple[str, ...]) -> None:
    command = by_name(scheduler).command(Path("/a b/job.sh"), job_name="name", after="7", n_tasks=3, more=("-A", "p"))
    assert command.words == expected
    assert command.stdin == (Path("/a b/job.sh") if scheduler == "lsf" else None)


def test_a_command_is_shown_as_a_shell_takes_it() -> None:
    command = by_name("lsf").command(Path("/it's/job.sh"), job_name="name", after="7", n_tasks=0, more=())
    assert str(command) == "bsub -w 'done(7)' < '/it'\"'\"'s/job.sh'"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_declared_scheduler_is_there(name: str) -> None:
    assert by_name(name).program in ("sbatch", "bsub", "qsub", "bash")


@pytest.mark.parametrize(
    ("after", "n_tasks", "more", "named"), [("7", 0, (), "--after"), (None, 2, (), "--array"), (None, 0, ("-p", "x"), "-p x")]
)
def test_what_has_no_queue_refuses_what_needs_one(after: str | None, n_tasks: int, more: tuple[str, ...], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Local("docker").command(Path("job.sh"), job_name="name", after=after, n_tasks=n_tasks, more=more)


@pytest.mark.parametrize(
    ("scheduler", "programs", "told"),
    [
        ("slurm", {"squeue": "echo garbled", "scontrol": "echo more of it"}, "scontrol: job 7: more of it"),
        ("slurm", {"squeue": "exit 0", "scontrol": "exit 0"}, "scontrol: job 7: exit code 0, without a word"),
        ("pbs", {"qstat": "echo garbled"}, "qstat: job 7: garbled"),
        ("lsf", {"bjobs": "echo garbled"}, "bjobs: job 7: garbled"),
    ],
)
def test_an_answer_that_cannot_be_read_is_shown_and_no_sign_of_the_jobs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, programs: dict[str, str], told: str
) -> None:
    for name, body in programs.items():
        program(tmp_path, name, body)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RunError, match=told):
        by_name(scheduler).states(submitted(tmp_path))


@pytest.mark.parametrize(
    ("scheduler", "programs"),
    [
        ("slurm", {"squeue": "exit 0", "scontrol": "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"}),
        ("pbs", {"qstat": "echo qstat: Unknown Job Id 7 >&2; exit 153"}),
        ("lsf", {"bjobs": "echo 'Job <7> is not found' >&2; exit 255"}),
    ],
)
def test_a_job_that_the_scheduler_has_forgotten_has_no_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, programs: dict[str, str]
) -> None:
    for name, body in programs.items():
        program(tmp_path, name, body)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert by_name(scheduler).states(submitted(tmp_path)) is None


def test_pbs_has_no_array_of_one_job() -> None:
    with pytest.raises(UserError, match="no job array of one"):
        by_name("pbs").command(Path("job.sh"), job_name="name", after=None, n_tasks=1, more=())


def test_a_percent_sign_of_the_folder_is_no_symbol_of_slurm() -> None:
    assert by_name("slurm").output(Path("/50%j"), 0) == "/50%%j/job-%j.out"


def test_sbatch_gets_the_variables_of_this_config_only() -> None:
    own = {"SBATCH_PARTITION": "of another config", "SBATCH_OUTPUT": "elsewhere", "HOME": "/h"}
    job = {"SBATCH_ACCOUNT": "mine", "SBATCH_ARRAY_INX": "1-9", "DGXNNODES": "2"}
    assert by_name("slurm").environment(own, job) == {"HOME": "/h", "SBATCH_ACCOUNT": "mine"}


def test_a_program_that_hangs_is_ended_with_a_sentence() -> None:
    with pytest.raises(RunError, match=r"sleep: no answer in 0\.1 s.*look before"):
        call(["sleep", "60"], limit_s=0.1, hint="look before you submit again")


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match="no-such-program: not found on this machine"):
        call(["no-such-program"])


def test_a_process_has_one_start_time_and_another_process_another() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert start_time(process.pid) == start_time(process.pid) is not None
            assert start_time(process.pid) != start_time(os.getpid())
        finally:
            process.kill()
            process.wait()
    assert start_time(process.pid) is None
