"""What a result was made with: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("tokengym", "torch", "transformers", "gymnasium", "numpy", "scipy")


def provenance() -> dict[str, Any]:
    """Versions, hardware and the commit of TokenGym."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"versions": versions, "hardware": hardware(), "commit": commit()}


def hardware() -> dict[str, Any]:
    """The processor's name, the cores that this process may use, memory in GiB, GPUs by name, and the system."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """The commit of TokenGym's sources, with "+" if files differ from it; None where they are no checkout."""
    file = Path(__file__).resolve()
    try:
        # A package that is installed below somebody's own repository is not of that repository.
        _git(file, "ls-files", "--error-unmatch", file.name)
        return _git(file, "rev-parse", "HEAD") + ("+" if _git(file, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
