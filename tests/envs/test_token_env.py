"""The token-level MDP, and that it is the same MDP as the turn-level one."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.agents.engines import Generation
from tokengym.agents.rollout.chain import Chain
from tokengym.envs import ByteTokenizer, Reply, StopStrings, TextEnv, TokenEnv, Tokenizer
from tokengym.envs.tasks.math_verify import MathVerifyEnv
from tokengym.envs.tools.runner import run_jobs

import tokengym  # noqa: F401 (registers the environments)

from .templates import Guess, chat

BYTES = ByteTokenizer()
TOKENIZERS = {"bytes": BYTES, "qwen": chat("qwen"), "chatml base": chat("chatml base")}
TASKS = {"guess": Guess, "math": MathVerifyEnv}
ROWS = [{"low": 0, "high": 9}]


def guess(max_tokens=400, stop=(), **options) -> TokenEnv:
    return TokenEnv(Guess(**{"rows": ROWS} | options), max_tokens=max_tokens, stop=stop)


def say(env: TokenEnv, text: str, end: bool = True):
    """Step through `text`; what the last step returned."""
    tokenizer = env.text_env.tokenizer
    results = [env.step(i) for i in [*tokenizer.encode(text), *[tokenizer.end_id] * end]]
    for _, reward, terminated, truncated, info in results[:-1]:
        assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    return results[-1]


def shown(env: TokenEnv, observation) -> str:
    return env.text_env.tokenizer.decode_all(observation["tokens"][: observation["length"]].tolist())


# Gymnasium's conventions


@pytest.mark.parametrize("level", ["token", "turn"])
@pytest.mark.parametrize("tokenizer", ["bytes", chat("smollm2")], ids=["bytes", "smollm2"])
def test_gymnasium_finds_nothing_to_complain_about(level, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("MathVerify-v0", level=level, tokenizer=tokenizer, render_mode="ansi")
        check_env(env.unwrapped)
        env.reset(seed=0)
        for _ in range(3):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        assert env.render()
        env.close()


def test_gymnasium_finds_nothing_to_complain_about_in_several_turns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(guess(render_mode="ansi"), skip_render_check=True)


def test_the_observation():
    env = guess(max_tokens=64)
    observation, info = env.reset(seed=0)
    prompt = BYTES.encode_prompt(info["messages"])
    assert observation in env.observation_space
    assert observation["tokens"].tolist() == prompt + [BYTES.pad_id] * (64 - len(prompt))
    assert observation["length"] == len(prompt)
    assert not observation["action_mask"].any()
    observation = env.step(65)[0]
    assert observation in env.observation_space
    assert observation["tokens"][len(prompt)] == 65
    assert np.flatnonzero(observation["action_mask"]).tolist() == [len(prompt)]
    assert env.action_space == gym.spaces.Discrete(262)
    assert (observation["tokens"].dtype, observation["action_mask"].dtype) == (np.int32, np.int8)


def test_observations_are_copies():
    env = guess()
    observations = [env.reset(seed=0)[0]]
    observations += [env.step(65 + n)[0] for n in range(3)]
    kept = [{key: np.array(value) for key, value in o.items()} for o in observations]
    for n, first in enumerate(observations):
        for second in observations[:n]:
            assert not np.shares_memory(first["tokens"], second["tokens"])
            assert not np.shares_memory(first["action_mask"], second["action_mask"])
    observations[-1]["tokens"][:] = 7
    after = env.step(70)[0]
    assert 7 not in after["tokens"]
    observations[0]["tokens"][:] = 9
    env.reset(seed=1)
    for before, now in zip(kept[1:-1], observations[1:-1]):
        assert all((before[key] == now[key]).all() for key in before)


def test_an_episode_of_several_turns():
    env = guess(render_mode="ansi")
    env.reset(seed=0)
    wrong = (env.text_env.target + 1) % 10
    observation, reward, terminated, truncated, info = say(env, f"{wrong}")
    assert (reward, terminated, truncated) == (-0.125, False, False)
    assert (info["stop"], info["guess"]) == ("", wrong)
    hint = env.text_env.episode.completion[-1]["content"]
    prompt = "<user>Guess a number from 0 to 9.<end><assistant>"
    assert shown(env, observation) == f"{prompt}{wrong}<end><user>{hint}<end><assistant>"
    assert env.render() == shown(env, observation)
    mask = observation["action_mask"][: observation["length"]]
    assert np.flatnonzero(mask).tolist() == [len(BYTES.encode_prompt(env.text_env.episode.prompt)) + n for n in (0, 1)]
    observation, reward, terminated, truncated, info = say(env, str(env.text_env.target))
    assert (terminated, truncated, info["stop"]) == (True, False, "answered")
    assert reward == pytest.approx(1 - 0.003)
    assert shown(env, observation).endswith(f"{env.text_env.target}<end>")  # nothing follows the last turn
    assert env.text_env.episode.num_tokens == 4


def test_stop_strings_end_a_turn():
    env = guess(stop=["!", "##"])
    env.reset(seed=0)
    say(env, "no#", end=False)
    observation, _, _, _, info = env.step(ord("#"))
    assert info["guess"] is None
    # The template's end of turn follows with mask 0: the policy did not sample it.
    assert "no##<end><user>What?" in shown(env, observation)
    end = observation["tokens"].tolist().index(BYTES.end_id, observation["action_mask"].nonzero()[0][-1])
    assert observation["action_mask"][end] == 0
    assert say(env, f"{env.text_env.target}!", end=False)[2]


def test_truncated_in_the_middle_of_a_turn():
    env = guess(max_tokens=60)
    observation, _ = env.reset(seed=0)
    room = 60 - observation["length"]
    observation, reward, terminated, truncated, info = say(env, "x" * room, end=False)
    assert (terminated, truncated, info["stop"]) == (False, True, "length")
    assert observation["length"] == 60
    assert reward == pytest.approx(-0.001 * room)
    assert env.text_env.episode.num_tokens == room


def test_an_end_at_the_very_last_token_is_an_answer():
    env = guess(max_tokens=60)
    observation, _ = env.reset(seed=0)
    text = "x" * (60 - observation["length"] - 2) + str(env.text_env.target)
    observation, _, terminated, truncated, _ = say(env, text)
    assert (terminated, truncated, observation["length"]) == (True, False, 60)


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_reply_that_leaves_no_room_is_not_shown(spare):
    """There must be room for the reply and one action."""
    env = guess(max_tokens=300)
    env.reset(seed=0)
    wrong = str((env.text_env.target + 1) % 10)
    observation = say(env, wrong)[0]
    length = int(observation["length"])
    env = guess(max_tokens=length + spare)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = say(env, wrong)
    if spare == 1:
        assert (observation["length"], terminated, truncated) == (length, False, False)
        return
    assert (terminated, truncated, info["stop"]) == (False, True, "length")
    assert shown(env, observation).endswith(f"{wrong}<end>")
    assert reward == pytest.approx(-0.125 - 0.001 * len(wrong))  # the turn's own reward is kept, and what it said of it
    assert info["guess"] == int(wrong)


# Errors


def test_stepping_without_an_episode():
    env = guess()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(1)
    env.reset(seed=0)
    say(env, str(env.text_env.target))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(1)
    observation, _ = env.reset()
    assert not observation["action_mask"].any()
    assert env.step(1)[0]["action_mask"].sum() == 1


@pytest.mark.parametrize("action", [-1, 262, np.int64(10**6)])
def test_ids_outside_the_vocabulary(action):
    env = guess()
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"the action {action} is not a token id in \[0, 262\)"):
        env.step(action)
    assert env.step(np.int32(65))[0]["length"] == before["length"] + 1


@pytest.mark.parametrize("action", [3.7, "a", None, np.float32(1)])
def test_an_action_is_an_integer(action):
    env = guess()
    env.reset(seed=0)
    with pytest.raises(TypeError):
        env.step(action)


def test_a_prompt_that_leaves_no_room():
    env = guess()
    length = int(env.reset(seed=0)[0]["length"])
    assert guess(max_tokens=length + 1).reset(seed=0)[0]["length"] == length
    env = guess(max_tokens=length)
    with pytest.raises(ValueError, match=f"the prompt of row 0 has {length} tokens, .* raise max_tokens or leave such"):
        env.reset(seed=0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(65)


def test_a_long_prompt_after_a_good_one_leaves_no_half_episode():
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "1" * 100 + "+1?", "answer": "2"}]
    env = TokenEnv(MathVerifyEnv(rows, split="all", prompt="{question}"), max_tokens=60)
    env.reset(options={"row": 0})
    env.step(65)
    with pytest.raises(ValueError, match="the prompt of row 1"):
        env.reset(options={"row": 1})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(65)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_tokens is at least 1, not 0"):
        guess(max_tokens=0)
    with pytest.raises(ValueError, match="stop strings are a sequence"):
        guess(stop="!")


# Copies


def same(first, second):
    assert first[1:] == second[1:]
    assert all(np.array_equal(first[0][key], second[0][key]) for key in first[0])


@pytest.mark.parametrize("copied", [TokenEnv.fork, lambda env: pickle.loads(pickle.dumps(env))], ids=["fork", "pickle"])
def test_copies_in_the_middle_of_a_turn(copied):
    env = guess(stop=["!"])
    env.reset(seed=3)
    say(env, "nothing")
    say(env, "no", end=False)
    other = copied(env)
    before = env._observation()
    rest = [*b"w!", *str(env.text_env.target).encode(), BYTES.end_id]
    taken = [other.step(i) for i in rest]
    same((before,), (env._observation(),))  # what the copy does is not done here
    for result, i in zip(taken, rest):
        same(env.step(i), result)
    for _ in range(3):
        same(env.reset(), other.reset())
        same(say(env, "9"), say(other, "9"))


def test_a_fork_shares_what_does_not_change():
    env = gym.make("MathVerify-v0", tokenizer=chat("qwen")).unwrapped
    assert isinstance(env, TokenEnv)
    env.reset(seed=0)
    fork = env.fork()
    for name in ("rows", "reward", "tokenizer"):
        assert getattr(fork.text_env, name) is getattr(env.text_env, name)
    assert fork.transcript is not None
    assert fork.transcript.tokenizer is env.text_env.tokenizer
    assert fork.spec is env.spec
    assert fork.observation_space is env.observation_space
    env.action_space.seed(0)
    fork.action_space.seed(0)
    drawn = [fork.action_space.sample() for _ in range(5)]
    assert [env.action_space.sample() for _ in range(5)] == drawn


def test_a_tasks_own_fork_is_used():
    class Sandboxed(Guess):
        forked = 0

        def fork(self):
            copy = super().fork()
            copy.forked = self.forked + 1
            return copy

    env = TokenEnv(Sandboxed())
    assert env.fork().fork().text_env.forked == 2


# The two levels are one MDP


def by_tokens(task: TextEnv, row: int, seed: int, tokens, max_tokens: int, stop):
    """Through `TokenEnv`: ids, mask, total reward, and how it ended, or None where the tokens ran out before."""
    env = TokenEnv(task, max_tokens=max_tokens, stop=stop)
    observation, _ = env.reset(seed=seed, options={"row": row})
    total, ended = 0.0, None
    for token in tokens:
        observation, reward, terminated, truncated, info = env.step(token)
        total += reward
        assert not (terminated and truncated)
        if terminated or truncated:
            ended = (info["stop"], terminated, truncated)
            break
    length = int(observation["length"])
    return observation["tokens"][:length].tolist(), observation["action_mask"][:length].tolist(), total, ended


def by_turns(task: TextEnv, tokenizer: Tokenizer, row: int, seed: int, tokens, max_tokens: int, stop):
    """The same as a rollout does it, with an engine that samples the given tokens."""
    chain = Chain(task, tokenizer, max_tokens, {"row": row}, seed, group=0)
    strings = StopStrings(tokenizer, stop)
    source = iter(tokens)
    while not chain.done:
        ids: list[int] = []
        finish = "length"
        for token in source:
            ids.append(token)
            if token in tokenizer.end_ids or strings.hit(ids):
                finish = "stop"
                break
            if len(chain.transcript) + len(ids) == max_tokens:
                break
        else:  # the tokens ran out within a turn
            transcript = chain.transcript
            rewards = sum(chain.token_rewards.values())
            return transcript.ids + ids, transcript.action_mask + [1] * len(ids), rewards, None
        job = chain.take(Generation(ids, [0.0] * len(ids), finish, version=0))  # type: ignore[arg-type]
        run_jobs([] if job is None else [job])
        chain.close()
    [score] = task.reward.score([task.episode])
    trajectory = chain.trajectory(score, [chain])
    stopped = task.episode.stop
    ended = (str(stopped), stopped == "answered", stopped != "answered")
    assert sum(trajectory.action_mask) == trajectory.num_actions == task.episode.num_tokens
    return trajectory.ids, trajectory.action_mask, trajectory.reward or 0.0, ended


@settings(max_examples=80)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_both_levels_give_the_same_tokens_masks_and_rewards(task, tokenizer, data):
    tok = TOKENIZERS[tokenizer]
    make = TASKS[task]
    seed = data.draw(st.integers(0, 2**32))
    row = data.draw(st.integers(0, 2))
    stop = data.draw(st.sampled_from([(), ("\n",), ("}", "##"), ("é🙂",)]))
    first, second = make(tokenizer=tok), make(tokenizer=tok)
    prompt = len(tok.encode_prompt(first.opening(first.rows[row])))
    max_tokens = prompt + data.draw(st.integers(1, 160))
    words = ["5", "7", "\n", "}", "#", "##", "é🙂", "\\boxed{12}", f"\\boxed{{{first.answer(first.rows[row])}}}", " no"]
    word = st.sampled_from(words).map(tok.encode)
    end = st.sampled_from(sorted(tok.end_ids)).map(lambda i: [i])
    anything = st.integers(0, tok.vocab_size - 1).map(lambda i: [i])
    pieces = data.draw(st.lists(st.one_of(word, word, end, anything), max_size=40))
    tokens = [token for piece in pieces for token in piece]
    one = by_tokens(first, row, seed, tokens, max_tokens, stop)
    two = by_turns(second, tok, row, seed, tokens, max_tokens, stop)
    assert one[:2] == two[:2]
    assert one[2] == pytest.approx(two[2])
    assert one[3] == two[3]
    assert len(one[0]) <= max_tokens
    if one[3] is not None:
        assert first.episode == second.episode


def test_the_property_reaches_every_kind_of_end():
    """The generator above is no test if it never gets there: each kind of end by hand."""
    tok = BYTES
    prompt = len(tok.encode_prompt(Guess().opening(Guess().rows[2])))
    right, wrong, end = ord("5"), ord("4"), tok.end_id
    cases = {
        "answered": ([wrong, end, right, end], 400),
        "turns": ([wrong, end] * 4, 1000),
        "length": ([wrong] * 50, prompt + 20),
        "length by a reply": ([wrong, end], prompt + 8),
    }
    for name, (tokens, max_tokens) in cases.items():
        one = by_tokens(Guess(), 2, 0, tokens, max_tokens, ())
        assert one == by_turns(Guess(), tok, 2, 0, tokens, max_tokens, ())
        assert one[3] is not None
        assert one[3][0] == name.split()[0]


def test_the_reply_of_the_last_turn_is_the_texts_own():
    """A reply that ends the episode with a message: no level shows it to the policy, and both keep it in the episode."""

    class Farewell(Guess):
        def reply(self, text):
            reply = super().reply(text)
            return Reply(reply.messages, reply.stop, 0.5 if reply.stop else 0.0)

    env = TokenEnv(Farewell(rows=[{"low": 5, "high": 5}]))
    env.reset(seed=0)
    observation, reward, *_ = say(env, "5")
    assert "Yes!" not in shown(env, observation)
    assert env.text_env.episode.completion[-1]["content"] == "Yes!"
    assert reward == pytest.approx(0.5 + 1 - 0.001)
