"""Training-free GRPO: lessons in the place of gradients."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents import TrainingFreeGRPO
from tokengym.agents.algorithms.lessons import Lessons, asked, numbered, revised

from tokengym import Message
from tokengym.cli import main

from ..conftest import narrow_policy
from .test_every_algorithm import Letters


def odd(completion: str) -> bool:
    return len(completion.encode()) % 2 == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real model, which writes what random weights write."""
    folder = tmp_path_factory.mktemp("model")
    narrow_policy(0).save(folder)
    return str(folder)


def make(model: str, run_dir: Path | None = None, **options: Any) -> TrainingFreeGRPO:
    small: dict[str, Any] = {
        "prompts_per_step": 3,
        "group_size": 3,
        "max_new_tokens": 6,
        "reply_tokens": 8,
        "checkpoint_every": 1,
    }
    return TrainingFreeGRPO(model, Letters(odd), run_dir=run_dir, console=False, **small | options)


class Scripted:
    """A chat that answers by what it is asked, and keeps that."""

    def __init__(self, *changes: str) -> None:
        self.changes = iter(changes)
        self.asked: list[str] = []

    def complete(
        self, conversations: Sequence[Sequence[Message]], n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[str]]:
        return [[self._reply(conversation[0]["content"])] for conversation in conversations]

    def _reply(self, question: str) -> str:
        self.asked.append(question)
        if question.startswith("You keep a short list"):
            return next(self.changes, "KEEP")
        return "It was\n odd." if "What did the right attempts do" in question else f"Summary {len(self.asked)}."


def test_what_the_right_did_better_becomes_a_lesson_of_the_next_prompt(model: str, tmp_path: Path) -> None:
    agent = make(model, tmp_path)
    agent.chat = chat = Scripted("ADD: Write an odd number of letters.\nADD: {problem}", "DELETE 2")  # type: ignore[assignment]
    before = {name: p.clone() for name, p in agent.policy.named_parameters()}
    agent.learn(1)
    assert agent.lessons == ["Write an odd number of letters.", "{problem}"]
    assert (tmp_path / "lessons.txt").read_text() == "Write an odd number of letters.\n{problem}\n"

    summaries = [q for q in chat.asked if q.startswith("Here is a problem and an attempt")]
    comparisons = [q for q in chat.asked if "What did the right attempts do" in q]
    revisions = [q for q in chat.asked if q.startswith("You keep")]
    assert 1 <= len(comparisons) <= 3
    assert len(summaries) == 3 * len(comparisons), "every completion of a mixed group is summed up"
    assert {"which is right", "which is wrong"} <= set(re.findall(r"which is \w+", "\n".join(summaries)))
    for comparison in comparisons:
        assert 1 <= comparison.count("(right): Summary") <= 2
        assert comparison.count("(right): Summary") + comparison.count("(wrong): Summary") == 3
        assert "known:\n(none)" in comparison
    assert len(revisions) == 1
    assert revisions[0].count("- It was odd.") == len(comparisons)

    [metrics] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (metrics["lessons/added"], metrics["lessons/known"], metrics["lessons/unread"]) == (2, 2, 0)
    assert metrics["lessons/remarks"] == metrics["groups/kept"] == len(comparisons)
    assert all(torch.equal(p, before[name]) for name, p in agent.policy.named_parameters())

    [[t]] = agent.rollout.run([0], [[5]], agent_sampling())
    assert t.episode.prompt[-1]["content"].endswith("1. Write an odd number of letters.\n2. {problem}")
    assert "odd number of letters" in agent.policy.tokenizer.decode_all(t.ids[: t.prompt_length])
    agent.learn(1)
    assert agent.lessons == ["Write an odd number of letters."]
    assert "1. Write an odd number of letters.\n2. {problem}" in chat.asked[-1]

    loaded = TrainingFreeGRPO.load(tmp_path, env=Letters(odd), console=False)
    assert loaded.lessons == ["Write an odd number of letters."]
    held_out = loaded._held_out()
    assert held_out.opening(held_out.rows[0])[-1]["content"].endswith("1. Write an odd number of letters.")
    again = make(model, lessons=str(tmp_path / "lessons.txt"))
    assert again.lessons == loaded.lessons


def agent_sampling() -> Any:
    from tokengym.agents.engines import Sampling

    return Sampling()


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(model: str, tmp_path: Path) -> None:
    def rows(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in lines]

    lessons = tmp_path / "some.txt"
    lessons.write_text("One.\n\n  Two. \n")
    make(model, tmp_path / "whole", lessons=str(lessons)).learn(3)
    make(model, tmp_path / "parts", lessons=str(lessons)).learn(2)
    lessons.unlink()
    part = TrainingFreeGRPO.load(tmp_path / "parts", env=Letters(odd), console=False).learn(1)
    assert part.lessons[:2] == ["One.", "Two."]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert all(row["learning_rate"] == 0 for row in rows(tmp_path / "whole"))


def test_groups_are_filtered_as_everywhere(model: str, tmp_path: Path) -> None:
    filters = ("dynamic_sampling(max_rounds=4, metric='accuracy')", "reject(high=0.5)")
    agent = make(model, tmp_path, filter_groups=filters)
    agent.learn(1)
    [row] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    dropped = row["groups/dropped/dynamic_sampling"] + row["groups/dropped/reject"]
    assert dropped > 0
    assert row["groups/sampled"] > 3, "others were sampled in the place of those"
    assert row["groups/kept"] == row["groups/sampled"] - dropped
    assert TrainingFreeGRPO.load(tmp_path, env=Letters(odd), console=False).config.filter_groups == filters
    with pytest.raises(ValueError, match="unknown filter 'rejct' \\(did you mean reject"):
        make(model, filter_groups="rejct")


def test_an_evaluation_uses_and_shows_them(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = TrainingFreeGRPO(
        model, run_dir=tmp_path, console=False, prompts_per_step=1, group_size=2, max_new_tokens=2, reply_tokens=2
    )
    agent.lessons.append("Carry the one.")
    agent.learn(1)
    capsys.readouterr()
    main(["eval", str(tmp_path), "--episodes", "2"])
    shown = capsys.readouterr().out
    assert "2 problems" in shown
    assert "1. Carry the one." in shown


def test_what_is_too_long_to_ask_is_counted(model: str, tmp_path: Path) -> None:
    agent = make(model, tmp_path, reply_tokens=5000)  # the model reads 4096 tokens
    agent.learn(1)
    [row] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["groups/kept"] >= 1
    assert row["lessons/unasked"] == row["groups/kept"] * 4, "three summaries and a comparison of each group"
    assert row["lessons/remarks"] == 0


def test_the_oldest_lessons_go_where_there_is_no_room(model: str, tmp_path: Path) -> None:
    agent = make(model, tmp_path, lesson_tokens=100)
    agent.chat = Scripted("ADD: first\nADD: second\nADD: " + "x" * 10, "ADD: " + "y" * 200)  # type: ignore[assignment]
    agent.learn(1)
    assert agent.lessons == ["second", "x" * 10]  # a heading of 74 bytes, and these
    agent.learn(1)
    assert agent.lessons == []


def test_what_it_cannot_do_is_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a model that can write lessons, which tiny cannot"):
        TrainingFreeGRPO(env=Letters(odd))
    with pytest.raises(ValueError, match="learning_rate has no effect"):
        make(model, learning_rate=1e-3)
    with pytest.raises(ValueError, match="gradient_checkpointing has no effect"):
        make(model, gradient_checkpointing=True)
    with pytest.raises(ValueError, match="engine_sleeps has no effect"):
        make(model, engine="vllm", engine_sleeps=True)
    with pytest.raises(ValueError, match="the lessons cannot be read from"):
        make(model, lessons=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="no room for an answer in the 2 that there are by max_tokens=258"):
        make(model, max_tokens=258)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "training_free_grpo"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("reply", "lessons", "counts"),
    [
        ("ADD: c", ["a", "b", "c"], (1, 0, 0, 0)),
        ("- add:  c   d ", ["a", "b", "c d"], (1, 0, 0, 0)),
        ("ADD: a", ["a", "b"], (0, 0, 0, 0)),
        ("CHANGE 1: z", ["z", "b"], (0, 1, 0, 0)),
        ("**DELETE 1**\nCHANGE 2: y\nADD: c", ["y", "c"], (1, 1, 1, 0)),
        ("DELETE 1\nDELETE 2", [], (0, 0, 2, 0)),
        ("ADD: c\nDELETE 3\nDELETE 1\nCHANGE 1: d", ["b", "c"], (1, 0, 1, 2)),
        ("DELETE 3\nCHANGE 0: x\nDELETE\nADD:\nSure, here you are:", ["a", "b"], (0, 0, 0, 5)),
        ("KEEP\n\n", ["a", "b"], (0, 0, 0, 0)),
        ("ADD: 2 + 2 = 4", ["a", "b", "2 + 2 = 4"], (1, 0, 0, 0)),
        ("", ["a", "b"], (0, 0, 0, 0)),
    ],
)
def test_changes_of_the_lessons(reply: str, lessons: list[str], counts: tuple[int, ...]) -> None:
    found, counted = revised(["a", "b"], reply)
    assert (found, tuple(counted.values())) == (lessons, counts)


@given(st.lists(st.text(min_size=1), max_size=3), st.text())
def test_any_reply_is_read(lessons: list[str], reply: str) -> None:
    found, counts = revised(lessons, reply)
    assert len(found) == len(lessons) + counts["added"] - counts["deleted"]


def test_questions_and_prompts() -> None:
    [message] = asked("{a} and {b}, {c}", a="{b}", b=1)
    assert message["content"] == "{b} and 1, {c}"
    assert numbered([]) == "(none)"
    lessons: list[str] = []
    env = Lessons(Letters(odd), lessons)
    plain = env.task.opening(env.rows[0])
    assert env.opening(env.rows[0]) == plain
    copy = env.fork()
    lessons.append("Think.")
    _, info = copy.reset(options={"row": 0})
    assert info["messages"][-1]["content"].startswith(plain[-1]["content"] + "\n\n")
    assert info["messages"][-1]["content"].endswith("\n1. Think.")
    assert copy.episode.prompt[-1] == info["messages"][-1]
    assert env.prompt([{"role": "system", "content": "s"}])[-1]["role"] == "user"
