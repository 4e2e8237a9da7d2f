"""Attention of a packed row of tokens to keys and values that the engine keeps.

A model of transformers runs over the tokens of all sequences as one row, without padding, and hands the queries, keys and
values of each layer to the function that is registered here under `NAME`. The keys and values go to where the pass that
is under way (`running`) says, and the queries attend to what the pass lets them see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from .key_values import KeyValues

NAME = "tokengym_packed"


class Pass(Protocol):
    """A forward pass under way."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        """Of the next layer: outputs [N, H, D'] from `query` [N, H, D] and `key`, `value` [N, K, D], which are kept."""
        ...


class Scores:
    """How a layer makes scores of products.

    Attributes:
        scaling: what products are multiplied by.
        window: keys are seen that are less than so many positions back; None: all.
        softcap: scores s become `softcap · tanh(s / softcap)` (Gemma 2); None: as they are.
    """

    __slots__ = ("scaling", "softcap", "window")

    def __init__(self, scaling: float, window: int | None, softcap: float | None) -> None:
        self.scaling, self.window, self.softcap = scaling, window, softcap

    def __call__(self, products: Tensor) -> Tensor:
        """Scores in float32."""
        scores = products.float().mul_(self.scaling)
        return scores if self.softcap is None else scores.div_(self.softcap).tanh_().mul_(self.softcap)


_running: ContextVar[Pass] = ContextVar("running")


@contextmanager
def running(model: Any, step: Pass) -> Iterator[None]:
    """Attention of `model` is that of `step`."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    configs = {id(c): c for c in (base.config, base.config.get_text_config())}.values()
    before = [config._attn_implementation for config in configs]
    token = _running.set(step)
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, implementation in zip(configs, before):
            config._attn_implementation = implementation
        _running.reset(token)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    how = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, how).unsqueeze(0), None


AttentionInterface.register(NAME, _attention)


def attend(query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
    """`Pass.attend` of the pass that is under way."""
    return _running.get().attend(query, key, value, how)


class Prefill:
    """The pass over the tokens of new rows which nobody has computed yet.

    Args:
        kept: where keys and values go.
        written: rows, places in them and numbers of the tokens in the pass, [3, n]. A token that several rows share is
            computed once and written to each.
        spans: the (row, start, stop) whose tokens are in the pass, one after the other. A token sees those before it in
            its row.
    """

    # Pairs of a query and a key of one part: what is masked of them at a time.
    PAIRS = 2**22

    def __init__(self, kept: KeyValues, written: np.ndarray, spans: Sequence[tuple[int, int, int]]) -> None:
        device = kept.stacks[0].device
        self._layers = iter(kept.layers)
        self._rows, self._places, tokens = torch.from_numpy(written).to(device)
        self._tokens = slice(None) if np.array_equal(written[2], np.arange(written.shape[1])) else tokens
        first, numbered = 0, []
        for row, start, stop in spans:
            numbered.append((row, start, stop, first))
            first += stop - start
        self._parts: list[_Part] = []
        self._masks: dict[tuple[int, int | None], Tensor] = {}
        numbered.sort(key=lambda span: span[2] - span[1])
        while numbered:
            longest = numbered[-1][2] - numbered[-1][1]
            width = max(stop for _, _, stop, _ in numbered)
            part = numbered[-max(1, self.PAIRS // (longest * width)) :]
            del numbered[-len(part) :]
            rows, starts, stops, firsts = torch.tensor(part, device=device).T
            place = torch.arange(longest, device=device)
            # Spans shorter than the longest repeat their last token; what it gives there is not looked at.
            inside = place < (stops - starts).unsqueeze(1)
            token = torch.where(inside, firsts.unsqueeze(1) + place, (firsts + stops - starts - 1).unsqueeze(1))
            position = torch.where(inside, starts.unsqueeze(1) + place, (stops - 1).unsqueeze(1))
            found = inside.flatten().nonzero().squeeze(1)
            self._parts.append(_Part(rows, token, found, token.flatten()[found], position, int(stops.max())))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        keys, values = next(self._layers)
        keys[self._rows, :, self._places] = key[self._tokens]
        values[self._rows, :, self._places] = value[self._tokens]
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        for number, part in enumerate(self._parts):
            mask = self._mask(number, how.window, query.dtype)
            k, v = keys[part.rows, :, : part.width], values[part.rows, :, : part.width]
            found = _masked(query[part.tokens].transpose(1, 2), k, v, mask, how)
            out[part.of] = found.transpose(1, 2).flatten(0, 1)[part.found]
        return out

    def _mask(self, number: int, window: int | None, dtype: torch.dtype) -> Tensor:
        if (number, window) not in self._masks:
            part = self._parts[number]
            back = part.positions.unsqueeze(-1) - torch.arange(part.width, device=part.positions.device)
            self._masks[number, window] = additive(_seen(back, window), dtype).unsqueeze(1)
        return self._masks[number, window]


class _Part(NamedTuple):
    """Spans of tokens side by side.

    Attributes:
        rows: of the spans, [R].
        tokens: numbers of their tokens in the pass, [R, n]; the last is repeated where a span is shorter.
        found: which of the flattened [R · n] are no such repetitions.
        of: the numbers of the tokens that those are.
        positions: of the tokens in their rows, [R, n].
        width: the places that are looked at.
    """

    rows: Tensor
    tokens: Tensor
    found: Tensor
    of: Tensor
    positions: Tensor
    width: int


def _seen(back: Tensor, window: int | None) -> Tensor:
    """Which keys are seen of those that stand so many places `back`."""
    return (back >= 0) if window is None else (back >= 0) & (back < window)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where a key is `seen` and −∞ elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, how: Scores) -> Tensor:
    """Attention [B, H, n, D'] of `query` [B, H, n, D] to `key` and `value` [B, K, P, D], with `mask` [B, 1, n, P] added."""
    if how.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=how.scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = how(query @ key.transpose(-1, -2))
    if mask is not None:
        scores = scores.add_(mask)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class Decode:
    """The pass over the newest token of each sample, which sees what its row holds.

    Args:
        kept: keys and values, in the order of the samples.
        lengths: tokens of each row that are there already, [B].
    """

    def __init__(self, kept: KeyValues, lengths: Tensor) -> None:
        self._rows = torch.arange(len(lengths), device=lengths.device)
        self._lengths = lengths
        self._width = int(lengths.max()) + 1
        self._level = int(lengths.min()) + 1 == self._width  # all rows are of one length
        # Views of all layers at once: one of one layer costs as much as a small product.
        rows, everything = slice(len(lengths)), slice(None)
        self._layers = zip(
            kept.views(rows, everything, slice(self._width)), kept.views(rows, everything, self._width - 1)
        )
        self._masks: dict[int | None, Tensor | None] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        own, last = next(self._layers)
        for kept, end, new in zip(own, last, (key, value)):
            if self._level:
                end.copy_(new)
            else:
                kept[self._rows, :, self._lengths] = new
        rows, heads, _ = query.shape
        # Queries of one key are one matrix.
        found = self._found(query.reshape(rows, key.shape[1], heads // key.shape[1], -1), own, how)
        return found.reshape(rows, heads, -1)

    def _found(self, query: Tensor, own: Sequence[Tensor], how: Scores) -> Tensor:
        """What the queries [B, K, g, D] find in the keys and values `own` of their rows."""
        if how.window not in self._masks:
            back = self._lengths.unsqueeze(1) - torch.arange(self._width, device=self._rows.device)
            seen = _seen(back, how.window)
            self._masks[how.window] = None if bool(seen.all()) else additive(seen, query.dtype)[:, None, None]
        keys, values = own
        return _masked(query, keys, values, self._masks[how.window], how)
