"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from ..base import BaseAgent
from ..config import AgentConfig
from ..learner import demonstration_batch, negative_log_likelihood
from ..monitor import Sample
from ..policy import Policy


@dataclass(frozen=True)
class SFTConfig(AgentConfig):
    """Options of SFT."""

    learning_rates: ClassVar[dict[str, float]] = {"tiny": 2e-3, "lora": 2e-4, "other": 2e-5}

    batch_size: int = 128
    """Demonstrations per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "batch_size")


class SFT(BaseAgent[SFTConfig]):
    """Supervised fine-tuning on the environment's own demonstrations (`TextEnv.demonstrations`): ℓ_t = −log π(a_t |
    s_t).

    With the model "tiny" it starts from random weights.
    """

    Config = SFTConfig
    summary: ClassVar[str] = "Supervised fine-tuning on the environment's demonstrations"
    paper: ClassVar[str] = "arXiv 2203.02155, §3.1"

    def load_policy(self, model: str) -> Policy:
        if model == "tiny":
            return Policy.tiny(self.config.seed, dtype=self.config.dtype, device=self.config.device)
        return super().load_policy(model)

    def train_step(self) -> tuple[dict[str, float], Sequence[Sample]]:
        rng = np.random.default_rng([self.config.seed, self.step])
        demonstrations = list(islice(self.env.demonstrations(rng), self.config.batch_size))
        batch = demonstration_batch(demonstrations, self.policy.tokenizer, self.config.max_tokens, self.env)
        self.engine.sleep()
        stats = self.learner.update(batch, negative_log_likelihood, learning_rate=self.learning_rate)
        del stats["kl/sampler"]  # nobody sampled
        return stats, ()
