"""Memory that is freed stays with the process: seen by the pages that the kernel has to hand out."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from tokengym.agents.learner import memory

# Alone in a process, since what is set stays set; the file alone, since nothing else of the package is needed.
PROGRAM = """
import resource, runpy, sys

if sys.argv[2] == "keep":
    runpy.run_path(sys.argv[1])["keep_freed_memory"]()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    bytearray(64 * 2**20)
before = faults()
for _ in range(10):
    bytearray(64 * 2**20)
print(faults() - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, memory.__file__, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_blocks_are_used_again() -> None:
    pages = 10 * 64 * 2**20 // 4096
    given_back = faults("leave")
    if given_back < pages / 1024:
        pytest.skip(
            f"the kernel counts {given_back} page faults for {pages} pages: it hands out large ones, or does not count"
        )
    assert faults("keep") < given_back / 100
