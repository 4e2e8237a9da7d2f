"""Rollouts that branch, over an environment with tools, sampled by a real model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tokengym.agents import Policy
from tokengym.agents.engines import Generation, Sampling, TorchEngine
from tokengym.agents.learner import Batch, Learner
from tokengym.agents.rollout import ChainRollout, Group, episode_seeds
from tokengym.agents.rollout.tree import Budget, EntropyTree, ResampledTree, tree_metrics
from tokengym.envs import TextEnv
from tokengym.envs.core import OpenTurn

from tokengym import Message

MakePolicy = Callable[..., Policy]
VOCABULARY = 262
calls: list[str] = []
lock = threading.Lock()


def ask(text: str) -> str:
    """Ask.

    Args:
        text: what
    """
    with lock:
        calls.append(text)
    return f"<{text}>"


class Asks(TextEnv):
    """Four of five turns call a tool, with all that was said so far."""

    def __init__(self, **options: Any) -> None:
        rows = [{"text": "a"}, {"text": "bc"}, {"text": "def"}]
        limits = {"calls": 4, "seconds": 20.0}
        super().__init__(rows, lambda completion: len(completion) / 10, tools=[ask], tool_limits=limits, **options)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def open_turn(self, text: str, *, num_tokens: int | None = None) -> OpenTurn:
        said = (
            "/".join(m["content"].encode("utf-8", "replace").hex() for m in self.episode.completion)
            + text.encode().hex()
        )
        call = f'<tool_call>{{"name": "ask", "arguments": {{"text": "{said[-40:]}"}}}}</tool_call>'
        return super().open_turn(call if len(text) % 5 else "said", num_tokens=num_tokens)


@pytest.fixture
def policy(make_policy: MakePolicy) -> Policy:
    policy = make_policy(seed=4)
    with torch.no_grad():  # an end token now and then
        policy.model.get_input_embeddings().weight[257] *= 3
    return policy


def grown(policy: Policy, chains: Any, leaves: int = 9, env: TextEnv | None = None, **limits: Any) -> list[Group]:
    engine = TorchEngine(policy.model, policy.tokenizer)
    limits = {"max_tokens": 500, "max_new_tokens": 40} | limits
    runner = ChainRollout(env or Asks(), engine, policy.tokenizer, chains=chains, **limits)
    calls.clear()
    return runner.run([0, 1, 2], episode_seeds(2, 0, 3, leaves), Sampling())


entropy_tree = partial(EntropyTree, vocab_size=VOCABULARY, initial=3, first_tokens=4)
KINDS: dict[str, Any] = {
    "threshold": entropy_tree,
    "sample": partial(entropy_tree, branching="sample"),
    "several": partial(entropy_tree, branches=3, alpha=0.9),
    "resampled": partial(ResampledTree, trees=2, nodes=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_branches_share_their_parents_beginning_and_repeat_nothing(kind: str, policy: Policy) -> None:
    groups = grown(policy, KINDS[kind])
    branched = deep = 0
    for group in groups:
        assert len(group) == 9
        for index, t in enumerate(group):
            assert (t.parent is None) == (t.fork is None)
            if t.parent is None or t.fork is None:
                assert t.num_sampled == t.num_actions
                continue
            branched += 1
            parent = group[t.parent]
            deep += parent.parent is not None
            assert t.parent < index
            assert t.prompt_length <= t.fork < min(len(t.ids), len(parent.ids))
            for name in ("ids", "action_mask", "logprobs"):
                assert list(getattr(t, name))[: t.fork] == list(getattr(parent, name))[: t.fork]
            shared = sum(t.action_mask[: t.fork])
            assert list(t.entropies)[:shared] == list(parent.entropies)[:shared]
            assert t.action_mask[t.fork] == parent.action_mask[t.fork] == 1, "both speak after the fork"
            assert t.num_sampled == sum(t.action_mask) - shared
            before = [n for n, (start, _) in enumerate(t.turns) if start < t.fork]
            assert list(t.turns)[: len(before)] == list(parent.turns)[: len(before)]
            assert t.episode.completion[: 2 * len(before)] == parent.episode.completion[: 2 * len(before)]
            assert t.tool_calls == t.score.parts["tool_calls"] - len(before)
        # Initial chains stand first.
        assert all(t.parent is None for t in group[: 2 if kind == "resampled" else 3])
    assert branched > 5
    assert deep or kind == "several"
    # No call was made twice: as many as the leaves say that they made.
    assert len(calls) == sum(t.tool_calls for group in groups for t in group)
    found = tree_metrics(groups)
    assert found["tree/leaves"] == 9
    assert found["tree/branches"] == branched / 3
    assert found["tree/tool_calls"] == len(calls) / 3
    assert 0 < found["tree/shared_tokens"] < 1
    assert 0 < found["tree/shared_tool_calls"] < 1


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_and_seeds_do_not_depend_on_what_is_beside_them(kind: str, policy: Policy) -> None:
    groups = grown(policy, KINDS[kind])
    engine = TorchEngine(policy.model, policy.tokenizer)
    seeds = episode_seeds(2, 0, 3, 9)
    for row in range(3):
        runner = ChainRollout(Asks(), engine, policy.tokenizer, chains=KINDS[kind], max_tokens=500, max_new_tokens=40)
        [alone] = runner.run([row], [seeds[row]], Sampling())
        assert [(t.ids, t.parent, t.fork, t.episode) for t in alone] == [
            (t.ids, t.parent, t.fork, t.episode) for t in groups[row]
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_computed_twice(kind: str, policy: Policy) -> None:
    engine = TorchEngine(policy.model, policy.tokenizer)
    runner = ChainRollout(Asks(), engine, policy.tokenizer, chains=KINDS[kind], max_tokens=500, max_new_tokens=40)
    groups = runner.run([0, 1, 2], episode_seeds(2, 0, 3, 9), Sampling())
    leaves = [t for group in groups for t in group]
    # The tokens of a tree are those of its prompt and what each leaf has for itself, but for its last, after which nothing
    # is predicted. Prompts begin alike; leaves may happen to, after a fork.
    prompts = {tuple(t.ids[:end]) for t in leaves for end in range(1, t.prompt_length + 1)}
    tokens = len(prompts) + sum(len(t.ids) - (t.fork or t.prompt_length) - 1 for t in leaves)
    distinct = {tuple(t.ids[:end]) for t in leaves for end in range(1, len(t.ids))}
    computed = engine.counters.prefilled + engine.counters.decoded
    assert len(distinct) <= computed <= tokens
    assert tokens < 1.01 * len(distinct)
    assert engine.counters.generated == sum(t.num_sampled for t in leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_the_logprobs_are_those_of_training(kind: str, policy: Policy) -> None:
    ts = [t for group in grown(policy, KINDS[kind]) for t in group]
    batch = Batch.pack(
        [t.ids for t in ts], [t.action_mask for t in ts], [t.logprobs for t in ts], torch.zeros(len(ts)), 256
    )
    with torch.no_grad():
        found = Learner(policy).forward(policy.model, batch).logprobs
    torch.testing.assert_close(found * batch.action_mask, batch.old_logprobs, atol=1e-4, rtol=0)


def rises(group: Group, first_tokens: int) -> dict[tuple[int, int], float]:
    """By leaf and turn, how much the entropy rose after each reply that the leaf itself heard."""
    found = {}
    for index, t in enumerate(group):
        lengths = [end - start for start, end in t.turns]
        ends = np.cumsum([0, *lengths])
        entropies = [
            np.mean(t.entropies[a : min(b, a + first_tokens)]) / math.log(VOCABULARY) for a, b in pairwise(ends)
        ]
        for n, (start, _) in enumerate(t.turns):
            if n and start > (t.fork or 0):
                found[index, start] = float(entropies[n] - entropies[0])
    return found


def test_it_branches_where_the_entropy_has_risen(policy: Policy) -> None:
    seen = 0
    for group in grown(policy, partial(entropy_tree, initial=4), leaves=60, env=Asks(max_turns=3)):
        fresh = next(i for i, t in enumerate(group) if i >= 4 and t.parent is None)  # there was room for all branches
        forks = [(t.parent, t.fork) for t in group[:fresh] if t.parent is not None]
        assert sorted(forks) == sorted(at for at, rise in rises(group[:fresh], 4).items() if rise > 0), (
            "one branch each"
        )
        assert all(t.parent is None for t in group[fresh:])
        seen += len(forks)
    assert seen > 10


def test_the_sampled_rule_branches_with_the_probability_of_the_reference(policy: Policy) -> None:
    chances, branched = [], 0
    chains = partial(entropy_tree, initial=12, branching="sample", alpha=0.3, beta=2.0)
    for group in grown(policy, chains, leaves=60, env=Asks(max_turns=3)):
        fresh = next(i for i, t in enumerate(group) if i >= 12 and t.parent is None)
        chances += [min(max(0.3 + 2.0 * rise, 0.0), 1.0) for rise in rises(group[:fresh], 4).values()]
        branched += fresh - 12
    deviation = math.sqrt(sum(p * (1 - p) for p in chances))
    assert len(chances) > 40
    assert abs(branched - sum(chances)) < 4 * deviation


def test_without_a_reason_to_branch_the_leaves_are_fresh_chains(policy: Policy) -> None:
    for group in grown(policy, partial(entropy_tree, alpha=0.0, beta=0.0), leaves=7):
        assert len(group) == 7
        assert all(t.parent is None for t in group)
        assert len({tuple(t.ids) for t in group}) > 3


@pytest.mark.parametrize("leaves", [1, 2, 7])
def test_there_are_never_more_leaves_than_seeds(leaves: int, policy: Policy) -> None:
    for kind in KINDS.values():
        for group in grown(
            policy, partial(kind, **({"branches": 5, "alpha": 1.0} if "vocab_size" in kind.keywords else {})), leaves
        ):
            assert len(group) == leaves


def test_the_budgets_of_tokens_and_tool_calls(policy: Policy) -> None:
    for kind in (KINDS["threshold"], KINDS["resampled"]):
        free = grown(policy, kind, leaves=8)
        few = grown(policy, partial(kind, budget=Budget(tool_calls=2)), leaves=8)
        less = grown(policy, partial(kind, budget=Budget(tokens=20)), leaves=8)
        for whole, by_calls, by_tokens in zip(free, few, less):
            assert len(by_calls) < len(whole) == 8
            assert len(by_tokens) < len(whole)
            # What is there is the same: the budget only ends the growing.
            assert [t.ids for t in by_calls] == [t.ids for t in whole[: len(by_calls)]]


def test_nodes_of_a_tree_are_drawn_evenly(policy: Policy) -> None:
    """Every place where the chain of a tree speaks is expanded about as often."""
    places: dict[int, int] = {}
    engine = TorchEngine(policy.model, policy.tokenizer)
    chains = partial(ResampledTree, trees=1, nodes=1)
    runner = ChainRollout(Asks(max_turns=3), engine, policy.tokenizer, chains=chains, max_tokens=500, max_new_tokens=25)
    for first, second in runner.run([0] * 80, episode_seeds(3, 0, 80, 2), Sampling()):
        assert second.parent == 0
        starts = [start for start, _ in first.turns]
        if len(starts) == 3:
            place = starts.index(second.fork)
            places[place] = places.get(place, 0) + 1
    assert set(places) == {0, 1, 2}
    assert max(places.values()) < 5 * min(places.values()), places


def test_resampled_trees_stay_apart(policy: Policy) -> None:
    for group in grown(policy, partial(ResampledTree, trees=3, nodes=2), leaves=9):
        roots: list[int] = []
        for index, t in enumerate(group):
            roots.append(index if t.parent is None else roots[t.parent])
        assert [roots.count(tree) for tree in range(3)] == [3, 3, 3]


def test_a_context_that_overflows_in_the_third_turn_ends_one_leaf_and_not_the_tree(policy: Policy) -> None:
    for kind in KINDS.values():
        groups = grown(policy, kind, max_tokens=330, max_new_tokens=60)
        stops = [(str(t.episode.stop), len(t.turns)) for group in groups for t in group]
        assert all(len(t.ids) <= 330 and t.action_mask[-1] == 1 for group in groups for t in group)
        assert any(stop == "length" and turns >= 3 for stop, turns in stops)
        assert any(stop == "answered" for stop, _ in stops)
        assert all(len(group) == 9 for group in groups)
        assert len(calls) == sum(t.tool_calls for group in groups for t in group)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [1, 2, None])
def test_an_engine_that_fails_costs_leaves_and_not_the_step(kind: str, call: int | None, policy: Policy) -> None:
    """At the first request of one call, or of all (None): row 0's in the first, when no tree has a node."""
    engine = TorchEngine(policy.model, policy.tokenizer)
    generate, made = engine.generate, []

    def failing(requests: Any, *args: Any, **options: Any) -> Any:
        made.append(len(requests))
        found = generate(requests, *args, **options)
        if call is None or len(made) == call:
            found[0] = [Generation([], [], "error", g.version, []) for g in found[0]]
        return found

    engine.generate = failing  # type: ignore[method-assign]
    runner = ChainRollout(Asks(), engine, policy.tokenizer, chains=KINDS[kind], max_tokens=500, max_new_tokens=40)
    groups = runner.run([0, 1, 2], episode_seeds(2, 0, 3, 9), Sampling())
    for group in groups:
        assert all((t.episode.stop == "error") == (t.score.error == "the engine failed") for t in group)
        assert len(group) == 9 or all(t.episode.stop == "error" for t in group), "nothing to branch from"
    assert {t.episode.stop == "error" for group in groups for t in group} == {True, False}
