"""Memory that is freed stays with the process."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what is asked for next.

    It gives large blocks back to the kernel at once, which hands them out again page by page, filled with zeros. Learning
    on the CPU frees and asks for the same blocks in every layer of every step, and spends a sixth of its time so. At most
    2 GB that nobody uses stay with the process; with other C libraries nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
