"""The folder of a run, and `agent.json` in it, which says what is trained there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .learner import checkpoints


def writable(folder: Path) -> Path:
    """`folder`, which is made if there is none.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"the output folder cannot be written ({error.strerror})", str(folder)) from error
    return folder


def new_run(folder: Path) -> Path:
    """The same of a folder for a new run.

    Raises:
        ValueError: if there is a run in it already.
    """
    if checkpoints(folder / "checkpoints"):
        raise ValueError(f"{folder} holds another run: go on with it by load(), or choose another run_dir")
    return writable(folder)


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write `agent.json`, whole or not at all."""
    temporary = folder / "agent.json.writing"
    temporary.write_text(json.dumps(description, indent=2) + "\n")
    os.replace(temporary, folder / "agent.json")


def read_description(folder: Path) -> dict[str, Any]:
    """What `agent.json` in `folder` says.

    Raises:
        ValueError: if there is none.
    """
    try:
        return json.loads((folder / "agent.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no agent: there is no agent.json in it") from error


def is_json(value: Any) -> bool:
    """Whether a file of JSON can hold `value`, so that it comes back as it was."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
