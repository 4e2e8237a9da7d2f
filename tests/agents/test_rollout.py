"""Rollouts over an environment of several turns, sampled by a real model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents import Policy
from tokengym.agents.engines import Generation, Sampling, TorchEngine
from tokengym.agents.learner import Batch, Learner
from tokengym.agents.rollout import ChainRollout, Group, PromptCursor, episode_seeds
from tokengym.envs import Reply, TextEnv
from tokengym.envs.core import OpenTurn
from tokengym.rewards import Episode, Reward

from tokengym import Message, Score, Stop

MakePolicy = Callable[..., Policy]

ROWS = [{"text": "a", "answer": 0}, {"text": "a longer text", "answer": 1}, {"text": "b?", "answer": 2}]


class Echo(TextEnv):
    """Says something about every turn; ends when a turn has an even number of characters, or after three turns."""

    def __init__(self, reward: Any = None, rows: Sequence[Mapping[str, Any]] = ROWS, **options: Any) -> None:
        super().__init__(rows, reward or (lambda completion: len(completion) / 10), **{"max_turns": 3} | options)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def reply(self, text: str) -> Reply:
        if len(text) % 2 == 0:
            return Reply(stop=Stop.ANSWERED, reward=0.5)
        return Reply([{"role": "tool", "content": f"{len(text)}!"}], reward=0.25)


class Moody(Echo):
    """Opens differently in every episode."""

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": "x" * int(self.np_random.integers(1, 9))}]


@pytest.fixture
def policy(make_policy: MakePolicy) -> Policy:
    policy = make_policy(seed=4)
    with torch.no_grad():  # an end token now and then
        policy.model.get_input_embeddings().weight[257] *= 3
    return policy


def rollout(policy: Policy, env: TextEnv | None = None, **limits: Any) -> ChainRollout:
    engine = TorchEngine(policy.model, policy.tokenizer)
    return ChainRollout(env or Echo(), engine, policy.tokenizer, **{"max_tokens": 80, "max_new_tokens": 24} | limits)


def run(policy: Policy, env: TextEnv | None = None, samples: int = 6, seed: int = 0, **limits: int) -> list[Group]:
    seeds = episode_seeds(seed, 0, 3, samples)
    return rollout(policy, env, **limits).run([0, 1, 2], seeds, Sampling())


def test_groups_and_episodes(policy: Policy) -> None:
    groups = run(policy)
    trajectories = [t for group in groups for t in group]
    assert [len(group) for group in groups] == [6, 6, 6]
    assert [t.group for t in trajectories] == [0] * 6 + [1] * 6 + [2] * 6
    assert {t.episode.stop for t in trajectories} >= {Stop.ANSWERED, Stop.LENGTH}
    assert max(len(t.episode.completion) for t in trajectories) >= 3
    for i, group in enumerate(groups):
        for t in group:
            assert t.episode.row == ROWS[i]
            assert t.episode.answer == i
            assert t.ids[: t.prompt_length] == policy.tokenizer.encode_prompt(
                [{"role": "user", "content": ROWS[i]["text"]}]
            )
            assert t.score.value == pytest.approx(len(t.episode.text) / 10)
            assert t.reward == pytest.approx(t.score.value + sum(t.token_rewards.values()))
    assert len({tuple(t.ids) for t in trajectories}) > 10


def test_masks_tell_the_policys_tokens_from_the_environments(policy: Policy) -> None:
    decode = policy.tokenizer.decode
    several = 0
    for t in (t for group in run(policy) for t in group):
        assert len(t.ids) == len(t.action_mask) == len(t.logprobs) <= 80
        assert not any(t.action_mask[: t.prompt_length])
        assert t.action_mask[t.prompt_length] == 1
        assert sum(t.action_mask) == t.num_actions == t.episode.num_tokens
        assert all((lp == 0.0) for lp, m in zip(t.logprobs, t.action_mask) if not m)
        assert all((lp < 0.0) for lp, m in zip(t.logprobs, t.action_mask) if m)
        assert all(t.action_mask[i] == 1 for i in t.token_rewards)

        # The runs of ones are the assistant's turns, the runs of zeros between them the tool's.
        runs: list[tuple[int, list[int]]] = []
        for token, m in zip(t.ids[t.prompt_length :], t.action_mask[t.prompt_length :]):
            if not runs or runs[-1][0] != m:
                runs.append((m, []))
            runs[-1][1].append(token)
        said = [m["content"] for m in t.episode.completion if m["role"] == "assistant"]
        assert [decode(ids) for m, ids in runs if m] == said
        for m, ids in runs:
            if not m:
                several += 1
                # The policy sampled the end of its turn: the reply begins after it.
                assert policy.tokenizer.decode_all(ids).startswith("<tool>")
                assert policy.tokenizer.decode_all(ids).endswith("!<end><assistant>")
    assert several > 3


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_logprobs_of_all_turns_are_those_of_training(policy: Policy, temperature: float) -> None:
    groups = rollout(policy).run([0, 1, 2], episode_seeds(0, 0, 3, 6), Sampling(temperature))
    ts = [t for group in groups for t in group]
    assert any(len(t.episode.completion) >= 3 for t in ts)
    batch = Batch.pack(
        [t.ids for t in ts], [t.action_mask for t in ts], [t.logprobs for t in ts], torch.zeros(len(ts)), 256
    )
    with torch.no_grad():
        found = Learner(policy, temperature=temperature).forward(policy.model, batch).logprobs
    torch.testing.assert_close(found * batch.action_mask, batch.old_logprobs, atol=1e-4, rtol=0)


def test_a_seed_gives_the_same_episode_whatever_is_beside_it(policy: Policy) -> None:
    seeds = episode_seeds(3, 5, 3, 4)
    runner = rollout(policy)
    groups = runner.run([0, 1, 2], seeds, Sampling())
    # What the engine has of the first time would change the order of sums, and with it the last digits.
    runner.engine = TorchEngine(policy.model, policy.tokenizer)
    again = runner.run([0, 1, 2], seeds, Sampling())  # with the environments of the first time
    assert again == groups
    for row in (0, 1, 2):
        for i, seed in enumerate(seeds[row]):
            [[alone]] = rollout(policy).run([row], [[seed]], Sampling())
            assert alone.ids == groups[row][i].ids
            assert alone.episode == groups[row][i].episode


def test_the_environment_itself_is_left_alone(policy: Policy) -> None:
    env = Echo()
    env.reset(seed=1, options={"row": 2})
    env.step("odd")
    before = (env.episode, env.np_random.bit_generator.state)
    run(policy, env)
    assert (env.episode, env.np_random.bit_generator.state) == before


def test_a_prompt_that_is_too_long(policy: Policy) -> None:
    length = len(policy.tokenizer.encode_prompt([{"role": "user", "content": ROWS[1]["text"]}]))
    with pytest.raises(ValueError, match=rf"row 1 has {length} tokens.*max_tokens={length}; raise max_tokens"):
        run(policy, max_tokens=length)
    groups = run(policy, max_tokens=length + 1)
    assert {t.num_actions for t in groups[1]} == {1}


def test_a_turn_at_its_limit_is_truncated(policy: Policy) -> None:
    for t in (t for group in run(policy, max_new_tokens=3) for t in group):
        turns = [m for m in t.episode.completion if m["role"] == "assistant"]
        assert t.num_actions <= 3 * len(turns)
        if t.episode.stop is Stop.LENGTH:
            assert t.action_mask[-3:] == [1, 1, 1]
            assert 257 not in t.ids[-3:]
            assert t.episode.completion[-1]["role"] == "assistant"


def test_an_episode_at_its_limit_is_truncated(policy: Policy) -> None:
    stops = set()
    for t in (t for group in run(policy, max_tokens=30, samples=20) for t in group):
        stops.add(t.episode.stop)
        assert len(t.ids) <= 30
        assert t.action_mask[-1] == 1, "a reply that the policy cannot answer is not part of the trajectory"
        if len(t.ids) == 30 and t.ids[-1] != 257:
            assert t.episode.stop is Stop.LENGTH
    assert Stop.LENGTH in stops


def test_the_turn_limit(policy: Policy) -> None:
    ts = [t for group in run(policy, Echo(max_turns=1)) for t in group]
    assert {t.episode.stop for t in ts} <= {Stop.TURNS, Stop.ANSWERED, Stop.LENGTH}
    assert Stop.TURNS in {t.episode.stop for t in ts}
    assert all(len(t.episode.completion) == 1 for t in ts)


def test_abstentions_are_kept_as_such(policy: Policy) -> None:
    def picky(completion: str, answer: int) -> float | None:
        if answer == 1:
            raise RuntimeError("no idea")
        return None if answer == 2 else 1.0

    with pytest.warns(UserWarning, match="no idea"):
        groups = run(policy, Echo(picky))
    assert {t.score.value for t in groups[0]} == {1.0}
    assert all(t.score.abstained and t.reward is None for t in groups[1] + groups[2])
    assert all("RuntimeError: no idea" in t.score.error for t in groups[1])


def test_scoring_is_one_batch_of_whole_episodes(policy: Policy) -> None:
    batches: list[int] = []

    def counting(completions: list[str], **columns: Any) -> list[float]:
        batches.append(len(completions))
        return [1.0] * len(completions)

    env = Echo(counting)
    batches.clear()
    groups = run(policy, env)
    assert batches == [18]
    assert all(t.score == Score(1.0, t.score.parts) for group in groups for t in group)


class Beside(Reward):
    """Notes what it scores, and in which thread."""

    runs_beside = True  # type: ignore[assignment]

    def __init__(self, remembers: bool = False) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self._remembers = remembers

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        self.batches.append((threading.current_thread().name, [e.row["answer"] for e in episodes]))
        return [Score(float(len(e.text)), {"row": e.row["answer"]}) for e in episodes]

    def state(self) -> dict[str, Any]:
        return {"seen": len(self.batches)} if self._remembers else {}


class Ends(Echo):
    """Ends after as many turns as the row's number says."""

    def reply(self, text: str) -> Reply:
        if self.num_turns > self.episode.answer:
            return Reply(stop=Stop.ANSWERED)
        return Reply([{"role": "tool", "content": "go on"}])


def test_groups_are_scored_beside_the_turns_of_others_and_never_divided(policy: Policy) -> None:
    seeds = episode_seeds(0, 0, 3, 6)
    reward = Beside()
    groups = rollout(policy, Ends(reward), max_tokens=400, max_new_tokens=300).run([0, 1, 2], seeds, Sampling())
    batches = [(thread.startswith("tokengym-scoring"), rows) for thread, rows in reward.batches[1:]]
    assert batches == [(True, [0] * 6), (True, [1] * 6), (False, [2] * 6)]
    for row, group in enumerate(groups):
        assert [t.score.parts["row"] for t in group] == [row] * 6
        assert [t.score.value for t in group] == [len(t.episode.text) for t in group]
    # What depends on the order of the episodes is scored at the end.
    reward = Beside(remembers=True)
    rollout(policy, Ends(reward), max_tokens=400, max_new_tokens=300).run([0, 1, 2], seeds, Sampling())
    assert [(thread.startswith("tokengym"), len(rows)) for thread, rows in reward.batches[1:]] == [(False, 18)]


def test_others_take_turns_while_a_group_is_scored(policy: Policy) -> None:
    """The score of the first group comes only once the engine has been asked again."""
    asked_again, overlapped = threading.Event(), []

    class Waits(Beside):
        def score(self, episodes: Sequence[Episode]) -> list[Score]:
            if len(episodes) > 1 and episodes[0].row["answer"] == 0:
                asked_again.clear()
                overlapped.append(asked_again.wait(20))
            return super().score(episodes)

    runner = rollout(policy, Ends(Waits()), max_tokens=400, max_new_tokens=300)
    generate = runner.engine.generate

    def noting(*args: Any, **options: Any) -> Any:
        found = generate(*args, **options)
        time.sleep(0.1)  # the scoring thread has begun by now
        asked_again.set()
        return found

    runner.engine.generate = noting  # type: ignore[method-assign]
    groups = runner.run([0, 1, 2], episode_seeds(0, 0, 3, 6), Sampling())
    assert overlapped == [True]
    assert [len(group) for group in groups] == [6, 6, 6]


def test_an_error_of_the_reward_in_its_thread_is_raised(policy: Policy) -> None:
    class Broken(Beside):
        def score(self, episodes: Sequence[Episode]) -> list[Score]:
            if len(episodes) > 1:
                raise ZeroDivisionError("a programming error")
            return super().score(episodes)

    with pytest.raises(ZeroDivisionError, match="a programming error"):
        rollout(policy, Ends(Broken()), max_tokens=400).run([0, 1, 2], episode_seeds(0, 0, 3, 6), Sampling())


class Tooled(TextEnv):
    """Every turn with an odd number of characters calls a tool that sleeps as long as the row says."""

    def __init__(self, seconds: Sequence[float], **options: Any) -> None:
        self._seconds = seconds
        self.called: list[str] = []
        rows = [{"text": "abc"[i], "seconds": s, "answer": i} for i, s in enumerate(seconds)]
        super().__init__(rows, lambda completion: len(completion) / 10, tools=[self.wait], max_turns=3, **options)

    shared = (*TextEnv.shared, "called", "toolset")

    def wait(self, text: str) -> str:
        """Wait.

        Args:
            text: anything
        """
        assert self._row is not None
        self.called.append(text)
        time.sleep(self._row["seconds"])
        return f"waited {text}"

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def open_turn(self, text: str, *, num_tokens: int | None = None) -> OpenTurn:
        call = f'<tool_call>{{"name": "wait", "arguments": {{"text": "{self.num_turns}"}}}}</tool_call>'
        return super().open_turn(call if len(text) % 2 else "said", num_tokens=num_tokens)


def batches_of(runner: ChainRollout) -> list[list[tuple[int, ...]]]:
    """The prompts of every call of the engine, from now on."""
    calls: list[list[tuple[int, ...]]] = []
    generate = runner.engine.generate

    def noted(requests: Any, *args: Any, **options: Any) -> Any:
        calls.append([tuple(r.prompt) for r in requests])
        return generate(requests, *args, **options)

    runner.engine.generate = noted  # type: ignore[method-assign]
    return calls


def test_a_slow_tool_does_not_hold_up_the_others(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = episode_seeds(1, 0, 3, 4)
    quick = rollout(policy, Tooled([0.0] * 3), max_tokens=500).run([0, 1, 2], seeds, Sampling())
    assert sum(len(t.turns) > 2 for group in quick for t in group) >= 2
    monkeypatch.setattr("tokengym.agents.rollout.patience.LEAST", 0.05)
    runner = rollout(policy, Tooled([0.0, 0.6, 0.0]), max_tokens=500)
    calls = batches_of(runner)
    slow = runner.run([0, 1, 2], seeds, Sampling())
    assert [[t.ids for t in group] for group in slow] == [[t.ids for t in group] for group in quick]
    opening = tuple(quick[1][0].ids[: quick[1][0].prompt_length])
    # Rows 0 and 2 are through before row 1 has its second turn.
    second = next(
        i for i, call in enumerate(calls) for ids in call if ids[: len(opening)] == opening and ids != opening
    )
    assert all(ids[: len(opening)] == opening for call in calls[second:] for ids in call)


def test_an_episode_may_take_so_long_and_no_longer(policy: Policy) -> None:
    began = time.monotonic()
    runner = rollout(policy, Tooled([0.0, 60.0, 0.0]), max_tokens=500, max_seconds=1.0)
    groups = runner.run([0, 1, 2], episode_seeds(1, 0, 3, 4), Sampling())
    assert time.monotonic() - began < 20
    hung = [t for t in groups[1] if t.tool_calls]
    assert hung
    assert {t.episode.stop for t in hung} == {Stop.TIME}
    assert all(t.action_mask[-1] == 1 and t.tool_calls == 1 for t in hung)
    assert all(t.reward is not None for group in groups for t in group)


def test_an_engine_that_fails_costs_the_episodes_that_it_was_at(policy: Policy) -> None:
    runner = rollout(policy, Ends(), max_tokens=400, max_new_tokens=300)
    seeds = episode_seeds(0, 0, 3, 6)
    whole = runner.run([0, 1, 2], seeds, Sampling())
    generate, calls = runner.engine.generate, []

    def failing(requests: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(requests))
        found = generate(requests, *args, **options)
        if len(calls) == 2:  # the first request of the second turn
            found[0] = [Generation([], [], "error", g.version) for g in found[0]]  # type: ignore[arg-type]
        if len(calls) == 4:
            found[0] = [Generation([], [], "error", g.version, []) for g in found[0]]  # type: ignore[arg-type]
        return found

    runner.engine.generate = failing  # type: ignore[method-assign]
    groups = runner.run([0, 1, 2], seeds, Sampling())
    failed = [t for group in groups for t in group if t.episode.stop is Stop.ERROR]
    assert len(failed) == 1
    assert failed[0].score == Score(None, error="the engine failed")
    assert failed[0].reward is None
    for group, others in zip(groups, whole):
        for t, other in zip(group, others):
            assert t is failed[0] or (t.ids == other.ids and t.score == other.score)
    [at_once] = runner.run([0], [[1]], Sampling())
    assert [t.episode.stop for t in at_once] == [Stop.ERROR]
    assert list(at_once[0].turns) == []


def test_a_tool_that_hangs_costs_its_episode_the_result(policy: Policy) -> None:
    env = Tooled([0.0, 60.0, 0.0], tool_limits={"seconds": 0.3})
    groups = rollout(policy, env, max_tokens=500).run([0, 1, 2], episode_seeds(1, 0, 3, 4), Sampling())
    results = [m["content"] for t in groups[1] for m in t.episode.completion if m["role"] == "tool"]
    assert results
    assert all("error: no result within 0.3 s" in text for text in results)
    assert all(t.score.parts["tool_errors"] == t.tool_calls for t in groups[1])
    assert all(t.score.parts["tool_errors"] == 0 for t in groups[0] + groups[2])


def test_an_environment_that_draws_its_opening(policy: Policy) -> None:
    """Episodes of a row may open differently: what was sampled after one opening is never filed under another."""
    try:
        groups = run(policy, Moody())
    except ValueError:
        return  # refused is as good
    ts = [t for group in groups for t in group]
    batch = Batch.pack(
        [t.ids for t in ts], [t.action_mask for t in ts], [t.logprobs for t in ts], torch.zeros(len(ts)), 256
    )
    with torch.no_grad():
        found = Learner(policy).forward(policy.model, batch).logprobs
    torch.testing.assert_close(found * batch.action_mask, batch.old_logprobs, atol=1e-4, rtol=0)


def test_each_row_has_reset_options_of_its_own(policy: Policy) -> None:
    class Told(Echo):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.told = (options or {}).get("told", "nothing")
            return super().reset(seed=seed, options=options)

        def messages(self, row: Mapping[str, Any]) -> list[Message]:
            return [{"role": "user", "content": f"{row['text']} {getattr(self, 'told', '')}"}]

    groups = rollout(policy, Told()).run([0, 2], [[1], [2]], Sampling(), [{"told": "much"}, {}])
    assert [group[0].episode.prompt[0]["content"] for group in groups] == ["a much", "b? nothing"]
    with pytest.raises(ValueError, match="zip"):
        rollout(policy, Told()).run([0, 2], [[1], [2]], Sampling(), [{}])


# Prompts and seeds.


@given(st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(1, 20), min_size=1, max_size=12))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(num_rows: int, seed: int, counts: list[int]) -> None:
    cursor = PromptCursor(num_rows, seed)
    drawn = [row for n in counts for row in cursor.draw(n)]
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn) - num_rows + 1, num_rows):
        assert sorted(drawn[start : start + num_rows]) == list(range(num_rows))
    assert drawn == PromptCursor(num_rows, seed).draw(sum(counts))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    cursor = PromptCursor(50, 0)
    first, second = cursor.draw(50), cursor.draw(50)
    assert first != second
    assert first != PromptCursor(50, 1).draw(50)


@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 30))
@settings(deadline=None)
def test_a_cursor_goes_on_from_its_state(num_rows: int, before: int, after: int) -> None:
    cursor = PromptCursor(num_rows, 7)
    cursor.draw(before)
    resumed = PromptCursor(num_rows, 7)
    resumed.load_state(cursor.state())
    assert resumed.draw(after) == cursor.draw(after)


def test_episode_seeds() -> None:
    found = [s for step in range(50) for row in episode_seeds(0, step, 8, 8) for s in row]
    found += [s for row in episode_seeds(1, 0, 8, 8) for s in row]
    assert len(set(found)) == len(found)
    assert all(0 <= s < 2**62 for s in found)
    near = {s + turn for s in found for turn in range(50)}
    assert len(near) == 50 * len(found)
    assert episode_seeds(4, 2, 3, 5) == episode_seeds(4, 2, 3, 5)
    assert [len(row) for row in episode_seeds(4, 2, 3, 5)] == [5, 5, 5]
