"""Sequences that share their beginnings: computed once, with the loss and the gradient of the sequences one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents import Policy
from tokengym.agents.learner import Batch
from tokengym.agents.learner.forward import forward
from tokengym.agents.learner.tree import Trees, count_tokens, forward_trees, is_causal, parts

from .conftest import CONFIGS, build_policy


def pack(rows: Sequence[Sequence[int]], groups: Sequence[int], prompt: int = 1, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    masks = [[0] * prompt + [int(x) for x in torch.randint(0, 4, (len(r) - prompt,), generator=draw) > 0] for r in rows]
    old = [[-1.0] * len(r) for r in rows]
    advantages = torch.randn(len(rows), generator=draw)
    return Batch.pack(rows, masks, old, advantages, 256, groups=torch.tensor(groups))


def branching(groups: int, leaves: int, seed: int) -> Batch:
    """Sequences that branch off each other at random places."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        return torch.randint(0, 256, (int(torch.randint(low, high, (), generator=draw)),), generator=draw).tolist()

    rows: list[list[int]] = []
    for _ in range(groups):
        prompt = tokens(3, 9)
        group = [prompt + tokens(4, 30)]
        while len(group) < leaves:
            parent = group[int(torch.randint(0, len(group), (), generator=draw))]
            fork = int(torch.randint(len(prompt), len(parent), (), generator=draw))
            group.append(parent[:fork] + tokens(2, 12))
        rows += group
    return pack(rows, [g for g in range(groups) for _ in range(leaves)], prompt=3, seed=seed)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=7)), min_size=1, max_size=9)
)
@settings(max_examples=200)
def test_the_tokens_of_a_tree_are_the_different_beginnings(rows: list[tuple[int, list[int]]]) -> None:
    batch = pack([ids for _, ids in rows], [group for group, _ in rows])
    trees = Trees.of(batch)
    beginnings = {(group, tuple(ids[: t + 1])) for group, ids in rows for t in range(len(ids))}
    assert sum(count_tokens(batch).values()) == len(beginnings)
    named: dict[tuple[int, int], tuple[int, ...]] = {}
    for b, (_, ids) in enumerate(rows):
        tree = int(trees.tree[b])
        path = trees.places[b, : len(ids)].tolist()
        for t, place in enumerate(path):
            # The same number for the same beginning, and for no other.
            assert named.setdefault((tree, place), tuple(ids[: t + 1])) == tuple(ids[: t + 1])
            assert trees.ids[tree, place] == ids[t]
            assert trees.positions[tree, place] == t
            assert trees.visible[tree, place].nonzero().flatten().tolist() == sorted(path[: t + 1])
            assert trees.before[tree, place] == path[max(t - 1, 0)]
    assert len(named) == len(beginnings)


def gradients(policy: Policy, batch: Batch, run: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    for p in policy.trainable().values():
        p.grad = None
    found = run(policy.model, batch, 0.8, entropy_gradient=True, value_head=policy.value_head)
    ratio = torch.exp(found.logprobs - batch.old_logprobs)
    losses = torch.maximum(-ratio * batch.advantages, -ratio.clamp(0.8, 1.2) * batch.advantages) - 0.1 * found.entropy
    assert found.values is not None
    losses = losses + (found.values.squeeze(-1) - 1.0).square() * batch.action_mask
    # Summed in double precision: the last digit of a float32 of 65 is as large as the difference that is allowed.
    loss = (losses * batch.action_mask).double().sum() / batch.action_mask.sum()
    loss.backward()
    names = {name: p for name, p in policy.trainable().items() if p.grad is not None}
    return loss.detach(), {name: p.grad.clone() for name, p in names.items() if p.grad is not None}


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_loss_and_gradient(kind: str, dtype: torch.dtype) -> None:
    policy = build_policy(kind, seed=1)
    policy.add_value_head()
    policy.model.to(dtype)
    assert policy.value_head is not None
    torch.nn.init.normal_(policy.value_head.to(dtype).weight)
    batch = branching(groups=3, leaves=6, seed=2)
    assert sum(count_tokens(batch).values()) < 0.8 * batch.num_tokens
    loss, expected = gradients(policy, batch, forward)
    tree_loss, found = gradients(policy, batch, forward_trees)
    scale = max(float(g.abs().max()) for g in expected.values())
    assert abs(float(tree_loss - loss)) < 1e-5
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * max(scale, 1.0), name


def test_windowed_attention_goes_as_sequences(make_policy: Callable[..., Policy]) -> None:
    model = make_policy("mistral").model  # a window of six tokens
    assert is_causal(model, 6)
    assert not is_causal(model, 7)
    batch = branching(2, 5, seed=0)
    assert all(not as_trees for _, as_trees in parts(batch, 4096, model))


def test_a_model_that_sees_otherwise_goes_as_sequences() -> None:
    class Sum(torch.nn.Module):
        """Recurrent: the running sum of the embeddings, whatever the mask."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 4)

        def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
            return type("Out", (), {"last_hidden_state": self.embed(input_ids).cumsum(1)})

    from tokengym.agents.learner.tree import _try

    assert not _try(Sum())
    assert _try(build_policy("llama").model.model)


@pytest.mark.parametrize("limit", [40, 100, 400, 4096])
def test_parts_hold_every_row_once_and_keep_to_the_limit(limit: int, make_policy: Callable[..., Policy]) -> None:
    model = make_policy().model
    apart = pack([[g, *range(5 + g)] for g in range(5)], [100 + g for g in range(5)])
    shared = branching(4, 6, seed=3)
    rows = [r[:n].tolist() for b in (shared, apart) for r, n in zip(b.ids, b.lengths)]
    batch = pack(rows, [*shared.groups.tolist(), *apart.groups.tolist()])
    seen: list[int] = []
    for chosen, as_trees in parts(batch, limit, model):
        seen += chosen.tolist()
        part = batch.select(chosen)
        if as_trees:
            trees = Trees.of(part)
            assert trees.ids.numel() <= limit
            assert all((batch.groups == g).sum() == (part.groups == g).sum() for g in part.groups), "trees are whole"
        else:
            assert part.ids.numel() <= limit or len(part) == 1
    assert sorted(seen) == list(range(len(batch)))
    as_trees = {int(g) for chosen, tree in parts(batch, limit, model) if tree for g in batch.groups[chosen]}
    assert as_trees == ({0, 1, 2, 3} if limit >= 400 else as_trees)
    assert not as_trees & set(range(100, 105)), "nothing to gain"


def test_only_actions_have_numbers() -> None:
    policy = build_policy()
    batch = branching(2, 4, seed=5).learning_from(torch.tensor([True] * 5 + [False] * 3))
    found = forward_trees(policy.model, batch, 1.0)
    assert (found.logprobs[batch.action_mask == 0] == 0).all()
    assert (found.entropy[batch.action_mask == 0] == 0).all()
    assert (found.logprobs[batch.action_mask > 0] < 0).all()
    assert found.values is None
