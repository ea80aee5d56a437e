"""Shares a list of files over MPI ranks and processes, so that every data tool runs alone, on all cores, and under mpirun or srun."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import PARTIAL_SUFFIX, reported_os_errors
from stormbench.core.progress import progress as progress_bar

LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE", "PALS_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which mpirun, jsrun, PALS and srun tell each process how many of them they started."""
LOCK_NAME = ".stormbench.lock"
STALE_AFTER_S = 24 * 3600.0
"""Age at which an unfinished file counts as left behind where the file system has no locks to tell."""
_REPLY_OK, _REPLY_KNOWN, _REPLY_BUG = "ok", "known", "bug"


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that share a task: `comm` is an mpi4py communicator, or None for one process."""

    rank: int = 0
    size: int = 1
    comm: Any = None

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order, on every rank."""
        return [value] if self.comm is None else self.comm.allgather(value)

    def together(self, function: Callable[[], Any]) -> list[Any]:
        """Call `function` on every rank and return all results on every rank; if any failed, every rank raises the first error.

        Ranks other than 0 raise it without text, so that it is printed once.
        """
        result, error = None, None
        try:
            result = function()
        except StormbenchError as known:
            error = known
        except BaseException:
            if self.comm is not None:
                # the other ranks wait in a collective that this one will never reach
                traceback.print_exc()
                self.comm.Abort(1)
            raise
        answers = self.gather((result, error))
        for _, failed in answers:
            if failed is not None:
                raise failed if self.rank == 0 else type(failed)("")
        return [answer for answer, _ in answers]

    def first(self, function: Callable[[], Any]) -> Any:
        """Call `function` on rank 0 only and return its result, or raise its error, on every rank."""
        return self.together(function if self.rank == 0 else lambda: None)[0]


def world() -> Team:
    """Return this process's Team: the MPI world where a launcher started several ranks, else one process.

    Raises:
        UserError: a launcher started several ranks, but mpi4py is missing or can't see them.
    """
    told = max((int(os.environ[name]) for name in LAUNCHER_SIZES if os.environ.get(name, "").isdigit()), default=1)
    if told <= 1 and not any(name.startswith("PMIX_") for name in os.environ):
        return Team()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if told <= 1:
            return Team()
        raise UserError(f"{told} ranks were started, but mpi4py can't be imported ({error}); install mpi4py, or run one process") from error
    comm = MPI.COMM_WORLD
    if told > 1 and comm.size == 1:
        raise UserError(
            f"the launcher started {told} ranks, but mpi4py sees only one: it was built for another MPI; "
            "use the mpirun or srun --mpi of the MPI that mpi4py was built with"
        )
    return Team(rank=comm.rank, size=comm.size, comm=comm) if comm.size > 1 else Team()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def check(workers: int | None, part: str) -> None:
    """Raise UserError unless `workers` is None or at least 1, and h5py is installed, which `part` of the kit brings."""
    if importlib.util.find_spec("h5py") is None:
        raise UserError(f"h5py isn't installed; install stormbench with its {part} part: pip install 'stormbench[{part}]'")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1; leave it out to use all cores")


def share(
    function: Callable[[Any], Any], items: Sequence[Any], *, team: Team, what: str, workers: int | None = None, progress: bool = True
) -> list[Any]:
    """Return [function(item) for item in items] on every rank, computed by all ranks and their worker processes.

    `function` must be importable (a module's function or a functools.partial of one). `workers` None means one
    process under MPI, else one for each core. The first StormbenchError stops the work and is raised on every rank.
    """
    mine = items[team.rank :: team.size]
    if workers is None:
        workers = 1 if team.size > 1 else cores()
    workers = min(workers, len(mine))

    def local() -> list[Any]:
        with progress_bar(len(mine), what, enabled=progress and team.rank == 0) as bar:
            if workers > 1:
                return _in_processes(function, mine, workers, bar.advance)
            return [_counted(function(item), bar.advance) for item in mine]

    shares = team.together(local)
    results: list[Any] = [None] * len(items)
    for rank, part in enumerate(shares):
        results[rank :: team.size] = part
    return results


def _counted(result: Any, advance: Callable[[], None]) -> Any:
    advance()
    return result


def _in_processes(function: Callable[[Any], Any], items: Sequence[Any], workers: int, advance: Callable[[], None]) -> list[Any]:
    """Share `items` over child processes, each served by a thread that sends one item and waits for its result.

    Children are fresh interpreters and never import the caller's main module, so this works from scripts,
    notebooks and threaded programs alike, where fork and multiprocessing's spawn do not.
    """
    waiting: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for pair in enumerate(items):
        waiting.put(pair)
    results: list[Any] = [None] * len(items)
    failures: dict[int, BaseException] = {}
    lock = threading.Lock()
    children = [start_child(function) for _ in range(workers)]

    def serve(child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(queue.Empty):
            while not failures:
                position, item = waiting.get_nowait()
                try:
                    results[position] = ask(child, item)
                except Exception as error:
                    failures[position] = error
                    return
                with lock:
                    advance()

    threads = [threading.Thread(target=serve, args=(child,), daemon=True) for child in children]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for child in children:
            end_child(child, at_once=any(thread.is_alive() for thread in threads))
    if failures:
        raise failures[min(failures)]
    return results


def start_child(function: Callable[[Any], Any]) -> subprocess.Popen[bytes]:
    """Start a process that waits for items to call `function` on."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or str(Path.cwd()) for path in sys.path))
    # the children share the cores among themselves
    environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    command = [sys.executable, "-c", "from stormbench.core.work import child; child()"]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    _send(started.stdin, function)
    return started


def ask(child: subprocess.Popen[bytes], item: Any) -> Any:
    """Return what the child's function makes of `item`, or raise what it raised; RunError if the child has died."""
    try:
        _send(child.stdin, item)
        kind, value = pickle.load(child.stdout)  # type: ignore[arg-type]
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        code = child.wait()
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise RunError(f"{item}: the worker process at work on it ended with {ending}; if memory ran out, use fewer --workers") from error
    if kind == _REPLY_OK:
        return value
    raise value if kind == _REPLY_KNOWN else RuntimeError(f"in a worker process at {item}:\n{value}")


def end_child(child: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """Let the child end by itself, or stop it `at_once`, and wait until it has."""
    with contextlib.suppress(OSError):
        child.stdin.close()  # type: ignore[union-attr]
    if at_once:
        child.terminate()
    child.wait()
    child.stdout.close()  # type: ignore[union-attr]


def _send(stream: Any, value: Any) -> None:
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def child() -> None:
    """Run as a worker process: take a function, then items, from standard input until it closes; reply on standard output."""
    # Ctrl-C reaches the whole group: the parent decides, and ends us with SIGTERM, which lets open files be cleaned up
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    function = pickle.load(requests)
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            return
        try:
            reply: tuple[str, Any] = (_REPLY_OK, function(item))
        except StormbenchError as error:
            reply = (_REPLY_KNOWN, type(error)(str(error)))
        except Exception:
            reply = (_REPLY_BUG, traceback.format_exc())
        _send(replies, reply)


@contextlib.contextmanager
def claimed(folder: Path, prefixes: Sequence[str]) -> Iterator[None]:
    """Hold a shared lock on `folder`, and first remove unfinished files and folders there that no live process is writing.

    An unfinished file or folder is `.<prefix>*.partial`. While another process holds the lock its files are live, and all
    are left alone; the lock ends with its process, however that ends.
    """
    path = folder / LOCK_NAME
    handle = _open_lock(path)
    try:
        alone = _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if alone or alone is None:
            limit = time.time() - (STALE_AFTER_S if alone is None else 0.0)
            for left in folder.glob(f".*{PARTIAL_SUFFIX}"):
                with contextlib.suppress(OSError):
                    if left.name[1:].startswith(tuple(prefixes)) and left.stat().st_mtime <= limit:
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
        _lock(handle, fcntl.LOCK_SH)
        yield
    finally:
        with contextlib.suppress(OSError):
            if _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB) is not False:
                path.unlink()
        os.close(handle)


def _open_lock(path: Path) -> int:
    """Open the lock file; if its last holder removed it meanwhile, open the new one, so that all agree on one file."""
    while True:
        with reported_os_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _lock(handle, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        os.close(handle)


def _lock(handle: int, kind: int) -> bool | None:
    """Lock: True if it was granted, False if another process holds it, None if the file system has no locks."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
