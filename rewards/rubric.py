"""A rubric: propositions on an answer, each true or false, and a weighting of them that is fitted from ranked examples."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy

from .base import Reward, RewardWarning, as_reward, suggestion
from .compose import Composite
from .episode import Episode, Score

Grader = Callable[[Sequence[Episode], Sequence[str]], Sequence[Sequence[float | bool | None]]]
"""What judges propositions in words: for every episode a list with, for every proposition, whether it is true (a bool,
or the probability that it is), or None where that cannot be told. It may take the episodes in any batches it likes."""

Tiers = Sequence[Sequence[Episode]]
"""Answers to one prompt, from the best to the worst, in tiers: the answers of a tier are equally good."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What fitting a rubric came to.

    Attributes:
        pairs: pairs of a better and a worse answer that it was fitted to.
        accuracy: share of them in which the better answer gets more. A tie is no success.
        loss: mean loss of a pair, without the penalty on the weights.
        skipped: answers left out because a proposition could not be judged.
    """

    pairs: int
    accuracy: float
    loss: float
    skipped: int


class Rubric(Composite):
    """The weighted sum of propositions on an answer, in the manner of rule-based rewards (arXiv 2411.01111).

        rubric = Rubric({"apologizes": "The assistant apologizes.", "brief": brief}, grader=grader)
        rubric.fit(rankings)

    A proposition is a function (see `as_reward`) that returns a bool, or a probability; or a sentence, which the grader
    judges. The value is Σ wᵢ·φᵢ with φᵢ in [0, 1] how true proposition i is; the parts are the φᵢ. It abstains if one
    proposition cannot be judged, with an error that names it.

    The weights are 1 until they are given or fitted. A grader that raises makes its batch abstain, and is warned of
    once.

    Args:
        propositions: by name.
        grader: what judges the propositions in words; a plain function, `Grader`.
        weights: by name.

    Raises:
        ValueError: there is no proposition, one in words without a grader, or a weight that belongs to none or is not
            finite.
        TypeError: a proposition is neither text nor function.
    """

    def __init__(
        self,
        propositions: Mapping[str, str | Reward | Callable[..., Any]],
        grader: Grader | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not propositions:
            raise ValueError("a rubric needs at least one proposition")
        super().__init__({name: as_reward(p) for name, p in propositions.items() if not isinstance(p, str)})
        self._sentences = {name: p for name, p in propositions.items() if isinstance(p, str)}
        if self._sentences and grader is None:
            raise ValueError(f"proposition {min(self._sentences)!r} is in words, which needs a grader=… to judge it")
        self._grader = grader
        self._names = tuple(propositions)
        self._warned = False
        self.weights = dict.fromkeys(self._names, 1.0) | self._checked(weights or {})

    def _checked(self, weights: Mapping[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if name not in self._names:
                known = ", ".join(map(repr, self._names))
                raise ValueError(
                    f"weight {name!r} belongs to no proposition; there are {known}.{suggestion(name, self._names)}"
                )
            if not math.isfinite(weight):
                raise ValueError(f"weight {name!r} must be a finite number, not {weight}")
        return {name: float(weight) for name, weight in weights.items()}

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        if not episodes:
            return []
        weights = self.weights  # once: fit replaces them whole
        return [_weigh(weights, truths, errors) for truths, errors in self._judge(episodes)]

    def _judge(self, episodes: Sequence[Episode]) -> list[tuple[dict[str, float], dict[str, str]]]:
        """For every episode, how true each proposition is, and why what could not be judged could not."""
        judged: list[tuple[dict[str, float], dict[str, str]]] = [({}, {}) for _ in episodes]
        verdicts = {name: [_rule(s) for s in rule.score(episodes)] for name, rule in self._components.items()}
        verdicts |= self._grade(episodes)
        for name in self._names:  # parts in the order of the propositions
            for (truths, errors), verdict in zip(judged, verdicts[name], strict=True):
                if isinstance(verdict, str):
                    errors[name] = verdict
                else:
                    truths[name] = verdict
        return judged

    def _grade(self, episodes: Sequence[Episode]) -> dict[str, list[float | str]]:
        """What the grader says of the propositions in words: how true, or why it cannot tell."""
        if self._grader is None or not self._sentences:
            return {}
        try:
            table = self._grader(episodes, list(self._sentences.values()))
        except Exception as e:
            what = f"the grader raised {type(e).__name__}: {e}"
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{what}. The episodes of the batch are left out of training", RewardWarning, stacklevel=4
                )
            return {name: [what] * len(episodes) for name in self._sentences}
        rows = [list(row) for row in table]
        if len(rows) != len(episodes) or any(len(row) != len(self._sentences) for row in rows):
            raise TypeError(
                f"a grader returns {len(self._sentences)} verdicts for each of {len(episodes)} episodes, "
                f"but this one returned {[len(row) for row in rows]!r:.80}"
            )
        return {name: [_truth(row[i]) for row in rows] for i, name in enumerate(self._sentences)}

    def fit(
        self,
        rankings: Sequence[Tiers],
        *,
        loss: Literal["hinge", "logistic"] = "hinge",
        l2: float = 1e-3,
        base: Reward | Callable[..., Any] | None = None,
    ) -> Fit:
        """Find the weights with which better answers get more than worse ones, and take them over.

        With m = R(better) − R(worse) for every pair of answers of different tiers of a ranking, and R = base + w·φ:
        minimise mean(ℓ(m)) + l2/2·|w|², ℓ(m) = max(0, 1 − m) (hinge, as in arXiv 2411.01111, §4.3) or
        log(1 + exp(−m)) (logistic: Bradley–Terry). Both are convex: the result depends on no start and no seed.

        Args:
            rankings: ranked answers, one ranking a prompt.
            loss: ℓ.
            l2: what keeps the weights small; positive. The weight of a proposition that decides no pair becomes 0.
            base: the reward that the rubric is added to in training, if any: the weights then correct its ranking.

        Raises:
            ValueError: there is no pair to learn from, `l2` is not positive or `loss` is unknown.
        """
        if loss not in ("hinge", "logistic"):
            raise ValueError(f'loss is "hinge" or "logistic", not {loss!r}')
        if not (math.isfinite(l2) and l2 > 0):
            raise ValueError(f"l2 is positive, not {l2}")
        differences, offsets, skipped = self._pairs(rankings, base)
        if not len(differences):
            raise ValueError(
                "there is no pair to learn from: a ranking needs answers in at least two tiers, [[best, …], …, [worst]]"
                + (f" ({skipped} answers could not be judged)" if skipped else "")
            )
        solve = _fit_hinge if loss == "hinge" else _fit_logistic
        weights = solve(differences, offsets, l2)
        self.weights = dict(zip(self._names, weights.tolist()))
        margins = offsets + differences @ weights
        losses = np.maximum(0.0, 1.0 - margins) if loss == "hinge" else np.logaddexp(0.0, -margins)
        return Fit(len(margins), float((margins > 0).mean()), float(losses.mean()), skipped)

    def pair_accuracy(self, rankings: Sequence[Tiers], base: Reward | Callable[..., Any] | None = None) -> float:
        """The share of pairs of answers of different tiers in which the better one gets more; for held-out rankings.

        Raises:
            ValueError: there is no pair.
        """
        differences, offsets, _ = self._pairs(rankings, base)
        if not len(differences):
            raise ValueError("there is no pair: a ranking needs answers in at least two tiers")
        weights = np.array([self.weights[name] for name in self._names])
        return float((offsets + differences @ weights > 0).mean())

    def _pairs(
        self, rankings: Sequence[Tiers], base: Reward | Callable[..., Any] | None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Differences of the propositions [pairs, propositions] and of the base reward [pairs], better minus worse; and
        how many answers were left out."""
        places = [
            (number, tier, episode)
            for number, ranking in enumerate(rankings)
            for tier, episodes in enumerate(ranking)
            for episode in episodes
        ]
        episodes = [episode for _, _, episode in places]
        judged = self._judge(episodes) if episodes else []
        bases = [0.0] * len(episodes) if base is None else [s.value for s in as_reward(base).score(episodes)]
        tiers: dict[int, list[tuple[int, list[float], float]]] = {}
        skipped = 0
        for (number, tier, _), (truths, errors), value in zip(places, judged, bases, strict=True):
            if errors or value is None:
                skipped += 1
            else:
                tiers.setdefault(number, []).append((tier, [truths[name] for name in self._names], value))
        pairs = [
            (np.subtract(better, worse), b - w)
            for answers in tiers.values()
            for i, better, b in answers
            for j, worse, w in answers
            if i < j
        ]
        differences = np.array([difference for difference, _ in pairs]).reshape(len(pairs), len(self._names))
        return differences, np.array([offset for _, offset in pairs]), skipped

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rubric as JSON: the weights, and the propositions in words. Functions are not in it, only their
        names."""
        data = {
            "propositions": {name: self._sentences.get(name) for name in self._names},
            "weights": self.weights,
        }
        Path(path).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        grader: Grader | None = None,
        rules: Mapping[str, Reward | Callable[..., Any]] | None = None,
    ) -> Rubric:
        """Read a rubric from JSON.

        Args:
            path: what `save` wrote.
            grader: what judges the propositions in words.
            rules: the functions, by the names of their propositions.

        Raises:
            ValueError: the file is no rubric, a function is missing, or one is given that the rubric does not have.
        """
        rules = rules or {}
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            sentences, weights = dict(data["propositions"]), dict(data["weights"])
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{path} is no rubric that Rubric.save wrote: {e!r}") from None
        functions = {name for name, sentence in sentences.items() if sentence is None}
        if functions != set(rules):
            raise ValueError(
                f"the rubric in {path} has the functions {sorted(functions)}, which rules=… has to give, not {sorted(rules)}"
            )
        return cls({name: rules[name] if name in rules else sentences[name] for name in sentences}, grader, weights)


def _weigh(weights: Mapping[str, float], truths: Mapping[str, float], errors: Mapping[str, str]) -> Score:
    if errors:
        return Score(None, truths, error="; ".join(f"{name}: {error}" for name, error in errors.items()))
    return Score(math.fsum(weights[name] * truth for name, truth in truths.items()), truths)


def _rule(score: Score) -> float | str:
    return score.error or "abstained" if score.value is None else _truth(score.value)


def _truth(verdict: float | bool | None) -> float | str:
    """How true a proposition is, from 0 to 1, or why that is not known."""
    if verdict is None:
        return "the grader could not tell"
    truth = float(verdict)
    return truth if 0.0 <= truth <= 1.0 else f"a proposition is true, false or a probability, not {truth:g}"


def _fit_logistic(differences: np.ndarray, offsets: np.ndarray, l2: float) -> np.ndarray:
    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = offsets + differences @ w
        slopes = -0.5 * (1.0 - np.tanh(margins / 2))  # −σ(−m)
        loss = np.logaddexp(0.0, -margins).mean() + 0.5 * l2 * (w @ w)
        return float(loss), differences.T @ slopes / len(margins) + l2 * w

    start = np.zeros(differences.shape[1])
    return scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 10_000, "ftol": 1e-15}
    ).x


def _fit_hinge(differences: np.ndarray, offsets: np.ndarray, l2: float) -> np.ndarray:
    """By the dual, which is smooth: maximise Σ aᵢ(1 − offsetᵢ) − |Σ aᵢxᵢ|²/(2·l2) over 0 ≤ aᵢ ≤ 1/n; w = Σ aᵢxᵢ/l2."""
    n = len(offsets)

    # In units of c = a·n, and the objective in units of l2·n, so that both are of order 1 whatever n and l2 are.
    def objective(c: np.ndarray) -> tuple[float, np.ndarray]:
        w = differences.T @ c / n / l2
        gap = 1.0 - offsets
        return float(0.5 * l2 * (w @ w) - gap @ c / n), (differences @ w - gap) / n

    options = {"maxiter": 50_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
    dual = scipy.optimize.minimize(
        objective, np.zeros(n), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * n, options=options
    )
    return differences.T @ dual.x / n / l2
