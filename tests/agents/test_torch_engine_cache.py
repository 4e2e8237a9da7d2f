"""What `TorchEngine` keeps: tokens that are found again, counted, bounded, and never those of other weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, TorchEngine
from tokengym.agents.engines.key_values import PrefixCache
from tokengym.agents.engines.layers import SamplingLayers
from tokengym.agents.engines.packed import PackedDecoder, find_layout
from tokengym.envs import ByteTokenizer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from .conftest import SIZES, build_policy

MakePolicy = Callable[..., Policy]

MORE: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16),
    "gemma": lambda: GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=16),
    # Scores and logits are capped, and every second layer sees five tokens.
    "gemma2": lambda: Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=16, sliding_window=5),
}
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bloom": lambda: BloomConfig(
        vocab_size=262, hidden_size=32, n_layer=2, n_head=4, pad_token_id=256, eos_token_id=257
    ),
    "mamba": lambda: MambaConfig(vocab_size=262, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=257),
}

# Prompts that begin alike, one of which is the beginning of others, and one twice.
REQUESTS = [
    Request([5, 6, 7, 8, 9, 10, 11], [1, 2, 3], 14),
    Request([5, 6, 7], [4], 20),
    Request([5, 6, 7, 8, 1], [5, 6], 3),
    Request([9, 6, 7, 8], [7], 9),
    Request([5, 6, 7], [8, 9], 11),
]

# The same with one sample of each prompt, which are kept in another way.
ALONE = [Request(r.prompt, r.seeds[:1], r.max_new_tokens) for r in REQUESTS[:-1]]
each_kind = pytest.mark.parametrize("requests", [REQUESTS, ALONE], ids=["groups", "alone"])


def build(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float().eval()


def whole_pass(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of `ids` by one pass of the model's own."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0]
    own = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return own.gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)


@each_kind
@pytest.mark.parametrize("kind", [*MORE, *OTHERS])
def test_any_causal_model(kind: str, requests: list[Request]) -> None:
    model = build({**MORE, **OTHERS}[kind]())
    with torch.inference_mode():
        assert (find_layout(model, SamplingLayers(model)) is None) == (kind in OTHERS)
    engine = TorchEngine(model, ByteTokenizer(), max_batch=5)
    if kind in OTHERS:
        with pytest.warns(UserWarning, match="cannot be taken over"):
            results = engine.generate(requests, Sampling())
    else:
        results = engine.generate(requests, Sampling())
    for request, generations in zip(requests, results):
        for g in generations:
            expected = whole_pass(model, request.prompt, g.ids)
            # These scores are large before they are capped, and float32 has fewer digits left of them.
            torch.testing.assert_close(torch.tensor(g.logprobs), expected, atol=1e-3, rtol=0)


@each_kind
def test_the_packed_and_the_recomputing_decoder_sample_alike(make_policy: MakePolicy, requests: list[Request]) -> None:
    for kind in ("llama", "mistral", "gpt2"):
        policy = make_policy(kind)
        packed, plain = (TorchEngine(policy.model, policy.tokenizer, max_batch=n) for n in (4, 3))
        found = packed.generate(requests, Sampling(), entropies=True)
        plain._layout = None  # what a model has whose attention cannot be taken over
        plain._form = (policy.model.dtype, policy.model.device)
        plain._cache = PrefixCache(1, 0)
        expected = plain.generate(requests, Sampling(), entropies=True)
        for a, b in zip(chain.from_iterable(found), chain.from_iterable(expected)):
            assert a.ids == b.ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
            assert a.entropies == pytest.approx(b.entropies, abs=1e-4)


@each_kind
@pytest.mark.parametrize("max_batch", [1, 2, 3, 256])
def test_what_is_computed_is_what_is_distinct(make_policy: MakePolicy, max_batch: int, requests: list[Request]) -> None:
    """Two rounds of turns and branches, in which every distinct token goes through the model once."""
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer, max_batch=max_batch)
    computed: set[tuple[int, ...]] = set()
    samples = 2 if requests is REQUESTS else 1
    for turn in range(3):
        results = engine.generate(requests, Sampling())
        following = []
        for request, generations in zip(requests, results):
            for g in generations:
                whole = (*request.prompt, *g.ids)
                computed |= {whole[:n] for n in range(1, len(whole))}
                torch.testing.assert_close(
                    torch.tensor(g.logprobs), whole_pass(policy.model, request.prompt, g.ids), atol=1e-4, rtol=0
                )
                following.append(Request([*whole, 3, turn], [g.ids[0], g.ids[-1] + 300][:samples], 6))
                following.append(Request(whole[: len(request.prompt) + 1], [turn + 500], 5))  # a branch inside the turn
        requests = following
    # A sample whose tokens another drew as well is decoded beside it.
    assert engine.counters.prefilled + engine.counters.decoded >= len(computed)
    assert engine.counters.prefilled <= len(computed)
    assert engine.counters.repeated
    assert engine.counters.reused > engine.counters.repeated


def test_a_turn_computes_the_reply_only(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    prompt = list(range(30))
    [generations] = engine.generate([Request(prompt, [1, 2, 3], 10)], Sampling())
    counters = engine.counters
    assert (counters.prefilled, counters.reused) == (30, 0)
    assert counters.generated == sum(len(g.ids) for g in generations) == counters.decoded + 3
    reply = [65, 66, 67, 68]
    engine.generate([Request([*prompt, *g.ids, *reply], [1], 2) for g in generations], Sampling())
    # The last token of a turn was sampled, but has not been through the model.
    assert counters.prefilled == 30 + 3 * (1 + len(reply))
    assert counters.reused == sum(30 + len(g.ids) - 1 for g in generations)
    assert counters.repeated == 0
    engine.generate([Request(prompt, [9], 1)], Sampling())
    assert counters.repeated == 1


def test_other_weights_find_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    request = Request(list(range(20)), [1], 6)
    engine.generate([request], Sampling())
    engine.sync(policy.model.named_parameters())
    engine.generate([request], Sampling())
    assert engine.counters.reused == 0

    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.3)  # in place, and nobody says so
    policy.model(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
    optimizer.step()
    [[g]] = engine.generate([request], Sampling())
    assert engine.counters.reused == 0
    expected = whole_pass(policy.model, request.prompt, g.ids)
    torch.testing.assert_close(torch.tensor(g.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tokens", [0, 1, 10, 25])
def test_a_small_cache_changes_nothing_but_work(make_policy: MakePolicy, tokens: int) -> None:
    policy = make_policy("qwen2")
    layout = find_layout(policy.model, SamplingLayers(policy.model))
    assert layout is not None
    small = TorchEngine(policy.model, policy.tokenizer, max_batch=2, cache_bytes=tokens * layout.token_bytes)
    large = TorchEngine(policy.model, policy.tokenizer)
    for _ in range(2):
        for a, b in zip(
            chain.from_iterable(small.generate(REQUESTS, Sampling())),
            chain.from_iterable(large.generate(REQUESTS, Sampling())),
        ):
            assert a.ids == b.ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert small._cache is not None
    small._cache.match((1,))
    assert small._cache.tokens <= tokens


def test_long_prompts_in_parts(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("mistral")
    requests = [Request([i, *range(40 + i)], [i], 3) for i in (1, 1, 2, 3)] + [Request([1, 0, 1], [9], 3)]
    expected = TorchEngine(policy.model, policy.tokenizer).generate(requests, Sampling())
    monkeypatch.setattr(PackedDecoder, "PREFILL", 50)
    engine = TorchEngine(policy.model, policy.tokenizer)
    for a, b in zip(chain.from_iterable(engine.generate(requests, Sampling())), chain.from_iterable(expected)):
        assert a.ids == b.ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert engine.counters.prefilled == 42 + 43 + 44


def test_a_long_sample_holds_nothing_back(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer, max_batch=4)
    calls: list[int] = []
    engine.generate([Request([1], [0], 1)], Sampling())
    handle = policy.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    requests = [Request([7, 8], [0], 40)] + [Request([9, i], [i], 4) for i in range(30)]
    [[long], *_] = engine.generate(requests, Sampling())
    handle.remove()
    if len(long.ids) == 40:
        assert len(calls) < 85  # one after the other they would take 40 + 30 · 4 / 3 passes and more


@each_kind
def test_bfloat16(make_policy: MakePolicy, requests: list[Request]) -> None:
    policy = make_policy("qwen2")
    policy.model.to(torch.bfloat16)
    with torch.inference_mode():
        assert find_layout(policy.model, SamplingLayers(policy.model)) is not None
    results = TorchEngine(policy.model, policy.tokenizer).generate(requests, Sampling())
    for request, generations in zip(requests, results):
        for g in generations:
            expected = whole_pass(policy.model, request.prompt, g.ids)
            assert (torch.tensor(g.logprobs) - expected.float()).abs().mean() < 0.1


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=12)


@given(SEQUENCES, st.integers(0, 20), st.data())
@settings(deadline=None, max_examples=150)
def test_the_cache_finds_the_longest_beginning(
    sequences: list[tuple[int, ...]], bound: int, data: st.DataObject
) -> None:
    def values(ids: tuple[int, ...]) -> torch.Tensor:
        """A number for each token that tells what stands before it, [1, 1, n, 1]."""
        return torch.tensor([hash(ids[: n + 1]) % 2**40 for n in range(len(ids))]).view(1, 1, -1, 1)

    for limit in (10**9, 8 * bound):
        cache = PrefixCache(8, limit)
        for ids in sequences:
            start = data.draw(st.integers(0, len(ids)))
            start = start if limit == 10**9 and start <= _longest(sequences[: sequences.index(ids)], ids) else 0
            cache.add([(ids, start)], [values(ids)[:, None, :, start:]])
        asked = data.draw(st.sampled_from(sequences)) + tuple(data.draw(st.lists(st.integers(0, 2), max_size=3)))
        spans = cache.match(asked)
        found = sum(span[0].shape[2] for span in spans)
        if spans:
            assert torch.equal(torch.cat([span[0] for span in spans], dim=2), values(asked[:found]))
        if limit == 10**9:
            assert found == _longest(sequences, asked)
        assert cache.tokens * 8 <= limit


def _longest(sequences: Sequence[tuple[int, ...]], ids: tuple[int, ...]) -> int:
    return max((n for s in sequences for n in range(len(ids) + 1) if s[:n] == ids[:n] and len(s) >= n), default=0)


def test_engines_can_be_pickled() -> None:
    import pickle

    policy = build_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    [[before]] = engine.generate([Request([1, 2], [3], 4)], Sampling())
    [[after]] = pickle.loads(pickle.dumps(engine)).generate([Request([1, 2], [3], 4)], Sampling())
    assert before.ids == after.ids
