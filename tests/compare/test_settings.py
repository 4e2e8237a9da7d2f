"""The settings' files: what is refused names file and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokengym.agents import AGENTS
from tokengym.envs import ENVIRONMENTS

from tokengym.compare.plan import OWN, Plan, agent_classes, claim
from tokengym.compare.settings import Settings, parse_settings, read_settings, settings_of

SHIPPED = sorted((Path(__file__).parents[2] / "benchmarks" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_settings_that_come_along_are_found_and_hold(file: Path) -> None:
    assert file.stem in ENVIRONMENTS
    settings = settings_of(file.stem)
    assert settings is not None
    assert settings == read_settings(file)
    assert settings.budget is not None
    names = ["grpo", "ppo", "dapo", *settings.agents]
    plan = Plan(agent_classes(list(dict.fromkeys(names))), "tiny", file.stem, settings)
    assert plan.points[0] == 0
    assert plan.points[-1] == settings.budget
    assert len(plan.points) == settings.evaluations + 1


def test_an_environment_may_have_none() -> None:
    assert settings_of("Wordle-v7") is None


def test_numbers_are_read_as_people_write_them() -> None:
    settings = parse_settings(
        "budget: 600_000\nall: {learning_rate: 4e-4, clip_high: 1e-1}\nagents: {ppo: {epochs: 2, filter_groups: reject}}",
        "f",
    )
    assert settings.budget == 600_000
    assert settings.options("ppo") == {"learning_rate": 4e-4, "clip_high": 0.1, "epochs": 2, "filter_groups": "reject"}
    assert settings.options("grpo") == {"learning_rate": 4e-4, "clip_high": 0.1}
    assert parse_settings("", "f") == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bugdet: 5", "unknown key 'bugdet' (did you mean budget?)"),
        ("budget: many", "budget takes int | None, not 'many'"),
        ("budget: 1.5", "budget takes"),
        ("seeds: yes", "seeds takes int, not True"),
        ("all: [1]", "all takes"),
        ("agents: {ppoo: {}}", "agents.ppoo: unknown agent (did you mean ppo?)"),
        ("agents: {ppo: {epoch: 2}}", "agents.ppo.epoch: PPO has no such option (did you mean epochs?)"),
        ("agents: {ppo: {epochs: two}}", "agents.ppo.epochs takes int, not 'two'"),
        ("agents: {ppo: {schedule: steep}}", "agents.ppo.schedule takes Literal"),
        ("agents: {ppo: 3}", "agents takes"),
        ("budget: 1\nbudget: 2", "the key 'budget' stands twice"),
        ("agents: {ppo: {epochs: 1, epochs: 2}}", "the key 'epochs' stands twice"),
        ("- budget", "holds a list"),
        ("budget: [", "is not YAML"),
        ("budget: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^the-file\.yaml") as refused:
        parse_settings(text, "the-file.yaml")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"settings\.yaml is not YAML: 'utf-8' codec"):
        read_settings(tmp_path / "settings.yaml")


@pytest.mark.parametrize(
    ("agents", "options", "told"),
    [
        (["grpo"], {"epochz": 1}, "the option epochz of grpo: GRPO has no such option (did you mean epochs?)"),
        (["grpo"], {"epochs": "many"}, "the option epochs of grpo takes int, not 'many'"),
        (["grpo"], {"group_size": 1}, "group_size is at least 2"),
        (["grpo"], {"prompts_per_step": 64}, "too small for a step of grpo, which samples up to 64 × 8 × 32 = 16,384"),
        (["ppo", "rloo"], {"kl_horizon": 10}, "the option kl_horizon of rloo: RLOO has no such option"),
        *((["grpo"], {key: 1}, f"the option {key} of grpo follows from {OWN[key]}") for key in OWN),
    ],
)
def test_what_cannot_work_is_refused(agents: list[str], options: dict[str, object], told: str) -> None:
    settings = Settings(budget=10_000, all=options)
    with pytest.raises((ValueError, TypeError)) as refused:
        Plan(agent_classes(agents), "tiny", "MathVerify-v0", settings)
    assert told in str(refused.value)


def test_what_decides_the_start_is_the_same_for_all() -> None:
    settings = Settings(budget=100_000, agents={"ppo": {"max_tokens": 512}})
    with pytest.raises(ValueError, match="max_tokens has to be the same for all agents, not grpo 1024, ppo 512"):
        Plan(agent_classes(["grpo", "ppo"]), "tiny", "MathVerify-v0", settings)


def test_agents_that_sample_nothing_are_not_compared() -> None:
    with pytest.raises(ValueError, match="sft samples no tokens"):
        agent_classes(["sft"])
    with pytest.raises(ValueError, match="named twice"):
        agent_classes(["grpo", "grpo"])
    assert agent_classes(["grpo"]) == {"grpo": AGENTS["grpo"]}


def test_a_comparison_that_was_killed_as_it_began_can_be_begun_again(tmp_path: Path) -> None:
    plan = Plan(agent_classes(["grpo"]), "tiny", "MathVerify-v0", Settings(budget=100_000))
    (tmp_path / ".lock").touch()
    (tmp_path / "comparison.json.writing").write_text("{")
    claim(plan, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == plan.terms()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "comparison.json"]
