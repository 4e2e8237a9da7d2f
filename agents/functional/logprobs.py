"""Log-probabilities of chosen tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def logprobs_and_entropy(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of `ids` and the entropy of the distribution, both at `temperature`, in float32 arithmetic.

    Args:
        logits: [..., V], of any floating type.
        ids: [...] int64.

    Returns:
        Log-probabilities [...] with gradient, and entropies [...] in nats without.
    """
    logits = logits.float() / temperature
    normaliser = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - normaliser
    with torch.no_grad():
        entropy = normaliser - (torch.softmax(logits, dim=-1) * logits).sum(-1)
    return logprobs, entropy
