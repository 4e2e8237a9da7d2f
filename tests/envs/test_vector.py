"""Vector environments: the same as single ones, to the last info, in every mode of autoreset."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.envs import ENVIRONMENTS, StopStrings, TextVectorEnv, TokenEnv, TokenVectorEnv
from tokengym.rewards import Score

import tokengym  # noqa: F401 (registers the environments)

from .templates import Guess, chat
from .test_forking import Noted

MODES = list(AutoresetMode)
COUNT = 5


class Numbered:
    """With a number in info in any case: Gymnasium's vectors cannot put a number and None into one array."""

    def reply(self, text):
        reply = super().reply(text)  # type: ignore[misc]
        return replace(reply, info={"guess": -1 if reply.info["guess"] is None else reply.info["guess"]})


class Guessing(Numbered, Guess):
    pass


class Calling(Numbered, Noted):
    """Guessing with tools, and enough turns for them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_turns": 5} | options)


TASKS = {"guess": Guessing, "tools": Calling}
WORDS = ["3", "5", "no", "<note>a</note>", "<double>4</double>", "<peek></peek>", "<forget>x</forget>", "<note>"]


def same(first: Any, second: Any) -> None:
    """Equal, through tuples, dictionaries and arrays, with their types."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same(first[key], second[key])
    elif isinstance(first, tuple | list):
        assert len(first) == len(second)
        for a, b in zip(first, second):
            same(a, b)
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        if first.dtype == object:
            same(first.tolist(), second.tolist())
        else:
            assert first.tobytes() == second.tobytes()
    else:
        assert first == second


def pair(task, mode, level, tokenizer="bytes", max_tokens=220, stop=("!",)):
    if level == "turn":
        single = [lambda: task(tokenizer=tokenizer, render_mode="ansi")] * COUNT
        vector = TextVectorEnv(task(tokenizer=tokenizer, render_mode="ansi"), COUNT, autoreset_mode=mode)
    else:
        limits = {"max_tokens": max_tokens, "stop": stop}
        single = [lambda: TokenEnv(task(tokenizer=tokenizer, render_mode="ansi"), **limits)] * COUNT
        vector = TokenVectorEnv(task(tokenizer=tokenizer, render_mode="ansi"), COUNT, autoreset_mode=mode, **limits)
    return SyncVectorEnv(single, autoreset_mode=mode), vector


def walk(both, moves, seed, level):
    """Step both with the same moves, and compare all that they give."""
    sync, vector = both
    same(sync.reset(seed=seed), vector.reset(seed=seed))
    for move in moves:
        action = tuple(move) if level == "turn" else np.array(move)
        first, second = sync.step(action), vector.step(action)
        same(first, second)
        assert first[0] in vector.observation_space
        assert not (second[2] & second[3]).any()
        if sync.metadata["autoreset_mode"] is AutoresetMode.DISABLED and (over := second[2] | second[3]).any():
            options = {"reset_mask": over}
            same(sync.reset(seed=seed + 1, options=dict(options)), vector.reset(seed=seed + 1, options=options))
            assert list(options) == ["reset_mask"]  # the caller's own
    if level == "turn":
        same(tuple(sync.render()), vector.render())


@settings(max_examples=25)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("task", TASKS)
@given(
    moves=st.lists(st.lists(st.sampled_from(WORDS), min_size=COUNT, max_size=COUNT), max_size=10),
    seed=st.integers(0, 99),
)
def test_turns_are_those_of_single_environments(task, mode, moves, seed):
    walk(pair(TASKS[task], mode, "turn"), moves, seed, "turn")


@settings(max_examples=12)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("tokenizer", ["bytes", chat("qwen")], ids=["bytes", "qwen"])
@pytest.mark.parametrize("task", TASKS)
@given(data=st.data(), seed=st.integers(0, 99))
def test_tokens_are_those_of_single_environments(task, mode, tokenizer, data, seed):
    max_tokens = 300 if task == "tools" and tokenizer == "bytes" else 220
    if task == "tools" and tokenizer != "bytes":
        max_tokens = 420
    both = pair(TASKS[task], mode, "token", tokenizer, max_tokens + 200 * (task == "tools"))
    tok = both[1]._tokenizer
    ends = sorted(tok.end_ids)
    streams = []
    for _ in range(COUNT):
        words = data.draw(st.lists(st.sampled_from([*WORDS, "!", "é🙂", "END"]), min_size=8, max_size=24))
        streams.append([i for word in words for i in (ends[:1] if word == "END" else tok.encode(word))])
    length = min(map(len, streams))
    walk(both, list(zip(*(stream[:length] for stream in streams))), seed, "token")


def test_the_generator_above_reaches_every_end():
    """It is no test if nothing ever ends."""
    for mode in MODES:
        envs = TokenVectorEnv(Guessing(rows=[{"low": 5, "high": 5}]), 4, max_tokens=60, autoreset_mode=mode)
        envs.reset(seed=0)
        stops = set()
        for step in range(40):
            over = np.zeros(4, bool)
            tokens = [ord("5"), ord("4"), ord("x"), 257] if step % 2 == 0 else [257, 257, ord("x"), 257]
            _, _, terminated, truncated, infos = envs.step(np.array(tokens))
            over = terminated | truncated
            final = infos.get("final_info", infos)
            stops |= set(final["stop"][over].tolist()) if over.any() else set()
            if mode is AutoresetMode.DISABLED and over.any():
                envs.reset(options={"reset_mask": over})
        assert stops == {"answered", "turns", "length"}


# gym.make_vec


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("level", ["token", "turn"])
def test_make_vec(env_id, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gym.make_vec(env_id, num_envs=3, vectorization_mode="vector_entry_point", level=level)
        sync = gym.make_vec(env_id, num_envs=3, vectorization_mode="sync", level=level)
    assert type(envs) is (TokenVectorEnv if level == "token" else TextVectorEnv)
    assert envs.spec.kwargs["num_envs"] == 3
    same(envs.reset(seed=4), sync.reset(seed=4))
    assert envs.observation_space == sync.observation_space
    assert envs.action_space == sync.action_space
    assert envs.single_observation_space == sync.single_observation_space
    assert envs.single_action_space == sync.single_action_space
    actions = envs.action_space.sample()
    stepped, expected = envs.step(actions), sync.step(actions)
    if env_id == "Summarize-v0":  # a model's score of a batch is that of its inputs but for rounding
        np.testing.assert_allclose(stepped[1], expected[1], atol=1e-5)
        stepped, expected = (stepped[0], *stepped[2:4]), (expected[0], *expected[2:4])
    same(stepped, expected)
    envs.close()
    again = gym.make_vec(envs.spec)
    same(again.reset(seed=4), sync.reset(seed=4))


def test_options_of_the_vector():
    make = {"id": "MathVerify-v0", "num_envs": 2, "vectorization_mode": "vector_entry_point"}
    envs = gym.make_vec(**make, autoreset_mode="SameStep", copy=False, max_tokens=99, stop=["!"])
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.unwrapped.max_tokens == 99
    assert envs.unwrapped._stop.strings == ("!",)
    with pytest.raises(ValueError, match='copy belongs to level="token"'):
        gym.make_vec(**make, level="turn", copy=True)
    with pytest.raises(ValueError, match="Sometimes"):
        gym.make_vec(**make, autoreset_mode="Sometimes")
    with pytest.raises(ValueError, match="num_envs is at least 1, not 0"):
        TextVectorEnv(Guessing(), 0)
    with pytest.raises(ValueError, match="max_tokens is at least 1, not 0"):
        TokenVectorEnv(Guessing(), 1, max_tokens=0)


def test_gymnasiums_wrappers_of_vectors_work():
    envs = gym.make_vec("MathVerify-v0", num_envs=4, vectorization_mode="vector_entry_point", max_tokens=60)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    observations, _ = envs.reset(seed=0)
    room = 60 - observations["length"].max()
    for _ in range(room):
        *_, infos = envs.step(np.full(4, 65))
    assert (infos["episode"]["l"][infos["_episode"]] == room).all()


# Observations, seeds, mistakes


def test_observations_are_copies_unless_asked_otherwise():
    for copy in (True, False):
        envs = TokenVectorEnv(Guessing(), 3, copy=copy)
        before, _ = envs.reset(seed=0)
        kept = before["length"].copy()
        envs.step(np.full(3, 65))
        assert (before["length"] == kept).all() == copy
        assert np.shares_memory(before["tokens"], envs._tokens) != copy


def test_an_environment_depends_on_its_own_seed_alone():
    envs = TextVectorEnv(Guessing(), 3)
    envs.reset(seed=[5, 6, 7])
    others = TextVectorEnv(Guessing(), 2)
    others.reset(seed=[7, 5])
    for _ in range(6):
        first, second = envs.step(("no",) * 3), others.step(("no",) * 2)
        assert (first[0][2], first[0][0]) == second[0]
    assert others.reset()[1]["row"].tolist() is not None


def test_without_a_seed_every_environment_draws_its_own():
    task = Guessing(rows=[{"low": n, "high": n} for n in range(1000)])
    task.reset(seed=0)  # of the pattern, which must not decide
    rows = TextVectorEnv(task, 50).reset()[1]["row"].tolist()
    assert len(set(rows)) > 30


def test_options_go_to_every_environment():
    for envs in (TextVectorEnv(Guessing(), 3), TokenVectorEnv(Guessing(), 3)):
        assert envs.reset(options={"row": 2})[1]["row"].tolist() == [2] * 3
        mask = np.array([False, True, False])
        infos = envs.reset(options={"row": 1, "reset_mask": mask})[1]
        assert infos["row"].tolist() == [0, 1, 0]
        assert infos["_row"].tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": [1, 2]}, ValueError, "there are 3 environments, but 2 seeds"),
        ({"options": {"reset_mask": [True] * 3}}, TypeError, "is a bool array"),
        ({"options": {"reset_mask": np.ones(3)}}, TypeError, "is a bool array"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, ValueError, "has 3 entries"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, ValueError, "one of them True"),
        ({"options": {"row": 9}}, IndexError, "there is no row 9"),
    ],
)
def test_wrong_resets(options, error, message):
    with pytest.raises(error, match=message):
        TextVectorEnv(Guessing(), 3).reset(**options)


def test_wrong_actions():
    envs = TokenVectorEnv(Guessing(), 3)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.full(3, 65))
    envs.reset(seed=0)
    for action, error, message in [
        (np.full(2, 65), ValueError, r"the actions have the shape \(2,\)"),
        (np.full(3, 65.0), TypeError, "an action is a token id, an integer, not float64"),
        (np.array([65, 262, 65]), ValueError, r"65 to 262 are not all token ids in \[0, 262\)"),
        (np.array([-1, 65, 65]), ValueError, "not all token ids"),
    ]:
        with pytest.raises(error, match=message):
            envs.step(action)
    assert envs.step(np.full(3, 65))[0]["length"].tolist() == (envs.reset(seed=0)[0]["length"] + 1).tolist()
    texts = TextVectorEnv(Guessing(), 3)
    texts.reset(seed=0)
    for action in ("abc", ["a", "b"]):
        with pytest.raises(ValueError, match="there are 3 environments: an action is as many texts"):
            texts.step(action)
    with pytest.raises(TypeError, match="an action is a text"):
        texts.step(["a", 3, "b"])


def test_disabled_autoreset_waits_for_a_reset():
    envs = TextVectorEnv(Guessing(rows=[{"low": 5, "high": 5}]), 2, autoreset_mode="Disabled")
    envs.reset(seed=0)
    assert envs.step(("5", "4"))[2].tolist() == [True, False]
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(("5", "4"))
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.step(("4", "5"))[2].tolist() == [False, True]


# Batches


def test_all_that_finished_is_one_batch():
    batches = []

    def count(completions, **columns):
        batches.append(len(completions))
        return [1.0] * len(completions)

    envs = TextVectorEnv(Guessing(rows=[{"low": 5, "high": 5}], reward=count), 8)
    envs.reset(seed=0)
    batches.clear()
    _, rewards, terminated, _, _ = envs.step(("5", "4") * 4)
    assert batches == [4]
    assert terminated.tolist() == [True, False] * 4
    assert rewards[0] == 1.0


def test_tools_of_all_episodes_run_at_the_same_time():
    def nap(seconds: float) -> str:
        """Sleep.

        Args:
            seconds: how long
        """
        time.sleep(seconds)
        return "awake"

    envs = TextVectorEnv(Guessing(tools=[nap], tool_protocol="tags", tool_limits={"seconds": 20.0}), 30)
    envs.reset(seed=0)
    began = time.monotonic()
    observations = envs.step(("<nap>0.5</nap>",) * 30)[0]
    assert time.monotonic() - began < 10  # one after the other would be 15 s
    assert observations == ("<result>\nawake\n</result>",) * 30


def test_abstained_scores_are_told_apart():
    envs = TextVectorEnv(Guessing(rows=[{"low": 5, "high": 5}], reward=lambda completion: Score(None, error="no")), 2)
    envs.reset(seed=0)
    *_, infos = envs.step(("5", "4"))
    assert infos["abstained"].tolist() == [True, False]
    assert infos["_abstained"].tolist() == [True, False]


# Stop strings


@settings(max_examples=60)
@given(
    name=st.sampled_from(["bytes", "qwen", "llama3", "plain"]),
    strings=st.lists(
        st.text(min_size=1, max_size=4) | st.sampled_from(["</a>", "é", "🙂", "\n", " x", "x "]), max_size=3
    ),
    ids=st.lists(st.integers(0, 300), max_size=40),
)
def test_no_token_that_completes_a_stop_string_is_passed_over(name, strings, ids):
    from tokengym.envs import ByteTokenizer

    tokenizer = ByteTokenizer() if name == "bytes" else chat(name)
    ids = [i % tokenizer.vocab_size for i in ids] + [i for s in strings for i in tokenizer.encode(f"b{s}")]
    try:
        stop = StopStrings(tokenizer, strings)
    except ValueError:
        return
    may = stop.may_hit(np.array(ids, np.int64)) if ids else np.zeros(0, bool)
    hit_before = False
    for n in range(1, len(ids) + 1):
        hit = stop.hit(ids[:n])
        assert may[n - 1] or not hit or hit_before
        hit_before = hit
