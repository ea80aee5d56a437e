"""Stand-ins at the edges: words, values and files that the real programs take or refuse, each checked against their documentation."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_job_standins import Rehearsal, ranks_of, report, shown, submit


@pytest.fixture
def here(tmp_path: Path) -> Rehearsal:
    return Rehearsal(tmp_path)


JSRUN = {"LSB_JOBID": "1", "LSB_MCPU_HOSTS": "batch1 1 n1 42 n2 42"}
REFUSED = [
    ("sbatch /bin/true", "This does not look like a batch script"),
    ("qsub /bin/true", "is a program, not a script; use qsub -- /bin/true"),
    ("qsub --", "needs a command behind it"),
    ("qsub job.sh word", "must be the last word"),
    ("qsub -W depend=afterany:1028[1] job.sh", "cannot have dependency on subjob"),
    ("bsub -env '' -P x -W 10 -nnodes 1 true", "-env: empty"),
    ("bsub -alloc_flags gpumps,smt1 -P x -W 10 -nnodes 1 true", "-alloc_flags"),
    ("apptainer pull", "pull takes [FILE] URI"),
    ("apptainer pull a.sif image", "not a URI"),
    ("apptainer pull there.sif docker://image", "will not overwrite"),
    ("apptainer pull no/such/a.sif docker://image", "no such file or directory"),
    ("singularity pull --bogus a.sif docker://image", "unrecognized option '--bogus'"),
    ("enroot create -n a/b there.sif", "has no slash"),
    ("docker run --ipc=foo image true", "invalid IPC mode"),
    ("docker run --pid=foo image true", "invalid PID mode"),
    ("docker run --network=foo image true", "network foo not found"),
    ("docker run --cpus=x image true", 'for "--cpus" flag'),
    ("docker run -p x image true", 'for "-p, --publish" flag'),
    ("docker run --device /dev/nope image true", "no such file or directory"),
    ("docker run -it image true", "not a TTY"),
    ("docker run there.sif/x:y:z true", "invalid reference format"),
    ("docker image inspect nope", "No such image: nope"),
    ("podman-hpc run --gpus all image true", "unrecognized option '--gpus'"),
    ("mpiexec --map-by foo -n 1 true", "invalid rank binding: --map-by foo"),
    ("mpiexec --mem-bind foo -n 1 true", "invalid memory binding: --mem-bind foo"),
    ("mpiexec --gpu-bind foo -n 1 true", "invalid GPU binding: --gpu-bind foo"),
    ("jsrun -e foo -n 1 true", "--stdio_mode"),
    ("jsrun -X foo -n 1 true", "--exit_on_error"),
    ("jsrun -m abc -n 1 true", "--memory_per_rs"),
    ("jsrun -K 9 -g 1 -n 1 true", "don't fit a socket"),
    ("jsrun -K 1 -r 3 -n 2 true", "per socket"),
    ("jsrun -c 7 -b packed:8 -n 1 true", "can't be bound to more CPUs"),
    ("srun --gres=gpu:x:y:z true", "Invalid --gres"),
    ("srun --gpus=abc:def true", "Invalid --gpus"),
    ("srun --gpus-per-task=x:y:z true", "Invalid --gpus-per-task"),
    ("srun --nodelist= true", "Invalid --nodelist"),
    ("srun --accel-bind=z true", "Invalid --accel-bind"),
]


@pytest.mark.parametrize(("line", "told"), REFUSED, ids=[case[0][:50] for case in REFUSED])
def test_what_the_real_program_refuses_is_one_sentence(here: Rehearsal, line: str, told: str) -> None:
    here.script("echo ran")
    (here.work / "there.sif").touch()
    done = here.run(*shlex.split(line), **JSRUN)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr


TAKEN = [
    "srun --cpu-bind=cores,verbose true",
    "srun --accel-bind=gn true",
    "jsrun -X 1 -e prepended -m 512 -K 3 -c 7 -g 1 -b packed:7 -n 6 true",
    "jsrun --stdio_mode=individual -n 1 true",
    "mpiexec -n 2 --mem-bind list:0:1 --gpu-bind list:0-2:3-5 --cpu-bind list:0-1:2-3 true",
    "docker run --rm --ipc=host --pid=host --cpus=1.5 -p 127.0.0.1:8080:80/tcp --device /dev/null -i image true",
    "qsub -- /bin/true with words",
]


@pytest.mark.parametrize("line", TAKEN, ids=[line[:50] for line in TAKEN])
def test_what_the_real_program_takes_is_taken(here: Rehearsal, line: str) -> None:
    done = here.run(*shlex.split(line), **JSRUN)
    assert done.returncode == 0, done.stderr


def test_qsub_runs_a_command_behind_two_dashes_with_its_words(here: Rehearsal) -> None:
    done = here.run("qsub", "-l", "select=1", "--", "/bin/echo", "two words", "it's")
    assert done.stdout.splitlines() == ["1001.rehearsal", "two words it's"]


def test_bsub_hands_its_words_to_a_shell_as_they_are(here: Rehearsal) -> None:
    words = ("bsub", "-P", "x", "-W", "10", "-nnodes", "1")
    one = here.run(*words, "jsrun -n 1 -a 1 echo 'two  words' $LSB_JOBID")
    assert one.stdout.splitlines()[-1] == "two  words 1001"
    several = here.run(*words, "echo", "two  words", "&&", "echo", "more")
    assert several.stdout.splitlines()[-2:] == ["two words", "more"]
    assert here.run(*words, "/bin/true").returncode == 0


def test_a_script_in_another_encoding_comes_through(here: Rehearsal) -> None:
    (here.work / "job.sh").write_bytes(b"#!/bin/bash\n# caf\xe9\necho ran\n")
    for words in (["sbatch", "job.sh"], ["qsub", "job.sh"], ["bsub", "-P", "x", "-W", "10", "-nnodes", "1", "./job.sh"]):
        assert here.run(*words).stdout.splitlines()[-1] == "ran"


@pytest.mark.parametrize("words", [["--env", "A=x y"], ["-env", "A=x y"], ["--env=A=x y"], ["-genv", "A", "x y"], ["--env", "A", "x y"]])
def test_mpiexec_takes_a_variable_in_one_word_as_pals_and_in_two_as_hydra(here: Rehearsal, words: list[str]) -> None:
    (variables,) = ranks_of(here.run("mpiexec", "-n", "1", *words, *report()))
    assert variables["A"] == "x y"


@pytest.mark.parametrize("program", ["apptainer", "singularity"])
def test_a_pulled_image_can_be_run(here: Rehearsal, program: str) -> None:
    for _ in range(2):
        done = here.run(program, "pull", "--force", "--disable-cache", "scratch.sif", "docker://nvcr.io/nvidia/pytorch:24.01-py3")
        assert done.returncode == 0, done.stderr
    assert here.run(program, "exec", "scratch.sif", "echo", "inside").stdout == "inside\n"
    assert here.run(program, "pull", "oras://ghcr.io/kit/image:2").returncode == 0
    assert (here.work / "image_2.sif").exists()


def test_only_podman_spreads_a_star_over_the_variables_of_that_beginning(here: Rehearsal) -> None:
    environ = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
    (podman,) = ranks_of(here.run("podman-hpc", "run", "--env", "SLURM_*", "image", *report(), **environ))
    (docker,) = ranks_of(here.run("docker", "run", "--env", "SLURM_*", "image", *report(), **environ))
    assert {name: podman[name] for name in environ} == environ
    assert "SLURM_PROCID" not in docker


def test_two_ranks_in_containers_of_podman_know_their_places(here: Rehearsal) -> None:
    step = f"srun -n 2 podman-hpc run --rm --env 'SLURM_*' image {shown()}"
    done = submit(here, "slurm", step)
    assert sorted(variables["SLURM_PROCID"] for variables in ranks_of(done)) == ["0", "1"], done.stderr


def test_an_image_of_docker_is_there_once_it_was_pulled_or_run(here: Rehearsal) -> None:
    assert here.run("docker", "pull", "registry.example.org:5000/kit/image:1").returncode == 0
    assert here.run("docker", "image", "inspect", "registry.example.org:5000/kit/image:1").stdout == "[]\n"
    assert here.run("docker", "run", "other", "true").returncode == 0
    assert here.run("docker", "image", "inspect", "--format", "{{.Architecture}}", "other").stdout.strip() in ("amd64", "arm64")


def test_docker_takes_a_terminal_where_there_is_one(here: Rehearsal) -> None:
    inner = shlex.join(["docker", "run", "--rm", "-it", "image", "echo", "inside"])
    program = f"import pty, sys; sys.exit(pty.spawn(['sh', '-c', {inner!r}]) >> 8)"
    done = subprocess.run([sys.executable, "-c", program], cwd=here.work, env=here.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "inside" in done.stdout) == (0, True), done.stdout


def test_scontrol_tells_what_a_job_was_submitted_with(here: Rehearsal) -> None:
    here.script("#SBATCH -N 2 -p gpu --qos=long -A proj", "scontrol show job $SLURM_JOB_ID; scontrol show partition gpu")
    told = here.run("sbatch", "job.sh").stdout
    for word in (
        "Partition=gpu",
        "QOS=long",
        "Account=proj",
        "NumNodes=2",
        f"Command={here.work}/job.sh",
        f"WorkDir={here.work}",
        "Default=NO",
    ):
        assert word in told
