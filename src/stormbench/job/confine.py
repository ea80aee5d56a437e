"""What the kernel can keep a config from without any privilege: Landlock lets a process give up writing, signals and sockets for good.

It is a second wall: on kernels without it (before 5.13, or with it switched off) the checks of the config's text and commands stand alone.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, the same numbers on every architecture that this kit meets."""
PATH_BENEATH, ASK_VERSION, NO_NEW_PRIVILEGES = 1, 1, 38
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
SINCE = {2: 1 << 13, 3: TRUNCATE}
"""Rights to files that a later version of Landlock knows: to move a file to another folder, to cut it."""
ALL_PORTS, ALL_SCOPES = 0b11, 0b11
"""TCP bind and connect (version 4); abstract sockets and signals to processes outside (version 6)."""


def confinement() -> Callable[[], None] | None:
    """Return what a child runs between fork and exec to give up all writing but to /dev/null; None where the kernel can't."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        call, prctl = libc.syscall, libc.prctl
    except (ImportError, OSError, AttributeError):
        return None
    version = call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(ASK_VERSION))
    if version < 1:
        return None
    files = WRITE_FILE | MAKE_AND_REMOVE | sum(right for since, right in SINCE.items() if version >= since)
    words = [files, *([ALL_PORTS] if version >= 4 else []), *([ALL_SCOPES] if version >= 6 else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    allowed = files & (WRITE_FILE | TRUNCATE)

    def confine() -> None:
        ruleset = call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
        if ruleset < 0:
            return
        null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
        call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), struct.pack("=Qi", allowed, null), ctypes.c_uint32(0))
        prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
        call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        os.close(null)
        os.close(ruleset)

    return confine
