"""GRPO that learns from earlier successes where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..engines import Sampling
from ..functional import Aggregation, group_normalized
from ..learner import Batch
from ..rollout import Group
from ..rollout.replay import ReplayBuffer
from ..rollout.trajectory import all_failed
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class ReplayGRPOConfig(ClippedGroupConfig):
    """Options of GRPO with replays."""

    replays_per_task: int = 8
    """Successes of each task that are remembered, the newest."""
    replay_tasks: int = 2048
    """Tasks of which successes are remembered: those that were solved last."""
    clip_high: float = 0.3
    """How far the ratio to the sampling policy may rise above 1; as published."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "replays_per_task", "replay_tasks")


class ReplayGRPO(ClippedAgent[ReplayGRPOConfig]):
    """Agentic replay (Lu et al. 2025, "ARPO: end-to-end policy optimization for GUI agents with experience replay", arXiv
    2505.16282, §3.3): GRPO with a buffer of past successes. In a group without a success one of them takes the place of a
    random failure, so that there is something to compare with.

        A_i = (R_i − μ) / (σ + 1e-6) over the group with the replay in it
        ρ_t = π(a_t | s_t) / π_b(a_t | s_t), π_b the policy that sampled: for a replay an earlier one

    A task is a row of the dataset, so that replays need a dataset that is gone through more than once. (The code that was
    published with the paper has ρ = 1 on replays; the paper's equation is the one here.)
    """

    Config = ReplayGRPOConfig
    summary: ClassVar[str] = "GRPO with earlier successes in the groups that have none"
    paper: ClassVar[str] = "arXiv 2505.16282"

    def roll_out(self, rows: Sequence[int], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[Group]:
        groups = super().roll_out(rows, seeds, sampling)
        for group in groups:
            self.buffer.add(group)
        return groups

    def amended(self, groups: Sequence[Group]) -> Sequence[Group]:
        learned = [self._with_replay(number, group) for number, group in enumerate(groups)]
        self.replayed = sum(group is not old for group, old in zip(learned, groups))
        return learned

    def _with_replay(self, number: int, group: Group) -> Group:
        successes = self.buffer.of(group[0].row)
        if not successes or not all_failed(group):
            return group
        draw = np.random.default_rng([self.config.seed, self.step, number])
        out = int(draw.choice([i for i, t in enumerate(group) if t.solved is False]))
        failure, success = group[out], successes[int(draw.integers(len(successes)))]
        task = {"prompt": failure.episode.prompt, "answer": failure.episode.answer, "row": failure.episode.row}
        again = replace(success, group=failure.group, episode=replace(success.episode, **task))
        return [again if i == out else t for i, t in enumerate(group)]

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def after_update(self, batch: Batch) -> dict[str, float]:
        replays = {"replay/groups": float(self.replayed), "replay/tasks": float(len(self.buffer))}
        return super().after_update(batch) | replays

    def prepare(self) -> None:
        super().prepare()
        self.buffer = ReplayBuffer(self.config.replays_per_task, self.config.replay_tasks)
        self._loaded: dict[str, Tensor] = {}

    def state(self) -> dict[str, Any]:
        return super().state() | {"replays": self.buffer.state()}

    def tensors(self) -> dict[str, Tensor]:
        return self.buffer.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self._loaded = tensors

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.buffer.load(state["replays"], self._loaded)
