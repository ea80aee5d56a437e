"""Files that appear whole or not at all: everything is written beside its place and renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stormbench.core.errors import RunError, UserError

PARTIAL_SUFFIX = ".partial"
"""Ends the name of every file that is not finished; readers' patterns never match it."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# the mask can be read only by setting it, which is safe at import, before there are threads
_UMASK = _umask()


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` if the block ends well, else remove it.

    The name carries process id and random letters, so two writers of one target never share a file: the
    last rename wins whole. With `sync` the bytes reach the disk before the rename.

    Raises:
        RunError: the disk is full, the quota is used up, or the folder can't be written.
    """
    target = Path(target)
    with reported_os_errors(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.{os.getpid()}.", suffix=PARTIAL_SUFFIX, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with reported_os_errors(target):
            # mkstemp makes files private; the finished one gets the mode that open() would have given it
            temporary.chmod(0o666 & ~_UMASK)
            yield temporary
            if sync:
                with open(temporary, "rb+") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the block ends well, else remove it.

    What was at `target` is removed. Readers find the old folder, none, or the whole new one.

    Raises:
        RunError: the disk is full, the quota is used up, or the folder can't be written.
    """
    target = Path(target)
    with reported_os_errors(target):
        parts = [
            Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", suffix=PARTIAL_SUFFIX, dir=target.parent)) for _ in range(2)
        ]
    temporary, old = parts
    try:
        with reported_os_errors(target):
            # mkdtemp makes folders private
            temporary.chmod(0o777 & ~_UMASK)
            yield temporary
            if target.exists() or target.is_symlink():
                target.replace(old / target.name)
            temporary.replace(target)
    finally:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `target` atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `target` atomically. NaN is refused: JSON has no such number."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def writable_folder(path: str | os.PathLike[str], origin: str) -> Path:
    """Make the folder `path` if need be, prove by a file that it can be written, and return it.

    `origin` is the option it came from, for the message.

    Raises:
        UserError: it can't be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test.", suffix=PARTIAL_SUFFIX):
            pass
    except OSError as error:
        raise UserError(f"{origin} {folder}: the folder can't be written ({_reason(error)}); choose one that you may write to") from error
    return folder


@contextlib.contextmanager
def reported_os_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError raised while `target` is written into a RunError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space there or choose another folder, then run the same command again"
            raise RunError(f"{target}: not written, {_reason(error)}; {fix}") from error
        raise RunError(f"{target}: can't be written ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
