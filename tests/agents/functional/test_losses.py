"""Per-token losses against hand-made numbers and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from tokengym.agents.functional import (
    cispo,
    policy_gradient_clip,
    policy_gradient_penalty,
    reinforce_loss,
    sapo,
    value_loss,
)
from torch import Tensor


def at(ratio: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities [1, 1] with gradient, and old ones, of this ratio."""
    old = torch.tensor([[-2.0]], dtype=torch.float64)
    return (old + math.log(ratio)).requires_grad_(), old


def number(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def gradient(losses: Tensor, x: Tensor) -> float:
    [found] = torch.autograd.grad(losses.sum(), x)
    return found.item()


def test_reinforce_by_hand() -> None:
    """ReMax's loss, and that of A2C: −A log π with their advantages."""
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    losses = reinforce_loss(logprobs, torch.tensor([[0.75], [-0.25]]))
    torch.testing.assert_close(losses, torch.tensor([[0.75, 1.5], [-0.125, -0.75]]))
    [found] = torch.autograd.grad(losses.sum(), logprobs)
    assert torch.equal(found, torch.tensor([[-0.75, -0.75], [0.25, 0.25]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.4, True),  # rose beyond 1.2: no more reward for rising
        (0.5, 2.0, -1.0, False),  # fell although it is good: free to return
        (0.5, -2.0, 1.8, True),  # fell beyond 0.9: no more reward for falling
        (1.5, -2.0, 3.0, False),  # rose although it is bad: free to return
        (3.0, 0.0, 0.0, False),
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprobs, old = at(ratio)
    losses, active = policy_gradient_clip(logprobs, old, number(advantage), 0.1, 0.2)
    assert losses.item() == pytest.approx(loss)
    assert active.item() is clipped
    assert gradient(losses, logprobs) == pytest.approx(0.0 if clipped else -ratio * advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (2.0, -1.0, 2.0, False),
        (5.0, -1.0, 3.0, True),  # rose so far that its loss would drown the others
        (0.5, -1.0, 0.8, True),
        (5.0, 1.0, -1.2, True),
        (1.0, 1.0, -1.0, False),
    ],
)
def test_dual_clip_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprobs, old = at(ratio)
    losses, active = policy_gradient_clip(logprobs, old, number(advantage), 0.2, 0.2, dual_clip=3.0)
    assert losses.item() == pytest.approx(loss)
    assert active.item() is clipped
    assert gradient(losses, logprobs) == pytest.approx(0.0 if clipped else -ratio * advantage)


def test_the_bound_of_the_dual_clip_is_not_rounded_to_half_precision() -> None:
    advantage = torch.tensor([[-1.0078125]], dtype=torch.bfloat16)  # three times that is no bfloat16
    losses, _ = policy_gradient_clip(torch.zeros(1, 1), torch.full((1, 1), -2.0), advantage, 0.2, 0.2, dual_clip=3.0)
    assert losses.item() == 3.0234375


def test_dual_clip_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dual_clip"):
        policy_gradient_clip(*at(1.0), number(1.0), 0.2, 0.2, dual_clip=1.0)


def test_penalty_by_hand() -> None:
    # −ρA + β (ρ − 1 − log ρ); its derivative −ρA + β (ρ − 1).
    logprobs, old = at(2.0)
    losses = policy_gradient_penalty(logprobs, old, number(1.0), 0.5)
    assert losses.item() == pytest.approx(-2 + 0.5 * (1 - math.log(2)))
    assert gradient(losses, logprobs) == pytest.approx(-1.5)


def test_the_penalty_pulls_back_from_far_away() -> None:
    for ratio in (1e-6, 1e6):
        logprobs, old = at(ratio)
        losses = policy_gradient_penalty(logprobs, old, number(0.0), 1.0)
        assert gradient(losses, logprobs) == pytest.approx(ratio - 1)


def test_the_penalty_is_an_unbiased_divergence() -> None:
    old = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    new = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = (old * policy_gradient_penalty(new.log(), old.log(), torch.zeros(3), 1.0)).sum()
    assert float(found) == pytest.approx(float((old * (old / new).log()).sum()), abs=1e-12)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.0, 0.5, 0.0, 0.5, 1.0),
        (1.0, 0.5, 2.0, 0.845, 0.0),  # moved from 0.5 beyond 0.7, towards the return: (0.7 − 2)²/2
        (0.6, 0.5, 2.0, 0.98, -1.4),
        (0.5, 0.5, 2.0, 1.125, -1.5),
    ],
)
def test_value_loss_by_hand(value: float, old: float, target: float, loss: float, slope: float) -> None:
    values = number(value).requires_grad_()
    losses = value_loss(values, number(old), number(target), 0.2)
    assert losses.item() == pytest.approx(loss)
    assert gradient(losses, values) == pytest.approx(slope)


def test_value_loss_without_clip() -> None:
    values = torch.tensor([1.0, -3.0], requires_grad=True)
    losses = value_loss(values, torch.zeros(2), torch.tensor([2.0, -3.0]), None)
    assert torch.equal(losses, torch.tensor([0.5, 0.0]))
    [found] = torch.autograd.grad(losses.sum(), values)
    assert torch.equal(found, torch.tensor([-1.0, 0.0]))


@pytest.mark.parametrize(("ratio", "weight"), [(2.0, 1.28), (1.1, 1.1), (0.5, 0.8)])
def test_cispo_by_hand(ratio: float, weight: float) -> None:
    logprobs, old = at(ratio)
    losses, clipped = cispo(logprobs, old, number(3.0), 0.2, 0.28)
    assert losses.item() == pytest.approx(-weight * 3 * logprobs.item())
    assert gradient(losses, logprobs) == pytest.approx(-weight * 3)  # of every token, clipped or not
    assert clipped.item() is (weight != ratio)


@pytest.mark.parametrize(("advantage", "tau"), [(1.5, 1.0), (-1.5, 1.05)])
def test_sapo_by_hand(advantage: float, tau: float) -> None:
    logprobs, old = at(2.0)
    gate = 1 / (1 + math.exp(-tau))
    losses = sapo(logprobs, old, number(advantage), 1.0, 1.05)
    assert losses.item() == pytest.approx(-advantage * gate * 4 / tau)
    assert gradient(losses, logprobs) == pytest.approx(-advantage * 4 * gate * (1 - gate) * 2)


def test_huge_ratios_stay_finite() -> None:
    old = torch.tensor([[-1e4, 0.0, -1e4, 0.0]])
    advantages = torch.tensor([[-1.0, 1.0, 1.0, -1.0]])
    for loss in (
        lambda x: policy_gradient_clip(x, old, advantages, 0.2, 0.2)[0],
        lambda x: policy_gradient_clip(x, old, advantages, 0.2, 0.2, 3.0)[0],
        lambda x: policy_gradient_penalty(x, old, advantages, 0.1),
        lambda x: cispo(x, old, advantages, 0.2, 0.2)[0],
        lambda x: sapo(x, old, advantages),
    ):
        logprobs = torch.tensor([[0.0, -1e4, 0.0, -1e4]], requires_grad=True)
        losses = loss(logprobs)
        [found] = torch.autograd.grad(losses.sum(), logprobs)
        assert torch.isfinite(losses).all()
        assert torch.isfinite(found).all()
