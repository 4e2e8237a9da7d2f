"""Advantages in trees: what completions that branched off each other are compared with, and what a token that several of
them share is worth.

Rewards, groups and valid are as in `advantages`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .advantages import group_normalized
from .tensors import upcast


def token_origins(parents: Tensor, forks: Tensor, width: int) -> Tensor:
    """[B, T] int64: the row that first had the token. Two rows share token t if its origin in both is the same.

    Args:
        parents: [B] int64, the row that each row branched off, which stands before it; -1 for none.
        forks: [B] int64, how many tokens it has from its parent.
        width: T.
    """
    origins = torch.arange(len(parents)).unsqueeze(1).repeat(1, width)
    for row, (parent, fork) in enumerate(zip(parents.tolist(), forks.tolist(), strict=True)):
        if parent >= row:
            raise ValueError(f"row {row} branched off row {parent}, which does not stand before it")
        if parent >= 0:
            origins[row, :fork] = origins[parent, :fork]
    return origins


def tree_roots(parents: Tensor) -> Tensor:
    """[B] int64: the row at the root of each row's tree; `parents` as in `token_origins`."""
    return token_origins(parents, torch.ones_like(parents), 1)[:, 0]


def shared_mean(advantages: Tensor, origins: Tensor, mask: Tensor) -> Tensor:
    """ARPO's hard attribution (arXiv 2507.19849, §3.2): a token on one leaf alone has the advantage of the leaf, a token
    that d leaves share has the mean of theirs.

    Args:
        advantages: [B], of each leaf.
        origins: [B, T], see `token_origins`.
        mask: [B, T], the action mask; rows that are not valid have none and are in no mean.

    Returns:
        [B, T], 0 where the mask is 0.
    """
    width = origins.shape[1]
    # The same number for the copies of a token.
    token = origins * width + torch.arange(width, device=origins.device)
    mask = upcast(mask)
    sums = mask.new_zeros(origins.numel()).index_add(0, token.flatten(), (mask * advantages.unsqueeze(1)).flatten())
    counts = mask.new_zeros(origins.numel()).index_add(0, token.flatten(), mask.flatten())
    return mask * (sums / counts.clamp(min=1))[token]


def tree_normalized(rewards: Tensor, trees: Tensor, groups: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """Tree-GRPO (arXiv 2509.21240, §3.3): A = z within the tree + z over all leaves of the prompt, z = (R - μ) / (σ + eps),
    [B]. In a tree with one leaf the first is 0.

    Args:
        trees: [B] int64, the same number for the leaves of a tree (`tree_roots`).
    """
    return group_normalized(rewards, trees, valid, eps) + group_normalized(rewards, groups, valid, eps)
