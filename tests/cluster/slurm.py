"""A real Slurm of one login host and a few nodes for the tests: controller, a slurmd on each node, munge, and how to ask them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import Host, bring_up, child_of_tests, take_down
from tests.conftest import clean_environment

# program: the Debian package that has it
NEEDED = {
    "slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client", "munged": "munge", "ip": "iproute2", "unshare": "util-linux",
    "mpirun.openmpi": "openmpi-bin",
}  # fmt: skip
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
"""A job passes through others for a moment, such as SIGNALING where it is warned."""
WAIT_S = 240.0
GPUS = 2
# the first process of a process namespace takes all others with it, so that no rank outlives even tests that are killed; the shell reaps
_IN_ONE_CAGE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@" & wait', "sh")


class Cluster:
    """Slurm while it is entered. `folder` holds all it writes; nothing outside is touched."""

    def __init__(self, folder: Path, nodes: tuple[str, ...] = ("n1", "n2", "n3", "n4"), cpus: int = 4) -> None:
        self.folder, self.nodes, self.cpus = folder, nodes, cpus
        self.conf = folder / "slurm.conf"
        self._hosts: list[Host] = []
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        for name in ("state", "log", "run", "dev"):
            (self.folder / name).mkdir()
        for number in range(GPUS):
            # Slurm takes only device nodes for GPUs; these are clones of /dev/null
            os.mknod(self.folder / "dev" / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu Type=fake File={self.folder}/dev/gpu[0-{GPUS - 1}]\n")
        try:
            self._hosts = bring_up(("login", *self.nodes), self.folder)
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.cancel_all()
        finally:
            self._stop()

    def start(self, *words: object, folder: Path, **environ: str) -> subprocess.Popen[str]:
        """Start a command on the login host, in `folder`, with none of the caller's launcher variables."""
        command = self._hosts[0].inside(*child_of_tests(*map(str, words)), folder=folder)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=self._environment(**environ))

    def run(self, *words: object, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host to its end."""
        process = self.start(*words, folder=folder, **environ)
        try:
            stdout, stderr = process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise AssertionError(f"{words[0]} did not end in {WAIT_S:g} s\n{stdout}\n{stderr}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def ask(self, *words: str) -> str:
        """Return what one of Slurm's own commands prints.

        Raises:
            AssertionError: it failed.
        """
        done = self.run(*words, folder=self.folder)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def job_named(self, name: str) -> str:
        """Return the id of the one job of this name that is pending or running."""
        return wait_until(lambda: self.ask("squeue", "--noheader", f"--name={name}", "--format=%i"), f"no job named {name}")

    def ended(self, job: str) -> str:
        """Return the state of a job once it has ended, such as COMPLETED; `sbatch --wait` asks only every ten seconds."""

        def end() -> str:
            found = self.state(job)
            return found if found in ENDED else ""

        return wait_until(end, f"job {job} doesn't end")

    def state(self, job: str) -> str:
        """Return how a job stands now."""
        return self.ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def release(self, job: str, **changes: str) -> None:
        """Let a job that queued itself again begin at once, with changes; Slurm would keep it waiting for two minutes."""
        waiting = ("squeue", "--noheader", "--states=pending", f"--jobs={job}", "--format=%r")
        wait_until(lambda: self.ask(*waiting) == "BeginTime", f"job {job} doesn't queue itself again")
        self.ask("scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in changes.items()), "StartTime=now")

    def cancel_all(self) -> None:
        """End every job, and wait until Slurm has cleaned up after it."""
        self.ask("scancel", "--user=root", "--quiet")
        wait_until(lambda: not self.ask("squeue", "--noheader"), "jobs don't end")

    def _environment(self, **environ: str) -> dict[str, str]:
        return clean_environment(SLURM_CONF=str(self.conf), **environ) | {"PATH": _search_path()}

    def _start(self) -> None:
        self.conf.write_text(self._configuration())
        key, run = self.folder / "munge.key", self.folder / "run"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        login, *nodes = self._hosts
        # --force: munged has doubts about keys and sockets below a world-writable folder such as /tmp
        self._daemon(
            "munged", login, "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run}/munge",
            f"--pid-file={run}/munged.pid", f"--seed-file={run}/seed", f"--log-file={self.folder}/log/munged.log",
        )  # fmt: skip
        wait_until((run / "munge").exists, "munged opens no socket")
        self._daemon("slurmctld", login, "slurmctld", "-D", "-c")
        for node in nodes:
            (self.folder / f"spool-{node.name}").mkdir()
            (self.folder / f"tmp-{node.name}").mkdir()
            self._daemon(node.name, node, *_IN_ONE_CAGE, "slurmd", "-D")
        n_nodes = str(len(nodes))
        try:
            wait_until(lambda: self._idle() == n_nodes, "the nodes don't come up", limit_s=60)
        except AssertionError as error:
            logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted((self.folder / "log").iterdir()))
            raise AssertionError(f"{error}\n{logs}") from None

    def _idle(self) -> str:
        return self.run("sinfo", "--noheader", "--states=idle", "--format=%D", folder=self.folder).stdout.strip()

    def _daemon(self, name: str, host: Host, *words: str) -> None:
        with (self.folder / "log" / f"{name}.err").open("wb") as log:
            command = host.inside(*child_of_tests(*words))
            self._daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment()))

    def _stop(self) -> None:
        """End what was started: daemons in the reverse order, then whatever they left, by its environment."""
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        for pid in processes_with("SLURM_CONF", str(self.conf)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        take_down(self._hosts)

    def _configuration(self) -> str:
        login, *nodes = self._hosts
        at, gpus = self.folder, f"Gres=gpu:fake:{GPUS}"
        lines = [
            "ClusterName=tests", f"SlurmctldHost={login.name}({login.address})", "SlurmUser=root", "SlurmdUser=root",
            "AuthType=auth/munge", f"AuthInfo=socket={at}/run/munge", "CredType=cred/munge",
            f"StateSaveLocation={at}/state", f"SlurmctldPidFile={at}/run/slurmctld.pid", f"SlurmctldLogFile={at}/log/slurmctld.log",
            f"SlurmdSpoolDir={at}/spool-%n", f"SlurmdPidFile={at}/run/slurmd-%n.pid", f"SlurmdLogFile={at}/log/slurmd-%n.log",
            # the nodes share a file system, and pmix makes its folder below TmpFS under a name without the node's
            f"TmpFS={at}/tmp-%n",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SwitchType=switch/none", "MpiDefault=none",
            "JobAcctGatherType=jobacct_gather/none", "AccountingStorageType=accounting_storage/none", "MailProg=/bin/true",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "SchedulerType=sched/backfill",
            "SchedulerParameters=bf_interval=1,sched_interval=1", "ReturnToService=2", "KillWait=30",
            # more CPUs than the machine has
            "SlurmdParameters=config_overrides",
            "GresTypes=gpu",
            *(f"NodeName={n.name} NodeAddr={n.address} CPUs={self.cpus} CoresPerSocket={self.cpus} RealMemory=1000 {gpus}" for n in nodes),
            f"PartitionName=tests Nodes={','.join(n.name for n in nodes)} Default=YES MaxTime=60 State=UP",
            f"PartitionName=other Nodes={','.join(n.name for n in nodes)} MaxTime=60 State=UP",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


def why_impossible() -> str | None:
    """Return what to do before a cluster can run on this machine, or None if nothing is missing."""
    packages = sorted({package for program, package in NEEDED.items() if shutil.which(program, path=_search_path()) is None})
    if packages:
        return f"needs a real Slurm: apt-get install --no-install-recommends slurm-wlm-basic-plugins {' '.join(packages)}"
    if os.geteuid() != 0:
        return "a Slurm with nodes of its own needs root; run the tests as root, or in a container with CAP_SYS_ADMIN"
    return None


def _search_path() -> str:
    """Return PATH with the folders of the daemons, which not every shell of root has."""
    return os.pathsep.join((clean_environment()["PATH"], "/usr/sbin", "/sbin"))


def processes_with(name: str, value: str) -> list[int]:
    """Return the processes on this machine that were started with this environment variable."""
    entry = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(ready: Callable[[], object], otherwise: str, limit_s: float = WAIT_S) -> str:
    """Return what `ready` returns, as text, once that is true.

    Raises:
        AssertionError: it isn't within `limit_s`; the text is `otherwise`.
    """
    deadline = time.monotonic() + limit_s
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{otherwise} in {limit_s:g} s")
        time.sleep(0.1)
    return str(found)
