"""Attention of samples that share their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .attention import Decode, Scores, additive
from .key_values import KeyValues


class GroupDecode(Decode):
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
        super().__init__(own, own_lengths)
        self._grid = grid
        self._prompt_lengths = prompt_lengths
        self._prompt_width = int(prompt_lengths.max())
        self._shared = prompts.views(slice(grid.prompts), slice(None), slice(self._prompt_width))
        self._flash_masks: tuple[Tensor | None, Tensor | None] | None = None

    def _found(self, query: Tensor, own: Sequence[Tensor], how: Scores) -> Tensor:
        keys, values = own
        flash = query.device.type == "cpu" and how.window is None and how.softcap is None
        found = self._flash if flash and keys.shape == values.shape else self._plain
        return found(query, next(self._shared), own, how)

    def _plain(self, query: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor], how: Scores) -> Tensor:
        """One softmax over the scores of both parts."""
        grid, width = self._grid, self._prompt_width
        # Products in float32, like those of fused attention: rounded scores are what low precision suffers from most.
        wide = query.float()
        (shared_keys, shared_values), (own_keys, own_values) = ([x.float() for x in part] for part in (shared, own))
        products = [grid.gather(grid.spread(wide) @ shared_keys.transpose(-1, -2)), wide @ own_keys.transpose(-1, -2)]
        weights = how(torch.cat(products, dim=-1)).add_(self._mask(how.window)).softmax(dim=-1)
        out = weights[..., width:] @ own_values
        return out.add_(grid.gather(grid.spread(weights[..., :width]) @ shared_values)).to(query.dtype)

    def _flash(self, query: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor], how: Scores) -> Tensor:
        """Fused attention to each part, which also gives the sums of their exponentials, and with these what both are
        together: a share σ(log Σ_shared − log Σ_own) of the one and the rest of the other."""
        if self._flash_masks is None:
            self._flash_masks = (
                _length_mask(self._prompt_lengths, self._prompt_width, query.dtype),
                _length_mask(self._lengths + 1, self._width, query.dtype),
            )
        grid, (shared_mask, own_mask) = self._grid, self._flash_masks
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        out, total = attention(query, *own, attn_mask=own_mask, scale=how.scaling)
        at_prompt, prompt_total = attention(grid.spread(query), *shared, attn_mask=shared_mask, scale=how.scaling)
        share = (grid.gather(prompt_total.unsqueeze(-1)) - total.unsqueeze(-1)).sigmoid_()
        return torch.lerp(out, grid.gather(at_prompt), share if share.dtype == out.dtype else share.to(out.dtype))

    def _mask(self, window: int | None) -> Tensor:
        """0 where a sample sees a key and −∞ elsewhere, [B, 1, 1, P + T]."""
        if (mask := self._masks.get(window)) is None:
            device = self._rows.device
            lengths = self._prompt_lengths[self._grid.prompt_of].unsqueeze(1)
            own = self._lengths.unsqueeze(1)
            prompt_place = torch.arange(self._prompt_width, device=device)
            own_place = torch.arange(self._width, device=device)
            seen = torch.cat([prompt_place < lengths, own_place <= own], dim=1)
            if window is not None:
                back = torch.cat([lengths + own - prompt_place, own - own_place], dim=1)
                seen &= back < window
            self._masks[window] = mask = additive(seen, torch.float32)[:, None, None]
        return mask


def _length_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
    """What leaves each row its first tokens, [R, 1, 1, width]; None if all rows are full."""
    inside = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
    return None if bool(inside.all()) else additive(inside, dtype)[:, None, None]


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
