"""ReasoningGym-v0: the library's problems and verdicts, without what its random numbers do to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("reasoning_gym")

from reasoning_gym.factory import DATASETS
from tokengym.envs.tasks import reasoning
from tokengym.envs.tasks.reasoning import ReasoningGymEnv, Verified
from tokengym.envs.tasks.reasoning_tasks import is_harmless
from tokengym.rewards import Episode

# Of every kind of task in the library, and those that draw from sets, from global generators or evaluate answers.
TASKS = [
    "countdown", "chain_sum", "word_ladder", "knight_swap", "polynomial_multiplication", "isomorphic_strings", "ransom_note",
    "sudoku", "knights_knaves", "family_relationships", "shortest_path", "letter_counting", "basic_arithmetic", "puzzle24",
    "number_sorting", "simple_integration", "rotate_matrix", "self_reference", "figlet_font", "zebra_puzzles",
]  # fmt: skip


def step(env, row, text):
    env.reset(options={"row": row})
    return env.step(text)


@pytest.mark.parametrize("task", TASKS)
def test_the_librarys_own_answers_are_right(task):
    env = ReasoningGymEnv(task)
    for row in (0, 7):
        [shown] = env.demonstration(env.rows[row])
        assert shown["content"] == f"<answer>{env.rows[row]['answer']}</answer>"
        _, reward, terminated, _, info = step(env, row, f"<answer>?</answer> No: {shown['content']}")
        assert (reward, terminated, info["score_parts"]) == (1.0, True, {"correct": 1.0})
        assert step(env, row, f"{shown['content']} No: <answer>?</answer>")[1] < 1.0
        assert step(env, row, env.rows[row]["answer"])[1] == 0.0


def test_every_task_of_the_library_can_be_named():
    for task in DATASETS.keys() - {"composite"}:
        assert ReasoningGymEnv(task).rows[0]["question"]
    config = {"datasets": [{"name": "countdown"}, {"name": "chain_sum", "weight": 2, "config": {"max_terms": 3}}]}
    mixed = ReasoningGymEnv("composite", config)
    questions = [mixed.rows[i]["question"] for i in range(30)]
    assert 3 < sum("arithmetic problem" in question for question in questions) < 27
    assert step(mixed, 4, f"<answer>{mixed.rows[4]['answer']}</answer>")[1] == 1.0


def test_problems_are_the_same_in_every_process():
    """Five tasks of the library draw from sets of texts, whose order differs from process to process."""
    program = (
        "import json, sys; from tokengym.envs.tasks.reasoning import ReasoningGymEnv\n"
        "print(json.dumps([ReasoningGymEnv(task).rows[5] for task in sys.argv[1:]]))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *TASKS[2:7]],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    found = [process.communicate(timeout=120)[0] for process in running]
    assert found[0] == found[1] == json.dumps([ReasoningGymEnv(task).rows[5] for task in TASKS[2:7]]) + "\n"


def test_a_part_of_the_score_is_not_correct():
    env = ReasoningGymEnv("countdown")
    _, reward, _, _, info = step(env, 0, "<answer>1 + 1</answer>")
    assert 0.0 < reward < 1.0
    assert info["score_parts"] == {"correct": 0.0}
    # Any right expression will do, not the library's alone.
    answer = env.rows[0]["answer"]
    assert step(env, 0, f"<answer>0 + ({answer})</answer>")[1] < 1.0
    assert step(env, 0, f"<answer>({answer})</answer>")[1] == 1.0


HOSTILE = [
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w')",
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: open('{file}', 'w'))()",
    "[open][0]('{file}', 'w')",
    "parse_expr('1')",
    "exec\n('x')",
    "x.__class__(1)",
    "sin('open(1)')",
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_could_call_something_is_not_evaluated(answer, tmp_path):
    file = tmp_path / "made"
    text = answer.replace("{file}", str(file))
    assert not is_harmless(text)
    for task in ("puzzle24", "polynomial_multiplication", "simple_integration", "number_sorting"):
        assert step(ReasoningGymEnv(task), 0, f"<answer>{text}</answer>")[1] < 1.0
    assert not file.exists()


@pytest.mark.parametrize(
    "answer", ["(3 + 4) * 2", "x**2*sin(x) + sqrt(2)", "[1, 2, (3)]", "['a', 'b']", "2*(x + 1)*(x - 1)", "", "Abs(x)"]
)
def test_harmless_answers(answer):
    assert is_harmless(answer)


def test_a_verdict_that_takes_too_long():
    env = ReasoningGymEnv("puzzle24", timeout=1.0)
    _, reward, _, _, info = step(env, 0, "<answer>9**9**9**9</answer>")
    assert (reward, info["score_parts"], info["abstained"]) == (0.0, {"correct": 0.0, "timeout": 1.0}, False)
    assert step(env, 0, f"<answer>{env.rows[0]['answer']}</answer>")[1] == 1.0


def test_a_verifier_that_fails_on_its_own_answer_abstains():
    row = {"task": "no_task", "config": "{}", "position": 0}
    [score] = Verified().score([Episode((), ({"role": "assistant", "content": "<answer>1</answer>"},), row=row)])
    assert score.abstained
    assert "there is no such task" in score.error


def test_mistakes(monkeypatch):
    for options, message in [
        ({"dataset": "count_down"}, "no such task; there are .*countdown"),
        ({"config": {"terms": 3}}, "does not take the config"),
        ({"config": {"min_terms": 9, "max_terms": 3}}, "does not take the config"),
        ({"config": {"seed": 3}}, "config has no seed"),
        ({"split": "all"}, "split of generated problems"),
        ({"timeout": 0.0}, "timeout is a positive number"),
    ]:
        with pytest.raises(ValueError, match=message):
            ReasoningGymEnv(**options)
    with pytest.raises(TypeError):
        ReasoningGymEnv(config={"terms": object()})
    monkeypatch.setattr(reasoning, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "tokengym\[reasoning-gym\]"'):
        ReasoningGymEnv()
