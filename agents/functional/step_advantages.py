"""Advantages of single steps, by comparing what was done in the same state."""

from __future__ import annotations

import torch
from torch import Tensor

from .advantages import group_centred, group_normalized
from .tensors import upcast


def returns_to_go(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """[B, T]: at the end of each step the discounted return from it on, R_k = r_k + γ R_{k+1}; 0 elsewhere.

    Args:
        rewards: [B, T], of each step, at its end.
        ends: [B, T], 1 on the last token of every step.
    """
    returns = torch.zeros_like(upcast(rewards))
    following = returns.new_zeros(len(returns))
    for t in range(rewards.shape[1] - 1, -1, -1):
        following = torch.where(ends[:, t] > 0, rewards[:, t] + gamma * following, following)
        returns[:, t] = torch.where(ends[:, t] > 0, following, 0.0)
    return returns


def anchored(
    returns: Tensor, anchors: Tensor, ends: Tensor, groups: Tensor, valid: Tensor, deviation: bool = False
) -> Tensor:
    """GiGPO's step advantage (arXiv 2505.10978, eq. 6 and 7): the return from a step on, compared with those of the other
    steps that the trajectories of the group took in the same state (the anchor state). A state that was met once gives 0.

    Args:
        returns: [B, T], `returns_to_go`, read where a step ends.
        anchors: [B, T] int64, a number for the state that the step was taken in, read where it ends.
        ends: [B, T], 1 on the last token of every step.
        groups: [B] int64; valid: [B] bool. Steps of trajectories that are not valid are in no mean.
        deviation: divide by the deviation of the step group, too.

    Returns:
        [B, T], on all tokens up to the end of the last step.
    """
    steps = (ends > 0) & valid.unsqueeze(1)
    pairs = torch.stack([groups.unsqueeze(1).expand_as(anchors)[steps], anchors[steps]], dim=1)
    same = torch.unique(pairs, dim=0, return_inverse=True)[1] if len(pairs) else pairs[:, 0]
    compare = group_normalized if deviation else group_centred
    found = upcast(returns)[steps]
    values = torch.zeros_like(upcast(returns))
    values[steps] = compare(found, same, torch.ones_like(found, dtype=torch.bool))
    # A token has what the step that it belongs to has: that of the next end.
    width = ends.shape[1]
    at = torch.where(ends > 0, torch.arange(width, device=ends.device), width)
    following = at.flip(1).cummin(dim=1).values.flip(1)
    return torch.where(following < width, values.gather(1, following.clamp(max=width - 1)), 0.0)
