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
    decoding), from the same exponentials.
    """
    rows, vocabulary = logits.shape
    if sampling.temperature not in (0.0, 1.0):
        logits = logits.float() / sampling.temperature
    most = logits.amax(dim=-1, keepdim=True).float()
    powers = torch.empty(rows, -(-vocabulary // BLOCK) * BLOCK, device=logits.device)
    powers[:, vocabulary:] = 0.0
    torch.sub(logits, most, out=powers[:, :vocabulary]).exp_()
    blocks = powers.view(rows, -1, BLOCK).sum(dim=-1)
    total = blocks.sum(dim=-1)

    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
    elif sampling.top_p < 1 or 0 < sampling.top_k < vocabulary:
        tokens = _invert_likeliest(powers[:, :vocabulary], uniform, sampling)
    else:
        tokens = _invert(powers, blocks, uniform)
    logprobs = (logits.gather(-1, tokens.unsqueeze(-1)) - most).squeeze(-1) - total.log()
    if not entropies:
        return Drawn(tokens, logprobs, None)
    # An impossible token has logit −∞ and adds nothing: below −10⁴ the exponential is 0 as well.
    weighted = torch.linalg.vecdot(powers[:, :vocabulary], (logits - most).clamp_(min=-1e4))
    return Drawn(tokens, logprobs, total.log() - weighted / total)


def _invert(powers: Tensor, blocks: Tensor, uniform: Tensor) -> Tensor:
    """Tokens by inversion, first among the blocks' sums [B, V / BLOCK], then in the block alone."""
    block, rest = _first_above(blocks, uniform)
    rows = torch.arange(len(powers), device=powers.device)
    token, _ = _first_above(powers.view(len(powers), -1, BLOCK)[rows, block], rest)
    return block * BLOCK + token


def _invert_likeliest(powers: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Tokens by inversion among the likeliest only, which top-k and top-p leave."""
    vocabulary = powers.shape[-1]
    k = min(sampling.top_k, vocabulary) or min(NUCLEUS, vocabulary)
    values, order = powers.topk(k, dim=-1)
    if not sampling.top_k and bool((values.sum(dim=-1) < sampling.top_p * powers.sum(dim=-1)).any()):
        values, order = powers.sort(dim=-1, descending=True)
    whole = (values if sampling.top_k else powers).double().sum(dim=-1, keepdim=True)
    values = values.double()
    # A token is out if those likelier than it have top_p already: the likeliest always stays.
    values = values.masked_fill(values.cumsum(dim=-1) - values >= sampling.top_p * whole, 0.0)
    place, _ = _first_above(values, uniform)
    return order.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def _first_above(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first place [B] at which the cumulative weight [B, n] exceeds the part `uniform` [B] of the whole, and how far
    into the weight of that place it is, [B] in [0, 1)."""
    cumulative = weights.double().cumsum(dim=-1)
    last = cumulative[:, -1]
    # A number just below 1 must not be rounded to the whole: the places after the last that has weight have none.
    target = torch.minimum(uniform * last, torch.nextafter(last, torch.zeros_like(last))).unsqueeze(-1)
    place = torch.searchsorted(cumulative, target, right=True)
    weight = weights.gather(-1, place).double()
    before = cumulative.gather(-1, place) - weight
    inside = ((target - before) / weight).clamp(0.0, 1.0 - 2**-53)
    return place.squeeze(-1), inside.squeeze(-1)
