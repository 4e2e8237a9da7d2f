"""The loop: how an agent learns from its own samples."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .base import BaseAgent
from .config import OnPolicyConfig
from .engines import Sampling
from .functional import importance_mask, importance_weights, k3
from .learner import Batch, Learner, TokenTerms
from .metrics import batch_metrics, rollout_metrics, samples_to_show
from .monitor import Sample, StepRecording
from .policy import Reference
from .rollout import Group, episode_seeds
from .rollout.filters import apply_filters, in_rounds

C = TypeVar("C", bound=OnPolicyConfig)


class Agent(BaseAgent[C], Generic[C]):
    """An on-policy agent. An algorithm is a subclass that names its parts and nothing else: which advantage, which loss,
    and, where it differs from the others, how it samples and what it learns from."""

    # The parts of an algorithm.

    @abstractmethod
    def advantages(self, batch: Batch) -> Tensor:
        """Advantages [B], or [B, T] if tokens have their own."""

    @abstractmethod
    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss per token [B, T], and per-token quantities [B, T] to report the means of."""

    def amended(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups as they are learned from, where that is not as they were sampled."""
        return groups

    def estimate(self, batch: Batch) -> Batch:
        """The batch with advantages, and whatever else the loss needs."""
        return batch.with_advantages(self.advantages(batch))

    kl_in_reward: ClassVar[bool] = False
    """Whether the divergence from the reference is a part of the reward, rather than of the loss."""

    @property
    def skips_zero_advantage(self) -> bool:
        """Whether a sequence with advantage 0 has no gradient, so that computing it can be spared."""
        return not (self.config.kl_coef and not self.kl_in_reward) and not self.config.entropy_coef

    # The loop.

    recording: StepRecording | None = None
    """The record of the step under way, if it is kept."""

    @property
    def is_recorded(self) -> bool:
        """Whether the trajectories of the step under way are kept: of the first and of every so manyth."""
        every, step = self.config.record_rollouts_every, self.step + 1
        return self.run_dir is not None and every > 0 and (step == 1 or step % every == 0)

    def train_step(self) -> tuple[dict[str, float], Sequence[Sample]]:
        c = self.config
        started = time.perf_counter()

        self.env.reward.begin_step(self.step)

        # Dataset rows → TextEnv.reset → Transcript → Engine.generate → TextEnv.transition → … → Episode → Reward.score
        # → groups.
        sampled = self.sample()
        self.engine.sleep()
        tokens = sum(t.num_sampled for group in sampled for t in group)
        self.sampled_tokens += tokens
        sample_seconds = time.perf_counter() - started

        # Groups → filters → advantages → Batch.
        kept, dropped = apply_filters(c.filter_groups, self.amended(sampled))
        learned = kept or sampled[:1]
        batch = self.pack(learned).to(self.policy.model.device)
        if not kept:  # a batch to report on, but nothing to learn from
            batch = batch.learning_from(torch.zeros_like(batch.valid))
        if self.reference is not None and c.kl_coef and self.kl_in_reward:
            batch = replace(batch, ref_logprobs=self.learner.reference_logprobs(batch, self.reference))
            batch = batch.with_penalty(self.kl_coef)
        batch = self.estimate(batch)
        if self.is_recorded:
            self.recording = StepRecording(sampled, learned, batch)
            batch = batch.with_columns(row=torch.arange(len(batch), device=batch.ids.device))

        # Batch → Learner.update → monitor. `learn` hands the weights to the engine (Engine.sync).
        metrics = self.learner.update(
            batch,
            self.objective,
            learning_rate=self.learning_rate,
            reference=self.reference,
            epochs=c.epochs,
            minibatches=c.minibatches,
            seed=episode_seeds(c.seed, self.step, 1, 1)[0][0],
            skip_zero_advantage=self.skips_zero_advantage,
            own_old_logprobs=c.correction != "none",
            target_kl=c.target_kl,
            **self.update_hooks(),
        )
        metrics |= self.after_update(batch)
        metrics |= rollout_metrics(sampled, len(kept)) | batch_metrics(batch)
        metrics |= {f"groups/dropped/{name}": float(count) for name, count in dropped.items()}
        if self.recording is not None and self.run_dir is not None:
            self.recording.write(self.run_dir, self.step + 1, self.policy.tokenizer)
            self.recording = None
        return metrics | {"speed/sample_tokens_per_s": tokens / sample_seconds}, samples_to_show(sampled)

    def sample(self) -> list[Group]:
        """The step's groups. Those that a filter leaves out are replaced by further ones, in as many rounds as it has."""
        c = self.config
        sampling = Sampling(c.temperature, c.top_p, c.top_k, tuple(c.stop))

        def sample(count: int, round_: int) -> list[Group]:
            seeds = episode_seeds(c.seed, self.step, count, c.group_size, round_)
            return self.roll_out(self.prompts.draw(count), seeds, sampling)

        return in_rounds(c.filter_groups, c.prompts_per_step, sample, self.amended)

    def roll_out(self, rows: Sequence[int], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[Group]:
        """One group for each row, with one completion for each of its seeds."""
        return self.rollout.run(rows, seeds, sampling)

    def pack(self, groups: Sequence[Group]) -> Batch:
        """Groups as tensors. A completion whose reward abstained has mask 0, and so has a truncated one with
        `mask_truncated`."""
        rows = [(number, t) for number, group in enumerate(groups) for t in group]
        trajectories = [t for _, t in rows]
        valid = [t.reward is not None for t in trajectories]
        learned = [ok and not (self.config.mask_truncated and t.truncated) for ok, t in zip(valid, trajectories)]
        return Batch.pack(
            [t.ids for t in trajectories],
            [t.action_mask if ok else [0] * len(t.ids) for t, ok in zip(trajectories, learned)],
            [t.logprobs for t in trajectories],
            torch.zeros(len(rows)),
            pad_id=self.policy.tokenizer.pad_id,
            rewards=torch.tensor([t.reward or 0.0 for t in trajectories]),
            token_rewards=[t.token_rewards if ok else {} for t, ok in zip(trajectories, valid)],
            groups=torch.tensor([number for number, _ in rows]),
            valid=torch.tensor(valid),
            columns=self.columns(trajectories),
        )

    def objective(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss per token: the algorithm's, corrected for what the sampler computed otherwise, the divergence from
        the reference and the entropy."""
        c = self.config
        if self.recording is not None:
            self.recording.note(terms)
        losses, reported = self.loss(terms)
        if c.correction != "none":
            old, sampler = terms.old_logprobs, terms.columns["sampler_logprobs"]
            if c.correction == "truncate":
                losses = losses * importance_weights(old, sampler, c.correction_cap)
            else:
                losses = losses * importance_mask(old, sampler, terms.action_mask, c.correction_cap)
        if c.kl_coef and not self.kl_in_reward:
            assert terms.ref_logprobs is not None
            losses = losses + self.kl_coef * k3(terms.logprobs - terms.ref_logprobs)
        if c.entropy_coef:
            losses = losses - c.entropy_coef * terms.entropy
        return losses, reported

    # What an algorithm may have besides.

    def columns(self, trajectories: Sequence[Any]) -> dict[str, Tensor]:
        """Further columns of the batch, [B] or [B, T, …]."""
        return {}

    def update_hooks(self) -> dict[str, Any]:
        """`before_step` and `auxiliary` of `Learner.update`."""
        return {}

    def after_update(self, batch: Batch) -> dict[str, float]:
        """What follows an update: a critic's, a controller's. Returns what to report."""
        return {}

    def state(self) -> dict[str, Any]:
        return {"kl_coef": self.kl_coef}

    def load_state(self, state: dict[str, Any]) -> None:
        self.kl_coef = state["kl_coef"]

    @property
    def token_budget(self) -> int | None:
        return self.config.token_budget

    # Where the loop's tools come from.

    def prepare(self) -> None:
        c = self.config
        self.kl_coef = c.kl_coef
        self.reference = Reference(self.policy) if c.kl_coef or c.monitor_reference else None
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
            compile=c.compile,
            entropy_gradient=bool(c.entropy_coef),
        )
