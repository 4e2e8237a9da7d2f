"""Checkpoints: written whole or not at all, the last few kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..policy import Policy
from .update import Learner

_NAME = re.compile(r"step-(\d{8})")
_ASIDE = ".replaced-"  # before the name of a checkpoint while another one takes its place


def save_checkpoint(
    folder: Path,
    step: int,
    policy: Policy,
    learner: Learner,
    state: dict[str, Any],
    keep: int,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder/step-XXXXXXXX` and delete all but the last `keep`. `tensors` are what the algorithm has besides.

    It is written under another name, flushed to the disk and renamed: a folder with the final name is complete,
    whenever the process or the machine was stopped.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".writing-{step:08d}"
    for left in [*folder.glob(".writing-*"), *folder.glob(".removing-*")]:  # by a run that was killed
        shutil.rmtree(left)
    for left in folder.glob(f"{_ASIDE}*"):  # by one that was killed between two renames, or right after them
        intact = folder / left.name.removeprefix(_ASIDE)
        if intact.exists():
            shutil.rmtree(left)
        else:
            os.rename(left, intact)
    temporary.mkdir(parents=True)
    save_file(_plain(learner.state()) | {"torch_generator": torch.get_rng_state()}, temporary / "learner.safetensors")
    save_file(_plain(policy.trainable()), temporary / "weights.safetensors")
    if tensors:
        save_file(_plain(tensors), temporary / "algorithm.safetensors")
    (temporary / "state.json").write_text(json.dumps(state | {"step": step}, indent=2) + "\n")
    for path in [*temporary.rglob("*"), temporary]:
        _flush(path)
    # Nothing but renames between the old state and the new one; what is deleted is renamed out of sight first.
    aside = folder / f"{_ASIDE}{final.name}"
    if final.exists():
        os.rename(final, aside)
    os.rename(temporary, final)
    _flush(folder)
    if aside.exists():
        os.rename(aside, folder / f".removing-{final.name}")
    earlier = [path for path in checkpoints(folder) if path.name <= final.name]
    later = [path for path in checkpoints(folder) if path.name > final.name]  # of another run that was saved here
    for old in [*later, *earlier[:-keep]]:
        os.rename(old, folder / f".removing-{old.name}")
    for doomed in folder.glob(".removing-*"):
        shutil.rmtree(doomed)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    found = {path.name.removeprefix(_ASIDE): path for place in (_ASIDE, "") for path in folder.glob(f"{place}step-*")}
    return [found[name] for name in sorted(found) if _NAME.fullmatch(name)]


def load_checkpoint(
    path: Path, policy: Policy, learner: Learner, load_tensors: Callable[[dict[str, Tensor]], None] | None = None
) -> dict[str, Any]:
    """Take weights, optimiser and generators from a checkpoint; returns the rest of its state. What the algorithm has
    besides goes to `load_tensors`.

    Raises:
        ValueError: if the checkpoint's parameters are not the policy's.
    """
    weights = load_file(path / "weights.safetensors")
    own = policy.trainable()
    shapes = {(name, tensor.shape) for name, tensor in weights.items()}
    if odd := sorted(name for name, _ in shapes ^ {(name, p.shape) for name, p in own.items()}):
        raise ValueError(f"{path} is of another model: {len(odd)} parameters differ, {odd[0]!r} among them")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    tensors = load_file(path / "learner.safetensors")
    torch.set_rng_state(tensors.pop("torch_generator"))
    learner.load_state(tensors)
    if load_tensors is not None and (path / "algorithm.safetensors").is_file():
        load_tensors(load_file(path / "algorithm.safetensors"))
    return json.loads((path / "state.json").read_text())


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
