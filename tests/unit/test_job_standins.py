"""Stand-ins: they refuse what the real programs refuse, and what they accept runs in real processes that know their place."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.errors import UserError
from stormbench.core.launch import detect
from stormbench.job.standins import PROGRAMS, Plan, install
from stormbench.job.standins.mapping import Bind, mapped, mapped_values
from tests.conftest import clean_environment

REPORT = "import json, os; os.write(1, ('RANK ' + json.dumps(dict(os.environ)) + chr(10)).encode())"
"""Writes its line whole, so that lines of several ranks don't mix."""
ROOT = Path(__file__).resolve().parents[2]
Done = subprocess.CompletedProcess[str]


class Rehearsal:
    """A folder of stand-ins, and a working folder to call them from."""

    def __init__(self, folder: Path, ranks: int = 2, **environment: str) -> None:
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self.calls_file = folder / "calls.jsonl"
        install(folder / "bin", PROGRAMS, Plan(ranks=ranks, environment=environment, calls=str(self.calls_file)))
        self.environ = clean_environment(HOME=str(folder))
        self.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{self.environ['PATH']}"

    def run(self, *words: str, stdin: str = "", timeout: float = 180, **environ: str) -> Done:
        command = [str(word) for word in words]
        given: dict[str, Any] = {"cwd": self.work, "env": {**self.environ, **environ}, "input": stdin, "timeout": timeout}
        return subprocess.run(command, capture_output=True, text=True, check=False, **given)

    def script(self, *lines: str, name: str = "job.sh") -> str:
        (self.work / name).write_text("\n".join(["#!/bin/bash", *lines, ""]))
        return name

    def calls(self, program: str) -> list[dict[str, Any]]:
        return [call for line in self.calls_file.read_text().splitlines() if (call := json.loads(line))["program"] == program]


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    return Rehearsal(tmp_path)


def ranks_of(done: Done) -> list[dict[str, str]]:
    """Return the environment of each rank that printed it."""
    return [json.loads(line.partition("RANK ")[2]) for line in done.stdout.splitlines() if "RANK {" in line]


def report() -> list[str]:
    return [sys.executable, "-c", REPORT]


def shown() -> str:
    return shlex.join(report())


def in_job(scheduler: str) -> list[str]:
    """Return directives of a job on 4 nodes with 2 ranks each."""
    return {
        "slurm": ["#SBATCH --nodes=4 --ntasks-per-node=2 --cpus-per-task=3", "#SBATCH --gpus-per-node=2 --time=10 --job-name=four"],
        "lsf": ["#BSUB -P project -W 0:10 -nnodes 4 -J four"],
        "pbs": ["#PBS -l select=4:ncpus=6:mpiprocs=2:ngpus=2 -l walltime=00:10:00 -N four"],
    }[scheduler]


SUBMIT: Mapping[str, Callable[[Rehearsal, str], Done]] = {
    "slurm": lambda here, name: here.run("sbatch", name),
    "lsf": lambda here, name: here.run("bsub", stdin=(here.work / name).read_text()),
    "pbs": lambda here, name: here.run("qsub", name),
}


def submit(here: Rehearsal, scheduler: str, *lines: str) -> Done:
    return SUBMIT[scheduler](here, here.script(*in_job(scheduler), *lines))


LAUNCHES = [
    ("slurm", "srun --ntasks-per-node=2 --cpus-per-task=3 --kill-on-bad-exit=1 --cpu-bind=none", "slurm"),
    ("slurm", "srun --mpi=pmi2 -N 4 -n 8 -l", "slurm"),
    ("slurm", "srun --mpi=pmix --ntasks-per-node=2", "slurm"),
    ("lsf", "jsrun -n 8 -a 1 -c 7 -g 1 -r 2 -d packed -b packed:7 --smpiargs=-disable_gpu_hooks", "jsrun"),
    ("lsf", "jsrun --nrs 4 --tasks_per_rs 2 --cpu_per_rs ALL_CPUS --rs_per_host 1 --bind none -l GPU-CPU", "jsrun"),
    ("pbs", "mpiexec -n 8 --ppn 2 --hostfile $PBS_NODEFILE --cpu-bind=depth --depth 3", "pals"),
    ("pbs", "mpiexec -n 8 -ppn 2 -genv A b -env C d --line-buffer", "pals"),
    ("pbs", "mpirun --allow-run-as-root -np 8 --hostfile $PBS_NODEFILE --map-by ppr:2:node --bind-to none -x HOME", "openmpi"),
]


@pytest.mark.parametrize(("scheduler", "launch", "launcher"), LAUNCHES, ids=[case[1][:40] for case in LAUNCHES])
def test_a_launcher_starts_real_ranks_that_agree_on_their_place(rehearsal: Rehearsal, scheduler: str, launch: str, launcher: str) -> None:
    done = submit(rehearsal, scheduler, f"{launch} {shown()}")
    assert done.returncode == 0, done.stderr
    found = [detect(environment) for environment in ranks_of(done)]
    assert sorted(place.rank for place in found) == [0, 1]
    assert {(place.world_size, place.launcher, place.local_size, place.n_nodes) for place in found} == {(2, launcher, 1, 2)}
    assert len({place.job_id for place in found}) == 1
    assert found[0].job_id
    assert f"{launch.split(maxsplit=1)[0]} asked for 8 ranks on 4 nodes; 2 run here" in done.stderr


@pytest.mark.parametrize(("scheduler", "launch", "launcher"), LAUNCHES[:6:3], ids=["srun", "jsrun"])
def test_ranks_share_emulated_nodes_when_there_are_more_than_nodes(tmp_path: Path, scheduler: str, launch: str, launcher: str) -> None:
    here = Rehearsal(tmp_path, ranks=8)
    done = submit(here, scheduler, f"{launch} {shown()}")
    found = [detect(environment) for environment in ranks_of(done)]
    assert {(place.world_size, place.local_size, place.n_nodes, place.launcher) for place in found} == {(8, 2, 4, launcher)}
    assert sorted(place.rank for place in found) == list(range(8))
    assert all(place.local_rank == place.rank % 2 for place in found)


@pytest.mark.parametrize("scheduler", ["slurm", "lsf", "pbs"])
def test_two_launches_of_one_job_have_different_identities(rehearsal: Rehearsal, scheduler: str) -> None:
    launch = {"slurm": "srun -n 2", "lsf": "jsrun -n 2", "pbs": "mpiexec -n 2"}[scheduler]
    done = submit(rehearsal, scheduler, f"{launch} {shown()}", f"{launch} {shown()}")
    assert len({detect(environment).job_id for environment in ranks_of(done)}) == 2


def test_the_batch_script_sees_the_full_allocation_of_slurm(rehearsal: Rehearsal) -> None:
    done = submit(rehearsal, "slurm", shown(), "scontrol show hostnames $SLURM_JOB_NODELIST")
    (variables,) = ranks_of(done)
    wanted = {
        "SLURM_JOB_NUM_NODES": "4", "SLURM_NNODES": "4", "SLURM_JOB_NODELIST": "node[001-004]", "SLURM_JOB_NAME": "four",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "3", "SLURM_SUBMIT_DIR": str(rehearsal.work), "SLURM_GPUS_ON_NODE": "2", "SLURMD_NODENAME": "node001",
    }  # fmt: skip
    assert {name: variables.get(name) for name in wanted} == wanted
    assert done.stdout.splitlines()[-4:] == ["node001", "node002", "node003", "node004"]
    assert detect(variables).launcher == "none"


def test_the_job_script_sees_the_full_allocation_of_lsf(rehearsal: Rehearsal) -> None:
    done = submit(rehearsal, "lsf", shown(), "sort $LSB_DJOB_HOSTFILE | uniq -c")
    (variables,) = ranks_of(done)
    assert (variables["LSB_JOBNAME"], variables["LSB_DJOB_NUMPROC"], variables["LS_SUBCWD"]) == ("four", "169", str(rehearsal.work))
    assert variables["LSB_MCPU_HOSTS"] == "batch1 1 node001 42 node002 42 node003 42 node004 42"
    assert [line.split() for line in done.stdout.splitlines()[-5:]] == [
        ["1", "batch1"],
        *(["42", f"node00{index}"] for index in range(1, 5)),
    ]


def test_the_job_script_of_pbs_starts_at_home_with_a_node_file_and_a_login_environment(rehearsal: Rehearsal) -> None:
    name = rehearsal.script(*in_job("pbs"), shown(), "pwd", "cat $PBS_NODEFILE")
    done = rehearsal.run("qsub", name, MINE="x")
    (variables,) = ranks_of(done)
    assert (variables["PBS_JOBNAME"], variables["PBS_ENVIRONMENT"], variables["PBS_O_WORKDIR"]) == (
        "four",
        "PBS_BATCH",
        str(rehearsal.work),
    )
    assert "MINE" not in variables
    assert done.stdout.splitlines()[-9] == rehearsal.environ["HOME"]
    assert done.stdout.splitlines()[-8:] == [f"node00{index}" for index in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert "MINE" in ranks_of(rehearsal.run("qsub", "-V", name, MINE="x"))[0]


def test_options_beat_variables_and_variables_beat_directives_of_sbatch(rehearsal: Rehearsal) -> None:
    name = rehearsal.script("#SBATCH --nodes=4 --partition=slow", 'echo "$SLURM_JOB_NUM_NODES $SLURM_JOB_PARTITION $SLURM_JOB_NAME"')
    done = rehearsal.run("sbatch", "-N", "2", name, SBATCH_PARTITION="fast", SBATCH_TIMELIMIT="10")
    assert done.stdout.splitlines() == ["Submitted batch job 1001", f"2 fast {name}"]


def test_sbatch_takes_the_number_of_nodes_from_total_gpus_and_gpus_per_node(rehearsal: Rehearsal) -> None:
    name = rehearsal.script("echo $SLURM_JOB_NUM_NODES")
    assert rehearsal.run("sbatch", name, SBATCH_GPUS="128", SBATCH_GPUS_PER_NODE="8").stdout.splitlines()[-1] == "16"


def test_the_output_goes_to_the_terminal_and_to_the_named_file(rehearsal: Rehearsal) -> None:
    name = rehearsal.script("#SBATCH --output=%x-%j.out", "echo out; echo err >&2")
    done = rehearsal.run("sbatch", "--parsable", name)
    assert done.stdout.splitlines() == ["1001", "out", "err"]
    assert (rehearsal.work / "job.sh-1001.out").read_text() == "out\nerr\n"


def test_only_the_check_is_made_with_test_only(rehearsal: Rehearsal) -> None:
    done = rehearsal.run("sbatch", "--test-only", rehearsal.script("echo ran"))
    assert (done.returncode, "ran" in done.stdout) == (0, False)


def test_bsub_reads_directives_from_its_input_but_not_from_a_named_script(rehearsal: Rehearsal) -> None:
    name = rehearsal.script(*in_job("lsf"), "echo ran $LSB_JOBNAME")
    assert rehearsal.run("bsub", stdin=(rehearsal.work / name).read_text()).stdout.splitlines()[-1] == "ran four"
    refused = rehearsal.run("bsub", name)
    assert refused.returncode == 255
    assert "No project specified" in refused.stderr
    assert f"bsub < {name}" in refused.stderr
    assert rehearsal.run("bsub", name, LSB_BSUB_PARSE_SCRIPT="Y").stdout.splitlines()[-1] == "ran four"


@pytest.mark.parametrize(
    ("missing", "words"), [("-P project", "No project"), ("-W 0:10", "No wall time"), ("-nnodes 4", "No number of nodes")]
)
def test_bsub_insists_on_project_wall_time_and_nodes(rehearsal: Rehearsal, missing: str, words: str) -> None:
    (directive,) = in_job("lsf")
    done = rehearsal.run("bsub", stdin=f"#!/bin/bash\n{directive.replace(missing, '')}\necho ran\n")
    assert (done.returncode, words in done.stderr, "ran" in done.stdout) == (255, True, False)


SUBMISSIONS = [
    (["sbatch", "--bogus", "job.sh"], "sbatch: error: unrecognized option '--bogus'"),
    (["sbatch", "-t", "1:2:3:4", "job.sh"], "Invalid --time specification"),
    (["sbatch", "nothere.sh"], "Unable to open file nothere.sh"),
    (["sbatch", "plain.txt"], "This does not look like a batch script"),
    (["sbatch", "--dependency=afterok:7", "job.sh"], "Job dependency problem"),
    (["sbatch", "-o", "no/such/folder/x", "job.sh"], "Could not open stdout file"),
    (["bsub", "-n", "4", "-nnodes", "2", "true"], "can't stand with -nnodes"),
    (["bsub", "-P", "x", "-W", "1:30:00", "-nnodes", "1", "true"], "Bad time specification"),
    (["qsub", "-l", "select=1", "-l", "select=2", "job.sh"], "a second"),
    (["qsub", "-l", "walltime=1-00:00:00", "job.sh"], "Illegal attribute or resource value"),
    (["qsub", "--bogus", "job.sh"], "qsub: unrecognized option '--bogus'"),
    (["qsub", "nothere.sh"], "No such file"),
    (["squeue", "--bogus"], "unrecognized option"),
    (["squeue", "-j", "77"], "Invalid job id specified"),
    (["bjobs", "77"], "Job <77> is not found"),
    (["qstat", "77"], "Unknown Job Id 77"),
    (["scancel", "77"], "Invalid job id specified"),
    (["bkill", "77"], "No matching job found"),
    (["qdel", "77"], "Unknown Job Id 77"),
    (["mpiexec", "-n", "2"], "no executable specified"),
    (["mpiexec", "-bogus", "true"], "unrecognized option '-bogus'"),
    (["mpiexec", "-n", "3", "-ppn", "2", "true"], "more than --ppn 2 x 1 hosts"),
    (["mpiexec", "-n", "x", "true"], "not a whole number"),
    (["mpiexec", "--hostfile", "nothere", "true"], "unable to open hostfile"),
    (["mpirun", "--allow-run-as-root", "--bind-to", "core:x", "true"], "not recognized"),
    (["jsrun", "-n", "1", "true"], "within a job allocation"),
    (["enroot", "import", "image"], "Invalid argument"),
    (["enroot", "start", "nothere", "true"], "No such file"),
    (["shifter", "true"], "No image specified"),
    (["apptainer", "exec", "nothere.sif", "true"], "could not open image"),
    (["apptainer", "exec", "--bogus", "job.sh", "true"], "unrecognized option '--bogus'"),
    (["apptainer", "exec", "job.sh"], "requires an image and a command"),
    (["apptainer", "exec", "--bind", "/no/such:/data", "job.sh", "true"], "mount source /no/such doesn't exist"),
    (["singularity", "exec", "--env", "NAME", "job.sh", "true"], "must be formatted as NAME=VALUE"),
    (["docker", "run"], "requires at least 1 argument"),
    (["docker", "run", "--bogus", "image", "true"], "unrecognized option '--bogus'"),
    (["docker", "run", "--ulimit", "memlock", "image", "true"], 'for "--ulimit" flag'),
    (["docker", "run", "-v", "/no/such:/x", "image", "true"], "doesn't exist"),
    (["docker", "run", "-w", "relative", "image", "true"], "absolute path"),
    (["docker", "run", "--gpu", "image", "true"], "unrecognized option '--gpu'"),
    (["docker", "frobnicate"], "not a command"),
    (["docker", "kill", "nothere"], "No such container"),
]


@pytest.mark.parametrize(("words", "told"), SUBMISSIONS, ids=[" ".join(case[0])[:50] for case in SUBMISSIONS])
def test_what_the_real_program_refuses_is_refused_with_a_sentence(rehearsal: Rehearsal, words: list[str], told: str) -> None:
    rehearsal.script("echo ran")
    (rehearsal.work / "plain.txt").write_text("echo ran\n")
    done = rehearsal.run(*words)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "ran" not in done.stdout


STEPS = [
    ("slurm", "srun --bogus true", "unrecognized option '--bogus'"),
    ("slurm", "srun", "No command given"),
    ("slurm", "srun -N 5 true", "Only allocated 4 nodes asked for 5"),
    ("slurm", "srun -n 20 -N 4 --ntasks-per-node=2 true", "Requested 20 tasks"),
    ("slurm", "srun --ntasks-per-node=2 --cpus-per-task=99 true", "More processors requested than permitted"),
    ("slurm", "srun --ntasks-per-node=2 --gpus-per-task=2 true", "Invalid generic resource"),
    ("slurm", "srun --mpi=nope true", "MPI plugin 'nope' not found"),
    ("slurm", "srun --cpu-bind=nope true", "unrecognized --cpu-bind"),
    ("slurm", "srun --container-image=image.sqsh true", "must begin with / or ./"),
    ("slurm", "srun --container-image=./image.sqsh true", "No such file"),
    ("slurm", "srun --container-image=a#b:c --container-mounts=/no/such:/data true", "No such file"),
    ("slurm", "srun --container-image=a#b:c --container-mounts=/tmp:data true", "invalid format"),
    ("slurm", "srun --container-image=a#b:c --container-mounts=/tmp:/data:rx true", "invalid flags"),
    ("slurm", "srun --container-image=a#b:c --container-env=A=b true", "not the name of a variable"),
    ("slurm", "srun --container-workdir=/x true", "without --container-image"),
    ("slurm", "srun nothere", "nothere: No such file"),
    ("lsf", "jsrun -n 9 -r 2 true", "9 resource sets asked for, but 4 hosts x 2 hold 8"),
    ("lsf", "jsrun -n 4 -r 7 -g 1 true", "don't fit a node"),
    ("lsf", "jsrun -n 4 -c 43 true", "can't fit a node"),
    ("lsf", "jsrun -n 4 -b nope true", "Invalid argument to --bind"),
    ("lsf", "jsrun -n 4 -q true", "invalid option -- 'q'"),
    ("lsf", "jsrun -n x true", "not a whole number"),
    ("pbs", "mpiexec -n 9 -ppn 2 true", "more than --ppn 2 x 4 hosts"),
    ("pbs", "mpiexec --cpu-bind=nope true", "invalid CPU binding"),
    ("pbs", "mpirun --allow-run-as-root -np 9 --hostfile $PBS_NODEFILE true", "not enough slots"),
]


@pytest.mark.parametrize(("scheduler", "step", "told"), STEPS, ids=[case[1][:50] for case in STEPS])
def test_a_launch_that_the_real_launcher_refuses_is_refused_in_the_job(rehearsal: Rehearsal, scheduler: str, step: str, told: str) -> None:
    done = submit(rehearsal, scheduler, step)
    assert done.returncode != 0
    assert told in done.stderr
    assert rehearsal.calls(step.split(maxsplit=1)[0])[-1]["verdict"].startswith("rejected: ")


def test_every_call_is_listed_with_its_words_and_its_scaling(rehearsal: Rehearsal) -> None:
    submit(rehearsal, "slurm", "srun -n 8 true")
    (call,) = rehearsal.calls("srun")
    assert (call["argv"], call["verdict"]) == (["-n", "8", "true"], "accepted")
    assert call["scaling"] == {"asked_ranks": 8, "asked_nodes": 4, "ranks": 2, "nodes": 2}


def test_the_plans_variables_are_set_last_in_each_rank(tmp_path: Path) -> None:
    here = Rehearsal(tmp_path, DATADIR="/small", EXTRA="1")
    done = submit(here, "slurm", "export DATADIR=/large", f"srun -n 2 {shown()}")
    assert [(rank["DATADIR"], rank["EXTRA"]) for rank in ranks_of(done)] == [("/small", "1")] * 2


def test_the_highest_exit_code_of_the_ranks_is_the_launchers(rehearsal: Rehearsal) -> None:
    done = submit(rehearsal, "slurm", "srun -n 2 bash -c 'exit $((SLURM_PROCID * 7))'; echo code $?")
    assert "code 7" in done.stdout


@pytest.mark.parametrize(
    ("scheduler", "launch", "rank"),
    [("slurm", "srun -n 2 -K", "SLURM_PROCID"), ("lsf", "jsrun -n 2", "JSM_NAMESPACE_RANK"), ("pbs", "mpiexec -n 2", "PALS_RANKID")],
)
def test_a_failed_rank_ends_the_others(rehearsal: Rehearsal, scheduler: str, launch: str, rank: str) -> None:
    began = time.monotonic()
    done = submit(rehearsal, scheduler, f"{launch} bash -c '[ ${rank} = 0 ] && exit 3; sleep 50'", "echo code $?")
    assert "code 3" in done.stdout
    assert time.monotonic() - began < 20


def test_a_signal_to_the_launcher_reaches_every_rank(rehearsal: Rehearsal) -> None:
    rank = "trap 'echo got USR1 $SLURM_PROCID; exit 75' USR1; touch up.$SLURM_PROCID; while :; do sleep 0.05; done"
    wait = "while [ ! -e up.0 ] || [ ! -e up.1 ]; do sleep 0.05; done"
    done = submit(rehearsal, "slurm", f"srun -n 2 bash -c {shlex.quote(rank)} &", wait, "kill -USR1 $!; wait $!; echo code $?")
    assert {"got USR1 0", "got USR1 1", "code 75"} <= set(done.stdout.splitlines())


def test_nothing_that_the_script_left_running_survives_it(rehearsal: Rehearsal) -> None:
    done = submit(
        rehearsal, "slurm", "srun -n 2 bash -c 'echo PID $$; exec sleep 60' &", "setsid bash -c 'echo PID $$; exec sleep 60' &", "sleep 0.8"
    )
    pids = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PID")]
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_job_is_cancelled_by_its_id_and_by_a_signal_to_sbatch(rehearsal: Rehearsal) -> None:
    name = rehearsal.script("echo up; exec sleep 60")
    for end in (lambda process: rehearsal.run("scancel", "1001"), lambda process: process.send_signal(signal.SIGTERM)):
        process = subprocess.Popen(["sbatch", name], cwd=rehearsal.work, env=rehearsal.environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()][1] == "up\n"
        end(process)
        assert process.wait(20) != 0
        process.stdout.close()
    states = rehearsal.run("squeue", "-h", "-j", "1001,1002", "-o", "%i %T").stdout
    assert states == "1001 CANCELLED\n1002 CANCELLED\n"


@pytest.mark.parametrize(
    ("scheduler", "requeue"), [("slurm", "scontrol requeue $SLURM_JOB_ID"), ("lsf", "brequeue $LSB_JOBID"), ("pbs", "qrerun $PBS_JOBID")]
)
def test_a_job_that_requeues_itself_starts_again_under_its_id(rehearsal: Rehearsal, scheduler: str, requeue: str) -> None:
    done = submit(
        rehearsal,
        scheduler,
        f"cd {rehearsal.work}",
        'echo "start ${SLURM_RESTART_COUNT:-none}"',
        f"[ -e once ] || {{ touch once; {requeue}; sleep 60; }}",
        "echo end",
    )
    again = "1" if scheduler == "slurm" else "none"
    assert [line for line in done.stdout.splitlines() if line.startswith(("start", "end"))] == ["start none", f"start {again}", "end"]
    assert done.returncode == 0


def test_a_job_submitted_from_a_job_runs_after_it(rehearsal: Rehearsal) -> None:
    rehearsal.script("echo second", name="second.sh")
    done = submit(rehearsal, "pbs", f"cd {rehearsal.work}", "qsub -W depend=afterany:$PBS_JOBID second.sh", "echo first")
    lines = done.stdout.splitlines()
    assert lines.index("1002.rehearsal") < lines.index("first") < lines.index("second")


def test_a_job_does_not_run_after_one_that_failed(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("sbatch", rehearsal.script("exit 3")).returncode == 3
    done = rehearsal.run("sbatch", "--dependency=afterok:1001", rehearsal.script("echo ran"))
    assert (done.returncode, "ran" in done.stdout.splitlines()) == (1, False)
    assert "depends on job 1001, which failed" in done.stderr


@pytest.mark.parametrize(
    ("scheduler", "option", "index"),
    [("slurm", "-a 1-3", "SLURM_ARRAY_TASK_ID"), ("lsf", "-J run[1-3]", "LSB_JOBINDEX"), ("pbs", "-J 1-3", "PBS_ARRAY_INDEX")],
)
def test_an_array_runs_once_for_each_index(rehearsal: Rehearsal, scheduler: str, option: str, index: str) -> None:
    prefix = {"slurm": "#SBATCH", "lsf": "#BSUB -P x -W 5 -nnodes 1", "pbs": "#PBS"}[scheduler]
    done = SUBMIT[scheduler](rehearsal, rehearsal.script(f"{prefix} {option}", f"echo index ${index}"))
    assert [line for line in done.stdout.splitlines() if line.startswith("index")] == ["index 1", "index 2", "index 3"]


def test_the_script_is_warned_before_its_limit_and_ended_at_it(rehearsal: Rehearsal) -> None:
    trap = "trap 'echo warned' USR1; while :; do sleep 0.05; done"
    done = rehearsal.run("sbatch", rehearsal.script("#SBATCH --time=0:2 --signal=B:USR1@1", trap))
    assert "warned" in done.stdout.splitlines()
    assert done.returncode != 0
    assert rehearsal.run("squeue", "-h", "-j", "1001", "-o", "%T").stdout == "TIMEOUT\n"


def test_squeue_tells_jobs_in_the_format_that_was_asked_for(rehearsal: Rehearsal) -> None:
    done = submit(rehearsal, "slurm", 'squeue -h -j $SLURM_JOB_ID -o "%i %T %r %j %D"', "scontrol show job $SLURM_JOB_ID")
    assert "1001 RUNNING None four 4" in done.stdout.splitlines()
    assert "JobState=RUNNING" in done.stdout


def test_bjobs_and_qstat_tell_their_jobs(rehearsal: Rehearsal) -> None:
    assert "DONE four" in [submit(rehearsal, "lsf", "true"), rehearsal.run("bjobs", "-noheader", "-o", "stat job_name", "1001")][1].stdout
    assert "job_state = R" in submit(rehearsal, "pbs", "qstat -f $PBS_JOBID").stdout
    assert rehearsal.run("qstat", "1002.rehearsal").returncode == 1
    assert "job_state = F" in rehearsal.run("qstat", "-x", "-f", "1002.rehearsal").stdout


def test_container_paths_in_words_are_mapped_back_whole_and_once() -> None:
    binds = [Bind(source="/scratch/data", target="/data"), Bind(source="/data/results", target="/results")]
    words = ["/data/train", "--x=/data", "/database", "cd '/results/a' && ls /data:/results", "../data", "a/data", "/data.txt"]
    changed = [
        "/scratch/data/train",
        "--x=/scratch/data",
        "/database",
        "cd '/data/results/a' && ls /scratch/data:/data/results",
        "../data",
        "a/data",
        "/data.txt",
    ]
    assert mapped(words, binds) == changed
    assert mapped_values({"DATADIR": "/data", "PATH": "/data/bin", "N": "1"}, binds) == {
        "DATADIR": "/scratch/data",
        "PATH": "/data/bin",
        "N": "1",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["apptainer", "exec", "--nv", "--cleanenv", "--no-home", "--writable-tmpfs", "--bind", "{d}:/data:ro,{r}:/results", "--env",
         "DATADIR=/data,N=1", "--pwd", "/results", "{i}"],
        ["singularity", "exec", "-e", "-B", "{d}:/data", "-B", "{r}:/results", "--env", "DATADIR=/data", "--env=N=1", "--pwd=/results",
         "{i}"],
        ["docker", "run", "--rm", "--gpus", "all", "--ipc=host", "--ulimit", "memlock=-1", "-v", "{d}:/data:ro",
         "--mount", "type=bind,source={r},target=/results",
         "-e", "DATADIR=/data", "-e", "N=1", "-w", "/results", "--name", "box", "image:tag"],
        ["podman-hpc", "run", "--rm", "--gpu", "--mpi", "--nccl", "--volume={d}:/data", "--volume={r}:/results", "-eDATADIR=/data",
         "--env=N=1",
         "--workdir=/results", "image"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_container_has_its_own_environment_and_sees_bound_paths(rehearsal: Rehearsal, tmp_path: Path, words: list[str]) -> None:
    data, results, image = tmp_path / "my data", tmp_path / "results", tmp_path / "image.sif"
    data.mkdir(), results.mkdir(), image.touch()
    (data / "file").write_text("seen\n")
    filled = [word.format(d=data, r=results, i=image) for word in words]
    done = rehearsal.run(
        *filled,
        "bash",
        "-c",
        'cat "$DATADIR/file" "/data/file"; echo "$N-$MINE"; echo x >/results/y; test -f /workspace/run_and_time.sh && pwd',
        MINE="leak",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["seen", "seen", "1-", str(results)]
    assert (results / "y").read_text() == "x\n"


def test_apptainer_without_cleanenv_keeps_the_callers_variables(rehearsal: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "image.sif").touch()
    done = rehearsal.run("apptainer", "run", str(tmp_path / "image.sif"), *report(), MINE="kept", APPTAINERENV_OTHER="x")
    (variables,) = ranks_of(done)
    assert (variables["MINE"], variables["OTHER"]) == ("kept", "x")


def test_srun_with_pyxis_maps_the_mounts_in_commands_and_variables(rehearsal: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "image.sqsh").touch()
    mounts = f"--container-mounts={tmp_path}/data:/data:ro,/tmp:/scratch"
    options = f"--container-image={tmp_path}/image.sqsh --container-name=x_1 {mounts} --container-env=DATADIR"
    done = submit(
        rehearsal,
        "slurm",
        "export DATADIR=/data",
        f"srun -n 1 --no-container-mount-home --container-workdir=/data {options} bash -c 'echo $DATADIR /scratch; pwd'",
    )
    assert done.stdout.splitlines()[-2:] == [f"{tmp_path}/data /tmp", f"{tmp_path}/data"]


def test_a_named_pyxis_container_is_there_on_every_node_until_it_is_removed(rehearsal: Rehearsal) -> None:
    image = "--container-image=registry#image:1 --container-name=stormbench-$SLURM_JOB_ID"
    remove = "srun --ntasks-per-node=1 enroot remove -f pyxis_stormbench-$SLURM_JOB_ID; echo code $?"
    again = "srun -n 2 --container-name=stormbench-$SLURM_JOB_ID test -f /workspace/run_and_time.sh; echo code $?"
    done = submit(rehearsal, "slurm", f"srun --ntasks-per-node=1 {image} true; echo code $?", again, remove, again, remove)
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 0", "code 0", "code 0", "code 255", "code 1"]
    assert "stormbench-1001 doesn't exist" in done.stderr


def test_a_second_container_of_the_same_name_is_refused_and_rm_f_ends_the_first(rehearsal: Rehearsal) -> None:
    command = ["docker", "run", "--rm", "--name", "box", "image"]
    first = subprocess.Popen(
        [*command, "bash", "-c", "echo up; exec sleep 60"], cwd=rehearsal.work, env=rehearsal.environ, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "up\n"
    second = rehearsal.run(*command, "true")
    assert (second.returncode, "already in use" in second.stderr) == (125, True)
    assert rehearsal.run("docker", "rm", "-f", "box").returncode == 0
    assert first.wait(20) == 128 + signal.SIGKILL
    first.stdout.close()
    assert rehearsal.run(*command, "true").returncode == 0


def test_enroot_images_are_imported_created_listed_and_removed(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("enroot", "import", "-o", "x.sqsh", "docker://ghcr.io#kit/image:1").returncode == 0
    assert rehearsal.run("enroot", "create", "-n", "kit", "x.sqsh").returncode == 0
    assert rehearsal.run("enroot", "create", "-n", "kit", "x.sqsh").returncode == 1
    assert rehearsal.run("enroot", "list").stdout == "kit\n"
    assert rehearsal.run("enroot", "start", "kit", "echo", "hello").stdout == "hello\n"
    assert rehearsal.run("enroot", "remove", "-f", "kit").returncode == 0
    assert rehearsal.run("enroot", "list").stdout.strip() == ""


def test_torchrun_starts_no_more_ranks_than_the_plan_allows(rehearsal: Rehearsal) -> None:
    (rehearsal.work / "program.py").write_text(REPORT)
    done = rehearsal.run("torchrun", "--standalone", "--nproc_per_node=16", "program.py")
    found = [detect(environment) for environment in ranks_of(done)]
    assert sorted((place.rank, place.world_size, place.local_rank, place.launcher) for place in found) == [
        (0, 2, 0, "torchrun"),
        (1, 2, 1, "torchrun"),
    ]


def test_torchrun_in_a_step_joins_the_ranks_of_its_nodes(rehearsal: Rehearsal) -> None:
    (rehearsal.work / "program.py").write_text(REPORT)
    done = submit(
        rehearsal, "slurm", "srun --ntasks-per-node=1 torchrun --nnodes=4 --nproc_per_node=2 --node_rank=0 --master_port=29511 program.py"
    )
    found = [detect(environment) for environment in ranks_of(done)]
    assert sorted((place.rank, place.world_size, place.node_rank) for place in found) == [(0, 2, 0), (1, 2, 1)]


def test_there_is_no_stand_in_for_a_gpu_or_for_what_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nvidia-smi: there is no stand-in"):
        install(tmp_path, ["nvidia-smi"], Plan())
    with pytest.raises(UserError, match="at least one"):
        Plan(ranks=0)


def test_a_plan_folder_with_a_quote_a_blank_and_a_semicolon_works(tmp_path: Path) -> None:
    here = Rehearsal(tmp_path / "it's a; folder")
    assert "rank 1" in submit(here, "slurm", "srun -n 2 bash -c 'echo rank $SLURM_PROCID'").stdout


def test_a_deepcam_training_meets_and_ends_on_two_rehearsed_ranks(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    here = Rehearsal(tmp_path, OMP_NUM_THREADS="1")
    options = "--data_format dummy --dummy_height 16 --dummy_width 32 --dummy_train 4 --dummy_validation 2 --width 0.05 --max_epochs 1"
    train = f"{sys.executable} -m stormbench deepcam train {options} --local_batch_size 2 --run_tag run --output_dir {tmp_path}/out"
    # a name that resolves nowhere, as job scripts export it; the ranks must meet all the same
    nodes = "export MASTER_ADDR=$(scontrol show hostnames | head -1)"
    done = submit(here, "slurm", f"cd {ROOT}", nodes, f"srun --ntasks-per-node=2 {train}")
    assert (tmp_path / "out").is_dir(), done.stderr
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("run.json")]
    assert re.search(r"2 ranks on 2 nodes", json.dumps(record)), record
