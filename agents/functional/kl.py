"""Estimators of a Kullback–Leibler divergence from samples (Schulman, "Approximating KL divergence", 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


def k3(delta: Tensor) -> Tensor:
    """exp(−Δ) − 1 + Δ, per token: unbiased for KL(π‖π') on samples of π, with Δ = log π − log π', and never negative.

    As in the published GRPO, −Δ is clamped to ±20 and the value to at most 10, so that one token cannot decide a step.

    Args:
        delta: [...] differences of log-probabilities.
    """
    delta = delta.clamp(-20.0, 20.0)
    return (torch.expm1(-delta) + delta).clamp(-10.0, 10.0)
