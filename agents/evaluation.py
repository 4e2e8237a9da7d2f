"""Measuring a policy on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import scipy

from .rollout import Group


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found. Problems whose verifier abstained on every sample are in no estimate but `mean_length`.

    Attributes:
        problems: how many were asked.
        samples: completions of each.
        pass_at: k → share of the problems that at least one of k samples solves, for k = 1, 2, 4, … up to `samples`;
            empty if the reward has no part named "correct".
        reward: mean reward of a completion.
        mean_length: tokens that the policy wrote per completion.
        truncated: share of the completions that were cut at a limit.
        abstained: completions whose verifier could not tell.
        tool_use: share of the completions in which a tool was called; None where there are no tools.
    """

    problems: int
    samples: int
    pass_at: dict[int, Estimate]
    reward: Estimate
    mean_length: Estimate
    truncated: float
    abstained: int
    tool_use: Estimate | None = None

    @property
    def accuracy(self) -> float | None:
        """pass@1, or None if the reward does not say what is correct."""
        return self.pass_at[1].value if self.pass_at else None

    def __str__(self) -> str:
        lines = [
            f"{self.problems} problems, {self.samples} sample{'s' * (self.samples > 1)} each (95 % confidence intervals)"
        ]
        lines += [f"  pass@{k:<7} {estimate}" for k, estimate in self.pass_at.items()]
        lines += [f"  reward      {self.reward}", f"  length      {self.mean_length} tokens"]
        lines += [f"  tool use    {self.tool_use}"] if self.tool_use is not None else []
        lines += [f"  truncated   {self.truncated:.1%}"] if self.truncated else []
        lines += (
            [f"  abstained   {self.abstained} completions that the verifier could not judge"] if self.abstained else []
        )
        return "\n".join(lines)


def summarize(groups: Sequence[Group]) -> Evaluation:
    """The estimates for groups of completions, one group for each problem."""
    trajectories = [t for group in groups for t in group]
    samples = max(map(len, groups))
    correct = [[t.score.correct for t in group if t.score.correct is not None] for group in groups]
    judged = [verdicts for verdicts in correct if verdicts]
    sizes = [2**i for i in range(samples.bit_length())]
    with_tools = "tool_calls" in trajectories[0].score.parts
    return Evaluation(
        problems=len(groups),
        samples=samples,
        pass_at={
            k: _proportion([pass_at_k(len(v), sum(v), k) for v in judged if len(v) >= k]) for k in sizes if judged
        },
        reward=_mean([[t.reward for t in group if t.reward is not None] for group in groups]),
        mean_length=_mean([[t.num_actions for t in group] for group in groups]),
        truncated=float(np.mean([t.truncated for t in trajectories])),
        abstained=sum(t.score.abstained for t in trajectories),
        tool_use=_mean([[t.score.parts["tool_calls"] > 0 for t in g] for g in groups]) if with_tools else None,
    )


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate that at least one of k samples is right if c of n were: 1 − C(n−c, k)/C(n, k) (arXiv
    2107.03374, eq. 1).

    Raises:
        ValueError: unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 ≤ c ≤ n and 1 ≤ k ≤ n, not n={n}, c={c}, k={k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def _proportion(values: Sequence[float]) -> Estimate:
    """Mean of values in [0, 1] with Wilson's interval: exact for one sample per problem, a little wide for several."""
    if not values:
        return Estimate(float("nan"), float("nan"), float("nan"))
    mean = float(np.mean(values))
    interval = scipy.stats.binomtest(round(mean * len(values)), len(values)).proportion_ci(method="wilson")
    return Estimate(mean, min(float(interval.low), mean), max(float(interval.high), mean))


def _mean(groups: Sequence[Sequence[float]]) -> Estimate:
    """Mean of all values; its interval is of the ratio estimator over groups, whose values depend on each other."""
    groups = [values for values in groups if values]
    if not groups:
        return Estimate(float("nan"), float("nan"), float("nan"))
    sums, counts = np.array([sum(v) for v in groups], float), np.array([len(v) for v in groups], float)
    mean = float(sums.sum() / counts.sum())
    if len({v for values in groups for v in values}) == 1 or len(groups) == 1:
        return Estimate(mean, mean, mean)
    interval = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Estimate(mean, min(float(interval.low), mean), max(float(interval.high), mean))
