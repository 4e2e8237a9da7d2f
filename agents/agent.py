"""The loop: how an agent learns from its own samples."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .base import BaseAgent
from .config import OnPolicyConfig
from .engines import Sampling
from .learner import Batch, Learner, TokenTerms
from .metrics import rollout_metrics, samples_to_show
from .monitor import Sample
from .policy import Reference
from .rollout import episode_seeds

C = TypeVar("C", bound=OnPolicyConfig)


class Agent(BaseAgent[C], Generic[C]):
    """An on-policy agent. An algorithm is a subclass that names its parts and nothing else: which advantage, which loss."""

    # The parts of an algorithm.

    @abstractmethod
    def advantages(self, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
        """Advantages [B] of B completions: from their rewards [B], the numbers of their groups [B] and whether the reward
        could tell [B] (bool)."""

    @abstractmethod
    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss per token [B, T], and per-token quantities [B, T] to report the means of."""

    @property
    def skips_zero_advantage(self) -> bool:
        """Whether a sequence with advantage 0 has no gradient in `loss`, so that computing it can be spared."""
        return False

    # The loop.

    def train_step(self) -> tuple[dict[str, float], Sequence[Sample]]:
        c = self.config
        started = time.perf_counter()

        # Dataset rows → TextEnv.reset → Transcript → Engine.generate → TextEnv.transition → … → Episode → Reward.score
        # → groups.
        rows = self.prompts.draw(c.prompts_per_step)
        seeds = episode_seeds(c.seed, self.step, c.prompts_per_step, c.group_size)
        sampling = Sampling(c.temperature, c.top_p, c.top_k, tuple(c.stop))
        groups = self.rollout.run(rows, seeds, sampling)
        sampled = sum(t.num_actions for group in groups for t in group)
        self.sampled_tokens += sampled
        sample_seconds = time.perf_counter() - started

        # Groups → advantages. A completion whose reward abstained is in no group's statistics and has mask 0.
        trajectories = [t for group in groups for t in group]
        valid = torch.tensor([t.reward is not None for t in trajectories])
        rewards = torch.tensor([t.reward or 0.0 for t in trajectories])
        numbers = torch.tensor([t.group for t in trajectories])
        advantages = self.advantages(rewards, numbers, valid)

        # Advantages → Batch → Learner.update → Engine.sync → monitor.
        batch = Batch.pack(
            [t.ids for t in trajectories],
            [t.action_mask if ok else [0] * len(t.ids) for t, ok in zip(trajectories, valid.tolist())],
            [t.logprobs for t in trajectories],
            advantages,
            pad_id=self.policy.tokenizer.pad_id,
        )
        metrics = self.learner.update(
            batch,
            self.loss,
            learning_rate=self.learning_rate,
            reference=self.reference,
            epochs=c.epochs,
            minibatches=c.minibatches,
            seed=seeds[0][0],
            skip_zero_advantage=self.skips_zero_advantage,
        )
        self.engine.sync(self.policy.named_parameters())
        metrics |= rollout_metrics(groups, advantages[valid]) | {"speed/sample_tokens_per_s": sampled / sample_seconds}
        return metrics, samples_to_show(groups)

    # Where the loop's tools come from.

    def prepare(self) -> None:
        self.reference = Reference(self.policy)
        self.rollout = self.make_rollout(self.env)

    def make_learner(self) -> Learner:
        c = self.config
        return Learner(
            self.policy,
            aggregation=c.aggregation,
            max_new_tokens=c.max_new_tokens,
            temperature=c.temperature,
            micro_batch_tokens=c.micro_batch_tokens,
            max_grad_norm=c.max_grad_norm,
            weight_decay=c.weight_decay,
            gradient_checkpointing=c.gradient_checkpointing,
        )
