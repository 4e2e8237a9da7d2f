"""Past successes, to be learned from again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...rewards import Episode, Score, Stop
from .trajectory import Group, Trajectory


class ReplayBuffer:
    """The last successes of each task, token by token, with the log-probabilities of the policies that sampled them.

    Args:
        per_task: successes that are kept of a task, the newest.
        tasks: tasks that are kept, those that were solved last.
    """

    def __init__(self, per_task: int, tasks: int) -> None:
        self.per_task = per_task
        self.tasks = tasks
        self._successes: dict[int, list[Trajectory]] = {}

    def __len__(self) -> int:
        return len(self._successes)

    def add(self, group: Group) -> None:
        """Keep the successes of a group."""
        for t in group:
            if t.solved and t.row is not None:
                # To the end, where the tasks that were solved last are.
                known = self._successes.pop(t.row, [])
                self._successes[t.row] = [*known, _bare(t)][-self.per_task :]
        while len(self._successes) > self.tasks:
            del self._successes[next(iter(self._successes))]

    def of(self, row: int | None) -> Sequence[Trajectory]:
        """The successes on a row of the dataset, oldest first."""
        return [] if row is None else self._successes.get(row, [])

    def state(self) -> list[dict[str, Any]]:
        """What of the successes is no tensor, in order."""
        return [
            {
                "row": t.row,
                "length": len(t.ids),
                "prompt_length": t.prompt_length,
                "entropy": t.entropy,
                "token_rewards": list(t.token_rewards.items()),
                "step_rewards": list(t.step_rewards.items()),
                "completion": list(t.episode.completion),
                "stop": str(t.episode.stop),
                "num_tokens": t.episode.num_tokens,
                "value": t.score.value,
                "parts": dict(t.score.parts),
                "version": t.version,
            }
            for each in self._successes.values()
            for t in each
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The tokens of all successes, one after the other: ids, action_mask and logprobs, each [tokens]."""
        kept = [t for each in self._successes.values() for t in each]
        if not kept:
            return {}
        return {
            "ids": torch.tensor([i for t in kept for i in t.ids], dtype=torch.int32),
            "action_mask": torch.tensor([m for t in kept for m in t.action_mask], dtype=torch.uint8),
            "logprobs": torch.tensor([lp for t in kept for lp in t.logprobs], dtype=torch.float64),
        }

    def load(self, state: Sequence[dict[str, Any]], tensors: dict[str, Tensor]) -> None:
        """Take back what `state` and `tensors` gave."""
        self._successes = {}
        lengths = [entry["length"] for entry in state]
        parts = {name: [part.tolist() for part in tensor.split(lengths)] for name, tensor in tensors.items()}
        for number, entry in enumerate(state):
            tokens = {name: each[number] for name, each in parts.items()}
            self._successes.setdefault(entry["row"], []).append(_restored(entry, tokens))


def _bare(t: Trajectory) -> Trajectory:
    """A trajectory without what its row tells, and without its place in a group."""
    episode = replace(t.episode, prompt=(), answer=None, row={})
    return replace(t, episode=episode, score=replace(t.score, steps=()), entropies=(), turns=(), parent=None, fork=None)


def _restored(entry: dict[str, Any], tokens: dict[str, Any]) -> Trajectory:
    stop = Stop(entry["stop"])
    return Trajectory(
        **tokens,
        entropy=entry["entropy"],
        prompt_length=entry["prompt_length"],
        token_rewards=dict(entry["token_rewards"]),
        step_rewards=dict(entry["step_rewards"]),
        episode=Episode((), tuple(entry["completion"]), stop=stop, num_tokens=entry["num_tokens"]),
        score=Score(entry["value"], entry["parts"]),
        group=0,
        version=entry["version"],
        row=entry["row"],
    )
