"""`InstructionFollowing-v0`: write a text that follows instructions which a program can check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from ...rewards import InstructionFollowing, Message, Reward
from ...rewards.instructions import columns_of, instructions_of, sample_instructions, write_text
from ..core import TextEnv
from ..datasets import Rows, load_rows, require_columns, split_rows
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike
from .generated import Draw, GeneratedRows, Problem, Remembered, stable_hash

REQUESTS = (
    "Write a letter about {}.", "Write an advertisement for {}.", "Explain {} to a child.", "Describe {}.",
    "Write a short story about {}.", "Write a blog post about {}.", "Give advice on {}.", "Tell a friend about {}.",
    "Write a review of {}.", "What do people like about {}?", "Write a speech about {}.", "Write a memo about {}.",
)  # fmt: skip
SUBJECTS = (
    "a bakery", "a bicycle tour", "a birthday party", "a boat", "a bookshop", "a broken window", "a campsite", "a cat",
    "a chess club", "a choir", "a city at night", "a coffee machine", "a compass", "a concert", "a country fair", "a dance",
    "a day at sea", "a dictionary", "a farm", "a film", "a fire drill", "a football match", "a garden", "a glacier",
    "a guitar", "a harbour", "a hospital", "a kite", "a language course", "a lighthouse", "a lost umbrella", "a map",
    "a marathon", "a market", "a museum", "a mountain hut", "a neighbour", "a new job", "a newspaper", "a night train",
    "a painting", "a piano lesson", "a picnic", "a planet", "a playground", "a puppet theatre", "a recipe", "a river",
    "a school trip", "a sewing machine", "a snowstorm", "a spider", "a swimming pool", "a tea house", "a telescope",
    "a volcano", "a wedding", "a weekend in the country", "a windmill", "a workshop", "an airport", "an apple tree",
    "an astronaut", "an eclipse", "an island", "an old radio", "an orchestra", "baking bread", "bees", "black holes",
    "breakfast", "bridges", "cheese", "climbing", "clouds", "dinosaurs", "dreams", "earthquakes", "electric cars", "fishing",
    "forests", "getting up early", "gravity", "handwriting", "honey", "ice cream", "jazz", "knitting", "learning to swim",
    "magnets", "moving house", "noise", "penguins", "photographs", "postcards", "rain", "robots", "saving money", "sleep",
    "soap", "solar power", "soup", "the calendar", "the desert", "the first day of spring", "the moon", "the post office",
    "the seasons", "the sea", "time zones", "tomatoes", "trains", "umbrellas", "vaccines", "volunteering", "whales", "winter",
)  # fmt: skip
_WORDS = 60
_TRIES = 20  # at a demonstration, each of which is some attempts already


class InstructionFollowingEnv(TextEnv):
    """Write a text that follows instructions on its form, each of which a program can check.

    ## Description
    Each episode is a request, "Write a letter about tea. Your response must contain at least 3 sentences. …", and one
    answer. The instructions are of the kinds of IFEval (arXiv 2311.07911): numbers of words, sentences and paragraphs,
    words that have to be there or must not, case, quotation marks, JSON, and more. Generated requests have instructions that
    can be followed together, drawn from `kinds`. With a dataset, its rows have IFEval's columns `prompt`,
    `instruction_id_list` and `kwargs`.

    Whether the text makes sense is not judged: for that, add a reward model (`tokengym.rewards.Gate` or `Sum`).

    ## Action Space
    At level "turn" a `TextSpace`: the whole answer. At level "token" `Discrete(vocabulary)`: its next token.

    ## Observation Space
    At level "turn" a `TextSpace`: the request. At level "token" the tokens so far, their number and the action mask
    (`TokenEnv`).

    ## Rewards
    1 if all instructions are followed, 0 if not (`tokengym.rewards.InstructionFollowing`; by its strict criterion), with the
    parts "followed", the share of them that are, and "loose". `reward` puts any other in its place, such as
    `InstructionFollowing("share")`.

    ## Starting State
    A request drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after the answer. At level "token" truncated at `max_tokens`.

    ## Arguments
    ```python
    gym.make("InstructionFollowing-v0", count=2)
    gym.make("InstructionFollowing-v0", level="turn", dataset="ifeval.jsonl", split="all", tokenizer="Qwen/Qwen2.5-3B")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (2 048) and `stop`: limits of the token level.
    * `dataset`: None for generated requests, or what `load_rows` takes: rows, a file, a `datasets` hub id.
    * `split`: "train", "test" or "all" (of a dataset only). They share no request. Of a dataset the share `held_out` is
      "test".
    * `count`: of the instructions of a generated request, 1 to 3 by default; a number for just so many, or several.
    * `kinds`: ids of the kinds to draw from (`tokengym.rewards.instructions.KINDS`), all by default.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(
        self,
        dataset: Any = None,
        *,
        split: str = "train",
        held_out: float | None = None,
        count: int | Sequence[int] | None = None,
        kinds: Collection[str] | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        rows: Sequence[Mapping[str, Any]]
        if dataset is None:
            if held_out is not None:
                raise ValueError("held_out belongs to a dataset, but none was given")
            counts = (1, 2, 3) if count is None else (count,) if isinstance(count, int) else tuple(count)
            chosen = None if kinds is None else tuple(sorted(set(kinds)))
            if not counts:
                raise ValueError("count is how many instructions a request has, or several such numbers, not none")
            for number in counts:  # what cannot be drawn is told here
                sample_instructions(np.random.default_rng(0), number, kinds=chosen, words=_WORDS, prompt=REQUESTS[0])
            generated = GeneratedRows(f"Instructions {counts} {chosen}", partial(draw_request, counts, chosen), split)
            rows = Remembered(generated)
        else:
            if count is not None or kinds is not None:
                raise ValueError("count and kinds are those of generated requests; leave them out with a dataset")
            rows = _checked(load_rows(dataset))
            rows = split_rows(
                rows, split, key=lambda row: str(row["prompt"]), held_out=0.1 if held_out is None else held_out
            )
        super().__init__(
            rows,
            InstructionFollowing() if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["prompt"]}]

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """A text that follows the instructions and makes no other sense; None if none was found."""
        text = written(row)
        return None if text is None else [{"role": "assistant", "content": text}]


def written(row: Mapping[str, Any]) -> str | None:
    """A text that follows the instructions of a row: always the same. None if none was found."""
    instructions = instructions_of(row)
    rng = np.random.default_rng(stable_hash(row["prompt"], 8))
    return next(filter(None, (write_text(instructions, rng) for _ in range(_TRIES))), None)


def draw_request(counts: Sequence[int], kinds: Collection[str] | None, draw: Draw) -> Problem | None:
    """A request with instructions, in IFEval's columns; None if there is no demonstration for it."""
    request = draw.choice(REQUESTS).format(draw.choice(SUBJECTS))
    rng = np.random.default_rng(draw.integer(0, 2**63 - 1))
    drawn = sample_instructions(rng, draw.choice(counts), kinds=kinds, words=_WORDS, prompt=request)
    prompt = " ".join([request, *(instruction.describe() for instruction in drawn)])
    row = {"prompt": prompt, **columns_of(drawn)}
    return None if written(row) is None else Problem(prompt, row)


def _checked(rows: Rows) -> Rows:
    require_columns(rows, ("prompt", "instruction_id_list", "kwargs"))
    for i, row in enumerate(rows):
        try:
            instructions_of(row)
        except ValueError as error:
            raise ValueError(f"{rows.where(i)}: {error}") from None
    return rows


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("InstructionFollowing-v0", ...)`."""
    if level == "token" and max_tokens is None:
        max_tokens = 2048
    return at_level(InstructionFollowingEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
