"""The script that builds Horovod's wheel, with stand-ins for pip and the compilers: what it changes, keeps, and tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "horovod-wheel.sh"
SECTION = "#if TENSORFLOW_VERSION >= 2006000000"
PYTHON = f"""#!/bin/bash
[ "$1" = - ] && {{ echo "$TENSORFLOW"; exit; }}
[ "$1" = -c ] && {{ echo cp311_linux_x86_64; exit; }}
case $3 in
    download)
        folder=${{@: -1}}
        mkdir -p "$folder/s/horovod-0.28.1/horovod/tensorflow"
        printf '%s\\nxla\\n#endif\\n' '{SECTION}' >"$folder/s/horovod-0.28.1/horovod/tensorflow/xla_mpi_ops.cc"
        tar -czf "$folder/horovod-0.28.1.tar.gz" -C "$folder/s" horovod-0.28.1 ;;
    wheel)
        echo built >>"$BUILDS"
        touch "$BUILDS.begun"
        sleep "${{SLOW:-0}}"
        [ -z "${{BROKEN:-}}" ] || {{ echo "xla_mpi_ops.cc:1: error: no such header"; exit 1; }}
        while [ "$1" != -w ]; do shift; done
        mkdir -p "$2"
        cp "${{@: -1}}/horovod/tensorflow/xla_mpi_ops.cc" "$2/horovod-0.28.1-cp311-cp311-linux_x86_64.whl" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock, of util-linux")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Stand-ins first on the PATH; the count of builds is in the file BUILDS."""
    programs = tmp_path / "bin"
    programs.mkdir()
    texts = {"python": PYTHON, "mpicxx": "#!/bin/sh\necho 'mpicxx: Open MPI 4.1.4 (Language: C++)'\n", "g++": "#!/bin/sh\n"}
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        **os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "STORMBENCH_WHEELS": str(tmp_path / "wheels"),
        "BUILDS": str(tmp_path / "builds"), "TENSORFLOW": "2.21.0", "HOROVOD_GPU_OPERATIONS": "", "TMPDIR": str(tmp_path),
    }  # fmt: skip


def start(environ: dict[str, str], **more: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([SCRIPT, "python"], stdout=pipe, stderr=pipe, text=True, env={**environ, **more}, start_new_session=True)


def build(environ: dict[str, str], **more: str) -> tuple[int, str, str]:
    process = start(environ, **more)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def n_builds(environ: dict[str, str]) -> int:
    return Path(environ["BUILDS"]).read_text().count("built")


def test_the_xla_section_is_switched_off_only_where_it_does_not_compile(environ: dict[str, str]) -> None:
    wheels = {}
    for version in ("2.15.1", "2.21.0"):
        code, stdout, stderr = build(environ, TENSORFLOW=version)
        assert code == 0, stderr
        wheels[version] = Path(stdout.splitlines()[-1])
        assert f"tf{version}-cp311_linux_x86_64-Open-MPI-4.1.4" in wheels[version].parent.name
    assert wheels["2.15.1"].read_text().splitlines() == [SECTION, "xla", "#endif"]
    assert wheels["2.21.0"].read_text().splitlines() == ["#if 0", "xla", "#endif"]


def test_it_is_built_once_also_by_calls_at_the_same_time(environ: dict[str, str]) -> None:
    both = [start(environ, SLOW="1") for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert any("another call is building it" in stderr for _, stderr in told)
    assert build(environ)[1] == told[0][0]
    assert n_builds(environ) == 1


def test_a_failed_build_is_one_sentence_with_its_log_and_the_next_call_builds_anew(environ: dict[str, str]) -> None:
    code, stdout, stderr = build(environ, BROKEN="1")
    assert (code, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("horovod-wheel: building Horovod 0.28.1 for TensorFlow 2.21.0 failed; see ")
    assert "no such header" in Path(stderr.split("; see ")[1].strip()).read_text()
    assert build(environ)[0] == 0


def test_a_killed_build_leaves_no_wheel_and_no_lock(environ: dict[str, str], tmp_path: Path) -> None:
    process = start(environ, SLOW="100")
    deadline = time.monotonic() + 30
    while not (tmp_path / "builds.begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # the shell alone: what it started goes on for a while, as a compiler does
    process.kill()
    process.wait()
    try:
        assert not list((tmp_path / "wheels").rglob("*.whl"))
        code, stdout, stderr = build(environ)
        assert code == 0, stderr
        assert "waiting" not in stderr
        assert Path(stdout.splitlines()[-1]).exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_without_tensorflow_or_a_compiler_it_says_what_to_install(environ: dict[str, str], tmp_path: Path) -> None:
    code, _, stderr = build(environ, TENSORFLOW="")
    assert (code, stderr) == (2, "horovod-wheel: python has no TensorFlow; install it first, as Horovod is built against it\n")
    for name in ("bash", "env", "printf"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "bin" / "mpicxx").unlink()
    code, _, stderr = build(environ, PATH=str(tmp_path / "bin"))
    assert code == 2
    assert stderr == "horovod-wheel: mpicxx: not found; on Debian: apt-get install g++ libopenmpi-dev openmpi-bin\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--fetch: needs the folder of a wheelhouse"),
        (["wheels", "python3.11"], "--fetch wheels python3.11: the last word is the image's Python, such as 3.11"),
        (["/proc/nowhere/wheels"], "/proc/nowhere/wheels: can't be made"),
    ],
)
def test_a_wheelhouse_that_can_not_be_filled_is_told_before_anything_is_fetched(words: list[str], told: str, tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, "--fetch", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"horovod-wheel: {told}")
    assert list(tmp_path.iterdir()) == []
