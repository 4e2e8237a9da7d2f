"""`TorchEngine`: batched sampling with a transformers model, in the process of the learner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ...envs import StopStrings, Tokenizer
from ..functional import logprobs_and_entropy
from .base import Engine, Generation, Request, Sampling


class TorchEngine(Engine):
    """Samples with any causal language model of transformers.

    A prompt is prefilled once and its cache shared by all its samples; a sample that is finished leaves the batch. The
    model may be the learner's own, in which case `sync` has nothing to copy.

    Args:
        model: a causal language model.
        tokenizer: gives the end and padding ids, and the text for stop strings.
        max_batch: sequences that are decoded at the same time.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, *, max_batch: int = 256) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is at least 1, not {max_batch}")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch

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
            results: list[list[Generation]] = [[] for _ in requests]
            for batch in self._batches(requests):
                for index, generation in self._decode(
                    [(i, requests[i], seed) for i, seed in batch], sampling, entropies
                ):
                    results[index].append(generation)
            return results
        finally:
            self.model.train(was_training)

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
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

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, int]]]:
        """Samples as (request, seed), prompts of like length together, at most `max_batch` at a time."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
        samples = [(i, seed) for i in order for seed in requests[i].seeds]
        for start in range(0, len(samples), self.max_batch):
            yield samples[start : start + self.max_batch]

    def _decode(
        self, samples: Sequence[tuple[int, Request, int]], sampling: Sampling, want_entropies: bool
    ) -> list[tuple[int, Generation]]:
        device = self.model.device
        prompts = list({i: request.prompt for i, request, _ in samples}.values())
        prompt_of = {i: row for row, i in enumerate(dict.fromkeys(i for i, _, _ in samples))}
        limits = [request.max_new_tokens for _, request, _ in samples]
        uniforms = [np.random.Generator(np.random.Philox(seed)).random(n) for (_, _, seed), n in zip(samples, limits)]

        # Prompts end in the same column, so that every sample's next token goes into the same one.
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_id)
        attention = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attention[row, width - len(prompt) :] = 1
        attention = attention.to(device)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids.to(device), attention, (attention.cumsum(1) - 1).clamp(min=0), cache)
        rows = torch.tensor([prompt_of[i] for i, _, _ in samples], device=device)
        cache.batch_select_indices(rows)
        logits, attention = logits[rows], attention[rows]
        positions = attention.sum(1, keepdim=True)

        stop = StopStrings(self.tokenizer, sampling.stop)
        tokens: list[list[int]] = [[] for _ in samples]
        logprobs: list[list[float]] = [[] for _ in samples]
        entropies: list[list[float]] = [[] for _ in samples]
        finish: list[str] = ["length"] * len(samples)
        live = list(range(len(samples)))
        step = 0
        while True:
            uniform = torch.tensor([uniforms[s][step] for s in live], dtype=torch.float64, device=device)
            chosen = draw(logits, uniform, sampling)
            logprob, entropy = logprobs_and_entropy(logits, chosen, sampling.temperature or 1.0)
            for s, token, lp, h in zip(live, chosen.tolist(), logprob.tolist(), entropy.tolist()):
                tokens[s].append(token)
                logprobs[s].append(lp)
                entropies[s].append(h)
                if token in self.tokenizer.end_ids or stop.hit(tokens[s]):
                    finish[s] = "stop"
            step += 1
            keep = [row for row, s in enumerate(live) if finish[s] == "length" and step < limits[s]]
            if not keep:
                break
            if len(keep) < len(live):
                live = [live[row] for row in keep]
                kept = torch.tensor(keep, device=device)
                cache.batch_select_indices(kept)
                chosen, attention, positions = chosen[kept], attention[kept], positions[kept]
            attention = torch.cat([attention, attention.new_ones(len(live), 1)], dim=1)
            logits = self._forward(chosen.unsqueeze(1), attention, positions, cache)
            positions = positions + 1

        return [
            (
                index,
                Generation(
                    ids=tokens[s],
                    logprobs=logprobs[s],
                    finish="stop" if finish[s] == "stop" else "length",
                    version=self.version,
                    entropies=entropies[s] if want_entropies else None,
                ),
            )
            for s, (index, _, _) in enumerate(samples)
        ]

    def _forward(self, ids: Tensor, attention: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the next token, [B, V], from `ids` [B, n]; the cache grows by n."""
        output = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Next tokens [B] from `logits` [B, V] and one uniform number each, [B] float64 in [0, 1).

    By inversion of the distribution function: the token is the first at which the cumulative probability exceeds the
    uniform number. One number decides one token, which makes a sample a function of its seed, whatever the other rows
    hold.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        likeliest = logits.topk(sampling.top_k, dim=-1).indices
        logits = torch.full_like(logits, -torch.inf).scatter(-1, likeliest, logits.gather(-1, likeliest))
    probabilities = torch.softmax(logits, dim=-1).double()
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token is out if those likelier than it have top_p already: the likeliest always stays.
        out = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(out.scatter(-1, order, out), 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    target = uniform.unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
