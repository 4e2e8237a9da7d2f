"""Is the final answer mathematically equal to the reference answer?"""

from __future__ import annotations

import functools
import hashlib
import math
import numbers
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from .base import Reward
from .episode import Episode, Score
from .extraction import find_answer
from .fast_match import fast_match, is_literal
from .mathematics.notation import clean
from .workers import Outcome, Result, WorkerPool

MAX_PREDICTION = 10_000
"""Characters that an answer may have. A longer one is wrong; with `strict=False`, of a longer text the end is read."""

Percent = Literal["drop", "fraction"]
Units = Literal["compare", "ignore", "require"]

_REMEMBERED = 10_000  # verdicts that a process keeps: one prompt's group gives the same few answers many times over
_TASK = f"{Path(__file__).parent / 'mathematics' / '__init__.py'}:check.equivalent"
_SIMPLE = "0"  # what a reference answer is compared with to see whether it is to blame


@dataclass(frozen=True)
class MathAnswer(Reward):
    r"""1 if the answer equals the reference answer, 0 if not; part "correct".

    The answer is the last one that the completion gives (`extraction.find_answer`): in `\boxed{}`, after "####", in
    `<answer>` tags, or after "the answer is". The reference is `Episode.answer`, from which an answer is taken in the
    same way if it has one (GSM8K's "… #### 18" is 18).

    Plain numbers are compared at once (`fast_match`), equal texts are equal, and everything else is decided by
    `mathematics.check` in worker processes, from any thread and in forked or spawned processes.

    What is equal: Exact values that differ are never equal, however close. Decimals are compared as far as they are
    written (`mathematics.tolerance`): 0.333333 is 1/3 and 3.14159 is 3.14, but 0.54 is not 0.5. Several answers have to
    be given whole; their order matters in tuples, not in comma lists. Open and closed intervals differ, an inequality
    is the interval that solves it. x = 5 is 5, and y = 5 is not x = 5; equations are equal up to a factor, but 2x = 10,
    which is still to be solved, is not x = 5. A numeral with a base has the value it has: 1010_2 is 10. Of a choice, the
    letter counts: "(B) 12" is B. Texts are compared regardless of case and outer spaces. An answer that cannot be read
    as mathematics is a text.

    An answer that takes longer than `timeout`, or makes the comparison fail, while the reference alone does not, is
    wrong, and counted in the part "timeout" or "failed": if the reward abstained, leaving no penalty, a policy could
    learn to give such answers where it knows no other. The reward abstains if the episode has no reference answer, or if the
    reference itself cannot be judged in time. Verdicts are remembered.

    Instances hold nothing: those with the same `timeout` and `workers` share processes and verdicts, which end with the
    interpreter.

    Args:
        timeout: wall-clock seconds for one comparison.
        workers: worker processes; None for one per CPU core, at most 2.
        strict: an episode without an answer of the above forms scores 0. If False, a text that is nothing but an answer
            counts, and else the last formula or number in it, which a policy can exploit
            (https://github.com/PrimeIntellect-ai/verifiers/issues/1028): for evaluating models that were never told
            the form.
        percent: "drop": the sign is dropped on both sides, 50% is 50 and not 0.5. "fraction": it means hundredths, 50%
            is 0.5 and not 50.
        units: "compare": where both sides have one, they have to measure the same (10 cm is 0.1 m, not 10 m); where one
            side has none, the other's is dropped. "ignore": always dropped. "require": as "compare", but an answer
            needs one if the reference has one.
        precision: digits of the relative tolerance for decimals: 6 for 1e-6.
        ordered: whether the order in comma lists matters, too.
        relations_as_sets: whether inequalities (-2 ≤ x ≤ 7) answer a reference that is given as membership
            (x ∈ [-2, 7]). A reference that is a bare set they always do.
        computed: whether an answer has to be a plain number where the reference is one, with "x =" before it if you like:
            neither 7*8 nor 56 km for 56. Where the question is an expression, a policy could else repeat it for an answer.

    Raises:
        ValueError: an option has a value that it cannot have.
    """

    timeout: float = 5.0
    workers: int | None = None
    strict: bool = True
    percent: Percent = "drop"
    units: Units = "compare"
    precision: int = 6
    ordered: bool = False
    relations_as_sets: bool = True
    computed: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds, not {self.timeout}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        for name, value, choices in (("percent", self.percent, Percent), ("units", self.units, Units)):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, not {value!r}")
        if not isinstance(self.precision, int) or not 1 <= self.precision <= 15:
            raise ValueError(f"precision is a number of digits from 1 to 15 (6 for 1e-6), not {self.precision!r}")

    @property
    def runs_beside(self) -> bool:
        return True

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        return self._scores([self._judge_or_ask(episode.answer, episode.text) for episode in episodes])

    def compare(self, *, gold: Sequence[Any], prediction: Sequence[str]) -> list[Score]:
        """Scores of answers that are already taken out of their texts, one for each pair.

        Args:
            gold: reference answers, as an `Episode.answer` may be.
            prediction: the answers to judge: what would stand in a box.

        Raises:
            ValueError: there are not as many of one as of the other.
        """
        if len(gold) != len(prediction):
            raise ValueError(f"{len(gold)} reference answers for {len(prediction)} predictions: give one for each")
        return self._scores([self._judge_or_ask(g, None, p) for g, p in zip(gold, prediction)])

    def check(self, episode: Episode) -> None:
        """Nothing to find: it returns scores. Spares the start of processes for a sample."""

    def _scores(self, verdicts: Sequence[Verdict | _Question]) -> list[Score]:
        # Each once, in order.
        asked = dict.fromkeys([verdict for verdict in verdicts if isinstance(verdict, _Question)])
        answers = _verifier(self.timeout, self.workers).ask(asked) if asked else {}
        return [_as_score(answers[verdict] if isinstance(verdict, _Question) else verdict) for verdict in verdicts]

    def _judge_or_ask(self, answer: Any, text: str | None, prediction: str | None = None) -> Verdict | _Question:
        """The verdict, or the question that the workers have to answer."""
        if not isinstance(answer, str | numbers.Number) or (isinstance(answer, float) and not math.isfinite(answer)):
            return Verdict(None, f"the reference answer must be a text or a finite number, not {answer!r:.80}")
        gold = _gold(_as_text(answer))
        if not gold:
            return Verdict(None, "the reference answer is empty")
        if text is not None:
            prediction = find_answer(text)
            if prediction is None and not self.strict:
                prediction = find_answer(text[-MAX_PREDICTION:], strict=False)
        if not prediction:
            return Verdict(False)
        if gold == prediction:
            return Verdict(True)
        if len(prediction) > MAX_PREDICTION:
            return Verdict(False)
        known = fast_match(gold, prediction, self.precision)
        if known is not None:
            return Verdict(known)
        if self.computed and is_literal(gold) and not is_literal(clean(prediction).rpartition("=")[2].lstrip("+ ")):
            return Verdict(False)
        return _Question(
            gold, prediction, self.percent, self.units, self.precision, self.ordered, self.relations_as_sets
        )


class Verdict(NamedTuple):
    """Whether an answer is right (None: it cannot be told), why it cannot be told, and how it failed."""

    correct: bool | None
    error: str = ""
    failure: str = ""


class _Question(NamedTuple):
    gold: str
    prediction: str
    percent: Percent
    units: Units
    precision: int
    ordered: bool
    relations_as_sets: bool

    def job(self) -> tuple[str, str, Mapping[str, Any]]:
        policy = self._asdict()
        return policy.pop("gold"), policy.pop("prediction"), policy

    def key(self) -> bytes:
        """Stands for the question where verdicts are kept: answers may be long."""
        return hashlib.blake2b(repr(self).encode(errors="replace"), digest_size=16).digest()


class _Verifier:
    """The worker processes and the verdicts that all instances with the same settings share."""

    def __init__(self, timeout: float, workers: int | None) -> None:
        self._timeout = timeout
        self._pool = WorkerPool(_TASK, workers or min(2, os.cpu_count() or 1))
        # No lock, which a fork could leave held: single operations on an OrderedDict are atomic, and a lost verdict is
        # only asked for again.
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def ask(self, questions: Iterable[_Question]) -> dict[_Question, Verdict]:
        """A verdict on each."""
        answers: dict[_Question, Verdict] = {}
        unknown: list[_Question] = []
        for question in questions:
            key = question.key()
            verdict = self._verdicts.pop(key, None)
            if verdict is None:
                unknown.append(question)
            else:
                answers[question] = self._verdicts[key] = verdict  # back in as the newest
        if unknown:
            for question, verdict in zip(unknown, self._judge(unknown), strict=True):
                answers[question] = verdict
                if verdict.correct is not None or "the reference" in verdict.error:
                    self._verdicts[question.key()] = verdict
                if len(self._verdicts) > _REMEMBERED:
                    self._verdicts.popitem(last=False)
        return answers

    def _judge(self, questions: Sequence[_Question]) -> list[Verdict]:
        results = self._run(questions)
        failed = [q for q, result in zip(questions, results) if result.outcome is not Outcome.DONE]
        golds = list(dict.fromkeys(question._replace(prediction=_SIMPLE) for question in failed))
        sound = {q.gold for q, result in zip(golds, self._run(golds)) if result.outcome is Outcome.DONE}
        return [self._verdict(q, result, q.gold in sound) for q, result in zip(questions, results)]

    def _run(self, questions: Sequence[_Question]) -> list[Result]:
        """Results of the comparisons. What died with its worker is tried again: the cause may have been another."""
        if not questions:
            return []
        results = self._pool.map([question.job() for question in questions], self._timeout)
        crashed = [i for i, result in enumerate(results) if result.outcome is Outcome.CRASH]
        if crashed:
            for i, result in zip(crashed, self._pool.map([questions[i].job() for i in crashed], self._timeout)):
                results[i] = result
        return results

    def _verdict(self, question: _Question, result: Result, gold_is_sound: bool) -> Verdict:
        if result.outcome is Outcome.DONE:
            return Verdict(bool(result.value))
        timed_out = result.outcome is Outcome.TIMEOUT
        if gold_is_sound:
            return Verdict(False, failure="timeout" if timed_out else "failed")
        why = f"within {self._timeout:g} s" if timed_out else f"({result.detail})"
        return Verdict(None, f"no verdict on the reference answer {question.gold[:80]!r} {why}")


@functools.cache
def _verifier(timeout: float, workers: int | None) -> _Verifier:
    return _Verifier(timeout, workers)


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> str:
    """The reference answer, taken out of a text that has one."""
    return (find_answer(answer) if len(answer) > 5 else None) or answer.strip()


def _as_text(answer: str | numbers.Number) -> str:
    """A reference answer as text: 14.0 as "14" (columns of whole numbers are often read as floats), 1e-07 in full."""
    if not isinstance(answer, float):
        return str(answer)
    return str(int(answer)) if answer.is_integer() else f"{Decimal(repr(float(answer))):f}"


def _as_score(verdict: Verdict) -> Score:
    if verdict.correct is None:
        return Score(None, error=verdict.error)
    parts = {"correct": float(verdict.correct)}
    if verdict.failure:
        parts[verdict.failure] = 1.0
    return Score(float(verdict.correct), parts)
