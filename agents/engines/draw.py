"""Drawing the next tokens from logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Sampling

# The width of a block of the vocabulary: its square is about the number of words of a language model.
BLOCK = 256

# So many of the likeliest tokens nearly always hold the nucleus, and finding them costs less than sorting all.
NUCLEUS = 1024


class Drawn(NamedTuple):
    """Next tokens [B] int64, their log-probabilities [B] and the entropies of their distributions [B], both float32."""

    tokens: Tensor
    logprobs: Tensor
    entropies: Tensor | None


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, *, entropies: bool = False) -> Drawn:
    """Next tokens from `logits` [B, V] and one uniform number each, [B] float64 in [0, 1).

    By inversion of the distribution function: the token is the first at which the cumulative probability exceeds the
    uniform number. One number decides one token, which makes a sample a function of its seed, whatever the other rows
    hold. Log-probabilities and entropies are those of the whole distribution at the temperature (at 1 for greedy
    decoding).
    """
    rows, vocabulary = logits.shape
    if sampling.temperature not in (0.0, 1.0):
        logits = logits.float() / sampling.temperature
    probs = torch.empty(rows, -(-vocabulary // BLOCK) * BLOCK, dtype=torch.float32, device=logits.device)
    probs[:, vocabulary:] = -torch.inf
    probs[:, :vocabulary] = logits
    torch.softmax(probs, dim=-1, out=probs)

    uniform = uniform.unsqueeze(-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1, keepdim=True)
    elif sampling.top_p < 1 or 0 < sampling.top_k < vocabulary:
        tokens = _invert_likeliest(probs[:, :vocabulary], uniform, sampling)
    else:
        tokens = _invert(probs, uniform)
    logprobs = probs.gather(-1, tokens).log().squeeze(-1)
    tokens = tokens.squeeze(-1)
    if not entropies:
        return Drawn(tokens, logprobs, None)
    # Σ p log p, where 0 log 0 is 0.
    logs = probs.clamp(min=torch.finfo(probs.dtype).tiny).log_()
    return Drawn(tokens, logprobs, -torch.linalg.vecdot(probs, logs))


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B, 1] by inversion, first among the sums of blocks of the vocabulary, then in the block alone."""
    blocks = probs.view(len(probs), -1, BLOCK)
    sums = blocks.sum(dim=-1)
    cumulative = sums.cumsum(dim=-1, dtype=torch.float64)
    target = uniform * _below(cumulative)
    block = torch.searchsorted(cumulative, target, right=True)
    rest = target - (cumulative.gather(-1, block) - sums.gather(-1, block))
    rows = torch.arange(len(probs), device=probs.device)
    inside = blocks[rows, block.squeeze(-1)].cumsum(dim=-1, dtype=torch.float64)
    # By rounding, the rest may be outside the block.
    token = torch.searchsorted(inside, rest.clamp_(min=0.0).minimum(_below(inside)), right=True)
    return block * BLOCK + token


def _invert_likeliest(probs: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Tokens [B, 1] by inversion among the likeliest only, which top-k and top-p leave."""
    vocabulary = probs.shape[-1]
    k = min(sampling.top_k, vocabulary) or min(NUCLEUS, vocabulary)
    values, order = probs.topk(k, dim=-1)
    if not sampling.top_k and bool((values.sum(dim=-1) < sampling.top_p * probs.sum(dim=-1)).any()):
        values, order = probs.sort(dim=-1, descending=True)
    whole = (values if sampling.top_k else probs).double().sum(dim=-1, keepdim=True)
    values = values.double()
    # A token is out if those likelier than it have top_p already: the likeliest always stays.
    values = values.masked_fill(values.cumsum(dim=-1) - values >= sampling.top_p * whole, 0.0)
    cumulative = values.cumsum(dim=-1)
    return order.gather(-1, torch.searchsorted(cumulative, uniform * _below(cumulative), right=True))


def _below(cumulative: Tensor) -> Tensor:
    """A number just below the last of each row, [B, 1]: places after the last that has weight must not be found."""
    return cumulative[:, -1:] * (1.0 - 2.0**-52)
