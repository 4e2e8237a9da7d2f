"""Which completions are learned from. Groups and valid as in `advantages`; each gives [B] bool, False where not valid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .tensors import group_max, upcast


def best_of_group(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """The best completions of each prompt, all of them where several are equally good: R_i = max_j R_j and R_i > 0 (RAFT,
    arXiv 2304.06767, alg. 1; RAFT++, arXiv 2504.11343, §2)."""
    known = torch.where(valid, upcast(rewards), -torch.inf)
    return valid & (known == group_max(known, groups)) & (known > 0)


def cppo_keep(advantages: Tensor, groups: Tensor, valid: Tensor, pruning: float) -> Tensor:
    """Of the n valid completions of each group, the k = ⌊n (1 − P)⌋ with the largest |A|, at least one; of equals the first
    (CPPO, arXiv 2503.22342, eq. 8).

    Args:
        advantages: [B].
        pruning: P, the share to leave out.

    Raises:
        ValueError: unless 0 ≤ pruning < 1.
    """
    if not 0 <= pruning < 1:
        raise ValueError(f"pruning is the share of completions to leave out, at least 0 and below 1, not {pruning}")
    kept = torch.zeros_like(valid)
    for number in torch.unique(groups).tolist():
        members = ((groups == number) & valid).nonzero().flatten()
        # Rounded first, or ⌊10 · (1 − 0.9)⌋ would be 0.
        count = max(1, math.floor(round(len(members) * (1 - pruning), 6)))
        order = upcast(advantages)[members].abs().argsort(descending=True, stable=True)
        kept[members[order[:count]]] = True
    return kept
