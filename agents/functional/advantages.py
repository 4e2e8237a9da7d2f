"""Advantages: how much better a completion was than could be expected."""

from __future__ import annotations

import torch
from torch import Tensor


def group_normalized(rewards: Tensor, groups: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """GRPO's outcome advantage, A_i = (R_i − μ) / (σ + eps) within a group (arXiv 2402.03300, §4.1.2).

    μ and σ (unbiased) run over the valid completions of the group. A completion that is not valid (its reward
    abstained) has advantage 0, and so has a group with fewer than two valid completions or with σ = 0.

    Args:
        rewards: [B]; the entries that are not valid may hold anything, NaN included.
        groups: [B] int64 in [0, B), the same number for completions of the same prompt.
        valid: [B] bool.

    Returns:
        [B] float32.
    """
    rewards = torch.where(valid, rewards.float(), 0.0)
    ones = valid.float()

    def per_group(values: Tensor) -> Tensor:
        return torch.zeros(len(values), dtype=torch.float32, device=values.device).index_add(0, groups, values)[groups]

    count = per_group(ones)
    mean = per_group(rewards) / count.clamp(min=1)
    centred = (rewards - mean) * ones
    std = (per_group(centred.square()) / (count - 1).clamp(min=1)).sqrt()
    # A constant group can have a deviation of rounding size; dividing by it would turn rounding into signal.
    constant = std <= 1e-6 * mean.abs()
    return torch.where((count < 2) | constant, 0.0, centred / (std + eps))
