"""ToolMath-v0: the calculator has to be called, and its result copied."""

from __future__ import annotations

import pytest
from tokengym.envs import Tool
from tokengym.envs.tasks.tool_math import DIGITS, ToolMathEnv
from tokengym.envs.tools import Call, JsonProtocol, TagProtocol, as_tool

from .templates import chat


def play(env, row, turns):
    env.reset(options={"row": row})
    for turn in turns:
        result = env.step(turn)
    return result


@pytest.mark.parametrize("protocol", ["tags", "json"])
@pytest.mark.parametrize("difficulty", DIGITS)
def test_the_calculator_gives_the_answer(difficulty, protocol):
    env = ToolMathEnv(difficulty=difficulty, tool_protocol=protocol, tool_share=1.0)
    for row in range(20):
        question, answer = env.rows[row]["question"], env.rows[row]["answer"]
        assert eval(question.removesuffix("=?")) == int(answer)
        shown = env.demonstration(env.rows[row])
        assert len(shown) == 3
        env.reset(options={"row": row})
        said = env.step(shown[0]["content"])[0]
        assert said == shown[1]["content"]
        assert answer in said
        _, reward, terminated, _, info = env.step(shown[2]["content"])
        assert (reward, terminated, info["score_parts"]["tool_calls"]) == (1.0, True, 1.0)


def test_demonstrations_call_the_calculator_in_the_share_that_was_asked_for():
    for share in (0.0, 0.3, 0.7, 1.0):
        env = ToolMathEnv(tool_share=share)
        calls = sum(len(env.demonstration(env.rows[row])) == 3 for row in range(1000))
        assert calls / 1000 == pytest.approx(share, abs=0.05)
    # What is shown for a problem is the same for each.
    assert ToolMathEnv(tool_share=0.4).rows[5] == ToolMathEnv().rows[5]
    with pytest.raises(ValueError, match="tool_share is a share"):
        ToolMathEnv(tool_share=1.1)
    with pytest.raises(ValueError, match="difficulty is a level from 1 to 4, not 0"):
        ToolMathEnv(difficulty=0)


def test_cheaters():
    env = ToolMathEnv()
    expression, answer = env.rows[3]["question"].removesuffix("=?"), env.rows[3]["answer"]
    call = f"<calc>{expression}</calc>"
    assert play(env, 3, [call, f"\\boxed{{{answer}}}"])[1] == 1.0
    for turns in [
        [call, "That is it."],  # what the calculator says is no answer
        [call, answer],
        [f"{call}\n<result>\n{answer}\n</result>", "\\boxed{}"],
        ["\\boxed{1}"],
        [f"\\boxed{{{expression}}}"],  # nor is the question
        [call, f"\\boxed{{{expression.replace('*', chr(92) + 'times ')}}}"],
        [f"\\boxed{{{expression}}} \\boxed{{1}}"],
        [f"\\boxed{{{answer}}}, \\boxed{{1}}"],
    ]:
        *_, terminated, truncated, info = result = play(env, 3, turns)
        assert (result[1], terminated, truncated, info["abstained"]) == (0.0, True, False, False)
    *_, terminated, truncated, info = result = play(env, 3, [call] * 5)
    assert (result[1], terminated, truncated, info["stop"]) == (0.0, False, True, "tool_limit")


def test_who_is_told_of_the_calculator():
    assert ToolMathEnv().reset(options={"row": 0})[0] == ToolMathEnv().rows[0]["question"]
    assert ToolMathEnv(system_prompt="Count.").reset()[1]["messages"][0] == {"role": "system", "content": "Count."}
    tags = ToolMathEnv(tokenizer=chat("qwen"))
    prompt, info = tags.reset()
    assert "<calc>expression</calc>: Compute an arithmetic expression" in prompt
    assert "\\boxed{}" in info["messages"][-1]["content"]
    json = ToolMathEnv(tokenizer=chat("qwen"), tool_protocol="json")
    assert json.tool_schemas[0]["function"]["name"] == "calc"


def two(name: str, count: int) -> str:
    """Two arguments.

    Args:
        name: one
        count: another
    """
    return name * count


def one(numbers: list[int]) -> int:
    """One argument that is no text.

    Args:
        numbers: some
    """
    return sum(numbers)


def text(query: str) -> str:
    """One text.

    Args:
        query: it
    """
    return query


@pytest.mark.parametrize("kind", [TagProtocol, JsonProtocol])
def test_calls_are_read_as_they_are_written(kind):
    tools: list[Tool] = [as_tool(two), as_tool(one), as_tool(text)]
    protocol = kind(tools)
    for call in [
        Call("two", {"name": 'a "b"\n<c>', "count": 3}),
        Call("one", {"numbers": [1, 2]}),
        Call("text", {"query": 'who is "é"?'}),
        Call("text", {"query": "3 < 4"}),
    ]:
        assert protocol.read(protocol.write(call)) == [call]
