"""Group relative policy optimization over trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from ..functional import tree_normalized, tree_roots
from ..learner import Batch
from ..rollout.tree import ResampledTree, Tree
from .branching import BranchingAgent, BranchingConfig


@dataclass(frozen=True)
class TreeGRPOConfig(BranchingConfig):
    """Options of Tree-GRPO."""

    group_size: int = 6
    """Leaves of each prompt. With M trees of which N nodes are expanded in each of L rounds, M + M·N·L."""
    trees: int = 2
    """M: how many chains begin at the prompt."""
    nodes: int = 2
    """N: how many nodes of each tree are expanded again in a round. There are rounds until all leaves are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "trees", "nodes")
        if self.trees > self.group_size:
            raise ValueError(
                f"trees is at most group_size ({self.group_size}), the leaves that there may be, not {self.trees}"
            )


class TreeGRPO(BranchingAgent[TreeGRPOConfig]):
    """Tree-GRPO (Ji et al. 2025, arXiv 2509.21240, §3): M trees a prompt, of which nodes drawn by chance are expanded again.
    A node is a whole think-act-observe step, so that a branch repeats neither the tokens nor the tool calls before it.

        A = z within the tree of the leaf + z over all leaves of the prompt,   z = (R − μ) / (σ + 1e-6)
    """

    Config = TreeGRPOConfig
    summary: ClassVar[str] = "Tree-GRPO: steps of a few trees are expanded again, and compared within and between trees"
    paper: ClassVar[str] = "arXiv 2509.21240"

    def tree(self) -> Callable[..., Tree]:
        c = self.config
        return partial(ResampledTree, trees=c.trees, nodes=c.nodes, budget=c.budget)

    def advantages(self, batch: Batch) -> Tensor:
        trees = tree_roots(self.parents(batch).cpu()).to(batch.ids.device)
        return tree_normalized(batch.rewards, trees, batch.groups, batch.valid)
