"""Memory in pages of 2 MB.

In pages of 4 KB the processor looks up an address every 4 KB, and starts anew to fetch what comes next. A decoding step
reads all weights, keys and values once, and takes a tenth less time without that. All of this is a request: other systems
than Linux leave memory as it is, and so does Linux where it has no room or was told to.
"""

from __future__ import annotations

import ctypes
import sys
from mmap import PAGESIZE

import torch
from torch import Tensor

HUGE = 2**21

_HUGEPAGE, _COLLAPSE = 14, 25  # MADV_… of mman.h


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.empty`, on the CPU in huge pages as far as nobody has had the memory before."""
    tensor = torch.empty(*shape, dtype=dtype, device=device)
    if device.type == "cpu" and tensor.nbytes >= HUGE:
        _advise(tensor.data_ptr(), tensor.nbytes, PAGESIZE, _HUGEPAGE)
    return tensor


def into_huge_pages(address: int, size: int) -> None:
    """Move memory in use into huge pages, with what stands beside it in the first and the last of them (Linux 6.1)."""
    _advise(address, size, HUGE, _COLLAPSE)


def _advise(address: int, size: int, page: int, advice: int) -> None:
    """`madvise` for all pages in which some of the memory is."""
    if sys.platform == "linux":
        first, last = address // page, -(-(address + size) // page)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first * page), ctypes.c_size_t((last - first) * page), advice)
