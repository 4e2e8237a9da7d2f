"""Statistics over the runs of a comparison, as Agarwal et al. 2021 (arXiv 2108.13264) recommend them.

Scores come as strata, an array of the runs' scores for each task, so that bootstrapping resamples the runs of each task by
themselves (stratified bootstrap, §3 there). A comparison on one environment has one stratum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy

from tokengym.agents import Estimate

RESAMPLES = 5000
NAN = float("nan")


def mean(*strata: Sequence[float]) -> Estimate:
    """Mean over all runs, with its 95 % bootstrap interval; no interval (NaN) where a stratum has fewer than two runs."""
    return _interval(strata, lambda *s, axis=-1: np.concatenate(s, axis).mean(axis))


def interquartile_mean(*strata: Sequence[float]) -> Estimate:
    """Mean of the middle half of all runs: floor(n / 4) are cut off at either end, so none of fewer than four."""
    return _interval(strata, lambda *s, axis=-1: scipy.stats.trim_mean(np.concatenate(s, axis), 0.25, axis))


def improvement(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Estimate:
    """Probability that a run of ours scores higher than one of theirs, ties counted half: the mean over the strata of
    Mann-Whitney's U / (n m)."""
    count = len(ours)

    def probability(*s: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(s[:count], s[count:], strict=True)
        return np.mean([_higher(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)) for x, y in pairs], axis=0)

    return _interval([*ours, *theirs], probability)


def tokens_to_reach(curve: Sequence[tuple[float, float | None]], threshold: float) -> float:
    """Of a curve of (tokens, score), the tokens at the first score that is at least `threshold`; infinity if none is."""
    return next((tokens for tokens, score in curve if score is not None and score >= threshold), math.inf)


def _higher(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x[..., :, None] - y[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1))


def _interval(strata: Sequence[Sequence[float]], statistic: Callable[..., Any]) -> Estimate:
    samples = [np.asarray(stratum, float) for stratum in strata]
    if any(len(sample) == 0 for sample in samples):
        return Estimate(NAN, NAN, NAN)
    value = float(statistic(*samples))
    if any(len(sample) < 2 for sample in samples):
        return Estimate(value, NAN, NAN)
    # Several samples that are not paired are resampled each by itself: the stratified bootstrap.
    interval = scipy.stats.bootstrap(
        samples, statistic, paired=False, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
