"""`stormbench submit`: check a config, render its job into a new run folder, and give it to the scheduler."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, RunError, UserError
from stormbench.core.files import atomic_path, reported_os_errors
from stormbench.core.progress import say
from stormbench.core.workloads import WORKLOADS
from stormbench.job.load import Job, load
from stormbench.job.schedulers import by_name
from stormbench.job.schedulers.base import Command, Scheduler, call
from stormbench.job.schedulers.local import Local
from stormbench.job.submission import NAME, Submission, read, this_host

MAX_SEEDS = 1000
MAX_SEED = 2**32 - 1
SCRIPT = "job.sh"
_BY_SIGNAL = (128, 192)
"""Exit codes above the first and up to the second are those of a wrapper whose program was ended by a signal."""
_JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?(\[[0-9]*\])?(\.[A-Za-z0-9_.-]+)?")
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    from stormbench.job.render import add_overrides

    parser.description = "Check a config, render its job into a new run folder below LOGDIR, submit it. Words after -- go to the scheduler."
    parser.add_argument("config", type=Path, metavar="CONFIG", help="shell config of the run")
    add_overrides(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the command and where the script would be; write and submit nothing")
    parser.add_argument("--after", metavar="JOB", help="start when this job has ended well: a job's id or a run folder")
    parser.add_argument("--array", metavar="SEEDS", help="a job array, one job for each seed, such as 1,2,3 or 10-14")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.set_defaults(run=run)
    _split_at_dashes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit the config, or show what would be done."""
    from stormbench.job.render import checked, overrides_of, render

    more = tuple(arguments.more)
    if more and not more[0].startswith("-"):
        raise UserError(f"-- {more[0]}: must be an option of the scheduler, such as -- -A PROJECT")
    seeds = parse_seeds(arguments.array) if arguments.array is not None else ()
    overrides = overrides_of(arguments) | ({"STORMBENCH_SEEDS": " ".join(map(str, seeds))} if seeds else {})
    job = checked(load(arguments.config, os.environ, overrides))
    if not WORKLOADS[job.benchmark].installed():
        said = f"{job.where('STORMBENCH_BENCHMARK')}: {job.said('STORMBENCH_BENCHMARK')}"
        raise UserError(f"{said}: the part that runs it is not in this installation; choose another with --benchmark")
    scheduler = by_name(job.config.scheduler)
    if not arguments.dry_run:
        _refuse_missing(job, scheduler, arguments.config)
    job = dataclasses.replace(job, values={**job.values, "LOGDIR": _log_folder(job)})
    folder = _new_folder(Path(job.values["LOGDIR"]), arguments.config, make=not arguments.dry_run)
    with _removed_on_failure(folder, made=not arguments.dry_run):
        after = _job_to_wait_for(arguments.after, job.config.scheduler)
        job_name = f"stormbench-{job.benchmark}"
        command = scheduler.command(folder / SCRIPT, job_name=job_name, after=after, n_tasks=len(seeds), more=more)
        text = render(job, run_tag=folder.name, output=scheduler.output(folder, len(seeds)))
        record = Submission(
            job_id="", scheduler=job.config.scheduler, config=str(arguments.config.absolute()), benchmark=job.benchmark,
            command=command.words, script=str(folder / SCRIPT), directory=str(Path.cwd()), trials=job.config.trials, folder=folder,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), after=after, array=seeds, host=this_host(),
        )  # fmt: skip
        if arguments.dry_run:
            _show(record, command, as_json=arguments.json, dry=True)
            return EXIT_DONE
        with atomic_path(folder / SCRIPT) as path:
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        record = _submitted(record, scheduler, command, _environment(job, scheduler))
    try:
        record.write()
    except RunError as error:
        raise RunError(f"job {record.job_id} is submitted, but its record is missing: {error}") from error
    _show(record, command, as_json=arguments.json, dry=False)
    return EXIT_DONE


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `1,2,3`, `10-14` or both.

    Raises:
        UserError: they are no such list, too many, out of range, or not distinct.
    """
    seeds: list[int] = []
    for word in text.split(","):
        match = _RANGE.fullmatch(word.strip()) if word.isascii() else None
        if match is None:
            raise UserError(f"--array {text}: must be seeds such as 1,2,3 or 10-14")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= MAX_SEED:
            raise UserError(f"--array {text}: {word.strip()} must lie within 1 and {MAX_SEED}, the smaller number first")
        if last - first + 1 + len(seeds) > MAX_SEEDS:
            raise UserError(f"--array {text}: more than {MAX_SEEDS} seeds; submit several arrays")
        seeds += range(first, last + 1)
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise UserError(f"--array {text}: seed {twice[0]} is there twice; give distinct seeds")
    return tuple(seeds)


def _refuse_missing(job: Job, scheduler: Scheduler, config: Path) -> None:
    """Raise UserError for what must be on the submitting machine and isn't: the scheduler's program, the data, the image."""
    if not scheduler.found():
        if isinstance(scheduler, Local):
            raise UserError(f"{scheduler.missing()}: not found on this machine; install it, or choose another scheduler with --scheduler")
        raise UserError(
            f"{scheduler.program}: not found on this machine; submit from a login node of the system, "
            f"or stormbench rehearse {shlex.quote(str(config))} runs it here"
        )
    data = job.values.get("DATADIR", "").strip()
    if data and job.values.get("DATA_FORMAT") != "dummy" and not Path(data).is_dir():
        raise UserError(f"{job.where('DATADIR')}: DATADIR={data}: no such folder on this machine; give the folder with the data")
    image = (job.config.container or "").strip()
    is_path = image.startswith(("/", "./", "../", "~")) or image.endswith((".sif", ".sqsh"))
    if is_path and job.config.runtime != "none" and not Path(image).exists():
        raise UserError(f"{job.where('CONT')}: CONT={image}: no such image on this machine; give the image's path, or build it first")


def _log_folder(job: Job) -> str:
    """Return LOGDIR as an absolute path that a job script can hold."""
    folder = os.path.abspath(job.values.get("LOGDIR", "").strip() or "results")  # noqa: PTH100 - without resolving links: nodes may see others
    if job.config.scheduler not in ("local", "docker") and re.search(r"[\\\x00-\x1f\x7f]", folder):
        where = job.where("LOGDIR")
        raise UserError(f"{where}: LOGDIR={folder!r}: schedulers take no backslash or control character in a path; choose another folder")
    return folder


def _new_folder(parent: Path, config: Path, *, make: bool) -> Path:
    """Make a run folder that wasn't there, named after the config and the time."""
    stem = re.sub(r"[^A-Za-z0-9._+-]", "_", config.stem.removeprefix("config_"))
    tag = f"{stem}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if make:
        with reported_os_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / (tag if number == 1 else f"{tag}-{number}")
        if not make:
            if not folder.exists():
                return folder
            continue
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise RunError(f"{folder}: can't be made ({why}); set LOGDIR to a folder you may write to") from error
    raise AssertionError("itertools.count never ends")


@contextlib.contextmanager
def _removed_on_failure(folder: Path, *, made: bool) -> Any:
    """Remove the run folder if no job came of it; one whose job may be queued stays."""
    try:
        yield
    except _Unclear:
        raise
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                for name in (SCRIPT, NAME):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
        raise


class _Unclear(RunError):
    """Whether the scheduler took the job can't be told."""


def _job_to_wait_for(after: str | None, scheduler: str) -> str | None:
    """Return the id of the job that `--after` names."""
    if after is None:
        return None
    if not Path(after).is_dir() and "/" not in after:
        if not _JOB_ID.fullmatch(after):
            raise UserError(f"--after {after}: must be a job's id such as 12345, or a run folder that submit made")
        return after
    record = read(Path(after))
    if not record.job_id or record.scheduler != scheduler:
        raise UserError(f"--after {after}: that run was not submitted to {scheduler}; give a job's id of {scheduler}, or leave --after out")
    return record.progress.job_id or record.job_id


def _environment(job: Job, scheduler: Scheduler) -> dict[str, str]:
    from stormbench.job.render import template_folder

    environ = scheduler.environment(os.environ, job.values)
    kit = template_folder().parent
    # the script looks for run_and_time.sh in the folder it is submitted from, but users may be anywhere
    if not Path("run_and_time.sh").exists() and (kit / "run_and_time.sh").exists():
        environ.setdefault("STORMBENCH_HOME", str(kit))
    return environ


def _submitted(record: Submission, scheduler: Scheduler, command: Command, environ: Mapping[str, str]) -> Submission:
    """Submit, and return the record with the job's id."""
    if isinstance(scheduler, Local):
        job_id, started = scheduler.start(command, record.folder, environ)
        return dataclasses.replace(record, job_id=job_id, started=started)
    try:
        answer = call(command.words, stdin=command.stdin, environ=environ, hint="the job may be queued, so look before you submit it again")
    except RunError as error:
        raise _Unclear(f"{error}; its script is {record.script}") from error
    if answer.code < 0 or _BY_SIGNAL[0] < answer.code <= _BY_SIGNAL[1]:
        program, number = command.words[0], -answer.code if answer.code < 0 else answer.code - _BY_SIGNAL[0]
        raise _Unclear(f"{program} was ended by signal {number}, so look whether {record.script} is queued before you submit it again")
    if answer.code != 0:
        raise RunError(f"{command.words[0]} refused the job: {answer.words}")
    found = scheduler.job_id(answer.out) or scheduler.job_id(answer.err)
    if found is None:
        program = command.words[0]
        raise _Unclear(f"{program} named no job id, so look whether {record.script} is queued; its words were: {answer.words}")
    if answer.err.strip():
        say(answer.err.strip())
    return dataclasses.replace(record, job_id=found[0], cluster=found[1])


def _show(record: Submission, command: Command, *, as_json: bool, dry: bool) -> None:
    if as_json:
        print(json.dumps({**record.as_json(), "folder": str(record.folder), **({"dry_run": True} if dry else {})}, indent=2))
    elif dry:
        print(f"script: {record.script}\ncommand: {command}")
    else:
        what = "process" if record.scheduler in ("local", "docker") else "job"
        array = f", an array of {len(record.array)}" if record.array else ""
        print(f"{what} {record.job_id}{array}; run folder {record.folder}")


def _split_at_dashes(parser: argparse.ArgumentParser) -> None:
    """Let the words after `--` reach the scheduler untouched: argparse would take some of them for its own."""
    parse = parser.parse_known_args

    def parse_before_dashes(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(args or ())
        cut = words.index("--") if "--" in words else len(words)
        found, rest = parse(words[:cut], namespace)
        found.more = words[cut + 1 :]
        return found, rest

    parser.parse_known_args = parse_before_dashes  # type: ignore[method-assign,assignment]
