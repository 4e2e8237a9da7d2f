"""Sum: names, weights, parts, abstention, process rewards."""

import math
import pickle

import pytest
from tokengym.rewards import Episode, MathAnswer, Reward, RewardWarning, Score, StepScore, Sum


def episode(text=r"\boxed{4}", answer="4"):
    return Episode([{"role": "user", "content": "2+2?"}], [{"role": "assistant", "content": text}], answer=answer)


def short(completion):
    return -float(len(completion))


def exact(completion, answer) -> bool:
    return completion == answer


def graded(completion):
    return {"form": 0.25, "style": 0.5}


def test_the_weighted_sum_and_its_parts():
    reward = Sum(graded, correct=MathAnswer(), short=short, weights={"short": 0.5, "graded": 2})
    (result,) = reward.score([episode()])
    assert result.value == pytest.approx(2 * 0.75 + 1.0 - 0.5 * 9)
    assert result.parts == {
        "graded": 0.75,
        "graded/form": 0.25,
        "graded/style": 0.5,
        "correct": 1.0,
        "short": -9.0,
    }
    assert result.correct is True


@pytest.mark.parametrize(
    ("reward", "parts"),
    [
        (Sum(MathAnswer()), {"math_answer": 1.0, "correct": 1.0}),
        (Sum(math=MathAnswer(), short=short), {"math": 1.0, "correct": 1.0, "short": -9.0}),
        (Sum(exact, short), {"exact": 0.0, "correct": 0.0, "short": -9.0}),
        (Sum(exact, math=MathAnswer()), {"exact": 0.0, "exact/correct": 0.0, "math": 1.0, "math/correct": 1.0}),
        (Sum(exact, correct=MathAnswer()), {"exact": 0.0, "exact/correct": 0.0, "correct": 1.0}),
        (Sum(all=Sum(math=MathAnswer())), {"all": 1.0, "all/math": 1.0, "correct": 1.0}),
        (Sum(short), {"short": -9.0}),
    ],
)
def test_correct_is_what_exactly_one_component_says(reward, parts):
    assert reward.score([episode()])[0].parts == parts


def test_a_component_that_abstains_is_named_and_the_others_are_kept():
    def fragile(completion):
        return 1 / len(completion)

    reward = Sum(fragile, short, none=lambda: None)
    with pytest.warns(RewardWarning):
        empty, full = reward.score([episode(""), episode("ab")])
    assert empty.value is None
    assert empty.error == "fragile: ZeroDivisionError: division by zero; none: reward() returned None"
    assert empty.parts == {"short": 0.0}
    assert full.error == "none: reward() returned None"
    assert full.parts == {"fragile": 0.5, "short": -2.0}


def test_process_rewards_are_joined_with_weights():
    class Steps(Reward):
        def __init__(self, value):
            self.value = value

        def score(self, episodes):
            return [Score(1.0, steps=[StepScore(0, 0, 3, self.value)]) for _ in episodes]

    (result,) = Sum(a=Steps(1.0), b=Steps(-2.0), weights={"b": 0.5}).score([episode()])
    assert result.steps == [StepScore(0, 0, 3, 1.0), StepScore(0, 0, 3, -1.0)]


def test_errors():
    with pytest.raises(ValueError, match="at least one reward"):
        Sum()
    with pytest.raises(ValueError, match="two rewards are called 'short'"):
        Sum(short, short=exact)
    with pytest.raises(ValueError, match=r"weight 'shrot' belongs to no reward.*Did you mean 'short'"):
        Sum(short, weights={"shrot": 1.0})
    with pytest.raises(ValueError, match="finite number"):
        Sum(short, weights={"short": math.nan})
    with pytest.raises(TypeError, match="a reward is a function"):
        Sum(short, bonus=3.0)


def test_columns_the_probe_and_close_reach_the_components():
    closed = []

    class Closing(Reward):
        def score(self, episodes):
            return [Score(0.0)] * len(episodes)

        def close(self):
            closed.append(self)

    reward = Sum(Closing(), level=lambda level: "high")
    with pytest.raises(ValueError, match="'level' is neither"):
        reward.check_columns(["question"])
    with pytest.raises(TypeError, match="must return a number"):
        reward.check(Episode([], [], row={"level": 1}))
    reward.close()
    assert len(closed) == 1


def test_pickle():
    reward = pickle.loads(pickle.dumps(Sum(short, correct=MathAnswer(), weights={"short": 0.1})))
    assert reward.score([episode()])[0].value == pytest.approx(0.1)
