"""The names of the machine this runs on, without asking the network: a check must not wait for a name server.

A login node often knows itself as `login05` alone, as many machines do. Its domain stands in /etc/hosts or /etc/resolv.conf, and two
centres name the machine in a variable of their own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

HOSTS, RESOLVER = Path("/etc/hosts"), Path("/etc/resolv.conf")
SYSTEM_NAMES = ("LMOD_SYSTEM_NAME", "NERSC_HOST")
"""What OLCF and NERSC set to the machine's name, such as frontier and perlmutter."""


def names(environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """Return the host's names in small letters: as it calls itself, short, with each domain known for it, and with the system's name."""
    environ = os.environ if environ is None else environ
    host = socket.gethostname().lower()
    short = host.split(".")[0]
    found = {host, short}
    for words in _lines(HOSTS):
        if {host, short} & set(words[1:]) and not words[0].startswith(("127.", "::1")):
            found |= {word for word in words[1:] if word.split(".")[0] == short}
    domains = [word for words in _lines(RESOLVER) if words[0] in ("search", "domain") for word in words[1:]]
    found |= {f"{short}.{domain.strip('.')}" for domain in domains if domain.strip(".")}
    found |= {f"{short}.{environ[name].strip().lower()}" for name in SYSTEM_NAMES if environ.get(name, "").strip()}
    return frozenset(found)


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.lower().splitlines():
        if words := line.partition("#")[0].split():
            yield words
