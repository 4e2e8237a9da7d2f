"""Proximal policy optimization, with a clip or with a penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..functional import adaptive_kl, k3, penalty_kl, policy_gradient_penalty, sequence_log_ratio
from ..learner import Batch, TextCorpus, TokenTerms, negative_log_likelihood
from .actor_critic import ActorCritic, ActorCriticConfig
from .clipped import ClippedConfig, clipped_loss


@dataclass(frozen=True)
class PPOConfig(ActorCriticConfig, ClippedConfig):
    """Options of PPO."""

    kl_target: float | None = None
    """Adapt kl_coef so that the divergence from the reference, in nats per completion, comes near this."""
    kl_horizon: int = 10_000
    """Completions over which kl_coef adapts."""
    ptx_coef: float = 0.0
    """PPO-ptx: weight γ of the loss on pre-training text, against forgetting."""
    ptx_dataset: str | None = None
    """Pre-training text: a .jsonl, .json or .parquet file, or a datasets hub id, with a column "text"."""
    ptx_batch_size: int = 8
    """Texts per optimiser step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(0, "kl_target", "kl_horizon")
        self._at_least(0, "ptx_coef")
        self._at_least(1, "ptx_batch_size")
        if bool(self.ptx_coef) != (self.ptx_dataset is not None):
            raise ValueError("PPO-ptx needs both ptx_coef and ptx_dataset")
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target adapts kl_coef, which has to start above 0")


class PPO(ActorCritic[PPOConfig]):
    """Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347, eq. 7) for language models (Ziegler et al. 2019,
    arXiv 1909.08593; InstructGPT, arXiv 2203.02155, eq. 2).

        ℓ_t = max(−ρ_t A_t, −clip(ρ_t, 1 − ε_low, 1 + ε_high) A_t) + c_V value loss + γ_ptx cross-entropy of text
        r_t ← r_t − β (log π_old − log π_ref),   β ← β (1 + clip(KL / target − 1, ±0.2) n / horizon)
    """

    Config = PPOConfig
    summary: ClassVar[str] = "Proximal policy optimization with a critic and generalised advantage estimates"
    paper: ClassVar[str] = "arXiv 1707.06347"

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        critic, reported = self.critic_loss(terms)
        losses, clipped = clipped_loss(self.config, terms)
        return losses + critic, reported | clipped

    def after_update(self, batch: Batch) -> dict[str, float]:
        c = self.config
        metrics = super().after_update(batch)
        if c.kl_target is not None:
            assert batch.ref_logprobs is not None
            log_ratios = sequence_log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.action_mask)
            log_ratios = log_ratios[batch.action_mask.any(dim=1)]
            if len(log_ratios):
                divergence, count = float(log_ratios.mean()), len(log_ratios)
                self.kl_coef = adaptive_kl(self.kl_coef, divergence, c.kl_target, count, c.kl_horizon)
            metrics["kl/coef"] = self.kl_coef
        return metrics

    def prepare(self) -> None:
        super().prepare()
        c = self.config
        self.text = None if c.ptx_dataset is None else TextCorpus(c.ptx_dataset, self.policy.tokenizer, c.max_tokens)

    def update_hooks(self) -> dict[str, Any]:
        if self.text is None:
            return {}
        draw = np.random.default_rng([self.config.seed, self.step])

        def pretrain() -> dict[str, float]:
            assert self.text is not None
            batch = self.text.draw(self.config.ptx_batch_size, draw).to(self.policy.model.device)
            found = self.learner.accumulate(
                batch,
                negative_log_likelihood,
                scale=self.config.ptx_coef,
                aggregation="token-mean",
                temperature=1.0,  # text is not sampled
            )
            return {"ptx/loss": found["loss"]}

        return {"auxiliary": pretrain}


@dataclass(frozen=True)
class PPOPenaltyConfig(ActorCriticConfig):
    """Options of PPO with a penalty."""

    penalty_coef: float = 1.0
    """β at the start."""
    penalty_target: float = 0.01
    """The divergence of the policy from the one that sampled, in nats per token, that β is adapted to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(0, "penalty_coef", "penalty_target")


class PPOPenalty(ActorCritic[PPOPenaltyConfig]):
    """Proximal policy optimization with an adaptive penalty (Schulman et al. 2017, arXiv 1707.06347, §4).

    ℓ_t = −ρ_t A_t + β KL(π_old ‖ π),   β ← 2β if KL > 1.5 target, β/2 if KL < target / 1.5
    """

    Config = PPOPenaltyConfig
    summary: ClassVar[str] = "PPO with an adaptive penalty on the divergence in the place of the clip"
    paper: ClassVar[str] = "arXiv 1707.06347"

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        critic, reported = self.critic_loss(terms)
        losses = policy_gradient_penalty(terms.logprobs, terms.old_logprobs, terms.advantages, self.penalty)
        return losses + critic, reported | {"clip_fraction": torch.zeros_like(losses)}

    def after_update(self, batch: Batch) -> dict[str, float]:
        acting = batch.action_mask > 0
        if acting.any():
            drift = k3(batch.old_logprobs - self.learner.own_logprobs(batch))[acting]
            self.penalty = penalty_kl(self.penalty, float(drift.mean()), self.config.penalty_target)
        return super().after_update(batch) | {"kl/coef": self.penalty}

    def prepare(self) -> None:
        super().prepare()
        self.penalty = self.config.penalty_coef

    def state(self) -> dict[str, Any]:
        return super().state() | {"penalty": self.penalty}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.penalty = state["penalty"]
