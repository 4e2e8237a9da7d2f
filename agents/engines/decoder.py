"""What runs the model for `TorchEngine`: sequences enter, grow by a token at a time, and leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        counters: of the engine.
    """

    def __init__(self, model: Any, counters: Counters) -> None:
        self._model, self._counters = model, counters
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
