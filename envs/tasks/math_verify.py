"""`MathVerify-v0`: a mathematical question, and an answer that is verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from ...rewards import MathAnswer, Message, Reward
from ..core import TextEnv
from ..datasets import load_rows, require_columns, split_rows
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike
from .math_problems import MathProblems

INSTRUCTION = "{question}\n\nSolve the problem and put the final answer in \\boxed{}."


@dataclass(frozen=True)
class Columns:
    """Where a dataset keeps its question (one column, or several that are read one after the other) and its answer."""

    question: tuple[str, ...]
    answer: str


# Known datasets by their columns; the first whose columns are all there is taken.
FORMATS = {
    "SVAMP": Columns(("Body", "Question"), "Answer"),
    "GSM8K and plain": Columns(("question",), "answer"),
    "MATH and AIME": Columns(("problem",), "answer"),
    "MAWPS": Columns(("input",), "target"),
}


class MathVerifyEnv(TextEnv):
    r"""Answer a question of mathematics; the answer is verified, not compared as a string.

    ## Description
    Each episode is one question and one answer. Without a dataset the questions are generated: sums and differences
    with carries (difficulty 1) up to fractions and equations (see `tokengym.envs.tasks.math_problems`). With one, the
    columns are recognised: GSM8K (`question`, `answer` that ends in `#### 18`), MAWPS (`input`, `target`), SVAMP
    (`Body`, `Question`, `Answer`), AIME and MATH (`problem`, `answer`) and plain `question` and `answer`.

    ## Action Space
    At level "turn" a `TextSpace`: the whole answer. At level "token" `Discrete(vocabulary)`: its next token.

    ## Observation Space
    At level "turn" a `TextSpace`: the question. At level "token" the tokens so far, their number and the action mask
    (`TokenEnv`).

    ## Rewards
    1 if the last `\boxed{}` (or `#### `) of the answer equals the reference answer, 0 if not; `reward` puts any other
    in its place. Where the verifier cannot tell, the reward is 0 and `info["abstained"]` is True. The answer to a
    generated problem has to be a number: its question in a box, `\boxed{27+48}`, gets 0 (`MathAnswer(computed=True)`).

    ## Starting State
    A question drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after the answer. At level "token" truncated at `max_tokens`.

    ## Arguments
    ```python
    gym.make("MathVerify-v0")                                                  # generated, token level, bytes
    gym.make("MathVerify-v0", level="turn", dataset="gsm8k/train.jsonl",
             tokenizer="HuggingFaceTB/SmolLM2-135M-Instruct")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (256) and `stop`: limits of the token level.
    * `dataset`: None for generated problems, a list of rows, a `.jsonl`, `.json` or `.parquet` file, or a `datasets`
      hub id.
    * `split`: "train", "test" or "all" (of a dataset only). Of a dataset the share `held_out` of the questions is
      "test", chosen by a hash of the question: the two never overlap, whatever the order of the rows.
    * `difficulty`: a level of the generated problems, or several to mix; 1 by default.
    * `question_column`, `answer_column`: for datasets whose columns are not recognised.
    * `prompt`: a text with `{question}` where the question goes; by default the bare question for generated problems,
      and one that asks for `\boxed{}` for datasets.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(
        self,
        dataset: Any = None,
        *,
        split: str = "train",
        difficulty: int | Sequence[int] | None = None,
        held_out: float | None = None,
        question_column: str | None = None,
        answer_column: str | None = None,
        prompt: str | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        rows: Sequence[Mapping[str, Any]]
        if dataset is None:
            if question_column or answer_column or held_out is not None:
                raise ValueError("question_column, answer_column and held_out belong to a dataset, but none was given")
            if split not in ("train", "test"):
                raise ValueError(f'the split of generated problems is "train" or "test", not {split!r}')
            rows = MathProblems(levels=1 if difficulty is None else difficulty, split=split)
            self._columns = FORMATS["GSM8K and plain"]
        else:
            if difficulty is not None:
                raise ValueError("difficulty is a level of the generated problems; leave it out with a dataset")
            rows = load_rows(dataset)
            self._columns = find_columns(rows.columns, rows.name, question_column, answer_column)
            require_columns(rows, (*self._columns.question, self._columns.answer))
            rows = split_rows(rows, split, key=self.question, held_out=0.1 if held_out is None else held_out)
        self._generated = dataset is None
        self._template = ("{question}" if dataset is None else INSTRUCTION) if prompt is None else prompt
        if "{question}" not in self._template:
            raise ValueError(f"prompt is a text with {{question}} in it, where the question goes, not {prompt!r}")
        super().__init__(
            rows,
            MathAnswer(computed=self._generated) if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
        )

    def question(self, row: Mapping[str, Any]) -> str:
        """The question of `row`, without the prompt around it."""
        return " ".join(str(row[column]).strip() for column in self._columns.question)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": self._template.replace("{question}", self.question(row))}]

    def answer(self, row: Mapping[str, Any]) -> str:
        value = row[self._columns.answer]
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # MAWPS writes 14.0
        return str(value).rpartition("####")[2].strip()  # GSM8K writes its reasoning before the mark

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message]:
        boxed = f"\\boxed{{{self.answer(row)}}}"
        if self._generated:
            text = row["solution"]
        elif "\\boxed" in boxed[1:]:
            text = self.answer(row)  # MATH has only whole solutions, with the answer boxed at their end
        else:
            reasoning, mark, _ = str(row[self._columns.answer]).rpartition("####")
            reasoning = re.sub(r"<<.*?>>", "", reasoning)  # GSM8K's calculator notes
            text = f"{reasoning.strip()}\n{boxed}" if mark else boxed
        return [{"role": "assistant", "content": text}]


def find_columns(available: Sequence[str], name: str, question: str | None, answer: str | None) -> Columns:
    """The columns of the question and the answer: as given, or else by the known `FORMATS`.

    Raises:
        ValueError: if only one of them was given and the other cannot be told, or no known format fits.
    """
    if question and answer:
        return Columns((question,), answer)
    for known in FORMATS.values():
        chosen = Columns((question,) if question else known.question, answer or known.answer)
        if {*chosen.question, chosen.answer} <= set(available):
            return chosen
    known = "; ".join(f"{', '.join((*c.question, c.answer))} ({name})" for name, c in FORMATS.items())
    raise ValueError(
        f"cannot tell the question and the answer among the columns of {name}: {', '.join(available)}. Known are {known}. "
        "Name them by question_column and answer_column"
    )


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("MathVerify-v0", ...)`."""
    return at_level(MathVerifyEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
