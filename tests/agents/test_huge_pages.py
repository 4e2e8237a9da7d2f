"""Memory in pages of 2 MB."""

from __future__ import annotations

import mmap
import platform
import re
import sys
from ctypes import addressof, c_char
from pathlib import Path

import pytest
from tokengym.agents.engines.huge_pages import PAGE, into_huge_pages


def huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that `address` is in."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, last = (int(number, 16) for number in mapping.split(maxsplit=1)[0].split("-"))
        if first <= address < last:
            found = re.search(r"AnonHugePages: +(\d+) kB", mapping)
            assert found
            return int(found[1]) * 1024
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_memory_moves_with_what_is_in_it() -> None:
    if sys.platform != "linux" or tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 1):
        pytest.skip("MADV_COLLAPSE is of Linux 6.1")
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel was built without huge pages")
    memory = mmap.mmap(-1, 6 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pattern = bytes(range(251)) * (6 * PAGE // 251 + 1)
    memory[:] = pattern[: 6 * PAGE]
    start = addressof(c_char.from_buffer(memory))
    address = -(-start // PAGE) * PAGE + 2 * PAGE + 5  # somewhere in a page of 2 MB that is mapped as a whole
    into_huge_pages(address, PAGE)
    assert huge_bytes(address) >= 2 * PAGE
    assert memory[:] == pattern[: 6 * PAGE]
