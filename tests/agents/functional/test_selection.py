"""Which completions are learned from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents.functional import best_of_group, cppo_keep

NAN = math.nan


def test_best_of_group() -> None:
    rewards = torch.tensor([1.0, 0.5, 1.0, 0.0, 0.0, -1.0, NAN, 0.3, NAN])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 4])
    valid = ~rewards.isnan()
    kept = [True, False, True, False, False, False, False, True, False]
    assert best_of_group(rewards, groups, valid).tolist() == kept


def test_cppo_keeps_the_largest_and_of_equals_the_first() -> None:
    advantages = torch.tensor([0.1, -2.0, 1.0, -1.0, 3.0, 0.0, 0.0, 0.0])
    groups = torch.tensor([5, 5, 5, 5, 9, 9, 9, 9])
    valid = torch.tensor([True, True, True, True, True, False, True, True])
    kept = cppo_keep(advantages, groups, valid, 0.5)
    assert kept.nonzero().flatten().tolist() == [1, 2, 4]  # ⌊3 · ½⌋ = 1 of the second group


@pytest.mark.parametrize(
    ("size", "pruning", "count"),
    [
        (8, 0.875, 1),
        (10, 0.9, 1),
        (20, 0.9, 2),
        (10, 0.7, 3),
        (5, 0.5, 2),
        (4, 0.0, 4),
        (16, 0.999, 1),
        (1, 0.5, 1),
        (100, 0.71, 29),
    ],
)
def test_cppo_count(size: int, pruning: float, count: int) -> None:
    every = torch.ones(size, dtype=torch.bool)
    kept = cppo_keep(torch.zeros(size), torch.zeros(size, dtype=torch.long), every, pruning)
    assert kept.tolist() == [True] * count + [False] * (size - count)


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 2)), min_size=1, max_size=15), st.sampled_from([0.2, 0.5, 0.8])
)
def test_what_cppo_drops_is_smaller(rows: list[tuple[float, int]], pruning: float) -> None:
    advantages, groups = (torch.tensor(column) for column in zip(*rows))
    kept = cppo_keep(advantages, groups, torch.ones_like(groups, dtype=torch.bool), pruning)
    for g in groups.unique():
        inside = groups == g
        dropped = advantages[inside & ~kept].abs()
        assert (inside & kept).any()
        if len(dropped):
            assert dropped.max() <= advantages[inside & kept].abs().min()


@pytest.mark.parametrize("pruning", [-0.1, 1.0, NAN])
def test_cppo_errors(pruning: float) -> None:
    with pytest.raises(ValueError, match="pruning"):
        cppo_keep(torch.zeros(2), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool), pruning)
