"""A transformers model with its tokenizer, as the model rewards run it: loading, batches, one forward pass at a time."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from ..episode import Episode, Score
from .encoding import TextEncoder
from .loading import Head, load_model, load_tokenizer, no_bars, pick_device

Source = str | Path | Any
"""A hub id, a folder or a model object of transformers."""

_UNLIMITED = 10**9  # transformers writes "no limit" as 10^30
_DTYPES = ("auto", "float32", "bfloat16", "float16")

T = TypeVar("T")


class ModelOptions(TypedDict, total=False):
    """Options of every reward that runs a transformers model.

    Attributes:
        dtype: "auto" (default: as the weights are), "float32", "bfloat16" or "float16".
        device: "auto" (default: the GPU if there is one; a model object stays where it is), "cpu", "cuda", "cuda:1", …
        max_length: the most tokens of one input; default: as many as the model and its tokenizer say they take.
        truncate: whether of a longer input the start is left out (but for an opening special token). By default the
            reward abstains.
        batch_tokens: the most tokens, padding included, of one forward pass; 16 384 by default. An input that is longer
            has a pass to itself.
        trust_remote_code: whether code that comes with the model may run; no by default.
    """

    dtype: str
    device: str
    max_length: int | None
    truncate: bool
    batch_tokens: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Unscored:
    """Stands where a score should be, and says why there is none."""

    why: str


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model.

    Attributes:
        ids: the tokens.
        at: positions at which the reward reads the model's answer, where it does so within the input.
        spans: for each of them, what it is about: characters [start, end) of a completion's `turn`-th assistant message,
            as (turn, start, end).
    """

    ids: list[int]
    at: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)


class TextModel:
    """A transformers model and its tokenizer.

    It can be pickled: by its settings if it was made from a folder or a hub id (the weights are loaded again where they
    are first used), whole otherwise. It may be called from several threads; one at a time runs the model.

    Args:
        source: a hub id, a folder or a model object.
        tokenizer: a transformers tokenizer, or the hub id or folder of one; None for that of `source`.
        head: the class of transformers that a folder or hub id is loaded with.

    Raises:
        ValueError: there is no such model or tokenizer, its weights lack the head, tokenizer and model do not fit, or
            an option is wrong.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Any = None,
        *,
        head: Head,
        dtype: str = "auto",
        device: str = "auto",
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int = 16_384,
        trust_remote_code: bool = False,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype is one of {', '.join(_DTYPES)}, not {dtype!r}")
        if batch_tokens < 1 or (max_length is not None and max_length < 1):
            raise ValueError(f"batch_tokens and max_length are at least 1, not {batch_tokens} and {max_length}")
        self._source = str(source) if isinstance(source, str | Path) else None
        self._head: Head = head
        self._dtype, self._device, self._trust = dtype, device, trust_remote_code
        self.batch_tokens = batch_tokens
        if tokenizer is None and self._source is None:
            raise ValueError("a model object needs its tokenizer: pass it as the second argument")
        self.tokenizer = load_tokenizer(self._source if tokenizer is None else tokenizer, trust_remote_code)
        self._lock = threading.RLock()
        self._model = self._place(source if self._source is None else self._load())
        self._check_vocabulary()
        self.encoder = TextEncoder(self.tokenizer, self._limit(max_length), truncate)

    @property
    def model(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._place(self._load())
            return self._model

    def close(self) -> None:
        """Let go of the weights, if they can be loaded again. A model object is its owner's."""
        with self._lock:
            if self._source is not None:
                self._model = None

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration and tokenizer."""
        with no_bars():
            self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_lock"}
        return state if self._source is None else state | {"_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def score(
        self,
        episodes: Sequence[Episode],
        encode: Callable[[Episode], Input],
        read: Callable[[Any, list[Input]], Sequence[T]],
        as_score: Callable[[Input, T], Score],
    ) -> list[Score]:
        """What a reward's `score` returns.

        Args:
            episodes: what to score.
            encode: makes the model's input of an episode; with a ValueError from it the reward abstains.
            read: as for `run`.
            as_score: makes the score of an input and what was read.
        """
        inputs = [_or_why(encode, episode) for episode in episodes]
        results = iter(self.run([x for x in inputs if isinstance(x, Input)], read))
        scores: list[Score] = []
        for x in inputs:
            result = x if isinstance(x, Unscored) else next(results)
            if isinstance(x, Unscored) or isinstance(result, Unscored):
                assert isinstance(result, Unscored)
                scores.append(Score(None, error=result.why))
            else:
                scores.append(as_score(x, result))
        return scores

    def run(
        self, inputs: Sequence[Input], read: Callable[[Any, list[Input]], Sequence[T]], growth: int = 0
    ) -> list[T | Unscored]:
        """Run the model on the inputs, in batches of similar lengths.

        Args:
            inputs: what to run it on.
            read: called with the model, in evaluation mode and without gradients, and the inputs of one batch; returns
                one result for each.
            growth: tokens by which an input may grow within `read`.

        Returns:
            What `read` returned for each input, or why there is nothing.
        """
        results: dict[int, T | Unscored] = {}
        if inputs:
            with self._lock, torch.no_grad(), _evaluating(self.model) as model:
                for batch in self.batches([len(x.ids) + growth for x in inputs]):
                    results |= zip(batch, _read(model, [inputs[i] for i in batch], read), strict=True)
        return [results[i] for i in range(len(inputs))]

    @contextmanager
    def training(self) -> Iterator[Any]:
        """The model in training mode. From now on the weights are not the source's: they travel with this object."""
        with self._lock:
            model = self.model
            self._source = None
            model.train()
            try:
                yield model
            finally:
                model.eval()

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of inputs in batches of at most `batch_tokens` tokens with padding, the longest first, so that memory
        runs out at once or never."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def pad(self, rows: Sequence[Sequence[int]], fill: int) -> dict[str, Tensor]:
        """The ids as a tensor, padded on the right, and the attention mask."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = self.model.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    @property
    def pad_id(self) -> int:
        """The id to fill batches with, where it does not matter which."""
        known = (self.tokenizer.pad_token_id, self.model.config.get_text_config().pad_token_id)
        return next((i for i in (*known, self.tokenizer.eos_token_id) if i is not None), 0)

    def classify(self, model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
        """The logits of a sequence classifier: float32 of shape (rows, labels).

        A decoder of transformers reads the last token that is not `config.pad_token_id`: a wrong one where padding and
        end token are the same, and none at all where no padding token is set. So for this call the padding token is one
        with which no row ends.
        """
        ends = {row[-1] for row in rows}
        fill = next(i for i in itertools.chain([self.pad_id], itertools.count()) if i not in ends)
        with _settings(model.config.get_text_config(), pad_token_id=fill, use_cache=False):
            return model(**self.pad(rows, fill)).logits.float()

    def logits_at(self, model: Any, inputs: Sequence[Input]) -> list[Tensor]:
        """A causal model's next-token logits at the positions `at` of each input: float32 of shape (positions,
        vocabulary). Logits of other positions, which take most of a model's memory, are not computed."""
        wanted = torch.tensor(sorted({position for x in inputs for position in x.at}), dtype=torch.long)
        column = {int(position): i for i, position in enumerate(wanted)}
        padded = self.pad([x.ids for x in inputs], self.pad_id)
        logits = model(**padded, use_cache=False, logits_to_keep=wanted.to(model.device)).logits
        return [logits[row, [column[p] for p in x.at]].float() for row, x in enumerate(inputs)]

    def _load(self) -> Any:
        assert self._source is not None
        return load_model(self._source, self._head, self._dtype, self._trust)

    def _place(self, model: Any) -> Any:
        if self._dtype != "auto":
            model = model.to(getattr(torch, self._dtype))
        if self._device != "auto" or self._source is not None:
            model = model.to(pick_device(self._device))
        return model

    def _limit(self, asked: int | None) -> int | None:
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        positions = positions if positions is not None and positions > 0 else None
        if asked is not None:
            if positions is not None and asked > positions:
                raise ValueError(f"max_length is {asked}, but the model takes no more than {positions} tokens")
            return asked
        known = [positions, self.tokenizer.model_max_length]
        return min((n for n in known if n is not None and 0 < n < _UNLIMITED), default=None)

    def _check_vocabulary(self) -> None:
        ids, rows = max(self.tokenizer.get_vocab().values()) + 1, self.model.get_input_embeddings().num_embeddings
        if ids > rows:
            raise ValueError(f"the tokenizer has {ids} ids, but the model embeds only {rows}: they do not fit")


def _or_why(function: Callable[[Episode], T], episode: Episode) -> T | Unscored:
    try:
        return function(episode)
    except ValueError as e:
        return Unscored(str(e))


def _read(model: Any, inputs: list[Input], read: Callable[[Any, list[Input]], Sequence[T]]) -> list[T | Unscored]:
    """`read`, with half the batch at a time where the memory of the device does not suffice."""
    try:
        return list(read(model, inputs))
    except torch.OutOfMemoryError:
        if len(inputs) == 1:
            return [Unscored(f"{len(inputs[0].ids)} tokens are more than the memory of the device has room for")]
    half = len(inputs) // 2  # outside of `except`, whose traceback holds on to the failed pass's tensors
    return [*_read(model, inputs[:half], read), *_read(model, inputs[half:], read)]


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """In evaluation mode: the model may be a policy that is being trained elsewhere."""
    training = model.training
    if training:
        model.eval()
    try:
        yield model
    finally:
        if training:
            model.train()


@contextmanager
def _settings(config: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(config, name, None) for name in values}
    try:
        for name, value in values.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not come along into a forked process (`AsyncVectorEnv` makes such), which would wait for them.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
