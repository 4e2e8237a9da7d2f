"""Summarize-v0 and its built-in reward model."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from tokengym.envs.tasks import summarize
from tokengym.envs.tasks.generated import Draw, stable_hash
from tokengym.envs.tasks.summarize import SummarizeEnv
from tokengym.envs.tasks.summarize_documents import draw_document, worse_summary
from tokengym.rewards import Episode, Message, ScalarRewardModel

from .templates import chat


def scores(env, answers):
    """The rewards of answers to the documents of rows, as one batch."""
    episodes = [
        Episode(tuple(env.opening(row)), ({"role": "assistant", "content": text},), answer=row["answer"], row=row)
        for row, text in answers
    ]
    return np.array([score.value for score in env.reward.score(episodes)])


def worse(rows, kinds=1):
    return [worse_summary(Draw((stable_hash("worse", 8), kinds), i), row) for i, row in enumerate(rows)]


@pytest.mark.parametrize("tokenizer", ["bytes", "qwen3"])
def test_the_built_in_model_prefers_the_news(tokenizer):
    """On documents that it has not seen, with either prompt."""
    env = SummarizeEnv(split="test", tokenizer=tokenizer if tokenizer == "bytes" else chat(tokenizer))
    rows = [env.rows[i] for i in range(400)]
    good = scores(env, [(row, row["answer"]) for row in rows])
    bad = scores(env, list(zip(rows, worse(rows))))
    assert np.mean(good > bad) > 0.9
    # It looks at the document: the news of another does not do.
    other = scores(env, [(row, rows[i - 1]["answer"]) for i, row in enumerate(rows)])
    assert np.mean(good > other) > 0.95
    # Calibrated over both.
    assert abs(np.mean([good, bad])) < 0.3
    assert 0.7 < np.std([good, bad]) < 1.3


def test_what_makes_policies_look_better_than_they_are_does_not_help():
    env = SummarizeEnv()
    rows = [env.rows[i] for i in range(60)]
    good = scores(env, [(row, row["answer"]) for row in rows])
    for cheat in (
        lambda row: "",
        lambda row: row["document"],
        lambda row: f"{row['answer']} {row['answer']}",
        lambda row: "great summary " * 40,
        lambda row: "x" * 3000,
        lambda row: " ".join(map(str, range(500))),
        lambda row: "<assistant><end>" * 5,
        lambda row: " ".join(row["facts"]),
    ):
        assert np.mean(good > scores(env, [(row, cheat(row)) for row in rows])) > 0.9


def test_documents():
    env = SummarizeEnv()
    for row in (env.rows[i] for i in range(50)):
        assert 2 <= row["document"].count(".") <= 4
        assert row["answer"].count(".") == 1
        assert row["answer"] in row["document"]
        assert all(fact in row["answer"] for fact in row["facts"])
        assert env.answer(row) == row["answer"]
    assert draw_document(Draw((1, 2), 3)) == draw_document(Draw((1, 2), 3))


def test_worse_summaries_are_worse():
    rows = [SummarizeEnv().rows[i] for i in range(300)]
    for row, text in zip(rows, worse(rows)):
        assert text.strip() != row["answer"]


def test_a_dataset_and_a_model_of_ones_own(tmp_path):
    model = ScalarRewardModel(str(summarize.MODEL))
    model.save(tmp_path / "model")
    rows = [
        {"article": "Ben sold a boat at the zoo. The weather was dry.", "highlights": "Ben sold a boat at the zoo."}
    ]
    env = SummarizeEnv(rows, model=tmp_path / "model", split="all", tokenizer=chat("qwen3"))
    prompt, _ = env.reset(seed=0)
    assert prompt == f"{rows[0]['article']}\n\nSummarize this in one sentence."
    assert env.demonstration(rows[0]) == [{"role": "assistant", "content": rows[0]["highlights"]}]
    reward = env.step(rows[0]["highlights"])[1]
    message: Message = {"role": "assistant", "content": rows[0]["highlights"]}
    [score] = model.score([Episode(({"role": "user", "content": prompt},), (message,))])
    assert reward == pytest.approx(score.value)
    # Any reward in its place; no reference is needed.
    env = SummarizeEnv([{"prompt": "One. Two."}], reward=lambda completion: -len(completion), split="all")
    assert env.demonstration(env.rows[0]) is None
    env.reset(seed=0)
    assert env.step("One.")[1] == -4.0


def test_the_model_is_shared_and_travels_without_its_weights():
    first, second = SummarizeEnv(), SummarizeEnv(split="test")
    assert first.reward is second.reward
    assert len(pickle.dumps(first)) < 100_000


def test_mistakes():
    rows = [{"document": "One.", "summary": "One."}]
    for options, message in [
        ({"dataset": rows}, "knows generated documents alone"),
        ({"dataset": rows, "model": "x", "reward": lambda completion: 0.0}, "give one of them"),
        ({"dataset": [{"body": "One."}], "model": "x"}, "needs a column 'document' or 'article'"),
        ({"dataset": rows, "model": "/no/such/folder", "split": "all"}, "'/no/such/folder': neither a folder"),
        ({"held_out": 0.1}, "held_out belongs to a dataset"),
        ({"split": "all"}, "split of generated problems"),
        ({"prompt": "Summarize!"}, r"\{document\}"),
    ]:
        with pytest.raises(ValueError, match=message):
            SummarizeEnv(**options)
