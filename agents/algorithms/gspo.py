"""Ratios of whole sequences: GSPO, GSPO-token, GMPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..agent import Agent
from ..functional import Aggregation, gmpo, group_normalized, gspo, gspo_token
from ..learner import Batch, TokenTerms
from .clipped import RatioGroupConfig


@dataclass(frozen=True)
class GSPOConfig(RatioGroupConfig):
    """Options of GSPO."""

    clip_low: float = 3e-4
    """How far the ratio of a sequence, which is a geometric mean over its tokens, may fall below 1."""
    clip_high: float = 4e-4
    """How far it may rise above 1."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; as published, every completion counts the same."""


class GSPO(Agent[GSPOConfig]):
    """Group sequence policy optimization (Zheng et al. 2025, arXiv 2507.18071, eq. 5–7).

    s_i = exp(mean_t log ρ_{i,t}),   ℓ_i = max(−s_i A_i, −clip(s_i, 1 − ε_low, 1 + ε_high) A_i),   A as in GRPO
    """

    Config = GSPOConfig
    summary: ClassVar[str] = "GRPO with the ratio of the whole sequence"
    paper: ClassVar[str] = "arXiv 2507.18071"

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses, clipped = gspo(
            terms.logprobs, terms.old_logprobs, terms.advantages, terms.action_mask, c.clip_low, c.clip_high
        )
        return losses, {"clip_fraction": clipped.to(torch.float32)}


class GSPOToken(GSPO):
    """GSPO-token (arXiv 2507.18071, eq. 13–15): the ratio of the sequence in value, of the token in gradient, so that tokens
    may have advantages of their own.

        s_{i,t} = sg(s_i) π_{i,t} / sg(π_{i,t})
    """

    summary: ClassVar[str] = "GSPO with a gradient per token"

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses, clipped = gspo_token(
            terms.logprobs, terms.old_logprobs, terms.advantages, terms.action_mask, c.clip_low, c.clip_high
        )
        return losses, {"clip_fraction": clipped.to(torch.float32)}


@dataclass(frozen=True)
class GMPOConfig(RatioGroupConfig):
    """Options of GMPO."""

    clip_low: float = 0.4
    """How far the logarithm of a token's ratio may fall below 0."""
    clip_high: float = 0.4
    """How far it may rise above 0."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; as published, every completion counts the same."""


class GMPO(Agent[GMPOConfig]):
    """Geometric-mean policy optimization (Zhao et al. 2025, arXiv 2507.20673, eq. 4): less swayed by single tokens than the
    arithmetic mean of their ratios.

        w_i = exp(mean_t clip(log ρ_{i,t})),   ℓ_i = −w_i A_i,   A as in GRPO
    """

    Config = GMPOConfig
    summary: ClassVar[str] = "GRPO with the geometric mean of the tokens' ratios"
    paper: ClassVar[str] = "arXiv 2507.20673"

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        losses, clipped = gmpo(
            terms.logprobs, terms.old_logprobs, terms.advantages, terms.action_mask, c.clip_low, c.clip_high
        )
        return losses, {"clip_fraction": clipped.to(torch.float32)}
