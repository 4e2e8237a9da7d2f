"""What the algorithms with PPO's clipped loss share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..agent import Agent
from ..config import GroupConfig, OnPolicyConfig
from ..functional import policy_gradient_clip
from ..learner import TokenTerms


@dataclass(frozen=True)
class RatioConfig(OnPolicyConfig):
    """Options of the algorithms that clip a ratio, each in its own way."""

    clip_low: float = 0.2
    """How far the ratio to the sampling policy may fall below 1."""
    clip_high: float = 0.2
    """How far it may rise above 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(0, "clip_low", "clip_high")


@dataclass(frozen=True)
class RatioGroupConfig(RatioConfig, GroupConfig):
    """Both."""


@dataclass(frozen=True)
class ClippedConfig(RatioConfig):
    """Options of the algorithms with PPO's clipped loss."""

    dual_clip: float | None = None
    """Dual clip (arXiv 1912.09729): where the advantage is negative the loss is at most this times its size; 3 is usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(1, "dual_clip")


@dataclass(frozen=True)
class ClippedGroupConfig(ClippedConfig, GroupConfig):
    """Both."""


def clipped_loss(c: ClippedConfig, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
    """ℓ_t = max(−ρ_t A_t, −clip(ρ_t, 1 − ε_low, 1 + ε_high) A_t), ρ_t = π/π_old (PPO, arXiv 1707.06347, eq. 7)."""
    losses, clipped = policy_gradient_clip(
        terms.logprobs, terms.old_logprobs, terms.advantages, c.clip_low, c.clip_high, c.dual_clip
    )
    return losses, {"clip_fraction": clipped.to(torch.float32)}


C = TypeVar("C", bound=ClippedConfig)


class ClippedAgent(Agent[C]):
    """An agent with PPO's clipped loss (`clipped_loss`)."""

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        return clipped_loss(self.config, terms)
