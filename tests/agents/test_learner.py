"""The learner: gradients that do not depend on how a step is cut, masks, precisions, adapters, references, state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, TorchEngine
from tokengym.agents.functional import Aggregation, policy_gradient_clip
from tokengym.agents.learner import Batch, Learner, TokenTerms, demonstration_batch, negative_log_likelihood
from tokengym.agents.learner.forward import ShortAttention, forward
from tokengym.agents.learner.head import head_of
from tokengym.agents.policy import Reference
from tokengym.envs import ByteTokenizer, Demonstration
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MakePolicy = Callable[..., Policy]
AGGREGATIONS: tuple[Aggregation, ...] = Aggregation.__args__


def ppo(terms: TokenTerms) -> tuple[Tensor, dict[str, Tensor]]:
    losses, clipped = policy_gradient_clip(terms.logprobs, terms.old_logprobs, terms.advantages, 0.2, 0.2)
    return losses, {"clip_fraction": clipped.float()}


def make_batch(lengths: tuple[int, ...] = (40, 3, 17, 9, 25, 12), seed: int = 0, masked: int | None = 3) -> Batch:
    """Sequences of very different lengths, with environment tokens amid the actions; sequence `masked` has none."""
    g = torch.Generator().manual_seed(seed)
    ids = [torch.randint(256, (n,), generator=g).tolist() for n in lengths]
    masks = []
    for i, n in enumerate(lengths):
        prompt = 1 + n // 4
        mask = [0] * prompt + [1] * (n - prompt)
        if n > 8:
            mask[-4:-2] = [0, 0]  # a tool's result
        masks.append([0] * n if i == masked else mask)
    old = [[m * float(-4 - 4 * torch.rand((), generator=g)) for m in mask] for mask in masks]
    return Batch.pack(ids, masks, old, torch.randn(len(lengths), generator=g), pad_id=256)


def gradient(
    policy: Policy, batch: Batch, loss: Any = ppo, **options: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    learner = Learner(policy, **options)
    policy.model.train()
    stats = learner.accumulate(batch, loss)
    found = {name: p.grad.clone() for name, p in learner.masters.items() if p.grad is not None}
    learner.optimizer.forget_gradients()
    for p in policy.model.parameters():
        p.grad = None
    return found, stats


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# Batches.


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 200))
@settings(deadline=None)
def test_micro_batches_hold_every_sequence_once_and_keep_the_limit(lengths: list[int], limit: int) -> None:
    batch = make_batch(tuple(lengths), masked=None)
    parts = list(batch.micro_batches(limit))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    for rows in parts:
        part = batch.select(rows)
        assert part.ids.shape[1] == int(part.lengths.max())
        assert part.ids.numel() <= limit or len(rows) == 1


def test_pack() -> None:
    batch = Batch.pack([[1, 2, 3], [4, 5]], [[1, 1, 1], [0, 1]], [[0, -1, -2], [0, -3]], torch.tensor([2.0, -1.0]), 256)
    assert batch.ids.tolist() == [[1, 2, 3], [4, 5, 256]]
    assert batch.action_mask.tolist() == [[0, 1, 1], [0, 1, 0]]  # nothing predicts the first token
    assert batch.old_logprobs.tolist() == [[0, -1, -2], [0, -3, 0]]
    assert batch.advantages.tolist() == [[0, 2, 2], [0, -1, 0]]
    assert batch.num_tokens == 5
    with pytest.raises(ValueError, match="at least one sequence"):
        Batch.pack([], [], [], torch.zeros(0), 0)
    with pytest.raises(ValueError, match="sequence 1 has 2 tokens, but 1 entries"):
        Batch.pack([[1], [2, 3]], [[0], [1]], [[0.0], [0.0, 0.0]], torch.zeros(2), 0)


def test_demonstrations_teach_the_policys_turns_and_their_ends() -> None:
    tokenizer = ByteTokenizer()
    user, tool = {"role": "user", "content": "hi"}, {"role": "tool", "content": "42"}
    turns = [{"role": "assistant", "content": "ab"}, tool, {"role": "assistant", "content": "c"}]
    batch = demonstration_batch([Demonstration([user], turns)], tokenizer, 100)
    learned = [i for i, m in zip(batch.ids[0].tolist(), batch.action_mask[0].tolist()) if m]
    assert learned == [*b"ab", 257, *b"c", 257]
    assert (
        tokenizer.decode_all(batch.ids[0].tolist()) == "<user>hi<end><assistant>ab<end><tool>42<end><assistant>c<end>"
    )
    with pytest.raises(ValueError, match="max_tokens=5"):
        demonstration_batch([Demonstration([user], turns)], tokenizer, 5)


# Gradients.


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_micro_batches_give_the_gradient_of_the_whole_step(make_policy: MakePolicy, aggregation: Aggregation) -> None:
    batch, policy = make_batch(), make_policy(initializer_range=0.1)
    whole, stats = gradient(policy, batch, aggregation=aggregation, max_new_tokens=30, micro_batch_tokens=10_000)
    assert any(bool(g.abs().max() > 1e-3) for g in whole.values())
    for size in (1, 50, 90):
        cut, cut_stats = gradient(policy, batch, aggregation=aggregation, max_new_tokens=30, micro_batch_tokens=size)
        assert_same(whole, cut, atol=1e-6 * max(1.0, *(float(g.abs().max()) for g in whole.values())))
        assert cut_stats == pytest.approx(stats, abs=1e-5)


def test_gradient_by_hand(make_policy: MakePolicy) -> None:
    """The step's loss, written out sequence by sequence without padding, shifting or cutting."""
    batch, policy = make_batch(), make_policy()
    found, stats = gradient(policy, batch, aggregation="seq-mean-token-mean", temperature=0.8, micro_batch_tokens=60)
    total = torch.zeros(())
    for i, n in enumerate(batch.lengths.tolist()):
        logits = policy.model(batch.ids[i : i + 1, :n]).logits[0] / 0.8
        terms = []
        for t in range(1, n):
            if batch.action_mask[i, t]:
                lp = torch.log_softmax(logits[t - 1], -1)[batch.ids[i, t]]
                ratio, a = torch.exp(lp - batch.old_logprobs[i, t]), batch.advantages[i, t]
                terms.append(torch.maximum(-ratio * a, -ratio.clamp(0.8, 1.2) * a))
        if terms:
            total = total + torch.stack(terms).mean() / 5
    total.backward()
    assert stats["loss"] == pytest.approx(total.item(), abs=1e-5)
    expected = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    scale = max(float(g.abs().max()) for g in expected.values())
    assert_same(found, expected, atol=1e-5 * max(1.0, scale))


def test_masked_tokens_do_not_matter(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    batch = replace(batch, ref_logprobs=torch.zeros_like(batch.action_mask))
    off = batch.action_mask == 0
    noise = torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(9))
    other = replace(
        batch,
        old_logprobs=torch.where(off, 100 * noise, batch.old_logprobs),
        advantages=torch.where(off, 100 * noise, batch.advantages),
        ref_logprobs=torch.where(off, 100 * noise, batch.ref_logprobs),
    )
    a, a_stats = gradient(policy, batch)
    b, b_stats = gradient(policy, other)
    assert_same(a, b, atol=0)
    assert a_stats == b_stats


def test_the_loss_has_no_gradient_at_masked_predictions(make_policy: MakePolicy) -> None:
    """The hidden states that predict no action have no gradient, but what the actions attend to."""
    batch, policy = make_batch(), make_policy()
    learner = Learner(policy)
    head_of(policy.model)  # tries the model out once, without a gradient
    seen: list[Tensor] = []
    handle = policy.model.model.register_forward_hook(
        lambda _m, _a, output: seen.append(output.last_hidden_state) or output.last_hidden_state.retain_grad()
    )
    learner.accumulate(batch, ppo)
    handle.remove()
    [states] = seen
    assert states.grad is not None
    [rows] = batch.micro_batches(learner.micro_batch_tokens)
    predicting = batch.action_mask[rows, 1:] == 1
    touched = (states.grad != 0).any(-1)
    assert not touched[:, -1].any()
    assert not (touched[:, :-1] & ~predicting).any()
    assert touched.any()


def test_the_text_of_the_environment_is_context_only(make_policy: MakePolicy) -> None:
    """Its last token before the padding, after every action, is predicted by nobody and predicts nothing."""
    policy = make_policy()
    ids, mask, old = [1, 2, 3, 4, 5], [0, 0, 1, 1, 0], [0.0, 0.0, -1.0, -1.0, 0.0]
    a = Batch.pack([ids], [mask], [old], torch.ones(1), 256)
    b = Batch.pack([[*ids[:-1], 77]], [mask], [old], torch.ones(1), 256)
    assert_same(gradient(policy, a)[0], gradient(policy, b)[0], atol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_what_the_environment_wrote_has_no_gradient(make_policy: MakePolicy, learned: bool) -> None:
    """Seen on the embeddings of a token that stands only there, of a model whose input and output embeddings differ: the last
    message of an environment is nobody's context, and its tokens nobody's target."""
    policy = make_policy("qwen2")
    mask = [0, 0, 1, 1, *([1, 1] if learned else [0, 0])]
    batch = Batch.pack([[1, 2, 3, 4, 200, 5]], [mask], [[0.0] * 6], torch.ones(1), 256)
    found, _ = gradient(policy, batch, lambda terms: (-terms.advantages * terms.logprobs, {}))
    assert bool(found["model.embed_tokens.weight"][200].any()) == learned
    # Its logit is pushed down like that of every token that was not chosen, unless it was a target, which pulls it up.
    logits = policy.model(batch.ids).logits[0]
    states = policy.model.model(batch.ids).last_hidden_state[0]
    chances = torch.softmax(logits, dim=-1)[:, 200].detach() - torch.tensor([0, 0, 0, float(learned), 0, 0])
    acting = batch.action_mask[0, 1:] > 0
    expected = (chances[:-1, None] * states[:-1].detach())[acting].sum(dim=0) / acting.sum()
    torch.testing.assert_close(found["lm_head.weight"][200], expected, atol=1e-5, rtol=1e-4)


def test_padding_does_not_matter(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    a, a_stats = gradient(policy, batch)
    columns = torch.arange(batch.ids.shape[1])
    b, b_stats = gradient(policy, replace(batch, ids=torch.where(columns < batch.lengths[:, None], batch.ids, 33)))
    assert_same(a, b, atol=1e-6)
    assert a_stats == pytest.approx(b_stats, abs=1e-6)
    longer = replace(
        batch,
        **{
            f: torch.nn.functional.pad(getattr(batch, f), (0, 30))
            for f in ("ids", "action_mask", "old_logprobs", "advantages", "token_rewards")
        },
    )
    c, c_stats = gradient(policy, longer)
    assert_same(a, c, atol=1e-6)
    assert a_stats == pytest.approx(c_stats, abs=1e-6)


def test_a_batch_without_actions_has_no_gradient(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    nothing = replace(batch, action_mask=torch.zeros_like(batch.action_mask))
    before = copy.deepcopy(policy.model.state_dict())
    stats = Learner(policy).update(nothing, ppo, learning_rate=0.1, reference=Reference(policy))
    assert {stats[k] for k in ("loss", "entropy", "kl/sampler", "kl/reference", "grad_norm", "clip_fraction")} == {0.0}
    assert all(torch.equal(p, before[name]) for name, p in policy.model.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradient(make_policy: MakePolicy, kind: str) -> None:
    batch = make_batch()
    plain, _ = gradient(make_policy(kind), batch)
    saved = make_policy(kind)
    again, _ = gradient(saved, batch, gradient_checkpointing=True)
    assert saved.model.is_gradient_checkpointing
    assert_same(plain, again, atol=1e-6)


def test_a_compiled_model_gives_the_same_gradient(make_policy: MakePolicy) -> None:
    batch = make_batch()
    small = {"num_hidden_layers": 1}
    plain, stats = gradient(make_policy(**small), batch, micro_batch_tokens=60)
    compiled, compiled_stats = gradient(make_policy(**small), batch, micro_batch_tokens=60, compile=True)
    assert_same(plain, compiled, atol=1e-5 * max(1.0, *(float(g.abs().max()) for g in plain.values())))
    assert stats == pytest.approx(compiled_stats, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_training_passes_have_no_dropout(make_policy: MakePolicy, kind: str) -> None:
    changes = (
        {"attention_dropout": 0.5} if kind == "llama" else {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    )
    batch = make_batch()
    assert_same(gradient(make_policy(kind, **changes), batch)[0], gradient(make_policy(kind), batch)[0])


# What a step computes.


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.made += [t.shape for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
        return out


@contextmanager
def passes(policy: Policy) -> Iterator[list[torch.Size]]:
    """The shapes of the ids that go through the policy's trunk."""
    seen: list[torch.Size] = []
    handle = policy.model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


def test_logits_are_made_of_action_tokens_alone(make_policy: MakePolicy) -> None:
    """Neither [batch, length, vocabulary] nor a row of it for a prompt, a tool's result or padding exists at any time."""
    batch, policy = make_batch(), make_policy(tie_word_embeddings=False)
    vocabulary = policy.model.config.vocab_size
    learner = Learner(policy)
    head_of(policy.model)  # tries the model out once
    with Shapes() as seen:
        learner.update(batch, ppo, learning_rate=1e-3)
    rows = [shape[:-1].numel() for shape in seen.made if shape[-1:] == (vocabulary,) and len(shape) > 1]
    assert max(rows) == int(batch.action_mask.sum()) < batch.num_tokens


def test_padding_is_computed_within_a_micro_batch_only(make_policy: MakePolicy) -> None:
    """Sequences of like length go together, each part as wide as its longest."""
    batch, policy = make_batch((50, 2, 48, 3, 49, 4, 50, 3), masked=None), make_policy()
    head_of(policy.model)
    with passes(policy) as seen:
        Learner(policy, micro_batch_tokens=200).update(batch, ppo, learning_rate=1e-3)
    assert seen == [(4, 4), (4, 50)]
    assert sum(map(torch.Size.numel, seen)) < 1.05 * batch.num_tokens < 0.6 * batch.ids.numel()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"own_old_logprobs": True}, 1),  # those of the very pass that has the gradient
        ({"own_old_logprobs": True, "epochs": 2}, 3),
        ({"own_old_logprobs": True, "minibatches": 2}, 3),
        ({"epochs": 2}, 2),
    ],
)
def test_a_batch_that_is_used_once_takes_one_pass(
    make_policy: MakePolicy, options: dict[str, Any], expected: int
) -> None:
    batch, policy = make_batch(), make_policy()
    head_of(policy.model)
    with passes(policy) as seen:
        stats = Learner(policy).update(batch, ppo, learning_rate=0.0, **options)
    assert len(seen) == expected
    if "own_old_logprobs" in options:
        assert abs(stats["kl/old"]) < 1e-6 < stats["kl/sampler"]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_mismatch_of_sampler_and_learner(make_policy: MakePolicy, minibatches: int) -> None:
    batch, policy = replace(make_batch((300, 300), masked=None), groups=torch.zeros(2, dtype=torch.long)), make_policy()
    learner = Learner(policy, micro_batch_tokens=300)
    apart = (learner.own_logprobs(batch) - batch.old_logprobs).abs()[batch.action_mask > 0].numpy()
    stats = learner.update(batch, ppo, learning_rate=0.0, minibatches=minibatches, own_old_logprobs=True)
    assert stats["correction/mismatch"] == pytest.approx(apart.mean(), rel=1e-4)
    assert stats["correction/mismatch_p99"] == pytest.approx(np.percentile(apart, 99, method="inverted_cdf"), rel=1e-4)


def test_the_reference_of_an_adapter_takes_no_memory(make_policy: MakePolicy) -> None:
    pytest.importorskip("peft")
    policy = make_policy().with_lora(4, 32, seed=0)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_" in name:
                p.normal_()
    reference, batch = Reference(policy), make_batch()
    learner = Learner(policy)
    expected = Learner(make_policy()).own_logprobs(batch)
    with reference.model() as model:
        assert {id(p) for p in model.parameters()} == {id(p) for p in policy.model.parameters()}
    torch.testing.assert_close(learner.reference_logprobs(batch, reference), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(learner.own_logprobs(batch), expected, atol=0.1)


# Right after sampling.


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_kl_to_the_sampler_is_zero_right_after_sampling(make_policy: MakePolicy, temperature: float) -> None:
    policy = make_policy("qwen2")
    request = Request([1, 2, 3], range(6), 20)
    [generations] = TorchEngine(policy.model, policy.tokenizer).generate(
        [request], Sampling(temperature), entropies=True
    )
    batch = Batch.pack(
        [[1, 2, 3, *g.ids] for g in generations],
        [[0, 0, 0] + [1] * len(g.ids) for g in generations],
        [[0, 0, 0, *g.logprobs] for g in generations],
        torch.ones(6),
        256,
    )
    reference = Reference(policy)
    stats = Learner(policy, temperature=temperature, micro_batch_tokens=50).update(
        batch, ppo, learning_rate=1e-2, reference=reference
    )
    assert abs(stats["kl/sampler"]) < 1e-6
    assert abs(stats["kl/reference"]) < 1e-6
    assert stats["clip_fraction"] == 0
    sampled = [h for g in generations for h in g.entropies or []]
    assert stats["entropy"] == pytest.approx(sum(sampled) / len(sampled), abs=1e-4)
    moved = Learner(policy, temperature=temperature).update(batch, ppo, learning_rate=0.0, reference=reference)
    assert moved["kl/sampler"] > 1e-4
    assert moved["kl/reference"] > 1e-4


# Steps.


def test_the_learning_rate_and_the_gradient_norm_are_applied(make_policy: MakePolicy) -> None:
    """AdamW's first step has the size of the learning rate in every coordinate that has a gradient."""
    batch, policy = make_batch(), make_policy()
    gradients, _ = gradient(policy, batch)
    norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    stats = Learner(policy, max_grad_norm=1e9).update(batch, ppo, learning_rate=1e-3)
    assert stats["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for name, p in policy.named_parameters():
        moved = (p.detach() - before[name])[gradients[name].abs() > 1e-4]
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-3), atol=2e-5, rtol=0)
        assert torch.equal(moved.sign(), -gradients[name][gradients[name].abs() > 1e-4].sign())


def test_gradients_are_clipped(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    gradients, _ = gradient(policy, batch)
    norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
    assert norm > 0.02
    learner = Learner(policy, max_grad_norm=0.01)
    stats = learner.update(batch, ppo, learning_rate=1e-3)
    assert stats["grad_norm"] == pytest.approx(norm, rel=1e-4)
    state = learner.state()
    first = torch.cat([t.flatten() for name, t in state.items() if "/exp_avg/" in name])
    assert float(first.norm()) == pytest.approx(0.001, rel=1e-3)  # (1 − β1) g


def test_weight_decay_is_of_matrices(make_policy: MakePolicy) -> None:
    policy = make_policy()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    nothing = replace(make_batch(), advantages=torch.zeros(6, 40))
    Learner(policy, weight_decay=0.5).update(nothing, ppo, learning_rate=0.1)
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.dim() == 2 else 1.0))


def test_minibatches_and_epochs(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    learner = Learner(policy)
    stats = learner.update(batch, ppo, learning_rate=1e-3, epochs=2, minibatches=3, seed=1)
    steps = {float(s["step"]) for s in learner.optimizer.adamw.state.values()}
    assert steps == {6.0}
    assert stats["speed/learn_tokens_per_s"] > 0
    again = make_policy()
    assert (
        Learner(again).update(batch, ppo, learning_rate=1e-3, epochs=2, minibatches=3, seed=1)["loss"] == stats["loss"]
    )
    assert Learner(make_policy()).update(batch, ppo, learning_rate=1e-3, minibatches=99)["loss"] < 100


def test_learning_raises_the_probability_of_what_was_good(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    learner = Learner(policy)
    losses = [learner.update(batch, negative_log_likelihood, learning_rate=3e-3)["loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


# Precision.


def bfloat16(policy: Policy) -> Policy:
    return policy.to("bfloat16", "cpu")


def test_bfloat16_learns_by_its_float32_masters(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), bfloat16(make_policy())
    learner = Learner(policy)
    assert all(p.dtype == torch.bfloat16 for p in policy.model.parameters())
    before = {name: p.detach().clone() for name, p in learner.masters.items()}
    for _ in range(3):
        stats = learner.update(batch, ppo, learning_rate=1e-6)
    assert stats["grad_norm"] > 0
    for name, master in learner.masters.items():
        moved = (master.detach() - before[name]).abs()
        assert master.dtype == torch.float32
        assert 1e-7 < float(moved.max()) < 1e-5
        assert torch.equal(learner.params[name], master.to(torch.bfloat16))
    for _ in range(10):
        learner.update(batch, ppo, learning_rate=1e-3)
    assert any(not torch.equal(p.float(), before[name]) for name, p in learner.params.items())
    assert all(p.grad is None for p in policy.model.parameters())


def test_bfloat16_gradients_are_added_up_in_float32(make_policy: MakePolicy) -> None:
    """A sum in bfloat16 would be a number of bfloat16, and lose what is 256 times smaller."""
    policy = bfloat16(make_policy())
    batch = make_batch((30,) * 24, masked=None)
    whole = gradient(policy, batch, micro_batch_tokens=30)[0]
    parts: dict[str, Tensor] = {name: torch.zeros_like(g) for name, g in whole.items()}
    for i in range(24):
        alone = batch.select(torch.tensor([i]))
        for name, g in gradient(policy, alone, micro_batch_tokens=30, aggregation="token-mean")[0].items():
            parts[name] += g.double().float() / 24
    rounded = 0
    for name, g in whole.items():
        assert g.dtype == torch.float32
        scale = float(g.abs().max())
        torch.testing.assert_close(g, parts[name], atol=0.02 * scale, rtol=0)
        rounded += int(torch.equal(g, g.bfloat16().float()))
    assert rounded == 0


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_short_attention_in_bfloat16(make_policy: MakePolicy, kind: str) -> None:
    """Computed in float32, it is as near to the model in float32 as torch's own, with and without a mask."""
    batch = make_batch()

    def logprobs(policy: Policy) -> Tensor:
        with torch.no_grad():
            return forward(policy.model, batch, 1.0).logprobs

    exact = logprobs(make_policy(kind, initializer_range=0.1))
    policy = bfloat16(make_policy(kind, initializer_range=0.1))
    found = logprobs(policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShortAttention, "LONGEST", 0)
        plain = logprobs(policy)
    assert not torch.equal(found, plain), "nothing was computed otherwise"
    assert float((found - exact).abs().mean()) < 1.2 * float((plain - exact).abs().mean())


@pytest.mark.parametrize("mask", [torch.bool, torch.bfloat16])
def test_short_attention_however_it_is_called(mask: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 8, generator=g).bfloat16() for _ in range(3))
    visible = torch.ones(9, 9, dtype=torch.bool).tril(-1)
    visible[0] = True
    given = visible if mask == torch.bool else torch.zeros(9, 9, dtype=mask).masked_fill(~visible, -torch.inf)
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = attention(q.float(), k.float(), v.float(), visible).bfloat16()
    with ShortAttention():
        assert torch.equal(attention(q, k, v, given), expected)
        assert torch.equal(attention(query=q, key=k, value=v, attn_mask=given), expected)
        causal = attention(q, k, v, None, 0.0, True)
    assert torch.equal(causal, attention(q.float(), k.float(), v.float(), is_causal=True).bfloat16())


def test_short_attention_leaves_checkpoints_alone(make_policy: MakePolicy) -> None:
    """What is computed again in the backward pass has to be what was computed before."""
    batch = make_batch()
    plain, _ = gradient(bfloat16(make_policy()), batch)
    again, _ = gradient(bfloat16(make_policy()), batch, gradient_checkpointing=True)
    for name, g in plain.items():
        assert float(torch.cosine_similarity(g.flatten(), again[name].flatten(), dim=0)) > 0.99


# Adapters and references.


def test_only_the_adapter_learns(make_policy: MakePolicy) -> None:
    pytest.importorskip("peft")
    plain = make_policy()
    frozen = {name: p.detach().clone() for name, p in plain.named_parameters()}
    policy = plain.with_lora(4, 32.0, seed=0)
    assert policy.has_adapter
    batch = make_batch()
    reference = Reference(policy)
    learner = Learner(policy)
    assert learner.params
    assert all("lora_" in name for name in learner.params)
    start = learner.reference_logprobs(batch, reference)
    first = learner.update(batch, ppo, learning_rate=1e-2, reference=reference)
    assert abs(first["kl/reference"]) < 1e-6
    for _ in range(3):
        stats = learner.update(batch, ppo, learning_rate=1e-2, reference=reference)
    assert stats["kl/reference"] > 1e-4
    assert torch.equal(learner.reference_logprobs(batch, reference), start)
    base = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): p for name, p in policy.named_parameters()
    }
    assert all(torch.equal(base[name], p) for name, p in frozen.items())


def test_an_adapter_starts_from_its_seed(make_policy: MakePolicy) -> None:
    pytest.importorskip("peft")
    a, b, c = (make_policy().with_lora(4, 32.0, seed=s).trainable() for s in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_gradient_checkpointing_with_an_adapter(make_policy: MakePolicy) -> None:
    pytest.importorskip("peft")
    batch = make_batch()
    plain, _ = gradient(make_policy().with_lora(4, 32.0, seed=0), batch)
    again, _ = gradient(make_policy().with_lora(4, 32.0, seed=0), batch, gradient_checkpointing=True)
    assert plain
    assert_same(plain, again)


def test_a_saved_adapter_is_loaded_and_learns_on(make_policy: MakePolicy, tmp_path: Any) -> None:
    pytest.importorskip("peft")
    make_policy().save(tmp_path / "base")
    policy = Policy.load(tmp_path / "base", device="cpu").with_lora(4, 32.0, seed=0)
    batch = make_batch()
    Learner(policy).update(batch, ppo, learning_rate=1e-2)
    policy.save(tmp_path / "adapter")
    loaded = Policy.load(tmp_path / "adapter", device="cpu")
    with torch.no_grad():
        expected = Learner(policy).forward(policy.model.eval(), batch).logprobs
        found = Learner(loaded).forward(loaded.model.eval(), batch).logprobs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert loaded.trainable().keys() == policy.trainable().keys()


def test_the_reference_of_a_full_model_does_not_change(make_policy: MakePolicy) -> None:
    batch, policy = make_batch(), make_policy()
    reference = Reference(policy)
    learner = Learner(policy)
    start = learner.reference_logprobs(batch, reference)
    with torch.no_grad():
        expected = learner.forward(policy.model, batch).logprobs
    torch.testing.assert_close(start * batch.action_mask, expected * batch.action_mask, atol=1e-5, rtol=0)
    for _ in range(3):
        stats = learner.update(batch, ppo, learning_rate=1e-2, reference=reference)
    assert torch.equal(learner.reference_logprobs(batch, reference), start)
    assert stats["kl/reference"] > 1e-4
    with reference.model() as model:
        assert not any(p.requires_grad for p in model.parameters())


# State.


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "lora"])
def test_a_loaded_state_gives_the_same_next_update(make_policy: MakePolicy, variant: str) -> None:
    def build() -> Policy:
        policy = make_policy()
        if variant == "lora":
            pytest.importorskip("peft")
            return policy.with_lora(4, 32.0, seed=0)
        return bfloat16(policy) if variant == "bfloat16" else policy

    batch, other = make_batch(), make_batch(seed=5)
    policy = build()
    learner = Learner(policy, weight_decay=0.1)
    for _ in range(3):
        learner.update(batch, ppo, learning_rate=1e-3)
    state = {name: t.clone() for name, t in learner.state().items()}
    weights = {name: p.detach().clone() for name, p in policy.trainable().items()}

    fresh = build()
    with torch.no_grad():
        for name, p in fresh.trainable().items():
            p.copy_(weights[name])
    resumed = Learner(fresh, weight_decay=0.1)
    resumed.load_state(state)
    for _ in range(2):
        a = learner.update(other, ppo, learning_rate=1e-3)
        b = resumed.update(other, ppo, learning_rate=1e-3)
        assert {k: v for k, v in a.items() if "speed" not in k} == {k: v for k, v in b.items() if "speed" not in k}
    for name, p in policy.trainable().items():
        assert torch.equal(fresh.trainable()[name], p)
    assert all(torch.equal(t, resumed.state()[name]) for name, t in learner.state().items())


def test_state_of_a_learner_that_has_not_stepped(make_policy: MakePolicy) -> None:
    policy = make_policy()
    learner = Learner(policy)
    assert learner.state() == {}
    learner.load_state({})


def test_load_state_of_another_model(make_policy: MakePolicy) -> None:
    learner = Learner(make_policy("gpt2"))
    learner.update(make_batch(), ppo, learning_rate=1e-3)
    with pytest.raises(KeyError):
        Learner(make_policy("llama")).load_state(learner.state())


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_sequences_without_advantage_can_be_left_out(make_policy: MakePolicy, aggregation: Aggregation) -> None:
    batch = make_batch()
    batch = replace(batch, advantages=batch.advantages * torch.tensor([1, 0, 1, 0, 0, 1.0])[:, None])
    weights = []
    for skip in (False, True):
        policy = make_policy()
        learner = Learner(policy, aggregation=aggregation, max_grad_norm=1e-3)
        learned = batch.advantages.any(dim=1) if skip else None
        learner.accumulate(batch, ppo, computed=learned)
        weights.append([p.grad.clone() for p in policy.trainable().values() if p.grad is not None])
    assert weights[0]
    for left, right in zip(*weights, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_a_step_without_any_advantage_changes_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy()
    learner = Learner(policy)
    learner.update(make_batch(), ppo, learning_rate=1e-3)  # leaves momentum
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    nothing = replace(make_batch(), advantages=torch.zeros(6, 40))
    reference = Reference(policy)
    stats = learner.update(
        nothing, ppo, learning_rate=1e-3, reference=reference, skip_zero_advantage=True, minibatches=3
    )
    assert stats["grad_norm"] == 0.0
    assert abs(stats["kl/reference"]) < 1e-6, "the reference is computed where it is reported"
    assert {"loss", "entropy", "kl/sampler"} <= stats.keys()
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
