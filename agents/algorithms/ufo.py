"""Retry training with unary feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...envs import TextEnv
from ...envs.wrappers import Retry
from ..learner import TokenTerms
from .actor_critic import ActorCritic, ActorCriticConfig
from .clipped import ClippedConfig, clipped_loss


@dataclass(frozen=True)
class UFOConfig(ActorCriticConfig, ClippedConfig):
    """Options of UFO."""

    tries: int = 5
    """Tries that an episode has at most."""
    decay: float = 0.5
    """What a right answer is worth is multiplied by this for every try before it."""
    repetition: float = 0.1
    """λ, the most that saying the same again can cost."""
    feedback: str = "That is not right. Try again."
    """What the policy reads after a wrong answer, whatever was wrong with it."""


class UFO(ActorCritic[UFOConfig]):
    """Unary feedback as observation (Liu et al. 2025, arXiv 2507.14295, §3): an answer that is wrong is told to be wrong, and
    the policy tries again (`tokengym.envs.wrappers.Retry`). As published the learner is PPO; any other agent learns to try
    again in `Retry(task)`.

        R = decay^(n−1) [the n-th answer is right] − λ (1 − distinct answers / n)

    Held-out problems are asked once, as everybody else's are; `eval_env=Retry(task)` asks them as in training.
    """

    Config = UFOConfig
    summary: ClassVar[str] = "PPO on episodes in which a wrong answer is told to be wrong and tried again"
    paper: ClassVar[str] = "arXiv 2507.14295"

    def framed(self, env: TextEnv) -> TextEnv:
        if isinstance(env, Retry):
            raise ValueError("UFO lets the policy try again itself: pass the environment without Retry, or take PPO")
        c = self.config
        return Retry(env, c.tries, decay=c.decay, repetition=c.repetition, feedback=c.feedback)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        critic, reported = self.critic_loss(terms)
        losses, clipped = clipped_loss(self.config, terms)
        return losses + critic, reported | clipped
