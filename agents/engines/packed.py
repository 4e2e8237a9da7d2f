"""Decoders that keep keys and values, with passes over the tokens of all sequences as one row."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import Decode, Pass, Prefill, Scores, running
from .decoder import Counters, Decoder, Ids, RecomputingDecoder
from .group_attention import Grid, GroupDecode
from .key_values import Form, KeyValues, Layout, PrefixCache, common
from .layers import SamplingLayers


class PackedDecoder(Decoder):
    """Keys and values are kept: of each sample in a row of its own, after those of its prompt.

    Args:
        layout: what the model's layers keep; see `find_layout`.
        cache: where prompts are looked for, and put.
        layers: the model's layers for sampling.
    """

    # Tokens of prompts that run through the model at a time, unless one prompt alone has more.
    PREFILL = 8192

    def __init__(
        self, model: Any, counters: Counters, layout: Layout, cache: PrefixCache, layers: SamplingLayers
    ) -> None:
        super().__init__(model, counters)
        self._layout, self._cache, self._layers = layout, cache, layers
        self._own = KeyValues(layout, 0, 0)
        self._lengths = np.zeros(0, np.int64)  # of each row of `_own`

    def enter(self, prompts: Sequence[Ids]) -> Tensor:
        rows = len(self._prompts)
        self._own = self._own.reserved(rows + len(prompts), max(map(len, prompts)) + 64)
        logits = self._prefill(prompts, self._own, rows)
        self._prompts += prompts
        self._lengths = np.append(self._lengths, [len(prompt) for prompt in prompts])
        return torch.stack([logits[prompt] for prompt in prompts])

    def step(self, samples: Sequence[Sequence[int]]) -> Tensor:
        self._own = self._own.reserved(len(samples), int(self._lengths.max()) + 1)
        lengths = torch.tensor(self._lengths, device=self._layout.device)
        return self._stepped(Decode(self._own, lengths), samples, lengths)

    def leave(self, rows: Sequence[int], samples: Sequence[Sequence[int]]) -> list[int]:
        return self._left(rows, samples, [len(prompt) for prompt in self._prompts])

    def _stepped(self, step: Pass, samples: Sequence[Sequence[int]], positions: Tensor) -> Tensor:
        """Logits [B, V] of what follows the last token of each of `samples`, which stands at `positions`."""
        ids = torch.tensor([sample[-1] for sample in samples], device=self._layout.device)
        logits = self._forward(step, ids, positions, 0)
        self._lengths += 1
        self._counters.decoded += len(samples)
        return logits

    def _left(self, rows: Sequence[int], samples: Sequence[Sequence[int]], places: Sequence[int]) -> list[int]:
        """`leave`; `places` are those of the first token of each sample in its row."""
        kept = [row for row in rows if self._lengths[row] > places[row]]
        if kept:
            # What stands before a sample's first token is in the cache already.
            first, last = min(places[row] for row in kept), int(self._lengths[kept].max())
            sequences = []
            for row in kept:
                prompt = self._prompts[row]
                ids = (*prompt, *samples[row][: self._lengths[row] - places[row]])
                sequences.append((ids, len(prompt) - places[row] + first))
            self._cache.add(sequences, self._own.copied(kept, slice(first, last)))
        moves = _closing(rows, len(self._prompts))
        order = list(range(len(self._prompts) - len(rows)))
        for gap, row in moves:
            order[gap] = row
        self._own.move([gap for gap, _ in moves], [row for _, row in moves], int(self._lengths.max()))
        self._prompts = [self._prompts[row] for row in order]
        self._lengths = self._lengths[order]
        return order

    def _prefill(self, new: Sequence[Ids], kept: KeyValues, base: int) -> dict[Ids, Tensor]:
        """The prompts `new`, which are different, into the rows of `kept` from `base`; logits [V] of what follows each. They
        are taken in lexicographic order: what one has in common with the last one it has in common with any before."""
        written = np.zeros((3, 0), np.int64)  # rows, places, numbers of tokens
        spans: list[tuple[int, int, int]] = []
        before, numbers, count = (), np.zeros(0, np.int64), 0
        for row, prompt in sorted(enumerate(new, base), key=itemgetter(1)):
            cached = 0
            for found in self._cache.match(prompt):
                kept.put(row, cached, found)
                cached += found[0].shape[2]
            start = min(cached, len(prompt) - 1)
            first = max(start, common(before, prompt))
            own = np.arange(count, count + len(prompt) - first)
            numbers = np.concatenate([np.full(start, -1), numbers[start:first], own])
            places = np.arange(start, len(prompt))
            written = np.concatenate([written, [np.full(len(places), row), places, numbers[start:]]], axis=1)
            spans.append((row, first, len(prompt)))
            before, count = prompt, count + len(own)
            self._counters.repeated += cached == len(prompt)
            self._counters.prefilled += len(own) - (cached == len(prompt))
            self._counters.reused += len(prompt) - len(own) + (cached == len(prompt))
        logits: dict[Ids, Tensor] = {}
        for part in _parts(spans, self.PREFILL):
            prompts = [new[row - base] for row, _, _ in part]
            logits.update(zip(prompts, self._prefill_part(prompts, part, written, kept)))
            written[2] -= sum(stop - start for _, start, stop in part)
        rows = range(base, base + len(new))
        self._cache.add([(prompt, 0) for prompt in new], kept.copied(rows, slice(max(map(len, new)))))
        return logits

    def _prefill_part(
        self,
        prompts: Sequence[Ids],
        spans: Sequence[tuple[int, int, int]],
        written: np.ndarray,
        kept: KeyValues,
    ) -> Tensor:
        """One forward pass over the `spans` of `prompts`, the first of whose tokens has number 0 in `written`; logits of
        what follows each prompt, [n, V]."""
        device = self._layout.device
        ids = [id for prompt, (_, start, stop) in zip(prompts, spans) for id in prompt[start:stop]]
        positions = np.concatenate([np.arange(start, stop) for _, start, stop in spans])
        ends = np.cumsum([stop - start for _, start, stop in spans]) - 1
        step = Prefill(kept, written[:, (written[2] >= 0) & (written[2] < len(ids))], spans)
        ids, positions, ends = (torch.as_tensor(numbers, device=device) for numbers in (ids, positions, ends))
        return self._forward(step, ids, positions, ends)

    def _forward(self, step: Pass, ids: Tensor, positions: Tensor, keep: int | Tensor) -> Tensor:
        """Logits [N, V] of the packed tokens `ids` [N] at `positions` [N], or of those whose numbers are `keep`."""
        with running(self._model, step), self._layers.used():
            return self._model(
                input_ids=ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=keep,
            ).logits[0]


class GroupDecoder(PackedDecoder):
    """Keys and values of a prompt are kept once for all its samples, and those of what was sampled in a row of each sample.

    Args:
        samples: the prompts of all samples that will enter.
    """

    def __init__(
        self,
        model: Any,
        counters: Counters,
        layout: Layout,
        cache: PrefixCache,
        layers: SamplingLayers,
        samples: Sequence[Ids],
    ) -> None:
        super().__init__(model, counters, layout, cache, layers)
        self._entering = Counter(samples)
        self._leaving = Counter(samples)
        self._held: list[Ids] = []  # the prompt in each row of `_shared`
        self._shared = KeyValues(layout, 0, 0)
        self._logits: dict[Ids, Tensor] = {}
        self._grid: Grid | None = None

    def enter(self, prompts: Sequence[Ids]) -> Tensor:
        held = set(self._held)
        # In the order of their samples, which then stand in the grid as they come.
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in held))
        if new:
            self._shared = self._shared.reserved(len(held) + len(new), max(map(len, new)))
            self._logits |= self._prefill(new, self._shared, len(held))
            self._held += new
        self._prompts += prompts
        self._own = self._own.reserved(len(self._prompts), 64)
        self._lengths = np.append(self._lengths, np.zeros(len(prompts), np.int64))
        self._grid = None
        logits = torch.stack([self._logits[prompt] for prompt in prompts])
        self._entering.subtract(prompts)
        for prompt in set(prompts):
            if not self._entering[prompt]:
                del self._logits[prompt]
        return logits

    def step(self, samples: Sequence[Sequence[int]]) -> Tensor:
        device = self._layout.device
        self._own = self._own.reserved(len(samples), int(self._lengths.max()) + 1)
        if self._grid is None:
            row_of = {prompt: row for row, prompt in enumerate(self._held)}
            prompt_of = torch.tensor([row_of[prompt] for prompt in self._prompts], device=device)
            self._grid = Grid(prompt_of, len(self._held))
            self._prompt_lengths = torch.tensor([len(prompt) for prompt in self._held], device=device)
        lengths = torch.tensor(self._lengths, device=device)
        step = GroupDecode(self._shared, self._prompt_lengths, self._own, lengths, self._grid)
        return self._stepped(step, samples, self._prompt_lengths[self._grid.prompt_of] + lengths)

    def leave(self, rows: Sequence[int], samples: Sequence[Sequence[int]]) -> list[int]:
        self._leaving.subtract(self._prompts[row] for row in rows)
        order = self._left(rows, samples, [0] * len(self._prompts))
        self._give_up_prompts()
        self._grid = None
        return order

    def _give_up_prompts(self) -> None:
        """Close the gaps of prompts without further samples."""
        over = [row for row, prompt in enumerate(self._held) if not self._leaving[prompt]]
        moves = _closing(over, len(self._held))
        width = max((len(self._held[row]) for _, row in moves), default=0)
        self._shared.move([gap for gap, _ in moves], [row for _, row in moves], width)
        for gap, row in moves:
            self._held[gap] = self._held[row]
        del self._held[len(self._held) - len(over) :]


def packed_decoder(
    model: Any,
    samples: Sequence[Ids],
    counters: Counters,
    layout: Layout,
    cache: PrefixCache,
    layers: SamplingLayers,
) -> PackedDecoder:
    """The decoder for `samples`, the prompts of all that will enter."""
    if len(set(samples)) == len(samples):
        return PackedDecoder(model, counters, layout, cache, layers)
    return GroupDecoder(model, counters, layout, cache, layers, samples)


@torch.inference_mode()
def find_layout(model: Any, layers: SamplingLayers) -> Layout | None:
    """What the layers of `model` keep for a token, or None if a `PackedDecoder` with `layers` cannot run it.

    That is tried out, on a few tokens, rather than looked up: the packed pass has to give the logits of the model's own
    attention, whatever the model adds to it.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not {"position_ids", "logits_to_keep"} <= set(inspect.signature(base.forward).parameters):
        return None
    trial = _Trial()
    ids = torch.tensor([[1, 2]], device=model.device)
    with running(model, trial):
        model(input_ids=ids, position_ids=ids - 1, use_cache=False)
    if not trial.layers:
        return None
    layout = Layout(tuple(trial.layers), trial.dtype, model.device)
    # Any tokens, and not the first few: those are a tokenizer's special ones, a sequence of which is so far from any text
    # that rounding alone makes the logits of some models in bfloat16 wrong by half.
    drawn = np.random.default_rng(0).integers(model.get_input_embeddings().num_embeddings, size=14).tolist()
    first, second = tuple(drawn[:6]), (*drawn[:3], *drawn[6:10])
    for prompts in ([first, second], [first, second, first]):
        packed = packed_decoder(model, prompts, Counters(), layout, PrefixCache(layout.token_bytes, 0), layers)
        plain = RecomputingDecoder(model, Counters())
        one, two = [[id] for id in drawn[10:13]], [[id, drawn[13]] for id in drawn[10:13]]
        for found, expected in [
            (packed.enter(prompts), plain.enter(prompts)),
            (packed.step(one[: len(prompts)]), plain.step(one[: len(prompts)])),
            (packed.step(two[: len(prompts)]), plain.step(two[: len(prompts)])),
        ]:
            # float32 results differ in the order of sums only; those of bfloat16 by rounding in every layer.
            most = 1e-3 if expected.dtype == torch.float32 else 0.1
            if not bool((found - expected).float().norm() <= most * expected.float().norm()):
                return None
    return layout


class _Trial:
    """A pass that notes the forms of keys and values."""

    dtype: torch.dtype

    def __init__(self) -> None:
        self.layers: list[tuple[Form, Form]] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        self.dtype = key.dtype
        self.layers.append(((key.shape[1], key.shape[2]), (value.shape[1], value.shape[2])))
        return query.new_zeros(*query.shape[:2], value.shape[2])


def _closing(gaps: Sequence[int], count: int) -> list[tuple[int, int]]:
    """How the last of `count` rows close the `gaps`, as (gap, row)."""
    gone = set(gaps)
    kept = count - len(gone)
    last = (row for row in range(kept, count) if row not in gone)
    return list(zip(sorted(row for row in gone if row < kept), last))


def _parts(spans: Sequence[tuple[int, int, int]], tokens: int) -> list[list[tuple[int, int, int]]]:
    """`spans` in parts of at most so many tokens, or of one span."""
    parts: list[list[tuple[int, int, int]]] = []
    room = 0
    for row, start, stop in spans:
        if not parts or stop - start > room:
            parts.append([])
            room = tokens
        parts[-1].append((row, start, stop))
        room -= stop - start
    return parts
