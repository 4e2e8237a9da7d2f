"""Problems and verifiers of the library reasoning-gym (arXiv 2505.24760), as functions of plain values.

This file runs in worker processes, which load it alone. Their hash seed is fixed: some of the library's generators draw
from sets of texts, whose order it decides.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS, create_dataset

CHUNK = 500
"""Problems of one dataset of the library. Of most of its tasks there are as many as one likes, of some only the size."""

# What an answer may call where the verifier evaluates it.
_FUNCTIONS = {
    "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "exp", "log", "ln", "sqrt", "Abs",
}  # fmt: skip
_BEFORE_PARENTHESIS = re.compile(r"(\w*)\s*\(")
_MAY_STAND_BEFORE = set("+-*/%^&|~<>=,([{!:¬∧∨→↔⊕")
_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(")
_MAX_ANSWER = 10_000


def work(action: str, name: str, config: str, position: int, *answer: str | None) -> Any:
    """`problem` or `score`: what the worker processes are asked."""
    return {"problem": problem, "score": score}[action](name, config, position, *answer)


def problem(name: str, config: str, position: int) -> dict[str, str | None]:
    """The question at a position, and the library's answer; None for the tasks that have none.

    Args:
        name: of the task.
        config: its options, as JSON.
        position: which problem; all that it depends on beside the two.

    Raises:
        ValueError: there is no such task, or it does not take this configuration.
    """
    found = _entry(name, config, position)
    return {"question": found["question"], "answer": None if found["answer"] is None else str(found["answer"])}


def score(name: str, config: str, position: int, answer: str | None) -> float:
    """The verdict of the library's verifier on an answer, from 0 to 1; None stands for its own answer.

    Some verifiers compute the answer with Python's `eval`, or SymPy's, which does the same. An answer that could call
    anything by that is not shown to them, and gets 0.
    """
    entry = _entry(name, config, position)
    if answer is None:
        answer = entry["answer"]
    elif len(answer) > _MAX_ANSWER or (_evaluates(name) and not is_harmless(answer)):
        return 0.0
    _seed(position)
    return float(_dataset(name, config, position // CHUNK).score_answer(answer, entry))


@lru_cache(16)
def _dataset(name: str, config: str, chunk: int) -> Any:
    if name not in DATASETS:
        raise ValueError(f"there is no such task; there are {', '.join(sorted(DATASETS))}")
    options = json.loads(config)
    try:
        if name == "composite":
            options["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}} | part) for part in options["datasets"]]
        _seed(chunk)
        return create_dataset(name, **options, seed=chunk * CHUNK, size=CHUNK)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ValueError(f"it does not take the config {config}: {error}") from error


@lru_cache(1024)
def _entry(name: str, config: str, position: int) -> dict[str, Any]:
    chunk, index = divmod(position, CHUNK)
    problems = _dataset(name, config, chunk)
    _seed(position)
    return problems[index]


def _seed(seed: int) -> None:
    """Some tasks draw from the global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@lru_cache
def _evaluates(name: str) -> bool:
    """Whether the module of a task evaluates texts, perhaps those of answers. A composite may hold any task."""
    module = sys.modules[DATASETS[name][0].__module__]
    return name == "composite" or _EVALUATES.search(inspect.getsource(module)) is not None


def is_harmless(text: str) -> bool:
    """Whether evaluating `text` calls nothing but elementary functions of numbers.

    It is a literal; or no parenthesis in it stands behind anything that could be called, and there are no strings beside
    parentheses, which SymPy's functions would evaluate in turn.
    """
    try:
        ast.literal_eval(text)
        return True
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if "(" not in text:
        return True
    if any(sign in text for sign in "'\"\\`"):
        return False
    for match in _BEFORE_PARENTHESIS.finditer(text):
        before = text[: match.start()].rstrip()[-1:]
        callable_name = match[1] and match[1] not in _FUNCTIONS
        if callable_name or (not match[1] and before and before not in _MAY_STAND_BEFORE):
            return False
        if match[1] and before in (".", "_"):
            return False
    return True
