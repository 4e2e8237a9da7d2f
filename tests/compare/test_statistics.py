"""Statistics over runs, against scipy, against all resamples that there are, and by their properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from tokengym.compare.statistics import improvement, interquartile_mean, mean, tokens_to_reach

scores = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=2, max_size=6)


@given(scores, scores)
def test_improvement_is_mann_whitneys_u(x: list[float], y: list[float]) -> None:
    found = improvement([x], [y])
    assert found.value == pytest.approx(mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert found.low <= found.value + 1e-12
    assert found.high >= found.value - 1e-12
    assert found.value + improvement([y], [x]).value == pytest.approx(1.0)


def test_improvement_is_the_mean_over_tasks() -> None:
    assert improvement([[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]).value == 0.75


def test_the_interval_is_that_of_all_resamples() -> None:
    runs = [0.61, 0.70, 0.82, 0.67]
    every = [np.mean(each) for each in itertools.product(runs, repeat=4)]
    found = mean(runs)
    assert found.value == pytest.approx(np.mean(runs))
    # 256 resamples that are equally likely; the bootstrap draws 5000.
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.008)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.008)


def test_tasks_are_resampled_each_by_itself() -> None:
    easy, hard = [0.90, 0.91, 0.92], [0.10, 0.11, 0.12]
    found = mean(easy, hard)
    assert found.value == pytest.approx(0.51)
    assert found.high - found.low < 0.03  # runs of easy and hard tasks in one pot would differ by 0.6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_interquartile_mean_cuts_a_quarter_off_at_either_end(runs: list[float]) -> None:
    cut = len(runs) // 4
    middle = sorted(runs)[cut : len(runs) - cut]
    found = interquartile_mean(runs)
    assert found.value == pytest.approx(np.mean(middle), abs=1e-9)
    assert found.value == pytest.approx(trim_mean(runs, 0.25), abs=1e-9)


def test_one_run_has_no_interval_and_none_has_no_mean() -> None:
    one = mean([0.5])
    assert one.value == 0.5
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(mean([]).value)
    assert (mean([0.5, 0.5]).low, mean([0.5, 0.5]).high) == (0.5, 0.5)


def test_tokens_to_reach() -> None:
    curve = [(0, 0.5), (100, None), (200, 0.7), (300, 0.65), (400, 0.9)]
    assert tokens_to_reach(curve, 0.5) == 0
    assert tokens_to_reach(curve, 0.65) == 200
    assert tokens_to_reach(curve, 0.8) == 400
    assert tokens_to_reach(curve, 0.95) == math.inf
