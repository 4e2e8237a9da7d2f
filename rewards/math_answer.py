"""Is the final answer mathematically equal to the reference answer?"""

from __future__ import annotations

import functools
import math
import numbers
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from .base import Reward
from .episode import Episode, Score
from .fast_match import fast_match
from .workers import Outcome, WorkerPool

MAX_PREDICTION = 10_000
"""Characters that an answer may have. A longer one is wrong; with `strict=False`, of a longer text the end is read."""

_REMEMBERED = 10_000  # verdicts that a process keeps: one prompt's group gives the same few answers many times over
_TASK = f"{Path(__file__).with_name('math_check.py')}:equivalent"
_MARKS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class MathAnswer(Reward):
    r"""1 if the answer equals the reference answer, 0 if not; part "correct".

    The answer is what stands in the last \boxed{} (or \fbox{}) of the completion, or else after the last "####" that
    starts a line. The reference is `Episode.answer`, from which an answer is taken in the same way if it has one
    (GSM8K's "… #### 18" is 18).

    Plain numbers are compared at once and exactly (`fast_match`), equal texts are equal, and everything else is decided
    by math-verify (https://github.com/huggingface/Math-Verify) in worker processes, from any thread. What it cannot
    parse is wrong; if it cannot parse the reference, the texts are compared, regardless of case and outer spaces.

    The reward abstains if the episode has no reference answer, and if the comparison takes too long, fails or crashes.
    Verdicts are remembered, timeouts and errors among them, so that an answer that hangs costs its limit once; crashes
    are not, as they may have come from outside.

    Instances hold nothing: those with the same `timeout` and `workers` share processes and verdicts, which end with the
    interpreter.

    Args:
        timeout: wall-clock seconds for one comparison.
        workers: worker processes; None for one per CPU core, at most 2.
        strict: an episode without an answer of the above forms scores 0. If False, math-verify searches its text for
            one, which a policy can exploit (https://github.com/PrimeIntellect-ai/verifiers/issues/1028): for evaluating
            models that were never told the form.

    Raises:
        ValueError: `timeout` is not positive and finite, or `workers` is less than 1.
    """

    timeout: float = 5.0
    workers: int | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds, not {self.timeout}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        verdicts = [self._judge_or_ask(episode) for episode in episodes]
        asked = dict.fromkeys(verdict for verdict in verdicts if isinstance(verdict, _Question))  # each once, in order
        answers = _verifier(self.timeout, self.workers).ask(asked) if asked else {}
        return [_as_score(answers[verdict] if isinstance(verdict, _Question) else verdict) for verdict in verdicts]

    def check(self, episode: Episode) -> None:
        """Nothing to find: it returns scores. Spares the start of processes for a sample."""

    def _judge_or_ask(self, episode: Episode) -> bool | str | _Question:
        """The verdict, or why there is none, or the question that the workers have to answer."""
        answer = episode.answer
        if not isinstance(answer, str | numbers.Number) or (isinstance(answer, float) and not math.isfinite(answer)):
            return f"the reference answer must be a text or a finite number, not {answer!r:.80}"
        gold = _as_text(answer)
        gold = extract_answer(gold) or gold.strip()
        if not gold:
            return "the reference answer is empty"
        prediction = extract_answer(episode.text)
        extract = prediction is None and not self.strict
        if extract:
            prediction = episode.text[-MAX_PREDICTION:].strip()
        if not prediction or len(prediction) > MAX_PREDICTION:
            return False
        if gold == prediction:
            return True
        known = fast_match(gold, prediction)
        return _Question(gold, prediction, extract) if known is None else known


def extract_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{…} or \fbox{…} whose braces close, or else on the last line that starts with
    "####"; None without either.

    Of boxes within boxes, the last to open counts. Escaped braces (\{) are text. Time is linear in the length of the
    text.
    """
    opened: list[int | None] = []  # for every open brace, where a box's content starts, or None
    start = end = -1
    for mark in _MARKS.finditer(text):
        token = mark.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            content = opened.pop() if opened else None
            if content is not None and content > start:
                start, end = content, mark.start()
        elif token.endswith("{") and token != r"\{":
            opened.append(mark.end())
    if start >= 0:
        return text[start:end].strip()
    for line in reversed(text.splitlines()):
        line = line.strip()
        if line.startswith("####") and not line.startswith("#####"):
            return line[4:].strip()
    return None


class _Question(NamedTuple):
    gold: str
    prediction: str
    extract: bool


class _Verifier:
    """The worker processes and the verdicts that all instances with the same settings share."""

    def __init__(self, timeout: float, workers: int | None) -> None:
        self._timeout = timeout
        self._pool = WorkerPool(_TASK, workers or min(2, os.cpu_count() or 1))
        # No lock, which a fork could leave held: single operations on an OrderedDict are atomic, and a lost verdict is
        # only asked for again.
        self._verdicts: OrderedDict[_Question, bool | str] = OrderedDict()

    def ask(self, questions: Iterable[_Question]) -> dict[_Question, bool | str]:
        """Whether the answers are equal, or why that cannot be told."""
        answers: dict[_Question, bool | str] = {}
        unknown: list[_Question] = []
        for question in questions:
            verdict = self._verdicts.pop(question, None)
            if verdict is None:
                unknown.append(question)
            else:
                answers[question] = self._verdicts[question] = verdict  # back in as the newest
        for question, result in zip(unknown, self._pool.map(unknown, self._timeout), strict=True):
            match result.outcome:
                case Outcome.DONE:
                    answers[question] = bool(result.value)
                case Outcome.TIMEOUT:
                    answers[question] = f"no verdict on {question.prediction[:80]!r} within {self._timeout:g} s"
                case _:
                    answers[question] = f"no verdict on {question.prediction[:80]!r}: {result.detail}"
            if result.outcome is not Outcome.CRASH:
                self._verdicts[question] = answers[question]
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        return answers


@functools.cache
def _verifier(timeout: float, workers: int | None) -> _Verifier:
    return _Verifier(timeout, workers)


def _as_text(answer: str | numbers.Number) -> str:
    """A reference answer as text: 14.0 as "14" (columns of whole numbers are often read as floats), 1e-07 in full."""
    if not isinstance(answer, float):
        return str(answer)
    return str(int(answer)) if answer.is_integer() else f"{Decimal(repr(float(answer))):f}"


def _as_score(verdict: bool | str) -> Score:
    if isinstance(verdict, str):
        return Score(None, error=verdict)
    return Score(float(verdict), {"correct": float(verdict)})
