"""MathVerify-v0: every format of data that it knows, from files of that format and from the real ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import Table, parquet
from tokengym.envs.tasks.math_verify import INSTRUCTION, MathVerifyEnv

DATA = Path(__file__).parents[3] / "shared" / "data"
GSM8K = {
    "question": "How many eggs?",
    "answer": "She sells 16 - 3 = <<16-3=13>>13.\nThen 13 + 5 = <<13+5=18>>18.\n#### 18",
}

# Name: a row, its question and its answer.
FORMATS = {
    "GSM8K": (GSM8K, "How many eggs?", "18"),
    "several marks": ({"question": "q", "answer": "First #### 5, so\n#### 7\nno:\n#### 1,018"}, "q", "1,018"),
    "plain": ({"question": "2+2?", "answer": 4}, "2+2?", "4"),
    "plain fraction": ({"question": "1/2+3/4?", "answer": r"\frac{5}{4}"}, "1/2+3/4?", r"\frac{5}{4}"),
    "MAWPS": ({"input": "How many ?", "target": 14.0}, "How many ?", "14"),
    "MAWPS decimal": ({"input": "How much ?", "target": 0.75}, "How much ?", "0.75"),
    "SVAMP": ({"Body": "Two boys. ", "Question": "How many?", "Answer": 145.0}, "Two boys. How many?", "145"),
    "AIME": ({"id": 60, "problem": "Find $t$.", "answer": 204}, "Find $t$.", "204"),
    "AIME padded": ({"problem": "Find $t$.", "answer": "033"}, "Find $t$.", "033"),
    "AMC": ({"problem": "Find $x$.", "question": "Find $x$.", "answer": 27.0}, "Find $x$.", "27"),
}
REAL = {
    "gsm8k/train.jsonl": 7473,
    "gsm8k/test.jsonl": 1319,
    "mawps/addsub.jsonl": 395,
    "mawps/multiarith.jsonl": 600,
    "mawps/singleeq.jsonl": 508,
    "mawps/singleop.jsonl": 562,
    "svamp/test.jsonl": 1000,
    "aime24/test.jsonl": 30,
    "amc23/test.jsonl": 40,
}


def answered(env, row, text):
    """Reward and info for `text` on a row."""
    env.reset(options={"row": row})
    _, reward, terminated, truncated, info = env.step(text)
    assert (terminated, truncated) == (True, False)
    return reward, info


def shown(env, row):
    """The text of the row's demonstration."""
    [message] = env.demonstration(env.rows[row])
    assert message["role"] == "assistant"
    return message["content"]


# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    row, question, answer = FORMATS[name]
    env = MathVerifyEnv([row], split="all")
    observation, info = env.reset()
    assert observation == f"{question}\n\nSolve the problem and put the final answer in \\boxed{{}}."
    assert info["messages"] == [{"role": "user", "content": observation}]
    assert env.answer(env.rows[0]) == answer
    assert answered(env, 0, shown(env, 0))[0] == 1.0
    assert answered(env, 0, f"So \\boxed{{{answer}}}")[0] == 1.0
    assert answered(env, 0, "\\boxed{999999}")[0] == 0.0
    assert answered(env, 0, answer)[0] == 0.0  # not where the answer is asked for
    assert env.episode.row == row


def test_gsm8ks_reasoning_is_the_demonstration():
    env = MathVerifyEnv([GSM8K], split="all")
    assert shown(env, 0) == "She sells 16 - 3 = 13.\nThen 13 + 5 = 18.\n\\boxed{18}"


@pytest.mark.parametrize(("file", "count"), REAL.items())
def test_real_files(file, count):
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    env = MathVerifyEnv(path, split="all")
    assert len(env.rows) == count
    for row in range(0, count, max(1, count // 40)):
        assert answered(env, row, shown(env, row)) == (
            1.0,
            {"stop": "answered", "score_parts": {"correct": 1.0}, "abstained": False, "score_error": ""},
        )
        assert answered(env, row, "\\boxed{-12345}")[0] == 0.0


def test_own_columns():
    rows = [{"task": "2+2?", "gold": "4", "question": "no", "answer": "no"}]
    env = MathVerifyEnv(rows, split="all", question_column="task", answer_column="gold")
    assert (env.question(rows[0]), env.answer(rows[0])) == ("2+2?", "4")
    # One of them alone, beside a known one.
    env = MathVerifyEnv([{"task": "2+2?", "answer": 4}], split="all", question_column="task")
    assert (env.question(env.rows[0]), env.answer(env.rows[0])) == ("2+2?", "4")
    env = MathVerifyEnv([{"problem": "2+2?", "gold": 4}], split="all", answer_column="gold")
    assert (env.question(env.rows[0]), env.answer(env.rows[0])) == ("2+2?", "4")


def test_whole_solutions_as_answers():
    """MATH (Hendrycks et al. 2021) has no column for the bare answer."""
    rows = [{"problem": "What is $1/2+1/4$?", "solution": r"It is $2/4+1/4=\boxed{\frac{3}{4}}$."}]
    env = MathVerifyEnv(rows, split="all", answer_column="solution")
    assert shown(env, 0) == rows[0]["solution"]
    assert answered(env, 0, shown(env, 0))[0] == 1.0
    assert answered(env, 0, r"\boxed{\frac{3}{4}}")[0] == 1.0
    assert answered(env, 0, r"\boxed{\frac{2}{4}}")[0] == 0.0


def test_files_of_every_kind_give_the_same_rows(tmp_path):
    rows = [{"question": f"{i}+{i}?", "answer": str(2 * i)} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    parquet.write_table(Table.from_pylist(rows), tmp_path / "a.parquet")
    for split in ("train", "test", "all"):
        expected = list(MathVerifyEnv(rows, split=split).rows)
        for kind in ("jsonl", "json", "parquet"):
            assert list(MathVerifyEnv(str(tmp_path / f"a.{kind}"), split=split).rows) == expected


# Splits


@settings(max_examples=30)
@given(st.lists(st.integers(0, 500), min_size=2, max_size=60).filter(lambda n: len(set(n)) > 1), st.floats(0.05, 0.9))
def test_splits_of_a_dataset_are_disjoint_and_complete(numbers, held_out):
    rows = [{"question": f"{n}+1?", "answer": n + 1, "id": i} for i, n in enumerate(numbers)]
    train, test = (MathVerifyEnv(rows, split=split, held_out=held_out).rows for split in ("train", "test"))
    assert not {r["question"] for r in train} & {r["question"] for r in test}
    assert sorted(r["id"] for r in [*train, *test]) == list(range(len(rows)))


def test_generated_splits_are_disjoint():
    envs = [MathVerifyEnv(split=split, difficulty=1) for split in ("train", "test")]
    train, test = ({env.rows[i]["question"] for i in range(1500)} for env in envs)
    assert not train & test


# Generated problems


@pytest.mark.parametrize("difficulty", [None, 1, 2, 3, 4, 5, [1, 3, 5], (4,)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_generated_problems_and_their_demonstrations(difficulty, split):
    env = MathVerifyEnv(difficulty=difficulty, split=split)
    for row in range(40):
        observation, _ = env.reset(options={"row": row})
        assert observation == env.rows[row]["question"]  # bare: a policy over bytes pays for every letter
        assert env.step(shown(env, row))[1] == 1.0
        assert answered(env, row, "\\boxed{123456789}")[0] == 0.0
        # To say the question once more, in whatever form, is no answer.
        question = observation.removesuffix("=?")
        for cheat in (question, f"{env.rows[row]['answer']}={question}", f"({question})", f"1*({question})"):
            assert answered(env, row, f"\\boxed{{{cheat}}}")[0] == 0.0


def test_demonstrations_are_solutions():
    env = MathVerifyEnv(difficulty=2, system_prompt="Calculate.")
    for shown in itertools.islice(env.demonstrations(np.random.default_rng(0)), 20):
        assert [m["role"] for m in shown.prompt] == ["system", "user"]
        assert "\\boxed{" in shown.completion[0]["content"]


# The prompt


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Q: {question}\nA:", "Q: {a} in {0} and {{}}, 100%?\nA:"),
        ("{question} Put it in \\boxed{}.", "{a} in {0} and {{}}, 100%? Put it in \\boxed{}."),
        ("{question}", "{a} in {0} and {{}}, 100%?"),
        (INSTRUCTION, "{a} in {0} and {{}}, 100%?\n\nSolve the problem and put the final answer in \\boxed{}."),
    ],
)
def test_braces_are_no_placeholders(prompt, expected):
    rows = [{"question": "{a} in {0} and {{}}, 100%?", "answer": "1"}]
    assert MathVerifyEnv(rows, split="all", prompt=prompt).reset()[0] == expected
    assert MathVerifyEnv(prompt="Calculate {question}").reset()[0].startswith("Calculate ")


# Rewards


def short(completion: str, answer: str, level: int) -> float:
    return 10.0 * level + (answer in completion) - 0.01 * len(completion)


def test_any_function_is_a_reward():
    env = MathVerifyEnv(difficulty=3, reward=short)
    env.reset(options={"row": 5})
    assert env.step("xx")[1] == pytest.approx(30 - 0.02)
    env.reset(options={"row": 5})
    assert env.step(env.answer(env.rows[5]))[1] > 30
    with pytest.raises(ValueError, match=r"reward short.*: parameter 'level' is neither a known name"):
        MathVerifyEnv([GSM8K], split="all", reward=short)


# Wrong data and arguments


def test_a_missing_column_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "train.jsonl"
    rows = [GSM8K, GSM8K | {"question": "b"}, {"question": "c", "anwser": "3"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ValueError, match=r"train\.jsonl:3: no column 'answer' among 'question', 'anwser'; did you mean"
    ):
        MathVerifyEnv(str(path))
    path.write_text("\n".join(map(json.dumps, [*rows[:2], {"question": "c", "answer": None}])))
    with pytest.raises(ValueError, match=r"train\.jsonl:3: the column 'answer' is empty"):
        MathVerifyEnv(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": [{"text": "a", "label": "b"}]},
            "among the columns of the given list: text, label. Known are Body, ",
        ),
        ({"dataset": [GSM8K], "question_column": "q", "answer_column": "a"}, "row 0 of the given list: no column 'q'"),
        ({"dataset": [GSM8K], "question_column": "q"}, "cannot tell the question and the answer"),
        ({"dataset": [GSM8K]}, "cannot be divided into train and test"),
        ({"dataset": [GSM8K], "split": "dev"}, "split must be 'train', 'test' or 'all', got 'dev'"),
        ({"dataset": [GSM8K], "difficulty": 2}, "difficulty is a level of the generated problems; leave it out"),
        ({"dataset": [GSM8K], "held_out": 1.5}, "held_out must be between 0 and 1"),
        ({"question_column": "q"}, "belong to a dataset, but none was given"),
        ({"held_out": 0.2}, "belong to a dataset, but none was given"),
        ({"split": "all"}, 'the split of generated problems is "train" or "test", not \'all\''),
        ({"difficulty": 9}, "got 9. 1: sums and differences"),
        ({"difficulty": []}, r"got \[\]"),
        ({"prompt": "Solve it."}, "prompt is a text with {question} in it, where the question goes, not 'Solve it.'"),
        ({"max_turns": 2}, "max_turns"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MathVerifyEnv(**options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MathVerifyEnv(tmp_path / "train.jsonl")
