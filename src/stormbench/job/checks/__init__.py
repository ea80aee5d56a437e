"""All checks of a machine, by group; they run side by side, and one that fails or hangs is itself a finding."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from stormbench.job.checks import batch, container, fit, folders, network, node
from stormbench.job.checks.machine import Machine
from stormbench.job.checks.result import Result, warning

TIME_LIMIT_S = 20.0
Check = Callable[[Machine], Result]

CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("container", "runtime", container.runtime),
    ("container", "user namespaces", container.user_namespaces),
    ("container", "image", container.image),
    ("container", "image and GPU", fit.accelerator),
    ("container", "image and C library", fit.c_library),
    ("container", "image and MPI", fit.mpi),
    ("container", "host Python", container.host_python),
    ("container", "mounts", container.mounts),
    ("container", "stale containers", container.stale_containers),
    ("files", "space for images", folders.runtime_space),
    ("files", "scratch", folders.scratch_folder),
    ("files", "temporary folders", folders.temporary_on_network),
    ("files", "shared memory", folders.shared_memory),
    ("files", "page cache", folders.page_cache),
    ("files", "LOGDIR", folders.log_folder),
    ("files", "DATADIR", folders.data_folder),
    ("node", "bash", node.bash),
    ("node", "cores", node.cores),
    ("node", "locked memory", node.locked_memory),
    ("node", "open files", node.open_files),
    ("node", "numactl", node.numactl),
    ("node", "Python packages", node.python_packages),
    ("gpu", "GPUs", node.gpus),
    ("gpu", "driver", node.gpu_driver),
    ("network", "host name", network.host_name),
    ("network", "interfaces", network.interfaces),
    ("network", "cards", network.cards),
    ("scheduler", "programs", batch.programs),
)


def guarded(check: Check, machine: Machine) -> Result:
    """Run one check; whatever it raises becomes a warning."""
    try:
        return check(machine)
    except Exception as error:
        return warning(
            f"the check itself failed: {type(error).__name__}: {error}", "look at this by hand, and report it to the makers of stormbench"
        )


def examine(machine: Machine, checks: tuple[tuple[str, str, Check], ...] = CHECKS, limit_s: float = TIME_LIMIT_S) -> list[Result]:
    """Run the checks side by side and return their results in order.

    A dead network file system can hold a check for ever: after `limit_s` it is left behind in its thread, which doesn't keep the program.
    """
    results: list[Result | None] = [None] * len(checks)

    def work(number: int, check: Check) -> None:
        results[number] = guarded(check, machine)

    threads = [threading.Thread(target=work, args=(number, check), daemon=True) for number, (_, _, check) in enumerate(checks)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = warning(f"no answer in {limit_s:g} s", "see whether a file system or a service hangs, by df and mount")
    return [
        dataclasses.replace(result or late, group=group, check=name, host=machine.host)
        for (group, name, _), result in zip(checks, list(results), strict=True)
    ]
