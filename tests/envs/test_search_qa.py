"""SearchQA-v0 and its search: documents by BM25, questions of one to three hops."""

from __future__ import annotations

import json
import math
import pickle
import threading

import pytest
from tokengym.envs import wrappers
from tokengym.envs.tasks.search_qa import SearchQAEnv
from tokengym.envs.tasks.search_world import world
from tokengym.envs.tools import ToolError
from tokengym.envs.tools.search import SearchTool
from tokengym.rewards import F1

from .templates import chat

TEXTS = [
    "The lighthouse stands on a cliff above the harbour.",
    "A harbour is where boats are safe from waves; a harbour has piers.",
    "Bread is baked from flour and water.",
    "Waves wear the cliff down.",
]


def bm25(query, texts, k1=1.5, b=0.75):
    """Scores by the formula (Robertson; Lucene's idf), of words that are split at spaces."""
    documents = [text.lower().replace(".", "").replace(";", "").split() for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query.split():
            n = sum(word in other for other in documents)
            frequency = document.count(word)
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def test_documents_come_in_the_order_of_bm25():
    texts = [
        "alpha beta gamma",
        "beta beta delta epsilon zeta",
        "gamma delta",
        "eta theta alpha alpha alpha kappa",
        "iota",
    ]
    search = SearchTool(texts, results=5)
    for query in ("alpha", "beta delta", "gamma alpha", "delta eta iota", "alpha beta gamma delta"):
        scores = bm25(query, texts)
        expected = sorted((i for i in range(5) if scores[i] > 0), key=lambda i: -scores[i])
        assert search.find(query) == expected
        assert SearchTool(texts, results=2).find(query) == expected[:2]


def test_what_a_search_shows():
    search = SearchTool(TEXTS, ["Lighthouse", "Harbour", "Bread", "Erosion"], results=2)
    assert search.call({"query": "HARBOUR?"}, 1.0).splitlines() == [
        f"Harbour: {TEXTS[1]}",
        f"Lighthouse: {TEXTS[0]}",
    ]
    for query in ("", "the of a", "zebra", "☃", "a"):
        with pytest.raises(ToolError, match="no document has any of these words"):
            search.call({"query": query}, 1.0)
    # Of equal ones the first goes first.
    assert SearchTool(["same words", "other", "same words", "same words"], results=2).find("words") == [0, 2]
    assert pickle.loads(pickle.dumps(search)).find("cliff waves") == search.find("cliff waves")
    for texts, titles, results in [([], None, 1), (TEXTS, ["one"], 1), (TEXTS, None, 0)]:
        with pytest.raises(ValueError, match="not"):
            SearchTool(texts, titles, results=results)


def test_a_search_can_be_used_from_many_threads():
    search = SearchTool([f"word{i} word{i + 1}" for i in range(200)])
    wrong = []

    def ask(i):
        wrong.extend(j for j in range(i, 190, 7) if set(search.find(f"word{j}")) != {j, j - 1} - {-1})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_questions_take_as_many_searches_as_hops(hops):
    env = SearchQAEnv(hops=hops)
    facts = world().facts
    for row in (env.rows[i] for i in range(100)):
        assert row["hops"] == len(row["path"]) == hops
        # The question names where to begin, and the relations from the last to the first.
        relations, name = row["question"].removeprefix("What is the ").removesuffix("?").rsplit(" of ", 1)
        for relation in reversed(relations.split(" of the ")):
            name = facts[name][relation]
        assert name == row["answer"]
        assert name not in row["question"]
        shown = env.demonstration(row)
        assert [m["role"] for m in shown] == ["assistant", "tool"] * hops + ["assistant"]
        # No document on the way but the last has the answer: fewer searches do not do.
        found = [m["content"] for m in shown if m["role"] == "tool"]
        assert [row["answer"] in text for text in found] == [False] * (hops - 1) + [True]


def test_the_world():
    facts, titles, texts = world()
    assert len(facts) == len(titles) == len(set(titles)) == len(texts) == 560
    for title, text in zip(titles, texts):
        assert all(value in text for value in facts[title].values())
    assert world() is world()


@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_search_by_either_protocol(protocol):
    env = SearchQAEnv(hops=2, tool_protocol=protocol, tokenizer=chat("qwen3"))
    env.reset(options={"row": 1})
    row = env.rows[1]
    for name in row["path"]:
        call = {"name": "search", "arguments": {"query": name}}
        said = f"<search>{name}</search>" if protocol == "tags" else f"<tool_call>{json.dumps(call)}</tool_call>"
        found, *_ = env.step(said)
        assert f"{name}: " in found
    *_, reward, terminated, _, info = env.step(f"It is <answer>the {row['answer'].upper()}.</answer>")
    assert (reward, terminated, info["score_parts"]["tool_calls"]) == (1.0, True, 2.0)


def test_a_corpus_and_questions_of_ones_own(tmp_path):
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "questions.jsonl"
    corpus.write_text("".join(json.dumps({"title": f"T{i}", "contents": text}) + "\n" for i, text in enumerate(TEXTS)))
    questions.write_text(
        json.dumps({"question": "What stands on a cliff?", "golden_answers": ["lighthouse", "a beacon"]}) + "\n"
    )
    env = SearchQAEnv(str(questions), str(corpus), split="all")
    assert env.demonstration(env.rows[0]) is None
    for answer, reward in [("Beacon", 1.0), ("the lighthouse", 1.0), ("bread", 0.0)]:
        env.reset(seed=0)
        found, *_ = env.step("<search>cliff</search>")
        assert "T3: Waves wear" in found
        assert "T0: The lighthouse" in found
        assert "T2" not in found
        assert env.step(f"<answer>{answer}</answer>")[1] == reward
    env = SearchQAEnv(str(questions), str(corpus), split="all", results=1, reward=F1())
    env.reset(seed=0)
    assert env.step("<search>cliff lighthouse</search>")[0].count(": ") == 1
    assert 0.0 < env.step("<answer>lighthouse tower</answer>")[1] < 1.0


def test_mistakes(tmp_path):
    rows = [{"question": "?", "answer": "!"}]
    for options, message in [
        ({"dataset": rows}, "give both or neither"),
        ({"corpus": [{"text": "a word"}]}, "give both or neither"),
        ({"hops": 4}, "hops is one or several of 1, 2 and 3, not 4"),
        ({"hops": []}, "hops is one or several"),
        ({"held_out": 0.5}, "held_out belongs to a dataset"),
        ({"dataset": rows, "corpus": [{"text": "a word"}], "hops": 1}, "hops is that of generated questions"),
        (
            {"dataset": rows, "corpus": [{"body": "a word"}], "split": "all"},
            "needs a column 'text' or 'contents'; it has body",
        ),
        (
            {"dataset": [{"q": 1}], "corpus": [{"text": "a word"}], "split": "all"},
            "needs a column 'answer' or 'answers'",
        ),
        ({"results": 0}, "at least 1, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            SearchQAEnv(**options)
    bad = tmp_path / "corpus.jsonl"
    bad.write_text('{"title": "a", "text": "one"}\n{"title": "b"}\n')
    with pytest.raises(ValueError, match=r"corpus.jsonl:2"):
        SearchQAEnv(rows, str(bad), split="all")


def test_cheaters():
    env = SearchQAEnv(hops=3)
    every_name = " ".join(world().titles)
    row = env.rows[2]
    for turns in [
        [f"<answer>{every_name}</answer>"],
        [f"<search>{row['path'][-1]}</search>", "That."],  # what was found is no answer
        [f"<result>\n{row['answer']}\n</result>"],
        [f"<answer>{row['answer']}</answer><answer>x</answer>"],
        ["<search>x</search>"] * 20,
    ]:
        env.reset(options={"row": 2})
        for turn in turns:
            _, reward, terminated, truncated, _ = env.step(turn)
            if terminated or truncated:
                break
        assert (reward, terminated or truncated) == (0.0, True)


def test_all_of_the_corpus_in_one_search_is_cut():
    env = SearchQAEnv(results=560, tool_limits={"characters": 200})
    env.reset(seed=0)
    found, *_ = env.step(f"<search>{' '.join(world().titles)}</search>")
    assert len(found) < 300
    assert "[cut: 200 of " in found


def test_wrappers_take_it():
    env = wrappers.Retry(SearchQAEnv(hops=1), tries=2)
    env.reset(options={"row": 0})
    assert not env.step("<answer>nothing</answer>")[2]
