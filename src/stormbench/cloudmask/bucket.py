"""Lists and reads an S3 bucket without signing, over plain HTTP: all that public data needs, with retries, timeouts and resuming."""

from __future__ import annotations

import functools
import glob
import hashlib
import http.client
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from stormbench.core.errors import RunError
from stormbench.core.files import PARTIAL_SUFFIX, reported_os_errors

BLOCK = 1 << 18
SLOWEST_BYTES_S = 1000.0
"""A connection below this over a whole timeout counts as stalled, and is made anew."""
LONGEST_PAUSE_S = 30.0
_TEMPORARY = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
"""ETag of an object that was uploaded in one part: its MD5; those of several parts end in -<number>."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object of a bucket: its key, size in bytes and ETag without quotes."""

    key: str
    size: int
    etag: str


class _Again(Exception):
    """An attempt failed in a way that another may not."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A public bucket at `endpoint`, such as https://host. `retries` beside the first try; `timeout_s` for each answer and read."""

    endpoint: str
    name: str
    retries: int = 5
    timeout_s: float = 60.0
    pause_s: float = 1.0

    def items(self, prefix: str) -> Iterator[Item]:
        """Yield the objects whose key begins with `prefix`, by ListObjectsV2, a page at a time.

        Raises:
            RunError: the server refuses, doesn't answer, or answers with no listing.
        """
        token: str | None = None
        while True:
            query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
            url = f"{self.endpoint}/{quote(self.name)}?{urlencode(query)}"
            page = self._persist(url, functools.partial(self._page, url))
            # Amazon's names have a namespace, some servers' have none
            for entry in page.iterfind("{*}Contents"):
                key, size, etag = (entry.findtext(f"{{*}}{name}", "") for name in ("Key", "Size", "ETag"))
                if not key or not size.isdigit():
                    raise RunError(f"{url}: the listing has an entry without a key or a size; is this an S3 server?")
                yield Item(key=key, size=int(size), etag=etag.strip('"'))
            token = page.findtext("{*}NextContinuationToken")
            if page.findtext("{*}IsTruncated", "false") != "true":
                return
            if not token:
                raise RunError(f"{url}: the listing goes on but doesn't say where; is this an S3 server?")

    def fetch(self, item: Item, target: Path, counted: Callable[[int], Any] = lambda _: None) -> None:
        """Write one object to `target`, which appears when its size and, where the server tells it, its MD5 are right.

        What came before a failure stays beside it, under a name with the object's ETag, and the next attempt, or the next
        run, asks for the rest. `counted` is told of the bytes as they come.

        Raises:
            RunError: the server refuses it, or all attempts failed; the sentence has the last reason.
        """
        mark = hashlib.sha256(f"{item.etag} {item.size}".encode()).hexdigest()[:12]
        part = target.with_name(f".{target.name}.{mark}{PARTIAL_SUFFIX}")
        url = f"{self.endpoint}/{quote(self.name)}/{quote(item.key)}"
        with reported_os_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # of an object that has been replaced since
            for old in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL_SUFFIX}"):
                if old != part:
                    old.unlink(missing_ok=True)
        self._persist(url, lambda: self._rest(url, item, part, counted))
        with reported_os_errors(target):
            part.replace(target)

    def _rest(self, url: str, item: Item, part: Path, counted: Callable[[int], Any]) -> None:
        """Ask for what is missing of one object and append it."""
        have = part.stat().st_size if part.exists() else 0
        if have > item.size:
            part.unlink()
            have = 0
        if have < item.size or not part.exists():
            self._append(url, item, part, have, counted)
        if part.stat().st_size != item.size:
            raise _Again(f"{part.stat().st_size} of {item.size} bytes came")
        if _PLAIN_MD5.fullmatch(item.etag) and _md5(part) != item.etag:
            part.unlink()
            raise _Again("the bytes that came have another MD5 than the server tells")

    def _append(self, url: str, item: Item, part: Path, have: int, counted: Callable[[int], Any]) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and item.etag:
            headers["If-Match"] = f'"{item.etag}"'
        with self._open(url, headers) as answer:
            # a server that knows no ranges sends all of it
            goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            told = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", "")) if goes_on else None
            if goes_on and (told is None or int(told[1]) != have):
                raise _Again(f"the server sent another part than bytes {have}-")
            room = item.size - (have if goes_on else 0)
            with reported_os_errors(part), open(part, "ab" if goes_on else "wb") as stream:
                for block in self._blocks(answer):
                    room -= len(block)
                    if room < 0:
                        stream.truncate(0)
                        raise _Again(f"more than the {item.size} bytes of the listing came")
                    stream.write(block)
                    counted(len(block))

    def _blocks(self, answer: Any) -> Iterator[bytes]:
        """Yield what comes; raise _Again where it breaks off or all but stops."""
        since, came = time.monotonic(), 0
        while True:
            try:
                block = answer.read1(BLOCK)
            except _TEMPORARY as error:
                raise _Again(_why(error)) from error
            if not block:
                return
            yield block
            came += len(block)
            if time.monotonic() - since > self.timeout_s:
                if came < SLOWEST_BYTES_S * self.timeout_s:
                    raise _Again(f"only {came} bytes came in {self.timeout_s:g} s")
                since, came = time.monotonic(), 0

    def _page(self, url: str) -> ET.Element:
        with self._open(url, {}) as answer:
            text = b"".join(self._blocks(answer))
        try:
            page = ET.fromstring(text)
        except ET.ParseError as error:
            raise _Again(f"the listing is no whole XML ({error})") from error
        if page.tag.rpartition("}")[2] != "ListBucketResult":
            raise RunError(f"{url}: the answer is no listing of a bucket; is this an S3 server?")
        return page

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        try:
            return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS) or error.code >= 500:
                    raise _Again(f"the server answered {error.code} {error.reason}") from error
                raise RunError(f"{url}: the server answered {error.code} {error.reason}") from error
        except _TEMPORARY as error:
            raise _Again(_why(error)) from error
        except ValueError as error:
            raise RunError(f"{url}: {error}") from error

    def _persist(self, url: str, attempt: Callable[[], Any]) -> Any:
        """Return what `attempt` returns, trying again with growing pauses."""
        for number in range(self.retries + 1):
            try:
                return attempt()
            except _Again as again:
                if number == self.retries:
                    tries = f"{number + 1} tries" if number else "one try"
                    raise RunError(f"{url}: {again}, after {tries}; run the same command again, which goes on where it stopped") from again
                # streams that failed together shall not come back together
                time.sleep(min(LONGEST_PAUSE_S, self.pause_s * 2**number) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")


def _why(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _md5(path: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def proxies_told() -> str:
    """Return in words which proxy the environment names, for messages where nothing answers."""
    named = [name for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY") if os.environ.get(name)]
    return f"by {named[0]}" if named else "without a proxy"
