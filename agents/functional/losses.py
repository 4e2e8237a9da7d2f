"""Policy losses per token, minimised. Shapes are [B, T], and so are the losses; a second result, [B, T] bool, says where a
clip is active."""

from __future__ import annotations

import torch
from torch import Tensor

from .ratios import log_ratio
from .tensors import upcast


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """−A log π (Williams 1992).

    Args:
        logprobs: [B, T], with gradient.
        advantages: [B, T].
    """
    return -advantages * upcast(logprobs)


def unlikelihood_loss(logprobs: Tensor, eps: float = 1e-6) -> Tensor:
    """−log(1 − π), which lowers the probability of tokens, of likely ones most (Welleck et al. 2019, arXiv 1908.04319, eq. 4;
    EEPO, arXiv 2510.05837). A token with π above 1 − eps has no gradient: it would have all of it.

    Args:
        logprobs: [B, T], with gradient.
    """
    return -torch.log1p(-torch.exp(upcast(logprobs)).clamp(max=1 - eps))


def policy_gradient_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective, ℓ = max(−ρA, −clip(ρ, 1 − ε_low, 1 + ε_high) A), ρ = π/π_old (arXiv 1707.06347, eq. 7).

    With `dual_clip` c, for A < 0: min(ℓ, −cA), so that a ratio that rose far has no say (Ye et al. 2020, arXiv 1912.09729,
    eq. 5).

    Args:
        logprobs: [B, T], with gradient.
        old_logprobs: [B, T], of the policy that sampled.
        advantages: [B, T].
        clip_low, clip_high: how far the ratio may fall below and rise above 1 before its gradient ends.
        dual_clip: c, above 1; 3 is common.

    Returns:
        The loss [B, T], and [B, T] bool: where a clip is active and the token has no gradient.

    Raises:
        ValueError: if dual_clip is not above 1.
    """
    ratio = torch.exp(log_ratio(logprobs, old_logprobs))
    losses, active = clipped_objective(ratio, advantages, clip_low, clip_high)
    if dual_clip is None:
        return losses, active
    if dual_clip <= 1:
        raise ValueError(
            f"dual_clip is the largest ratio that counts where the advantage is negative, above 1; not {dual_clip}"
        )
    bound = -dual_clip * upcast(advantages)
    beyond = (advantages < 0) & (bound < losses)
    return torch.where(beyond, bound, losses), active | beyond


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """max(−ρA, −clip(ρ, 1 − ε_low, 1 + ε_high) A) of any ratio ρ, and where the second is larger. All of one shape."""
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return torch.maximum(unclipped, clipped), clipped > unclipped


def policy_gradient_penalty(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, coefficient: float) -> Tensor:
    """PPO with a penalty, −ρA + β KL(π_old‖π) (arXiv 1707.06347, eq. 8). The divergence, on samples of π_old, is
    ρ − 1 − log ρ.

    Args:
        logprobs: [B, T], with gradient.
        old_logprobs, advantages: [B, T].
        coefficient: β, see `penalty_kl`.
    """
    log_rho = log_ratio(logprobs, old_logprobs)
    # Not `k3`, which is bounded: far away, where the penalty matters most, it would have no gradient.
    return -torch.exp(log_rho) * advantages + coefficient * (torch.expm1(log_rho) - log_rho)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½ max((V − R̂)², (clip(V, V_old ± ε) − R̂)²), or ½ (V − R̂)² if `clip` is None (arXiv 1707.06347's reference code;
    Huang et al. 2022, "The 37 implementation details of PPO", 9).

    Args:
        values: [...], with gradient.
        old_values, returns: [...].
        clip: ε.
    """
    values, old_values, returns = upcast(values), upcast(old_values), upcast(returns)
    error = (values - returns).square()
    if clip is None:
        return error / 2
    near = values.clamp(old_values - clip, old_values + clip)
    return torch.maximum(error, (near - returns).square()) / 2


def cispo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """−sg(clip(ρ, 1 − ε_low, 1 + ε_high)) A log π: the weight is clipped, and no token loses its gradient (MiniMax-M1, arXiv
    2506.13585, eq. 4–5).

    Args:
        logprobs: [B, T], with gradient.
        old_logprobs, advantages: [B, T].

    Returns:
        The loss [B, T], and [B, T] bool: where the weight is clipped.
    """
    ratio = torch.exp(log_ratio(logprobs, old_logprobs)).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * upcast(logprobs), weight != ratio


def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Tensor:
    """−A σ(τ (ρ − 1)) 4/τ: a smooth gate around ρ = 1, where its slope is that of ρ, in the place of a clip (Gao et al. 2025,
    arXiv 2511.20347, eq. 5–6).

    Args:
        logprobs: [B, T], with gradient.
        old_logprobs, advantages: [B, T].
        tau_positive, tau_negative: τ where A > 0, and elsewhere: how sharply the gate closes.
    """
    ratio = torch.exp(log_ratio(logprobs, old_logprobs))
    tau = torch.full_like(ratio, tau_negative).masked_fill(advantages > 0, tau_positive)
    return -advantages * torch.sigmoid(tau * (ratio - 1)) * 4 / tau
