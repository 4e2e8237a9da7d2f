"""What an inference engine takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: of the softmax; 0 takes the likeliest token.
        top_p: draw from the smallest set of likeliest tokens that has this much probability (nucleus sampling, arXiv
            1904.09751).
        top_k: draw from the k likeliest tokens; 0 draws from all.
        stop: strings that end a generation once they are complete.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is in (0, 1], not {self.top_p}")
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise ValueError(f"stop is a sequence of non-empty strings, not {self.stop!r}")
        if self.top_k < 0:
            raise ValueError(f"top_k is at least 0 (0: all tokens), not {self.top_k}")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be continued once for each seed.

    Attributes:
        prompt: ids.
        seeds: one for each sample. The random numbers of a sample are a function of its seed alone, whatever else is in
            the batch.
        max_new_tokens: the limit of each sample, at least 1.
    """

    prompt: Sequence[int]
    seeds: Sequence[int]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A sampled continuation.

    Attributes:
        ids: the sampled ids, the end token included if one was sampled.
        logprobs: log-probability of each at the sampling temperature (at 1 for greedy decoding), over the whole
            vocabulary: top-p and top-k narrow the draw, not the distribution that is reported.
        finish: "stop" if an end token or a stop string ended it, "length" if the limit did, "error" if the engine failed
            before it was through; it has no tokens then.
        version: how often the engine's weights had been synchronised when this was sampled.
        entropies: of the distribution at each token, in nats, if asked for.
    """

    ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length", "error"]
    version: int
    entropies: list[float] | None = None


class EngineError(ConnectionError):
    """An engine that cannot go on: its process was killed, or it did not take the learner's weights."""


class Engine(ABC):
    """Samples continuations of token sequences."""

    version: int = 0
    entropy_top_k: int = 0
    """Over how many of the likeliest tokens the entropies are; 0: over the whole vocabulary."""

    @abstractmethod
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, entropies: bool = False
    ) -> list[list[Generation]]:
        """The continuations of each request, in order, one for each of its seeds. If the engine fails on the way, those
        that are not through are marked as such (`Generation.finish`)."""

    @abstractmethod
    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the learner's weights by name and raise `version` by one.

        Raises:
            KeyError: if a name is unknown here, or one of the engine's is missing. Stale weights are never used in
            silence.
            EngineError: if the engine has failed, or fails to take them. It does not sample any more then.
        """

    def forget(self) -> None:  # noqa: B027
        """Drop what is kept of earlier requests, so that what follows does not depend on them, not even in its last digits."""

    def sleep(self) -> None:  # noqa: B027
        """Give back the memory that only sampling needs, if the engine can, until there is something to sample again, or
        weights to take over. Its own weights stay what they are."""

    def check(self) -> None:  # noqa: B027
        """
        Raises:
            EngineError: if the engine has failed for good.
        """
