"""The doctor as a user starts it, on this machine and on a node, and what becomes of checks that fail."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.job.checks import CHECKS, batch, examine, folders, network, node, remote
from stormbench.job.checks.machine import Machine, execute
from stormbench.job.checks.result import FIELDS, NOT_APPLICABLE, OK, PROBLEM, WARNING, Result, ok
from stormbench.job.findings import error, warning
from stormbench.job.standins import PROGRAMS, Plan, install
from tests.conftest import clean_environment
from tests.machines import Make, make_job, prepare, program, put


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return prepare(tmp_path)


def test_the_scheduler_must_answer_and_know_the_partition(make: Make, tmp_path: Path) -> None:
    job = make_job(SBATCH_PARTITION="gpuu")
    assert batch.programs(make()).verdict == NOT_APPLICABLE
    assert batch.programs(make(job)).verdict == WARNING
    program(tmp_path / "bin", "sbatch", "exit 0")
    program(tmp_path / "bin", "sinfo", "printf 'gpu up\\nstandard up\\n'")
    found = batch.programs(make(job))
    assert (found.verdict, found.found) == (PROBLEM, "SBATCH_PARTITION=gpuu (config_x_1x1x1.sh:3): sinfo knows gpu, standard")
    assert batch.programs(make(make_job(SBATCH_PARTITION="gpu"))).verdict == OK
    program(tmp_path / "bin", "sinfo", "echo sinfo: error: Unable to contact slurm controller >&2; exit 1")
    assert batch.programs(make(job)).found == "sinfo doesn't answer: sinfo: error: Unable to contact slurm controller"
    assert batch.programs(make()).verdict == WARNING


@pytest.mark.parametrize(
    ("scheduler", "submit", "question", "answer"),
    [
        ("lsf", "bsub", "bqueues", "QUEUE_NAME PRIO STATUS\nbatch 30 Open:Active\n"),
        ("pbs", "qsub", "qstat", "Queue Max Tot Ena\n---------------- --- --- ---\nbatch 0 4 yes\n"),
    ],
)
def test_queues_of_lsf_and_pbs_are_read(make: Make, tmp_path: Path, scheduler: str, submit: str, question: str, answer: str) -> None:
    program(tmp_path / "bin", submit, "exit 0")
    program(tmp_path / "bin", question, f"/bin/cat <<'END'\n{answer}END")
    assert batch.programs(make(make_job(STORMBENCH_SCHEDULER=scheduler, STORMBENCH_QUEUE="batch"))).found == f"{question} answers: batch"
    assert batch.programs(make(make_job(STORMBENCH_SCHEDULER=scheduler, STORMBENCH_QUEUE="other"))).verdict == PROBLEM


def test_the_configs_findings_appear_with_their_fix_as_remedy() -> None:
    job = make_job(findings=(error("c.sh:3", "WALLTIME=99, standard allows 24 h; choose long"), warning("c.sh:4", "odd name")))
    first, second = batch.config_results(job)
    assert (first.verdict, first.found, first.remedy) == (PROBLEM, "c.sh:3: WALLTIME=99, standard allows 24 h", "choose long")
    assert (second.verdict, second.found, second.remedy) == (WARNING, "c.sh:4: odd name", "correct c.sh:4")
    assert [result.verdict for result in batch.config_results(make_job())] == [OK]


def test_on_a_login_node_what_belongs_to_the_nodes_is_left_out(make: Make) -> None:
    job = make_job(STORMBENCH_GPUS_PER_NODE="4", STORMBENCH_GPU_VENDOR="nvidia", STORMBENCH_CORES_PER_NODE="9999")
    for check in (node.gpus, node.gpu_driver, node.cores, node.locked_memory, node.open_files, folders.shared_memory, network.interfaces):
        assert check(make(job)).verdict == NOT_APPLICABLE
    assert node.gpus(make(job, {"SLURMD_NODENAME": "n1"})).verdict == PROBLEM


def test_a_check_that_raises_is_a_warning(make: Make) -> None:
    def broken(machine: Machine) -> Result:
        raise ZeroDivisionError("division by zero")

    found = examine(make(), (("node", "broken", broken), ("node", "fine", lambda machine: ok("yes"))))
    assert [(result.check, result.verdict, result.host) for result in found] == [("broken", WARNING, "node1"), ("fine", OK, "node1")]
    assert "ZeroDivisionError: division by zero" in found[0].found


def test_a_check_that_hangs_is_left_behind(make: Make) -> None:
    start = time.monotonic()
    found = examine(
        make(), (("files", "hung", lambda machine: time.sleep(5) or ok("late")), ("node", "fine", lambda machine: ok("yes"))), limit_s=0.3
    )
    assert (found[0].found, found[1].verdict) == ("no answer in 0.3 s", OK)
    assert time.monotonic() - start < 3


def test_every_check_gives_a_verdict_on_a_bare_machine_and_a_remedy_where_it_objects(make: Make) -> None:
    for job in (
        None,
        make_job(STORMBENCH_SCHEDULER="local", STORMBENCH_RUNTIME="pyxis", STORMBENCH_GPU_VENDOR="amd", STORMBENCH_GPUS_PER_NODE="8"),
    ):
        results = examine(make(job))
        assert len(results) == len(CHECKS)
        assert not [result for result in results if "the check itself failed" in result.found]
        assert all(bool(result.remedy) == (result.verdict in (PROBLEM, WARNING)) for result in results)
        assert all("\n" not in result.found + result.remedy for result in results)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    start = time.monotonic()
    answer = execute(["/bin/sh", "-c", f"(sleep 1.5; echo > {shlex.quote(str(mark))}) & wait"], {"PATH": "/bin:/usr/bin"}, 0.2)
    assert answer.code is None
    assert time.monotonic() - start < 1.4
    time.sleep(max(0.0, start + 1.8 - time.monotonic()))
    assert not mark.exists()


def test_srun_gets_the_configs_partition_and_gpus_for_one_task() -> None:
    job = make_job(
        SBATCH_PARTITION="gpu", SBATCH_QOS="largescale", SBATCH_EXCLUSIVE="exclusive", SBATCH_GPUS="64", STORMBENCH_GPUS_PER_NODE="4",
        STORMBENCH_GPU_VENDOR="nvidia", STORMBENCH_GPU_REQUEST="gres", STORMBENCH_GPU_TYPE="v100",
        STORMBENCH_LIMITS="largescale:min_nodes=17 short:nodes=2",
    )  # fmt: skip
    words = remote.slurm_words(job, job.values, "z01")
    assert words[0] == "srun"
    assert {"--nodes=1", "--ntasks=1", "--partition=gpu", "--qos=short", "--account=z01", "--exclusive", "--gres=gpu:v100:4"} <= set(words)
    assert not [word for word in words if "64" in word]


def test_bsub_gets_the_command_as_one_quoted_word() -> None:
    job = make_job(
        STORMBENCH_SCHEDULER="lsf",
        STORMBENCH_QUEUE="batch",
        STORMBENCH_DIRECTIVES='-alloc_flags "gpumps smt1"',
        STORMBENCH_CORES_PER_NODE="42",
    )
    command = ["python", "a b'; echo foo"]
    words = remote.lsf_words(job, "ABC123", command)
    assert words[:9] == ["bsub", "-I", "-nnodes", "1", "-W", "5", "-J", "stormbench-doctor", "-q"]
    assert words[words.index("-alloc_flags") + 1] == "gpumps smt1"
    assert shlex.split(words[-1]) == ["jsrun", "-n", "1", "-a", "1", "-c", "42", "-g", "0", *command]


FOUND = [dict.fromkeys(FIELDS, "x") | {"host": "n7", "verdict": "ok"}]


@pytest.mark.parametrize("text", [json.dumps(FOUND), "Welcome [to] the node\n[1, 2]\n" + json.dumps(FOUND, indent=2) + "\nJob done\n"])
def test_findings_are_read_out_of_a_jobs_output(text: str) -> None:
    assert [result.host for result in remote.found_in(text)] == ["n7"]


@given(st.text(alphabet='[]{}",:x1 \n'))
def test_no_output_breaks_the_reading_of_findings(text: str) -> None:
    assert remote.found_in(text) == []


SBATCH, SRUN = (
    "exit 0",
    """
while :; do case "$1" in --*) echo "$1" >>"$CALLS"; shift ;; *) break ;; esac; done
echo "a prolog [speaks]"; SLURMD_NODENAME=n7 exec "$@"
""",
)


def here(tmp_path: Path, **environ: str) -> dict[str, str]:
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls"), "STORMBENCH_SCHEDULER": "slurm", **environ}


def test_doctor_prints_a_table_and_json(stormbench: Any) -> None:
    table = stormbench("doctor")
    assert table.stdout.splitlines()[0].split() == ["group", "check", "verdict", "found"]
    done = stormbench("doctor", "--json")
    rows = json.loads(done.stdout)
    assert [row["check"] for row in rows] == [name for _, name, _ in CHECKS]
    assert {row["host"] for row in rows} == {socket.gethostname()}
    assert done.returncode == table.returncode == (1 if any(row["verdict"] == "problem" for row in rows) else 0)
    assert not [row for row in rows if "the check itself failed" in row["found"]]


def test_a_config_that_is_not_there_has_exit_code_2(stormbench: Any) -> None:
    done = stormbench("doctor", "/no/config_x_1x1x1.sh")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return put(
        tmp_path / "it's a; folder/config_local_1x1x2.sh",
        "export DGXSYSTEM=local DGXNNODES=1 DGXNGPU=1 LOCAL_BATCH_SIZE=2 STORMBENCH_SCHEDULER=local DATADIR=/no/data\n",
    )


def test_a_problem_of_the_config_is_exit_code_1(stormbench: Any, config: Path) -> None:
    done = stormbench("doctor", config, "--json")
    assert done.returncode == 1, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows["DATADIR"]["found"] == "DATADIR=/no/data: no such folder on this machine"


def test_job_runs_the_same_checks_on_a_node(stormbench: Any, tmp_path: Path, config: Path) -> None:
    config.write_text(config.read_text().replace("SCHEDULER=local", "SCHEDULER=slurm") + "export SBATCH_PARTITION=gpu\n")
    for name, script in (("srun", SRUN), ("sbatch", SBATCH), ("sinfo", "echo gpu up")):
        program(tmp_path / "bin", name, script)
    done = stormbench("doctor", config, "--job", "--json", **here(tmp_path))
    rows = json.loads(done.stdout)
    assert [row["check"] for row in rows].count("bash") == 2
    assert [row["found"] for row in rows if row["check"] == "programs"] == ["sinfo answers: gpu", "inside a job already"]
    assert len([row for row in rows if row["group"] == "config"]) == len({row["found"] for row in rows if row["group"] == "config"})
    assert {"--partition=gpu", "--nodes=1", "--ntasks=1", "--time=5"} <= set((tmp_path / "calls").read_text().split())


def test_the_schedulers_refusal_is_a_problem_in_its_own_words(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "srun", "echo 'srun: error: invalid partition specified: x' >&2; exit 1")
    (found,) = remote.on_a_node(make(make_job()), ["true"], None, 20)
    assert (found.verdict, found.found) == (PROBLEM, "srun ended with code 1: srun: error: invalid partition specified: x")


def test_a_queue_that_gives_no_node_in_time_is_a_problem(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "srun", f"trap 'echo > {shlex.quote(str(tmp_path / 'given-back'))}; exit 1' TERM\n/bin/sleep 30 & wait")
    (found,) = remote.on_a_node(make(make_job()), ["true"], None, 0.5)
    assert (found.verdict, found.found) == (PROBLEM, "srun got no node within 0.5 s")
    assert (tmp_path / "given-back").exists()


@pytest.mark.parametrize("scheduler", ["slurm", "lsf", "pbs"])
def test_a_node_of_each_scheduler_is_looked_at_as_its_strict_stand_in_has_it(make: Make, tmp_path: Path, scheduler: str) -> None:
    install(tmp_path / "standins", PROGRAMS, Plan())
    search = {"PATH": f"{tmp_path / 'standins'}:{Path(sys.executable).parent}:/usr/bin:/bin"}
    job = make_job(STORMBENCH_SCHEDULER=scheduler, STORMBENCH_CORES_PER_NODE="4", STORMBENCH_QUEUE="batch")
    command = [sys.executable, "-c", f"import json; print(json.dumps({FOUND!r}))", "a word", "it's"]
    found = remote.on_a_node(make(job, search), command, "project", 60.0)
    assert [result.found for result in found] == [row["found"] for row in FOUND], found


def test_pbs_runs_a_script_and_its_findings_come_back(make: Make, tmp_path: Path) -> None:
    script = 'echo 12.server; for script; do :; done\ncd /; exec /usr/bin/env -i /bin/bash "$script"'
    program(tmp_path / "bin", "qsub", f'echo "$@" > {shlex.quote(str(tmp_path / "calls"))}\n{script}')
    job = make_job(STORMBENCH_SCHEDULER="pbs", STORMBENCH_QUEUE="debug", STORMBENCH_SELECT="system=polaris", STORMBENCH_CORES_PER_NODE="32")
    machine = make(job, {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    found = remote.on_a_node(machine, ["echo", json.dumps(FOUND)], "datascience", 20)
    assert [result.host for result in found] == ["n7"]
    assert "-l select=1:ncpus=32:system=polaris -l walltime=00:05:00 -q debug -A datascience" in (tmp_path / "calls").read_text()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_pbs_job_that_does_not_start_is_deleted(make: Make, tmp_path: Path) -> None:
    program(tmp_path / "bin", "qsub", "echo 12.server; exec /bin/sleep 30")
    program(tmp_path / "bin", "qdel", f'echo "$@" > {shlex.quote(str(tmp_path / "deleted"))}')
    machine = make(make_job(STORMBENCH_SCHEDULER="pbs"), {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    (found,) = remote.on_a_node(machine, ["true"], None, 0.5)
    assert found.found == "qsub got no node within 0.5 s"
    assert (tmp_path / "deleted").read_text() == "12.server\n"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("scheduler", ["local", "docker", "slurm"])
def test_job_is_refused_where_there_is_no_node_to_ask_for(make: Make, scheduler: str) -> None:
    with pytest.raises(UserError, match=r"--job: .*leave --job out"):
        remote.scheduler_of(make(make_job(STORMBENCH_SCHEDULER=scheduler)))


@pytest.mark.parametrize("words", [("--wait", "0"), ("--wait", "soon"), ("--benchmark", "resnet"), ("--jobs",)])
def test_wrong_options_are_one_sentence(stormbench: Any, words: tuple[str, ...]) -> None:
    done = stormbench("doctor", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_ctrl_c_gives_the_node_back(tmp_path: Path, config: Path) -> None:
    config.write_text(config.read_text().replace("SCHEDULER=local", "SCHEDULER=slurm"))
    given_back, asked = tmp_path / "given-back", tmp_path / "asked"
    program(tmp_path / "bin", "srun", f"trap 'echo > {given_back}; exit 1' TERM\n: > {asked}\nsleep 30 & wait")
    # a test runner in the background may pass on that SIGINT is ignored
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from stormbench.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "doctor", str(config), "--job"]
    environ = clean_environment(**here(tmp_path))
    doctor = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not asked.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    doctor.send_signal(signal.SIGINT)
    assert "Traceback" not in doctor.communicate(timeout=20)[1]
    assert (doctor.returncode, given_back.exists()) == (130, True)
