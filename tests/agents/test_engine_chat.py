"""An engine as a judge."""

from __future__ import annotations

import pytest
from tokengym.agents.engines import EngineChat, Generation, Request, Sampling, TorchEngine
from tokengym.rewards import Episode, GenerativeRewardModel

CONVERSATIONS = [[{"role": "user", "content": "two plus two"}], [{"role": "user", "content": "a" * 90}]]


def test_replies_are_the_engines(make_policy):
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    replies = EngineChat(engine, policy.tokenizer).complete(CONVERSATIONS, 2, 0.7, 6, seed=3)
    requests = [Request(policy.tokenizer.encode_prompt(c), [6, 7], 6) for c in CONVERSATIONS]
    expected = engine.generate(requests, Sampling(temperature=0.7))
    assert replies == [[policy.tokenizer.decode(g.ids) for g in row] for row in expected]
    assert EngineChat(engine, policy.tokenizer).complete([], 2, 0.7, 6, seed=3) == []


def test_what_does_not_fit_has_no_reply_and_no_score(make_policy):
    policy = make_policy()
    chat = EngineChat(TorchEngine(policy.model, policy.tokenizer), policy.tokenizer, max_length=60)
    short, long = chat.complete(CONVERSATIONS, 2, 1.0, 6, seed=0)
    assert len(short) == 2
    assert long == []
    assert "more than the 60" in long.errors[1]
    reward = GenerativeRewardModel(chat, votes=1, max_tokens=8)
    with pytest.warns(UserWarning, match="more than the 60"):
        [score] = reward.score([Episode(CONVERSATIONS[0], [{"role": "assistant", "content": "four"}])])
    assert score.abstained
    with pytest.raises(ValueError, match="max_length"):
        EngineChat(chat, policy.tokenizer, max_length=1)


def test_where_the_engine_fails_there_is_no_reply(make_policy, monkeypatch):
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    generate = engine.generate

    def failing(*args, **options):
        first, *others = generate(*args, **options)
        return [[first[0], Generation([], [], "error", 0)], *others]

    monkeypatch.setattr(engine, "generate", failing)
    one, whole = EngineChat(engine, policy.tokenizer).complete(CONVERSATIONS, 2, 1.0, 4, seed=0)
    assert (len(one), one.errors) == (1, ["the engine failed"])
    assert (len(whole), whole.errors) == (2, [])
