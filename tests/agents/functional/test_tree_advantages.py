"""Advantages in trees, against hand-made numbers and a slow reading of the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents.functional import group_normalized, shared_mean, token_origins, tree_normalized, tree_roots

# Row 1 left row 0 at token 3, row 2 left row 1 at token 5, row 3 left row 0 at token 2; row 4 is alone.
PARENTS, FORKS = torch.tensor([-1, 0, 1, 0, -1]), torch.tensor([0, 3, 5, 2, 0])


def test_origins_and_roots() -> None:
    assert token_origins(PARENTS, FORKS, 6).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 2],
        [0, 0, 3, 3, 3, 3],
        [4, 4, 4, 4, 4, 4],
    ]
    assert tree_roots(PARENTS).tolist() == [0, 0, 0, 0, 4]
    with pytest.raises(ValueError, match="row 0 branched off row 1, which does not stand before it"):
        token_origins(torch.tensor([1, -1]), torch.tensor([2, 0]), 4)


def test_shared_tokens_have_the_mean_of_their_leaves() -> None:
    advantages = torch.tensor([1.0, 2.0, 6.0, -4.0, 3.0])
    mask = torch.ones(5, 6)
    mask[:, 0] = 0.0  # the prompt
    found = shared_mean(advantages, token_origins(PARENTS, FORKS, 6), mask)
    expected = [
        [0, 1.25, 3, 1, 1, 1],  # token 1: (1 + 2 + 6 - 4) / 4; token 2: (1 + 2 + 6) / 3
        [0, 1.25, 3, 4, 4, 2],
        [0, 1.25, 3, 4, 4, 6],
        [0, 1.25, -4, -4, -4, -4],
        [0, 3, 3, 3, 3, 3],
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    # A leaf that abstained is in no mean.
    mask[2] = 0.0
    found = shared_mean(advantages, token_origins(PARENTS, FORKS, 6), mask)
    torch.testing.assert_close(found[0], torch.tensor([0, -1 / 3, 1.5, 1, 1, 1]))
    assert (found[2] == 0).all()


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[int], list[int], list[float], list[list[int]]]:
    count, width = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    parents = [draw(st.integers(-1, row - 1)) for row in range(count)]
    forks = [0 if parent < 0 else draw(st.integers(0, width)) for parent in parents]
    advantages = draw(st.lists(st.floats(-3, 3), min_size=count, max_size=count))
    mask = draw(st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=count, max_size=count))
    return parents, forks, advantages, mask


@given(forests())
def test_the_definition(forest: tuple[list[int], list[int], list[float], list[list[int]]]) -> None:
    parents, forks, advantages, mask = forest
    width = len(mask[0])

    def first(row: int, t: int) -> int:
        return first(parents[row], t) if parents[row] >= 0 and t < forks[row] else row

    origins = token_origins(torch.tensor(parents), torch.tensor(forks), width)
    found = shared_mean(torch.tensor(advantages), origins, torch.tensor(mask, dtype=torch.float32))
    for row in range(len(parents)):
        for t in range(width):
            assert origins[row, t] == first(row, t)
            leaves = [r for r in range(len(parents)) if mask[r][t] and first(r, t) == first(row, t)]
            expected = sum(advantages[r] for r in leaves) / len(leaves) if mask[row][t] else 0.0
            assert found[row, t] == pytest.approx(expected, abs=1e-5)


def test_trees_are_compared_within_and_between() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, math.nan])
    trees, groups = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([7] * 6)
    valid = torch.tensor([True] * 5 + [False])
    found = tree_normalized(rewards, trees, groups, valid)
    within = [2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(2), 1 / math.sqrt(2)]
    # Of 1, 0, 0, 0, 1: μ = 0.4, σ² = (2 · 0.36 + 3 · 0.16) / 4.
    between = [(r - 0.4) / math.sqrt(0.3) for r in (1, 0, 0, 0, 1)]
    expected = torch.tensor([a + b for a, b in zip(within, between)] + [0.0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # Trees of one leaf say nothing by themselves.
    alone = tree_normalized(rewards, torch.arange(6), groups, valid)
    torch.testing.assert_close(alone, group_normalized(rewards, groups, valid))
    assert (tree_normalized(torch.ones(4), torch.tensor([0, 0, 1, 1]), torch.zeros(4), torch.ones(4).bool()) == 0).all()
