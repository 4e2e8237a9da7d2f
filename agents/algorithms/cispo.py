"""Softer than a clip: CISPO and SAPO keep the gradient of every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..agent import Agent
from ..config import GroupConfig
from ..functional import Aggregation, cispo, group_normalized, sapo
from ..learner import Batch, TokenTerms
from .clipped import RatioGroupConfig


@dataclass(frozen=True)
class CISPOConfig(RatioGroupConfig):
    """Options of CISPO."""


class CISPO(Agent[CISPOConfig]):
    """Clipped importance sampling policy optimization (MiniMax-M1, arXiv 2506.13585, eq. 4–5): the weight is clipped, not the
    gradient.

        ℓ_t = −sg(clip(ρ_t, 1 − ε_low, 1 + ε_high)) A log π(a_t | s_t),   A as in GRPO
    """

    Config = CISPOConfig
    summary: ClassVar[str] = "REINFORCE with clipped importance weights: no token loses its gradient"
    paper: ClassVar[str] = "arXiv 2506.13585"

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses, clipped = cispo(terms.logprobs, terms.old_logprobs, terms.advantages, c.clip_low, c.clip_high)
        return losses, {"clip_fraction": clipped.to(torch.float32)}


@dataclass(frozen=True)
class SAPOConfig(GroupConfig):
    """Options of SAPO."""

    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; in the paper, every completion counts the same."""
    tau_positive: float = 1.0
    """How sharply the gate closes around a ratio of 1 where the advantage is positive."""
    tau_negative: float = 1.05
    """The same where it is negative."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(0, "tau_positive", "tau_negative")


class SAPO(Agent[SAPOConfig]):
    """Soft adaptive policy optimization (Gao et al. 2025, arXiv 2511.20347, eq. 5–6): a smooth gate in the place of the clip.

    ℓ_t = −A σ(τ (ρ_t − 1)) 4/τ,   τ by the sign of A, A as in GRPO
    """

    Config = SAPOConfig
    summary: ClassVar[str] = "A smooth gate on the ratio in the place of the clip"
    paper: ClassVar[str] = "arXiv 2511.20347"

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses = sapo(terms.logprobs, terms.old_logprobs, terms.advantages, c.tau_positive, c.tau_negative)
        return losses, {"clip_fraction": torch.zeros_like(losses)}
