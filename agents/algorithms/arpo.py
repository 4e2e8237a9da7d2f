"""Agentic reinforced policy optimization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from ..functional import group_normalized, shared_mean, token_origins
from ..learner import Batch
from ..rollout.tree import Branching, EntropyTree, Tree
from .branching import BranchingAgent, BranchingConfig


@dataclass(frozen=True)
class ARPOConfig(BranchingConfig):
    """Options of ARPO."""

    group_size: int = 16
    """Leaves of each prompt: M, the budget that initial chains, branches and fresh chains share."""
    prompts_per_step: int = 32
    """Dataset rows that a step starts from."""
    initial_chains: int = 8
    """N: how many chains begin at the prompt; the other leaves are branches, or fresh chains if there are not enough."""
    branches: int = 1
    """Z: how many branches begin where a chain branches."""
    first_tokens: int = 20
    """k: over how many tokens entropies are averaged, at the start of a chain and after each reply."""
    base_probability: float = 0.5
    """α: of branching where the entropy is what it was at the start."""
    entropy_weight: float = 0.2
    """β: how much the probability rises with the entropy."""
    threshold: float = 0.5
    """τ: with branching="threshold", a chain branches where its probability is above this."""
    branching: Branching = "threshold"
    """Whether a chain branches where the probability is above the threshold, or with this probability (sample)."""
    attribution: Literal["soft", "hard"] = "soft"
    """The advantage of a token that several leaves share: in each leaf that leaf's (soft), or the mean of theirs (hard)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "initial_chains", "branches", "first_tokens")
        self._between(0, 1, "base_probability", "threshold")
        if self.initial_chains > self.group_size:
            raise ValueError(
                f"initial_chains is at most group_size ({self.group_size}), the leaves that there may be, "
                f"not {self.initial_chains}"
            )


class ARPO(BranchingAgent[ARPOConfig]):
    """Agentic reinforced policy optimization (Dong et al. 2025, arXiv 2507.19849, §3 and alg. 1): the rollout branches where
    the policy is less sure after a tool's result than it was at the start. A branch repeats no tool call.

        H = mean entropy of the first k tokens / ln|V|, after a result;  H_0 = the same at the start of the chain
        P = clip(α + β (H − H_0), 0, 1);  branch where P > τ (as published) or with probability P (as in the authors' code)
        A_i = (R_i − μ) / (σ + 1e-6) over all leaves of the prompt (soft); where d leaves share a token, the mean of theirs
        (hard)

    The entropy is over the whole vocabulary where the engine has it: the metric tree/entropy_top_k is 0 then, and else the
    number of tokens that it is over. In an environment without tools any reply is a result.
    """

    Config = ARPOConfig
    summary: ClassVar[str] = "Agentic RPO: rollouts branch where the policy is unsure after a tool's result"
    paper: ClassVar[str] = "arXiv 2507.19849"

    def tree(self) -> Callable[..., Tree]:
        c = self.config
        return partial(
            EntropyTree,
            vocab_size=self.policy.tokenizer.vocab_size,
            initial=c.initial_chains,
            first_tokens=c.first_tokens,
            alpha=c.base_probability,
            beta=c.entropy_weight,
            threshold=c.threshold,
            branching=c.branching,
            branches=c.branches,
            budget=c.budget,
        )

    def advantages(self, batch: Batch) -> Tensor:
        leaves = group_normalized(batch.rewards, batch.groups, batch.valid)
        if self.config.attribution == "soft":
            return leaves
        parents, forks = self.parents(batch).cpu(), batch.columns["fork"].cpu()
        origins = token_origins(parents, forks, batch.ids.shape[1]).to(batch.ids.device)
        return shared_mean(leaves, origins, batch.action_mask)
