"""The record of a submission, kept in its run folder, and what the job script itself has noted there of its progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
from pathlib import Path
from typing import Any

from stormbench.core.errors import UserError
from stormbench.core.files import write_json

FORMAT = 1
NAME, STATE_NAME = "submission.json", "job_state"
_STOPPED = 75
_TRIAL = re.compile(r"trial (\d+) seed (\d+) code (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a job script has noted: `codes` of finished trials, `done` its own exit code once it has ended."""

    begun: bool = False
    restarts: int = 0
    codes: dict[int, int] = dataclasses.field(default_factory=dict)
    done: int | None = None
    job_id: str | None = None

    @property
    def ended(self) -> bool:
        return self.done is not None

    @property
    def stopped(self) -> bool:
        """Whether it ended with a checkpoint, to be continued."""
        return self.done == _STOPPED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """One submitted run. `folder` is its run folder, `directory` the one it was submitted from."""

    job_id: str
    scheduler: str | None
    config: str
    benchmark: str
    command: tuple[str, ...]
    script: str
    directory: str
    time: str
    trials: int
    folder: Path
    after: str | None = None
    array: tuple[int, ...] = ()
    cluster: str | None = None
    host: str | None = None
    started: str | None = None

    @property
    def progress(self) -> Progress:
        """What the job has noted so far."""
        return progress_of(self.folder)

    def task_folder(self, task: int | None) -> Path:
        """Return the run folder of a task of the array, or the run's own."""
        return self.folder if task is None else self.folder.with_name(f"{self.folder.name}-a{task}")

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON can hold it; the folder isn't in it, as it may be moved."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "folder"}
        return {"format": FORMAT, **fields, "command": list(self.command), "array": list(self.array)}

    def write(self) -> None:
        """Write the record to the run folder."""
        write_json(self.folder / NAME, self.as_json())


def read(folder: Path) -> Submission:
    """Return the record of a run folder; one that a job made which was submitted by hand has only its progress.

    Raises:
        UserError: the folder is no run folder, or its record is damaged.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(f"{path}: has format {record['format']}, this stormbench reads {FORMAT}; use the version that wrote it")
        names = {field.name for field in dataclasses.fields(Submission)} - {"folder"}
        fields = {name: value for name, value in record.items() if name in names}
        lists = {"command": tuple(record["command"]), "array": tuple(record["array"])}
        found = Submission(**{**fields, **lists, "folder": folder.absolute()})
        if not isinstance(found.job_id, str) or not isinstance(found.trials, int):
            raise TypeError("job_id or trials has the wrong type")
        return found
    except FileNotFoundError:
        return _by_hand(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: can't be read as the record of a submission ({error}); the file is damaged") from error


def _by_hand(folder: Path) -> Submission:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder that submit printed, or the job's id")
    if not (folder / STATE_NAME).exists() and not (folder / "run.json").exists():
        raise UserError(f"{folder}: not a run folder, it has no {NAME}, {STATE_NAME} or run.json; give the folder that submit printed")
    return Submission(
        job_id="", scheduler=None, config="", benchmark="", command=(), script="", directory="", time="", trials=0, folder=folder.absolute()
    )


def progress_of(folder: Path) -> Progress:
    """Return what the job script has noted in `folder`; later lines stand above earlier ones, as a job may go on after its end."""
    try:
        lines = (folder / STATE_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Progress()
    restarts, codes, done, job_id = 0, {}, None, None
    for line in lines:
        word, _, value = line.partition(" ")
        trial = _TRIAL.fullmatch(line)
        if trial:
            codes[int(trial[1])] = int(trial[3])
        elif word == "restarts" and value.isdigit():
            restarts = int(value)
        elif word == "job" and value:
            job_id = value
        done = int(value) if word == "done" and value.isdigit() else None
    return Progress(begun=True, restarts=restarts, codes=codes, done=done, job_id=job_id)


def find(run: str, roots: list[Path]) -> Submission:
    """Return the submission that `run` names: a run folder, or a job's id known from a record below `roots`.

    Raises:
        UserError: there is none.
    """
    if Path(run).is_dir() or "/" in run:
        return read(Path(run))
    found = []
    for root in dict.fromkeys(root.absolute() for root in roots):
        for path in [*root.glob(f"*/{NAME}"), *root.glob(f"*/*/{NAME}")]:
            # what is damaged there is no business of this run
            with contextlib.suppress(UserError):
                record = read(path.parent)
                if run in (record.job_id, *re.split(r"[\[.]", record.job_id)[:1], record.progress.job_id):
                    found.append(record)
    if not found:
        places = ", ".join(str(root) for root in dict.fromkeys(roots))
        raise UserError(f"{run}: neither a run folder nor the id of a job with one below {places}; give the run folder that submit printed")
    # process ids and the numbers of small clusters come again
    return max(found, key=lambda record: record.time)


def this_host() -> str:
    """Return this machine's name as records have it."""
    return socket.gethostname()


def last_line(path: Path) -> str:
    """Return the last line of a file that holds anything, at most 200 characters of it."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
