"""What is compared, on what terms, and the runs that follow from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.agents import AGENTS, BaseAgent, Policy
from tokengym.envs import ENVIRONMENTS, as_text_env

from .settings import Settings, check_option, near

#: Options of agents that the comparison sets itself, and what sets them.
OWN = {"seed": "seeds", "steps": "budget", "token_budget": "budget"}
#: Options that decide where learning starts and how held-out problems are asked: the same for all agents.
ALIKE = ("max_tokens", "max_new_tokens", "lora_rank", "lora_alpha", "dtype")
#: What a file's name ends in until it is whole.
WRITING = ".writing"


@dataclass(frozen=True)
class Run:
    """One agent with one seed: all that its process has to know."""

    agent: str
    agent_class: type[BaseAgent]
    seed: int
    model: str
    env: str
    env_options: Mapping[str, Any]
    options: Mapping[str, Any]
    budget: int
    points: Sequence[int]
    problems: int
    samples: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.agent}-{self.seed}"

    @property
    def result(self) -> Path:
        """Where its result is written, at its end."""
        return self.folder / "result.json"

    @property
    def evaluations(self) -> Path:
        """Where its evaluations are written, after each."""
        return self.folder / "evaluations.json"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        agents: by name, the classes.
        model: what all of them start from.
        env: an environment's id.
        settings: the terms and the options, with a budget.

    Raises:
        ValueError, TypeError, OSError: for what cannot work, before any work is done.
    """

    agents: Mapping[str, type[BaseAgent]]
    model: str
    env: str
    settings: Settings

    def __post_init__(self) -> None:
        s = self.settings
        if not self.agents:
            raise ValueError("name the agents to compare")
        for key in ("seeds", "evaluations", "problems", "samples"):
            if getattr(s, key) < 1:
                raise ValueError(f"{key} is at least 1, not {getattr(s, key)}")
        if s.budget is None:
            raise ValueError(f"there are no settings for {self.env} with this model: say how many tokens the budget is")
        if s.budget < s.evaluations:
            raise ValueError(f"the budget is {s.budget} tokens, too few for {s.evaluations} evaluations")
        for name, agent_class in self.agents.items():
            for key, value in s.options(name).items():
                if key in OWN:
                    raise ValueError(f"the option {key} of {name} follows from {OWN[key]}, which are the same for all")
                check_option(agent_class, key, value, f"the option {key} of {name}")
        configs = self.configs
        for key in ALIKE:
            values = {name: config[key] for name, config in configs.items()}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{name} {value}" for name, value in values.items())
                raise ValueError(f"{key} has to be the same for all agents, not {told}: set it for all")
        for name, c in configs.items():
            step = c["prompts_per_step"] * c["group_size"] * c["max_new_tokens"]
            if step > s.budget:
                raise ValueError(
                    f"the budget of {s.budget:,} tokens is too small for a step of {name}, which samples up to "
                    f"{c['prompts_per_step']} × {c['group_size']} × {c['max_new_tokens']} = {step:,}: raise the budget, or "
                    "lower prompts_per_step, group_size or max_new_tokens"
                )
        tokenizer = Policy.load_tokenizer(self.model)
        own = {"tokenizer": tokenizer} if self.env in ENVIRONMENTS else {}
        as_text_env(self.env, **(s.env_options | own))

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Every option of every agent, the defaults filled in."""
        found = {}
        for name, agent_class in self.agents.items():
            config: Any = getattr(agent_class, "Config")  # noqa: B009 (as in cli.py)
            made = config.make(**self.settings.options(name), token_budget=self.settings.budget)
            found[name] = dataclasses.asdict(made.resolved(self.model))
        return found

    @property
    def points(self) -> list[int]:
        """Sampled tokens at which the policy is evaluated: the first step's end at which there are so many."""
        budget, count = self.settings.budget, self.settings.evaluations
        assert budget is not None
        return [budget * i // count for i in range(count + 1)]

    def runs(self, folder: Path) -> list[Run]:
        """All runs. Those of different seeds come first: they make their warm starts side by side, and the others find
        them."""
        s = self.settings
        assert s.budget is not None
        return [
            Run(
                agent=name,
                agent_class=agent_class,
                seed=seed,
                model=self.model,
                env=self.env,
                env_options=s.env_options,
                options=s.options(name),
                budget=s.budget,
                points=self.points,
                problems=s.problems,
                samples=s.samples,
                folder=folder / "runs" / f"{name}-{seed}",
            )
            for name, agent_class in self.agents.items()
            for seed in range(s.seeds)
        ]

    def terms(self) -> dict[str, Any]:
        """What two comparisons have to agree on for their runs to be compared, as JSON holds it: of an object, such as a
        reward, the name of its class."""
        s = self.settings
        return json.loads(
            json.dumps(
                {
                    "model": self.model,
                    "env": self.env,
                    "env_options": s.env_options,
                    "budget": s.budget,
                    "evaluations": s.evaluations,
                    "problems": s.problems,
                    "samples": s.samples,
                    "seeds": s.seeds,
                    "agents": {name: s.options(name) for name in self.agents},
                },
                default=lambda value: f"<{type(value).__qualname__}>",
            )
        )


def agent_classes(agents: Sequence[str | type[BaseAgent]]) -> dict[str, type[BaseAgent]]:
    """The classes of `agents`, by name.

    Raises:
        ValueError: for an unknown name, one that is given twice, and agents that a budget of tokens says nothing to.
    """
    found: dict[str, type[BaseAgent]] = {}
    for agent in agents:
        name = agent if isinstance(agent, str) else agent.__name__
        if isinstance(agent, str) and agent not in AGENTS:
            raise ValueError(f"unknown agent {agent!r}{near(agent, AGENTS)}; agents are {', '.join(AGENTS)}")
        if name in found:
            raise ValueError(f"the agent {name} is named twice")
        found[name] = AGENTS[agent] if isinstance(agent, str) else agent
        config: Any = getattr(found[name], "Config")  # noqa: B009 (as in cli.py)
        if "token_budget" not in {f.name for f in dataclasses.fields(config)}:
            raise ValueError(f"{name} samples no tokens to learn from, so that a budget of tokens cannot compare it")
    return found


def claim(plan: Plan, folder: Path) -> None:
    """Say in `folder` that it is of this comparison. It may have been begun with fewer agents or seeds.

    Raises:
        ValueError: if it holds another comparison, or something else.
    """
    file, terms = folder / "comparison.json", plan.terms()
    # What is left of a comparison that was killed before it could say so.
    begun = {".lock", f"{file.name}{WRITING}"}
    if file.is_file():
        held = json.loads(file.read_text(encoding="utf-8"))
        _same(held, terms, folder)
    elif any(path.name not in begun for path in folder.iterdir()):
        raise ValueError(f"{folder} holds something else: choose another folder for the comparison")
    write_json(file, terms)


def _same(held: Mapping[str, Any], terms: Mapping[str, Any], folder: Path) -> None:
    other = f"{folder} holds another comparison"
    for key in terms:
        if key not in ("agents", "seeds") and held.get(key) != terms[key]:
            raise ValueError(f"{other}: its {key} is {held.get(key)!r}, not {terms[key]!r}; choose another folder")
    for name, options in held["agents"].items():
        if name not in terms["agents"]:
            raise ValueError(f"{other}, of {name} too: name it as well, or choose another folder")
        if options != terms["agents"][name]:
            raise ValueError(
                f"{other}: the options of {name} are {options}, not {terms['agents'][name]}; choose another folder"
            )
    if held["seeds"] > terms["seeds"]:
        raise ValueError(f"{other}, with {held['seeds']} seeds: ask for as many, or choose another folder")


def write_json(path: Path, content: Any) -> None:
    """Write `content` whole or not at all; NaN and infinities, which JSON cannot hold, are null."""
    temporary = path.with_name(f"{path.name}{WRITING}")
    temporary.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not abs(content) < float("inf"):
        return None
    return content
