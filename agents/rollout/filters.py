"""Which of a step's groups are learned from: `DynamicSampling`, `Reject`, and what they have in common."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .trajectory import Group


@dataclass(frozen=True)
class GroupFilter(ABC):
    """Groups in, kept groups out.

    Any agent that learns from its own samples takes some, as objects or spelled as on the command line:
    `GRPO(filter_groups=DynamicSampling(max_rounds=3))`, `--filter-groups "dynamic_sampling(max_rounds=3)"`. Several are
    applied one after the other; the log counts what each dropped.

    One of your own is a frozen dataclass like those here, and has a name once it is in `FILTERS`:
    `FILTERS["easy"] = Easy`.
    """

    max_rounds: int = 1
    """How often a step samples at most, until it has prompts_per_step groups that are kept."""

    def __post_init__(self) -> None:
        if not isinstance(self.max_rounds, int) or self.max_rounds < 1:
            raise ValueError(f"max_rounds is a whole number from 1 on, not {self.max_rounds!r}")

    @abstractmethod
    def keeps(self, group: Group) -> bool:
        """Whether a group is learned from."""

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        return [group for group in groups if self.keeps(group)]


@dataclass(frozen=True)
class DynamicSampling(GroupFilter):
    """Leaves out groups whose completions are all alike, which teach nothing and would only dilute the means, and has others
    sampled in their place (DAPO, arXiv 2503.14476, §3.2)."""

    metric: Literal["reward", "accuracy"] = "reward"
    """What has to differ: the return, or whether the task was solved."""
    max_rounds: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in ("reward", "accuracy"):
            raise ValueError(f'metric is "reward" or "accuracy", not {self.metric!r}')

    def keeps(self, group: Group) -> bool:
        found = {t.reward if self.metric == "reward" else t.solved for t in group}
        return len(found - {None}) > 1


@dataclass(frozen=True)
class Reject(GroupFilter):
    """Leaves out groups that are too hard or too easy: keeps those in which the share of the completions that solve their
    task is between `low` and `high`, both excluded. By default those are neither all right nor all wrong (Reinforce-Rej, arXiv
    2504.11343, §4). The step makes do with the others."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = all(isinstance(share, int | float) for share in (self.low, self.high))
        if not numbers or not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low and high are shares with 0 <= low < high <= 1, not {self.low!r} and {self.high!r}")

    def keeps(self, group: Group) -> bool:
        known = [t.solved for t in group if t.solved is not None]
        return bool(known) and self.low < sum(known) / len(known) < self.high


#: Every filter by the name that options know it by.
FILTERS: dict[str, type[GroupFilter]] = {"dynamic_sampling": DynamicSampling, "reject": Reject}


def apply_filters(filters: Iterable[str], groups: Sequence[Group]) -> tuple[list[Group], dict[str, int]]:
    """What `filters`, spelled, leave of `groups`, and how many groups each of them dropped."""
    kept = list(groups)
    dropped: dict[str, int] = {}
    for text in filters:
        before = len(kept)
        kept = read_filter(text)(kept)
        name = text.partition("(")[0]
        dropped[name] = dropped.get(name, 0) + before - len(kept)
    return kept, dropped


def in_rounds(
    filters: Sequence[str],
    wanted: int,
    sample: Callable[[int, int], Sequence[Group]],
    amended: Callable[[Sequence[Group]], Sequence[Group]] = lambda groups: groups,
) -> list[Group]:
    """All groups that `sample(how many, round)` gave: those that `filters`, spelled, leave out are replaced by further ones,
    until `wanted` are kept, in as many rounds as the filters have. `amended` is how groups are learned from."""
    groups: list[Group] = []
    missing = wanted
    for round_ in range(max((read_filter(f).max_rounds for f in filters), default=1)):
        groups += sample(missing, round_)
        missing = wanted - len(apply_filters(filters, amended(groups))[0])
        if missing <= 0:
            break
    return groups


def spelled(filters: str | GroupFilter | Iterable[str | GroupFilter]) -> tuple[str, ...]:
    """Filters in the form that configurations hold and files keep: "reject(low=0.1)". "none" is no filter.

    Raises:
        ValueError, TypeError: one is unknown, or has a parameter that it does not take.
    """
    each = list(filters) if isinstance(filters, Iterable) and not isinstance(filters, str) else [filters]
    return tuple(_spelled(read_filter(f) if isinstance(f, str) else f) for f in each if f != "none")


def read_filter(text: str) -> GroupFilter:
    """The filter that is spelled `text`: a name, or a name with parameters in the form of a call.

    Raises:
        ValueError, TypeError: as `spelled`.
    """
    form = re.fullmatch(r"(\w+)(\(.*\))?", text.strip())
    if form is None or form[1] not in FILTERS:
        near = difflib.get_close_matches(text, FILTERS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown filter {text!r}{hint}; there are {', '.join(FILTERS)}, and none")
    kind = FILTERS[form[1]]
    known = [field.name for field in dataclasses.fields(kind)]
    try:
        given = {k.arg: ast.literal_eval(k.value) for k in _keywords(text)}
    except (SyntaxError, ValueError):
        raise ValueError(f'a filter is spelled "{form[1]}" or "{form[1]}({known[0]}=VALUE)", not {text!r}') from None
    if odd := [name for name in given if name not in known]:
        raise ValueError(f"the filter {form[1]} has no parameter {odd[0]!r}; it has {', '.join(known)}")
    return kind(**given)


def _keywords(text: str) -> list[Any]:
    call = ast.parse(text.strip(), mode="eval").body
    if isinstance(call, ast.Call) and call.args:
        raise ValueError("parameters have names")
    return call.keywords if isinstance(call, ast.Call) else []


def _spelled(chosen: GroupFilter) -> str:
    names = [name for name, kind in FILTERS.items() if kind is type(chosen)]
    if not names:
        raise TypeError(
            f"a filter is one of {', '.join(FILTERS)} or an object of a class in FILTERS, not {chosen!r:.80}; "
            f'FILTERS["name"] = {type(chosen).__name__} makes it known'
        )
    fields = dataclasses.fields(chosen)
    set_ = [f"{f.name}={getattr(chosen, f.name)!r}" for f in fields if getattr(chosen, f.name) != f.default]
    return names[0] + (f"({', '.join(set_)})" if set_ else "")
