"""Sequences that begin alike, with what they share computed once.

To a causal model a token is the same in all sequences that are the same up to it. The sequences of a prompt are therefore
a tree, whose branches share the prompt, and with rollouts that branch much more. The tree goes through the model as one
sequence of its different tokens, each with the position that it has in its own sequence, and with an attention mask that
lets it see its ancestors alone. Every sequence then takes its log-probabilities from the tokens that it is made of, and
the gradients of the copies add up in the token: the same loss and the same gradient as of the sequences one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Batch
from .forward import Forward, ShortAttention
from .head import head_of, trunk

WORTH = 0.85
"""Trees are computed as such where that is at most this share of the work: they have to be built, too."""


@dataclass(frozen=True)
class Trees:
    """The different tokens of some sequences, G trees with up to N tokens each.

    Attributes:
        ids: [G, N] int64; 0 behind the tokens of a tree.
        positions: [G, N] int64, of the token in its sequence.
        visible: [G, N, N] bool, whether token j (last) is token i or before it in its sequence.
        before: [G, N] int64, the token before each; that of the first is itself.
        tree: [B] int64, of each sequence.
        places: [B, T] int64, of each token in its tree; 0 on padding.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    before: Tensor
    tree: Tensor
    places: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Trees:
        """The trees of a batch, one for each group."""
        ids, lengths = batch.ids.cpu().numpy(), batch.lengths.cpu().numpy()
        groups, tree = np.unique(batch.groups.cpu().numpy(), return_inverse=True)
        places = np.zeros(ids.shape, dtype=np.int64)
        found = []
        for number in range(len(groups)):
            rows = np.flatnonzero(tree == number)
            places[rows], first_rows, positions = _places(ids[rows], lengths[rows])
            found.append((rows[first_rows], positions))
        shape = len(groups), max(len(positions) for _, positions in found)
        tree_ids, tree_positions, before = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        visible = np.zeros((*shape, shape[1]), dtype=bool)
        visible[:, np.arange(shape[1]), np.arange(shape[1])] = True  # padding sees itself
        for number, (rows, at) in enumerate(found):
            n = len(at)
            tree_ids[number, :n], tree_positions[number, :n] = ids[rows, at], at
            before[number, :n] = places[rows, np.maximum(at - 1, 0)]
            # Token j, which stands at at[j], is in the sequence of token i if it is what has that place there.
            ancestors = places[rows][:, at] == np.arange(n)
            visible[number, :n, :n] = ancestors & (at <= at[:, None])
        as_tensor = torch.from_numpy
        return cls(*map(as_tensor, (tree_ids, tree_positions, visible, before, tree.astype(np.int64), places)))

    def to(self, device: torch.device) -> Trees:
        return Trees(**{name: value.to(device) for name, value in vars(self).items()})


def _places(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers for the different tokens of the sequences `ids` [B, T]: [B, T], the number of each token; and of each number the
    first row that has it and the position there."""
    width = ids.shape[1]
    real = np.arange(width) < lengths[:, None]
    padded = np.where(real, ids, -1)
    order = np.lexsort(padded.T[::-1])
    ordered = padded[order]
    # A sequence shares with those before it, in their order, what it shares with the one right before it.
    same = np.cumprod(ordered[1:] == ordered[:-1], axis=1).astype(bool)
    new = real[order]
    new[1:] &= ~same
    numbers = np.cumsum(new).reshape(new.shape) - 1
    last_new = np.maximum.accumulate(np.where(new, np.arange(len(order))[:, None], 0), axis=0)
    places = np.empty_like(numbers)
    places[order] = np.where(real[order], np.take_along_axis(numbers, last_new, axis=0), 0)
    rows, positions = np.nonzero(new)
    return places, order[rows], positions


def count_tokens(batch: Batch) -> dict[int, int]:
    """By the number of the group, how many different tokens its sequences have."""
    ids, lengths, groups = (x.cpu().numpy() for x in (batch.ids, batch.lengths, batch.groups))
    counts: dict[int, int] = {}
    for group in np.unique(groups):
        rows = groups == group
        alone = rows.sum() == 1
        counts[int(group)] = int(lengths[rows][0]) if alone else len(_places(ids[rows], lengths[rows])[1])
    return counts


def parts(batch: Batch, max_tokens: int, model: Any) -> Iterator[tuple[Tensor, bool]]:
    """Row indices of the parts of a batch that go through the model at once, with at most `max_tokens` tokens, padding
    counted, or one sequence; and whether as trees.

    A group goes as a tree where that is less work, the others as sequences (`Batch.micro_batches`).
    """
    groups, trees = batch.groups.cpu(), []
    for group, count in count_tokens(batch).items():
        rows = (groups == group).nonzero().squeeze(1)
        plain = len(rows) * _work(model, int(batch.lengths[rows].max()))
        if count <= max_tokens and _work(model, count) <= WORTH * plain:
            trees.append((count, rows))
    in_trees = torch.zeros(len(batch), dtype=torch.bool)
    if trees and is_causal(model, int(batch.lengths.max())):
        part: list[Tensor] = []
        for count, rows in sorted(trees, key=lambda tree: tree[0]):
            in_trees[rows] = True
            if part and (len(part) + 1) * count > max_tokens:
                yield torch.cat(part), True
                part = []
            part.append(rows)
        yield torch.cat(part), True
    left = (~in_trees).nonzero().squeeze(1)
    if len(left):
        for rows in batch.select(left.to(batch.ids.device)).micro_batches(max_tokens):
            yield left[rows], False


def _work(model: Any, length: int) -> float:
    """The work of one sequence, in tokens: every token goes through the layers, which have some 12 H² weights each, and looks
    at all others, at a cost of some 2 H each in scores and values."""
    return length * (1 + length / (6 * model.config.get_text_config().hidden_size))


def forward_trees(
    model: Any,
    batch: Batch,
    temperature: float,
    *,
    body: Callable[..., Any] | None = None,
    value_head: nn.Linear | None = None,
    entropy_gradient: bool = False,
) -> Forward:
    """`forward`, with the tokens that sequences of a group share computed once."""
    trees = Trees.of(batch).to(batch.ids.device)
    as_is = body is not None or getattr(model, "is_gradient_checkpointing", False)  # as in `forward`
    with nullcontext() if as_is else ShortAttention():
        states = _states(trunk(model) if body is None else body, trees)
    # The tokens that are an action of some sequence; what each is predicted from is the one before it.
    actions = torch.zeros_like(trees.ids, dtype=torch.bool)
    mask = batch.action_mask > 0
    owners = trees.tree.unsqueeze(1).expand_as(mask)
    actions[owners[mask], trees.places[mask]] = True
    tree, place = actions.nonzero(as_tuple=True)
    chosen = states[tree, trees.before[tree, place]]
    logprobs, entropy = head_of(model).logprobs(
        chosen, trees.ids[tree, place], temperature, entropy_gradient=entropy_gradient
    )

    def spread(values: Tensor) -> Tensor:
        """[n, …] values of those tokens, at their places in [B, T, …]."""
        by_place = values.new_zeros(*trees.ids.shape, *values.shape[1:]).index_put((tree, place), values)
        return values.new_zeros(*mask.shape, *values.shape[1:]).index_put(
            tuple(mask.nonzero(as_tuple=True)), by_place[owners[mask], trees.places[mask]]
        )

    values = None if value_head is None else spread(value_head(chosen).float())
    return Forward(spread(logprobs), spread(entropy), values)


def _states(body: Any, trees: Trees) -> Tensor:
    dtype = next(body.parameters()).dtype
    hidden = torch.zeros(trees.visible.shape, dtype=dtype, device=trees.ids.device)
    hidden = hidden.masked_fill(~trees.visible, torch.finfo(dtype).min).unsqueeze(1)
    output = body(input_ids=trees.ids, attention_mask=hidden, position_ids=trees.positions, use_cache=False)
    return output.last_hidden_state


# By the trunk: whether it takes a mask and positions, and sees nothing besides.
_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_causal(model: Any, length: int) -> bool:
    """Whether sequences of this length can go through the model as trees: whether it sees the tokens that it is let see and
    knows of them only where they stand. Windowed attention, recurrence and the like do otherwise. Tried out once, on two
    short sequences."""
    body = trunk(model)
    config = model.config.get_text_config()
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(config, name, None)
        if window is not None and length > window:
            return False
    if body not in _tried:
        _tried[body] = _try(body)
    return _tried[body]


@torch.no_grad()
def _try(body: Any) -> bool:
    device = next(body.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 3]], device=device)
    batch = Batch.pack(ids.tolist(), [[1] * 4] * 2, [[0.0] * 4] * 2, torch.zeros(2), 0, groups=torch.tensor([0, 0]))
    trees = Trees.of(batch).to(device)
    was_training = body.training
    body.eval()
    try:
        expected = body(input_ids=ids, use_cache=False).last_hidden_state
        found = _states(body, trees)[0][trees.places]
    except (TypeError, ValueError, RuntimeError, IndexError):  # a model that does not know of masks of this form
        return False
    finally:
        body.train(was_training)
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.05
    return torch.allclose(found, expected, tolerance, tolerance * float(expected.abs().max()))
