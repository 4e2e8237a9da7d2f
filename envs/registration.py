"""Registering the environments with Gymnasium, at both levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, get_args

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from .core import TextEnv
from .token_env import TokenEnv
from .vector import TextVectorEnv, TokenVectorEnv

Level = Literal["token", "turn"]

#: Every environment id of the project, and the module whose `make` and `make_vec` build it.
ENVIRONMENTS = {
    "MathVerify-v0": "tokengym.envs.tasks.math_verify",
    "CodeTests-v0": "tokengym.envs.tasks.code_tests",
    "PythonMath-v0": "tokengym.envs.tasks.python_math",
    "ToolMath-v0": "tokengym.envs.tasks.tool_math",
    "Countdown-v0": "tokengym.envs.tasks.countdown",
    "SearchQA-v0": "tokengym.envs.tasks.search_qa",
    "InstructionFollowing-v0": "tokengym.envs.tasks.instruction_following",
    "Summarize-v0": "tokengym.envs.tasks.summarize",
    "GuessNumber-v0": "tokengym.envs.tasks.guess_number",
    "Wordle-v0": "tokengym.envs.tasks.wordle",
    "TextGrid-v0": "tokengym.envs.tasks.text_grid",
    "ReasoningGym-v0": "tokengym.envs.tasks.reasoning",
}


def environment_class(env_id: str) -> type[TextEnv]:
    """The class of an environment of `ENVIRONMENTS`, which has its docstring. Nothing is made: an extra that it needs may
    be missing."""
    module = ENVIRONMENTS[env_id]
    own = [
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, type) and issubclass(value, TextEnv) and value.__module__ == module
    ]
    # A file may have a base of several tasks beside the task itself.
    [found] = [each for each in own if "Version History" in (each.__doc__ or "")]
    return found


def register_environments() -> None:
    """Register every id of `ENVIRONMENTS`; `import tokengym` does it."""
    for env_id, module in ENVIRONMENTS.items():
        gym.register(id=env_id, entry_point=f"{module}:make", vector_entry_point=f"{module}:make_vec")


def at_level(env: TextEnv, level: Level, max_tokens: int | None, stop: Sequence[str]) -> gym.Env:
    """`env` as it is (level "turn"), or the token-level MDP over it (level "token").

    Raises:
        ValueError: for another level, or for limits in tokens at the turn level, where the policy acts by whole texts.
    """
    if level == "token":
        return TokenEnv(env, max_tokens=256 if max_tokens is None else max_tokens, stop=stop)
    if level == "turn":
        if max_tokens is not None or stop:
            raise ValueError('max_tokens and stop belong to level="token"; at level="turn" an action is a whole text')
        return env
    raise ValueError(f"level is one of {', '.join(map(repr, get_args(Level)))}, not {level!r}")


def vectorized(make: Callable[..., gym.Env[Any, Any]]) -> Callable[..., TextVectorEnv]:
    """The entry point of `gym.make_vec(id, num_envs, …)` for the environments that `make` makes, at either level.

    What it returns takes, besides the options of `make`, `autoreset_mode` and, at the token level, `copy`.
    """

    def make_vec(
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool | None = None,
        **options: Any,
    ) -> TextVectorEnv:
        env = make(**options)
        if isinstance(env, TokenEnv):
            return TokenVectorEnv(
                env.text_env,
                num_envs,
                max_tokens=env.max_tokens,
                stop=env.stop,
                autoreset_mode=autoreset_mode,
                copy=copy is not False,
            )
        if copy is not None:
            raise ValueError('copy belongs to level="token"; texts are not copied')
        if not isinstance(env, TextEnv):
            raise ValueError(
                f'a vector is made of a TextEnv or a TokenEnv, not of {env}: use vectorization_mode="sync"'
            )
        return TextVectorEnv(env, num_envs, autoreset_mode=autoreset_mode)

    return make_vec


def as_text_env(env: str | gym.Env, **options: Any) -> TextEnv:
    """The `TextEnv` of an environment id (made with `options`) or of an environment of either level.

    Raises:
        ValueError: for an unknown id, an environment of another kind, or one with wrappers that a rollout would bypass.
    """
    if isinstance(env, str):
        if env not in gym.registry:
            near = get_close_matches(env, gym.registry, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"no environment {env!r} is registered{hint} Those of TokenGym are {', '.join(ENVIRONMENTS)}"
            )
        # An environment that someone else registered need not have levels.
        level: dict[str, Any] = {"level": "turn"} if env in ENVIRONMENTS else {}
        env = gym.make(env, **level | options)
    if not isinstance(env.unwrapped, TextEnv | TokenEnv):
        raise ValueError(f"agents learn in a TextEnv or a TokenEnv, not in {type(env.unwrapped).__name__}")
    inner = env
    while isinstance(inner, gym.Wrapper) and not isinstance(inner, TextEnv):  # a TextWrapper is a task itself
        if not isinstance(inner, gym.wrappers.PassiveEnvChecker | gym.wrappers.OrderEnforcing):
            raise ValueError(
                f"an agent acts on the task itself and would bypass the wrapper {type(inner).__name__}; pass env.unwrapped"
            )
        inner = inner.env
    task = inner.text_env if isinstance(inner, TokenEnv) else inner
    assert isinstance(task, TextEnv)
    return task
