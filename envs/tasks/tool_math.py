"""`ToolMath-v0`: arithmetic that is too large for the head, with a calculator at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym

from ...rewards import MathAnswer, Message, Reward
from ..core import TextEnv
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike, load_tokenizer
from ..tools.calculator import calculator
from ..tools.protocols import Call, ToolResult
from ..tools.toolset import ToolLimits, ToolProtocol
from .generated import Draw, GeneratedRows, Problem, stable_hash
from .prompts import fill, is_told, template, untold

BRIEF = "{question}"
FULL = "What is {question} Put the final answer in \\boxed{}."


def calc(expression: str) -> str:
    """Compute an arithmetic expression exactly: + - * / // % **, parentheses.

    Args:
        expression: for example 347*862
    """
    return calculator(expression)


class ToolMathEnv(TextEnv):
    r"""Compute a product that is too large to do in the head, with a calculator.

    ## Description
    Each episode is one expression, "347*862=?". A turn with `<calc>347*862</calc>` in it is answered by
    `<result>299114</result>`; one without a call is the answer. To call costs a few tokens, and to answer without is a
    gamble: whether to use the tool, and to copy its result, is what there is to learn.

    The demonstrations use the calculator in the share `tool_share` of the problems, and in the others write the answer
    down at once. A policy that was warm-started on them calls it about as often, and guesses wrongly where it does not.

    ## Action Space
    At level "turn" a `TextSpace`: a whole turn. At level "token" `Discrete(vocabulary)`: its next token. A call stands
    between `<calc>` and `</calc>`, or is a JSON tool call (`tool_protocol`).

    ## Observation Space
    At level "turn" a `TextSpace`: the question, and then what the calculator says. At level "token" the tokens so far,
    their number and the action mask (`TokenEnv`).

    ## Rewards
    1 if the last `\boxed{}` that the policy wrote is the value, 0 if not; `reward` puts any other in its place. Neither
    what the calculator says is an answer nor the expression once more (`MathAnswer(computed=True)`).
    `info["score_parts"]` has `tool_calls`, `tool_errors` and `malformed_calls` too.

    ## Starting State
    A problem drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after a turn without a call. Truncated if it has more calls than `tool_limits` allow (4), and at level
    "token" at `max_tokens`.

    ## Arguments
    ```python
    gym.make("ToolMath-v0", difficulty=2, tool_share=0.3)
    gym.make("ToolMath-v0", level="turn", tool_protocol="json", tokenizer="Qwen/Qwen2.5-0.5B-Instruct")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (256) and `stop`: limits of the token level.
    * `split`: "train" or "test", which share no problem.
    * `difficulty`: 1 for products of numbers of three digits (default), 2 of four and three, 3 of six and five, 4 for sums
      of two products.
    * `tool_share`: of the demonstrations that use the calculator, 0.7 by default.
    * `tool_protocol`: "tags" (default) or "json", in the form of the chat template; `tool_limits`: calls, seconds and
      characters (`ToolLimits`).
    * `prompt`: a text with `{question}` where the question goes. By default it is the question alone for the built-in
      policy, which is not told of the calculator either, and asks for `\boxed{}` for all others.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        difficulty: int = 1,
        tool_share: float = 0.7,
        tool_protocol: ToolProtocol = "tags",
        tool_limits: ToolLimits | Mapping[str, Any] = ToolLimits(calls=4),  # noqa: B008 (frozen)
        prompt: str | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        if difficulty not in DIGITS:
            raise ValueError(f"difficulty is a level from 1 to {len(DIGITS)}, not {difficulty!r}")
        if not 0.0 <= tool_share <= 1.0:
            raise ValueError(f"tool_share is a share, from 0 to 1, not {tool_share}")
        self._tool_share = tool_share
        tokenizer = load_tokenizer(tokenizer)
        self._template = template(prompt, tokenizer, brief=BRIEF, full=FULL)
        super().__init__(
            GeneratedRows(f"ToolMath {difficulty}", partial(draw_problem, difficulty), split),
            MathAnswer(computed=True) if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
            tools=[calc],
            tool_protocol=tool_protocol,
            tool_limits=tool_limits,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": fill(self._template, question=row["question"])}]

    def opening(self, row: Mapping[str, Any]) -> list[Message]:
        return super().opening(row) if is_told(self.tokenizer) else untold(self, row)

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message]:
        assert self.toolset is not None
        protocol = self.toolset.protocol
        answer: Message = {"role": "assistant", "content": f"\\boxed{{{row['answer']}}}"}
        if stable_hash(row["question"], 8) >= self._tool_share * 2**64:
            return [answer]
        call = Call("calc", {"expression": row["question"].removesuffix("=?")})
        asked: Message = {"role": "assistant", "content": protocol.write(call)}
        return [asked, protocol.message(ToolResult(call, row["answer"])), answer]


# By difficulty, the digits of the factors of each product.
DIGITS: Mapping[int, Sequence[tuple[int, int]]] = {1: [(3, 3)], 2: [(4, 3)], 3: [(6, 5)], 4: [(4, 3), (4, 3)]}


def draw_problem(difficulty: int, draw: Draw) -> Problem:
    """A product or a sum of some, as a row with `question` and `answer`, both texts."""
    products = [tuple(draw.integer(10 ** (n - 1), 10**n - 1) for n in digits) for digits in DIGITS[difficulty]]
    question = "+".join(f"{a}*{b}" for a, b in products) + "=?"
    answer = sum(a * b for a, b in products)
    return Problem(sorted(sorted(product) for product in products), {"question": question, "answer": str(answer)})


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("ToolMath-v0", ...)`."""
    return at_level(ToolMathEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
