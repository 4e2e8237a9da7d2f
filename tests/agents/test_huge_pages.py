"""Memory in pages of 2 MB."""

from __future__ import annotations

import mmap
import platform
import re
import subprocess
import sys
from ctypes import addressof, c_char
from pathlib import Path

import pytest
import torch
from tokengym.agents.engines import huge_pages
from tokengym.agents.engines.huge_pages import HUGE, into_huge_pages

HOW = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Alone in a process, since the memory must be new.
PROGRAM = """
import runpy, sys, torch

size = (32, 2**20)
how = dict(dtype=torch.float32, device=torch.device("cpu"))
tensor = torch.empty(*size, **how) if sys.argv[2] == "torch" else runpy.run_path(sys.argv[1])["empty"](*size, **how)
tensor.zero_()
print(tensor.data_ptr() + tensor.nbytes // 2, open("/proc/self/smaps").read())
"""


def huge_bytes(smaps: str, address: int) -> int:
    """Bytes in huge pages of the mapping that `address` is in."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        first, last = (int(number, 16) for number in mapping.split(maxsplit=1)[0].split("-"))
        if first <= address < last:
            found = re.search(r"AnonHugePages: +(\d+) kB", mapping)
            assert found
            return int(found[1]) * 1024
    raise AssertionError(f"nothing is mapped at {address:#x}")


def huge_in_a_new_process(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, huge_pages.__file__, how]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    address, smaps = output.split(maxsplit=1)
    return huge_bytes(smaps, int(address))


@pytest.mark.skipif(
    not HOW.exists() or "[madvise]" not in HOW.read_text(), reason="huge pages for all here, or for none"
)
def test_new_memory() -> None:
    assert huge_in_a_new_process("torch") == 0
    assert huge_in_a_new_process("ours") >= 64 * 2**20  # of 128: as far as there is room


def test_other_tensors_are_as_torch_makes_them() -> None:
    for size, device in [((3, 4), "cpu"), ((0, 5), "cpu"), ((2**20, 5), "meta")]:
        tensor = huge_pages.empty(*size, dtype=torch.bfloat16, device=torch.device(device))
        assert (tensor.shape, tensor.dtype, tensor.device.type) == (size, torch.bfloat16, device)


def test_memory_moves_with_what_is_in_it() -> None:
    if sys.platform != "linux" or tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 1):
        pytest.skip("MADV_COLLAPSE is of Linux 6.1")
    if not HOW.exists():
        pytest.skip("this kernel was built without huge pages")
    memory = mmap.mmap(-1, 6 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pattern = bytes(range(251)) * (6 * HUGE // 251 + 1)
    memory[:] = pattern[: 6 * HUGE]
    start = addressof(c_char.from_buffer(memory))
    address = -(-start // HUGE) * HUGE + 2 * HUGE + 5  # somewhere in a page of 2 MB that is mapped as a whole
    into_huge_pages(address, HUGE)
    assert huge_bytes(Path("/proc/self/smaps").read_text(), address) >= 2 * HUGE
    assert memory[:] == pattern[: 6 * HUGE]
