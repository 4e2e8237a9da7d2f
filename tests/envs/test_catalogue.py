"""What holds for every registered environment, at both levels."""

from __future__ import annotations

import itertools
import pickle
import random
import re
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from tokengym.envs import ENVIRONMENTS, TextEnv, TokenEnv, Transcript, as_text_env, fork, restore, state

import tokengym  # noqa: F401 (registers the environments)

SECTIONS = ["Description", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End", "Arguments"]
LEVELS = ["turn", "token"]
END = 257
BRIEF = ["MathVerify-v0", "ToolMath-v0", "Countdown-v0", "GuessNumber-v0", "TextGrid-v0", "Wordle-v0"]
"""Those that the built-in policy can learn: its prompts are some tens of bytes."""

every_id = pytest.mark.parametrize("env_id", ENVIRONMENTS)
every_level = pytest.mark.parametrize("level", LEVELS)


def make(env_id, level="turn", **options):
    return gym.make(env_id, level=level, disable_env_checker=True, **options).unwrapped


def maximum(env_id, row):
    """The most that can be had: 1, but for a model's score, of which nobody knows: there what the reference gets."""
    if env_id != "Summarize-v0":
        return 1.0
    env = make(env_id)
    env.reset(options={"row": row})
    return env.step(perfect(env, row)[0])[1]


def turns_of(env, completion):
    """The policy's turns in a completion; as tokens at the token level."""
    turns = [message["content"] for message in completion if message["role"] == "assistant"]
    if isinstance(env, TextEnv):
        return turns
    task = env.text_env
    actions = []
    for i, turn in enumerate(turns):
        inline = task.inline_results and i < len(turns) - 1
        actions += [*turn.encode(), *([] if inline else [END])]
    return actions


def play(env, actions):
    """All that the steps give, as values that can be compared."""
    results = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not (terminated and truncated)
        assert observation in env.observation_space
        assert type(reward) is float
        results.append((repr(observation), reward, terminated, truncated, info))
        if terminated or truncated:
            break
    return results


def perfect(env, row):
    """The actions of the demonstration for a row."""
    task = env if isinstance(env, TextEnv) else env.text_env
    return turns_of(env, task.demonstration(task.rows[row]))


def some_rows(env, count):
    """Rows with a demonstration of more than one turn first, where there are any."""
    task = env if isinstance(env, TextEnv) else env.text_env
    rows = range(min(len(task.rows), 6 * count))
    return sorted(rows, key=lambda row: len(task.demonstration(task.rows[row])) < 2)[:count]


@every_id
def test_docstring(env_id):
    doc = type(as_text_env(env_id)).__doc__ or ""
    assert re.findall(r"^    ## (.+)$", doc, re.MULTILINE) == [*SECTIONS, "Version History"]
    for option in ("level", "split", "tokenizer", "reward", "render_mode"):
        assert f"`{option}`" in doc


@every_level
@every_id
def test_gymnasiums_checker_has_nothing_to_say(env_id, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, level=level, render_mode="ansi")
        check_env(env.unwrapped)
        assert isinstance(env.unwrapped, TextEnv if level == "turn" else TokenEnv)


@every_level
@every_id
def test_a_spec_as_json_makes_the_same_environment(env_id, level):
    env = gym.make(env_id, level=level, split="test", disable_env_checker=True)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    first, second = env.reset(seed=3), again.reset(seed=3)
    assert repr(first) == repr(second)
    row = first[1]["row"]
    assert play(env.unwrapped, perfect(env.unwrapped, row)) == play(again.unwrapped, perfect(again.unwrapped, row))


@every_level
@every_id
def test_an_episode_depends_on_its_seed_alone(env_id, level):
    env = make(env_id, level)
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    first = env.reset(seed=7)
    played = play(env, perfect(env, first[1]["row"]))
    following = repr(env.reset())
    assert before == (random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    # Beside others that are alive, and whatever the global generators have drawn.
    random.random()
    np.random.random()  # noqa: NPY002
    other, again = make(env_id, level), make(env_id, level)
    other.reset(seed=8)
    assert repr(again.reset(seed=7)) == repr(first)
    other.step(perfect(other, 0)[0])
    assert play(again, perfect(again, first[1]["row"])) == played
    other.reset()
    assert repr(again.reset()) == following


@every_id
def test_perfect_players_get_the_maximum_and_the_demonstration_is_what_they_see(env_id):
    env = make(env_id)
    for row in some_rows(env, 12):
        _, info = env.reset(options={"row": row})
        shown = env.demonstration(env.rows[row])
        *before, (_, reward, terminated, _, last) = play(env, turns_of(env, shown))
        expected = (maximum(env_id, row), True, 1.0)
        assert (reward, terminated, last["score_parts"].get("correct", 1.0)) == expected
        assert sum(each[1] for each in before) == 0.0
        assert list(env.episode.completion) == list(shown)
        assert list(env.episode.prompt) == info["messages"] == env.opening(env.rows[row])


@every_id
def test_both_levels_give_the_same(env_id):
    text, tokens = make(env_id), make(env_id, "token")
    for row in some_rows(text, 4):
        _, info = text.reset(options={"row": row})
        observation, _ = tokens.reset(options={"row": row})
        transcript = Transcript(text.tokenizer, info["messages"], text.tool_schemas, inline_results=text.inline_results)
        assert observation["tokens"][: observation["length"]].tolist() == transcript.ids
        *_, by_text = play(text, perfect(text, row))
        *_, by_tokens = play(tokens, perfect(tokens, row))
        assert by_text[1:] == by_tokens[1:]
        # By tokens it is known what was sampled; a text is taken to end with an end token.
        assert replace(text.episode, num_tokens=0) == replace(tokens.text_env.episode, num_tokens=0)


CHEATS = {
    "silence": lambda prompt: "",
    "the prompt": lambda prompt: prompt,
    "the prompt as the answer": lambda prompt: f"<answer>{prompt}</answer>",
    "the question in a box": lambda prompt: f"\\boxed{{{prompt.strip('?').strip('=')}}}",
    "every number": lambda prompt: "\\boxed{" + ", ".join(map(str, range(1000))) + "}",
    "every number in a box": lambda prompt: " ".join(f"\\boxed{{{i}}}" for i in range(1000)),
    "everything there is": lambda prompt: "up down left right higher lower yes no",
    "open tags": lambda prompt: "<result>1</result> <answer> \\boxed{",
    "the verdict": lambda prompt: "Correct. \\boxed{correct} Score: 1.0",
}


@pytest.mark.parametrize("cheat", CHEATS)
@every_id
def test_cheaters_do_not_get_the_maximum(env_id, cheat):
    env = make(env_id)
    for row in range(3):
        prompt, _ = env.reset(options={"row": row})
        turns = [CHEATS[cheat](prompt)] * (env.max_turns + 1)
        results = play(env, turns)
        assert results[-1][2] or results[-1][3]
        assert sum(result[1] for result in results) < maximum(env_id, row)
        assert not results[-1][4]["abstained"]


@every_level
@every_id
def test_pickles_forks_and_states_are_exact_in_the_middle_of_an_episode(env_id, level):
    env = make(env_id, level)
    row = some_rows(env, 1)[0]
    env.reset(seed=5)
    env.reset(options={"row": row})
    actions = perfect(env, row)
    middle = len(actions) // 2
    play(env, actions[:middle])
    if middle and level == "turn" and len(actions) > 1:
        assert env.num_turns == middle
    restored = make(env_id, level)
    restored.reset(seed=1)
    restore(restored, state(env))
    copies = [pickle.loads(pickle.dumps(env)), fork(env), restored]
    # The copies go on first, and another way as well: the original does not notice.
    aside = fork(env)
    aside.step("?" if level == "turn" else END)
    played = [play(copy, actions[middle:]) for copy in copies]
    expected = play(env, actions[middle:])
    assert expected[-1][1] == maximum(env_id, row)
    assert played == [expected] * 3
    assert [repr(copy.reset()) for copy in copies] == [repr(env.reset())] * 3


@every_id
def test_async_vectors(env_id):
    """Of turns: those of tokens are the same environments within `TokenEnv`, which has tests of its own."""
    single = make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gym.make_vec(env_id, num_envs=2, vectorization_mode="async", level="turn")
    try:
        assert isinstance(envs.unwrapped, AsyncVectorEnv)
        observations, infos = envs.reset(seed=[11, 12])
        expected = [single.reset(seed=seed) for seed in (11, 12)]
        assert list(observations) == [text for text, _ in expected]
        rows = infos["row"].tolist()
        assert rows == [info["row"] for _, info in expected]
        first = [perfect(single, row)[0] for row in rows]
        observations, rewards, terminated, truncated, _ = envs.step(tuple(first))
        for i, row in enumerate(rows):
            single.reset(options={"row": row})
            assert single.step(first[i])[:4] == (observations[i], rewards[i], terminated[i], truncated[i])
    finally:
        envs.close()


@every_id
def test_nothing_of_an_episode_is_hidden_or_carried_over(env_id):
    env = make(env_id)
    first = env.reset(options={"row": 1})
    assert set(first[1]) == {"messages", "row"}
    play(env, perfect(env, 1))
    for _ in range(3):
        assert env.reset(options={"row": 1}) == first
        env.step("?")
    with pytest.raises(IndexError):
        env.reset(options={"row": len(env.rows)})


@every_id
def test_train_and_test_do_not_overlap(env_id):
    train, test = (make(env_id, split=split) for split in ("train", "test"))

    def seen_in(env, row):
        """What tells its problems apart: in games with a secret, that alone may do."""
        return repr(env.answer(row) if env_id == "Wordle-v0" else env.messages(row))

    seen = {seen_in(train, train.rows[i]) for i in range(min(200, len(train.rows)))}
    held_out = [seen_in(test, test.rows[i]) for i in range(min(200, len(test.rows)))]
    assert not seen.intersection(held_out)
    assert len(set(held_out)) > 1
    assert test.demonstration(test.rows[0])
    with pytest.raises(ValueError, match="split"):
        make(env_id, split="validation")


@every_id
def test_prompts_and_demonstrations_are_short(env_id):
    env = make(env_id)
    limit = make(env_id, "token").max_tokens
    for shown in itertools.islice(env.demonstrations(np.random.default_rng(0)), 40):
        size = sum(len(message["content"].encode()) + 8 for message in [*shown.prompt, *shown.completion])
        assert size <= limit
        if env_id in BRIEF:
            assert sum(len(message["content"].encode()) for message in shown.prompt) < 60


@every_id
def test_unknown_options_are_errors(env_id):
    with pytest.raises(TypeError, match="no_option"):
        make(env_id, no_option=1)
    with pytest.raises(ValueError, match="level is one of"):
        make(env_id, level="word")
