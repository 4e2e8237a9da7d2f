"""as_reward: functions by the names of their parameters, functions in TRL's form, and every way to get it wrong."""

import functools
import math
import operator
import pickle
import re
import warnings

import pytest
from tokengym.rewards import Episode, MathAnswer, Reward, RewardWarning, Score, TRLReward, as_reward


def episode(text="4", *, answer="4", prompt="2+2?", **row):
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": prompt}]
    return Episode(messages, [{"role": "assistant", "content": text}], answer=answer, row=row)


def score(reward, *episodes):
    return as_reward(reward).score(episodes)


# Functions of one episode


def everything(completion, prompt, messages, answer, episode, level):
    return Score(float(len(messages)), {"level": level}, error=f"{completion}|{prompt}|{answer}|{episode.text}")


def test_parameters_are_filled_by_name():
    (result,) = score(everything, episode(level=3))
    assert result == Score(3.0, {"level": 3}, error="4|Add.\n\n2+2?|4|4")


def test_known_names_go_before_columns_and_columns_before_defaults():
    def reward(completion, bonus=1.0, missing=10.0):
        return len(completion) + bonus + missing

    assert score(reward, episode("abc", completion="a column", bonus=100.0))[0].value == 113.0


def test_kwargs_receive_all_columns_and_nothing_else():
    seen = {}

    def reward(completion, **kwargs):
        seen.update(kwargs)
        return 0.0

    score(reward, episode(level=3, topic="sums"))
    assert seen == {"level": 3, "topic": "sums"}


@pytest.mark.parametrize(
    ("returned", "value", "parts"),
    [
        (2, 2.0, {"reward": 2.0}),
        (0.5, 0.5, {"reward": 0.5}),
        (True, 1.0, {"correct": 1.0}),
        (False, 0.0, {"correct": 0.0}),
        ({"form": 0.25, "correct": True}, 1.25, {"form": 0.25, "correct": 1.0}),
        ({}, 0.0, {}),
        (Score(0.5, {"a": 0.5}), 0.5, {"a": 0.5}),
    ],
)
def test_return_values(returned, value, parts):
    (result,) = score(lambda: returned, episode())
    assert (result.value, result.parts, result.error) == (value, parts, "")


def test_scalars_of_other_libraries_are_numbers():
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    for returned, part in [(np.float32(0.5), "reward"), (np.True_, "correct"), (torch.tensor(0.5), "reward")]:
        (result,) = score(lambda returned=returned: returned, episode())
        assert result.parts == {part: float(returned)}


@pytest.mark.parametrize(
    "returned", [None, math.nan, math.inf, 10**400, {"a": math.inf, "b": -math.inf}, Score(math.nan), Score(None)]
)
def test_what_is_no_finite_number_abstains_without_a_warning(returned):
    def reward():
        return returned

    with warnings.catch_warnings(action="error"):
        (result,) = score(reward, episode())
    assert result.abstained
    assert result.error or isinstance(returned, Score)


def test_a_function_that_raises_abstains_warns_once_and_leaves_the_others():
    def inverse(completion):
        return 1 / int(completion)

    reward = as_reward(inverse)
    with pytest.warns(RewardWarning, match=r"inverse\(\) raised ZeroDivisionError") as caught:
        results = reward.score([episode("2"), episode("0"), episode("0"), episode("4")])
    assert [r.value for r in results] == [0.5, None, None, 0.25]
    assert results[1].error == "ZeroDivisionError: division by zero"
    assert len(caught) == 1
    with warnings.catch_warnings(action="error"):
        assert reward.score([episode("0")])[0].abstained


def test_ctrl_c_is_not_swallowed():
    def reward():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(reward, episode())


def test_a_row_without_its_column_abstains_and_says_so():
    with pytest.warns(RewardWarning):
        (result,) = score(lambda level: level, episode(topic="sums"))
    assert result.error == "LookupError: the row has no column 'level', only 'topic'"


def test_names():
    class MyHTTPReward(Reward):
        def score(self, episodes):
            return [Score(1.0)] * len(episodes)

    assert MyHTTPReward().name == "my_http_reward"
    assert MathAnswer().name == "math_answer"
    assert as_reward(everything).name == "everything"
    assert as_reward(functools.partial(everything, level=1)).name == "everything"
    assert as_reward(lambda completion: 1.0).name == "reward"


def test_a_reward_is_returned_as_it_is():
    reward = as_reward(everything)
    assert as_reward(reward, columns=["level"]) is reward


def test_pickle():
    reward = pickle.loads(pickle.dumps(as_reward(everything)))
    assert reward.score([episode(level=3)])[0].value == 3.0
    reward = pickle.loads(pickle.dumps(as_reward(format_reward_func)))
    assert reward.score([episode("<think>a</think>b")])[0].value == 1.0


# Errors at construction


async def asynchronous(completion):
    return 1.0


class AsynchronousCall:
    async def __call__(self, completion):
        return 1.0


def positional_only(completion, /):
    return 1.0


def star_args(*texts):
    return 1.0


def returns_text(completion) -> str:
    return "good"


def returns_nothing(completion) -> None:
    pass


def returns_list(completion) -> list[float]:
    return [1.0]


def trl_returns_number(completions, **kwargs) -> float:
    return 1.0


def trl_wants_ids(completions, completion_ids, **kwargs):
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (3.0, r"a reward is a function or a Reward, not 3\.0 \(float\)"),
        ([everything], r"pass Sum\(first, second, …\)"),
        (MathAnswer, r"pass an instance, MathAnswer\(\)"),
        (asynchronous, r"asynchronous\(\) is asynchronous"),
        (AsynchronousCall(), r"AsynchronousCall\(\) is asynchronous"),
        (positional_only, r"parameter 'completion' is positional-only"),
        (star_args, r"parameter 'texts' is \*args.*Name it after what it should get: completion, prompt"),
        (len, r"parameter 'obj' is positional-only"),
        (operator.itemgetter, r"itemgetter\(\)"),
        (returns_text, r"returns_text\(\) is annotated to return str: a reward returns float, bool"),
        (returns_nothing, r"annotated to return NoneType"),
        (returns_list, r"annotated to return list\[float\]"),
        (trl_returns_number, r"annotated to return float: a reward returns list\[float\]"),
        (trl_wants_ids, r"parameter 'completion_ids' is given by TRL's trainer and not available"),
    ],
)
def test_construction_errors(obj, message):
    with pytest.raises(TypeError, match=message):
        as_reward(obj)


def test_possible_annotations_pass():
    def optional(completion) -> float | None: ...
    def mapping(completion) -> dict[str, float]: ...
    def unknown(completion) -> "NotImported": ...  # noqa: F821
    def some_text(completion) -> str | float: ...

    for function in (optional, mapping, unknown, some_text):
        as_reward(function)


def test_unknown_parameters_are_named_with_a_suggestion():
    def close(completion, solutoin):
        return 1.0

    with pytest.raises(ValueError, match=r"close\(\): parameter 'solutoin' is neither .*Did you mean 'solution'\?"):
        as_reward(close, columns=["question", "solution"])
    with pytest.raises(ValueError, match="Did you mean 'completion'"):
        as_reward(lambda completon: 1.0, columns=["question"])
    with pytest.raises(ValueError, match=r"known name \('completions', 'prompts', 'answer'\)"):
        as_reward(reward_func, columns=["question"])
    as_reward(close, columns=["solutoin"])
    as_reward(lambda completion, scale=1.0, **kwargs: 1.0, columns=[])


# The probe


@pytest.mark.parametrize("returned", ["4", b"4", [1.0], {"a": "b"}, {"a": None}, object(), (1.0, 2.0)])
def test_wrong_return_types_raise_in_check_and_in_score(returned):
    def odd(completion):
        return returned

    reward = as_reward(odd)
    for probe in (reward.check, lambda e: reward.score([e])):
        with pytest.raises(TypeError, match=r"odd\(\) must return a number.*but returned " + re.escape(repr(returned))):
            probe(episode())


def test_check_ignores_an_exception_and_keeps_the_warning_for_training():
    def first(completion):
        return float(completion[0])

    reward = as_reward(first)
    with warnings.catch_warnings(action="error"):
        reward.check(episode(""))
    with pytest.warns(RewardWarning):
        reward.score([episode("")])


@pytest.mark.parametrize("returned", [1.0, "12", {"a": 1.0}, [], [1.0, 2.0], ["1"], [[1.0]], None])
def test_wrong_lists_of_trl_functions_raise(returned):
    def odd(completions, **kwargs):
        return returned

    with pytest.raises(TypeError, match=r"odd\(\) must return a list of 1 numbers, one per completion"):
        as_reward(odd).check(episode())
    if returned != [1.0, 2.0]:
        with pytest.raises(TypeError, match="must return a list of 2 numbers"):
            score(odd, episode(), episode())


def test_check_finds_a_reward_class_that_returns_plain_numbers():
    class Plain(Reward):
        def score(self, episodes):
            return [1.0 for _ in episodes]

    with pytest.raises(TypeError, match=r"Plain\.score must return a list with one Score per episode"):
        Plain().check(episode())


# TRL's form: the functions of its documentation


def format_reward_func(completions, **kwargs):
    return [1.0 if re.match(r"^<think>.*?</think>.*?$", content) else 0.0 for content in completions]


def reward_func(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


def conversational_format(completions, **kwargs):
    return [float("<think>" in completion[0]["content"]) for completion in completions]


def math_only(prompts, completions, task, **kwargs):
    return [float(c == "4") if t == "math" else None for p, c, t in zip(prompts, completions, task)]


def test_trl_functions_of_text():
    texts = [r"\boxed{4}", r"\boxed{5}"]
    results = score(reward_func, *(episode(t, ground_truth="4") for t in texts))
    assert [r.value for r in results] == [1.0, 0.0]
    assert results[0].parts == {"reward_func": 1.0}
    results = score(math_only, episode("4", task="math"), episode("4", task="code"), episode("5", task="math"))
    assert [r.value for r in results] == [1.0, None, 0.0]
    assert results[1].error == "math_only() returned None"


def test_trl_functions_get_prompts_completions_answers_and_columns():
    seen = {}

    def reward(**kwargs):
        seen.update(kwargs)
        return [True, False]

    results = TRLReward(reward).score([episode("a", level=1), episode("b", level=2)])
    assert seen == {
        "prompts": ["Add.\n\n2+2?"] * 2,
        "completions": ["a", "b"],
        "answer": ["4", "4"],
        "level": [1, 2],
    }
    assert [r.correct for r in results] == [True, False]


def test_trl_functions_of_messages():
    e = episode("<think>")
    assert TRLReward(conversational_format, conversational=True).score([e])[0].value == 1.0

    def annotated(prompts, completions: list[list[dict[str, str]]]) -> list[float]:
        assert prompts[0][0]["role"] == "system"
        return [float(completion[0]["content"] == "<think>") for completion in completions]

    assert score(annotated, e)[0].value == 1.0
    with pytest.warns(RewardWarning, match=r"pass TRLReward\(conversational_format, conversational=True\)"):
        assert score(conversational_format, e)[0].abstained


def test_trls_own_rewards():
    rewards = pytest.importorskip("trl.rewards")
    texts = ["<think>\nSum.\n</think>\nFour.", "Four."]
    assert [r.value for r in score(rewards.think_format_reward, *map(episode, texts))] == [1.0, 0.0]
    boxes = [episode(r"\boxed{\frac{1}{3}}", solution=s) for s in (r"$\frac{1}{3}$", r"$\frac{1}{2}$", "no maths")]
    assert [r.value for r in score(rewards.accuracy_reward, *boxes)] == [1.0, 0.0, None]
    with pytest.raises(TypeError, match="completion_ids"):
        as_reward(rewards.get_repetition_penalty_reward())


def test_only_the_culprit_of_a_batch_abstains():
    calls = []

    def inverse(completions):
        calls.append(len(completions))
        return [1 / int(c) for c in completions]

    with pytest.warns(RewardWarning) as caught:
        results = score(inverse, episode("1"), episode("0"), episode("2"))
    assert [r.value for r in results] == [1.0, None, 0.5]
    assert results[1].error == "ZeroDivisionError: division by zero"
    assert calls == [3, 1, 1, 1]
    assert len(caught) == 1


def test_trl_functions_may_return_arrays():
    np = pytest.importorskip("numpy")
    results = score(lambda completions: np.array([0.5, np.nan]), episode(), episode())
    assert [r.value for r in results] == [0.5, None]


def test_no_episodes():
    assert score(reward_func) == []
    assert score(everything) == []
