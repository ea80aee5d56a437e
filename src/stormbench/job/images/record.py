"""image.json: what is in each exported image of a folder, from which image and base it came, and the hash of its file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stormbench.core import imagerecord
from stormbench.core.errors import RunError
from stormbench.core.files import reported_os_errors, write_json

NAME = imagerecord.NAME
FORMAT = 1
CHUNK = 8 * 2**20


def read(folder: Path) -> dict[str, Any]:
    """Return the records of a folder by file name; none where there is no image.json.

    Raises:
        RunError: it can't be read.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"{path}: can't be read ({(error.strerror or str(error)).lower()})") from error
    try:
        images = json.loads(text)["images"]
        if not isinstance(images, dict) or not all(isinstance(record, dict) for record in images.values()):
            raise ValueError("images is no table")
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path}: is damaged ({error}); remove it, and export the images again with --force") from error
    return images


def add(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Put the record of one file into image.json; others keep theirs, also where two exports end at once."""
    with locked(folder / NAME):
        write_json(folder / NAME, {"format": FORMAT, "images": {**read(folder), name: record}})


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside a file; where the file system has no locks, go on without."""
    with reported_os_errors(path), open(path.with_name(f".{path.name}.lock"), "w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sha256(path: Path) -> str:
    """Return `sha256:` and the hash of a file's bytes."""
    whole = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            whole.update(chunk)
    return f"sha256:{whole.hexdigest()}"


def packages(manifest: str) -> dict[str, dict[str, str]]:
    """Return the packages of an image's manifest, `system NAME VERSION` and `python NAME VERSION` a line, by kind and name.

    Raises:
        RunError: it holds none.
    """
    found = imagerecord.packages_of(manifest)
    if not any(found.values()):
        raise RunError("the image's /opt/stormbench/manifest.txt lists no package; was it built by stormbench images build?")
    return found
