"""Fetches the published data sets from the STFC bucket, unsigned, by a few streams at once; resumes where it was stopped.

    stormbench cloudmask download data/one-day --dataset one-day
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from stormbench.cloudmask.bucket import Bucket, Item, proxies_told
from stormbench.core.errors import RunError, UserError, did_you_mean
from stormbench.core.files import writable_folder
from stormbench.core.progress import Progress, progress

ENDPOINT, BUCKET = "https://s3.echo.stfc.ac.uk", "sciml-datasets"
ROOT = "es/cloud_slstr_ds1"
MIRRORS = {"one-day": ("one-day", "training"), "ssts": ("ssts", "inference"), "pixbox": ("pixbox",)}
"""The names under which each data set lies in the bucket: the original's and the newer mirror's."""
FORMS = {"converted": (".hdf", ".h5"), "raw": (".zip", ".nc", ".xml")}
"""How the names of a form's files end; raw products are zipped or folders."""
PLACES = {"converted": ("{name}", "hdf/{name}"), "raw": ("{name}", "raw/{name}")}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file to fetch, and where to."""

    item: Item
    target: Path


def run(
    output: str | os.PathLike[str],
    *,
    dataset: str = "one-day",
    form: str = "converted",
    prefix: str | None = None,
    num_files: int | None = None,
    num_streams: int = 4,
    endpoint: str = ENDPOINT,
    bucket: str = BUCKET,
    retries: int = 5,
    timeout: float = 60.0,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Fetch a data set into `output`, with the folders that it has in the bucket; files of the right size there are kept.

    `form` is converted (HDF) or raw. Each data set is looked for under its two published names, or under `prefix` alone. At
    most `num_streams` files come at once. `num_files` takes the first of them by name only. `timeout` is in s, for each answer
    and each read.

    Returns:
        `output`, the `prefix` found, `files` and `bytes` of the set, and how many were `fetched` and `kept`.

    Raises:
        UserError: no such data set or form, or the folder can't be written or is too small.
        RunError: the server doesn't answer or refuses; files failed (the others are there).
    """
    _check(dataset, form, num_files, num_streams, endpoint, retries, timeout)
    target = writable_folder(output, "download")
    source = Bucket(endpoint=endpoint.rstrip("/"), name=bucket, retries=retries, timeout_s=timeout)
    found, items = _listing(source, dataset, form, prefix)
    wanted = [Wanted(item=item, target=target / _relative(item.key, found)) for item in items[:num_files]]
    missing = [each for each in wanted if not _is_there(each)]
    _check_space(target, missing)
    failures = _fetch_all(source, missing, num_streams, show_progress)
    if failures:
        lines = "".join(f"\n  {failure}" for failure in failures)
        raise RunError(f"{len(failures)} of {len(wanted)} files of {found} were not fetched, the others were:{lines}")
    return {
        "output": str(target), "prefix": found, "files": len(wanted), "bytes": sum(each.item.size for each in wanted),
        "fetched": len(missing), "kept": len(wanted) - len(missing),
    }  # fmt: skip


def _check(dataset: str, form: str, num_files: int | None, num_streams: int, endpoint: str, retries: int, timeout: float) -> None:
    if dataset not in MIRRORS:
        raise UserError(f"--dataset {dataset}: must be one of {', '.join(MIRRORS)}{did_you_mean(dataset, MIRRORS)}")
    if form not in FORMS:
        raise UserError(f"--form {form}: must be one of {', '.join(FORMS)}{did_you_mean(form, FORMS)}")
    for name, value, least in (("--num_files", num_files, 1), ("--num_streams", num_streams, 1), ("--retries", retries, 0)):
        if value is not None and value < least:
            raise UserError(f"{name} {value}: must be at least {least}")
    if not timeout > 0:
        raise UserError(f"--timeout {timeout:g}: must be above 0 seconds")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"--endpoint {endpoint}: must be an address such as {ENDPOINT}")


def _listing(source: Bucket, dataset: str, form: str, prefix: str | None) -> tuple[str, list[Item]]:
    """Return the prefix that has files of the form, and these, by name."""
    names = MIRRORS[dataset]
    places = [prefix.strip("/")] if prefix else [f"{ROOT}/{place.format(name=name)}" for name in names for place in PLACES[form]]
    for place in places:
        try:
            items = sorted((item for item in source.items(f"{place}/") if item.key.endswith(FORMS[form])), key=lambda item: item.key)
        except RunError as error:
            raise RunError(f"{error} (asked {proxies_told()})") from error
        if items:
            return place, items
    hint = "; it is published raw only: --form raw" if dataset == "pixbox" and form == "converted" and not prefix else ""
    raise RunError(
        f"{source.endpoint}/{source.name}: no {form} files below {', '.join(places)}{hint or '; name another place with --prefix'}"
    )


def _relative(key: str, prefix: str) -> Path:
    """Return the path of an object below the output folder.

    Raises:
        RunError: its key leads out of the folder.
    """
    parts = PurePosixPath(key.removeprefix(f"{prefix}/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in key:
        raise RunError(f"{key!r}: the bucket holds a key that leads out of the output folder; nothing was fetched")
    return Path(*parts)


def _is_there(wanted: Wanted) -> bool:
    try:
        return wanted.target.stat().st_size == wanted.item.size
    except OSError:
        return False


def _check_space(target: Path, missing: Sequence[Wanted]) -> None:
    needed = sum(each.item.size for each in missing)
    free = shutil.disk_usage(target).free
    if needed > free:
        amounts = f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free"
        raise UserError(f"{target}: {amounts}; choose another folder, or fewer files with --num_files")


def _fetch_all(source: Bucket, missing: Sequence[Wanted], streams: int, show_progress: bool) -> list[str]:
    """Fetch by `streams` threads; return a sentence for each file that failed."""
    failures: list[str] = []
    lock = threading.Lock()
    stopped = threading.Event()

    def fetch(wanted: Wanted, bar: Progress) -> None:
        def counted(size: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            with lock:
                bar.advance(size)

        if stopped.is_set():
            return
        try:
            source.fetch(wanted.item, wanted.target, counted)
        except RunError as error:
            with lock:
                failures.append(str(error))

    total = sum(each.item.size for each in missing)
    with ExitStack() as stack:
        bar = stack.enter_context(progress(total, "download (bytes)", enabled=show_progress))
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=streams))
        try:
            for done in [pool.submit(fetch, each, bar) for each in missing]:
                done.result()
        except BaseException:
            # what came so far is kept, and the next run goes on from there
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(failures)
