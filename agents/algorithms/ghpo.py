"""Guided hybrid policy optimization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...envs import TextEnv, Tokenizer
from ...envs.wrappers import Hint
from ..engines import Sampling
from ..functional import Aggregation, group_normalized
from ..learner import Batch
from ..rollout import Group
from ..rollout.trajectory import all_failed
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class GHPOConfig(ClippedGroupConfig):
    """Options of GHPO."""

    hints: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the reference solution to show, one after the other, while no completion of a prompt is right."""
    solution: str | None = None
    """Column of the dataset that has the reference solution. None: what the environment demonstrates."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hints", tuple(self.hints))  # JSON gives a list
        if not self.hints or list(self.hints) != sorted({*self.hints}) or not 0 < self.hints[0] <= self.hints[-1] <= 1:
            raise ValueError(f"hints are shares of the solution that rise, above 0 and at most 1, not {self.hints}")


class GHPO(ClippedAgent[GHPOConfig]):
    """Guided hybrid policy optimization (Liu et al. 2025, arXiv 2507.10628, §3): a prompt that the policy never gets right is
    asked again with the first quarter of the reference solution in it, then a half, then three quarters (`Hint`).

    What is learned from is GRPO on the last completions of every prompt, given the prompt that they answered: with the
    hint, if there was one. The hint's own tokens have mask 0. The earlier tries are counted in the sampled tokens and
    forgotten. The log's "accuracy" is that of the last completions, "accuracy/without_hints" that of the first. Held-out
    problems are asked without hints.
    """

    Config = GHPOConfig
    summary: ClassVar[str] = "GRPO with the beginning of the solution in prompts that are too hard"
    paper: ClassVar[str] = "arXiv 2507.10628"

    def framed(self, env: TextEnv) -> TextEnv:
        if isinstance(env, Hint):
            raise ValueError("GHPO gives the hints itself: pass the environment without Hint")
        return Hint(env, solution=self.config.solution)

    def roll_out(self, rows: Sequence[int], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[Group]:
        groups = super().roll_out(rows, seeds, sampling)
        self.unaided += [float(t.solved) for group in groups for t in group if t.solved is not None]
        for stage, share in enumerate(self.config.hints, start=1):
            hard = [i for i, group in enumerate(groups) if all_failed(group)]
            if not hard:
                break
            self.hinted += len(hard) if stage == 1 else 0
            self.sampled_tokens += sum(t.num_sampled for i in hard for t in groups[i])
            fresh = [[_derived(seed, stage) for seed in seeds[i]] for i in hard]
            again = self.rollout.run([rows[i] for i in hard], fresh, sampling, [{"hint": share}] * len(hard))
            self.rescued += sum(not all_failed(group) for group in again)
            for i, group in zip(hard, again, strict=True):
                groups[i] = group
        return groups

    def advantages(self, batch: Batch) -> Tensor:
        return group_normalized(batch.rewards, batch.groups, batch.valid)

    def after_update(self, batch: Batch) -> dict[str, float]:
        metrics = {
            "hints/groups": float(self.hinted),
            "hints/rescued": float(self.rescued),
            "accuracy/without_hints": float(np.mean(self.unaided)) if self.unaided else 0.0,
        }
        self._count_afresh()
        return super().after_update(batch) | metrics

    def prepare(self) -> None:
        super().prepare()
        self._count_afresh()

    def _count_afresh(self) -> None:
        self.hinted = self.rescued = 0
        self.unaided: list[float] = []

    def _check_prompts(self, tokenizer: Tokenizer) -> None:
        assert isinstance(self.env, Hint)
        self.env.share = self.config.hints[-1]  # the longest that prompts become
        super()._check_prompts(tokenizer)
        self.env.share = 0.0


def _derived(seed: int, stage: int) -> int:
    """The seed of an episode that is made again."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> np.uint64(2))
