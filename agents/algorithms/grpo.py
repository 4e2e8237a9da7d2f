"""Group relative policy optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..agent import Agent
from ..config import OnPolicyConfig
from ..functional import Aggregation, group_normalized, k3, policy_gradient_clip
from ..learner import TokenTerms


@dataclass(frozen=True)
class GRPOConfig(OnPolicyConfig):
    """Options of GRPO."""

    clip_low: float = 0.2
    """How far the ratio to the sampling policy may fall below 1."""
    clip_high: float = 0.2
    """How far it may rise above 1."""
    kl_coef: float = 0.0
    """Weight of the divergence from the reference in the loss: 0.04 as published, 0 is usual for verifiable rewards."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; as published, every completion counts the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(
                f"group_size is at least 2 for GRPO, not {self.group_size}: "
                "it compares the completions of a prompt with each other"
            )
        self._above(0, "clip_low", "clip_high")
        self._at_least(0, "kl_coef")


class GRPO(Agent[GRPOConfig]):
    """Group relative policy optimization (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, eq. 3 and §4.1.2).

    No critic: the advantage of a completion is its reward, normalised in the group of completions of the same prompt.

        A_i = (R_i − μ) / (σ + 1e-6)
        ℓ_{i,t} = max(−ρ A_i, −clip(ρ, 1 − ε_low, 1 + ε_high) A_i) + β k3(π_θ ‖ π_ref)
    """

    Config = GRPOConfig
    summary: ClassVar[str] = "Group relative policy optimization: rewards normalised within the samples of a prompt"
    paper: ClassVar[str] = "arXiv 2402.03300"

    def advantages(self, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
        return group_normalized(rewards, groups, valid)

    @property
    def skips_zero_advantage(self) -> bool:
        return not self.config.kl_coef

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses, clipped = policy_gradient_clip(
            terms.logprobs, terms.old_logprobs, terms.advantages, c.clip_low, c.clip_high
        )
        if c.kl_coef:
            losses = losses + c.kl_coef * k3(terms.logprobs - terms.ref_logprobs)
        return losses, {"clip_fraction": clipped.to(torch.float32)}
