"""Rewards made of rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .base import Reward, as_reward, suggestion
from .episode import Episode, Score, StepScore


class Composite(Reward):
    """A reward that is made of others, its *components*.

    What concerns them all (the columns, the step, the state, closing) is passed on to each. The `parts` of its scores
    are as `Sum` describes them.

    Args:
        components: the components by name.
    """

    def __init__(self, components: Mapping[str, Reward]) -> None:
        self._components = dict(components)

    @property
    def runs_beside(self) -> bool:
        return all(reward.runs_beside for reward in self._components.values())

    def check_columns(self, columns: Collection[str]) -> None:
        for reward in self._components.values():
            reward.check_columns(columns)

    def check(self, episode: Episode) -> None:
        for reward in self._components.values():
            reward.check(episode)

    def begin_step(self, step: int) -> None:
        for reward in self._components.values():
            reward.begin_step(step)

    def state(self) -> dict[str, Any]:
        states = {name: reward.state() for name, reward in self._components.items()}
        return {name: state for name, state in states.items() if state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in state:
            if name not in self._components:
                known = ", ".join(map(repr, self._components))
                raise ValueError(f"the state has an entry {name!r}, but the components are {known}")
        for name, reward in self._components.items():
            reward.load_state(state.get(name, {}))

    def close(self) -> None:
        for reward in self._components.values():
            reward.close()


class Sum(Composite):
    """The weighted sum of rewards: `Sum(correct=MathAnswer(), short=short, weights={"short": 0.1})`.

    Its `parts` hold every component's value, unweighted, under the component's name, and below it the component's own
    parts as "name/part" (but for a part called like the component, which says the same). A part "correct" is what
    accuracies are computed from: if exactly one component has one, it stands as "correct" in the sum too, whatever the
    component is called, unless a component has that very name.

    If a component abstains, so does the sum, with an error that names it. Process rewards are put together, with the
    weights of their components.

    Args:
        rewards: Rewards or functions (see `as_reward`), which go by their own names.
        weights: factor of each component, by name; 1 where none is given.
        named: Rewards or functions that go by the name of the keyword.

    Raises:
        ValueError: no reward is given, two have the same name, or a weight is no finite number or belongs to none.
    """

    def __init__(
        self,
        *rewards: Reward | Callable[..., Any],
        weights: Mapping[str, float] | None = None,
        **named: Reward | Callable[..., Any],
    ) -> None:
        super().__init__(_by_name("Sum", rewards, named))
        weights = weights or {}
        for name, weight in weights.items():
            if name not in self._components:
                known = ", ".join(map(repr, self._components))
                raise ValueError(
                    f"weight {name!r} belongs to no reward; there are {known}.{suggestion(name, self._components)}"
                )
            if not math.isfinite(weight):
                raise ValueError(f"weight {name!r} must be a finite number, not {weight}")
        self._weights = {name: float(weights.get(name, 1.0)) for name in self._components}

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        scores = [reward.score(episodes) for reward in self._components.values()]
        return [self._add(dict(zip(self._components, row, strict=True))) for row in zip(*scores, strict=True)]

    def _add(self, scores: dict[str, Score]) -> Score:
        parts, error = parts_of(scores), error_of(scores)
        if error:
            return Score(None, parts, error=error)
        terms = [self._weights[name] * score.value for name, score in scores.items() if score.value is not None]
        value = math.fsum(terms) if math.isfinite(sum(terms)) else math.inf  # of what overflows, fsum raises
        return _finite(value, parts, [step for name in scores for step in scaled(scores[name], self._weights[name])])


class Product(Composite):
    """The product of rewards: `Product(correct=MathAnswer(), style=style)` rewards style only where the answer is right.

    Parts and abstention are as in `Sum`: the product abstains with any component, even where another is 0. Process
    rewards of a component are multiplied by the values of the others.

    Args:
        rewards: Rewards or functions (see `as_reward`), which go by their own names.
        named: Rewards or functions that go by the name of the keyword.

    Raises:
        ValueError: no reward is given, or two have the same name.
    """

    def __init__(self, *rewards: Reward | Callable[..., Any], **named: Reward | Callable[..., Any]) -> None:
        super().__init__(_by_name("Product", rewards, named))

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        scores = [reward.score(episodes) for reward in self._components.values()]
        return [self._multiply(dict(zip(self._components, row, strict=True))) for row in zip(*scores, strict=True)]

    def _multiply(self, scores: dict[str, Score]) -> Score:
        parts, error = parts_of(scores), error_of(scores)
        if error:
            return Score(None, parts, error=error)
        values = {name: score.value for name, score in scores.items() if score.value is not None}
        steps = [
            step
            for name, score in scores.items()
            if score.steps
            for step in scaled(score, math.prod(value for other, value in values.items() if other != name))
        ]
        return _finite(math.prod(values.values()), parts, steps)


class Gate(Composite):
    """`then` where `first` is passed, and a fixed value where it is not: `Gate(Format("think", "answer"), MathAnswer(),
    closed=-1.0)` is -1 for a wrong form, and otherwise 1 or 0 for the answer.

    `then` is only asked about the episodes that passed, so that a verifier, a sandbox or a model is spared the rest: a
    reward that compares the episodes of a group sees the group without those. Parts are as in `Sum`, under the names
    "first" and "then". Where `then` judges what is correct, an episode that did not pass counts as not correct: its part
    "correct" is 0 (from the first call on in which `then` judged any). The gate abstains with `first`, and with `then`
    where that is asked.

    Args:
        first: a Reward or function, passed by a value of at least `threshold`.
        then: a Reward or function.
        threshold: what `first` has to reach.
        closed: the value of an episode that does not pass.

    Raises:
        ValueError: `threshold` or `closed` is no finite number.
    """

    def __init__(
        self,
        first: Reward | Callable[..., Any],
        then: Reward | Callable[..., Any],
        *,
        threshold: float = 0.5,
        closed: float = 0.0,
    ) -> None:
        _require_finite(threshold=threshold, closed=closed)
        super().__init__({"first": as_reward(first), "then": as_reward(then)})
        self._threshold = threshold
        self._closed = float(closed)
        self._judges = False  # whether `then` is known to judge what is correct

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        firsts = self._components["first"].score(episodes)
        passed = [score.value is not None and score.value >= self._threshold for score in firsts]
        asked = [episode for episode, ok in zip(episodes, passed, strict=True) if ok]
        thens = self._components["then"].score(asked) if asked else []
        self._judges = self._judges or any("correct" in then.parts for then in thens)
        seconds = iter(thens)
        return [self._open(first, next(seconds)) if ok else self._shut(first) for first, ok in zip(firsts, passed)]

    def _open(self, first: Score, then: Score) -> Score:
        scores = {"first": first, "then": then}
        if error := error_of(scores):
            return Score(None, parts_of(scores), error=error)
        return Score(then.value, parts_of(scores), then.steps)

    def _shut(self, first: Score) -> Score:
        scores = {"first": first}
        if error := error_of(scores):
            return Score(None, parts_of(scores), error=error)
        parts = parts_of(scores)
        return Score(self._closed, {"correct": 0.0} | parts if self._judges and "correct" not in first.parts else parts)


def parts_of(scores: Mapping[str, Score]) -> dict[str, float]:
    """The parts of a composite, from the scores of its components by name: as `Sum` describes them."""
    judges = [name for name, score in scores.items() if "correct" in score.parts]
    judge = judges[0] if len(judges) == 1 and "correct" not in scores else None
    parts: dict[str, float] = {}
    for name, score in scores.items():
        if score.value is not None:
            parts[name] = score.value
        for part, value in score.parts.items():
            if name == judge and part == "correct":
                parts["correct"] = value
            elif part != name:
                parts[f"{name}/{part}"] = value
    return parts


def error_of(scores: Mapping[str, Score]) -> str:
    """Why a composite abstains: which component did, and its error; empty if none did."""
    return "; ".join(f"{name}: {score.error}" for name, score in scores.items() if score.value is None)


def scaled(score: Score, weight: float) -> list[StepScore]:
    """The process rewards of `score`, times `weight`."""
    return [replace(step, value=weight * step.value) for step in score.steps]


def _finite(value: float, parts: Mapping[str, float], steps: Sequence[StepScore]) -> Score:
    """The score of a composite, which abstains if its value is too large to be a number."""
    if not math.isfinite(value):
        return Score(None, parts, error=f"the value is too large: {dict(parts)}")
    return Score(value, parts, steps)


def _by_name(
    composite: str, rewards: Sequence[Reward | Callable[..., Any]], named: Mapping[str, Reward | Callable[..., Any]]
) -> dict[str, Reward]:
    components: dict[str, Reward] = {}
    unnamed = [as_reward(reward) for reward in rewards]
    for name, reward in [*((r.name, r) for r in unnamed), *((n, as_reward(r)) for n, r in named.items())]:
        if name in components:
            raise ValueError(f"two rewards are called {name!r}: name them, {composite}(first=…, second=…)")
        components[name] = reward
    if not components:
        raise ValueError(f"{composite} needs at least one reward")
    return components


def _require_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, not {number}")
