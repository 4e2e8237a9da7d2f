"""The learner: gradient steps of a policy on a batch."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional import Aggregation, k3, token_weights
from ..policy import Policy, Reference
from .batch import Batch
from .forward import Forward, forward
from .head import trunk
from .memory import keep_freed_memory
from .optimizer import MasterAdamW
from .tree import forward_trees, parts


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a loss is made of, for a batch or a part of one. [B, T] unless it says otherwise; see `Batch`.

    Attributes:
        logprobs: the policy's, with gradient.
        entropy: of the policy at each action token, in nats; with gradient if the learner was asked for it.
        values: [B, T, K], the value head's estimates for the states before each action, with gradient; None without a
            head.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    action_mask: Tensor
    entropy: Tensor
    values: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)


# A loss gives ℓ [B, T] and any further per-token quantities [B, T] by name, whose means over action tokens are
# reported.
Loss = Callable[[TokenTerms], tuple[Tensor, dict[str, Tensor]]]


class Learner:
    """AdamW on a policy's trainable parameters (`MasterAdamW`).

    Args:
        policy: what learns.
        aggregation: how the losses of tokens become one number; `max_new_tokens` is the constant of
            "seq-mean-token-sum-norm".
        temperature: of the log-probabilities in the loss, that of sampling.
        micro_batch_tokens: tokens, padding counted, that go through the model at once.
        max_grad_norm: gradients are scaled down to this norm.
        weight_decay: of matrices; vectors have none.
        gradient_checkpointing: recompute activations in the backward pass.
        entropy_gradient: whether the loss has the entropy in it.
        compile: whether to compile the model's trunk (torch.compile), which takes a minute and pays off in long runs.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        aggregation: Aggregation = "token-mean",
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        micro_batch_tokens: int = 4096,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
        gradient_checkpointing: bool = False,
        entropy_gradient: bool = False,
        compile: bool = False,
    ) -> None:
        if policy.model.device.type == "cpu":
            keep_freed_memory()
        self.policy = policy
        self.aggregation: Aggregation = aggregation
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.micro_batch_tokens = micro_batch_tokens
        self.entropy_gradient = entropy_gradient
        self.optimizer = MasterAdamW(policy.trainable(), max_grad_norm=max_grad_norm, weight_decay=weight_decay)
        self._compiled = torch.compile(trunk(policy.model), dynamic=True) if compile else None
        if gradient_checkpointing:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def update(
        self,
        batch: Batch,
        loss: Loss,
        *,
        learning_rate: float,
        reference: Reference | None = None,
        epochs: int = 1,
        minibatches: int = 1,
        seed: int = 0,
        skip_zero_advantage: bool = False,
        own_old_logprobs: bool = False,
        target_kl: float | None = None,
        before_step: Callable[[Batch], Batch] | None = None,
        auxiliary: Callable[[], dict[str, float]] | None = None,
    ) -> dict[str, float]:
        """Optimiser steps on `batch`: `epochs` passes over it, each in `minibatches` parts in an order drawn from
        `seed`. A group is never divided.

        Args:
            reference: to report the divergence from, and for losses that ask for it, unless the batch has its
                log-probabilities already.
            skip_zero_advantage: leave out the sequences whose advantages are all 0, for losses in which they have no
                gradient. They still count in the weights of the others, so that the gradient is the same.
            own_old_logprobs: put the learner's own log-probabilities before the first step in the place of the
                sampler's, which the loss then finds as column "sampler_logprobs". A pass of its own, except where the
                batch makes one step only.
            target_kl: make no further steps on this batch once the divergence of the policy from the one that sampled
                is above 1.5 times this (k3, mean over tokens), as Stable-Baselines3 does.
            before_step: what to do to the part of the batch of every optimiser step before it.
            auxiliary: adds to the gradient of every optimiser step, by `accumulate`, and returns what to report.

        Returns:
            Means over the optimiser steps of `loss`, `entropy`, `kl/sampler`, `grad_norm`, `kl/reference` if there is a
            reference, with `own_old_logprobs` the mean and the 99th percentile of |log π_old − log π_sampler|
            (`correction/mismatch`, `…_p99`), and whatever the loss reports, all over the sequences that were not left out;
            `speed/learn_tokens_per_s` counts each token of the batch once per epoch.
        """
        started = time.perf_counter()
        batch = batch.to(self.policy.model.device)
        learned = batch.action_mask.any(dim=1)
        if skip_zero_advantage:
            learned = learned & batch.advantages.any(dim=1)
        computed = learned.clone()
        computed[0] |= not learned.any()  # a step without any signal has metrics too
        if reference is not None and batch.ref_logprobs is None:
            batch = replace(batch, ref_logprobs=self.reference_logprobs(batch, reference, computed))
        if own_old_logprobs:
            batch = batch.with_columns(sampler_logprobs=batch.old_logprobs)
            if epochs * minibatches > 1:
                batch = replace(batch, old_logprobs=self.own_logprobs(batch, computed))
        totals: dict[str, list[float]] = defaultdict(list)
        shuffle = torch.Generator().manual_seed(seed)
        self.policy.model.train()
        stopped = 0.0
        for _ in range(epochs):
            for rows in batch.shuffled(minibatches, shuffle):
                rows = rows.to(batch.ids.device)
                if stopped or not computed[rows].any():
                    continue
                part = batch.select(rows)
                if before_step is not None:
                    part = before_step(part)
                single = own_old_logprobs and epochs * minibatches == 1
                metrics = self.accumulate(part, loss, computed=computed[rows], old_is_current=single)
                if auxiliary is not None:
                    metrics |= auxiliary()
                if target_kl is not None and metrics.get("kl/old", metrics["kl/sampler"]) > 1.5 * target_kl:
                    stopped = 1.0
                # Without a gradient there would be nothing to follow but the momentum of earlier steps.
                if learned[rows].any() and not stopped:
                    metrics["grad_norm"] = self.optimizer.step(learning_rate)
                else:
                    self.optimizer.forget_gradients()
                    metrics["grad_norm"] = 0.0
                for name, value in metrics.items():
                    totals[name].append(value)
        self.policy.model.eval()
        seconds = time.perf_counter() - started
        means = {name: float(np.mean(values)) for name, values in totals.items()}
        if target_kl is not None:
            means["stopped_early"] = stopped
        return means | {"speed/learn_tokens_per_s": epochs * batch.num_tokens / seconds}

    def accumulate(
        self,
        batch: Batch,
        loss: Loss,
        *,
        computed: Tensor | None = None,
        old_is_current: bool = False,
        scale: float = 1.0,
        aggregation: Aggregation | None = None,
        temperature: float | None = None,
    ) -> dict[str, float]:
        """Add the gradient of `scale` times the loss of one optimiser step to `.grad` of the masters, micro-batch by
        micro-batch.

        The weights of the tokens are those of the whole step: cutting it otherwise, or leaving out sequences without a
        gradient, gives the same gradient.

        Args:
            computed: [B] bool, which sequences are not left out.
            old_is_current: take the log-probabilities of this very pass for `old_logprobs`.
            aggregation, temperature: in the place of the learner's own.
        """
        weights = scale * token_weights(batch.action_mask, aggregation or self.aggregation, self.max_new_tokens)
        if computed is not None:
            kept = computed.nonzero().squeeze(1)
            batch, weights = batch.select(kept), weights[kept]
        tokens = float(batch.action_mask.sum().clamp(min=1))
        sums: dict[str, float] = defaultdict(float)
        mismatches: list[Tensor] = []
        for rows, as_trees in parts(batch, self.micro_batch_tokens, self.policy.model):
            rows = rows.to(batch.ids.device)
            part = batch.select(rows)
            found = self.forward(self.policy.model, part, as_trees, temperature)
            if old_is_current:
                part = replace(part, old_logprobs=found.logprobs.detach())
            losses, reported = loss(
                TokenTerms(
                    found.logprobs,
                    part.old_logprobs,
                    part.ref_logprobs,
                    part.advantages,
                    part.action_mask,
                    found.entropy,
                    found.values,
                    part.columns,
                )
            )
            value = (weights[rows, : losses.shape[1]] * losses).sum()
            value.backward()
            self.optimizer.collect_gradients()
            with torch.no_grad():
                sampler = part.columns.get("sampler_logprobs", part.old_logprobs)
                reported |= {"entropy": found.entropy, "kl/sampler": k3(sampler - found.logprobs)}
                if sampler is not part.old_logprobs:
                    reported["kl/old"] = k3(part.old_logprobs - found.logprobs)
                    mismatches.append((part.old_logprobs - sampler).abs()[part.action_mask > 0])
                if part.ref_logprobs is not None:
                    reported["kl/reference"] = k3(found.logprobs - part.ref_logprobs)
                sums["loss"] += float(value)
                for name, per_token in reported.items():
                    sums[name] += float((per_token * part.action_mask).sum()) / tokens
        if mismatches:
            sums |= _mismatch(torch.cat(mismatches))
        return dict(sums)

    def forward(self, model: Any, batch: Batch, as_trees: bool = False, temperature: float | None = None) -> Forward:
        """A pass of a model over a batch, with what the sequences of a group share computed once (`as_trees`) or not, at the
        learner's temperature or another."""
        own = model is self.policy.model
        return (forward_trees if as_trees else forward)(
            model,
            batch,
            temperature or self.temperature,
            body=self._compiled if own else None,
            value_head=self.policy.value_head if own else None,
            entropy_gradient=self.entropy_gradient,
        )

    @torch.no_grad()
    def own_logprobs(self, batch: Batch, wanted: Tensor | None = None) -> Tensor:
        """[B, T] log-probabilities of the batch's tokens under the policy as it is; see `reference_logprobs`."""
        return self._by_parts(self.policy.model, batch, wanted, lambda found: found.logprobs)

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, reference: Reference, wanted: Tensor | None = None) -> Tensor:
        """[B, T] log-probabilities of the batch's tokens under the reference; 0 in the sequences that are not `wanted`, if
        only some are ([B] bool)."""
        with reference.model() as model:
            return self._by_parts(model, batch, wanted, lambda found: found.logprobs)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """[B, T, K] estimates of the policy's value head for the states before each action; 0 elsewhere."""
        return self._by_parts(self.policy.model, batch, None, lambda found: found.values)

    def _by_parts(
        self, model: Any, batch: Batch, wanted: Tensor | None, take: Callable[[Forward], Tensor | None]
    ) -> Tensor:
        kept = (torch.ones_like(batch.lengths) if wanted is None else wanted).nonzero().squeeze(1)
        out: Tensor | None = None
        part = batch.select(kept) if len(kept) else batch
        for rows, as_trees in parts(part, self.micro_batch_tokens, model) if len(kept) else ():
            rows = rows.to(kept.device)
            found = take(self.forward(model, part.select(rows), as_trees))
            assert found is not None
            if out is None:
                out = found.new_zeros(*batch.ids.shape, *found.shape[2:])
            out[kept[rows], : found.shape[1]] = found
        return torch.zeros_like(batch.action_mask) if out is None else out

    @property
    def params(self) -> dict[str, torch.nn.Parameter]:
        return self.optimizer.params

    @property
    def masters(self) -> dict[str, Tensor]:
        return self.optimizer.masters

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments and, for bfloat16, the masters, by name."""
        return self.optimizer.state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError: if a tensor is for a parameter that this policy does not have.
        """
        self.optimizer.load_state(tensors)


def _mismatch(differences: Tensor) -> dict[str, float]:
    """How far sampler and learner are apart on the same weights, of |log π_old − log π_sampler| of each action token."""
    if not len(differences):
        return {"correction/mismatch": 0.0, "correction/mismatch_p99": 0.0}
    # Not `quantile`, which takes 16 million numbers at most.
    rank = math.ceil(0.99 * len(differences))
    return {
        "correction/mismatch": float(differences.mean()),
        "correction/mismatch_p99": float(differences.kthvalue(rank).values),
    }
