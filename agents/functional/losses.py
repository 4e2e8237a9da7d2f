"""Policy losses, minimised, per token."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient_clip(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective, ℓ = max(−ρA, −clip(ρ, 1 − ε_low, 1 + ε_high) A), ρ = π/π_old (arXiv 1707.06347, eq. 7).

    Args:
        logprobs: [B, T], with gradient.
        old_logprobs: [B, T], of the policy that sampled.
        advantages: [B, T].
        clip_low, clip_high: how far the ratio may fall below and rise above 1 before its gradient ends.

    Returns:
        The loss [B, T], and [B, T] bool: where the clip is active and the token has no gradient.
    """
    ratio = torch.exp((logprobs - old_logprobs).clamp(-20.0, 20.0))
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return torch.maximum(unclipped, clipped), clipped > unclipped
