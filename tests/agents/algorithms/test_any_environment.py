"""Every agent runs on every kind of environment, or says in one line why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokengym.agents import AGENTS
from tokengym.envs import Reply, TextEnv

from tokengym import Message, Stop

from ..conftest import narrow_policy


class Chatty(TextEnv):
    """A task of somebody else's: no demonstrations, a reward that is not right or wrong, turns without tools."""

    def __init__(self) -> None:
        super().__init__([{"word": w} for w in ("a", "b", "c")], lambda completion: len(completion) / 9, max_turns=3)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["word"]}]

    def reply(self, text: str) -> Reply:
        return Reply(stop=Stop.ANSWERED) if len(text) % 2 else Reply([{"role": "user", "content": "?"}])


#: Agents that need what the environment does not have, and what they say.
REFUSALS = {
    ("ghpo", Chatty): "Chatty demonstrates no solution",
    ("ufo", Chatty): 'has no part "correct"',
    ("grpo_lambda", Chatty): 'has no part "correct"',
    ("sft", Chatty): "Chatty has no demonstration",
    ("ppo_lagrangian", "MathVerify-v0"): "cost_part='tool_calls' is no part",
    ("ppo_lagrangian", Chatty): "cost_part='tool_calls' is no part",
}
SMALL = {"prompts_per_step": 2, "group_size": 2, "record_rollouts_every": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 2},
    "training_free_grpo": {"prompts_per_step": 2, "group_size": 2, "reply_tokens": 4},
    "ppo_lagrangian": {**SMALL, "cost_part": "tool_calls"},
    "arpo": {**SMALL, "initial_chains": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    narrow_policy(0).save(folder)
    return str(folder)


@pytest.mark.parametrize("env", ["MathVerify-v0", "ToolMath-v0", Chatty])
@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_runs_or_says_why_not(name: str, env: Any, model: str, tmp_path: Path) -> None:
    def learn() -> Any:
        options = {**OPTIONS.get(name, SMALL), "max_new_tokens": 5}
        task = env if isinstance(env, str) else env()
        return AGENTS[name](model, task, run_dir=tmp_path, console=False, **options).learn(1)

    if (name, env) in REFUSALS:
        with pytest.raises(ValueError, match=REFUSALS[name, env]) as refused:
            learn()
        assert len(str(refused.value).splitlines()) == 1
        assert name == "sft" or not list(tmp_path.iterdir()), "it was refused at construction"
    else:
        agent = learn()
        assert agent.step == 1
        assert agent.evaluate(2).problems == 2
