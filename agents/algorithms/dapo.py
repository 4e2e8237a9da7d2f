"""Decoupled clip and dynamic sampling policy optimization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...rewards import SoftOverlong
from ..functional import group_normalized
from ..learner import Batch
from ..rollout import Trajectory
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class DAPOConfig(ClippedGroupConfig):
    """Options of DAPO."""

    clip_high: float = 0.28
    """How far the ratio may rise above 1: higher than below, so that unlikely tokens can gain probability."""
    filter_groups: tuple[str, ...] = ("dynamic_sampling",)
    """Groups in which all completions have the same return are left out, and replaced, until the step has prompts_per_step
    groups with a signal or, after ten rounds, makes do with those it has; none, reject, …: as everywhere."""
    overlong_cache: float = 0.2
    """Soft overlong punishment: the share of max_new_tokens over which it grows from 0 to −1; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._between(0, 1, "overlong_cache")


class DAPO(ClippedAgent[DAPOConfig]):
    """Decoupled clip and dynamic sampling policy optimization (Yu et al. 2025, arXiv 2503.14476, eq. 8–13).

    GRPO with four changes: a higher upper clip, dynamic sampling, the mean over tokens (`aggregation`), and a soft
    punishment of overlong completions, added to the reward. Its overlong filtering is `mask_truncated`.

        punishment = 0 for |o| ≤ L − L_cache, then −(|o| − (L − L_cache)) / L_cache, at least −1

    with |o| the length of a completion, of several turns the longest, and L = max_new_tokens.
    """

    Config = DAPOConfig
    summary: ClassVar[str] = "GRPO with a higher upper clip, dynamic sampling, token mean and overlong punishment"
    paper: ClassVar[str] = "arXiv 2503.14476"

    def columns(self, trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
        limit, share = self.config.max_new_tokens, self.config.overlong_cache
        assert limit is not None
        if not share:
            return {}
        # The limit is one of a turn, and so is the length that is compared with it.
        longest = [max((end - start for start, end in t.turns), default=0) for t in trajectories]
        turns = [replace(t.episode, num_tokens=tokens) for t, tokens in zip(trajectories, longest)]
        punishments = SoftOverlong(limit, max(1, round(share * limit))).score(turns)
        return {"punishment": torch.tensor([p.value or 0.0 for p in punishments])}

    def estimate(self, batch: Batch) -> Batch:
        if "punishment" in batch.columns:
            batch = replace(batch, rewards=batch.rewards + batch.columns["punishment"])
        return super().estimate(batch)

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)
