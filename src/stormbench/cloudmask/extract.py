"""Unpacks zipped products from a list of files: in parallel, each product whole or not at all; resumes where it was stopped."""

from __future__ import annotations

import calendar
import functools
import os
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stormbench.core import work
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import atomic_folder, writable_folder

BLOCK = 1 << 20
ENCRYPTED = 0x1
"""General purpose bit 0 of a member, by PKWARE's description of the format."""
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises at damaged members and at compressions that it doesn't know."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one zip file: extracted, skipped as it was complete, or failed with a sentence."""

    status: str
    message: str = ""


def run(
    file_list: str | os.PathLike[str], output: str | os.PathLike[str], *, workers: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Unpack every zip file that `file_list` names into `output`, over `workers` processes or the ranks of mpirun or srun.

    `file_list` is a text file with one path a line (blank lines and lines that begin with # don't count; relative paths count
    from the working folder, or from the list's own), or a folder, whose *.zip are taken. A product appears in `output` under
    the name that it has in the zip, by a rename once all its members are there with the right checksums. A product whose files
    all have the size that the zip tells is complete, and is skipped.

    Returns:
        `extracted` and `skipped` zip files, and the `output` folder.

    Raises:
        UserError: there is no list, it names nothing, or the output folder can't be written.
        RunError: zip files were missing, damaged, or hold paths that leave the folder, or the disk is full; the others are done.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1; leave it out to use all cores")
    team = work.world()
    source, target = Path(file_list), Path(output)
    with ExitStack() as stack:
        files = team.first(lambda: _prepare(source, target, stack))
        outcomes = work.share(functools.partial(extract, target), files, team=team, what="extract", workers=workers, progress=progress)
    team.first(lambda: _report(source, outcomes))
    done = Counter(outcome.status for outcome in outcomes)
    return {"output": str(target), "extracted": done["extracted"], "skipped": done["skipped"]}


def read_list(source: Path) -> list[Path]:
    """Return the zip files that a list or a folder names, each once, in the list's order.

    Raises:
        UserError: it can't be read or names nothing.
    """
    try:
        if source.is_dir():
            files = sorted(source.glob("*.zip"))
        else:
            lines = (line.strip() for line in source.read_text(encoding="utf-8").splitlines())
            files = [_place(line, source) for line in lines if line and not line.startswith("#")]
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is no text; give a file with the path of one zip file a line") from error
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{source}: {why}; give a file with the path of one zip file a line, or a folder of zip files") from error
    if not files:
        raise UserError(f"{source}: names no zip file; write one path a line, or give a folder with *.zip")
    return list(dict.fromkeys(files))


def extract(target: Path, path: Path) -> Outcome:
    """Unpack one zip file into the folder `target`, unless all it holds is there."""
    try:
        return _extract(target, path)
    except RunError as error:
        return Outcome(status="failed", message=str(error))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        about = path if error.filename is None or Path(error.filename) == path else f"{path}: {error.filename}"
        return Outcome(status="failed", message=f"{about}: {why}")


def _prepare(source: Path, target: Path, stack: ExitStack) -> list[Path]:
    files = read_list(source)
    writable_folder(target, "extract")
    # folders that a killed run left begin with any product's name
    stack.enter_context(work.claimed(target, ("",)))
    return files


def _place(line: str, source: Path) -> Path:
    path = Path(line).expanduser()
    beside = source.parent / path
    return beside if not path.is_absolute() and not path.exists() and beside.exists() else path


def _extract(target: Path, path: Path) -> Outcome:
    new = False
    try:
        with zipfile.ZipFile(path) as archive:
            for top, members in _products(archive, path).items():
                if all(_is_there(target / top / name, member) for name, member in members.items()):
                    continue
                new = True
                _check_space(target, path, members)
                with atomic_folder(target / top) as place:
                    for name, member in members.items():
                        _unpack(archive, member, place / name)
    except FileNotFoundError as error:
        if not path.exists():
            raise RunError(f"{path}: no such file; correct the list, or fetch it") from error
        raise
    except _BROKEN as error:
        raise RunError(f"{path}: can't be unpacked ({str(error).rstrip('.') or type(error).__name__}); fetch it again") from error
    return Outcome(status="extracted" if new else "skipped")


def _products(archive: zipfile.ZipFile, path: Path) -> dict[str, dict[str, zipfile.ZipInfo]]:
    """Return the files of each folder in a zip; one without a folder of its own gets one of its own name."""
    members = _members(archive, path)
    parts = {name: PurePosixPath(name).parts for name in members}
    if any(len(each) == 1 for each in parts.values()):
        return {f"{path.stem.removesuffix('.SEN3')}.SEN3": members}
    found: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for name, member in members.items():
        found.setdefault(parts[name][0], {})[str(PurePosixPath(*parts[name][1:]))] = member
    return dict(sorted(found.items()))


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the files in a zip by their paths.

    Raises:
        RunError: a path leaves the folder, is no file, is encrypted or is there twice, or the zip is empty.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        parts = PurePosixPath(name).parts
        # orig_filename is what the zip says before zipfile has cut it at a NUL
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in member.orig_filename:
            raise RunError(f"{path}: member {member.orig_filename!r} has a path that leads out of the folder; nothing of it was unpacked")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise RunError(f"{path}: member {name!r} is a link or a device; nothing of it was unpacked")
        if member.is_dir():
            continue
        if member.flag_bits & ENCRYPTED:
            raise RunError(f"{path}: member {name!r} is encrypted; unpack it by hand")
        plain = str(PurePosixPath(name))
        if plain in found:
            raise RunError(f"{path}: member {name!r} is there twice; fetch the file again")
        found[plain] = member
    if not found:
        raise RunError(f"{path}: holds no file; fetch it again")
    return found


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == member.file_size


def _check_space(target: Path, path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    needed = sum(member.file_size for member in members.values())
    free = shutil.disk_usage(target).free
    if needed > free:
        raise RunError(f"{path}: {needed / 1e9:.2f} GB are needed in {target} and {free / 1e9:.2f} GB free; free some space")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> None:
    """Write one member with the time that the zip tells, so that a product is the same however often it was begun."""
    place.parent.mkdir(parents=True, exist_ok=True)
    # zipfile checks size and checksum at the last block
    with archive.open(member) as packed, open(place, "wb") as plain:
        shutil.copyfileobj(packed, plain, BLOCK)
    when = calendar.timegm((*member.date_time, 0, 0, 0))
    os.utime(place, (when, when))


def _report(source: Path, outcomes: Sequence[Outcome]) -> None:
    """Tell of every file that failed, as a list of thousands may be worked off by hand or by a script."""
    messages = [outcome.message for outcome in outcomes if outcome.status == "failed"]
    if messages:
        lines = "".join(f"\n  {message}" for message in messages)
        raise RunError(f"{len(messages)} of {len(outcomes)} zip files of {source} were not extracted, the others were:{lines}")
