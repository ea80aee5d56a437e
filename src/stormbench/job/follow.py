"""`stormbench status`, `logs` and `cancel`: how submitted runs stand, told by the scheduler, or by their folders once it has forgotten."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, StormbenchError, UserError
from stormbench.core.progress import say
from stormbench.core.runfolder import read_record
from stormbench.core.tables import show
from stormbench.job.schedulers import base, by_name
from stormbench.job.schedulers.base import TaskState
from stormbench.job.submission import Progress, Submission, find, progress_of

POLL_S = 0.5
ASK_EVERY_S = 10.0
"""How often `logs -f` asks a scheduler whether the job has ended; a process of this machine is asked at every turn."""
_CANCELLED_BY = (129, 130, 143)
_RUN = "run folder, or the id of a job submitted to a folder below LOGDIR, results or here"


def configure_status(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.description = (
        "How runs stand. The exit code is 0 while they are under way or have completed, 1 if any failed, was cancelled or can't be told."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.set_defaults(run=run_status)


def configure_logs(parser: argparse.ArgumentParser) -> None:
    """Add the options of `logs`."""
    parser.add_argument("name", metavar="RUN", help=_RUN)
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the job has ended")
    parser.set_defaults(run=run_logs)


def configure_cancel(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cancel`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    parser.set_defaults(run=run_cancel)


def run_status(arguments: argparse.Namespace) -> int:
    """Print one row for each run, or each task of an array."""
    rows: list[dict[str, Any]] = []
    good = True
    for name in arguments.runs:
        run = _found(name)
        for state in states_of(run):
            good &= state.state == base.COMPLETED or state.state in base.UNDER_WAY
            rows.append(_row(run, state))
    if not arguments.json and all(row["task"] is None for row in rows):
        rows = [{key: value for key, value in row.items() if key != "task"} for row in rows]
    show(rows, as_json=arguments.json)
    return EXIT_DONE if good else EXIT_FAILED


def run_logs(arguments: argparse.Namespace) -> int:
    """Print what the run has printed, and with -f what it prints."""
    run = _found(arguments.name)
    try:
        return _follow(run) if arguments.follow else _print_once(run)
    except KeyboardInterrupt:
        return 130


def run_cancel(arguments: argparse.Namespace) -> int:
    """End each run; those that have ended are only named."""
    code = EXIT_DONE
    for name in arguments.runs:
        run = _found(name)
        if run.scheduler is None:
            raise UserError(f"{run.folder}: not submitted by stormbench submit, so its job isn't known; use the scheduler's own program")
        states = states_of(run)
        if not any(state.state in base.UNDER_WAY for state in states):
            print(f"{_title(run)} isn't under way ({summary(states)}); nothing to cancel")
            continue
        try:
            by_name(run.scheduler).cancel(run)
            print(f"{_title(run)} cancelled")
        except StormbenchError as error:
            # the others are to be cancelled all the same
            say(f"stormbench: {error}")
            code = error.exit_code
    return code


def states_of(run: Submission) -> list[TaskState]:
    """Return the states of a run's job, or of each task of its array.

    Raises:
        RunError: the scheduler doesn't answer and the run folder has no end either.
    """
    told = None
    if run.scheduler is not None:
        try:
            told = by_name(run.scheduler).states(run)
        except StormbenchError:
            # a folder that has the end needs no scheduler, as on another machine
            if not all(progress_of(folder).ended for folder in _task_folders(run).values()):
                raise
    if told is None:
        return [_by_folder(run, task, folder) for task, folder in _task_folders(run).items()]
    return [_with_progress(state, progress_of(run.task_folder(state.task))) for state in told]


def summary(states: list[TaskState]) -> str:
    """Return the states in a few words, such as `COMPLETED` or `2 COMPLETED, 1 FAILED`."""
    counts = Counter(state.state for state in states)
    return next(iter(counts)) if len(states) == 1 else ", ".join(f"{number} {state}" for state, number in counts.items())


def _found(name: str) -> Submission:
    roots = [Path(os.environ["LOGDIR"])] if os.environ.get("LOGDIR") else []
    run = find(name, [*roots, Path("results"), Path()])
    again = run.progress.job_id
    # PBS knows a job that goes on after its time limit by another id
    return dataclasses.replace(run, job_id=again) if again and run.scheduler == "pbs" else run


def _title(run: Submission) -> str:
    return f"{'process' if run.scheduler in ('local', 'docker') else 'job'} {run.job_id} ({run.folder.name})"


def _task_folders(run: Submission) -> dict[int | None, Path]:
    return {task: run.task_folder(task) for task in range(1, len(run.array) + 1)} if run.array else {None: run.folder}


def _with_progress(told: TaskState, progress: Progress) -> TaskState:
    """Return the scheduler's state with what only the job's own notes tell."""
    if told.state == base.PENDING and progress.restarts:
        return dataclasses.replace(told, state=base.REQUEUED)
    if told.state == base.FAILED and progress.stopped:
        return dataclasses.replace(told, state=base.STOPPED, reason="has a checkpoint, to be continued")
    if told.state == base.FAILED and progress.done in _CANCELLED_BY:
        return dataclasses.replace(told, state=base.CANCELLED)
    return told


def _by_folder(run: Submission, task: int | None, folder: Path) -> TaskState:
    """Return the state of a job that no scheduler knows any more."""
    progress = progress_of(folder)
    if progress.done is None:
        if not progress.begun and not (folder / "run.json").exists():
            return TaskState(state=base.UNKNOWN, reason="the scheduler doesn't know the job, and it has left nothing", task=task)
        if run.scheduler is None:
            return TaskState(state=base.UNKNOWN, reason="not submitted by stormbench submit, and it has noted no end", task=task)
        return TaskState(state=base.FAILED, reason="gone from the scheduler without noting its end", task=task)
    if progress.done == 0:
        return TaskState(state=base.COMPLETED, task=task)
    if progress.stopped:
        return TaskState(state=base.STOPPED, reason="has a checkpoint, to be continued", task=task)
    state = base.CANCELLED if progress.done in _CANCELLED_BY else base.FAILED
    return TaskState(state=state, reason=f"exit code {progress.done}", task=task)


def _row(run: Submission, state: TaskState) -> dict[str, Any]:
    folder = run.task_folder(state.task)
    progress = progress_of(folder)
    done = str(len(progress.codes))
    return {
        "run": run.folder.name, "job": run.job_id or None, "task": state.task, "state": state.state,
        "trials": f"{done}/{run.trials}" if run.trials else done, "restarts": progress.restarts, "verdicts": verdicts(folder),
        "reason": state.reason,
    }  # fmt: skip


def verdicts(folder: Path) -> str:
    """Return how the trials of a run ended, those of several instances by turns, such as `1 success, 2 failed`."""
    found = []
    for place in [folder, *_instances(folder)]:
        with contextlib.suppress(StormbenchError):
            trials = read_record(place).get("trials", {})
            suffix = "" if place == folder else f" ({place.name.removeprefix(folder.name + '-')})"
            found += [f"{number}{suffix} {trial.get('outcome')}" for number, trial in sorted(trials.items()) if isinstance(trial, dict)]
    return ", ".join(found)


def _instances(folder: Path) -> list[Path]:
    """Return the folders of the models that train side by side in one job, in their order."""
    pattern = re.compile(re.escape(folder.name) + r"-i(\d+)")
    try:
        found = {int(match[1]): path for path in folder.parent.iterdir() if (match := pattern.fullmatch(path.name))}
    except OSError:
        return []
    return [found[number] for number in sorted(found)]


def _outputs(run: Submission) -> list[Path]:
    """Return the scheduler's output files; while there are none, what each trial has printed."""
    by_scheduler = [path for pattern in ("job*.out", "*.OU", "*.o[0-9]*") for path in sorted(run.folder.glob(pattern))]
    return [path for path in by_scheduler if path.stat().st_size] or _trial_outputs(run)


def _trial_outputs(run: Submission) -> list[Path]:
    folders = [place for folder in _task_folders(run).values() for place in (folder, *_instances(folder))]
    return [path for folder in folders for path in sorted(folder.glob("trial_*.out"), key=lambda path: (len(path.name), path.name))]


def _print_once(run: Submission) -> int:
    files = _outputs(run)
    printer = _Printer()
    for path in files:
        printer.show(path, several=len(files) > 1)
    if not files:
        states = states_of(run)
        reason = f" ({states[0].reason})" if states and states[0].reason else ""
        waits = any(state.state in base.UNDER_WAY for state in states)
        say(f"stormbench: {_title(run)} is {summary(states)}{reason} and has printed nothing{'; -f waits for it' if waits else ''}")
    return EXIT_DONE


def _follow(run: Submission) -> int:
    """Print what comes until the job has ended."""
    printer = _Printer()
    source = None
    here = run.scheduler in ("local", "docker")
    asked_at, ended, told = 0.0, False, ""
    states: list[TaskState] = []
    silent = False
    while True:
        if here or time.monotonic() - asked_at >= ASK_EVERY_S or not asked_at:
            try:
                states, silent = states_of(run), False
            except StormbenchError as error:
                # once it has known the job, a scheduler that is down or being restarted will know it again
                if not states:
                    raise
                if not silent:
                    say(f"stormbench: {error}; asking again every {ASK_EVERY_S:g} s")
                silent = True
            asked_at, ended = time.monotonic(), not any(state.state in base.UNDER_WAY for state in states)
            waiting = summary(states) if all(state.state == base.PENDING for state in states) else ""
            if waiting and not told:
                told = f"{_title(run)} is {waiting}{f' ({states[0].reason})' if states[0].reason else ''}; waiting for it"
                say(f"stormbench: {told}")
        files = source(run) if source else _outputs(run)
        if files and source is None:
            # PBS and LSF bring the output only at the end, which would repeat what the trials' own files have shown
            source = _trial_outputs if files[0].name.startswith("trial_") else _outputs
        for path in files:
            printer.show(path, several=len(files) > 1)
        if ended:
            return EXIT_DONE
        time.sleep(POLL_S)


class _Printer:
    """Prints what files have had added since it last looked; knows how far it has come in each."""

    def __init__(self) -> None:
        self._offsets: dict[Path, tuple[int, int]] = {}
        self._last: Path | None = None

    def show(self, path: Path, *, several: bool) -> None:
        """Print what is new in the file, from its beginning if it was replaced or cut."""
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                inode, offset = self._offsets.get(path, (status.st_ino, 0))
                if inode != status.st_ino or offset > status.st_size:
                    offset = 0
                stream.seek(offset)
                while piece := stream.read(1 << 20):
                    self._write(path, piece, several=several)
                    offset += len(piece)
        except FileNotFoundError:
            return
        self._offsets[path] = (status.st_ino, offset)

    def _write(self, path: Path, piece: bytes, *, several: bool) -> None:
        if several and self._last != path:
            sys.stdout.write(f"==> {path.name} <==\n")
        self._last = path
        sys.stdout.flush()
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
