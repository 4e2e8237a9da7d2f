"""`PythonMath-v0`: mathematics with Python at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym

from ...rewards import MathAnswer, Message, Reward
from ..core import TextEnv
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike
from ..tools.protocols import Call, ToolResult
from ..tools.python import PythonTool
from ..tools.toolset import ToolLimits, ToolProtocol
from .math_verify import MathVerifyEnv
from .python_problems import PythonProblems

SYSTEM = "Put the final answer in \\boxed{}."


class PythonMathEnv(TextEnv):
    r"""Answer a question of mathematics with the help of Python programs; the answer is verified.

    ## Description
    Each episode is one question. A turn with a program in it is answered by what the program prints; it runs in a sandbox
    (`tokengym.rewards.sandbox`), each on its own. A turn without one is the answer. Without a dataset the questions are
    generated, and take more arithmetic than one does in the head: how many primes there are from 211 to 530, the digits of
    7^61. With one, the columns are those that `MathVerify-v0` knows.

    ## Action Space
    At level "turn" a `TextSpace`: a whole turn. At level "token" `Discrete(vocabulary)`: its next token. A program stands
    between `<python>` and `</python>`, or is the argument `code` of a JSON tool call (`tool_protocol`).

    ## Observation Space
    At level "turn" a `TextSpace`: the question, and then what the program printed. At level "token" the tokens so far,
    their number and the action mask (`TokenEnv`).

    ## Rewards
    1 if the last `\boxed{}` that the policy wrote equals the reference answer, 0 if not; `reward` puts any other in its
    place. What a program prints is no answer. Where the verifier cannot tell, the reward is 0 and `info["abstained"]` is
    True. The answer to a generated question has to be a number: `\boxed{\sum_{k=1}^{195}k^3}` gets 0
    (`MathAnswer(computed=True)`).

    ## Starting State
    A question drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after a turn without a program. Truncated if it has more programs than `tool_limits` allow (8), and at level
    "token" at `max_tokens`.

    ## Arguments
    ```python
    gym.make("PythonMath-v0", level="turn")
    gym.make("PythonMath-v0", dataset="gsm8k/train.jsonl", tool_protocol="json", tool_limits={"calls": 3},
             tokenizer="Qwen/Qwen2.5-0.5B-Instruct")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (1 024) and `stop`: limits of the token level.
    * `dataset`, `split`, `held_out`, `question_column`, `answer_column`: as in `MathVerify-v0`.
    * `tool_protocol`: "tags" (default) or "json", in the form of the chat template; `tool_limits`: calls, seconds and
      characters (`ToolLimits`).
    * `preload`: modules that programs find imported, such as ("sympy",); by default Python's own library alone.
    * `unsafe`: accept a host that allows no isolation of programs.
    * `system_prompt`: by default one that asks for `\boxed{}`; what tells of the tool comes behind it.
    * `reward`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    shared = (*TextEnv.shared, "_questions")

    def __init__(
        self,
        dataset: Any = None,
        *,
        split: str = "train",
        held_out: float | None = None,
        question_column: str | None = None,
        answer_column: str | None = None,
        tool_protocol: ToolProtocol = "tags",
        tool_limits: ToolLimits | Mapping[str, Any] = ToolLimits(),  # noqa: B008 (frozen)
        preload: Iterable[str] = (),
        unsafe: bool = False,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = SYSTEM,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        self._generated = dataset is None
        if dataset is None:
            if question_column or answer_column or held_out is not None:
                raise ValueError("question_column, answer_column and held_out belong to a dataset, but none was given")
            rows: Any = PythonProblems(split)
            self._questions = MathVerifyEnv(rows[:2], split="all", prompt="{question}")
        else:
            self._questions = MathVerifyEnv(
                dataset,
                split=split,
                held_out=held_out,
                question_column=question_column,
                answer_column=answer_column,
                prompt="{question}",
            )
            rows = self._questions.rows
        super().__init__(
            rows,
            MathAnswer(computed=self._generated) if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
            tools=[PythonTool(preload=tuple(preload), unsafe=unsafe)],
            tool_protocol=tool_protocol,
            tool_limits=tool_limits,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return self._questions.messages(row)

    def answer(self, row: Mapping[str, Any]) -> str:
        return self._questions.answer(row)

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """A program, what it prints, and the answer; of a dataset, which has no programs, its own solution."""
        if not self._generated:
            return self._questions.demonstration(row)
        assert self.toolset is not None
        program, answer = row["program"], row["answer"]
        if self.toolset.protocol.inline:
            call = f"<python>{program}</python>"
        else:
            call = f"<tool_call>\n{json.dumps({'name': 'python', 'arguments': {'code': program}})}\n</tool_call>"
        return [
            {"role": "assistant", "content": call},
            self.toolset.protocol.message(ToolResult(Call("python", {"code": program}), answer)),
            {"role": "assistant", "content": f"\\boxed{{{answer}}}"},
        ]


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("PythonMath-v0", ...)`."""
    if level == "token" and max_tokens is None:
        max_tokens = 1024
    return at_level(PythonMathEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
