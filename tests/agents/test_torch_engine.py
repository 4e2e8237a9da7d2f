"""`TorchEngine` against the learner's forward pass, transformers' own generation, and the distributions it draws from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, TorchEngine
from tokengym.agents.engines.draw import BLOCK, draw
from tokengym.agents.learner import Batch, Learner

MakePolicy = Callable[..., Policy]
KINDS = ["llama", "qwen2", "mistral", "gpt2"]

# Prompts of different lengths, in no order, several samples each, limits of their own.
REQUESTS = [
    Request([4, 99, 3, 7, 8, 11, 250, 258, 1, 2, 3], seeds=[1, 2, 3], max_new_tokens=12),
    Request([65], seeds=[4, 5], max_new_tokens=20),
    Request([1, 2, 3, 4], seeds=[6], max_new_tokens=1),
    Request(list(range(40, 60)), seeds=[7, 8, 9, 10], max_new_tokens=9),
]


def learner_terms(policy: Policy, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> tuple[Any, Any]:
    """Log-probabilities and entropies of `ids` after `prompt`, by the forward pass that learning uses."""
    whole = [*prompt, *ids]
    mask = [0] * len(prompt) + [1] * len(ids)
    batch = Batch.pack([whole], [mask], [[0.0] * len(whole)], torch.zeros(1), pad_id=policy.tokenizer.pad_id)
    with torch.no_grad():
        found = Learner(policy, temperature=temperature).forward(policy.model, batch)
    return found.logprobs[0, len(prompt) :], found.entropy[0, len(prompt) :]


@contextmanager
def forward_calls(policy: Policy) -> Iterator[list[int]]:
    """The numbers of tokens of every forward pass."""
    calls: list[int] = []

    def hook(_: Any, args: Any, kwargs: Any) -> None:
        assert kwargs["input_ids"].shape[0] == 1
        calls.append(kwargs["input_ids"].shape[1])

    handle = policy.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_and_entropies_are_the_learners(make_policy: MakePolicy, kind: str, temperature: float) -> None:
    policy = make_policy(kind)
    engine = TorchEngine(policy.model, policy.tokenizer)
    results = engine.generate(REQUESTS, Sampling(temperature=temperature), entropies=True)
    assert [len(r) for r in results] == [len(r.seeds) for r in REQUESTS]
    lengths = set()
    for request, generations in zip(REQUESTS, results):
        for generation in generations:
            lengths.add(len(generation.ids))
            logprobs, entropies = learner_terms(policy, request.prompt, generation.ids, temperature or 1.0)
            torch.testing.assert_close(torch.tensor(generation.logprobs), logprobs, atol=1e-4, rtol=0)
            torch.testing.assert_close(torch.tensor(generation.entropies), entropies, atol=1e-4, rtol=0)
    assert len(lengths) > 2, "sequences should leave the batch at different times"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_a_function_of_its_seed(make_policy: MakePolicy, kind: str) -> None:
    policy = make_policy(kind)
    sampling = Sampling(temperature=0.9, top_p=0.95, top_k=100)
    together = TorchEngine(policy.model, policy.tokenizer).generate(REQUESTS, sampling)
    by_twos = TorchEngine(policy.model, policy.tokenizer, max_batch=2).generate(REQUESTS[::-1], sampling)[::-1]
    for request, group, small in zip(REQUESTS, together, by_twos):
        assert [g.ids for g in small] == [g.ids for g in group]
        for seed, generation in zip(request.seeds, group):
            alone = Request(request.prompt, [seed], request.max_new_tokens)
            [[found]] = TorchEngine(policy.model, policy.tokenizer).generate([alone], sampling)
            assert found.ids == generation.ids
            assert found.logprobs == pytest.approx(generation.logprobs, abs=1e-4)
    assert together[0][0].ids != together[0][1].ids


def test_a_longer_limit_continues_the_same_sample(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    short, long = engine.generate([Request([1, 2], [7], 4), Request([1, 2], [7], 9)], Sampling())
    assert long[0].ids[: len(short[0].ids)] == short[0].ids


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_transformers_generate(make_policy: MakePolicy, kind: str) -> None:
    policy = make_policy(kind)
    results = TorchEngine(policy.model, policy.tokenizer).generate(REQUESTS, Sampling(temperature=0.0))
    for request, generations in zip(REQUESTS, results):
        ids = torch.tensor([request.prompt])
        expected = policy.model.generate(
            ids, do_sample=False, max_new_tokens=request.max_new_tokens, eos_token_id=257, pad_token_id=256
        )[0, len(request.prompt) :].tolist()
        assert [g.ids for g in generations] == [expected] * len(generations)


def test_neighbours_have_no_influence(make_policy: MakePolicy) -> None:
    policy = make_policy()
    request = Request([9, 8, 7], [1, 2], 8)
    engine = TorchEngine(policy.model, policy.tokenizer, cache_bytes=0)
    [alone] = engine.generate([request], Sampling(), entropies=True)
    for beside in (Request(list(range(100)), [3], 8), Request([9, 8, 7, 6], range(20), 1), Request([9], [5], 40)):
        other, _ = engine.generate([request, beside], Sampling(), entropies=True)
        for a, b in zip(alone, other):
            assert a.ids == b.ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
            assert a.entropies == pytest.approx(b.entropies, abs=1e-5)


def test_a_shared_prompt_is_prefilled_once_and_the_finished_leave(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    engine.generate([Request([1], [0], 1)], Sampling())  # tries out the model
    prompt = list(range(50))
    with forward_calls(policy) as calls:
        [generations] = engine.generate([Request(prompt, range(6), 5)], Sampling())
    live = [sum(len(g.ids) > n for g in generations) for n in range(1, 5)]
    assert calls == [50, *(n for n in live if n)]

    with forward_calls(policy) as calls:
        engine.generate(REQUESTS, Sampling())
    assert calls[0] == sum(len(r.prompt) for r in REQUESTS) - 1  # two begin with the same id, which is in the cache


def test_end_tokens_and_limits(make_policy: MakePolicy) -> None:
    policy = make_policy(seed=3)
    with torch.no_grad():  # tied embeddings: a longer row of the end token is likelier
        policy.model.get_input_embeddings().weight[257] *= 3
    requests = [Request([i, i + 1], range(10 * i, 10 * i + 10), 3 + i) for i in range(6)]
    results = TorchEngine(policy.model, policy.tokenizer).generate(requests, Sampling())
    finishes = set()
    for request, generations in zip(requests, results):
        for g in generations:
            finishes.add(g.finish)
            assert len(g.ids) == len(g.logprobs)
            assert g.entropies is None
            assert 257 not in g.ids[:-1]
            if g.finish == "stop":
                assert g.ids[-1] == 257
                assert len(g.ids) <= request.max_new_tokens
            else:
                assert g.ids[-1] != 257
                assert len(g.ids) == request.max_new_tokens
    assert finishes == {"stop", "length"}


def test_stop_strings(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    request = Request([1, 2, 3], range(40), 30)
    [free] = engine.generate([request], Sampling())
    text = next(g for g in free if len(g.ids) > 6)
    stop = policy.tokenizer.decode(text.ids[3:5])
    [stopped] = engine.generate([request], Sampling(stop=(stop,)))
    hits = 0
    for a, b in zip(free, stopped):
        written = policy.tokenizer.decode(b.ids)
        assert a.ids[: len(b.ids)] == b.ids
        if stop in written:
            hits += 1
            assert b.finish == "stop"
            assert stop not in policy.tokenizer.decode(b.ids[:-1])
        else:
            assert b.ids == a.ids
    assert hits


def test_a_stop_string_in_the_prompt_stops_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy()
    [[g]] = TorchEngine(policy.model, policy.tokenizer).generate(
        [Request(list(b"</x>"), [0], 3)], Sampling(stop=("x>",))
    )
    assert len(g.ids) == 3 or g.ids[-1] == 257


def test_refused_requests(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    with pytest.raises(ValueError, match="request 1 has an empty prompt"):
        engine.generate([Request([1], [0], 1), Request([], [0], 1)], Sampling())
    with pytest.raises(ValueError, match="asks for 0 new tokens"):
        engine.generate([Request([1], [0], 0)], Sampling())
    with pytest.raises(ValueError, match="max_batch"):
        TorchEngine(policy.model, policy.tokenizer, max_batch=0)
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=-0.1)
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)
    with pytest.raises(ValueError, match="top_k"):
        Sampling(top_k=-1)
    assert engine.generate([], Sampling()) == []


def test_the_models_mode_is_left_as_it_was(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    for mode in (True, False):
        policy.model.train(mode)
        engine.generate([Request([1], [0], 2)], Sampling())
        assert policy.model.training is mode


def test_sync(make_policy: MakePolicy) -> None:
    learner, sampler = make_policy(seed=1), make_policy(seed=2)
    engine = TorchEngine(sampler.model, sampler.tokenizer)
    request, greedy = Request([1, 2, 3], [0], 8), Sampling(temperature=0.0)
    [[before]] = engine.generate([request], greedy)
    engine.sync(learner.named_parameters())
    [[after]] = engine.generate([request], greedy)
    [[expected]] = TorchEngine(learner.model, learner.tokenizer).generate([request], greedy)
    assert (before.version, after.version) == (0, 1)
    assert after.ids == expected.ids
    assert after.logprobs == expected.logprobs
    assert after.logprobs != before.logprobs

    weights = list(learner.named_parameters())
    with pytest.raises(KeyError, match=weights[-1][0].replace(".", r"\.")):
        engine.sync(weights[:-1])
    with pytest.raises(KeyError, match="lm_head_of_another"):
        engine.sync([*weights, ("lm_head_of_another", weights[0][1])])
    with pytest.raises(KeyError):
        engine.sync([])
    assert engine.version == 1


def test_sync_refuses_another_shape(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    weights = [(name, p.detach()[:1].clone()) for name, p in policy.named_parameters()]
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        engine.sync(weights)  # one row would broadcast over a matrix
    assert engine.version == 0


def test_sync_of_the_learners_own_model(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    engine.sync(policy.named_parameters())
    assert engine.version == 1


# The draw.


def supports(logits: torch.Tensor, sampling: Sampling, n: int = 4001) -> list[set[int]]:
    """Which tokens a fine grid of uniform numbers reaches, row by row."""
    uniform = torch.from_numpy((np.arange(n) / n).astype(np.float64))
    return [set(draw(row.expand(n, -1), uniform, sampling).tokens.tolist()) for row in logits]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.8), Sampling(2.0, 0.9, 5)],
    ids=str,
)
def test_the_draw_matches_the_distribution(sampling: Sampling) -> None:
    logits = torch.tensor([1.0, -2.0, 0.3, 2.0, 0.9, -0.5, 1.7, 0.0])
    n = 20_000
    uniform = torch.from_numpy(np.random.default_rng(0).random(n))
    counts = np.bincount(draw(logits.expand(n, -1), uniform, sampling).tokens.numpy(), minlength=8)

    p = torch.softmax(logits.double() / sampling.temperature, 0).numpy()
    order = np.argsort(-p)
    allowed = order[: sampling.top_k or len(p)]
    p = np.where(np.isin(np.arange(8), allowed), p, 0)
    p /= p.sum()
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p = np.where(np.isin(np.arange(8), order[before < sampling.top_p]), p, 0)
    p /= p.sum()

    assert (counts[p == 0] == 0).all()
    assert scipy.stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-3


def test_engine_samples_match_the_models_distribution(make_policy: MakePolicy) -> None:
    policy = make_policy(seed=5)
    n = 6000
    engine = TorchEngine(policy.model, policy.tokenizer, max_batch=n)
    [generations] = engine.generate([Request([1, 2, 3], range(n), 1)], Sampling(temperature=0.8))
    with torch.no_grad():
        p = torch.softmax(policy.model(torch.tensor([[1, 2, 3]])).logits[0, -1].double() / 0.8, 0).numpy()
    counts = np.bincount([g.ids[0] for g in generations], minlength=len(p)).astype(float)
    common = n * p >= 5  # the rare ones as one, so that the test's approximation holds
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(n * p[common], n * p[~common].sum())
    assert scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_tokens_of_a_sample_are_independent_of_each_other(make_policy: MakePolicy) -> None:
    """Different seeds and different steps have different uniform numbers: a uniform model gives uniform pairs."""
    policy = make_policy()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.zero_()
    [generations] = TorchEngine(policy.model, policy.tokenizer, max_batch=4096).generate(
        [Request([1], range(4000), 2)], Sampling()
    )
    pairs = np.array([[i * 4 // 262 for i in g.ids] for g in generations if len(g.ids) == 2])
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_top_k_support() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]])
    for k, expected in [
        (1, {1}),
        (2, {1, 3}),
        (3, {1, 2, 3}),
        (5, {0, 1, 2, 3, 4}),
        (9, {0, 1, 2, 3, 4}),
        (0, set(range(5))),
    ]:
        assert supports(logits, Sampling(top_k=k)) == [expected]


def test_top_k_with_ties_has_k_tokens() -> None:
    [support] = supports(torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]]), Sampling(top_k=2))
    assert 1 in support
    assert len(support) == 2


def test_top_p_support() -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()[None, [3, 0, 2, 1]]
    for p, expected in [
        (1e-9, {1}),
        (0.49, {1}),
        (0.51, {1, 3}),
        (0.74, {1, 3}),
        (0.76, {1, 3, 2}),
        (0.95, {0, 1, 2, 3}),
    ]:
        assert supports(logits, Sampling(top_p=p)) == [expected]


def test_top_p_with_ties_is_the_smallest_set() -> None:
    [support] = supports(torch.zeros(1, 8), Sampling(top_p=0.5))
    assert len(support) == 4
    [support] = supports(torch.zeros(1, 8), Sampling(top_p=0.501))
    assert len(support) == 5


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=12),
    st.floats(0.05, 1.0),
    st.integers(0, 12),
    st.floats(0, 1, exclude_max=True),
)
@example([0.0, 0.0, 0.0, 2.0], 0.75, 2, 0.0)
@example([0.0, 2.2258375143024978e-09], 0.25, 1, 0.0)
@settings(deadline=None, max_examples=200)
def test_a_drawn_token_is_always_allowed(row: list[float], top_p: float, top_k: int, u: float) -> None:
    logits = torch.tensor([row])
    [token] = draw(logits, torch.tensor([u], dtype=torch.float64), Sampling(top_p=top_p, top_k=top_k)).tokens.tolist()
    p = torch.softmax(logits[0].double(), 0)
    powers = torch.exp(logits - logits.amax())[0]  # in float32, in which they are compared: there may be ties
    likelier = powers > powers[token]
    if top_k:
        assert likelier.sum() < top_k
        p = p / p.topk(min(top_k, len(row))).values.sum()
    assert float(p[likelier].sum()) < top_p + 1e-6


def test_a_draw_is_the_inverse_of_the_distribution_function() -> None:
    """Over several blocks of the vocabulary, one of which is impossible as a whole and one ends early."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(700, generator=generator)
    logits[BLOCK - 6 : 2 * BLOCK] = -torch.inf
    logits[690:] = -torch.inf
    uniform = torch.cat([torch.tensor([0.0, 1 - 2**-53]), torch.rand(3000, generator=generator)]).double()
    tokens = draw(logits.expand(len(uniform), -1), uniform, Sampling()).tokens
    probabilities = logits.double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    assert bool((cumulative[tokens] >= uniform - 1e-6).all())
    assert bool((cumulative[tokens] - probabilities[tokens] <= uniform + 1e-6).all())
    assert bool((probabilities[tokens] > 0).all())
    assert set((tokens // BLOCK).tolist()) == {0, 2}


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_impossible_tokens_are_never_drawn(u: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -200.0, 1.0, -torch.inf]])
    assert draw(logits, torch.tensor([u], dtype=torch.float64), Sampling()).tokens.item() in (1, 3)


def test_greedy_needs_no_number() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert draw(logits, torch.full((2,), 0.999).double(), Sampling(temperature=0.0)).tokens.tolist() == [1, 0]


def test_the_model_can_be_trained_after_sampling(make_policy: MakePolicy) -> None:
    """Sampling leaves nothing in the model that autograd would refuse, such as a rotary table grown on the way."""
    policy = make_policy(
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, max_position_embeddings=16
    )
    engine = TorchEngine(policy.model, policy.tokenizer)
    before = policy.model.model.rotary_emb.inv_freq.clone()
    engine.generate([Request(list(range(40)), [0], 4)], Sampling())
    assert not torch.equal(policy.model.model.rotary_emb.inv_freq, before)
    for length in (3, 60):
        policy.model(torch.arange(length)[None]).logits.sum().backward()
