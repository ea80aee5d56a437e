"""The job-side entry: whatever signal comes and to whom, the workload hears it once, and its exit code is the script's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import clean_environment, record

SCRIPT = Path(__file__).parents[2] / "run_and_time.sh"
HEARS = """\
import os, signal, sys, time
heard = []
def handle(number, frame):
    heard.append(signal.Signals(number).name)
for name in os.environ.get("HEARS", "SIGUSR1 SIGTERM SIGINT SIGHUP").split():
    signal.signal(getattr(signal, name), handle)
print("words", *sys.argv[1:], flush=True)
print("ready", flush=True)
for _ in range(600):
    if heard:
        break
    time.sleep(0.05)
# what else comes in the time that a run needs to save
for _ in range(int(os.environ.get("SAVES", "8"))):
    time.sleep(0.05)
print("heard", *heard, flush=True)
sys.exit(int(os.environ.get("CODE", "75")))
"""


def impatient(tmp_path: Path) -> dict[str, str]:
    """Make the script's shell sleep a tenth of the time it asks for."""
    (tmp_path / "impatient.sh").write_text("sleep() { command sleep 0.01; }\n")
    return {"BASH_ENV": str(tmp_path / "impatient.sh")}


def workload(tmp_path: Path, body: str) -> dict[str, str]:
    """Put a program of the name stormbench first in the search path."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    program = tmp_path / "bin" / "stormbench"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)
    environ = clean_environment()
    return {**environ, "PATH": f"{program.parent}{os.pathsep}{environ['PATH']}"}


def started(environ: dict[str, str]) -> subprocess.Popen[str]:
    """Start the script as the leader of a process group, and return once the workload has set its handlers."""
    process = subprocess.Popen(
        [str(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )
    assert process.stdout is not None
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    # bash may not be waiting yet, and a signal in the moment before it does is heard only when the wait ends
    time.sleep(0.3)
    return process


def test_words_go_to_the_workload_and_additional_args_are_split_at_blanks(tmp_path: Path) -> None:
    environ = workload(tmp_path, "import sys\nprint(sys.argv[1:])")
    environ["ADDITIONAL_ARGS"] = " --lr_milestones 5:10  --width 0.5 "
    done = subprocess.run([str(SCRIPT), "--run_tag", "a b"], capture_output=True, text=True, env=environ, check=True)
    words = ["deepcam", "train", "--lr_milestones", "5:10", "--width", "0.5", "--run_tag", "a b"]
    assert str(words) in done.stdout
    assert "RESULT,DEEPCAM,333," in done.stdout


@pytest.mark.parametrize("code", [1, 2, 75, 127])
def test_the_exit_code_is_the_workloads_and_a_failure_has_no_result(tmp_path: Path, code: int) -> None:
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=workload(tmp_path, f"raise SystemExit({code})"), check=False)
    assert done.returncode == code
    assert "RESULT," not in done.stdout
    assert f"exit code {code}" in done.stderr


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGUSR1, "SIGUSR1"), (signal.SIGTERM, "SIGUSR1"), (signal.SIGINT, "SIGTERM"), (signal.SIGHUP, "SIGTERM")],
)
def test_a_signal_to_the_script_alone_asks_the_workload_to_save_and_stop(tmp_path: Path, sent: signal.Signals, heard: str) -> None:
    process = started(workload(tmp_path, HEARS) | impatient(tmp_path))
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert f"heard {heard}\n" in out
    assert process.returncode == 75
    assert "exit code 75" in err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_never_reaches_the_workload_as_two_final_ones(tmp_path: Path, sent: signal.Signals) -> None:
    process = started(workload(tmp_path, HEARS) | {"SAVES": "40"})
    os.killpg(process.pid, sent)
    out, _ = process.communicate(timeout=60)
    heard = out.rsplit("heard ", 1)[1].split("\n")[0].split()
    assert [name for name in heard if name != "SIGUSR1"] == [sent.name]
    assert process.returncode == 75


def test_ctrl_c_ends_a_workload_that_the_shell_started_with_interrupts_ignored(tmp_path: Path) -> None:
    environ = workload(tmp_path, HEARS) | impatient(tmp_path) | {"HEARS": "SIGUSR1"}
    process = started(environ)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_second_term_is_handed_on_as_such(tmp_path: Path) -> None:
    process = started(workload(tmp_path, HEARS) | {"SAVES": "40"})
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "heard SIGUSR1 SIGTERM\n" in out


def test_a_workload_that_ends_while_a_signal_is_handled_keeps_its_exit_code(tmp_path: Path) -> None:
    # kill, as the script calls it, takes the time in which the workload ends
    environ = workload(tmp_path, HEARS) | {"CODE": "3", "SAVES": "0"}
    slow = tmp_path / "slow.sh"
    slow.write_text('kill() { builtin kill "$@"; local code=$?; sleep 0.5; return "$code"; }\n')
    process = started(environ | {"BASH_ENV": str(slow)})
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 3


def test_a_code_that_the_shell_has_lost_is_the_one_that_the_workload_told(tmp_path: Path) -> None:
    told = "import os\nopen(os.environ['STORMBENCH_RESULT_FILE'], 'a').write('exit_code=75\\n')"
    # what bash 5.2 may say of a child that ends while a signal is handled
    script = tmp_path / "run_and_time.sh"
    script.write_text(SCRIPT.read_text().replace('wait "$child"\n    code=$?', 'wait "$child"\n    code=-1'))
    script.chmod(0o755)
    for body, code in ((told, 75), ("pass", 143)):
        done = subprocess.run([str(script)], capture_output=True, text=True, env=workload(tmp_path, body), check=False)
        assert done.returncode == code
        assert f"exit code {code}" in done.stderr


def test_the_program_tells_its_code_where_the_script_asks(tmp_path: Path) -> None:
    told = tmp_path / "told"
    environ = clean_environment(STORMBENCH_RESULT_FILE=str(told))
    done = subprocess.run([sys.executable, "-m", "stormbench", "nothing"], capture_output=True, env=environ, check=False)
    assert (done.returncode, told.read_text()) == (2, "exit_code=2\n")


def test_quotes_in_additional_args_are_refused_as_they_would_reach_the_workload(tmp_path: Path) -> None:
    environ = workload(tmp_path, "print('ran')") | {"ADDITIONAL_ARGS": "--lr_milestones '5 10'"}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=environ, check=False)
    assert (done.returncode, "knows no quotes" in done.stderr, "ran" in done.stdout) == (2, True, False)


def test_a_signal_before_the_workload_starts_is_remembered(tmp_path: Path) -> None:
    early = tmp_path / "early.sh"
    # the first call of date comes after the traps and before the workload
    early.write_text('date() { [ -e "$SENT" ] || { : >"$SENT"; builtin kill -s TERM $$; sleep 0.1; }; command date "$@"; }\n')
    environ = workload(tmp_path, "import time\ntime.sleep(60)") | {"BASH_ENV": str(early), "SENT": str(tmp_path / "sent")}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=environ, timeout=50, check=False)
    assert (tmp_path / "sent").exists()
    assert done.returncode == 128 + signal.SIGTERM


def test_a_step_that_is_terminated_as_slurm_does_leaves_a_checkpoint(tmp_path: Path) -> None:
    settings = {
        "DATA_FORMAT": "dummy", "STORMBENCH_DUMMY_HEIGHT": "32", "STORMBENCH_DUMMY_WIDTH": "32", "STORMBENCH_WIDTH": "0.05",
        "MAX_EPOCHS": "200", "TARGET_IOU": "1", "LOGDIR": str(tmp_path), "RUN_TAG": "run", "LOGGING_FREQUENCY": "1",
    }  # fmt: skip
    process = subprocess.Popen([str(SCRIPT)], stderr=subprocess.PIPE, text=True, env=clean_environment(**settings), start_new_session=True)
    figures = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (figures.exists() and '"step"' in figures.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert record(tmp_path / "run")["outcome"] == "stopped"
    assert (tmp_path / "run" / "checkpoints" / "deepcam_1.pt").exists()
