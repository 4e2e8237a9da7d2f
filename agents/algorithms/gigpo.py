"""Group-in-group policy optimization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...rewards import Episode
from ..functional import Aggregation, anchored, group_centred, group_normalized, returns_to_go
from ..learner import Batch
from ..rollout import Trajectory
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class GiGPOConfig(ClippedGroupConfig):
    """Options of GiGPO."""

    step_weight: float = 1.0
    """ω: of the step's advantage beside the episode's."""
    discount: float = 0.95
    """γ: per step, of the returns that steps are compared by. Below 1, the shorter way to a goal is the better one."""
    normalize: Literal["mean", "deviation"] = "deviation"
    """What advantages are, episodes' and steps': differences from the mean, or those in standard deviations."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; as in GRPO, every completion counts the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "step_weight")
        self._between(0, 1, "discount")


class GiGPO(ClippedAgent[GiGPOConfig]):
    """Group-in-group policy optimization (Feng et al. 2025, arXiv 2505.10978, §4.2 and 4.3): a step is compared with the
    other steps that were taken in the same state, without a critic and without sampling more.

        A = A_episode + ω A_step
        A_episode = R − μ, or that over σ, in the group of the prompt
        A_step = the same of the discounted return from the step on, among all steps of the group before which the policy
        was shown the same (the anchor state); 0 for a state that was met once

    What the policy is shown are the messages since its last turn, without the system prompt: they should tell the whole
    state, as in TextGrid-v0. In a task of one turn the two advantages are the same.
    """

    Config = GiGPOConfig
    summary: ClassVar[str] = "Group-in-group PO: steps that were taken in the same state are compared with each other"
    paper: ClassVar[str] = "arXiv 2505.10978"

    def columns(self, trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
        shape = len(trajectories), max(len(t.ids) for t in trajectories)
        ends, rewards, anchors = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
        numbers: dict[str, int] = {}
        for i, t in enumerate(trajectories):
            for (start, end), shown in zip(t.turns, observations(t.episode), strict=True):
                ends[i, end - 1] = 1.0
                rewards[i, end - 1] = sum(t.token_rewards.get(token, 0.0) for token in range(start, end))
                anchors[i, end - 1] = numbers.setdefault(shown, len(numbers))
            if t.turns:  # an engine that fails at once leaves none
                rewards[i, t.turns[-1][1] - 1] += t.score.value or 0.0
        return {"step_ends": ends, "step_rewards": rewards, "anchors": anchors}

    def advantages(self, batch: Batch) -> Tensor:
        c = self.config
        ends, anchors = batch.columns["step_ends"], batch.columns["anchors"]
        compare = group_centred if c.normalize == "mean" else group_normalized
        episodes = compare(batch.rewards, batch.groups, batch.valid)
        returns = returns_to_go(batch.columns["step_rewards"], ends, c.discount)
        steps = anchored(returns, anchors, ends, batch.groups, batch.valid, deviation=c.normalize == "deviation")
        return episodes.unsqueeze(1) + c.step_weight * steps


def observations(episode: Episode) -> list[str]:
    """What the policy was shown before each of its turns: the messages since the last one."""
    found: list[str] = []
    shown: list[str] = [m["content"] for m in episode.prompt if m["role"] != "system"]
    for message in episode.completion:
        if message["role"] == "assistant":
            found.append("\n\n".join(shown))
            shown = []
        else:
            shown.append(message["content"])
    return found
