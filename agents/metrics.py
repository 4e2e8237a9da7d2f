"""What is reported of a step's rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ..rewards import Stop
from .functional.aggregation import skewness
from .learner import Batch
from .monitor import Sample
from .rollout import Group, Trajectory


def batch_metrics(batch: Batch) -> dict[str, float]:
    """What is learned from: the advantages of completions, each the mean over its action tokens."""
    learned = batch.valid & batch.action_mask.any(dim=1)
    advantages = (batch.advantages.sum(dim=1) / batch.num_actions.clamp(min=1))[learned]
    return {
        "advantage/mean": _mean(advantages),
        "advantage/std": float(advantages.std()) if len(advantages) > 1 else 0.0,
        "advantage/skewness": float(skewness(advantages)),
    }


def rollout_metrics(groups: Sequence[Group], kept: int) -> dict[str, float]:
    """Rewards, lengths and signal of a step, by the names of the log.

    Args:
        groups: all groups that were sampled.
        kept: how many of them are learned from.
    """
    trajectories = [t for group in groups for t in group]
    rewards = torch.tensor([t.reward for t in trajectories if t.reward is not None], dtype=torch.float32)
    correct = [t.score.correct for t in trajectories if t.score.correct is not None]
    metrics = {
        "reward/mean": _mean(rewards),
        "reward/std": float(rewards.std()) if len(rewards) > 1 else 0.0,
        "groups/no_signal": sum(_constant(group) for group in groups) / len(groups),
        "groups/sampled": float(len(groups)),
        "groups/kept": float(kept),
        "entropy": sum(t.entropy * t.num_actions for t in trajectories)
        / max(sum(t.num_actions for t in trajectories), 1),
        "length/mean": sum(t.num_actions for t in trajectories) / len(trajectories),
        "length/truncated": sum(t.truncated for t in trajectories) / len(trajectories),
        "abstained": float(sum(t.score.abstained for t in trajectories)),
        "tool_calls": float(sum(t.tool_calls for t in trajectories)),
    }
    stops = Counter(t.episode.stop for t in trajectories)
    metrics |= {f"stop/{stop}": float(stops[stop]) for stop in Stop if stop is not Stop.ANSWERED}
    if correct:
        metrics["accuracy"] = sum(correct) / len(correct)
    names = dict.fromkeys(name for t in trajectories for name in t.score.parts)
    for name in names:
        metrics[f"reward/part/{name}"] = _mean(
            torch.tensor([t.score.parts[name] for t in trajectories if name in t.score.parts])
        )
    return metrics


def samples_to_show(groups: Sequence[Group], count: int = 4) -> list[Sample]:
    """The first completion of each of the first `count` groups."""
    return [_sample(group[0]) for group in groups[:count]]


def _sample(t: Trajectory) -> Sample:
    prompt = "\n".join(m["content"] for m in t.episode.prompt)
    replies = t.episode.completion
    completion = (
        replies[0]["content"]
        if len(replies) == 1
        else "\n".join(f"{m['role']}: {m.get('content', '')}" for m in replies)
    )
    return Sample(
        prompt=prompt,
        completion=completion,
        answer="" if t.episode.answer is None else str(t.episode.answer),
        reward=t.reward,
        parts=t.score.parts,
        stop=str(t.episode.stop),
        num_tokens=t.num_actions,
        error=t.score.error,
    )


def _constant(group: Group) -> bool:
    """Whether all completions of a group have the same return: comparing them teaches nothing."""
    return len({t.reward for t in group if t.reward is not None}) < 2


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
