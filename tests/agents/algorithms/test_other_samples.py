"""The algorithms that change what is sampled or learned from: ReplayGRPO, GHPO, EEPO, UFO and GRPO-λ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents.functional import unlikelihood_loss
from tokengym.agents.learner import Batch
from tokengym.agents.rollout import Group, Trajectory, episode_seeds
from tokengym.agents.rollout.replay import ReplayBuffer
from tokengym.envs.wrappers import Hint, Retry

from tokengym import Episode, Score, Stop

from .test_every_algorithm import Letters, agent_sampling, load, logged, make, repeatable


def now_and_then(completion: str) -> bool:
    """Right about every third time."""
    return sum(completion.encode()) % 3 == 0


def sampled(agent: Any, group_size: int = 8) -> list[Group]:
    return agent.rollout.run([0, 1], episode_seeds(0, 0, 2, group_size), agent_sampling(1.0))


def scored(t: Trajectory, right: bool) -> Trajectory:
    return replace(t, score=Score(float(right), {"correct": float(right)}))


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in agent.policy.named_parameters()}


# Agentic replay.


def test_one_earlier_success_takes_the_place_of_a_failure() -> None:
    agent = make("replay_grpo")
    groups = [[scored(t, False) for t in group] for group in sampled(agent)]
    assert agent.amended(groups) == groups, "there is nothing to replay"
    earlier = replace(scored(groups[0][3], True), version=-5, logprobs=[lp - 0.3 for lp in groups[0][3].logprobs])
    agent.buffer.add([earlier, groups[0][0]])
    first, second = agent.amended(groups)
    assert second == groups[1]
    [place] = [i for i, (new, old) in enumerate(zip(first, groups[0])) if new is not old]
    replayed = first[place]
    assert (replayed.ids, replayed.logprobs, replayed.reward, replayed.version) == (
        earlier.ids,
        earlier.logprobs,
        1.0,
        -5,
    )
    assert replayed.episode.prompt == groups[0][0].episode.prompt
    assert agent.amended(groups) == [first, second], "the draw belongs to the step"

    batch = agent.estimate(agent.pack([first, second]))
    # One of eight is right: μ = 1/8, σ² = 1/8, so (7/8)√8 for it and −√8/8 for the others.
    advantages = batch.advantages.sum(dim=1) / batch.num_actions
    expected = torch.full((16,), -math.sqrt(8) / 8)
    expected[place] = 7 / math.sqrt(8)
    expected[8:] = 0.0
    torch.testing.assert_close(advantages, expected, atol=1e-4, rtol=0)
    # ρ is to the policy that sampled it.
    torch.testing.assert_close(batch.old_logprobs[place, : len(earlier.ids)], torch.tensor(earlier.logprobs))


def test_a_group_with_a_success_or_without_a_verdict_is_as_it_was_sampled() -> None:
    agent = make("replay_grpo")
    groups = [[scored(t, False) for t in group] for group in sampled(agent)]
    agent.buffer.add([scored(t, True) for group in groups for t in group])
    mixed = [scored(groups[0][0], True), *groups[0][1:]]
    unknown = [replace(t, score=Score(None, error="?")) for t in groups[1]]
    assert agent.amended([mixed, unknown]) == [mixed, unknown]
    known = [*unknown[:-1], groups[1][-1]]
    [amended] = agent.amended([known])
    assert amended[:-1] == known[:-1], "only what failed is replaced"
    assert amended[-1].solved


def stub(row: int, number: float, solved: bool = True, tokens: Sequence[int] = (1, 2)) -> Trajectory:
    return Trajectory(
        ids=list(tokens),
        action_mask=[0] + [1] * (len(tokens) - 1),
        logprobs=[0.0] + [number] * (len(tokens) - 1),
        entropy=0.5,
        prompt_length=1,
        token_rewards={1: 0.25},
        step_rewards={},
        episode=Episode((), ({"role": "assistant", "content": "x"},), stop=Stop.ANSWERED, num_tokens=len(tokens) - 1),
        score=Score(float(solved), {"correct": float(solved)}),
        group=0,
        version=3,
        row=row,
    )


def test_the_buffer_keeps_the_newest_successes_of_the_tasks_that_were_solved_last() -> None:
    buffer = ReplayBuffer(per_task=2, tasks=2)
    buffer.add([stub(7, -1.0), stub(7, -2.0, solved=False), stub(7, -3.0), stub(7, -4.0)])
    assert [t.logprobs[1] for t in buffer.of(7)] == [-3.0, -4.0]
    buffer.add([stub(8, -1.0)])
    buffer.add([stub(7, -5.0)])
    buffer.add([stub(9, -1.0)])
    assert (len(buffer), len(buffer.of(7)), len(buffer.of(8)), len(buffer.of(9))) == (2, 2, 0, 1)
    assert buffer.of(None) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.floats(-50, 0, width=32),
            st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=5),
        ),
        max_size=12,
    )
)
def test_a_buffer_comes_back_from_its_state(successes: list[tuple[int, float, list[int]]]) -> None:
    import json

    buffer, other = ReplayBuffer(2, 3), ReplayBuffer(2, 3)
    for row, number, tokens in successes:
        buffer.add([stub(row, number, tokens=tokens)])
    other.load(json.loads(json.dumps(buffer.state())), buffer.tensors())
    for row in range(6):
        assert list(other.of(row)) == list(buffer.of(row))
    buffer.add([stub(1, -1.0)])
    other.add([stub(1, -1.0)])
    assert [t.row for t in (buffer.of(r)[0] for r in buffer._successes)] == list(other._successes)


def test_replays_survive_a_checkpoint(tmp_path: Path) -> None:
    def env() -> Letters:
        return Letters(now_and_then)

    options = {"group_size": 2, "kl_coef": 0.01}
    make("replay_grpo", tmp_path / "whole", env(), **options).learn(4)
    assert logged(tmp_path / "whole")[3]["replay/groups"] > 0
    make("replay_grpo", tmp_path / "parts", env(), **options).learn(3)
    load("replay_grpo", tmp_path / "parts", env()).learn(1)
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")


def test_a_replay_is_no_sample(tmp_path: Path) -> None:
    agent = make("replay_grpo", tmp_path, Letters(now_and_then), group_size=2)
    tokens = []
    roll_out = agent.roll_out

    def counted(*args: Any) -> list[Group]:
        groups = roll_out(*args)
        tokens.append(sum(t.num_actions for group in groups for t in group))
        return groups

    agent.roll_out = counted
    agent.learn(4)
    assert agent.sampled_tokens == sum(tokens)


# Hints.


class Solvable(Letters):
    """Rows have a solution, and are right once half of it stands in the prompt; every third row is right at once."""

    def __init__(self, reward: Any = None) -> None:
        super().__init__(reward or self.told)
        self.rows = [{**row, "solution": "wxyz"} for row in self.rows]

    @staticmethod
    def told(prompt: str, number: int) -> bool:
        return prompt.endswith(("\nwx", "\nwxy")) or number % 3 == 0


def test_what_is_never_right_is_asked_again_with_more_and_more_of_the_solution(tmp_path: Path) -> None:
    agent = make("ghpo", tmp_path, Solvable(), solution="solution", group_size=3)
    first = agent.rollout.run(list(range(7)), episode_seeds(0, 0, 7, 3), agent_sampling(1.0))
    groups = agent.roll_out(list(range(7)), episode_seeds(0, 0, 7, 3), agent_sampling(1.0))
    for row, (group, unaided) in enumerate(zip(groups, first)):
        prompts = {t.episode.prompt[-1]["content"] for t in group}
        if row % 3 == 0:
            assert [t.ids for t in group] == [t.ids for t in unaided]
        else:
            [prompt] = prompts
            assert prompt.endswith("The solution begins like this:\nwx"), "a quarter of it was not enough"
            assert all(t.solved for t in group)
            text = agent.policy.tokenizer.decode_all(group[0].ids[: group[0].prompt_length])
            assert "\nwx" in text, "what is learned from is the prompt with the hint"
            assert not any(group[0].action_mask[: group[0].prompt_length])
    asked_twice = sum(t.num_actions for row in (1, 2, 4, 5) for t in first[row])
    assert agent.sampled_tokens >= asked_twice + 12, "the tries that were forgotten were sampled too"
    metrics = agent.after_update(agent.pack(groups))
    assert (metrics["hints/groups"], metrics["hints/rescued"]) == (4, 4)
    assert metrics["accuracy/without_hints"] == pytest.approx(3 / 7)
    assert agent.after_update(agent.pack(groups))["hints/groups"] == 0, "counted by step"


def test_held_out_problems_are_asked_without_hints() -> None:
    agent = make("ghpo", env=Solvable(), solution="solution")
    assert isinstance(agent.env, Hint)
    assert agent.env.share == 0.0
    assert agent.evaluate(7).accuracy == pytest.approx(1 / 3), "rows 0, 3 and 6 are one problem of three"


def test_hints_that_cannot_be_given_are_refused() -> None:
    with pytest.raises(ValueError, match="name the column that has one by solution="):
        make("ghpo", solution=None)
    with pytest.raises(ValueError, match="no solution in the column 'proof'"):
        make("ghpo", solution="proof")
    with pytest.raises(ValueError, match="pass the environment without Hint"):
        make("ghpo", env=Hint(Solvable(), solution="solution"))
    with pytest.raises(ValueError, match="hints are shares of the solution that rise"):
        make("ghpo", hints=(0.5, 0.25))
    with pytest.raises(ValueError, match="leaves no room for an answer"):
        make("ghpo", env=Solvable(), solution="solution", max_tokens=20)
    make("grpo", env=Solvable(), max_tokens=20)


def test_hints_resume(tmp_path: Path) -> None:
    make("ghpo", tmp_path / "whole", Solvable(), solution="solution").learn(3)
    make("ghpo", tmp_path / "parts", Solvable(), solution="solution").learn(2)
    load("ghpo", tmp_path / "parts", Solvable()).learn(1)
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")


# Sample, then forget.


def test_unlikelihood() -> None:
    p = torch.tensor([[0.5, 0.9, 1e-4, 1.0]], dtype=torch.float64)
    logprobs = p.log().requires_grad_()
    losses = unlikelihood_loss(logprobs)
    torch.testing.assert_close(
        losses[0, :3], torch.tensor([math.log(2), math.log(10), 1.00005e-4], dtype=torch.float64)
    )
    losses.sum().backward()
    assert logprobs.grad is not None
    # d/d log p of −log(1 − p) is p / (1 − p).
    torch.testing.assert_close(logprobs.grad[0, :3], p[0, :3] / (1 - p[0, :3]))
    assert logprobs.grad[0, 3] == 0, "a certain token has no say"


def test_the_copy_forgets_and_the_policy_does_not() -> None:
    agent = make("eepo", forget_learning_rate=1e-3)
    groups = sampled(agent)
    before = weights(agent)
    copy = agent.without(groups)
    assert all(torch.equal(p, before[name]) for name, p in agent.policy.named_parameters())
    assert agent.engine.model is agent.policy.model
    assert agent.learner.policy is agent.policy
    assert copy.model is not agent.policy.model
    batch = agent.pack(groups)
    now = agent.learner.own_logprobs(batch)
    with torch.no_grad():
        then = agent.learner.forward(copy.model, batch).logprobs
    assert (then.exp() * batch.action_mask).sum() < (now.exp() * batch.action_mask).sum()


def test_the_ratio_is_to_the_policy_that_sampled() -> None:
    agent = make("eepo", entropy_threshold=100.0, forget_learning_rate=1e-3, group_size=5)
    agent.entropies = [0.1, 0.1, 0.1]
    assert agent.forgets
    seeds = episode_seeds(0, 0, 2, 5)
    groups = agent.roll_out([0, 1], seeds, agent_sampling(1.0))
    plain = agent.rollout.run([0, 1], seeds, agent_sampling(1.0))
    assert [[t.ids for t in group[:3]] for group in groups] == [[t.ids for t in group[:3]] for group in plain]
    assert [len(group) for group in groups] == [5, 5]
    batch: Batch = agent.pack(groups)
    copy = agent.without([group[:3] for group in groups])
    own = agent.learner.own_logprobs(batch)
    with torch.no_grad():
        others = agent.learner.forward(copy.model, batch).logprobs
    late = torch.tensor([False, False, False, True, True] * 2)
    torch.testing.assert_close(batch.old_logprobs[~late], own[~late], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.old_logprobs[late], others[late], atol=1e-4, rtol=1e-4)
    assert (others[late] - own[late]).abs().max() > 1e-3, "they are different policies"


def test_forgetting_begins_when_three_steps_had_little_entropy(tmp_path: Path) -> None:
    make("eepo", tmp_path / "sure", entropy_threshold=100.0).learn(5)
    assert [row["forgetting"] for row in logged(tmp_path / "sure")] == [0, 0, 0, 1, 1]
    make("eepo", tmp_path / "unsure", entropy_threshold=0.01).learn(5)
    assert not any(row["forgetting"] for row in logged(tmp_path / "unsure"))
    make("eepo", tmp_path / "parts", entropy_threshold=100.0).learn(4)
    load("eepo", tmp_path / "parts").learn(1)
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "sure")


def test_the_entropy_that_decides_is_that_of_the_policy(tmp_path: Path) -> None:
    agent = make("eepo", entropy_threshold=100.0, forget_learning_rate=0.1)
    agent.entropies = [0.1, 0.2, 0.3]
    groups = agent.sample()
    own = [t for group in groups for t in group[:4]]
    agent.after_update(agent.pack(groups))
    expected = sum(t.entropy * t.num_actions for t in own) / sum(t.num_actions for t in own)
    assert agent.entropies == pytest.approx([0.2, 0.3, expected])


# Retries.


def test_a_wrong_answer_is_tried_again_for_less(tmp_path: Path) -> None:
    agent = make(
        "ufo", tmp_path, Letters(now_and_then), tries=3, decay=0.4, repetition=0.2, max_new_tokens=30, group_size=16
    )
    assert isinstance(agent.env, Retry)
    with torch.no_grad():  # an end token now and then
        agent.policy.model.get_input_embeddings().weight[agent.policy.tokenizer.end_id] *= 4
    found = set()
    for t in (t for group in agent.sample() for t in group):
        tries = sum(message["role"] == "assistant" for message in t.episode.completion)
        if t.episode.stop is Stop.ANSWERED:
            right = now_and_then(t.episode.completion[-1]["content"])
            answers = {m["content"] for m in t.episode.completion if m["role"] == "assistant"}
            expected = right * 0.4 ** (tries - 1) - 0.2 * (1 - len(answers) / tries)
            assert t.reward == pytest.approx(expected)
            found.add((tries, right))
    assert found >= {(1, True), (2, True), (3, False)}
    agent.learn(1)
    assert {"reward/part/tries", "reward/part/distinct"} <= set(logged(tmp_path)[0])


def test_held_out_problems_are_asked_once() -> None:
    agent = make("ufo", env=Letters(now_and_then))
    assert not isinstance(agent._held_out(), Retry)
    with pytest.raises(ValueError, match="Retry has to know what is right"):
        make("ufo", env=Letters(lambda completion: 0.5))
    with pytest.raises(ValueError, match="pass the environment without Retry"):
        make("ufo", env=Retry(Letters(now_and_then)))
    with pytest.raises(ValueError, match="tries is at least 2"):
        make("ufo", tries=1)


# A penalty on length where it does not hurt.


def judged(group: int, *answers: tuple[bool | None, int]) -> list[Trajectory]:
    return [
        replace(
            stub(group, -1.0, tokens=range(1 + length)),
            token_rewards={},
            episode=Episode(({"role": "user", "content": str(group)},), (), num_tokens=length),
            score=Score(None) if right is None else Score(0.7 * right, {"correct": float(right)}),
            group=group,
        )
        for right, length in answers
    ]


def test_brevity_counts_in_the_groups_that_are_solved_best() -> None:
    agent = make("grpo_lambda", length_share=0.5)
    easy = judged(0, (True, 2), (True, 4), (True, 6), (True, 8))
    hard = judged(1, (True, 2), (False, 9), (False, 3), (None, 3))
    batch = agent.estimate(agent.pack([hard, easy]))
    # Lengths 2, 4, 6, 8 have mean 5 and deviation √(20/3).
    shaped = [1 - 0.2 / (1 + math.exp(-(n - 5) / math.sqrt(20 / 3))) for n in (2, 4, 6, 8)]
    torch.testing.assert_close(batch.rewards, torch.tensor([1.0, 0.0, 0.0, 0.0, *shaped]))
    mean, deviation = sum(shaped) / 4, torch.tensor(shaped).std()
    advantages = batch.advantages.sum(dim=1) / batch.num_actions.clamp(min=1)
    expected = [(r - mean) / float(deviation + 1e-6) for r in shaped]
    torch.testing.assert_close(advantages[4:], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert advantages[4] > advantages[5] > 0 > advantages[6] > advantages[7], "the shorter the better"
    assert advantages[3] == 0, "nobody could tell"
    assert agent.after_update(batch)["length/penalty"] == pytest.approx((4 - sum(shaped)) / 8)


def test_without_penalty_it_is_grpo_on_right_and_wrong() -> None:
    agent = make("grpo_lambda", length_penalty=0.0)
    batch = agent.estimate(agent.pack([judged(0, (True, 2), (False, 4), (False, 4), (True, 9))]))
    torch.testing.assert_close(batch.rewards, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match='has no part "correct"'):
        make("grpo_lambda", env=Letters(lambda completion: 0.5))
