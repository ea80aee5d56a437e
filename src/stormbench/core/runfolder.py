"""The run folder: all that is known of one run, kept so that nothing of an earlier trial or attempt is ever overwritten.

`run.json` (provenance), `result_<n>.txt` (MLPerf log of trial n), `metrics.jsonl`, `checkpoints/`. Judging, plotting and
packaging read run folders and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stormbench.core import clocks, imagerecord, provenance
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import reported_os_errors, writable_folder, write_json

RUNNING, SUCCESS, TARGET_MISSED, FAILED, STOPPED = "running", "success", "target missed", "failed", "stopped"
FINISHED = (SUCCESS, TARGET_MISSED)
RESULT_FILE = "STORMBENCH_RESULT_FILE"
"""Variable with the file in which the job-side entry wants to read a finished run's figures."""


def default_tag(workload: str, seed: int) -> str:
    """Return a run tag that says workload, UTC time and seed."""
    return f"{workload}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-seed{seed}"


class RunFolder:
    """One trial's hold on a run folder; made by rank 0 only, which alone writes there."""

    @classmethod
    def new(cls, output_dir: Path, run_tag: str, experiment_id: int) -> RunFolder:
        """Take a folder that wasn't there: `run_tag`, or with -2, -3, ... behind it where another run has just taken that."""
        writable_folder(output_dir, "--output_dir")
        for number in itertools.count(1):
            name = run_tag if number == 1 else f"{run_tag}-{number}"
            try:
                (output_dir / name).mkdir()
            except FileExistsError:
                continue
            return cls(output_dir, name, experiment_id)
        raise AssertionError("itertools.count never ends")

    def __init__(self, output_dir: Path, run_tag: str, experiment_id: int) -> None:
        """Take the folder `output_dir/run_tag` for trial `experiment_id`.

        Raises:
            UserError: it can't be written, another process runs this trial, or the trial is already done.
        """
        self.path = writable_folder(output_dir / run_tag, "--output_dir")
        self.experiment_id = experiment_id
        self.result_path = self.path / f"result_{experiment_id}.txt"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._lock_path = self.path / f".trial_{experiment_id}.lock"
        self._lock = self._take_lock()
        self._metrics: IO[str] | None = None
        previous = self._record().get("trials", {}).get(str(experiment_id), {})
        if previous.get("outcome") in FINISHED:
            self.close()
            raise UserError(
                f"{self.result_path}: trial {experiment_id} of this run is done ({previous['outcome']}); "
                "give another --run_tag or --experiment_id"
            )
        self.attempt: int = previous.get("attempt", 0) + 1

    @property
    def unfinished(self) -> bool:
        """Whether an earlier attempt at this trial has left its log here."""
        return self.result_path.exists()

    def set_aside(self) -> None:
        """Keep a copy of the earlier attempt's log under a name of its own."""
        names = (self.path / f"attempt{number}_{self.result_path.name}" for number in itertools.count(self.attempt - 1))
        with reported_os_errors(self.result_path):
            shutil.copy2(self.result_path, next(name for name in names if not name.exists()))

    def begin(self, *, config: dict[str, Any], origins: dict[str, str], devices: list[str], notes: list[str], **more: Any) -> None:
        """Write run.json with all that is known at the start."""
        record = {
            "format": 1,
            "command": provenance.command_line(),
            "config": config,
            "origins": origins,
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
            "image": imagerecord.of_run(self.path),
            "host": provenance.host(),
            "devices": devices,
            "notes": notes,
            **more,
        }
        trial = {"attempt": self.attempt, "start": clocks.iso(clocks.now_ms()), "end": None, "outcome": RUNNING, "reason": None}
        # trials of one run may differ in their options: each keeps its own
        own = {name: record[name] for name in ("command", "config", "origins")}
        self._update(record, trial | own | {"seed": config.get("seed")})

    def finish(self, outcome: str, reason: str | None = None, **summary: Any) -> None:
        """Write how the trial ended, with its summary figures."""
        self._update({}, {"end": clocks.iso(clocks.now_ms()), "outcome": outcome, "reason": reason, **summary})
        self._tell_starter(summary)

    def _tell_starter(self, summary: dict[str, Any]) -> None:
        """Give run_and_time.sh the figures that its RESULT line repeats."""
        target = os.environ.get(RESULT_FILE)
        if target:
            figures = {name: summary.get(name) for name in ("time_to_target_s", "time_to_16_epochs_s")}
            lines = [f"{name}={value:.3f}\n" for name, value in figures.items() if value is not None]
            with contextlib.suppress(OSError), open(target, "w", encoding="utf-8") as stream:
                stream.writelines([f"run={self.path}\n", *lines])

    def metric(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        line = {"time_ms": clocks.now_ms(), "experiment_id": self.experiment_id, "attempt": self.attempt, **values}
        with reported_os_errors(self.metrics_path):
            if self._metrics is None:
                self._metrics = self.metrics_path.open("a", encoding="utf-8")
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()

    def discard(self) -> None:
        """Let go of the folder before anything was written, and remove what was made for it alone."""
        self.close()
        with contextlib.suppress(OSError):
            self._lock_path.unlink(missing_ok=True)
            self.path.rmdir()  # fails where something else is in it, as it should

    def close(self) -> None:
        """Let go of the folder."""
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.close()

    def _record(self) -> dict[str, Any]:
        return read_record(self.path) if (self.path / "run.json").exists() else {}

    def _update(self, record: dict[str, Any], trial: dict[str, Any]) -> None:
        # several trials of one run may be under way, each with its own number: run.json is changed under a lock
        with self._locked("run.json"):
            merged = {**self._record(), **record}
            trials = merged.setdefault("trials", {})
            mine = {**trials.get(str(self.experiment_id), {}), **trial}
            trials[str(self.experiment_id)] = mine
            for name in ("seed", "start", "end", "outcome"):
                merged[name] = mine.get(name)
            write_json(self.path / "run.json", merged)

    def _take_lock(self) -> IO[str] | None:
        with reported_os_errors(self._lock_path):
            stream = self._lock_path.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise UserError(
                f"{self.path}: trial {self.experiment_id} is being run by another process; wait for it, or give another --run_tag"
            ) from None
        except OSError as error:
            stream.close()
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                return None  # some parallel file systems are mounted without locks
            raise
        return stream

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with reported_os_errors(self.path / name), open(self.path / f".{name}.lock", "w") as stream:
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def unfinished_tag(output_dir: Path, experiment_id: int, prefix: str, pattern: str = "*.pt") -> str | None:
    """Return the tag of the newest run below `output_dir` whose tag begins with `prefix` and whose trial has a checkpoint but no end.

    `pattern` is that of the workload's checkpoint files.
    """
    found = []
    for path in output_dir.glob(f"{prefix}*/run.json"):
        with contextlib.suppress(UserError, OSError):
            trial = read_record(path.parent).get("trials", {}).get(str(experiment_id), {})
            if trial and trial.get("outcome") not in FINISHED and any(path.parent.glob(f"checkpoints/{pattern}")):
                found.append((path.stat().st_mtime, path.parent.name))
    return max(found)[1] if found else None


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run folder's run.json.

    Raises:
        UserError: there is none, or it isn't JSON.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: not a run folder, it has no run.json; give the folder that a run has written") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error}); the file is damaged") from error
    if not isinstance(record, dict):
        raise RunError(f"{path}: holds no record of a run")
    return record
