"""PythonMath-v0: questions that take a program."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tokengym.envs import TextVectorEnv
from tokengym.envs.tasks.python_math import PythonMathEnv
from tokengym.envs.tasks.python_problems import KINDS, PythonProblems

import tokengym  # noqa: F401

GSM8K = {"question": "How many eggs?", "answer": "She sells 16 - 3 = <<16-3=13>>13.\n#### 18"}


def play(env, row, turns):
    env.reset(options={"row": row})
    for turn in turns:
        result = env.step(turn)
    return result


def test_programs_print_the_answers():
    """The programs, in a real Python of their own, against the answers, which are computed otherwise."""
    rows = PythonProblems()[:300]
    program = "\n".join(
        f"def run():\n{''.join('    ' + line + chr(10) for line in row['program'].splitlines())}run()" for row in rows
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [row["answer"] for row in rows]
    assert len({row["program"][:12] for row in rows}) >= len(KINDS)


def test_rows_are_the_same_everywhere_and_splits_disjoint():
    train, test = PythonProblems("train"), PythonProblems("test")
    assert train[7] == PythonProblems()[7] == train[7 - len(train)]
    assert not {row["question"] for row in train[:2000]} & {row["question"] for row in test[:2000]}
    with pytest.raises(IndexError):
        test[2000]
    with pytest.raises(ValueError, match='"train" or "test", not \'all\''):
        PythonProblems("all")
    assert train[3] == {
        "question": train[3]["question"],
        "answer": train[3]["answer"],
        "program": train[3]["program"],
    }


@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_perfect_players_and_cheaters(protocol):
    env = PythonMathEnv(tool_protocol=protocol)
    count = 24
    vector = TextVectorEnv(env, count)
    vector.reset(seed=0)
    rows = [each._row for each in vector.envs]
    shown = [env.demonstration(row) for row in rows]
    observations, rewards, terminated, truncated, infos = vector.step([turns[0]["content"] for turns in shown])
    assert list(observations) == [turns[1]["content"] for turns in shown]
    for flags in (rewards, terminated, truncated, infos["tool_errors"]):
        assert not flags.any()
    _, rewards, terminated, *_ = vector.step([turns[2]["content"] for turns in shown])
    assert terminated.all()
    assert rewards.tolist() == [1.0] * count


def test_cheaters():
    env = PythonMathEnv()
    answer = env.answer(env.rows[3])
    for turns in [
        # What a program prints is no answer.
        [f"<python>print('\\\\boxed{{%d}}' % ({answer} + 0))</python>", "That is it."],
        [f"<python>print({answer})</python>", answer],
        ["<result>\n\\boxed{1}\n</result>"],
        ["\\boxed{-1}"],
        ["<python>import os; os._exit(0)</python>", "\\boxed{}"],
    ]:
        *_, terminated, truncated, info = result = play(env, 3, turns)
        assert (result[1], terminated, truncated, info["abstained"]) == (0.0, True, False, False)
    assert play(env, 3, [f"\\boxed{{{answer}}}"])[1] == 1.0
    # Nor is a formula that says what to compute, which a verifier of mathematics can compute.
    powers = next(i for i in range(100) if "1^3+2^3+" in env.rows[i]["question"])
    [count] = re.findall(r"\.\.\.\+(\d+)\^3", env.rows[powers]["question"])
    assert play(env, powers, [f"\\boxed{{\\sum_{{k=1}}^{{{count}}} k^3}}"])[1] == 0.0
    assert play(env, powers, [f"\\boxed{{{env.answer(env.rows[powers])}}}"])[1] == 1.0


def test_limits():
    env = PythonMathEnv(tool_limits={"calls": 2})
    *_, terminated, truncated, info = play(env, 0, ["<python>1</python>"] * 3)
    assert (terminated, truncated, info["stop"]) == (False, True, "tool_limit")


def test_datasets():
    env = PythonMathEnv([GSM8K], split="all", system_prompt=None)
    prompt, info = env.reset()
    assert info["messages"][-1]["content"] == "How many eggs?"
    assert "<python>code</python>: Run a Python program" in prompt
    assert play(env, 0, ["<python>13 + 5</python>", "\\boxed{18}"])[1] == 1.0
    assert env.demonstration(env.rows[0])[0]["content"].endswith("\\boxed{18}")
    with pytest.raises(ValueError, match="belong to a dataset"):
        PythonMathEnv(held_out=0.2)


@pytest.mark.parametrize("protocol", ["tags", "json"])
@pytest.mark.parametrize("level", ["turn", "token"])
def test_both_levels(level, protocol):
    env = gym.make("PythonMath-v0", level=level, tool_protocol=protocol, disable_env_checker=True)
    check_env(env.unwrapped, skip_render_check=True)
    task = env.unwrapped.text_env if level == "token" else env.unwrapped
    env.reset(options={"row": 2})
    first, _, last = (message["content"] for message in task.demonstration(task.rows[2]))
    if level == "turn":
        env.step(first)
        assert env.step(last)[1:3] == (1.0, True)
        return
    # With tags the turn goes on after the result, and the closing tag ends it.
    ends = [257] if protocol == "json" else []
    for token in [*first.encode(), *ends, *last.encode(), 257]:
        result = env.step(token)
    assert result[1:3] == (1.0, True)


def test_demonstrations_fit_a_small_context():
    env = PythonMathEnv()
    for shown in itertools.islice(env.demonstrations(np.random.default_rng(0)), 50):
        assert [m["role"] for m in shown.prompt] == ["system", "user"]
        assert sum(len(m["content"]) for m in [*shown.prompt, *shown.completion]) < 700
