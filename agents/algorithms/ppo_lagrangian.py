"""PPO under a constraint."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...envs import TextEnv
from ..base import parts_of
from ..learner import Batch, TokenTerms
from ..rollout import Trajectory
from .actor_critic import ActorCritic, ActorCriticConfig
from .clipped import ClippedConfig, clipped_loss


@dataclass(frozen=True)
class PPOLagrangianConfig(ActorCriticConfig, ClippedConfig):
    """Options of PPO-Lagrangian."""

    cost_part: str = "cost"
    """The part of the score that is the cost; it has no weight in the reward unless the reward gives it one."""
    cost_limit: float = 0.0
    """d: the mean cost that is allowed."""
    multiplier: float = 1.0
    """λ at the start."""
    multiplier_learning_rate: float = 0.1
    """How fast log λ follows the excess of the cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above(0, "multiplier", "multiplier_learning_rate")


class PPOLagrangian(ActorCritic[PPOLagrangianConfig]):
    """PPO for a reward under a constraint on a cost (Dai et al. 2023, Safe RLHF, arXiv 2310.12773, eq. 10 and §B.2).

    A = (A_r − λ A_c) / (1 + λ),   λ ← exp(log λ + lr (J_c − d)),   J_c = mean cost of the step's completions
    """

    Config = PPOLagrangianConfig
    summary: ClassVar[str] = "PPO with a learned multiplier that keeps a cost below a limit"
    paper: ClassVar[str] = "arXiv 2310.12773"
    num_values = 2

    def framed(self, env: TextEnv) -> TextEnv:
        parts = parts_of(env)
        if parts is not None:
            self._check_cost(parts)
        return env

    def columns(self, trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
        name = self.config.cost_part
        for t in trajectories:
            if t.reward is not None:
                self._check_cost(t.score.parts)
        return {"cost": torch.tensor([t.score.parts.get(name, 0.0) for t in trajectories])}

    def signals(self, batch: Batch) -> list[Tensor]:
        positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        last = (batch.action_mask * (positions + 1)).argmax(dim=1, keepdim=True)
        costs = torch.zeros_like(batch.token_rewards).scatter(1, last, batch.columns["cost"].unsqueeze(1))
        return [batch.token_rewards, costs * batch.action_mask]

    def combined(self, advantages: list[Tensor]) -> Tensor:
        of_reward, of_cost = advantages
        return (of_reward - self.multiplier * of_cost) / (1 + self.multiplier)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        critic, reported = self.critic_loss(terms)
        losses, clipped = clipped_loss(self.config, terms)
        return losses + critic, reported | clipped

    def after_update(self, batch: Batch) -> dict[str, float]:
        metrics = super().after_update(batch)
        if batch.valid.any():
            c, cost = self.config, float(batch.columns["cost"][batch.valid].mean())
            self.multiplier = math.exp(math.log(self.multiplier) + c.multiplier_learning_rate * (cost - c.cost_limit))
            metrics["cost/mean"] = cost
        return metrics | {"cost/multiplier": self.multiplier}

    def _check_cost(self, parts: Collection[str]) -> None:
        if self.config.cost_part not in parts:
            raise ValueError(
                f"cost_part={self.config.cost_part!r} is no part of the reward's scores; there are: "
                f"{', '.join(parts) or 'none'}"
            )

    def prepare(self) -> None:
        super().prepare()
        self.multiplier = self.config.multiplier

    def state(self) -> dict[str, Any]:
        return super().state() | {"multiplier": self.multiplier}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.multiplier = state["multiplier"]
