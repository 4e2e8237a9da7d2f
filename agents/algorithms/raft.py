"""Learning from the good completions alone: RAFT, RAFT++ and Reinforce-Rej."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..agent import Agent
from ..config import GroupConfig
from ..functional import best_of_group, reinforce_loss
from ..learner import Batch, TokenTerms
from .clipped import ClippedAgent, ClippedConfig, ClippedGroupConfig


@dataclass(frozen=True)
class RAFTConfig(GroupConfig):
    """Options of RAFT."""


class RAFT(Agent[RAFTConfig]):
    """Reward-ranked fine-tuning (Dong et al. 2023, arXiv 2304.06767, alg. 1; in the form of arXiv 2504.11343, §2): supervised
    learning on the best completions of every prompt, R_i = max_j R_j > 0.

        ℓ_{i,t} = −log π(a_t | s_t)
    """

    Config = RAFTConfig
    summary: ClassVar[str] = "Supervised learning on the best samples of every prompt"
    paper: ClassVar[str] = "arXiv 2304.06767"

    def estimate(self, batch: Batch) -> Batch:
        return super().estimate(batch.learning_from(best_of_group(batch.rewards, batch.groups, batch.valid)))

    def advantages(self, batch: Batch) -> Tensor:
        return torch.ones_like(batch.rewards)

    def loss(self, terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
        return reinforce_loss(terms.logprobs, terms.advantages), {"clip_fraction": torch.zeros_like(terms.logprobs)}


@dataclass(frozen=True)
class RAFTPlusPlusConfig(ClippedGroupConfig):
    """Options of RAFT++."""


class RAFTPlusPlus(ClippedAgent[RAFTPlusPlusConfig]):
    """RAFT++ (Xiong et al. 2025, arXiv 2504.11343, eq. 4): RAFT with PPO's ratio and clip, A = 1 on the best completions."""

    Config = RAFTPlusPlusConfig
    summary: ClassVar[str] = "RAFT with PPO's ratio and clip"
    paper: ClassVar[str] = "arXiv 2504.11343"

    def estimate(self, batch: Batch) -> Batch:
        return super().estimate(batch.learning_from(best_of_group(batch.rewards, batch.groups, batch.valid)))

    def advantages(self, batch: Batch) -> Tensor:
        return torch.ones_like(batch.rewards)


@dataclass(frozen=True)
class ReinforceRejConfig(ClippedConfig):
    """Options of Reinforce-Rej."""

    filter_groups: tuple[str, ...] = ("reject",)
    """Which groups are left out: those that are all right or all wrong; dynamic_sampling, none, …: as everywhere."""


class ReinforceRej(ClippedAgent[ReinforceRejConfig]):
    """Reinforce-Rej (Xiong et al. 2025, arXiv 2504.11343, §4): REINFORCE without a baseline, A_i = R_i, on the prompts whose
    completions are neither all right nor all wrong (`Reject`)."""

    Config = ReinforceRejConfig
    summary: ClassVar[str] = "REINFORCE on the prompts that are neither solved nor hopeless"
    paper: ClassVar[str] = "arXiv 2504.11343"

    def advantages(self, batch: Batch) -> Tensor:
        return batch.rewards
