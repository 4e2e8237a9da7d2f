"""`Summarize-v0`: summaries that a reward model judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym

from ...rewards import Message, Reward
from ..core import TextEnv
from ..datasets import first_column, load_rows, require_columns, split_rows
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike, load_tokenizer
from .generated import GeneratedRows
from .prompts import fill, template
from .summarize_documents import draw_document

BRIEF = "{document}"
FULL = "{document}\n\nSummarize this in one sentence."

DOCUMENTS = ("document", "article", "dialogue", "text", "prompt")
SUMMARIES = ("summary", "highlights", "answer", "label")
MODEL = Path(__file__).parent / "summarize_model"


class SummarizeEnv(TextEnv):
    """Summarize a document; a model of preferences says how good the summary is.

    ## Description
    Each episode is one document and one answer, and no answer is right or wrong: a reward model, which has learned from
    pairs of a better and a worse summary, gives it a number. It is the last stage of learning from preferences (Stiennon
    et al. 2020, arXiv 2009.01325), and one finds out here whether a policy gets better or only gets the better of a model.

    Without a dataset the documents are generated, some sentences of which one is the news: "There was soup for lunch. On
    Friday Greta lost a ring at the zoo. Hugo stayed at home." Their reward model is built in: a Llama of 0.1 M parameters
    that prefers the news in one sentence to wrong facts, asides, copies, repetitions and noise (`python -m
    benchmarks.summarize_model` made it). With a `dataset` of your own goes a `model`.

    ## Action Space
    At level "turn" a `TextSpace`: the whole summary. At level "token" `Discrete(vocabulary)`: its next token.

    ## Observation Space
    At level "turn" a `TextSpace`: the document. At level "token" the tokens so far, their number and the action mask
    (`TokenEnv`).

    ## Rewards
    The number of the reward model (`tokengym.rewards.models.scalar.ScalarRewardModel`) for the conversation, which has no
    bounds. That of the built-in one is calibrated: over good and worse summaries it has about mean 0 and standard deviation
    1. It is 0.5 on average for good ones, but depends as much on the document, so that only summaries of the same one can
    be compared. `reward` puts any other in its place.

    ## Starting State
    A document drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after the summary. At level "token" truncated at `max_tokens`.

    ## Arguments
    ```python
    gym.make("Summarize-v0")
    gym.make("Summarize-v0", dataset="tldr.jsonl", model="./reward_model", tokenizer="Qwen/Qwen2.5-0.5B-Instruct")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (256, and 2 048 with a dataset) and `stop`: limits of the token
      level.
    * `dataset`: None for generated documents, or what `load_rows` takes: rows, a file, a `datasets` hub id; with a column
      `document`, `article`, `dialogue`, `text` or `prompt`, and a reference in `summary`, `highlights`, `answer` or `label`
      if there is one.
    * `model`: the reward model: a folder or hub id of a sequence classifier with one label; None for the built-in one, which
      knows generated documents alone.
    * `split`: "train", "test" or "all" (of a dataset only). They share no document. Of a dataset the share `held_out` is
      "test".
    * `prompt`: a text with `{document}` where the document goes. By default it is the document alone for the built-in
      policy, and asks for one sentence for all others.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(
        self,
        dataset: Any = None,
        model: str | Path | None = None,
        *,
        split: str = "train",
        held_out: float | None = None,
        prompt: str | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        if model is not None and reward is not None:
            raise ValueError("model is the reward model, but a reward was given, too: give one of them")
        rows: Sequence[Mapping[str, Any]]
        self._document: str = "document"
        self._summary: str | None = "answer"
        if dataset is None:
            if held_out is not None:
                raise ValueError("held_out belongs to a dataset, but none was given")
            rows = GeneratedRows("Summarize", draw_document, split)
        else:
            if model is None and reward is None:
                raise ValueError(
                    "the built-in reward model knows generated documents alone: give a dataset a model (a folder or hub id) or "
                    "a reward"
                )
            documents = load_rows(dataset)
            self._document = first_column(documents, DOCUMENTS)
            self._summary = next((name for name in SUMMARIES if name in documents.columns), None)
            require_columns(documents, [self._document])
            share = 0.1 if held_out is None else held_out
            rows = split_rows(documents, split, key=lambda row: str(row[self._document]), held_out=share)
        tokenizer = load_tokenizer(tokenizer)
        self._template = template(prompt, tokenizer, brief=BRIEF, full=FULL)
        super().__init__(
            rows,
            (built_in_model() if model is None else reward_model(str(model))) if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": fill(self._template, document=row[self._document])}]

    def answer(self, row: Mapping[str, Any]) -> Any:
        """The reference summary, or None."""
        return None if self._summary is None else row[self._summary]

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """The reference summary; None without one."""
        answer = self.answer(row)
        return None if answer is None else [{"role": "assistant", "content": str(answer)}]


def built_in_model() -> Reward:
    """The reward model for generated documents. On the CPU: it is small, and a forked process cannot use a GPU."""
    return reward_model(str(MODEL), device="cpu")


@cache
def reward_model(source: str, **options: Any) -> Reward:
    """The reward model in a folder or of a hub id: one for all environments of a process."""
    # Here, as it imports torch and transformers.
    from ...rewards.models.scalar import ScalarRewardModel

    return ScalarRewardModel(source, **options)


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("Summarize-v0", ...)`."""
    if level == "token" and max_tokens is None:
        max_tokens = 256 if task.get("dataset") is None else 2048
    return at_level(SummarizeEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
