"""GRPO with a dynamic length penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...envs import TextEnv
from ...rewards import Episode, LambdaLength, Reward, Score
from ..base import parts_of
from ..functional import Aggregation, group_normalized
from ..learner import Batch
from ..rollout import Trajectory
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class GRPOLambdaConfig(ClippedGroupConfig):
    """Options of GRPO-λ."""

    length_penalty: float = 0.2
    """α, how much of a right answer's reward is for brevity, below 1."""
    length_share: float = 0.2
    """λ, the share of a step's groups, the most accurate ones, in which brevity is rewarded."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._between(0, 0.99, "length_penalty")
        self._between(0, 1, "length_share")


class GRPOLambda(ClippedAgent[GRPOLambdaConfig]):
    """GRPO-λ (Dai et al. 2025, arXiv 2505.18086, §3): brevity is rewarded only where the policy can solve the problem already.

    The groups of a step are ranked by accuracy. With n tokens, and mean μ and deviation σ of the lengths of a group's right
    answers,

        R = 1 − α sigmoid((n − μ) / σ)   of a right answer in the best share λ of the groups
        R = 1 if right, 0 if wrong       of all others

    (`tokengym.rewards.LambdaLength`), and the advantage is GRPO's. Of the environment's reward only its part "correct" counts.
    """

    Config = GRPOLambdaConfig
    summary: ClassVar[str] = "GRPO with a penalty on length in the groups that are solved best"
    paper: ClassVar[str] = "arXiv 2505.18086"

    def framed(self, env: TextEnv) -> TextEnv:
        if "correct" not in (parts_of(env) or ["correct"]):
            raise ValueError(
                f"GRPO-λ has to know what is right, but the reward of the environment, {type(env.reward).__name__}, "
                'has no part "correct"'
            )
        return env

    def columns(self, trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
        c = self.config
        judge = Judged([t.score for t in trajectories])
        reward = LambdaLength(judge, alpha=c.length_penalty, share=c.length_share)
        scores = reward.score([t.episode for t in trajectories])
        return {
            "shaped": torch.tensor([score.value or 0.0 for score in scores]),
            "length_penalty": torch.tensor([score.parts.get("length_penalty", 0.0) for score in scores]),
        }

    def estimate(self, batch: Batch) -> Batch:
        return super().estimate(replace(batch, rewards=batch.columns["shaped"]))

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def after_update(self, batch: Batch) -> dict[str, float]:
        penalties = batch.columns["length_penalty"]
        return super().after_update(batch) | {"length/penalty": float(penalties.mean())}


class Judged(Reward):
    """Verdicts that are there already."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self._scores = list(scores)

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        return self._scores[: len(episodes)]
