"""Lets glibc keep freed memory, because returning it to the kernel after each activation costs a CPU training step a third of its time.

By default glibc maps every block above 32 MiB anew and unmaps it when freed; each page is then zeroed by the kernel again.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Parameters of mallopt(3), from glibc's malloc.h."""

TOP_PAD = 64 * 1024 * 1024


def tune(*, one_arena: bool = False) -> bool:
    """Keep freed memory in this process from now on; returns False, having changed nothing, where the C library is not glibc.

    With `one_arena` all threads share one heap, for libraries whose own threads take the memory, as TensorFlow's do: the heaps
    that threads have for themselves are given back whenever they are empty.

    The resident size stays at its peak afterwards. Call it once, before the first step, and only where activations live in host memory.
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):
        return False
    settings = [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD)]
    if one_arena:
        settings.append((M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
