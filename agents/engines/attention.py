"""Attention of a packed row of tokens to keys and values that the engine keeps.

A model of transformers runs over the tokens of all sequences as one row, without padding, and hands the queries, keys and
values of each layer to the function that is registered here under `NAME`. The keys and values go to where the pass that
is under way (`running`) says, and the queries attend to what the pass lets them see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

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
        self._kept = kept
        self._layers = iter(kept.layers)
        self._rows, self._places, self._tokens = torch.from_numpy(written).to(device)
        first, numbered = 0, []
        for row, start, stop in spans:
            numbered.append((row, start, stop, first))
            first += stop - start
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor, int]] = []
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
            self._parts.append((rows, token, inside, position, int(stops.max())))
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        keys, values = next(self._layers)
        keys[self._rows, :, self._places] = key[self._tokens]
        values[self._rows, :, self._places] = value[self._tokens]
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        for number, (rows, token, inside, _, width) in enumerate(self._parts):
            mask = self._mask(number, how.window)
            found = _masked(
                query[token].transpose(1, 2), keys[rows, :, :width], values[rows, :, :width], mask.unsqueeze(1), how
            )
            out[token[inside]] = found.transpose(1, 2)[inside]
        return out

    def _mask(self, part: int, window: int | None) -> Tensor:
        if (part, window) not in self._masks:
            _, _, _, position, width = self._parts[part]
            back = position.unsqueeze(-1) - torch.arange(width, device=position.device)
            self._masks[part, window] = (back >= 0) if window is None else (back >= 0) & (back < window)
        return self._masks[part, window]


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: Scores) -> Tensor:
    """Attention [B, H, n, D'] of `query` [B, H, n, D] to `key` and `value` [B, K, P, D] where `mask` [B, 1, n, P]."""
    if how.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=how.scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = how(query @ key.transpose(-1, -2)).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class Decode:
    """The pass over the newest token of each sample, which sees its prompt and what was sampled after it.

    A prompt's keys and values are there once for all its samples: their queries are one matrix, and its product with the
    prompt's keys one product. The softmax is over the scores of both parts together.

    Args:
        prompts: keys and values of prompts.
        prompt_lengths: of each prompt, [G].
        own: keys and values of what was sampled, in the order of the samples.
        own_lengths: tokens of each sample that are there already, [B].
        grid: which sample has which prompt.
    """

    def __init__(
        self, prompts: KeyValues, prompt_lengths: Tensor, own: KeyValues, own_lengths: Tensor, grid: Grid
    ) -> None:
        self._grid = grid
        self._rows = torch.arange(len(own_lengths), device=own_lengths.device)
        self._own_lengths = own_lengths
        self._prompt_lengths = prompt_lengths
        self._prompt_width, self._own_width = int(prompt_lengths.max()), int(own_lengths.max()) + 1
        self._level = int(own_lengths.min()) + 1 == self._own_width  # all samples are of one length
        # Views of all layers at once: one of one layer costs as much as a small product.
        rows, everything = slice(len(own_lengths)), slice(None)
        self._layers = zip(
            prompts.views(slice(grid.prompts), everything, slice(self._prompt_width)),
            own.views(rows, everything, slice(self._own_width)),
            own.views(rows, everything, self._own_width - 1),
        )
        self._masks: dict[int | None, Tensor] = {}
        self._flash_masks: tuple[Tensor | None, Tensor | None] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        shared, own, last = next(self._layers)
        rows, heads, _ = query.shape
        for kept, end, new in zip(own, last, (key, value)):
            if self._level:
                end.copy_(new)
            else:
                kept[self._rows, :, self._own_lengths] = new
        kv = key.shape[1]
        query = query.reshape(rows, kv, heads // kv, -1)
        flash = query.device.type == "cpu" and how.window is None and how.softcap is None
        found = (self._flash if flash and key.shape == value.shape else self._plain)(query, shared, own, how)
        return found.to(query.dtype).reshape(rows, heads, -1)

    def _plain(self, query: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor], how: Scores) -> Tensor:
        """One softmax over the scores of both parts."""
        grid, width = self._grid, self._prompt_width
        # Products in float32, like those of fused attention: rounded scores are what low precision suffers from most.
        query = query.float()
        (shared_keys, shared_values), (own_keys, own_values) = ([x.float() for x in part] for part in (shared, own))
        products = [grid.gather(grid.spread(query) @ shared_keys.transpose(-1, -2)), query @ own_keys.transpose(-1, -2)]
        weights = how(torch.cat(products, dim=-1)).add_(self._mask(how.window)).softmax(dim=-1)
        out = weights[..., width:] @ own_values
        return out.add_(grid.gather(grid.spread(weights[..., :width]) @ shared_values))

    def _flash(self, query: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor], how: Scores) -> Tensor:
        """Fused attention to each part, which also gives the sums of their exponentials, and with these what both are
        together: a share σ(log Σ_shared − log Σ_own) of the one and the rest of the other."""
        if self._flash_masks is None:
            self._flash_masks = (
                _length_mask(self._prompt_lengths, self._prompt_width, query.dtype),
                _length_mask(self._own_lengths + 1, self._own_width, query.dtype),
            )
        grid, (shared_mask, own_mask) = self._grid, self._flash_masks
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        out, total = attention(query, *own, attn_mask=own_mask, scale=how.scaling)
        at_prompt, prompt_total = attention(grid.spread(query), *shared, attn_mask=shared_mask, scale=how.scaling)
        share = (grid.gather(prompt_total.unsqueeze(-1)) - total.unsqueeze(-1)).sigmoid_()
        return torch.lerp(out.float(), grid.gather(at_prompt).float(), share)

    def _mask(self, window: int | None) -> Tensor:
        """0 where a sample sees a key and −∞ elsewhere, [B, 1, 1, P + T]."""
        if window not in self._masks:
            device = self._rows.device
            lengths = self._prompt_lengths[self._grid.prompt_of].unsqueeze(1)
            own = self._own_lengths.unsqueeze(1)
            prompt_place = torch.arange(self._prompt_width, device=device)
            own_place = torch.arange(self._own_width, device=device)
            seen = torch.cat([prompt_place < lengths, own_place <= own], dim=1)
            if window is not None:
                back = torch.cat([lengths + own - prompt_place, own - own_place], dim=1)
                seen &= back < window
            mask = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)
            self._masks[window] = mask[:, None, None]
        return self._masks[window]


def _length_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
    """0 at the places of each row's tokens and −∞ beyond, [R, 1, 1, width]; None if all rows are full."""
    beyond = torch.arange(width, device=lengths.device) >= lengths.unsqueeze(1)
    if not bool(beyond.any()):
        return None
    return torch.zeros(beyond.shape, dtype=dtype, device=lengths.device).masked_fill_(beyond, -torch.inf)[:, None, None]


class Grid:
    """Samples in the rows of their prompts: what changes only when samples come or go.

    Args:
        prompt_of: the prompt's row of each sample, [B] int64.
        prompts: how many prompts there are.
    """

    def __init__(self, prompt_of: Tensor, prompts: int) -> None:
        self.prompt_of, self.prompts = prompt_of, prompts
        order = prompt_of.argsort(stable=True)
        counts = prompt_of.bincount(minlength=prompts)
        self._most = int(counts.max())
        firsts = counts.cumsum(0) - counts
        ordered = prompt_of[order]
        places = ordered * self._most + torch.arange(len(order), device=order.device) - firsts[ordered]
        self._place = torch.empty_like(order).index_put_((order,), places)
        self._sample = torch.zeros(prompts * self._most, dtype=torch.long, device=order.device)
        self._sample[self._place] = torch.arange(len(order), device=order.device)
        identity = torch.arange(len(order), device=order.device)
        self._regular = len(self._sample) == len(order) and bool((self._place == identity).all())

    def spread(self, x: Tensor) -> Tensor:
        """[B, K, g, n] → [G, K, most · g, n]; places without a sample hold some other one's."""
        _, kv, shared, n = x.shape
        if not self._regular:
            x = x.index_select(0, self._sample)
        x = x.view(self.prompts, self._most, kv, shared, n).transpose(1, 2)
        return x.reshape(self.prompts, kv, self._most * shared, n)

    def gather(self, x: Tensor) -> Tensor:
        """[G, K, most · g, n] → [B, K, g, n]."""
        _, kv, _, n = x.shape
        x = x.view(self.prompts, kv, self._most, -1, n).transpose(1, 2)
        if self._regular:
            return x.reshape(len(self._place), kv, -1, n)
        return x.reshape(self.prompts * self._most, kv, -1, n).index_select(0, self._place)
