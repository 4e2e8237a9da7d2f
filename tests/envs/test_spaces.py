"""`TextSpace` in real vector environments, in shared memory and by itself."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, unflatten
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given
from hypothesis import strategies as st
from tokengym.envs.spaces import TextSpace

# Every length of UTF-8, a NUL, a lone surrogate and a surrogate pair kept as two characters.
ODD_TEXTS = ["", "a", "é", "漢字", "🙂👍🏽", "\0a\0", "\ud800", "\ud83d\ude42", "line\nline\r\n", "z" * 20]
any_text = st.text(st.characters(codec=None), max_size=20)

VECTORIZED = {
    "sync": SyncVectorEnv,
    "shared memory": partial(AsyncVectorEnv, shared_memory=True),
    "pipes": partial(AsyncVectorEnv, shared_memory=False),
}


class Echo(gym.Env):
    """Says what it was told, after a greeting drawn from its generator; over after three steps."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, max_length: int = 20):
        self.observation_space = TextSpace(max_length)
        self.action_space = TextSpace(max_length)

    def reset(self, *, seed=None, options=None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return f"hello {self.np_random.integers(1000)} 🙂", {}

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        self._steps += 1
        return action, 1.0, self._steps == 3, False, {}


class EchoDict(Echo):
    """The same with a number beside each text, in observations and actions."""

    def __init__(self):
        # One character more than an action: the number is a digit behind the text.
        self.observation_space = Dict(text=TextSpace(21), length=Box(0, 21, (1,), np.int64))
        self.action_space = Tuple((TextSpace(20), Discrete(5)))

    def _observation(self, text):
        return {"text": text, "length": np.array([len(text)])}

    def reset(self, *, seed=None, options=None):
        text, info = super().reset(seed=seed)
        return self._observation(text), info

    def step(self, action):
        text, number = action
        return self._observation(text + str(number)), *super().step(text)[1:]


gym.register("tests/Echo-v0", entry_point=lambda **kwargs: Echo(**kwargs))
gym.register("tests/EchoDict-v0", entry_point=lambda **kwargs: EchoDict(**kwargs))


def greetings(seed, count):
    """What `Echo` says at the start of its first `count` episodes."""
    rng, _ = np_random(seed)
    return [f"hello {rng.integers(1000)} 🙂" for _ in range(count)]


@pytest.mark.parametrize("kind", VECTORIZED)
def test_vector_environments_pass_texts_on_exactly(kind):
    envs = VECTORIZED[kind]([Echo] * 2)
    try:
        observations, _ = envs.reset(seed=7)
        assert observations == (greetings(7, 1)[0], greetings(8, 1)[0])
        kept = []
        for episode in (1, 2, 3):
            for i in range(3):
                actions = tuple(ODD_TEXTS[(3 * episode + i + k) % len(ODD_TEXTS)] for k in range(2))
                observations, rewards, terminated, _, _ = envs.step(actions)
                assert observations == actions
                assert observations in envs.observation_space
                assert rewards.tolist() == [1, 1]
                assert terminated.tolist() == [i == 2] * 2
                kept.append((actions, observations))
            observations, rewards, terminated, _, _ = envs.step(("ignored", "ignored"))
            assert observations == (greetings(7, 4)[episode], greetings(8, 4)[episode])
            assert rewards.tolist() == [0, 0]
            assert not terminated.any()
        assert all(actions == observations for actions, observations in kept), "a later step changed an observation"
    finally:
        envs.close()


@pytest.mark.parametrize("kind", VECTORIZED)
def test_texts_inside_dict_and_tuple(kind):
    envs = VECTORIZED[kind]([EchoDict] * 2)
    try:
        observations, _ = envs.reset(seed=7)
        assert observations["text"] == (greetings(7, 1)[0], greetings(8, 1)[0])
        for text in ODD_TEXTS[:3]:
            observations, *_ = envs.step(((text, text + "b"), np.array([3, 4])))
            assert observations["text"] == (text + "3", text + "b4")
            assert observations["length"].tolist() == [[len(text) + 1], [len(text) + 2]]
            assert observations in envs.observation_space
        envs.action_space.seed(0)
        observations, *_ = envs.step(envs.action_space.sample())
        assert observations["text"] == (greetings(7, 2)[1], greetings(8, 2)[1])
    finally:
        envs.close()


@pytest.mark.parametrize("kind", VECTORIZED)
def test_autoreset_in_the_same_step_keeps_the_last_text(kind):
    envs = VECTORIZED[kind]([Echo] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    try:
        envs.reset(seed=7)
        envs.step(("a", "b"))
        envs.step(("a", "b"))
        observations, _, terminated, _, infos = envs.step(("last", "\0🙂"))
        assert terminated.all()
        assert list(infos["final_obs"]) == ["last", "\0🙂"]
        assert observations == (greetings(7, 2)[1], greetings(8, 2)[1])
    finally:
        envs.close()


def test_without_copies_a_batch_reads_the_shared_memory():
    envs = AsyncVectorEnv([Echo] * 2, copy=False)
    try:
        envs.reset(seed=7)
        first, *_ = envs.step(("a", "b"))
        assert tuple(first) == ("a", "b")
        second, *_ = envs.step(("c", "🙂"))
        assert tuple(first) == tuple(second) == ("c", "🙂")
        assert second[-1] == "🙂"
        assert second[:1] == ("c",)
        with pytest.raises(IndexError):
            second[2]
    finally:
        envs.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium also logs the worker's error
def test_a_text_over_the_limit_is_an_error_that_names_it():
    envs = AsyncVectorEnv([partial(Echo, 12)] * 2)
    try:
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=r"environment 1 has 13 characters.*TextSpace\(12\)"):
            envs.step(("fine", "x" * 13))
    finally:
        envs.close(terminate=True)


def test_environments_with_different_limits_are_refused():
    with pytest.raises(RuntimeError, match="observation spaces"):
        SyncVectorEnv([partial(Echo, 12), partial(Echo, 13)], observation_mode="different")
    SyncVectorEnv([Echo, Echo], observation_mode="different").close()


@pytest.mark.parametrize("name", ["tests/Echo-v0", "tests/EchoDict-v0"])
def test_check_env_finds_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(name).unwrapped)


@given(st.lists(any_text, min_size=1, max_size=4), st.data())
def test_shared_memory_returns_what_was_written(texts, data):
    space = TextSpace(20)
    memory = create_shared_memory(space, n=len(texts))
    view = read_from_shared_memory(space, memory, n=len(texts))
    assert tuple(view) == create_empty_array(space, n=len(texts))
    order = data.draw(st.permutations(range(len(texts))))
    for index in order:
        write_to_shared_memory(space, index, "🙂" * 20, memory)
    for index in order:
        write_to_shared_memory(space, index, texts[index], memory)
    assert tuple(view) == copy.copy(view) == copy.deepcopy(view) == pickle.loads(pickle.dumps(view)) == tuple(texts)
    assert type(copy.deepcopy({"nested": (view,)})["nested"][0]) is tuple


def test_shared_memory_refuses_what_is_not_a_text():
    space = TextSpace(3)
    memory = create_shared_memory(space, n=2)
    write_to_shared_memory(space, 0, "🙂🙂🙂", memory)
    with pytest.raises(ValueError, match="4 characters"):
        write_to_shared_memory(space, 1, "abcd", memory)
    with pytest.raises(TypeError, match="NoneType"):
        write_to_shared_memory(space, 1, None, memory)  # type: ignore[arg-type]
    assert tuple(read_from_shared_memory(space, memory, n=2)) == ("🙂🙂🙂", "")


def test_shared_memory_reaches_a_spawned_process():
    space = TextSpace(8)
    context = multiprocessing.get_context("spawn")
    memory = create_shared_memory(space, n=2, ctx=context)  # type: ignore[arg-type]
    process = context.Process(target=write_to_shared_memory, args=(space, 1, "über 🙂", memory))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert tuple(read_from_shared_memory(space, memory, n=2)) == ("", "über 🙂")


@given(any_text)
def test_contains_every_string_up_to_the_limit(text):
    assert text in TextSpace(20)
    assert text + "x" * (21 - len(text)) not in TextSpace(20)


def test_contains_nothing_else():
    assert all(x not in TextSpace() for x in (None, 3, b"a", ["a"], np.array("a")))
    with pytest.raises(ValueError, match="at least 1"):
        TextSpace(0)


def test_samples_are_seeded_short_and_printable():
    space, other = TextSpace(40, seed=3), TextSpace(40)
    other.seed(3)
    samples = [space.sample() for _ in range(300)]
    assert samples == [other.sample() for _ in range(300)]
    assert samples != [TextSpace(40, seed=4).sample() for _ in range(300)]
    assert {len(text) for text in samples} == set(range(33))
    assert all(text.isascii() and text.isprintable() for text in samples if text)
    assert all(len(TextSpace(2, seed=i).sample()) <= 2 for i in range(20))
    for argument in ("mask", "probability"):
        with pytest.raises(ValueError, match="neither mask nor probability"):
            space.sample(**{argument: (3, None)})


def test_copies_keep_equality_and_random_state():
    space = TextSpace(9, seed=1)
    space.sample()
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert twin.sample() == copy.deepcopy(space).sample()
    assert TextSpace(9) != TextSpace(8)
    assert TextSpace(9) != gym.spaces.Text(9)
    assert repr(space) == "TextSpace(9)"


def test_batches():
    space = TextSpace(9, seed=1)
    batch = batch_space(space, 3)
    assert batch == Tuple([space] * 3)
    assert len(set(batch.sample())) == 3, "each environment's space has its own seed"
    assert batch.sample() in batch
    assert batch_space(space, 3).sample() == batch_space(space, 3).sample()
    assert batch_differing_spaces([TextSpace(3), TextSpace(4)]) == Tuple([TextSpace(3), TextSpace(4)])
    assert concatenate(space, ["ab", "c"], create_empty_array(space, 2)) == ("ab", "c")
    assert list(iterate(batch, ("ab", "cd", ""))) == ["ab", "cd", ""]
    nested = batch_space(Dict(text=space, choice=Discrete(2)), 2)
    items = {"text": ("ab", "cd"), "choice": np.array([0, 1])}
    assert list(iterate(nested, items)) == [{"text": "ab", "choice": 0}, {"text": "cd", "choice": 1}]


def test_json():
    texts = [text for text in ODD_TEXTS if text != "\ud83d\ude42"]  # JSON makes one character of a surrogate pair
    space = TextSpace()
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(texts)))) == texts


def test_flattening_leaves_texts_alone():
    space = TextSpace(9)
    assert not space.is_np_flattenable
    with pytest.raises(ValueError, match="no fixed size"):
        flatdim(space)
    both = Dict(text=space, grid=Box(0, 1, (2, 2)))
    flat = flatten_space(both)
    assert flat == Dict(text=space, grid=Box(0, 1, (4,)))
    point = {"text": "ab", "grid": np.eye(2, dtype=np.float32)}
    assert flatten(both, point) in flat
    assert unflatten(both, flatten(both, point))["text"] == "ab"


def test_wrappers_that_start_from_nothing():
    env = gym.wrappers.DelayObservation(Echo(), delay=1)
    assert env.reset(seed=7)[0] == ""
    assert env.step("a")[0] == greetings(7, 1)[0]
