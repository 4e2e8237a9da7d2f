"""Rollouts that branch: several leaves share the beginning of an episode, its tokens and its tool calls.

A branch begins where the policy is about to speak. The episode up to there is forked, so that no tool is called twice,
and the engine finds the tokens up to there in its cache. The branches of a prompt are made in an order that does not
depend on the time that tools take: a prompt waits for all of its own, while other prompts go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..engines import Generation
from .chain import Chain, Chains
from .trajectory import Group

Branching = Literal["threshold", "sample"]


@dataclass(frozen=True, slots=True)
class Budget:
    """After what a prompt has no further branches or fresh chains; those under way go to their ends.

    Attributes:
        tokens: that were sampled for it.
        tool_calls: that were made for it.
    """

    tokens: float = math.inf
    tool_calls: float = math.inf

    def allows(self, chains: Sequence[Chain]) -> bool:
        return (
            sum(chain.num_sampled for chain in chains) < self.tokens
            and sum(chain.tool_calls for chain in chains) < self.tool_calls
        )


class Tree(Chains):
    """Chains that branch. There are at most as many as there are seeds: the leaves.

    Args:
        start, seeds: as in `Chains`.
        initial: how many chains begin at the prompt at first.
        budget: further limits.
    """

    def __init__(
        self, start: Callable[[int], Chain], seeds: Sequence[int], *, initial: int, budget: Budget = Budget()
    ) -> None:
        super().__init__(start, seeds[:initial])
        self._start = start
        self._seeds: Iterator[int] = iter(seeds[initial:])
        self._left = len(seeds) - len(self.chains)
        self._budget = budget

    def ready(self) -> list[Chain]:
        if self.waiting:
            return []
        ready = super().ready()
        if not ready and self.has_room:
            self.grow()
            ready = super().ready()
        return ready

    def grow(self) -> None:
        """Add chains, now that all are through: fresh ones, as many as there are leaves left."""
        while self._left:
            self.chains.append(self._start(self._seed()))

    @property
    def has_room(self) -> bool:
        """Whether there may be another leaf."""
        return self._left > 0 and self._budget.allows(self.chains)

    def branch(self, chain: Chain) -> Chain:
        """Add a branch of `chain`, which is about to speak."""
        branch = chain.branch(self._seed())
        self.chains.append(branch)
        return branch

    def _seed(self) -> int:
        self._left -= 1
        return next(self._seeds)


class EntropyTree(Tree):
    """Branches where the policy is less sure after what it was told than it was at the start (ARPO, arXiv 2507.19849,
    §3.1). N chains begin at the prompt. When one has sampled its first tokens after a reply of the environment (a tool's
    result),

        H = their mean entropy / ln|V|,  ΔH = H - H_0,  P = clip(α + β ΔH, 0, 1),

    where H_0 is the same of the chain's very first tokens, and it branches there if P > τ, or with probability P. A
    branch starts at the token after the reply and inherits H_0. Once all chains are through, fresh ones fill up the
    leaves.

    Args:
        start, seeds, initial (N), budget: as in `Tree`. The seeds are the M leaves.
        vocab_size: |V|.
        first_tokens: k, how many first tokens there are.
        alpha, beta, threshold: α, β, τ.
        branching: "threshold" branches where P > τ, "sample" with probability P.
        branches: Z, how many at once.
    """

    def __init__(
        self,
        start: Callable[[int], Chain],
        seeds: Sequence[int],
        *,
        vocab_size: int,
        initial: int = 8,
        first_tokens: int = 20,
        alpha: float = 0.5,
        beta: float = 0.2,
        threshold: float = 0.5,
        branching: Branching = "threshold",
        branches: int = 1,
        budget: Budget = Budget(),
    ) -> None:
        super().__init__(start, seeds, initial=initial, budget=budget)
        self._most = math.log(vocab_size)
        self._first_tokens = first_tokens
        self._alpha, self._beta, self._threshold = alpha, beta, threshold
        self._branching: Branching = branching
        self._branches = branches
        self._entropy_at_start: dict[int, float] = {}  # by the identity of the chain

    def sampled(self, chain: Chain, generation: Generation) -> None:
        assert generation.entropies
        entropy = float(np.mean(generation.entropies[: self._first_tokens])) / self._most
        if not chain.transcript.turns:
            self._entropy_at_start[id(chain)] = entropy
            return
        if chain.fork == len(chain.transcript):  # whether to branch here was decided when it was made
            return
        at_start = self._entropy_at_start[id(chain)]
        if not self._chosen(entropy - at_start, chain):
            return
        for _ in range(self._branches):
            if self.has_room:
                self._entropy_at_start[id(self.branch(chain))] = at_start

    def _chosen(self, rise: float, chain: Chain) -> bool:
        probability = min(max(self._alpha + self._beta * rise, 0.0), 1.0)
        if self._branching == "threshold":
            return probability > self._threshold
        return np.random.default_rng([chain.seed, len(chain.transcript.turns)]).random() < probability


class ResampledTree(Tree):
    """Trees that are grown from nodes drawn by chance (Tree-GRPO, arXiv 2509.21240, §3.1). A node is where the policy is
    about to speak: at the prompt, or after a reply of the environment, so that the step between two nodes is a whole
    think-act-observe. M chains begin at the prompt; once all are through, N nodes of each tree are drawn and expanded
    again from there, to the end; and so on in rounds until all leaves are there.

    Args:
        start, seeds, budget: as in `Tree`.
        trees: M.
        nodes: N.
    """

    def __init__(
        self,
        start: Callable[[int], Chain],
        seeds: Sequence[int],
        *,
        trees: int = 2,
        nodes: int = 2,
        budget: Budget = Budget(),
    ) -> None:
        super().__init__(start, seeds, initial=trees, budget=budget)
        self._draw = np.random.default_rng(list(seeds[:1]))
        self._count = nodes
        self._nodes: list[list[Chain]] = [[] for _ in self.chains]  # of each tree, chains as they were at the node
        self._tree = {id(chain): tree for tree, chain in enumerate(self.chains)}

    def sampled(self, chain: Chain, generation: Generation) -> None:
        # At its own fork a branch is at a node that is known already. The last leaves need none.
        if self._left and chain.fork != len(chain.transcript):
            self._nodes[self._tree[id(chain)]].append(chain.branch(chain.seed))

    def grow(self) -> None:
        # A tree without nodes is one at whose first turn the engine failed.
        grown = [(tree, nodes) for tree, nodes in enumerate(self._nodes) if nodes]
        drawn = [self._draw.choice(len(nodes), self._count, replace=len(nodes) < self._count) for _, nodes in grown]
        for n in range(self._count):
            for (tree, nodes), places in zip(grown, drawn):
                if self._left:
                    node = nodes[places[n]]
                    leaf = self.branch(node)
                    leaf.parent = node.parent  # the chain that the node is on
                    self._tree[id(leaf)] = tree


def tree_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What branching gave and cost: means over the prompts of leaves, branches, tokens sampled and tool calls made, and the
    shares of the leaves' tokens and tool calls that are their parents'."""
    leaves = [t for group in groups for t in group]
    tokens, calls = sum(t.num_sampled for t in leaves), sum(t.tool_calls for t in leaves)
    all_tokens = sum(t.num_actions for t in leaves)
    all_calls = sum(t.score.parts.get("tool_calls", 0.0) for t in leaves)
    return {
        "tree/leaves": len(leaves) / len(groups),
        "tree/branches": sum(t.parent is not None for t in leaves) / len(groups),
        "tree/tokens": tokens / len(groups),
        "tree/tool_calls": calls / len(groups),
        "tree/shared_tokens": 1 - tokens / max(all_tokens, 1),
        "tree/shared_tool_calls": 1 - calls / all_calls if all_calls else 0.0,
    }
