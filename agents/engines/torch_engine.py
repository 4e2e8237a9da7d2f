"""`TorchEngine`: batched sampling with a transformers model, in the process of the learner."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...envs import StopStrings, Tokenizer
from .base import Engine, Generation, Request, Sampling
from .decoder import Counters, Decoder, Ids, RecomputingDecoder
from .draw import Drawn, draw
from .key_values import PrefixCache
from .layers import SamplingLayers
from .packed import find_layout, packed_decoder


class TorchEngine(Engine):
    """Samples with any causal language model of transformers.

    Samples enter the batch as soon as others leave it. A prompt runs through the model once for all its samples, and its
    keys and values are there once. They and those of what was sampled are kept until `sync` or until room is needed: of
    a later request that begins with the same ids, such as the next turn of an episode or a branch of it, only the rest
    runs through the model. The model may be the learner's own, in which case `sync` has nothing to copy.

    Args:
        model: a causal language model.
        tokenizer: gives the end ids, and the text for stop strings.
        max_batch: sequences that are decoded at the same time.
        cache_bytes: what is kept of sequences that are over may take; 0 keeps nothing.

    Attributes:
        counters: of tokens.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, max_batch: int = 512, cache_bytes: int = 2 * 2**30) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is at least 1, not {max_batch}")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes is at least 0 (0: nothing is kept), not {cache_bytes}")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.cache_bytes = cache_bytes
        self.counters = Counters()
        self._cache: PrefixCache | None = None
        self._layers = SamplingLayers(model)
        self._form: tuple[torch.dtype, torch.device] | None = None
        self._weights: list[tuple[int, int]] = []

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, entropies: bool = False
    ) -> list[list[Generation]]:
        for i, request in enumerate(requests):
            if not request.prompt:
                raise ValueError(f"request {i} has an empty prompt; a model continues at least one token")
            if request.max_new_tokens < 1:
                raise ValueError(f"request {i} asks for {request.max_new_tokens} new tokens; the least is 1")
        was_training = self.model.training
        self.model.eval()
        try:
            samples = [
                [_Sample(prompt, request.max_new_tokens, seed) for seed in request.seeds]
                for request in requests
                for prompt in [tuple(request.prompt)]
            ]
            # Prompts of like length together, since their keys stand side by side.
            order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
            self._run([sample for i in order for sample in samples[i]], sampling, entropies)
            return [[sample.generation(self.version, entropies) for sample in group] for group in samples]
        finally:
            self.model.train(was_training)

    def forget(self) -> None:
        self._layers.forget()
        if self._cache is not None:
            self._cache.clear()

    def sleep(self) -> None:
        self._layers.forget()

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.forget()
        stale = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                own = stale.pop(name)
                if own.shape != tensor.shape:
                    raise ValueError(f"{name} is {tuple(tensor.shape)} here and {tuple(own.shape)} in the engine")
                if own.data_ptr() != tensor.data_ptr():
                    own.copy_(tensor)
        if stale:
            raise KeyError(f"the weights of {len(stale)} parameters were not given, {next(iter(stale))!r} among them")
        self.version += 1

    def _run(self, samples: Sequence[_Sample], sampling: Sampling, entropies: bool) -> None:
        """Sample all of `samples` to their ends."""
        decoder = self._decoder([sample.prompt for sample in samples])
        stop = StopStrings(self.tokenizer, sampling.stop)
        waiting, live = deque(samples), list[_Sample]()
        while waiting or live:
            room = self.max_batch - len(live)
            # A pass over few prompts costs as much as one over many: those who wait enter several at a time.
            if waiting and (not live or room >= max(1, self.max_batch // 8)):
                drawing = [waiting.popleft() for _ in range(min(room, len(waiting)))]
                logits = decoder.enter([sample.prompt for sample in drawing])
                live += drawing
            else:
                drawing = live
                logits = decoder.step([sample.ids for sample in live])
            uniform = torch.tensor([sample.uniforms[len(sample.ids)] for sample in drawing], dtype=torch.float64)
            drawn = draw(logits, uniform.to(logits.device), sampling, entropies=entropies)
            self._take(drawing, stop, drawn)
            over = [row for row, sample in enumerate(live) if sample.finish]
            if over:
                live = [live[row] for row in decoder.leave(over, [sample.ids for sample in live])]

    def _take(self, samples: Sequence[_Sample], stop: StopStrings, drawn: Drawn) -> None:
        """Add a drawn token to each of `samples`, and end those which it ends."""
        self.counters.generated += len(samples)
        ends = self.tokenizer.end_ids
        tokens = drawn.tokens.cpu()
        may_stop = stop.may_hit(tokens.numpy()).tolist()
        for sample, token, logprob, may in zip(samples, tokens.tolist(), drawn.logprobs.tolist(), may_stop):
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            if token in ends or (may and stop.hit(sample.ids)):
                sample.finish = "stop"
            elif len(sample.ids) == sample.limit:
                sample.finish = "length"
        if drawn.entropies is not None:
            for sample, entropy in zip(samples, drawn.entropies.tolist()):
                sample.entropies.append(entropy)

    def _decoder(self, prompts: Sequence[Ids]) -> Decoder:
        # Weights that were changed in place without `sync` would otherwise go on with the keys of those before.
        weights = [(p.data_ptr(), p._version) for p in self.model.parameters()]
        if weights != self._weights:
            self.forget()
            self._weights = weights
        form = (self.model.dtype, self.model.device)
        if self._cache is None or self._form != form:
            self._form = form
            self._layout = find_layout(self.model, self._layers)
            if self._layout is None:
                warnings.warn(
                    f"the attention of {type(self.model).__name__} cannot be taken over: sampling computes every token "
                    "again at every step, which is slow for long texts",
                    stacklevel=4,
                )
            self._cache = PrefixCache(self._layout.token_bytes if self._layout else 1, self.cache_bytes)
        if self._layout is None:
            return RecomputingDecoder(self.model, self.counters)
        return packed_decoder(self.model, prompts, self.counters, self._layout, self._cache, self._layers)


@dataclass(eq=False, slots=True)
class _Sample:
    """A continuation under way."""

    prompt: Ids
    limit: int
    seed: int
    uniforms: np.ndarray = field(init=False)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None

    def __post_init__(self) -> None:
        self.uniforms = np.random.Generator(np.random.Philox(self.seed)).random(self.limit)

    def generation(self, version: int, entropies: bool) -> Generation:
        assert self.finish is not None
        return Generation(self.ids, self.logprobs, self.finish, version, self.entropies if entropies else None)
