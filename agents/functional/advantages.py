"""Advantages of whole completions: how much better one was than could be expected.

Throughout: rewards are [B], and may hold anything, NaN included, where they are not valid; groups are [B] int64, the same
number for the completions of one prompt; valid is [B] bool. Completions that are not valid (their reward abstained) are
in no statistics and have advantage 0. So have groups with fewer than two valid completions, and groups in which all
rewards are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .returns import whiten
from .tensors import differ, group_max, group_sum, upcast


def reinforce(rewards: Tensor, valid: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """R − b (Williams 1992), [B].

    Args:
        baseline: a number, [] or [B]; `batch_mean` and `moving_average` are common ones.
    """
    return torch.where(valid, upcast(rewards) - baseline, 0.0)


def batch_mean(rewards: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid rewards, []; 0 if there are none."""
    return torch.where(valid, upcast(rewards), 0.0).sum() / valid.sum().clamp(min=1)


def moving_average(average: float | None, rewards: Tensor, valid: Tensor, decay: float = 0.95) -> float | None:
    """b ← decay · b + (1 − decay) · mean R, the batch's mean itself at first; unchanged by a batch without valid rewards."""
    if not valid.any():
        return average
    mean = float(batch_mean(rewards, valid))
    return mean if average is None else decay * average + (1 - decay) * mean


def remax(rewards: Tensor, greedy_rewards: Tensor, valid: Tensor) -> Tensor:
    """R − R(greedy completion of the same prompt) (ReMax, arXiv 2310.10505, alg. 2), [B]; 0 where the greedy completion's
    reward is NaN because it abstained.

    Args:
        greedy_rewards: [B].
    """
    return reinforce(rewards, valid & ~greedy_rewards.isnan(), upcast(greedy_rewards))


def group_mean(values: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """μ: for each completion, the mean of `values` [B] over the valid ones of its group; [B], 0 where there are none."""
    values = torch.where(valid, upcast(values), 0.0)
    return group_sum(values, groups) / group_sum(upcast(valid), groups).clamp(min=1)


def group_centred(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """R_i − μ (Dr. GRPO, arXiv 2503.20783, §3.2), [B]."""
    return torch.where(_compared(rewards, groups, valid), upcast(rewards) - group_mean(rewards, groups, valid), 0.0)


def group_normalized(rewards: Tensor, groups: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """GRPO's outcome advantage, A_i = (R_i − μ) / (σ + eps) within a group, σ unbiased (arXiv 2402.03300, §4.1.2), [B]."""
    centred = group_centred(rewards, groups, valid)
    return torch.where(centred != 0, centred / (_group_deviation(centred, groups, valid) + eps), 0.0)


def group_normalized_steps(
    step_rewards: Tensor, step_ends: Tensor, groups: Tensor, valid: Tensor, eps: float = 1e-6
) -> Tensor:
    """GRPO's process advantage (arXiv 2402.03300, §4.1.3): the rewards of all steps of a group are normalised together, and
    a token has the sum of those that come at or after it.

        r̃_j = (r_j − mean) / (std + eps),   A_t = Σ r̃_j over the steps j that end at or after t

    Steps are compared with those of other completions, too: a group with fewer than two valid ones has advantage 0.

    Args:
        step_rewards: [B, T], read where a step ends.
        step_ends: [B, T], 1 on the last token of every step.

    Returns:
        [B, T], on all tokens up to the end of the last step.
    """
    several = group_sum(valid.long(), groups) > 1
    ends = (step_ends > 0) & (valid & several).unsqueeze(1)
    steps = upcast(step_rewards)[ends]
    normalized = torch.zeros_like(upcast(step_rewards))
    step_groups = groups.unsqueeze(1).expand_as(ends)[ends]
    normalized[ends] = group_normalized(steps, step_groups, torch.ones_like(steps, dtype=torch.bool), eps)
    return normalized.flip(1).cumsum(1).flip(1)


def rloo(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """R_i − mean_{j≠i} R_j (RLOO, arXiv 2402.14740, eq. 8), which is (R_i − μ) n / (n − 1), [B]."""
    count = group_sum(upcast(valid), groups)
    return group_centred(rewards, groups, valid) * count / (count - 1).clamp(min=1)


def opo(rewards: Tensor, lengths: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """R_i − b, b = Σ_j |o_j| R_j / Σ_j |o_j| (OPO, arXiv 2505.23585, eq. 6), [B].

    Args:
        lengths: [B], |o|, action tokens of each completion. Groups without any have advantage 0.
    """
    lengths = torch.where(valid, upcast(lengths), 0.0)
    total = group_sum(lengths, groups)
    known = torch.where(valid, upcast(rewards), 0.0)
    baseline = group_sum(lengths * known, groups) / total.clamp(min=1)
    return torch.where(_compared(rewards, groups, valid) & (total > 0), known - baseline, 0.0)


def group_pass_at_k(rewards: Tensor, groups: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """What the best completion adds to the best of its group: (R_1 − R_2) / (σ + eps) for the best, R_2 the second best
    reward, and 0 for the others (Tang et al. 2025, arXiv 2503.19595), [B]. Where two are best, neither adds anything."""
    known = torch.where(valid, upcast(rewards), -torch.inf)
    best = valid & (known == group_max(known, groups))
    alone = best & (group_sum(upcast(best), groups) == 1) & _compared(rewards, groups, valid)
    second = group_max(torch.where(best, -torch.inf, known), groups)
    deviation = _group_deviation(group_centred(rewards, groups, valid), groups, valid)
    return torch.where(alone, (known - second) / (deviation + eps), 0.0)


def spo(rewards: Tensor, tracker_means: Tensor, valid: Tensor, mask: Tensor) -> Tensor:
    """Single-stream policy optimization (Xu & Ding 2025, arXiv 2509.13232): R − α/(α+β), whitened over the action tokens of
    the batch; no group.

    Args:
        tracker_means: [B], α/(α+β) of each prompt's Beta tracker before this batch.
        mask: [B, T].

    Returns:
        [B, T].
    """
    advantages = reinforce(rewards, valid, upcast(tracker_means)).unsqueeze(1).expand(mask.shape)
    return whiten(advantages, mask * valid.unsqueeze(1))


def _compared(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """[B] bool: valid completions of groups with rewards that differ, so that comparing them teaches something."""
    rewards = upcast(rewards)
    high = group_max(torch.where(valid, rewards, -torch.inf), groups)
    low = -group_max(torch.where(valid, -rewards, -torch.inf), groups)
    return valid & differ(low, high)


def _group_deviation(centred: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """σ, unbiased, of rewards that are centred in their groups."""
    count = group_sum(valid.to(centred.dtype), groups)
    return (group_sum(centred.square(), groups) / (count - 1).clamp(min=1)).sqrt()
