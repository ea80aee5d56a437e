"""A small S3 server on the loopback interface that misbehaves as it is told: drops, errors, stalls, wrong sizes, no ranges."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3
"""Keys in a page of a listing; a real server's have 1000."""


class Server(ThreadingHTTPServer):
    """Serves `objects`, key to bytes, of the bucket `bucket`. `faults` maps a key to a list of faults, used up one a request."""

    daemon_threads = True
    bucket = "sciml-datasets"

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.faults: dict[str, list[str]] = {}
        self.listing_faults: list[str] = []
        self.requests: Counter[str] = Counter()
        self.ranges: list[tuple[str, str]] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(objects: dict[str, bytes]) -> Iterator[Server]:
    """Yield a running server."""
    with Server(objects) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        names = unquote(parts.path).strip("/").split("/", 1)
        if names[0] != self.server.bucket or self.headers.get("Authorization"):
            self._error(404, "NoSuchBucket")
        elif len(names) == 1:
            self._listing(parse_qs(parts.query))
        else:
            self._object(names[1])

    def _error(self, code: int, name: str) -> None:
        body = f"<Error><Code>{name}</Code></Error>".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _listing(self, query: dict[str, list[str]]) -> None:
        if self.server.listing_faults:
            self._error(int(self.server.listing_faults.pop(0)), "InternalError")
            return
        assert query["list-type"] == ["2"]
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = [key for key in sorted(self.server.objects) if key.startswith(prefix) and key > after]
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size><ETag>&quot;{self._etag(key)}&quot;</ETag></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{entries}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _etag(self, key: str) -> str:
        return hashlib.md5(self.server.objects[key]).hexdigest()

    def _object(self, key: str) -> None:
        server = self.server
        with server.lock:
            server.requests[key] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            fault = server.faults[key].pop(0) if server.faults.get(key) else ""
        self.counted = True
        try:
            self._answer(key, fault)
        finally:
            self._count_out()

    def _count_out(self) -> None:
        with self.server.lock:
            self.server.at_once -= self.counted
            self.counted = False

    def _answer(self, key: str, fault: str) -> None:
        data = self.server.objects.get(key)
        if fault.isdigit() or data is None:
            self._error(int(fault or 404), "NoSuchKey" if data is None else "InternalError")
            return
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found and fault != "no ranges":
            begin = int(found[1])
            self.server.ranges.append((key, self.headers["Range"]))
        body = data[begin:]
        if fault == "garbled":
            body = bytes(len(body))
        if fault == "too long":
            body += b"more"
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if fault != "short":
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            body = body[: len(body) // 2]
        self.end_headers()
        if fault == "drop":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(2)
        elif fault == "stall":
            self.wfile.write(body[:10])
            self.wfile.flush()
            time.sleep(3)
        elif fault == "slow":
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        else:
            time.sleep(0.05 if fault != "at once" else 0)
            self.wfile.write(body[:-1])
            # with the last byte the client may ask for the next object before this thread goes on
            self._count_out()
            self.wfile.write(body[-1:])
        if fault in ("short", "drop", "stall", "slow"):
            self.close_connection = True
