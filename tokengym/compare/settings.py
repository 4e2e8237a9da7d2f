"""The settings of comparisons, as YAML files hold them: one for each environment, and those that a user writes."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from tokengym.agents import AGENTS

CONFIGS = "tokengym.compare.configs"  # the folder benchmarks/configs of the source tree


@dataclass(frozen=True)
class Settings:
    """The terms of a comparison and the hyper-parameters of the agents."""

    budget: int | None = None
    """Tokens that a run may sample."""
    seeds: int = 3
    """Runs of each agent; those of one seed share their warm start and the order of the problems."""
    evaluations: int = 8
    """How often the policy is asked held-out problems on the way, at even distances in tokens; and once before."""
    problems: int = 200
    """Held-out problems."""
    samples: int = 4
    """Completions of each; pass@k is estimated for k up to this."""
    threshold: float | None = None
    """Report the tokens that it takes to reach this score."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    all: dict[str, Any] = field(default_factory=dict)
    """Options of every agent."""
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of single agents, by name; they come before those of all."""

    def options(self, name: str) -> dict[str, Any]:
        """The options of the agent `name`."""
        return self.all | self.agents.get(name, {})


def read_settings(path: str | Path) -> Settings:
    """The settings in a YAML file.

    Raises:
        ValueError: for what is not YAML, for an unknown key or agent, and for a value of the wrong kind; names file and
            key.
        OSError: if it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    return parse_settings(text, str(path))


def settings_of(env: str) -> Settings | None:
    """The settings that come with the project for an environment and the built-in policy, if there are any."""
    file = resources.files(CONFIGS) / f"{env}.yaml"
    return parse_settings(file.read_text(encoding="utf-8"), file.name) if file.is_file() else None


def parse_settings(text: str, name: str) -> Settings:
    """The settings in `text`, which stands in the file `name`. Raises as `read_settings` does."""
    try:
        content = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds a {type(content).__name__}; expected keys with values")
    hints = get_type_hints(Settings)
    for key, value in content.items():
        if key not in hints:
            raise ValueError(f"{name}: unknown key {key!r}{near(key, hints)}; keys are {', '.join(hints)}")
        check(value, hints[key], f"{name}: {key}")
    for key in content.get("env_options", {}) | content.get("all", {}):
        check(key, str, f"{name}: a name of an option")
    for agent, options in content.get("agents", {}).items():
        if agent not in AGENTS:
            raise ValueError(f"{name}: agents.{agent}: unknown agent{near(agent, AGENTS)}")
        for key, value in options.items():
            check_option(AGENTS[agent], key, value, f"{name}: agents.{agent}.{key}")
    return Settings(**content)


def check_option(agent: type, key: str, value: Any, where: str) -> None:
    """Refuse an option that the class `agent` does not have, and a value of the wrong kind.

    Raises:
        ValueError: says `where`.
    """
    config: Any = getattr(agent, "Config")  # noqa: B009 (a class attribute that pyright takes for an instance's)
    hints = get_type_hints(config)
    known = [f.name for f in dataclasses.fields(config)]
    if key not in known:
        raise ValueError(f"{where}: {agent.__name__} has no such option{near(key, known)}")
    check(value, hints[key], where)


def check(value: Any, hint: Any, where: str) -> None:
    """Refuse a value that is not of the kind that the type `hint` says.

    Raises:
        ValueError: says `where`.
    """
    if not _fits(value, hint):
        kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ValueError(f"{where} takes {kind}, not {value!r}")


def near(word: object, known: Iterable[str]) -> str:
    """A hint at the known word that is meant, if there is one like it."""
    close = difflib.get_close_matches(str(word), list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:  # YAML has lists, and the agents' options take one word for a list of one
        return isinstance(value, str) or (isinstance(value, list | tuple) and all(_fits(v, inner[0]) for v in value))
    if origin is dict or origin is Mapping:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (at, _) in zip(keys, node.value):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", at.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in 1.0e-4; 1.2, and everybody who writes learning rates, does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)[eE][-+]?[0-9]+", re.ASCII),
    list("-+.0123456789"),
)
