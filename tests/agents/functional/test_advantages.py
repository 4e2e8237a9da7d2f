"""Advantages against hand-made numbers, and what holds for all that compare completions of a group."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents.functional import (
    batch_mean,
    group_centred,
    group_mean,
    group_normalized,
    group_normalized_steps,
    group_pass_at_k,
    moving_average,
    opo,
    reinforce,
    remax,
    rloo,
    spo,
)
from torch import Tensor

NAN = math.nan
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def opo_of_unequal(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """With lengths that follow the rewards, so that they are permuted alike."""
    return opo(rewards, 5 + torch.where(valid, rewards, 0.0).remainder(3), groups, valid)


def opo_of_equal(rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    return opo(rewards, torch.full_like(rewards, 7.0), groups, valid)


GROUP_ADVANTAGES: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
    group_normalized,
    group_centred,
    rloo,
    group_pass_at_k,
    opo_of_equal,
]
of_a_group = pytest.mark.parametrize("advantage", GROUP_ADVANTAGES)


def one_group(advantage: Callable[..., Tensor], rewards: list[float], *between: Tensor) -> Tensor:
    values = torch.tensor(rewards)
    groups, valid = torch.zeros(len(rewards), dtype=torch.long), torch.ones(len(rewards), dtype=torch.bool)
    return advantage(values, *between, groups, valid)


# By hand.


def test_group_normalized_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 1.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    # Group 0: mean 1/3, unbiased deviation 1/√3. Group 1: mean 5/3, deviation 2/√3.
    third = 1 / math.sqrt(3)
    expected = torch.tensor([2 * third, -third, -third, -third, 2 * third, -third])
    torch.testing.assert_close(group_normalized(rewards, groups, torch.ones(6, dtype=torch.bool)), expected, **CLOSE)


def test_eps_is_added_to_the_deviation() -> None:
    groups, valid = torch.zeros(2, dtype=torch.long), torch.tensor([True, True])
    expected = 2 / (2 * (math.sqrt(2) + 1))
    found = group_normalized(torch.tensor([0.0, 2.0]), groups, valid, 1.0)
    torch.testing.assert_close(found, torch.tensor([-expected, expected]))
    without = group_normalized(torch.tensor([1.0, 1.0]), groups, valid, 0.0)
    assert torch.equal(without, torch.zeros(2))


def test_group_centred_by_hand() -> None:
    torch.testing.assert_close(one_group(group_centred, [1.0, 0.0, 0.5, 0.5]), torch.tensor([0.5, -0.5, 0.0, 0.0]))


def test_rloo_by_hand() -> None:
    # The means of the others are ¼, ¾ and ½.
    torch.testing.assert_close(one_group(rloo, [1.0, 0.0, 0.5]), torch.tensor([0.75, -0.75, 0.0]))


def test_opo_by_hand() -> None:
    # b = (1·1 + 3·0) / 4.
    torch.testing.assert_close(one_group(opo, [1.0, 0.0], torch.tensor([1, 3])), torch.tensor([0.75, -0.25]))
    assert torch.equal(one_group(opo, [1.0, 0.0], torch.tensor([0, 0])), torch.zeros(2))


def test_group_pass_at_k_by_hand() -> None:
    # The deviation of 1, ½, 0 is ½.
    torch.testing.assert_close(one_group(group_pass_at_k, [0.5, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), **CLOSE)
    assert torch.equal(one_group(group_pass_at_k, [1.0, 1.0, 0.0]), torch.zeros(3))


def test_reinforce_and_its_baselines() -> None:
    rewards, valid = torch.tensor([1.0, NAN, 0.0]), torch.tensor([True, False, True])
    assert torch.equal(reinforce(rewards, valid), torch.tensor([1.0, 0.0, 0.0]))
    assert batch_mean(rewards, valid) == 0.5
    assert torch.equal(reinforce(rewards, valid, batch_mean(rewards, valid)), torch.tensor([0.5, 0.0, -0.5]))
    assert batch_mean(rewards, torch.zeros(3, dtype=torch.bool)) == 0

    nothing = torch.zeros(3, dtype=torch.bool)
    assert moving_average(None, rewards, nothing) is None
    assert moving_average(None, rewards, valid) == 0.5
    assert moving_average(1.0, rewards, valid) == pytest.approx(0.975)
    assert moving_average(1.0, rewards, valid, decay=0.5) == pytest.approx(0.75)
    assert moving_average(1.0, rewards, nothing) == 1.0


def test_remax_by_hand() -> None:
    rewards, greedy = torch.tensor([1.0, 0.0, 1.0, NAN]), torch.tensor([0.25, 0.25, NAN, 0.5])
    found = remax(rewards, greedy, torch.tensor([True, True, True, False]))
    assert torch.equal(found, torch.tensor([0.75, -0.25, 0.0, 0.0]))


def test_process_supervision_by_hand() -> None:
    # Step rewards 1, 0 and 1: mean 2/3, deviation 1/√3, so √3/3, −2√3/3 and √3/3.
    rewards = torch.tensor([[9.0, 1.0, 9.0, 0.0, 9.0], [9.0, 9.0, 1.0, NAN, NAN], [5.0, 5.0, 5.0, 5.0, 5.0]])
    ends = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    valid = torch.tensor([True, True, False])
    a = math.sqrt(3) / 3
    expected = torch.tensor([[-a, -a, -2 * a, -2 * a, 0], [a, a, a, 0, 0], [0, 0, 0, 0, 0]])
    found = group_normalized_steps(rewards, ends, torch.tensor([4, 4, 4]), valid)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_process_supervision_without_a_signal() -> None:
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.7, 0.0, 0.0]])
    ends = torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = group_normalized_steps(rewards, ends, torch.tensor([0, 1]), torch.tensor([True, True]))
    assert torch.equal(found, torch.zeros(2, 3))


def test_the_steps_of_one_completion_alone_are_compared_with_nothing() -> None:
    rewards, ends = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]]), torch.ones(3, 2)
    found = group_normalized_steps(rewards, ends, torch.tensor([0, 0, 1]), torch.tensor([True, False, True]))
    assert torch.equal(found, torch.zeros(3, 2))


def test_spo_by_hand() -> None:
    # R − mean is ½ on one token and −½ on two; the mean is −1/6, the unbiased variance 1/3.
    rewards, means = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.5, 0.5, 0.5])
    mask = torch.tensor([[1, 0], [1, 1], [1, 1]])
    found = spo(rewards, means, torch.tensor([True, True, False]), mask)
    high, low = (0.5 + 1 / 6) * math.sqrt(3), (-0.5 + 1 / 6) * math.sqrt(3)
    torch.testing.assert_close(found, torch.tensor([[high, 0], [low, low], [0, 0]]), **CLOSE)


# What holds for all of them.


@given(
    st.sampled_from([0.1, 0.7, 1 / 3, -0.3, 1e-3, 1.1, 1e6 + 0.1, -12345.678]) | st.floats(-1e4, 1e4, width=32),
    st.integers(1, 64),
)
@of_a_group
def test_constant_groups_have_advantage_zero(advantage: Callable[..., Tensor], value: float, size: int) -> None:
    assert torch.equal(one_group(advantage, [value] * size), torch.zeros(size))


@of_a_group
def test_rounding_is_no_signal(advantage: Callable[..., Tensor]) -> None:
    """Sums of the same parts in another order, say."""
    assert torch.equal(one_group(advantage, [0.3, math.nextafter(0.3, 1) + 3e-8, 0.3]), torch.zeros(3))


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-7])
def test_small_rewards_are_not_taken_for_rounding(scale: float) -> None:
    """Only the eps of the form dampens them: a penalty of 1e-7 a token is a reward like another."""
    expected = scale / (scale + 1e-6)
    found = one_group(group_normalized, [0.0, scale, 2 * scale])
    torch.testing.assert_close(found, torch.tensor([-expected, 0.0, expected]), atol=1e-4, rtol=0)


@of_a_group
def test_abstained_completions_are_out_of_the_statistics(advantage: Callable[..., Tensor]) -> None:
    rewards = torch.tensor([1.0, NAN, 0.0, 100.0, 1.0, math.inf, NAN])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    valid = torch.tensor([True, False, True, False, True, False, False])
    found = advantage(rewards, groups, valid)
    alone = one_group(advantage, [1.0, 0.0])
    assert torch.equal(found[[0, 2]], alone)
    assert alone.any()
    assert torch.equal(found[[1, 3, 4, 5, 6]], torch.zeros(5))


@of_a_group
def test_nothing_gives_nothing(advantage: Callable[..., Tensor]) -> None:
    assert len(one_group(advantage, [])) == 0


rows_of_groups = st.lists(
    st.tuples(st.integers(-8, 8).map(float), st.integers(-3, 3), st.booleans()), min_size=1, max_size=20
)


@given(rows_of_groups, st.integers(-20, 20), st.randoms(use_true_random=False))
@pytest.mark.parametrize("advantage", [*GROUP_ADVANTAGES, opo_of_unequal])
def test_invariances(
    advantage: Callable[..., Tensor], rows: list[tuple[float, int, bool]], shift: int, random: Any
) -> None:
    rewards, groups, valid = (torch.tensor(column) for column in zip(*rows))
    found = advantage(rewards, groups, valid)
    if advantage is not opo_of_unequal:  # whose lengths follow the rewards
        shifts = shift * (groups - 1)  # another constant for each group
        torch.testing.assert_close(advantage(rewards + shifts, groups, valid), found, **CLOSE)
    order = list(range(len(rows)))
    random.shuffle(order)
    torch.testing.assert_close(advantage(rewards[order], groups[order], valid[order]), found[order], **CLOSE)
    torch.testing.assert_close(advantage(rewards, 1000 - 7 * groups, valid), found, **CLOSE)
    assert (found[~valid] == 0).all()


@given(rows_of_groups)
def test_what_groups_sum_to(rows: list[tuple[float, int, bool]]) -> None:
    rewards, groups, valid = (torch.tensor(column) for column in zip(*rows))
    normalized, centred = group_normalized(rewards, groups, valid), group_centred(rewards, groups, valid)
    for g in groups.unique():
        inside = (groups == g) & valid
        assert abs(float(normalized[inside].sum())) < 1e-4
        assert abs(float(centred[inside].sum())) < 1e-4
        if normalized[inside].any():
            assert float(normalized[inside].std()) == pytest.approx(1.0, abs=1e-4)
        if inside.any():
            torch.testing.assert_close(group_mean(rewards, groups, valid)[inside][0], rewards[inside].mean())


def test_half_precision_is_computed_in_single_and_double_stays() -> None:
    rewards = [1.0, 0.0, 0.0]
    groups, valid = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool)
    for advantage in GROUP_ADVANTAGES:
        exact = advantage(torch.tensor(rewards, dtype=torch.float64), groups, valid)
        half = advantage(torch.tensor(rewards, dtype=torch.bfloat16), groups, valid)
        assert exact.dtype == torch.float64
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, exact.float(), atol=1e-6, rtol=0)
        assert torch.equal(advantage(torch.tensor([1, 0, 0]), groups, valid), half)
