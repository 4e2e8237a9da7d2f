"""The turn-level MDP, on a task of several turns."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tokengym.envs import ByteTokenizer, Reply, Rows, TextEnv
from tokengym.rewards import MathAnswer, RewardWarning, Score, Stop

from .templates import Guess, chat, found

ROWS = [{"low": 0, "high": 9}]


def play(env, texts, seed=None, options=None):
    """A whole episode: what reset and every step returned."""
    steps = [env.reset(seed=seed, options=options)]
    for text in texts:
        steps.append(env.step(text))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


class Echo(TextEnv):
    """One turn; the row's own messages are what the conversation opens with."""

    def messages(self, row):
        return row["messages"]


ECHO = [{"messages": [{"role": "user", "content": "Say it."}], "answer": "it", "weight": 2.0}]


# The protocol


def test_an_episode_of_several_turns():
    env = Guess(rows=ROWS)
    observation, info = env.reset(seed=1)
    assert observation == "Guess a number from 0 to 9."
    assert info == {"messages": [{"role": "user", "content": observation}], "row": 0}
    low, right = str((env.target + 1) % 10), str(env.target)
    hint, reward, terminated, truncated, info = env.step(f"Is it {low}?")
    assert hint.split(",")[0].split()[0] in ("higher", "lower")
    assert (reward, terminated, truncated) == (-0.125, False, False)
    assert info == {"stop": "", "guess": int(low)}
    observation, reward, terminated, truncated, info = env.step(right)
    assert (observation, terminated, truncated) == ("Yes!", True, False)
    parts = {"correct": 1.0, "length": -0.001 * len(f"Is it {low}?\n{right}")}
    assert reward == pytest.approx(sum(parts.values()))
    assert isinstance(reward, float)
    assert info["score_parts"] == parts
    assert (info["stop"], info["abstained"], info["score_error"]) == ("answered", False, "")
    episode = env.episode
    assert [m["role"] for m in episode.completion] == ["assistant", "user", "assistant", "user"]
    assert episode.messages == [*episode.prompt, *episode.completion]
    assert episode.num_tokens == len(f"Is it {low}?") + 1 + len(right) + 1
    assert episode.row == ROWS[0]


def test_the_system_prompt_comes_first():
    env = Guess(system_prompt="You guess.")
    observation, info = env.reset(seed=0, options={"row": 2})
    assert observation == "You guess.\n\nGuess a number from 5 to 5."
    assert [m["role"] for m in info["messages"]] == ["system", "user"]


def test_num_tokens_are_the_tokenizers_or_the_callers():
    env = Guess(rows=ROWS, tokenizer=chat("qwen"))
    env.reset(seed=0)
    env.step("two plus two")
    assert env.episode.num_tokens == len(chat("qwen").encode("two plus two")) + 1
    env.transition("two plus two", num_tokens=50)
    assert env.episode.num_tokens == len(chat("qwen").encode("two plus two")) + 1 + 50


def test_options_choose_the_row():
    env = Guess()
    for row in (2, 0, np.int64(1)):
        observation, info = env.reset(options={"row": row})
        assert info["row"] == row
        assert type(info["row"]) is int
        assert observation == f"Guess a number from {env.rows[row]['low']} to {env.rows[row]['high']}."
    assert {env.reset(options={})[1]["row"] for _ in range(60)} == {0, 1, 2}
    for row in (3, -1):
        with pytest.raises(IndexError, match=f"there is no row {row}: the dataset has rows 0 to 2"):
            env.reset(options={"row": row})
    with pytest.raises(TypeError):
        env.reset(options={"row": "first"})


def test_max_turns_truncates():
    env = Guess(rows=ROWS, max_turns=2)
    env.reset(seed=0)
    wrong = str((env.target + 1) % 10)
    assert env.step(wrong)[2:4] == (False, False)
    observation, reward, terminated, truncated, info = env.step(wrong)
    assert (terminated, truncated, info["stop"]) == (False, True, "turns")
    assert observation == ""  # nobody would answer a hint
    assert reward == pytest.approx(-0.125 - 0.001 * len(f"{wrong}\n{wrong}"))
    assert info["guess"] == int(wrong)
    env.reset(seed=0)
    assert env.step(wrong)[2:4] == (False, False)  # the next episode has all its turns
    assert env.episode.stop is Stop.LENGTH  # as far as it got


def test_the_last_turn_may_still_be_right():
    env = Guess(rows=ROWS, max_turns=1)
    env.reset(seed=0)
    assert env.step(str(env.target))[2:4] == (True, False)


@pytest.mark.parametrize("text", [None, "unfinished"])
def test_truncation_from_outside(text):
    env = Guess(rows=ROWS)
    env.reset(seed=0)
    env.step("no number")
    reply = env.truncate(text, num_tokens=3)
    _, reward, terminated, truncated, info = env.outcome(reply)
    assert (terminated, truncated, info["stop"]) == (False, True, "length")
    said = "no number" if text is None else "no number\nunfinished"
    assert reward == pytest.approx(-0.001 * len(said))
    assert env.episode.text == said
    assert env.episode.stop is Stop.LENGTH
    for call in (lambda: env.step("x"), env.truncate, lambda: env.truncate("x")):
        with pytest.raises(gym.error.ResetNeeded):
            call()


def test_stepping_without_an_episode():
    env = Guess(rows=ROWS)
    for call in (lambda: env.step("1"), env.truncate, lambda: env.episode):
        with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
            call()
    env.reset(seed=0)
    env.step(str(env.target))
    with pytest.raises(gym.error.ResetNeeded, match="the episode is over"):
        env.step("1")
    assert env.episode.text == str(env.target)


@pytest.mark.parametrize("action", [3, None, b"3", ["3"]])
def test_an_action_is_a_text(action):
    env = Guess(rows=ROWS)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="an action is a text, the policy's whole turn, not "):
        env.step(action)
    assert env.step("no number")[0].startswith("What?")


def test_an_abstained_reward_is_no_verdict():
    env = Guess(rows=ROWS, reward=lambda completion: None)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(str(env.target))
    assert (reward, terminated, info["abstained"], info["score_parts"]) == (0.0, True, True, {})
    assert "returned None" in info["score_error"]


def test_a_task_that_says_nothing_and_goes_on_is_told_so():
    class Silent(Guess):
        def reply(self, text):
            return Reply()

    env = Silent()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Silent\.reply neither said anything nor ended the episode"):
        env.step("1")


@pytest.mark.parametrize("make", [Guess, lambda **o: Echo(ECHO, len_of, **o)])
def test_gymnasium_finds_nothing_to_complain_about(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(render_mode="ansi"), skip_render_check=True)


def len_of(completion):
    return len(completion)


# Random numbers


def test_the_same_seed_is_the_same_episode_whatever_else_runs():
    texts = list("2468")
    alone = play(Guess(), texts, seed=7)
    other = Guess()
    other.reset(seed=99)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (that it has no effect is the point)
    env = Guess()
    steps = [env.reset(seed=7)]
    for text in itertools.islice(texts, len(alone) - 1):
        other.reset()
        other.step("5")
        random.random()
        steps.append(env.step(text))
    assert steps == alone
    state = random.getstate()
    play(Guess(), texts)
    assert random.getstate() == state


def test_resets_without_a_seed_go_on_with_the_generator():
    first, second = Guess(), Guess()
    runs = [[play(env, "55", seed=3)] + [play(env, "55") for _ in range(5)] for env in (first, second)]
    assert runs[0] == runs[1]
    assert len({str(run) for run in runs[0]}) > 1
    assert runs[0][0] == play(first, "55", seed=3)


def test_a_chosen_row_needs_no_seeded_data_order():
    """The row given, the rest of the episode depends on the seed alone."""
    runs = [play(Guess(), "123", seed=5, options={"row": 0}) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({str(play(Guess(), "123", seed=seed, options={"row": 0})) for seed in range(8)}) > 3


# What is handed out is not what is kept


def test_what_info_holds_can_be_changed_freely():
    env = Echo(ECHO, len_of)
    _, info = env.reset()
    before = copy.deepcopy(ECHO)
    info["messages"][0]["content"] = "forged"
    info["messages"].append({"role": "user", "content": "more"})
    assert before == ECHO
    assert env.episode.prompt[0]["content"] == "Say it."
    assert env.reset()[0] == "Say it."
    info = env.step("it")[4]
    info["score_parts"].clear()
    assert env.outcome(Reply(stop=Stop.ANSWERED))[4]["score_parts"] == {"len_of": 2.0}


# Copies


def test_fork_in_the_middle_of_an_episode():
    env = Guess(tokenizer=chat("qwen"), reward=MathAnswer())
    env.reset(seed=11, options={"row": 0})
    env.step(str((env.target + 1) % 10))
    fork = env.fork()
    for name in ("rows", "reward", "tokenizer", "spec"):
        assert getattr(fork, name) is getattr(env, name)
    assert fork.episode == env.episode
    # Independent: what happens in one does not happen in the other.
    before = env.episode
    wrong = [str((env.target + 2) % 10), str((env.target + 3) % 10), str(env.target)]
    gone = [fork.step(text) for text in wrong]
    assert env.episode == before
    # And the same: hints of random wording included, and the next episodes as well.
    assert [env.step(text) for text in wrong] == gone
    assert [play(env, "258") for _ in range(3)] == [play(fork, "258") for _ in range(3)]


def test_forks_differ_once_they_take_different_actions():
    env = Guess(rows=ROWS)
    env.reset(seed=2)
    fork = env.fork()
    env.step("a")
    fork.step("b")
    fork.step("c")
    assert env.episode.text == "a"
    assert fork.episode.text == "b\nc"
    assert fork.action_space.sample.__self__ is not env.action_space


def test_a_fork_does_not_copy_the_data():
    class Heavy(dict):
        def __deepcopy__(self, memo):
            raise AssertionError("a row was copied")

    env = Guess(rows=[Heavy(low=1, high=2)])
    env.reset(seed=0)
    assert env.fork().episode.row is env.episode.row
    assert Guess().fork() is not None  # before an episode


def test_pickling_in_the_middle_of_an_episode():
    env = Guess()
    env.reset(seed=4, options={"row": 0})
    env.step("x")
    copied = pickle.loads(pickle.dumps(env))
    assert copied.episode == env.episode
    texts = [str(n) for n in range(3)]
    assert [copied.step(t) for t in texts] == [env.step(t) for t in texts]
    assert play(copied, texts) == play(env, texts)


# Rendering, demonstrations


def test_render():
    env = Guess(rows=[{"low": 5, "high": 5}], render_mode="ansi", system_prompt="Play.")
    assert env.render() == ""
    env.reset(seed=0)
    env.step("5")
    assert env.render() == "system: Play.\nuser: Guess a number from 5 to 5.\nassistant: 5\nuser: Yes!"
    silent = Guess()
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert silent.render() is None


def test_demonstrations():
    env = Guess(rows=[{"low": n, "high": n} for n in range(9)], system_prompt="Play.")
    shown = list(itertools.islice(env.demonstrations(np.random.default_rng(0)), 40))
    again = list(itertools.islice(env.demonstrations(np.random.default_rng(0)), 40))
    assert shown == again
    assert {d.completion[0]["content"] for d in shown} > {"0", "4"}
    for demonstration in shown:
        assert [m["role"] for m in demonstration.prompt] == ["system", "user"]
        assert demonstration.completion[0]["content"] in demonstration.prompt[1]["content"]
    with pytest.raises(ValueError, match="Guess has no demonstration for row 0, so it cannot warm-start a policy"):
        next(Guess(rows=ROWS).demonstrations(np.random.default_rng(0)))


# Rewards


def test_any_row_column_is_a_parameter():
    def weighted(completion, answer, weight):
        return weight * (completion == answer)

    env = Echo(ECHO, weighted)
    env.reset()
    assert env.step("it")[1] == 2.0


def test_a_reward_that_raises_abstains_and_warns_once():
    def fragile(completion):
        if completion == "b":
            raise RuntimeError("boom")
        return {"a": 1.0}

    env = Echo(ECHO, fragile)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = []
        for text in "abab":
            env.reset()
            results.append(env.step(text))
    assert [reward for _, reward, *_ in results] == [1.0, 0.0, 1.0, 0.0]
    assert [info["abstained"] for *_, info in results] == [False, True, False, True]
    assert results[1][4]["score_error"] == "RuntimeError: boom"
    assert [w.category for w in caught] == [RewardWarning]
    assert "fragile() raised RuntimeError: boom" in str(caught[0].message)


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (lambda completion, solution: 1.0, ValueError, "parameter 'solution' is neither a known name .* nor a column"),
        (lambda completion, answr: 1.0, ValueError, "Did you mean 'answer'?"),
        (lambda completion: "good", TypeError, "must return a number, bool, dict of numbers, Score or None"),
        (lambda completion: [1.0], TypeError, "must return a number"),
        (3, TypeError, "a reward is a function or a Reward, not 3"),
        (MathAnswer, TypeError, r"is a class: pass an instance, MathAnswer\(\)"),
    ],
)
def test_wrong_rewards_are_found_at_construction(reward, error, message):
    with pytest.raises(error, match=message):
        Echo(ECHO, reward)


# Wrong arguments


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, ValueError, "the dataset is empty"),
        (["a question"], {}, TypeError, "a row is a mapping from column to value, not str: 'a question'"),
        (ECHO, {"max_turns": 0}, ValueError, "max_turns is at least 1, not 0"),
        (ECHO, {"render_mode": "human"}, ValueError, r"render_mode is None or one of \['ansi'\], not 'human'"),
        (ECHO, {"tokenizer": 3}, ValueError, "a tokenizer is"),
    ],
)
def test_wrong_arguments(rows, options, error, message):
    with pytest.raises(error, match=message):
        Echo(rows, len_of, **options)


def test_a_task_without_messages_cannot_be_made():
    class Unfinished(TextEnv):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Unfinished(ROWS, found)


def test_rows_of_a_file_work_like_a_list():
    env = Guess(rows=Rows(ROWS, name="guesses"), tokenizer=ByteTokenizer(), reward=lambda low: Score(low))
    assert env.reset(seed=0)[1]["row"] == 0
    assert env.fork().rows is env.rows
