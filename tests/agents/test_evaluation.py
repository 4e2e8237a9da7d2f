"""Estimates of an evaluation against brute force and simulation."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents.evaluation import Estimate, pass_at_k, summarize
from tokengym.agents.rollout import Group, Trajectory

from tokengym import Episode, Score, Stop


def completion(
    value: float | None, correct: bool | None = None, *, tokens: int = 3, stop: Stop = Stop.ANSWERED
) -> Trajectory:
    parts = {} if correct is None else {"correct": float(correct)}
    return Trajectory(
        ids=[1] * (tokens + 1),
        action_mask=[0] + [1] * tokens,
        logprobs=[0.0] * (tokens + 1),
        entropy=0.0,
        prompt_length=1,
        token_rewards={},
        step_rewards={},
        episode=Episode(prompt=[], completion=[], stop=stop, num_tokens=tokens),
        score=Score(value, parts),
        group=0,
        version=0,
    )


def judged(verdicts: str) -> Group:
    """ "10-": right, wrong, abstained."""
    return [completion(None if v == "-" else float(v), None if v == "-" else v == "1") for v in verdicts]


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
@settings(deadline=None)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_pass_at_k_of_many_samples() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(1000, 0, 10) == 0.0
    assert pass_at_k(1000, 991, 10) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, k)


def test_summary_by_hand() -> None:
    result = summarize([judged("1000"), judged("1111"), judged("0000"), judged("1100")])
    assert (result.problems, result.samples, result.abstained) == (4, 4, 0)
    assert list(result.pass_at) == [1, 2, 4]
    assert result.pass_at[1].value == pytest.approx((1 / 4 + 1 + 0 + 1 / 2) / 4)
    assert result.pass_at[2].value == pytest.approx((1 / 2 + 1 + 0 + 5 / 6) / 4)
    assert result.pass_at[4].value == pytest.approx(3 / 4)
    assert result.accuracy == result.pass_at[1].value
    assert result.reward.value == pytest.approx(7 / 16)
    assert result.mean_length == Estimate(3.0, 3.0, 3.0)


def test_share_of_completions_with_a_tool_call() -> None:
    def called(times: int) -> Trajectory:
        made = completion(1.0, True)
        return dataclasses.replace(made, score=Score(1.0, {"correct": 1.0, "tool_calls": float(times)}))

    use = summarize([[called(0), called(2)], [called(1), called(1)]]).tool_use
    assert use is not None
    assert use.value == 3 / 4
    assert summarize([judged("10")]).tool_use is None


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (7, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_powers_of_two_up_to_the_samples(samples: int, ks: list[int]) -> None:
    assert list(summarize([judged("1" * samples)]).pass_at) == ks


def test_wilsons_interval() -> None:
    """8 of 10: Wilson's interval is (0.4902, 0.9433), by the formula."""
    estimate = summarize([judged("1")] * 8 + [judged("0")] * 2).pass_at[1]
    z, n, p = 1.959964, 10, 0.8
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert estimate.value == pytest.approx(0.8)
    assert estimate.low == pytest.approx((centre - half) / (1 + z * z / n), abs=1e-4)
    assert estimate.high == pytest.approx((centre + half) / (1 + z * z / n), abs=1e-4)
    assert str(estimate) == "0.800 [0.490, 0.943]"


def test_intervals_at_the_ends() -> None:
    none, all_of_them = summarize([judged("0")] * 50).pass_at[1], summarize([judged("1")] * 50).pass_at[1]
    assert none.value == none.low == 0
    assert 0 < none.high < 0.1
    assert all_of_them.value == all_of_them.high == 1
    assert 0.9 < all_of_them.low < 1


@given(st.lists(st.text("01-", min_size=3, max_size=3), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_estimates_lie_in_their_intervals(groups: list[str]) -> None:
    result = summarize([judged(g) for g in groups])
    for estimate in (*result.pass_at.values(), result.reward, result.mean_length):
        assert math.isnan(estimate.value) or estimate.low <= estimate.value <= estimate.high
    assert result.abstained == sum(g.count("-") for g in groups)
    assert str(result)


def test_the_rewards_interval_covers() -> None:
    """A 95 % interval of 60 rewards holds their true mean nearly 95 times of a hundred."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        reward = summarize([[completion(float(v))] for v in rng.exponential(size=60)]).reward
        hits += reward.low <= 1.0 <= reward.high
    assert 86 <= hits <= 99


def test_several_samples_of_a_problem_are_no_independent_problems() -> None:
    """Eight equal rewards of a problem say as much as one: the interval must not narrow by them."""
    values = np.random.default_rng(0).integers(0, 2, 40)
    one = summarize([[completion(float(v))] for v in values]).reward
    eight = summarize([[completion(float(v))] * 8 for v in values]).reward
    assert eight.high - eight.low > 0.8 * (one.high - one.low)


def test_abstained_completions_are_counted_and_left_out() -> None:
    result = summarize([judged("1-"), judged("--"), judged("0-")])
    assert result.abstained == 4
    assert result.pass_at[1].value == 0.5
    assert math.isnan(result.pass_at[2].value)  # no problem has two verdicts
    assert result.reward.value == 0.5
    assert result.mean_length.value == 3.0
    assert "4 completions" in str(result)


def test_a_reward_without_correctness_has_no_accuracy() -> None:
    result = summarize([[completion(0.3), completion(0.5, tokens=5, stop=Stop.LENGTH)]])
    assert result.pass_at == {}
    assert result.accuracy is None
    assert result.reward.value == pytest.approx(0.4)
    assert result.truncated == 0.5
    assert "truncated   50.0%" in str(result)


def test_rewards_on_the_way_count() -> None:
    t = completion(0.5)
    t.token_rewards[2] = 0.25
    assert summarize([[t]]).reward.value == 0.75
    t = completion(None)
    t.token_rewards[2] = 0.25
    assert math.isnan(summarize([[t]]).reward.value)
