"""The generated problems, checked by an evaluator of their texts that knows nothing of how they are drawn."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.envs.tasks.math_problems import LEVELS, MathProblems

levels = st.sampled_from(sorted(LEVELS))
splits = st.sampled_from(["train", "test"])
SAMPLE = {"train": 16_000, "test": 4_000}


def value(expression, x=None):
    """The exact value of "3x+5" at x, of "1/2-3/4", or of an answer in LaTeX."""
    expression = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", expression)
    expression = re.sub(r"(\d)x", r"\1*x", expression)
    assert re.fullmatch(r"[\dx+\-*/()]+", expression), expression
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction, "x": x})


def identity(question):
    """The problem without the order of its commuting parts, read off its text."""
    number = r"(\d+(?:/\d+)?)"
    if match := re.fullmatch(rf"{number}([+*]){number}=\?", question):
        first, sign, second = match.groups()
        return sign, *sorted((first, second))
    if match := re.fullmatch(r"\((\d+)\+(\d+)\)(.*)", question):
        return *sorted(match.groups()[:2]), match[3]
    if match := re.fullmatch(r"(.*)=(.*), x=\?", question):
        return tuple(sorted(match.groups()))
    return question


@pytest.fixture(scope="module")
def samples():
    """{(level, split): rows}, all different indices."""
    return {(level, split): MathProblems(level, split, size)[:] for level in LEVELS for split, size in SAMPLE.items()}


@given(st.lists(levels, min_size=1), splits, st.integers(0, 2**40))
def test_answer_and_solution_are_right(chosen, split, index):
    problems = MathProblems(chosen, split, size=2**41)
    row = problems[index]
    assert tuple(row) == problems.columns == ("question", "answer", "level", "solution")
    assert row["level"] in chosen

    answer = value(row["answer"])
    if answer.denominator == 1:
        assert row["answer"] == str(answer.numerator)
    else:
        assert row["answer"] == rf"\frac{{{answer.numerator}}}{{{answer.denominator}}}"

    unboxed = row["solution"].replace(rf"\boxed{{{row['answer']}}}", row["answer"])
    assert row["solution"] == unboxed.removesuffix(row["answer"]) + rf"\boxed{{{row['answer']}}}"
    if equation := re.fullmatch(r"(.+)=(.+), x=\?", row["question"]):
        left, right = equation.groups()
        assert value(left, answer) == value(right, answer)
        assert value(left, answer + 60) != value(right, answer + 60), "another x solves it too"
        for step in unboxed.split(", "):
            left, right = step.split("=")
            assert value(left, answer) == value(right, answer)
    else:
        assert value(row["question"].removesuffix("=?")) == answer
        if row["level"] == 1:
            *columns, result = unboxed.split(",")
            assert_columns(columns, answer)
            unboxed = result
        assert all(value(step) == answer for step in unboxed.split("="))


def assert_columns(columns, answer):
    """Every column is right, carries or borrows what the one before it left, and the last digits spell the answer."""
    carried, digits = False, ""
    for i, column in enumerate(columns):
        x, sign, _, one, result = re.fullmatch(r"(\d+)([+-])(\d)([+-]1)?=(\d+)", column).groups()
        assert value(column.split("=")[0]) == int(result)
        assert bool(one) == carried
        assert one is None or one[0] == sign
        carried = int(result) > 9 if sign == "+" else int(x) > 9
        digits = (result if sign == "+" and i == len(columns) - 1 else result[-1]) + digits
    assert sign == "+" or not carried
    assert int(digits) == answer


def test_questions_have_the_form_of_their_level(samples):
    forms = {
        1: r"\d{1,2}[+-]\d{1,2}=\?",
        2: r"\d{1,3}[+-]\d{1,3}=\?|\d\*\d\d=\?|\d\d\*\d=\?",
        3: r"\d/\d{1,2}[+*-]\d/\d{1,2}=\?",
        4: r"[2-9]x[+-]\d+=-?\d+, x=\?|[2-9]x[+-]\d+=[2-9]?x([+-]\d+)?, x=\?",
        5: r"\(\d+[+-]\d+\)\*\d[+-]\d+=\?|x/\d[+-]\d+=-?\d+, x=\?|\d+/\(x[+-]\d+\)=\d, x=\?",
    }
    for (level, _), rows in samples.items():
        for row in rows:
            assert re.fullmatch(forms[level], row["question"]), row
            assert level > 3 or not row["answer"].startswith("-"), row


def test_every_kind_of_problem_comes_up(samples):
    def count(level, pattern):
        return sum(re.search(pattern, row["question"]) is not None for row in samples[level, "train"]) / SAMPLE["train"]

    for level, pattern, share in [
        (1, r"\+", 1 / 2),
        (2, r"\*", 1 / 3),
        (2, "-", 1 / 3),
        (3, r"\*", 1 / 3),
        (3, "-", 1 / 3),
        (4, "x.*=.*x.*, ", 1 / 2),
        (5, r"^x/", 1 / 4),
        (5, r"/\(x", 1 / 4),
        (5, r"^\(", 1 / 2),
    ]:
        assert abs(count(level, pattern) - share) < 0.03, (level, pattern)
    carries = sum(
        sum(int(n) % 10 for n in row["question"][:-2].split("+")) > 9
        for row in samples[1, "train"]
        if "+" in row["question"]
    )
    assert carries > 3_000
    assert any(row["answer"].startswith("-") for row in samples[4, "train"])
    assert any("frac" not in row["answer"] for row in samples[3, "train"])


def test_train_and_test_share_no_problem_at_any_levels(samples):
    problems = {"train": set(), "test": set()}
    for (_, split), rows in samples.items():
        problems[split] |= {identity(row["question"]) for row in rows}
    for rows in (MathProblems((1, 2, 3, 4, 5), "train", 4_000), MathProblems((2, 1), "train", 4_000)):
        problems["train"] |= {identity(row["question"]) for row in rows}
    assert not problems["train"] & problems["test"]
    assert identity("3+4=?") == identity("4+3=?")


def test_there_are_enough_problems(samples):
    for (level, split), rows in samples.items():
        distinct = len({identity(row["question"]) for row in rows})
        least = {"train": 1_500, "test": 200} if level == 1 else {"train": 3_000, "test": 300}
        assert distinct > least[split], (level, split)
    everything = {identity(row["question"]) for row in MathProblems(1, "train", 100_000)}
    assert abs(len(everything) - 0.9 * 2_550) < 75, "a tenth of the 2 550 problems of level 1 is held out"


def test_levels_are_equally_likely():
    counts = Counter(row["level"] for row in MathProblems((1, 3, 4), "train", 9_000))
    assert counts.keys() == {1, 3, 4}
    assert all(abs(count - 3_000) < 250 for count in counts.values())


@settings(max_examples=30)
@given(st.sets(levels, min_size=1), splits, st.integers(0, 1_999))
def test_a_row_depends_on_levels_split_and_index_alone(chosen, split, index):
    row = MathProblems(sorted(chosen), split)[index]
    other = MathProblems([*sorted(chosen, reverse=True), *chosen], split, size=index + 1)
    assert other[index] == other[-1] == row
    for twin in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        assert twin[index] == row
        assert len(twin) == index + 1


def test_rows_are_the_same_in_every_process_and_version():
    # Pinned: if these change, results on the built-in problems no longer compare between versions.
    assert [row["question"] for row in MathProblems(1, "test")[:4]] == ["5+29=?", "39-34=?", "6+18=?", "26+16=?"]
    program = (
        "from tokengym.envs.tasks.math_problems import MathProblems\n"
        "print([row['question'] for row in MathProblems(range(1, 6))[:50]])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([row["question"] for row in MathProblems(range(1, 6))[:50]])


def test_neighbouring_rows_are_independent():
    rows = [row["question"] for row in MathProblems(2, "train", 2_000)]
    assert sum(a == b for a, b in pairwise(rows)) < 10
    assert rows != [row["question"] for row in MathProblems((2, 3), "train", 2_000)]


def test_it_is_a_sequence():
    problems = MathProblems()
    assert len(problems) == 100_000
    assert len(MathProblems(split="test")) == 2_000
    assert problems[-1] == problems[99_999]
    assert problems[-3:] == [problems[i] for i in range(99_997, 100_000)]
    small = MathProblems(size=3)
    assert list(small) == problems[:3]
    for index in (3, -4):
        with pytest.raises(IndexError):
            small[index]
    small[0]["question"] = "changed"
    assert small[0] == problems[0]
    assert len(pickle.dumps(problems)) < 300
    assert repr(small) == "MathProblems(levels=(1,), split='train', size=3)"


def test_wrong_arguments():
    for wrong in (0, 6, [], [1, 9]):
        with pytest.raises(ValueError, match=r"levels must be.*1: sums and differences.*5: two steps"):
            MathProblems(wrong)
    with pytest.raises(ValueError, match="'train' or 'test', got 'all'"):
        MathProblems(split="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size must be at least 1"):
        MathProblems(size=0)
