"""ARPO, Tree-GRPO and GiGPO: what they learn from what their rollouts give them."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokengym.agents import ARPO, AgentConfig, GiGPO, TreeGRPO
from tokengym.agents.algorithms.gigpo import observations
from tokengym.agents.rollout import Group
from tokengym.envs import Reply, TextEnv

from tokengym import Episode, Message, Stop

from ..conftest import narrow_policy

OPTIONS: dict[str, Any] = {
    "prompts_per_step": 3,
    "max_new_tokens": 8,
    "max_tokens": 120,
    "device": "cpu",
    "schedule": "constant",
    "warmup_steps": 0,
    "learning_rate": 2e-3,
    "stop": tuple(string.ascii_letters + string.digits),  # so that there are several turns
}


class Talk(TextEnv):
    """Says something about every turn, and ends after four."""

    def __init__(self) -> None:
        rows = [{"text": "a"}, {"text": "bc"}, {"text": "d"}]
        super().__init__(rows, lambda completion: sum(map(str.isascii, completion)) / 9, max_turns=4)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def reply(self, text: str) -> Reply:
        return Reply([{"role": "user", "content": f"{len(text) % 2}"}], reward=0.125 * (len(text) % 3))


def make(kind: Any, run_dir: Path | None = None, env: Any = None, **options: Any) -> Any:
    fast = type(
        kind.__name__,
        (kind,),
        {"load_policy": lambda self, model: narrow_policy(self.config.seed)},
    )
    return fast(env=env or Talk(), run_dir=run_dir, console=False, **OPTIONS | options)


def leaves(groups: Sequence[Group]) -> list[Any]:
    return [t for group in groups for t in group]


def test_soft_is_grpo_over_the_leaves_and_hard_the_mean_where_they_are_shared() -> None:
    soft, hard = (make(ARPO, attribution=kind, group_size=10, initial_chains=3) for kind in ("soft", "hard"))
    groups = soft.sample()
    assert sum(t.parent is not None for t in leaves(groups)) > 5
    a, b = (agent.estimate(agent.pack(groups)).advantages for agent in (soft, hard))
    rows = 0
    for group in groups:
        rewards = torch.tensor([t.reward for t in group])
        z = ((rewards - rewards.mean()) / (rewards.std() + 1e-6)).tolist()

        def first(index: int, token: int, group: Group = group) -> int:
            t = group[index]
            return first(t.parent, token) if t.parent is not None and token < (t.fork or 0) else index

        for index, t in enumerate(group):
            for token, sampled in enumerate(t.action_mask):
                on = [i for i, o in enumerate(group) if token < len(o.ids) and first(i, token) == first(index, token)]
                assert float(a[rows, token]) == pytest.approx(z[index] if sampled else 0.0, abs=1e-4)
                expected = sum(z[i] for i in on) / len(on) if sampled else 0.0
                assert float(b[rows, token]) == pytest.approx(expected, abs=1e-4)
            rows += 1
    assert not torch.allclose(a, b)


def test_the_order_of_groups_does_not_matter_to_who_is_whose_parent() -> None:
    agent = make(ARPO, attribution="hard", group_size=8, initial_chains=3)
    groups = agent.sample()
    whole = agent.estimate(agent.pack(groups)).advantages
    last = agent.estimate(agent.pack(groups[2:])).advantages
    width = last.shape[1]
    torch.testing.assert_close(whole[16:, :width], last)


def test_tree_grpo_compares_within_a_tree_and_between_trees() -> None:
    agent = make(TreeGRPO, trees=2, nodes=2, group_size=6)
    groups = agent.sample()
    batch = agent.estimate(agent.pack(groups))
    row = 0
    for group in groups:
        roots: list[int] = []
        for index, t in enumerate(group):
            roots.append(index if t.parent is None else roots[t.parent])
        assert roots == [0, 1, 0, 1, 0, 1]
        rewards = torch.tensor([t.reward for t in group])
        for index in range(6):
            own = rewards[[i for i in range(6) if roots[i] == roots[index]]]
            z = [(rewards[index] - r.mean()) / (r.std() + 1e-6) for r in (own, rewards)]
            assert float(batch.advantages[row][batch.action_mask[row] > 0][0]) == pytest.approx(float(sum(z)), abs=1e-4)
            row += 1


@pytest.mark.parametrize("normalize", ["mean", "deviation"])
def test_gigpo_compares_steps_that_were_taken_in_the_same_state(normalize: str) -> None:
    agent = make(GiGPO, normalize=normalize, step_weight=0.5, discount=0.9, group_size=6)
    groups = agent.sample()
    batch = agent.estimate(agent.pack(groups))
    row = several = 0
    for group in groups:
        rewards = torch.tensor([t.reward for t in group])
        scale = 1.0 if normalize == "mean" else rewards.std() + 1e-6
        steps = []  # (trajectory, number, what was shown, return from it on)
        for i, t in enumerate(group):
            shown = [t.episode.prompt[0]["content"]] + [
                m["content"] for m in t.episode.completion if m["role"] == "user"
            ]
            gained = [sum(t.token_rewards.get(k, 0.0) for k in range(start, end)) for start, end in t.turns]
            gained[-1] += t.score.value
            for n in range(len(t.turns)):
                steps.append((i, n, shown[n], sum(0.9**k * r for k, r in enumerate(gained[n:]))))
        for i, t in enumerate(group):
            for n, (start, end) in enumerate(t.turns):
                [(shown, value)] = [(s, v) for j, m, s, v in steps if (j, m) == (i, n)]
                same = torch.tensor([v for _, _, s, v in steps if s == shown])
                step = 0.0
                if len(same) > 1 and float(same.max() - same.min()) > 1e-6:
                    several += 1
                    step = (value - same.mean()) / (1.0 if normalize == "mean" else same.std() + 1e-6)
                expected = float((rewards[i] - rewards.mean()) / scale + 0.5 * step)
                assert batch.advantages[row, start:end].tolist() == pytest.approx([expected] * (end - start), abs=1e-3)
            row += 1
    assert several > 20


def test_what_the_policy_was_shown() -> None:
    prompt: list[Message] = [{"role": "system", "content": "rules"}, {"role": "user", "content": "A.G"}]
    completion: list[Message] = [
        {"role": "assistant", "content": "right"},
        {"role": "user", "content": ".AG"},
        {"role": "assistant", "content": "left"},
        {"role": "tool", "content": "well"},
        {"role": "user", "content": "A.G"},
        {"role": "assistant", "content": "right"},
    ]
    assert observations(Episode(prompt, completion, stop=Stop.TURNS)) == ["A.G", ".AG", "well\n\nA.G"]


def test_in_a_maze_the_state_is_what_is_drawn() -> None:
    agent = make(GiGPO, env="TextGrid-v0", group_size=2)
    groups = agent.sample()
    batch = agent.pack(groups)
    assert int(batch.columns["step_ends"].sum()) == sum(len(t.turns) for t in leaves(groups))
    for t in leaves(groups):
        assert observations(t.episode)[0] == t.episode.row["grid"]
        assert all(len(shown) == len(t.episode.row["grid"]) and "G" in shown for shown in observations(t.episode))


@pytest.mark.parametrize(("kind", "options"), [(ARPO, {"initial_chains": 3, "group_size": 8}), (TreeGRPO, {})])
def test_the_log_says_what_branching_gave_and_cost(kind: Any, options: dict[str, Any], tmp_path: Path) -> None:
    agent = make(kind, tmp_path, **options)
    agent.learn(2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    total = 0.0
    for row in rows:
        assert row["tree/leaves"] == agent.config.group_size
        assert 0 < row["tree/branches"] < agent.config.group_size
        assert 0 < row["tree/shared_tokens"] < 1
        assert row["tree/entropy_top_k"] == 0
        assert {"stop/length", "stop/turns", "stop/time", "stop/tool_limit", "stop/error"} <= set(row)
        total += 3 * row["tree/tokens"]
    assert agent.sampled_tokens == pytest.approx(total), "a shared token is sampled, and counted, once"
    # It evaluates with chains, one leaf a problem.
    assert agent.evaluate(3).problems == 3


@pytest.mark.parametrize("kind", [ARPO, TreeGRPO, GiGPO])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(kind: Any, tmp_path: Path) -> None:
    options = {"checkpoint_every": 1, "group_size": 4, "prompts_per_step": 2} | (
        {"branching": "sample", "initial_chains": 2} if kind is ARPO else {}
    )
    make(kind, tmp_path / "whole", **options).learn(3)
    make(kind, tmp_path / "parts", **options).learn(2)
    fast = type(make(kind, **options))
    fast.load(tmp_path / "parts", env=Talk(), console=False).learn(1)
    whole, parts = (
        [
            {k: v for k, v in json.loads(line).items() if not k.startswith(("time/", "speed/"))}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    assert whole == parts
    assert len(whole) == 3


def test_budgets_end_the_growth() -> None:
    for kind in (ARPO, TreeGRPO):
        agent = make(kind, group_size=12, tree_tokens=20)
        assert all(len(group) < 12 for group in agent.sample())
        agent.learn(1)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ARPO, {"initial_chains": 9, "group_size": 8}, r"initial_chains is at most group_size \(8\).*not 9"),
        (ARPO, {"threshold": 1.5}, "threshold is from 0 to 1, not 1.5"),
        (ARPO, {"branching": "always"}, "branching is one of threshold, sample, not 'always'"),
        (ARPO, {"attribution": "middle"}, "attribution is one of soft, hard"),
        (ARPO, {"branches": 0}, "branches is at least 1"),
        (TreeGRPO, {"trees": 7}, r"trees is at most group_size \(6\).*not 7"),
        (TreeGRPO, {"tree_tool_calls": 0}, "tree_tool_calls is at least 1, not 0"),
        (GiGPO, {"discount": 1.5}, "discount is from 0 to 1, not 1.5"),
        (GiGPO, {"normalize": "max"}, "normalize is one of mean, deviation"),
        (GiGPO, {"max_seconds": 0.0}, "max_seconds is above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


def test_the_defaults_are_the_papers() -> None:
    c = ARPO.Config()
    assert (c.group_size, c.initial_chains, c.branches, c.first_tokens) == (16, 8, 1, 20)
    assert (c.base_probability, c.entropy_weight, c.threshold, c.branching) == (0.5, 0.2, 0.5, "threshold")
    t = TreeGRPO.Config()
    assert (t.trees, t.nodes, t.group_size) == (2, 2, 6)
    assert math.isinf(t.budget.tokens)
    assert issubclass(GiGPO.Config, AgentConfig)
