"""Rewards made of rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .base import Reward, as_reward, suggestion
from .episode import Episode, Score


class Sum(Reward):
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
        self._components: dict[str, Reward] = {}
        unnamed = [as_reward(reward) for reward in rewards]
        for name, reward in [*((r.name, r) for r in unnamed), *((n, as_reward(r)) for n, r in named.items())]:
            if name in self._components:
                raise ValueError(f"two rewards are called {name!r}: name them, Sum(first=…, second=…)")
            self._components[name] = reward
        if not self._components:
            raise ValueError("Sum needs at least one reward")
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
        parts = self._parts(scores)
        errors = [f"{name}: {score.error}" for name, score in scores.items() if score.value is None]
        if errors:
            return Score(None, parts, error="; ".join(errors))
        value = math.fsum(
            self._weights[name] * score.value for name, score in scores.items() if score.value is not None
        )
        steps = [
            replace(step, value=self._weights[name] * step.value)
            for name, score in scores.items()
            for step in score.steps
        ]
        return Score(value, parts, steps)

    def _parts(self, scores: dict[str, Score]) -> dict[str, float]:
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

    def check_columns(self, columns: Collection[str]) -> None:
        for reward in self._components.values():
            reward.check_columns(columns)

    def check(self, episode: Episode) -> None:
        for reward in self._components.values():
            reward.check(episode)

    def close(self) -> None:
        for reward in self._components.values():
            reward.close()
