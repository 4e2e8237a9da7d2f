"""What the algorithms share whose rollouts branch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..functional import Aggregation
from ..learner import Batch
from ..rollout import Group, Trajectory
from ..rollout.tree import Budget, Tree, tree_metrics
from .clipped import ClippedAgent, ClippedGroupConfig


@dataclass(frozen=True)
class BranchingConfig(ClippedGroupConfig):
    """Options of the algorithms whose rollouts branch."""

    tree_tokens: int | None = None
    """No more leaves of a prompt once this many tokens were sampled for it; None: group_size is the only limit."""
    tree_tool_calls: int | None = None
    """The same for tool calls."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How the losses of tokens become one number; as in GRPO, every completion counts the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "tree_tokens", "tree_tool_calls")

    @property
    def budget(self) -> Budget:
        return Budget(*(math.inf if limit is None else limit for limit in (self.tree_tokens, self.tree_tool_calls)))


C = TypeVar("C", bound=BranchingConfig)


class BranchingAgent(ClippedAgent[C]):
    """An agent whose rollouts are trees. It evaluates with chains, as all do."""

    @abstractmethod
    def tree(self) -> Callable[..., Tree]:
        """The trees of its prompts, but for `start` and `seeds`."""

    def prepare(self) -> None:
        super().prepare()
        self.rollout = self.make_rollout(self.env, self.tree())

    def sample(self) -> list[Group]:
        groups = super().sample()
        self._tree_metrics = tree_metrics(groups) | {"tree/entropy_top_k": float(self.engine.entropy_top_k)}
        return groups

    def after_update(self, batch: Batch) -> dict[str, float]:
        return self._tree_metrics

    def columns(self, trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
        return {
            "parent": torch.tensor([-1 if t.parent is None else t.parent for t in trajectories]),
            "fork": torch.tensor([t.fork or 0 for t in trajectories]),
        }

    def parents(self, batch: Batch) -> Tensor:
        """[B] int64, the row that each row branched off, -1 for none."""
        first = torch.searchsorted(batch.groups, batch.groups)  # groups stand together, in the order of their numbers
        parent = batch.columns["parent"]
        return torch.where(parent < 0, -1, first + parent)
