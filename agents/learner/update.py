"""The learner: gradient steps of a policy on a batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional import Aggregation, k3, logprobs_and_entropy, token_weights
from ..policy import Policy, Reference
from .batch import Batch


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a loss is made of, for a batch or a part of one. All [B, T]; see `Batch`.

    `logprobs` are the policy's, with gradient.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    action_mask: Tensor


# A loss gives ℓ [B, T] and any further per-token quantities [B, T] by name, whose means over action tokens are
# reported.
Loss = Callable[[TokenTerms], tuple[Tensor, dict[str, Tensor]]]


class Learner:
    """AdamW on a policy's trainable parameters.

    Parameters in bfloat16 have float32 masters, on which gradients are accumulated and steps are made: an update of
    1e-6 would be lost in bfloat16, whose next number after 1 is 1.008.

    Args:
        policy: what learns.
        aggregation: how the losses of tokens become one number; `max_new_tokens` is the constant of
            "seq-mean-token-sum-norm".
        temperature: of the log-probabilities in the loss, that of sampling.
        micro_batch_tokens: tokens, padding counted, that go through the model at once.
        max_grad_norm: gradients are scaled down to this norm.
        weight_decay: of matrices; vectors have none.
        gradient_checkpointing: recompute activations in the backward pass.
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
    ) -> None:
        self.policy = policy
        self.aggregation: Aggregation = aggregation
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.micro_batch_tokens = micro_batch_tokens
        self.max_grad_norm = max_grad_norm
        self.params = policy.trainable()
        self.masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for name, p in self.params.items()
        }
        matrices = [p for p in self.masters.values() if p.dim() >= 2]
        vectors = [p for p in self.masters.values() if p.dim() < 2]
        decay = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([g for g in decay if g["params"]], lr=0.0, betas=(0.9, 0.99), fused=True)
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
    ) -> dict[str, float]:
        """Optimiser steps on `batch`: `epochs` passes over it, each in `minibatches` parts in an order drawn from
        `seed`.

        Args:
            skip_zero_advantage: leave out the sequences whose advantages are all 0, for losses in which they have no
                gradient. They still count in the weights of the others, so that the gradient is the same.

        Returns:
            Means over the optimiser steps of `loss`, `entropy`, `kl/sampler`, `grad_norm`, `kl/reference` if there is a
            reference, and whatever the loss reports, all over the sequences that were not left out;
            `speed/learn_tokens_per_s` counts each token of the batch once per epoch.
        """
        started = time.perf_counter()
        batch = batch.to(self.policy.model.device)
        learned = batch.action_mask.any(dim=1)
        if skip_zero_advantage:
            learned = learned & batch.advantages.any(dim=1)
        computed = learned.clone()
        computed[0] |= not learned.any()  # a step without any signal has metrics too
        if reference is not None:
            batch = replace(batch, ref_logprobs=self.reference_logprobs(batch, reference, computed))
        totals: dict[str, list[float]] = defaultdict(list)
        shuffle = np.random.default_rng(seed)
        self.policy.model.train()
        for _ in range(epochs):
            order = torch.from_numpy(shuffle.permutation(len(batch)))
            for rows in order.tensor_split(min(minibatches, len(batch))):
                rows = rows.to(batch.ids.device)
                if not computed[rows].any():
                    continue
                part = batch.select(rows)
                metrics = self.accumulate(part, loss, computed=computed[rows], with_reference=reference is not None)
                # Without a gradient there would be nothing to follow but the momentum of earlier steps.
                metrics["grad_norm"] = self._step(learning_rate) if learned[rows].any() else self._forget()
                for name, value in metrics.items():
                    totals[name].append(value)
        self.policy.model.eval()
        seconds = time.perf_counter() - started
        means = {name: float(np.mean(values)) for name, values in totals.items()}
        return means | {"speed/learn_tokens_per_s": epochs * batch.num_tokens / seconds}

    def accumulate(
        self, batch: Batch, loss: Loss, *, computed: Tensor | None = None, with_reference: bool = False
    ) -> dict[str, float]:
        """Add the gradient of the loss of one optimiser step to `.grad` of the masters, micro-batch by micro-batch.

        The weights of the tokens are those of the whole step: cutting it otherwise, or leaving out sequences without a
        gradient, gives the same gradient. `computed`, [B] bool, tells which are not left out.
        """
        weights = token_weights(batch.action_mask, self.aggregation, self.max_new_tokens)
        if computed is not None:
            kept = computed.nonzero().squeeze(1)
            batch, weights = batch.select(kept), weights[kept]
        tokens = float(batch.action_mask.sum().clamp(min=1))
        sums: dict[str, float] = defaultdict(float)
        for rows in batch.micro_batches(self.micro_batch_tokens):
            rows = rows.to(batch.ids.device)
            part = batch.select(rows)
            logprobs, entropy = self.logprobs(self.policy.model, part)
            terms = TokenTerms(logprobs, part.old_logprobs, part.ref_logprobs, part.advantages, part.action_mask)
            losses, reported = loss(terms)
            value = (weights[rows, : losses.shape[1]] * losses).sum()
            value.backward()
            self._collect_gradients()
            with torch.no_grad():
                reported |= {"entropy": entropy, "kl/sampler": k3(part.old_logprobs - logprobs)}
                if with_reference:
                    reported["kl/reference"] = k3(logprobs - part.ref_logprobs)
                sums["loss"] += float(value)
                for name, per_token in reported.items():
                    sums[name] += float((per_token * part.action_mask).sum()) / tokens
        return dict(sums)

    def logprobs(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the batch's tokens and entropies, [B, T]; 0 in the columns before the first action
        token.

        Padding stands on the right, where causal attention never looks: no attention mask is needed.
        """
        first, width = batch.first_action, batch.ids.shape[1]
        if first == width:  # no action token: still a function of the parameters, so that it has a (zero) gradient
            zero = model(input_ids=batch.ids[:, :1], use_cache=False).logits.float().sum() * 0.0
            return zero + torch.zeros_like(batch.action_mask), torch.zeros_like(batch.action_mask)
        logits = model(input_ids=batch.ids, use_cache=False, logits_to_keep=width - first + 1).logits[:, :-1]
        logprobs, entropy = logprobs_and_entropy(logits, batch.ids[:, first:], self.temperature)
        pad = (first, 0)
        return torch.nn.functional.pad(logprobs, pad), torch.nn.functional.pad(entropy, pad)

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, reference: Reference, wanted: Tensor | None = None) -> Tensor:
        """[B, T] log-probabilities of the batch's tokens under the reference; 0 in the sequences that are not `wanted`, if
        only some are ([B] bool)."""
        out = torch.zeros_like(batch.action_mask)
        kept = (torch.ones_like(batch.lengths) if wanted is None else wanted).nonzero().squeeze(1)
        if len(kept):
            part = batch.select(kept)
            with reference.model() as model:
                for rows in part.micro_batches(self.micro_batch_tokens):
                    logprobs, _ = self.logprobs(model, part.select(rows.to(kept.device)))
                    out[kept[rows.to(kept.device)], : logprobs.shape[1]] = logprobs
        return out

    def _collect_gradients(self) -> None:
        for name, master in self.masters.items():
            p = self.params[name]
            if p is not master and p.grad is not None:
                master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
                p.grad = None

    def _forget(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        return 0.0

    def _step(self, learning_rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, master in self.masters.items():
                if self.params[name] is not master:
                    self.params[name].copy_(master)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments and, for bfloat16, the masters, by name."""
        tensors = {f"master/{name}": p.detach() for name, p in self.masters.items() if p is not self.params[name]}
        for name, p in self.masters.items():
            tensors |= {f"optimizer/{key}/{name}": value for key, value in self.optimizer.state[p].items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError: if a tensor is for a parameter that this policy does not have.
        """
        with torch.no_grad():
            for name, master in self.masters.items():
                if master is not self.params[name]:  # the state of a float32 learner has no masters
                    master.copy_(self.params[name])
            for key, tensor in tensors.items():
                kind, _, rest = key.partition("/")
                if kind == "master":
                    self.masters[rest].copy_(tensor)
                else:
                    moment, _, name = rest.partition("/")
                    p = self.masters[name]
                    self.optimizer.state[p][moment] = tensor.to(p.device).clone()
