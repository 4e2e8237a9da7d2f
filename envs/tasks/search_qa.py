"""`SearchQA-v0`: questions that are answered by searching in a corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import gymnasium as gym

from ...rewards import ExactMatch, Message, Reward
from ..core import TextEnv
from ..datasets import Rows, first_column, load_rows, require_columns, split_rows
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike, load_tokenizer
from ..tools.protocols import Call, ToolResult
from ..tools.search import SearchTool
from ..tools.toolset import ToolLimits, ToolProtocol
from .generated import GeneratedRows
from .prompts import fill, is_told, template, untold
from .search_world import draw_question, world

BRIEF = "{question}"
FULL = (
    "{question}\n\nSearch for what you need, and put the answer, as short as it can be, between <answer> and </answer>."
)

# Where question rows have their answer: one, or a list of all that are right.
ANSWERS = ("answer", "answers", "golden_answers")
# Where a corpus has the text of a document.
TEXTS = ("text", "contents")


class SearchQAEnv(TextEnv):
    r"""Answer a question by searching in a corpus.

    ## Description
    Each episode is one question. A turn with `<search>Rumop</search>` in it is answered by the documents that fit best
    (BM25), between `<result>` and `</result>`; a turn without a search is the answer.

    Without arguments corpus and questions are generated: 560 documents on a world that is made up, and questions of one
    to three hops, "What is the capital of the country of the birthplace of Rumop?", which take as many searches, each for
    a name that the one before it found. With a `corpus` of your own (columns `text` or `contents`, and `title` if there is
    one) goes a `dataset` of questions (`question`, and `answer`, `answers` or `golden_answers`, a text or a list of all
    that are right).

    ## Action Space
    At level "turn" a `TextSpace`: a whole turn. At level "token" `Discrete(vocabulary)`: its next token. A search stands
    between `<search>` and `</search>`, or is a JSON tool call (`tool_protocol`).

    ## Observation Space
    At level "turn" a `TextSpace`: the question, and then what was found. At level "token" the tokens so far, their number
    and the action mask (`TokenEnv`).

    ## Rewards
    1 if the last `<answer>` (or `\boxed{}`) of the policy is the reference answer but for case, punctuation and articles
    (`tokengym.rewards.ExactMatch`), 0 if not; `reward` puts any other in its place, such as `tokengym.rewards.F1()`.

    ## Starting State
    A question drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated after a turn without a search. Truncated if it has more searches than `tool_limits` allow (8), and at level
    "token" at `max_tokens`.

    ## Arguments
    ```python
    gym.make("SearchQA-v0", hops=[2, 3])
    gym.make("SearchQA-v0", corpus="wiki.parquet", dataset="nq.jsonl", tokenizer="Qwen/Qwen2.5-3B-Instruct")
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (1 024, and 4 096 with a corpus) and `stop`: limits of the token
      level.
    * `dataset`, `corpus`: None for generated ones, or what `load_rows` takes: rows, a file, a `datasets` hub id.
    * `split`: "train", "test" or "all" (of a dataset only). They share no question. Of a dataset the share `held_out` is
      "test". Both search in the whole corpus.
    * `hops`: how many searches a generated question takes, one or several of 1, 2 and 3; all by default.
    * `results`: how many documents a search shows; 3 of a corpus and 1 of the generated one by default.
    * `tool_protocol`: "tags" (default) or "json", in the form of the chat template; `tool_limits`: calls, seconds and
      characters (`ToolLimits`).
    * `prompt`: a text with `{question}` where the question goes. By default it is the question alone for the built-in
      policy, which is not told of the search either, and asks for `<answer>` for all others.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    shared = (*TextEnv.shared, "_search")

    def __init__(
        self,
        dataset: Any = None,
        corpus: Any = None,
        *,
        split: str = "train",
        held_out: float | None = None,
        hops: int | Sequence[int] | None = None,
        results: int | None = None,
        tool_protocol: ToolProtocol = "tags",
        tool_limits: ToolLimits | Mapping[str, Any] = ToolLimits(),  # noqa: B008 (frozen)
        prompt: str | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        if (dataset is None) != (corpus is None):
            raise ValueError(
                "a dataset of questions and the corpus that answers them go together: give both or neither"
            )
        rows: Sequence[Mapping[str, Any]]
        self._answers = "answer"
        if dataset is None:
            if held_out is not None:
                raise ValueError("held_out belongs to a dataset, but none was given")
            chosen = (1, 2, 3) if hops is None else (hops,) if isinstance(hops, int) else tuple(sorted(set(hops)))
            if not chosen or not set(chosen) <= {1, 2, 3}:
                raise ValueError(f"hops is one or several of 1, 2 and 3, not {hops!r}")
            rows = GeneratedRows(f"SearchQA {chosen}", partial(draw_question, chosen), split)
            self._search = built_in_search(1 if results is None else results)
        else:
            if hops is not None:
                raise ValueError("hops is that of generated questions; leave it out with a dataset")
            questions = load_rows(dataset)
            self._answers = first_column(questions, ANSWERS)
            require_columns(questions, ("question", self._answers))
            rows = split_rows(
                questions,
                split,
                key=lambda row: str(row["question"]),
                held_out=0.1 if held_out is None else held_out,
            )
            self._search = search_of(load_rows(corpus), 3 if results is None else results)
        tokenizer = load_tokenizer(tokenizer)
        self._template = template(prompt, tokenizer, brief=BRIEF, full=FULL)
        super().__init__(
            rows,
            ExactMatch() if reward is None else reward,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
            tools=[self._search],
            tool_protocol=tool_protocol,
            tool_limits=tool_limits,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": fill(self._template, question=row["question"])}]

    def answer(self, row: Mapping[str, Any]) -> Any:
        """The reference answer, or a list of several."""
        return row[self._answers]

    def opening(self, row: Mapping[str, Any]) -> list[Message]:
        return super().opening(row) if is_told(self.tokenizer) else untold(self, row)

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """A search for each name on the way, and the answer; a dataset has no way to show."""
        if "path" not in row:
            return None
        assert self.toolset is not None
        protocol = self.toolset.protocol
        turns: list[Message] = []
        for name in row["path"]:
            call = Call("search", {"query": name})
            found = self._search.call(call.arguments, self.toolset.limits.seconds)
            turns += [{"role": "assistant", "content": protocol.write(call)}, protocol.message(ToolResult(call, found))]
        return [*turns, {"role": "assistant", "content": f"<answer>{row['answer']}</answer>"}]


@cache
def built_in_search(results: int) -> SearchTool:
    """The search in the built-in corpus: one for all environments of a process."""
    return SearchTool(world().texts, world().titles, results=results)


def search_of(corpus: Rows, results: int) -> SearchTool:
    """The search in the documents of a dataset.

    Raises:
        ValueError: a row has no text, or no title where the first has one.
    """
    text = first_column(corpus, TEXTS)
    columns = [text, "title"] if "title" in corpus.columns else [text]
    require_columns(corpus, columns)
    texts, *titles = ([str(row[column]) for row in corpus] for column in columns)
    return SearchTool(texts, titles[0] if titles else None, results=results)


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("SearchQA-v0", ...)`."""
    if level == "token" and max_tokens is None:
        max_tokens = 1024 if task.get("corpus") is None else 4096
    return at_level(SearchQAEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
