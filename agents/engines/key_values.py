"""Keys and values of many rows of tokens, and a cache of them by token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .huge_pages import empty

Form = tuple[int, int]
"""Heads, and numbers in each, of a layer's keys or values."""


@dataclass(frozen=True)
class Layout:
    """What a model's layers keep for a token.

    Attributes:
        layers: of each layer the form of its keys and that of its values.
        dtype: of both.
        device: where they are.
    """

    layers: tuple[tuple[Form, Form], ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes."""
        return self.dtype.itemsize * sum(heads * size for layer in self.layers for heads, size in layer)


class KeyValues:
    """The keys and values of all layers, for rows of tokens.

    Tensors of one form are one stack [count, rows, heads, width, size], so that to copy a row is one operation, or a few
    where layers differ, and not one for each layer.

    Attributes:
        layers: keys and values of each layer, [rows, heads, width, size]: views of the stacks.
        width: tokens that a row has room for.
    """

    def __init__(self, layout: Layout, rows: int, width: int) -> None:
        self._layout = layout
        self.rows, self.width = rows, width
        forms = [form for layer in layout.layers for form in layer]
        self.stacks = [
            # Zeros: what is masked has probability 0, and 0 times what memory happened to hold may be no number.
            empty(forms.count(f), rows, f[0], width, f[1], dtype=layout.dtype, device=layout.device).zero_()
            for f in dict.fromkeys(forms)
        ]
        self.layers = list(self.views())

    def views(self, *index: slice | int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each layer the part of keys and values that `index` says: of [rows, heads, width, size]."""
        cut = [iter(stack[:, *index].unbind()) for stack in self.stacks]
        stack_of = dict(zip(dict.fromkeys(form for layer in self._layout.layers for form in layer), cut))
        return ((next(stack_of[keys]), next(stack_of[values])) for keys, values in self._layout.layers)

    def reserved(self, rows: int, width: int) -> KeyValues:
        """These, or a copy with room for at least as many rows and tokens, and for some more than what is there."""
        if rows <= self.rows and width <= self.width:
            return self
        more = KeyValues(
            self._layout,
            self.rows if rows <= self.rows else max(rows, 2 * self.rows),
            self.width if width <= self.width else max(width, self.width + max(64, self.width // 4)),
        )
        for new, old in zip(more.stacks, self.stacks):
            new[:, : self.rows, :, : self.width] = old
        return more

    def move(self, to: Sequence[int], rows: Sequence[int], width: int) -> None:
        """Copy `rows`, their first `width` tokens, to where `to` says."""
        if rows:
            source, target = (torch.tensor(r, device=self._layout.device) for r in (rows, to))
            for stack in self.stacks:
                stack[:, target, :, :width] = stack[:, source, :, :width]

    def copied(self, rows: Sequence[int], places: slice) -> list[Tensor]:
        """A copy of the stacks for `rows` and the tokens at `places`, [count, len(rows), heads, width, size]."""
        index = torch.tensor(rows, device=self._layout.device)
        return [stack[:, index, :, places] for stack in self.stacks]

    def put(self, row: int, start: int, spans: Sequence[Tensor]) -> None:
        """Set the tokens of `row` from `start` to `spans`, one [count, heads, n, size] for each stack."""
        for stack, span in zip(self.stacks, spans):
            stack[:, row, :, start : start + span.shape[2]] = span


@dataclass(eq=False)
class _Node:
    """A span of tokens after those of its parent, with their keys and values."""

    ids: tuple[int, ...]
    spans: list[Tensor]
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixCache:
    """Keys and values of token sequences, found again by the ids that a later sequence begins with.

    A radix tree over ids, as in SGLang's RadixAttention (arXiv 2312.07104): what sequences have in common is kept once.
    The least recently used goes first when the bound is reached.

    Args:
        token_bytes: bytes that a token takes.
        max_bytes: the bound of all.
    """

    def __init__(self, token_bytes: int, max_bytes: int) -> None:
        self._token_bytes, self._max_bytes = token_bytes, max_bytes
        self._clock = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Node((), [], None)
        self._new: list[tuple[tuple[int, ...], int, list[Tensor]]] = []
        self._held = 0
        self.tokens = 0

    def match(self, ids: tuple[int, ...]) -> list[list[Tensor]]:
        """The spans of the longest sequence in the cache that `ids` begins with, in order."""
        self._settle()
        self._clock += 1
        node, at, found = self._root, 0, []
        while at < len(ids) and (child := node.children.get(ids[at])) is not None:
            n = common(child.ids, ids[at : at + len(child.ids)])
            child.used = self._clock
            found.append([span[:, :, :n] for span in child.spans])
            node, at = child, at + n
            if n < len(child.ids):
                break
        return found

    def add(self, sequences: Sequence[tuple[tuple[int, ...], int]], stacks: Sequence[Tensor]) -> None:
        """Keep sequences of (ids, start): keys and values of the tokens from `start` stand in the row of `stacks`
        [count, rows, heads, width, size] that has the sequence's number. Those before are kept already, or were
        given up, and then this is as well."""
        if not self._max_bytes:
            return
        for row, (ids, start) in enumerate(sequences):
            if len(ids) > start:
                self._new.append((ids, start, [stack[:, row, :, : len(ids) - start] for stack in stacks]))
        # Until a sequence is sought the tree is left as it is: if the weights change before that, its work is spared.
        self._held += sum(stack.numel() * stack.element_size() for stack in stacks)
        if self._held + self.tokens * self._token_bytes > self._max_bytes:
            self._settle()

    def _settle(self) -> None:
        if not self._new:
            return
        for sequence in self._new:
            self._insert(*sequence)
        self._new, self._held = [], 0
        excess = self.tokens - self._max_bytes // self._token_bytes
        if excess <= 0:
            return
        # A parent is used whenever a child is: with the deepest first among equals, it never comes before its children.
        nodes = self._nodes()
        nodes.reverse()
        for node in sorted(nodes, key=lambda node: node.used):
            if excess <= 0:
                break
            assert node.parent is not None
            del node.parent.children[node.ids[0]]
            self.tokens -= len(node.ids)
            excess -= len(node.ids)

    def _insert(self, ids: tuple[int, ...], start: int, spans: list[Tensor]) -> None:
        self._clock += 1
        node, at = self._root, 0
        while at < len(ids) and (child := node.children.get(ids[at])) is not None:
            n = common(child.ids, ids[at : at + len(child.ids)])
            if n < len(child.ids):
                child = self._split(child, n)
            child.used = self._clock
            node, at = child, at + n
        if start <= at < len(ids):
            # A copy, since the spans are views of what many sequences stand in.
            rest = [span[:, :, at - start :].clone() for span in spans]
            node.children[ids[at]] = _Node(ids[at:], rest, node, self._clock)
            self.tokens += len(ids) - at

    def _split(self, node: _Node, n: int) -> _Node:
        """Divide a node after its first `n` tokens; the first part."""
        parent = node.parent
        assert parent is not None
        first = _Node(node.ids[:n], [span[:, :, :n].clone() for span in node.spans], parent, node.used)
        parent.children[first.ids[0]] = first
        first.children[node.ids[n]] = node
        node.ids, node.spans = node.ids[n:], [span[:, :, n:].clone() for span in node.spans]
        node.parent = first
        return first

    def _nodes(self) -> list[_Node]:
        """All nodes, parents before their children."""
        nodes = list(self._root.children.values())
        for node in nodes:
            nodes.extend(node.children.values())
        return nodes


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    n = min(len(a), len(b))
    return n if a[:n] == b[:n] else next(i for i in range(n) if a[i] != b[i])
