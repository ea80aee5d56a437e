"""Where ranks find each other: rank 0 opens a store on a free port, tells its address in a file, and counts who arrives.

A fixed port collides with the next job on the node, and a file left by a killed run points nowhere; so the port is free by
construction, and every connection is proved by a nonce before it is believed. Imports torch only when ranks meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.files import write_text
from stormbench.core.hostlist import fold
from stormbench.core.launch import LAUNCH_ID, Launch, scheduler_job
from stormbench.deepcam.host import addresses, file_name, network_identity, reachable

Record = dict[str, Any]
"""What one rank tells all others of itself; JSON."""

Candidate = tuple[str, int, str, str]
"""Address and port where a store may be, a key, and the value it must hold there to be rank 0's."""

_HANDSHAKE_S = 15.0
"""Long enough for a store that thousands of ranks call at once."""


class Rendezvous:
    """One meeting of all ranks of a launch. Rank 0 hosts it; `close` removes what it left in the folder."""

    def __init__(self, launch: Launch, folder: Path, timeout_s: float, environ: Mapping[str, str], *, by_file: bool = False) -> None:
        """Open the store on rank 0, find it on the others.

        `by_file` ignores MASTER_ADDR and MASTER_PORT. Raises RunError if rank 0 is not found within `timeout_s`.
        """
        self.launch = launch
        self.timeout_s = timeout_s
        self.how = ""
        self._nonce = ""
        # what must be equal for a store at a given port, perhaps a stranger's, to be this launch's
        self._identity = f"user {os.getuid()}, {scheduler_job(environ)}, {launch.job_id}, {launch.world_size} ranks, {folder}"
        agent = environ.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True" and not by_file
        given = None if by_file else _given_endpoint(environ, launch)
        self._file = None if agent else folder / file_name(launch, environ)
        if agent and given:
            self.store = self._join_agent(given, environ)
        elif launch.rank == 0:
            self.store = self._host(given, environ)
        else:
            self.store = self._find(given)

    def agree(self, record: Record, decide: Callable[[list[Record]], Record]) -> Record:
        """Wait for all ranks; return what `decide` made of their records, which runs on rank 0 and counts for all.

        Raises:
            RunError: not all ranks arrived in time, or two processes claim one rank.
            StormbenchError: whatever `decide` raised, on every rank alike.
        """
        claims = self.store.add(f"claim/{self.launch.rank}", 1)
        if claims > 1:
            self.store.set("conflict", f"{claims} processes claim to be rank {self.launch.rank} of {self.launch.world_size}")
        self.store.set(f"record/{self.launch.rank}", json.dumps(record))
        self.store.add("arrived", 1)
        if self.launch.rank == 0:
            return self._preside(decide)
        try:
            self._wait(lambda: self.store.check(["verdict"]), self.timeout_s + _HANDSHAKE_S)
            verdict = json.loads(self.store.get("verdict")) if self.store.check(["verdict"]) else None
            self.store.add("read", 1)
        except RuntimeError as error:
            raise RunError(f"rank {self.launch.rank}: rank 0 went away while the ranks met; see its output for the cause") from error
        if verdict is None:
            raise RunError(f"rank {self.launch.rank}: rank 0 did not answer within {self.timeout_s:g} s; see its output for the cause")
        if "error" in verdict:
            raise (UserError if verdict["user"] else RunError)(verdict["error"])
        return verdict

    def close(self) -> None:
        """Remove the address file, if it is the one that this rank 0 wrote."""
        told = _read_address(self._file)
        if self._file is not None and told is not None and told["nonce"] == self._nonce:
            self._file.unlink(missing_ok=True)

    def _preside(self, decide: Callable[[list[Record]], Record]) -> Record:
        """Wait for all, decide, and tell the verdict, or the error, to all that came."""
        n = self.launch.world_size
        try:
            self._wait(lambda: self.store.add("arrived", 0) >= n or self.store.check(["conflict"]), self.timeout_s)
            if self.store.check(["conflict"]):
                conflict = self.store.get("conflict").decode()
                raise RunError(f"{conflict}: two launches met at {self._file}; set {LAUNCH_ID} to a different value for each launch")
            missing = [rank for rank in range(n) if not self.store.check([f"record/{rank}"])] if self.store.add("arrived", 0) < n else []
            if missing:
                told = f"{n - len(missing)} of {n} ranks arrived within {self.timeout_s:g} s (missing ranks {fold(missing)})"
                raise RunError(f"{told}; see their output for what stopped them")
            verdict = decide([json.loads(self.store.get(f"record/{rank}")) for rank in range(n)])
        except StormbenchError as error:
            present = self.store.add("arrived", 0)
            self.store.set("verdict", json.dumps({"error": str(error), "user": isinstance(error, UserError)}))
            # the store dies with this process, so let those who wait read why
            self._wait(lambda: self.store.add("read", 0) >= present - 1, 5.0)
            raise
        self.store.set("verdict", json.dumps(verdict))
        self._wait(lambda: self.store.add("read", 0) >= n - 1, self.timeout_s)
        if self.store.add("read", 0) < n - 1:
            raise RunError(f"{n - 1 - self.store.add('read', 0)} of {n} ranks arrived and then went away; see their output for the cause")
        return verdict

    def _join_agent(self, given: tuple[str, int], environ: Mapping[str, str]) -> Any:
        """Return torchrun's own store, in a room of its own for each restart of the workers."""
        import torch.distributed as dist

        try:
            store = dist.TCPStore(given[0], given[1], None, False, timeout=timedelta(seconds=self.timeout_s), wait_for_workers=False)
        except RuntimeError as error:
            raise RunError(f"torchrun's store at {given[0]}:{given[1]} did not answer within {self.timeout_s:g} s") from error
        self.how = f"torchrun's store at {given[0]}:{given[1]}"
        return dist.PrefixStore(f"stormbench/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    def _host(self, given: tuple[str, int] | None, environ: Mapping[str, str]) -> Any:
        """Open the store at the given port, or at a free one if that is taken or none was given, and tell where it is."""
        import torch.distributed as dist

        assert self._file is not None
        self._file.unlink(missing_ok=True)
        wanted = given[1] if given else 0
        taken = ""
        try:
            store = dist.TCPStore("127.0.0.1", wanted, None, True, timeout=timedelta(seconds=self.timeout_s), wait_for_workers=False)
        except RuntimeError:
            if not wanted:
                raise
            taken = f" (MASTER_PORT {wanted} is taken)"
            store = dist.TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=self.timeout_s), wait_for_workers=False)
        self._nonce = uuid.uuid4().hex
        store.set("stormbench/launch", self._identity)
        store.set("stormbench/nonce", self._nonce)
        at = addresses(self.launch, environ)
        told = {"nonce": self._nonce, "port": store.port, "network": network_identity(), "addresses": at}
        write_text(self._file, json.dumps(told) + "\n")
        self.how = f"rank 0 at {at[0]}:{store.port}{taken}, told in {self._file}"
        return dist.PrefixStore("stormbench/meeting", store)

    def _find(self, given: tuple[str, int] | None) -> Any:
        """Look in the file, and at the given address, until one of them proves to be rank 0 of this launch."""
        import torch.distributed as dist

        deadline = time.monotonic() + self.timeout_s
        pause = 0.02
        attempts: dict[Candidate, _Attempt] = {}
        while True:
            for candidate in self._candidates(given):
                store = attempts.setdefault(candidate, _Attempt(candidate)).store()
                if store is not None:
                    store.set_timeout(timedelta(seconds=self.timeout_s))
                    self.how = f"rank 0 at {candidate[0]}:{candidate[1]}"
                    return dist.PrefixStore("stormbench/meeting", store)
            if time.monotonic() >= deadline:
                break
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, 1.0)
        told = f"rank {self.launch.rank} of {self.launch.world_size} did not find rank 0 within {self.timeout_s:g} s"
        at = f" or at {given[0]}:{given[1]}" if given else ""
        hint = "" if self.launch.job_id else f", or set {LAUNCH_ID} equal on all ranks"
        raise RunError(f"{told}, in {self._file}{at}; see rank 0's output, and check that this folder is shared by all nodes{hint}")

    def _candidates(self, given: tuple[str, int] | None) -> list[Candidate]:
        """Return all places where rank 0 may be."""
        found: list[Candidate] = []
        told = _read_address(self._file)
        if told is not None:
            near = ["127.0.0.1"] if told["network"] == network_identity() else []
            found += [(address, told["port"], "stormbench/nonce", told["nonce"]) for address in (*near, *told["addresses"])]
        if given:
            found.append((given[0], given[1], "stormbench/launch", self._identity))
        return found

    @staticmethod
    def _wait(ready: Callable[[], bool], limit_s: float) -> None:
        """Return when `ready` is true or the time is up; in short steps, so that a signal's handler can run between them."""
        deadline = time.monotonic() + limit_s
        pause = 0.01
        while not ready() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)


def _given_endpoint(environ: Mapping[str, str], launch: Launch) -> tuple[str, int] | None:
    address = environ.get("MASTER_ADDR", "").strip()
    return (address, launch.master_port) if address and launch.master_port else None


def _read_address(file: Path | None) -> Record | None:
    """Return what rank 0 told, or None while there is nothing, or nothing whole, to read."""
    # a listing asks the file server again, where a plain open may be answered "no such file" from an NFS client's cache
    try:
        if file is None or file not in file.parent.iterdir():
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        told = {"nonce": str(told["nonce"]), "network": told["network"], "port": int(told["port"]), "addresses": list(told["addresses"])}
        return told if 0 < told["port"] < 65536 and all(isinstance(address, str) for address in told["addresses"]) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


class _Attempt:
    """One try to reach a store, in a thread: torch's client waits without limit for a stranger who takes the call and is silent."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._found: list[Any] = []
        self._thread: threading.Thread | None = None

    def store(self) -> Any | None:
        """Return the store if it has answered and proved to be rank 0's; try again if it didn't; None otherwise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._connect, daemon=True)
            self._thread.start()
            self._thread.join(0.5)
        if self._thread.is_alive():
            return None
        self._thread = None
        return self._found[0] if self._found else None

    def _connect(self) -> None:
        import torch.distributed as dist

        address, port, key, proof = self._candidate
        # a plain connection first: torch's client warns and retries where nobody listens
        if not reachable(address, port):
            return
        with contextlib.suppress(RuntimeError):
            store = dist.TCPStore(address, port, None, False, timeout=timedelta(seconds=_HANDSHAKE_S), wait_for_workers=False)
            if store.check([key]) and store.get(key).decode() == proof:
                self._found.append(store)
