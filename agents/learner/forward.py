"""One pass of a model over a batch: log-probabilities, entropies and values of its action tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .batch import Batch
from .head import head_of, trunk


@dataclass(frozen=True, slots=True)
class Forward:
    """What a pass gives; 0 on tokens that are no actions.

    Attributes:
        logprobs: [B, T], with gradient.
        entropy: [B, T] in nats, with gradient if it was asked for.
        values: [B, T, K] of the states before the tokens, with gradient; None without a value head.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None


def forward(
    model: Any,
    batch: Batch,
    temperature: float,
    *,
    body: Callable[..., Any] | None = None,
    value_head: nn.Linear | None = None,
    entropy_gradient: bool = False,
) -> Forward:
    """A pass of `model`, a causal language model, over a batch; `body` is its trunk in another form, if there is one.

    Padding stands on the right, where causal attention never looks: no attention mask is needed. Only the action tokens
    go through the model's head (`Head`).
    """
    # Checkpoints are computed again outside of this function, and compiled code is not seen by the mode.
    as_is = body is not None or getattr(model, "is_gradient_checkpointing", False)
    with nullcontext() if as_is else ShortAttention():
        states = (trunk(model) if body is None else body)(input_ids=batch.ids, use_cache=False).last_hidden_state
    actions = batch.action_mask[:, 1:] > 0  # what column t + 1 holds is predicted from column t
    chosen = states[:, :-1][actions]
    logprobs, entropy = head_of(model).logprobs(
        chosen, batch.ids[:, 1:][actions], temperature, entropy_gradient=entropy_gradient
    )
    return Forward(
        _spread(logprobs, batch.action_mask),
        _spread(entropy, batch.action_mask),
        None if value_head is None else _spread(value_head(chosen).float(), batch.action_mask),
    )


class ShortAttention(TorchFunctionMode):
    """Within this context, attention over short sequences of bfloat16 on the CPU is computed in float32.

    There the backward pass of torch's kernel takes bfloat16 in blocks that short sequences leave mostly empty: for 100
    tokens it is 4 times slower than for float32, for 512 tokens faster.
    """

    LONGEST = 256

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            args, kwargs = (
                (),
                dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args)) | kwargs,
            )
            query = kwargs["query"]
            if query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[-2] <= self.LONGEST:
                exact = {n: x.float() for n, x in kwargs.items() if isinstance(x, Tensor) and x.is_floating_point()}
                return func(**kwargs | exact).to(query.dtype)
        return func(*args, **kwargs)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """[N, …] values of the action tokens, at their places in [B, T, …]."""
    return values.new_zeros(*mask.shape, *values.shape[1:]).index_put((*(mask > 0).nonzero(as_tuple=True),), values)
