"""What holds for all algorithms: they learn, report, resume, and each does what makes it itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokengym.agents import AGENTS, Agent
from tokengym.agents.algorithms.actor_critic import ActorCritic
from tokengym.agents.rollout.filters import DynamicSampling, apply_filters
from tokengym.envs import TextEnv
from tokengym.rewards import Episode, Reward, Score, StepScore

from tokengym import Message

from ..conftest import narrow_policy

METRICS = {
    "reward/mean",
    "reward/std",
    "accuracy",
    "groups/no_signal",
    "advantage/mean",
    "advantage/std",
    "advantage/skewness",
    "kl/reference",
    "kl/sampler",
    "entropy",
    "clip_fraction",
    "grad_norm",
    "length/mean",
    "length/truncated",
    "speed/sample_tokens_per_s",
    "speed/learn_tokens_per_s",
    "abstained",
    "learning_rate",
}
NAMES = [name for name, agent in AGENTS.items() if issubclass(agent, Agent)]


class LowBytes(Reward):
    """A reward that random weights get something of: the share of ASCII characters. A cost: the length. A step: a byte."""

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        return [self._one(e.text) for e in episodes]

    def _one(self, text: str) -> Score:
        share = sum(c.isascii() for c in text) / max(len(text), 1)
        steps = [StepScore(0, i, i + 1, float(c.isascii())) for i, c in enumerate(text)]
        return Score(share, {"correct": float(share >= 0.5), "cost": float(len(text))}, steps)


class Letters(TextEnv):
    """Write ASCII."""

    def __init__(self, reward: Any = None) -> None:
        super().__init__([{"text": "abc"[: 1 + i % 3], "number": i} for i in range(7)], reward or LowBytes())

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]


OPTIONS: dict[str, Any] = {
    "prompts_per_step": 6,
    "max_new_tokens": 6,
    "device": "cpu",
    "schedule": "constant",
    "warmup_steps": 0,
    "learning_rate": 2e-3,
    "checkpoint_every": 1,
}

#: What some of them cannot do without.
NEEDS: dict[str, dict[str, Any]] = {"ghpo": {"solution": "text"}}


def make(name: str, run_dir: Path | None = None, env: Any = None, **options: Any) -> Any:
    agent = AGENTS[name]
    fast = type(agent.__name__, (agent,), {"load_policy": lambda self, model: narrow_policy(self.config.seed)})
    return fast(env=env or Letters(), run_dir=run_dir, console=False, **OPTIONS | NEEDS.get(name, {}) | options)


def load(name: str, run_dir: Path, env: Any = None) -> Any:
    agent = AGENTS[name]
    fast = type(agent.__name__, (agent,), {"load_policy": lambda self, model: narrow_policy(self.config.seed)})
    return fast.load(run_dir, env=env or Letters(), console=False)


def logged(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in lines]


def repeatable(run_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in logged(run_dir)]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_reported_and_a_resumed_run_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    options = {"kl_coef": 0.02}
    whole = make(name, tmp_path / "whole", **options)
    before = {key: p.detach().clone() for key, p in whole.policy.named_parameters()}
    whole.learn(3)
    for row in logged(tmp_path / "whole"):
        assert set(row) >= METRICS
        assert all(isinstance(value, float | int) for value in row.values())
    assert any(not torch.equal(p, before[key]) for key, p in whole.policy.named_parameters())
    make(name, tmp_path / "parts", **options).learn(2)
    load(name, tmp_path / "parts").learn(1)
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tmp_path: Path) -> None:
    special = {"ppo_lagrangian": {"cost_limit": 100.0}, "remax": {"group_size": 6}}
    make(name, tmp_path, prompts_per_step=8, **special.get(name, {})).learn(8)
    rewards = [row["reward/mean"] for row in logged(tmp_path)]
    assert sum(rewards[-3:]) > sum(rewards[:3])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_where_every_reward_abstains(name: str, tmp_path: Path) -> None:
    class Silent(Reward):
        def score(self, episodes: Sequence[Episode]) -> list[Score]:
            return [Score(None, error="cannot tell") for _ in episodes]

    agent = make(name, tmp_path, Letters(Silent()), prompts_per_step=3)
    before = {key: p.detach().clone() for key, p in agent.policy.named_parameters()}
    state = copy.deepcopy(agent.state())
    agent.learn(1)
    assert all(torch.equal(p, before[key]) for key, p in agent.policy.named_parameters())
    sampled = {"entropies"}  # which EEPO remembers, whatever the reward
    assert all(value == state[key] for key, value in agent.state().items() if key not in sampled)
    assert all(value == value for value in logged(tmp_path)[0].values()), "no NaN"


# What makes them themselves.


def test_dynamic_sampling_replaces_groups_without_signal(tmp_path: Path) -> None:
    class Often(Reward):
        """The same for all completions of two of three prompts."""

        def score(self, episodes: Sequence[Episode]) -> list[Score]:
            return [Score(float(len(e.text)) if e.row["number"] % 3 == 0 else 1.0) for e in episodes]

    agent = make("dapo", tmp_path, Letters(Often()), prompts_per_step=4, overlong_cache=0.0)
    agent.learn(2)
    for row in logged(tmp_path):
        assert row["groups/kept"] == 4
        assert row["groups/sampled"] > 4
    few = make(
        "dapo",
        tmp_path / "few",
        Letters(lambda completion: 1.0),
        prompts_per_step=2,
        filter_groups=DynamicSampling(max_rounds=3),
    )
    few.learn(1)
    [row] = logged(tmp_path / "few")
    assert row["groups/sampled"] == row["groups/dropped/dynamic_sampling"] == 6
    assert row["groups/kept"] == 0


def test_the_overlong_punishment_enters_the_advantage() -> None:
    options = {"filter_groups": "none", "max_new_tokens": 60, "overlong_cache": 0.5}
    agent = make("dapo", env=Letters(lambda completion: 1.0), **options)
    groups = agent.sample()
    batch = agent.estimate(agent.pack(groups))
    expected = (-(batch.num_actions - 30) / 30).clamp(-1, 0) + 1
    torch.testing.assert_close(batch.rewards, expected)
    assert batch.advantages.abs().max() > 0


def test_the_overlong_punishment_is_of_the_longest_turn() -> None:
    agent = make("dapo", filter_groups="none", max_new_tokens=60, overlong_cache=0.5)
    t = max((t for group in agent.sample() for t in group), key=lambda t: t.num_actions)
    [(start, end)] = t.turns
    assert end - start > 50
    several = replace(t, turns=[(start, start + 40), (start + 45, end)])
    found = agent.columns([t, several])["punishment"].tolist()
    assert found == pytest.approx([-(end - start - 30) / 30, -10 / 30])


def test_remax_compares_with_the_greedy_completion() -> None:
    agent = make("remax", prompts_per_step=5, group_size=2)
    groups = agent.sample()
    assert agent.sampled_tokens == sum(len(g[0].ids) - g[0].prompt_length for g in greedy(agent, groups))
    batch = agent.estimate(agent.pack(groups))
    for i, t in enumerate(t for group in groups for t in group):
        assert batch.advantages[i].sum() / batch.num_actions[i] == pytest.approx(t.reward - t.baseline, abs=1e-5)
    again = agent.rollout.run([0] * 2, [[1], [2]], agent_sampling(0.0))
    assert again[0][0].ids == again[1][0].ids


def greedy(agent: Any, groups: Any) -> Any:
    rows = [group[0].episode.row["number"] for group in groups]
    return agent.rollout.run(rows, [[0]] * len(rows), agent_sampling(0.0))


def agent_sampling(temperature: float) -> Any:
    from tokengym.agents.engines import Sampling

    return Sampling(temperature=temperature)


def test_cppo_computes_only_the_completions_with_the_largest_advantages() -> None:
    agent = make("cppo", pruning=0.75)
    batch = agent.estimate(agent.pack(agent.sample()))
    learned = batch.action_mask.any(dim=1).reshape(6, 8)
    assert (learned.sum(dim=1) == 2).all()
    sizes = agent.advantages(batch).abs().reshape(6, 8)
    for size, kept in zip(sizes, learned):
        assert size[kept].min() >= size[~kept].max() - 1e-6


def test_cppo_prunes_before_the_pass_of_the_reference() -> None:
    computed = {}
    for pruning in (0.0, 0.75):
        agent = make("cppo", pruning=pruning, kl_coef=0.04, minibatches=1)
        passed: list[int] = []
        with agent.reference.model() as model:
            model.model.register_forward_pre_hook(
                lambda _m, _a, kwargs, passed=passed: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
            )
        agent.train_step()
        computed[pruning] = sum(passed)
    assert 0 < computed[0.75] < 0.6 * computed[0.0]


@pytest.mark.parametrize("name", ["gspo", "gspo_token", "gmpo", "cispo"])
def test_only_clips_of_ppos_form_have_a_dual_clip(name: str) -> None:
    with pytest.raises(TypeError, match="unknown option 'dual_clip'"):
        make(name, dual_clip=3.0)


@pytest.mark.parametrize("name", ["raft", "raft_plus_plus"])
def test_raft_learns_from_the_best(name: str) -> None:
    agent = make(name)
    groups = agent.sample()
    batch = agent.estimate(agent.pack(groups))
    rewards = torch.tensor([[t.reward for t in group] for group in groups])
    best = (rewards == rewards.max(dim=1, keepdim=True).values) & (rewards > 0)
    assert torch.equal(batch.action_mask.any(dim=1), best.flatten())
    assert set(batch.advantages.flatten().tolist()) == {0.0, 1.0}


def test_reinforce_rej_leaves_out_groups_that_are_all_right_or_all_wrong(tmp_path: Path) -> None:
    agent = make("reinforce_rej", tmp_path, env=Letters(lambda completion, number: float(number % 2)))
    before = {key: p.detach().clone() for key, p in agent.policy.named_parameters()}
    agent.learn(1)
    assert all(torch.equal(p, before[key]) for key, p in agent.policy.named_parameters())
    [row] = logged(tmp_path)
    assert (row["groups/kept"], row["groups/dropped/reject"]) == (0, 6)
    agent = make("reinforce_rej", env=Letters(lambda completion: float(len(completion.encode()) % 2)))
    kept, _ = apply_filters(agent.config.filter_groups, agent.sample())
    assert kept
    assert all({t.reward for t in group} == {0.0, 1.0} for group in kept)
    batch = agent.estimate(agent.pack(kept))
    assert torch.equal(batch.advantages.amax(dim=1), batch.rewards)


def test_the_moving_average_of_reinforce(tmp_path: Path) -> None:
    agent = make("reinforce", tmp_path, baseline="ema", baseline_decay=0.9)
    first = agent.pack(agent.sample())
    advantages = agent.advantages(first)
    torch.testing.assert_close(advantages, first.rewards - first.rewards.mean())
    second = agent.advantages(first.__class__(**{**vars(first), "rewards": first.rewards + 1}))
    torch.testing.assert_close(second, first.rewards + 1 - first.rewards.mean())
    assert agent.average == pytest.approx(float(first.rewards.mean()) + 0.1)


@pytest.mark.parametrize("critic", ["shared", "policy"])
def test_a_critic_learns_the_returns(critic: str, tmp_path: Path) -> None:
    agent = make("ppo", tmp_path, critic=critic, learning_rate=3e-3, prompts_per_step=8, epochs=3, kl_coef=0.01)
    assert isinstance(agent, ActorCritic)
    agent.learn(8)
    found = [row["value/loss"] for row in logged(tmp_path)]
    assert sum(found[-2:]) < 0.5 * sum(found[:2])
    batch = agent.pack(agent.sample())
    batch = batch.__class__(**{**vars(batch), "ref_logprobs": batch.old_logprobs})
    values = agent.estimate(batch).columns["values"].squeeze(-1)
    assert (values[batch.action_mask == 0] == 0).all()
    assert 0.2 < float(values[batch.action_mask > 0].mean()) < 1.1


def test_a_critic_starts_as_a_reward_model(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    policy = narrow_policy(0)
    policy.save(tmp_path / "policy")
    model: Any = LlamaForSequenceClassification.from_pretrained(tmp_path / "policy", num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path / "reward")
    agent = make("ppo", critic=str(tmp_path / "reward"))
    batch = agent.pack(agent.sample())
    values = agent.critic.values(batch).squeeze(-1)
    states = model.model(input_ids=batch.ids).last_hidden_state
    expected = torch.nn.functional.pad(model.score(states[:, :-1]).squeeze(-1), (1, 0)) * batch.action_mask
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no reward model '/nowhere'"):
        make("ppo", critic="/nowhere")
    with pytest.raises(ValueError, match="one output, but 2 values"):
        make("ppo_lagrangian", critic=str(tmp_path / "reward"))


def test_the_multiplier_rises_while_the_cost_is_above_its_limit(tmp_path: Path) -> None:
    agent = make("ppo_lagrangian", tmp_path, cost_limit=0.0, multiplier_learning_rate=0.5)
    agent.learn(2)
    rows = logged(tmp_path)
    assert rows[0]["cost/multiplier"] == pytest.approx(torch.tensor(0.5 * rows[0]["cost/mean"]).exp().item(), rel=1e-4)
    assert rows[1]["cost/multiplier"] > rows[0]["cost/multiplier"] > 1
    with pytest.raises(
        ValueError, match="cost_part='harm' is no part of the reward's scores; there are: correct, cost"
    ):
        make("ppo_lagrangian", tmp_path / "b", cost_part="harm").learn(1)


def test_a_large_multiplier_makes_the_cost_fall(tmp_path: Path) -> None:
    make("ppo_lagrangian", tmp_path, multiplier=50.0, prompts_per_step=12, epochs=2).learn(10)
    costs = [row["cost/mean"] for row in logged(tmp_path)]
    assert sum(costs[-3:]) < 0.8 * sum(costs[:3])


def test_process_supervision_gives_tokens_their_own_advantages() -> None:
    agent = make("grpo", supervision="process")
    batch = agent.estimate(agent.pack(agent.sample()))
    spread = [row[m > 0].std() for row, m in zip(batch.advantages, batch.action_mask) if m.sum() > 2]
    assert max(float(s) for s in spread) > 0.1
    plain = make("grpo", env=Letters(lambda completion: 1.0), supervision="process")
    groups = plain.sample()
    with pytest.raises(ValueError, match="needs a reward that judges steps"):
        plain.pack(groups)


def test_the_penalty_of_ppo_adapts(tmp_path: Path) -> None:
    make("ppo_penalty", tmp_path, penalty_target=1e-6).learn(2)
    assert [row["kl/coef"] for row in logged(tmp_path)] == [2.0, 4.0]
    make("ppo_penalty", tmp_path / "far", penalty_target=100.0).learn(2)
    assert [row["kl/coef"] for row in logged(tmp_path / "far")] == [0.5, 0.25]


def test_the_coefficient_of_the_divergence_adapts(tmp_path: Path) -> None:
    make("ppo", tmp_path, kl_coef=0.1, kl_target=50.0, kl_horizon=100).learn(2)
    # 48 completions a step, a divergence far below the target: β (1 − 0.2 · 48 / 100) each time.
    assert [row["kl/coef"] for row in logged(tmp_path)] == pytest.approx([0.1 * 0.904, 0.1 * 0.904**2])


def test_the_coefficient_adapts_to_the_completions_that_are_learned_from() -> None:
    agent = make("ppo", kl_coef=0.1, kl_target=5.0, kl_horizon=100)
    batch = agent.pack(agent.sample())
    batch = batch.learning_from(torch.arange(len(batch)) % 2 == 0)
    per_token = 5.5 / batch.num_actions[::2].mean()  # 5.5 nats per completion
    batch = replace(batch, ref_logprobs=batch.old_logprobs - per_token * batch.action_mask)
    agent.after_update(agent.estimate(batch))
    assert agent.kl_coef == pytest.approx(0.1 * (1 + 0.1 * 24 / 100))


def test_ptx_is_the_cross_entropy_of_the_model_as_it_is(tmp_path: Path) -> None:
    """Not at the temperature of sampling, nor in the means of completions."""
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "the quick brown fox"}) + "\n")
    options = {"temperature": 0.5, "aggregation": "seq-mean-token-sum-norm", "ptx_coef": 2.0}
    agent = make("ppo", ptx_dataset=str(tmp_path / "text.jsonl"), **options)
    found = agent.update_hooks()["auxiliary"]()
    ids = torch.tensor([[*agent.policy.tokenizer.encode("the quick brown fox"), agent.policy.tokenizer.end_id]])
    assert found["ptx/loss"] == pytest.approx(2 * agent.policy.model(ids, labels=ids).loss.item(), rel=1e-4)


def test_ptx_keeps_the_text_likely(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": "the quick brown fox"}) + "\n" for _ in range(3)))
    make("ppo", tmp_path / "run", ptx_coef=1.0, ptx_dataset=str(tmp_path / "text.jsonl")).learn(4)
    losses = [row["ptx/loss"] for row in logged(tmp_path / "run")]
    assert losses[-1] < 0.6 * losses[0]
    with pytest.raises(ValueError, match="needs both ptx_coef and ptx_dataset"):
        make("ppo", ptx_coef=1.0)


# What all of them can be asked for.


def test_passes_end_at_the_target_of_the_divergence(tmp_path: Path) -> None:
    make("grpo", tmp_path, epochs=8, target_kl=1e-4, learning_rate=1e-2).learn(1)
    make("grpo", tmp_path / "far", epochs=8, target_kl=1e4, learning_rate=1e-2).learn(1)
    [near], [far] = logged(tmp_path), logged(tmp_path / "far")
    assert (near["stopped_early"], far["stopped_early"]) == (1.0, 0.0)
    assert near["kl/sampler"] < far["kl/sampler"]


def test_an_entropy_bonus_raises_the_entropy(tmp_path: Path) -> None:
    found = {}
    for coefficient in (0.0, 1.0):
        folder = tmp_path / str(coefficient)
        make("grpo", folder, entropy_coef=coefficient).learn(6)
        found[coefficient] = logged(folder)[-1]["entropy"]
    assert found[1.0] > found[0.0]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_correction_weighs_tokens_by_the_trainers_ratio_to_the_sampler(minibatches: int) -> None:
    agent = make("grpo", correction="truncate", correction_cap=1.5, minibatches=minibatches)
    batch = agent.estimate(agent.pack(agent.sample()))
    off = batch.__class__(**{**vars(batch), "old_logprobs": (batch.old_logprobs - 1.0) * batch.action_mask})
    seen = []

    def loss(terms: Any) -> Any:
        seen.append(terms)
        return agent.objective(terms)

    agent.learner.update(off, loss, learning_rate=0.0, minibatches=minibatches, own_old_logprobs=True)
    for terms in seen:
        torch.testing.assert_close(terms.old_logprobs, terms.logprobs, atol=1e-4, rtol=0)
        plain, _ = agent.loss(terms)
        torch.testing.assert_close(agent.objective(terms)[0], 1.5 * plain)  # e, cut off


def test_a_mask_leaves_out_tokens_beyond_the_cap() -> None:
    agent = make("grpo", correction="mask", correction_cap=1.5)
    batch = agent.estimate(agent.pack(agent.sample()))
    off = batch.__class__(**{**vars(batch), "old_logprobs": (batch.old_logprobs - 1.0) * batch.action_mask})
    metrics = agent.learner.update(off, agent.objective, learning_rate=0.0, own_old_logprobs=True)
    assert metrics["grad_norm"] == 0.0
    assert metrics["correction/mismatch"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["correction/mismatch_p99"] == pytest.approx(1.0, abs=1e-3)


def test_truncated_completions_can_be_left_out() -> None:
    agent = make("grpo", mask_truncated=True)
    groups = agent.sample()
    batch = agent.pack(groups)
    truncated = torch.tensor([t.truncated for group in groups for t in group])
    assert truncated.any()
    assert torch.equal(batch.action_mask.any(dim=1), ~truncated)


def test_a_budget_of_tokens_ends_the_run(tmp_path: Path) -> None:
    agent = make("grpo", tmp_path, token_budget=700, steps=1000, schedule="linear")
    agent.learn()
    assert 700 <= agent.sampled_tokens < 700 + 6 * 8 * 7
    rates = [row["learning_rate"] for row in logged(tmp_path)]
    assert rates == sorted(rates, reverse=True)
    assert load("grpo", tmp_path).learn().step == agent.step, "there is nothing left to do"


def test_without_a_monitored_reference_there_is_none() -> None:
    agent = make("grpo", monitor_reference=False)
    assert agent.reference is None
    metrics, _ = agent.train_step()
    assert "kl/reference" not in metrics
