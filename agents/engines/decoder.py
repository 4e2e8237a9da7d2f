"""What runs the model for `TorchEngine`: sequences enter, grow by a token at a time, and leave."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import Decode, Grid, Pass, Prefill, Scores, running
from .key_values import Form, KeyValues, Layout, PrefixCache, common
from .layers import SamplingLayers

Ids = tuple[int, ...]


@dataclass
class Counters:
    """Tokens since the engine was made.

    Attributes:
        prefilled: of prompts, whose keys and values were computed.
        reused: of prompts, whose keys and values were there: from the cache, or since another prompt of the batch begins
            alike. Samples of one request share one prompt, which counts once.
        repeated: of those reused, which went through the model again: the last of a prompt that was in the cache as a
            whole, after which the next token has to be predicted.
        generated: that were sampled.
        decoded: that were sampled and went through the model: all but the last of each sample. prefilled + decoded is the
            number of distinct tokens, each after those before it, whose keys and values were ever computed, as long as
            the cache forgets none.
    """

    prefilled: int = 0
    reused: int = 0
    repeated: int = 0
    generated: int = 0
    decoded: int = 0


class Decoder(ABC):
    """The samples that are under way, as the rows of a batch.

    Args:
        model: a causal language model.
        samples: the prompts of all samples that will enter.
        counters: of the engine.
    """

    def __init__(self, model: Any, samples: Iterable[Ids], counters: Counters) -> None:
        self._model, self._counters = model, counters
        self._entering = Counter(samples)
        self._leaving = Counter(self._entering)
        self._prompts: list[Ids] = []
        """Of each row."""

    @abstractmethod
    def enter(self, prompts: Sequence[Ids]) -> Tensor:
        """A row after the others for each of `prompts`; logits of what follows them, [n, V]."""

    @abstractmethod
    def step(self, samples: Sequence[Sequence[int]]) -> Tensor:
        """Logits of what follows, [B, V], after the last token of each row's sample has been added to it."""

    @abstractmethod
    def leave(self, rows: Sequence[int], samples: Sequence[Sequence[int]]) -> list[int]:
        """Give up `rows`, whose samples (of all rows: `samples`) are over. Returns which rows are now the rows."""

    def _left(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Close the gaps that `rows` leave with the last rows, as (gap, row)."""
        gone = set(rows)
        count = len(self._prompts) - len(gone)
        return list(
            zip(sorted(r for r in gone if r < count), (r for r in range(count, len(self._prompts)) if r not in gone))
        )


class RecomputingDecoder(Decoder):
    """For models whose attention cannot be taken over: every step runs over all tokens of all samples again.

    Padding stands after the tokens, where it has no influence on what a causal model, of any kind, gives for them.
    """

    def enter(self, prompts: Sequence[Ids]) -> Tensor:
        self._prompts += prompts
        distinct = list(dict.fromkeys(prompts))
        self._counters.prefilled += sum(map(len, distinct))
        number = {prompt: i for i, prompt in enumerate(distinct)}
        return self._forward(distinct)[[number[prompt] for prompt in prompts]]

    def step(self, samples: Sequence[Sequence[int]]) -> Tensor:
        self._counters.decoded += len(samples)
        return self._forward([(*prompt, *sample) for prompt, sample in zip(self._prompts, samples)])

    def leave(self, rows: Sequence[int], samples: Sequence[Sequence[int]]) -> list[int]:
        gone = set(rows)
        order = [row for row in range(len(self._prompts)) if row not in gone]
        self._prompts = [self._prompts[row] for row in order]
        return order

    def _forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, sequences))
        ids = torch.tensor([[*s, *[0] * (width - len(s))] for s in sequences], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False).logits
        return logits[torch.arange(len(ids)), [len(s) - 1 for s in sequences]]


class PackedDecoder(Decoder):
    """Keys and values are kept: those of a prompt once for all its samples, those of a sample in a row of its own.

    Args:
        layout: what the model's layers keep; see `find_layout`.
        cache: where prompts are looked for, and put.
        layers: the model's layers for sampling.
    """

    # Tokens of prompts that run through the model at a time, unless one prompt alone has more.
    PREFILL = 8192

    def __init__(
        self,
        model: Any,
        samples: Iterable[Ids],
        counters: Counters,
        layout: Layout,
        cache: PrefixCache,
        layers: SamplingLayers,
    ) -> None:
        super().__init__(model, samples, counters)
        self._layout, self._cache, self._layers = layout, cache, layers
        self._held: list[Ids] = []  # the prompt in each row of `_shared`
        self._shared = KeyValues(layout, 0, 0)
        self._own = KeyValues(layout, 0, 0)
        self._lengths = np.zeros(0, np.int64)  # of each row of `_own`
        self._logits: dict[Ids, Tensor] = {}
        self._grid: Grid | None = None

    def enter(self, prompts: Sequence[Ids]) -> Tensor:
        held = set(self._held)
        # In the order of their samples, which then stand in the grid as they come.
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in held))
        if new:
            self._prefill(new)
        self._prompts += prompts
        self._own = self._own.reserved(len(self._prompts), 32)
        self._lengths = np.append(self._lengths, np.zeros(len(prompts), np.int64))
        self._grid = None
        logits = torch.stack([self._logits[prompt] for prompt in prompts])
        self._entering.subtract(prompts)
        for prompt in set(prompts):
            if not self._entering[prompt]:
                del self._logits[prompt]
        return logits

    def step(self, samples: Sequence[Sequence[int]]) -> Tensor:
        device, rows = self._layout.device, len(samples)
        self._own = self._own.reserved(rows, int(self._lengths.max()) + 1)
        if self._grid is None:
            row_of = {prompt: row for row, prompt in enumerate(self._held)}
            prompt_of = torch.tensor([row_of[prompt] for prompt in self._prompts], device=device)
            self._grid = Grid(prompt_of, len(self._held))
            self._prompt_lengths = torch.tensor([len(prompt) for prompt in self._held], device=device)
        lengths = torch.tensor(self._lengths, device=device)
        positions = self._prompt_lengths[self._grid.prompt_of] + lengths
        step = Decode(self._shared, self._prompt_lengths, self._own, lengths, self._grid)
        ids = torch.tensor([sample[-1] for sample in samples], device=device)
        logits = self._forward(step, ids, positions, 0)
        self._lengths += 1
        self._counters.decoded += rows
        return logits

    def leave(self, rows: Sequence[int], samples: Sequence[Sequence[int]]) -> list[int]:
        kept = [row for row in rows if self._lengths[row]]
        if kept:
            sequences = [
                ((*self._prompts[row], *samples[row][: self._lengths[row]]), len(self._prompts[row])) for row in kept
            ]
            self._cache.add(sequences, self._own.copied(kept, int(self._lengths[kept].max())))
        self._leaving.subtract(self._prompts[row] for row in rows)
        moves = _closing(rows, len(self._prompts))
        order = list(range(len(self._prompts) - len(rows)))
        for gap, row in moves:
            order[gap] = row
        self._own.move([gap for gap, _ in moves], [row for _, row in moves], int(self._lengths.max()))
        self._prompts = [self._prompts[row] for row in order]
        self._lengths = self._lengths[order]
        self._give_up_prompts()
        self._grid = None
        return order

    def _prefill(self, new: Sequence[Ids]) -> None:
        """A row of `_shared` for each of the prompts `new`, which are different. They are taken in lexicographic order: what
        one has in common with the last one it has in common with any before."""
        self._shared = self._shared.reserved(len(self._held) + len(new), max(map(len, new)))
        written = np.zeros((3, 0), np.int64)  # rows, places, numbers of tokens
        spans: list[tuple[int, int, int]] = []
        before, numbers, count = (), np.zeros(0, np.int64), 0
        for row, prompt in sorted(enumerate(new, len(self._held)), key=itemgetter(1)):
            cached = 0
            for found in self._cache.match(prompt):
                self._shared.put(row, cached, found)
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
        for part in _parts(spans, self.PREFILL):
            self._prefill_part(part, written, new)
            written[2] -= sum(stop - start for _, start, stop in part)
        self._held += new
        rows = range(len(self._held) - len(new), len(self._held))
        self._cache.add([(prompt, 0) for prompt in new], self._shared.copied(rows, max(map(len, new))))

    def _prefill_part(self, spans: Sequence[tuple[int, int, int]], written: np.ndarray, new: Sequence[Ids]) -> None:
        """One forward pass over `spans`, the first of whose tokens has number 0 in `written`."""
        device, base = self._layout.device, len(self._held)
        prompts = [new[row - base] for row, _, _ in spans]
        ids = [id for prompt, (_, start, stop) in zip(prompts, spans) for id in prompt[start:stop]]
        positions = np.concatenate([np.arange(start, stop) for _, start, stop in spans])
        ends = np.cumsum([stop - start for _, start, stop in spans]) - 1
        step = Prefill(self._shared, written[:, (written[2] >= 0) & (written[2] < len(ids))], spans)
        logits = self._forward(
            step,
            torch.tensor(ids, device=device),
            torch.tensor(positions, device=device),
            torch.tensor(ends).to(device),
        )
        self._logits.update(zip(prompts, logits))

    def _give_up_prompts(self) -> None:
        """Close the gaps of prompts without further samples."""
        over = [row for row, prompt in enumerate(self._held) if not self._leaving[prompt]]
        moves = _closing(over, len(self._held))
        width = max((len(self._held[row]) for _, row in moves), default=0)
        self._shared.move([gap for gap, _ in moves], [row for _, row in moves], width)
        for gap, row in moves:
            self._held[gap] = self._held[row]
        del self._held[len(self._held) - len(over) :]

    def _forward(self, step: Pass, ids: Tensor, positions: Tensor, keep: int | Tensor) -> Tensor:
        """Logits [N, V] of the packed tokens `ids` [N] at `positions` [N], or of those whose numbers are `keep`."""
        with running(self._model, step), self._layers.used(len(ids)):
            return self._model(
                input_ids=ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=keep,
            ).logits[0]


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
    drawn = np.random.default_rng(0).integers(model.get_input_embeddings().num_embeddings, size=15).tolist()
    first, second = tuple(drawn[:6]), (*drawn[:3], *drawn[6:10])
    prompts = [first, second, first, first]  # enough for `layers` to be used
    one, two = [[id] for id in drawn[10:14]], [[id, drawn[14]] for id in drawn[10:14]]
    packed = PackedDecoder(model, prompts, Counters(), layout, PrefixCache(layout.token_bytes, 0), layers)
    plain = RecomputingDecoder(model, prompts, Counters())
    # float32 results differ in the order of sums only; those of bfloat16 by rounding in every layer.
    for found, expected in [
        (packed.enter(prompts), plain.enter(prompts)),
        (packed.step(one), plain.step(one)),
        (packed.step(two), plain.step(two)),
    ]:
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
