"""Advantages of steps, against hand-made numbers and a slow reading of the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents.functional import anchored, returns_to_go


def test_returns_count_steps_and_not_tokens() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 3.0, 0.0, 0.0]])
    ends = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    expected = [[0, 1 + 0.25 * 2, 0, 0.5 * 2, 2, 0], [0, 0, 0, 3, 0, 0]]
    torch.testing.assert_close(returns_to_go(rewards, ends, 0.5), torch.tensor(expected))


def test_steps_in_the_same_state_are_compared() -> None:
    # Two trajectories of one prompt start in state 5; the first comes back to it, the second goes on to state 6.
    ends = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]]).float()
    anchors = torch.tensor([[0, 5, 0, 5], [5, 0, 0, 6], [0, 5, 0, 6]])
    returns = torch.tensor([[0, 1.0, 0, 2.0], [6.0, 0, 0, 9.0], [0, 4.0, 0, 7.0]])
    groups = torch.tensor([0, 0, 1])
    valid = torch.tensor([True] * 3)
    found = anchored(returns, anchors, ends, groups, valid)
    # State 5 of the first prompt: 1, 2 and 6, whose mean is 3. State 6 was met once there, and both once by the third.
    expected = [[-2, -2, -1, -1], [3, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    deviation = math.sqrt((4 + 1 + 9) / 2)
    found = anchored(returns, anchors, ends, groups, valid, deviation=True)
    torch.testing.assert_close(found, torch.tensor(expected) / deviation, atol=1e-5, rtol=0)
    # Without the second trajectory: 1 and 2.
    found = anchored(returns, anchors, ends, groups, torch.tensor([True, False, True]))
    torch.testing.assert_close(found[0], torch.tensor([-0.5, -0.5, 0.5, 0.5]))
    assert (found[1:] == 0).all()
    assert (anchored(returns, anchors, ends, groups, torch.zeros(3, dtype=torch.bool)) == 0).all()


STEPS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(-2, 2)), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), STEPS), min_size=1, max_size=6))
def test_the_definition(trajectories: list[tuple[int, bool, list[tuple[int, int, int]]]]) -> None:
    """Trajectories as (group, valid, steps), steps as (tokens, state, reward)."""
    width = max(sum(n for n, _, _ in steps) for _, _, steps in trajectories) + 1
    shape = len(trajectories), width
    rewards, ends, anchors = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    seen = []
    for i, (group, valid, steps) in enumerate(trajectories):
        end = 0
        for k, (tokens, state, reward) in enumerate(steps):
            end += tokens
            rewards[i, end - 1], ends[i, end - 1], anchors[i, end - 1] = reward, 1.0, state
            value = sum(0.9**j * r for j, (_, _, r) in enumerate(steps[k:]))
            seen.append((i, end - tokens, end, group, valid, state, value))
    groups = torch.tensor([group for group, _, _ in trajectories])
    valid = torch.tensor([valid for _, valid, _ in trajectories])
    found = anchored(returns_to_go(rewards, ends, 0.9), anchors, ends, groups, valid)
    expected = torch.zeros(shape)
    for i, start, end, group, ok, state, value in seen:
        same = [v for _, _, _, g, o, s, v in seen if o and (g, s) == (group, state)]
        if ok and len(same) > 1:
            expected[i, start:end] = value - sum(same) / len(same)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert found.isfinite().all()


def test_bare_columns() -> None:
    nothing = torch.zeros(2, 3)
    found = anchored(nothing, nothing.long(), nothing, torch.tensor([0, 0]), torch.tensor([True, True]))
    assert found.shape == (2, 3)
    assert (found == 0).all()
    assert returns_to_go(nothing.double(), nothing, 1.0).dtype == torch.float64
    with pytest.raises((IndexError, RuntimeError)):
        anchored(nothing, nothing[:1].long(), nothing, torch.tensor([0, 0]), torch.tensor([True, True]))
