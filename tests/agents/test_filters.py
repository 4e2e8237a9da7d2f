"""Filters: which groups are kept, how they are spelled, and that any agent takes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents import GRPO, PPO, RAFT, AgentConfig, DrGRPO, OnPolicyConfig, Reinforce, ReinforcePlusPlus
from tokengym.agents.rollout import FILTERS, DynamicSampling, Group, GroupFilter, Reject, Trajectory
from tokengym.agents.rollout.filters import apply_filters, read_filter, spelled

from tokengym import Episode, Score
from tokengym.cli import main

from .conftest import narrow_policy


def group(*rewards: float | None, correct: bool = True) -> Group:
    """Trajectories with these returns; right above 0, if the reward says so."""
    return [
        Trajectory(
            ids=[1, 2],
            action_mask=[0, 1],
            logprobs=[0.0, -1.0],
            entropy=0.0,
            prompt_length=1,
            token_rewards={},
            step_rewards={},
            episode=Episode([], []),
            score=Score(r, {"correct": float((r or 0) > 0)} if correct and r is not None else {}),
            group=0,
            version=0,
        )
        for r in rewards
    ]


def test_dynamic_sampling_keeps_what_differs() -> None:
    keeps = DynamicSampling().keeps
    assert keeps(group(0.0, 1.0))
    assert keeps(group(0.5, 1.0))
    assert not keeps(group(1.0, 1.0))
    assert not keeps(group(1.0, None))
    assert not keeps(group(None, None))
    by_accuracy = DynamicSampling(metric="accuracy").keeps
    assert not by_accuracy(group(0.5, 1.0)), "both are right"
    assert by_accuracy(group(0.5, -1.0))


@pytest.mark.parametrize("correct", [True, False])
def test_reject_keeps_shares_between_its_bounds(correct: bool) -> None:
    sample = [group(*[1.0] * k, *[0.0] * (4 - k), correct=correct) for k in range(5)]
    assert [Reject().keeps(g) for g in sample] == [False, True, True, True, False]
    assert [Reject(low=0.25, high=0.75).keeps(g) for g in sample] == [False, False, True, False, False]
    assert Reject().keeps(group(1.0, 0.0, None))
    assert not Reject().keeps(group(1.0, None, None))
    assert not Reject().keeps(group(None, None))


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=4), max_size=8))
def test_what_is_dropped_is_counted(rewards: list[list[float | None]]) -> None:
    groups = [group(*r) for r in rewards]
    kept, dropped = apply_filters(("dynamic_sampling", "reject"), groups)
    assert len(kept) + sum(dropped.values()) == len(groups)
    assert [id(g) for g in kept] == [id(g) for g in groups if DynamicSampling().keeps(g) and Reject().keeps(g)]
    assert dropped == {
        "dynamic_sampling": sum(not DynamicSampling().keeps(g) for g in groups),
        "reject": sum(DynamicSampling().keeps(g) and not Reject().keeps(g) for g in groups),
    }


@given(st.integers(1, 99), st.sampled_from(["reward", "accuracy"]), st.floats(0, 0.4), st.floats(0.5, 1))
def test_spelling_and_reading_are_inverse(rounds: int, metric: Any, low: float, high: float) -> None:
    for chosen in (DynamicSampling(rounds, metric), Reject(rounds, low, high)):
        [text] = spelled(chosen)
        assert read_filter(text) == chosen
        assert spelled(json.loads(json.dumps(spelled([text, chosen])))) == (text, text)


def test_short_spellings() -> None:
    assert spelled("none") == spelled([]) == ()
    assert spelled(DynamicSampling()) == ("dynamic_sampling",)
    assert spelled((Reject(high=0.9), "dynamic_sampling( max_rounds = 3 )")) == (
        "reject(high=0.9)",
        "dynamic_sampling(max_rounds=3)",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "rejects",
            r"unknown filter 'rejects' \(did you mean reject\?\); there are dynamic_sampling, reject, and none",
        ),
        ("", "unknown filter ''"),
        ("reject(0.1)", r'spelled "reject" or "reject\(max_rounds=VALUE\)", not'),
        ("reject(low=__import__('os'))", "a filter is spelled"),
        ("reject(low=0.1", "unknown filter"),
        ("reject(lower=0.1)", "the filter reject has no parameter 'lower'; it has max_rounds, low, high"),
        ("reject(low=0.9, high=0.1)", "0 <= low < high <= 1, not 0.9 and 0.1"),
        ("reject(low='a')", "not 'a' and 1.0"),
        ("dynamic_sampling(max_rounds=0)", "max_rounds is a whole number from 1 on, not 0"),
        ("dynamic_sampling(metric='length')", 'metric is "reward" or "accuracy"'),
    ],
)
def test_what_is_no_filter_is_refused(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnPolicyConfig(filter_groups=(given,))


def test_a_group_of_one_is_not_filtered() -> None:
    with pytest.raises(ValueError, match="group_size is at least 2"):
        OnPolicyConfig(filter_groups=("reject",), group_size=1)


@dataclass(frozen=True)
class Short(GroupFilter):
    """Leaves out long answers."""

    tokens: int = 3

    def keeps(self, group: Group) -> bool:
        return sum(t.num_actions for t in group) <= self.tokens * len(group)


def test_a_filter_of_ones_own() -> None:
    with pytest.raises(
        TypeError, match="a filter is one of dynamic_sampling, reject or an object of a class in FILTERS, not 5"
    ):
        OnPolicyConfig(filter_groups=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r'FILTERS\["name"\] = Short makes it known'):
        spelled(Short())
    FILTERS["short"] = Short
    try:
        assert spelled(Short(tokens=5)) == ("short(tokens=5)",)
        assert apply_filters(["short"], [group(1.0)])[1] == {"short": 0}
    finally:
        del FILTERS["short"]


def run(agent: type, folder: Path, reward: Any = lambda completion: float(len(completion) % 2), **options: Any) -> Any:
    made = type(agent.__name__, (agent,), {"load_policy": lambda self, model: narrow_policy(0)})(
        env="MathVerify-v0",
        env_options={"reward": reward},
        run_dir=folder,
        console=False,
        prompts_per_step=4,
        group_size=2,
        max_new_tokens=4,
        **options,
    )
    before = {name: p.detach().clone() for name, p in made.policy.named_parameters()}
    made.learn(2)
    changed = any(not torch.equal(p, before[name]) for name, p in made.policy.named_parameters())
    return changed, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("agent", [Reinforce, GRPO, DrGRPO])
def test_any_agent_takes_them(agent: type[Any], tmp_path: Path) -> None:
    assert issubclass(agent.Config, AgentConfig)
    changed, rows = run(agent, tmp_path, filter_groups=(DynamicSampling(max_rounds=9), Reject()))
    assert changed
    for row in rows:
        assert row["groups/kept"] == 4
        dropped = row["groups/dropped/dynamic_sampling"] + row["groups/dropped/reject"]
        assert row["groups/sampled"] == 4 + dropped


@pytest.mark.parametrize("agent", [PPO, RAFT, ReinforcePlusPlus])
def test_nothing_is_learned_from_what_is_all_dropped(agent: type[Any], tmp_path: Path) -> None:
    changed, rows = run(agent, tmp_path, lambda completion: 1.0, filter_groups="reject")
    assert not changed
    for row in rows:
        assert (row["groups/kept"], row["groups/dropped/reject"], row["grad_norm"]) == (0, 4, 0.0)
        assert all(value == value and value is not None for value in row.values()), "no NaN"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*filters: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["train", "grpo", "--filter-groups", *filters, "--group-size", "1"])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "did you mean reject?" in refused("rejects")
    assert "group_size is at least 2" in refused("reject(low=0.1)", "dynamic_sampling")
