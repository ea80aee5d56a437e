"""Commands as forks of a process that has imported their framework already, which is most of what a small training takes.

Each is a process of its own with its own words, environment and output, and runs to its exit as ever. It can't show what happens before
or while the framework is imported: what is about that starts a process anew, as do launchers, the jobs of schedulers, and images.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stormbench import __main__ as program

READ_AT_IMPORT = ("OMP_", "GOMP_", "KMP_", "MKL_", "TF_", "CUDA_", "LD_", "MALLOC_", "PYTHON")
"""Begin names of variables that are read once, at the start or by an import; a command that is given one isn't forked."""
_FRAMEWORKS = {
    ("deepcam", "train"): "torch",
    ("cloudmask", "train"): "tensorflow",
    ("cloudmask", "inference"): "tensorflow",
    ("cloudmask", "run"): "tensorflow",
}


class Forks:
    """The processes to fork from, one for each framework, started when they are first asked for; they end with this process."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ
        self.servers: dict[str, subprocess.Popen[str]] = {}

    def framework_of(self, words: list[str], environ: dict[str, str]) -> str | None:
        """Return what the command would be forked with, or None where it has to start anew."""
        differing = {name for name in {*environ, *self.environ} if environ.get(name) != self.environ.get(name)}
        if any(name.startswith(READ_AT_IMPORT) for name in differing) or "--onednn" in words:
            return None
        return _FRAMEWORKS.get((words[0], words[1])) if len(words) > 1 else None

    def start(self, framework: str, words: list[str], environ: dict[str, str]) -> Fork:
        if framework not in self.servers:
            command = [sys.executable, "-m", "tests.forks", framework]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.servers[framework] = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=self.environ, **pipes)
        server = self.servers[framework]
        assert server.stdin is not None and server.stdout is not None
        folder = tempfile.TemporaryDirectory(prefix="stormbench-fork-")
        server.stdin.write(json.dumps({"words": words, "environ": environ, "cwd": str(Path.cwd()), "folder": folder.name}) + "\n")
        server.stdin.flush()
        return Fork(int(server.stdout.readline()), folder)


class Fork:
    """A command that was started: what the tests use of subprocess.Popen."""

    def __init__(self, pid: int, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.pid, self._owned, self.folder = pid, folder, Path(folder.name)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            self.returncode = int((self.folder / "code").read_text())
        return self.returncode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout)
            time.sleep(0.005)
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _import(framework: str) -> None:
    from stormbench.core import garbage

    with garbage.importing(framework):
        if framework == "torch":
            from stormbench.deepcam import train  # noqa: F401
        else:
            from stormbench.cloudmask import host

            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            with host._without_chatter(), host._as_if_absent(*host.UNUSED_BY_US):
                import keras  # noqa: F401
                import tensorflow  # noqa: F401


def _serve(framework: str) -> dict[str, Any] | None:
    """Fork for each line of standard input; return in the fork with what it is to run, and in this process at the end of the input."""
    _import(framework)
    # those who wait for the commands are not waited for
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        receives, sends = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            command = os.fork()
            if command == 0:
                os.close(receives)
                os.close(sends)
                return request
            os.write(sends, f"{command}\n".encode())
            os.close(sends)
            code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
            part = Path(request["folder"], "code.partial")
            part.write_text(str(code))
            part.rename(part.with_suffix(""))
            os._exit(0)
        os.close(sends)
        with os.fdopen(receives) as stream:
            print(stream.readline().strip(), flush=True)
    return None


def _become(request: dict[str, Any]) -> None:
    """Take on what a process gets when it is started."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(request["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [program.__file__, *request["words"]]


if __name__ == "__main__":
    asked = _serve(sys.argv[1])
    if asked is not None:
        _become(asked)
        program.entry()
