"""Tokenizers as the project uses them: text to ids and back, and conversations to ids.

`ByteTokenizer` needs no files and no network; `ChatTokenizer` wraps any transformers tokenizer, with or without a chat
template.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..rewards import Message


class Tokenizer(ABC):
    """Text to ids and back, and conversations to ids.

    Attributes:
        vocab_size: ids are in [0, vocab_size).
        pad_id: an id to fill batches with; it is masked wherever it stands.
        end_ids: sampling one of these ends the policy's turn.
        end_id: the one of them that the conversation format itself uses.
    """

    vocab_size: int
    pad_id: int
    end_ids: frozenset[int]
    end_id: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of plain text, without any special token added around it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens have none."""

    @abstractmethod
    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of `ids` with special tokens spelled out, for people to read."""

    @abstractmethod
    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The ids that stand before the policy's first token, up to and including the opening of its turn."""

    @abstractmethod
    def encode_reply(
        self, history: Sequence[Message], reply: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """The ids between the last character of the policy's turn and the first token of its next one.

        `history` is the conversation before the turn, `reply` the messages that follow it. With an empty `reply` these
        are the ids that close the turn. The first id is the template's end of turn, if it has one: a caller whose
        policy has sampled an end token itself leaves that id out.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the tokenizer to `folder`, from where `load_tokenizer` reads it again."""


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes, and a few special ids for the structure of a conversation.

    A message is `<role> bytes <end>`; the policy's turn opens with `<assistant>`. Text cannot forge a special token,
    because conversations are put together from ids and never from a string that is parsed again.
    """

    ROLES = ("system", "user", "assistant", "tool")
    SPECIAL = ("<pad>", "<end>", *(f"<{role}>" for role in ROLES))
    FILE = "byte_tokenizer.json"

    def __init__(self) -> None:
        self.vocab_size = 256 + len(self.SPECIAL)
        self._special = {name: 256 + i for i, name in enumerate(self.SPECIAL)}
        self.pad_id = self._special["<pad>"]
        self.end_id = self._special["<end>"]
        self.end_ids = frozenset({self.end_id})

    def __repr__(self) -> str:
        return "ByteTokenizer()"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def decode_all(self, ids: Sequence[int]) -> str:
        parts = (self.SPECIAL[i - 256].encode() if i >= 256 else bytes([i]) for i in ids)
        return b"".join(parts).decode("utf-8", "replace")

    def _messages(self, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = []
        for message in messages:
            role = message["role"]
            if role not in self.ROLES:
                raise ValueError(f"unknown role {role!r}; expected {', '.join(self.ROLES)}")
            ids += [self._special[f"<{role}>"], *self.encode(message.get("content", "")), self.end_id]
        return ids

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        if tools:
            messages = [{"role": "system", "content": json.dumps(list(tools))}, *messages]
        return [*self._messages(messages), self._special["<assistant>"]]

    def encode_reply(
        self, history: Sequence[Message], reply: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        opening = [self._special["<assistant>"]] if reply else []
        return [self.end_id, *self._messages(reply), *opening]

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, self.FILE).write_text(json.dumps({"type": "bytes", "special": self.SPECIAL}) + "\n")


# For tokenizers without a chat template: base models have seen nothing better than plain labels.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)

# Stands for the policy's turn when a template is asked what follows it. Templates strip, split and rewrite what an
# assistant said; a plain word passes through all of them.
_TURN = "TokenGymTurn"


class ChatTokenizer(Tokenizer):
    """A transformers tokenizer, with its chat template or, where it has none, a plain one (`PLAIN_TEMPLATE`).

    Raises:
        ValueError: if nothing can end the policy's turn: the tokenizer has no `eos_token`, and its chat template closes
            a turn with no special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.hf = tokenizer
        self.name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # not len(): ids may have gaps
        self._template = None if tokenizer.chat_template else PLAIN_TEMPLATE
        eos = tokenizer.eos_token_id
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        closing = [] if eos is None and self._template else self.encode_reply([{"role": "user", "content": "?"}], [])
        # Llama 2's template has a space between the text and the end.
        ends = [i for i in closing if i in special or tokenizer.decode(i).strip()][:1]
        ends = [i for i in ends if i in special] + ([] if eos is None else [eos])
        if not ends:
            raise ValueError(
                f"the tokenizer {self.name!r} has no end token: its eos_token is not set and no special token closes a turn in "
                "its chat template, so a policy could never end its turn; set tokenizer.eos_token"
            )
        self.end_id = ends[0]
        self.end_ids = frozenset(ends)
        self.pad_id = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __repr__(self) -> str:
        return f"ChatTokenizer({self.name!r})"

    def encode(self, text: str) -> list[int]:
        # Without lone surrogates, which JSON can bring into a dataset and no tokenizer of transformers takes.
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return self.hf.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        ids = [i for i in ids if i not in self.end_ids]  # not every end token is declared as special
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def decode_all(self, ids: Sequence[int]) -> str:
        return self.hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], opening: bool) -> str:
        return self.hf.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=self._template,
            add_generation_prompt=opening,
            tokenize=False,
        )

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        return self.encode(self._render(messages, tools, opening=True))

    def encode_reply(
        self, history: Sequence[Message], reply: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        mark = _TURN
        while any(mark in (message.get("content") or "") for message in (*history, *reply)):
            mark += "n"
        turn: Message = {"role": "assistant", "content": mark}
        text = self._render([*history, turn, *reply], tools, opening=bool(reply))
        before, found, after = text.rpartition(mark)
        if not found or mark in before:
            raise ValueError(
                f"the chat template of {self.name!r} does not render an assistant's message as it was written"
            )
        return self.encode(after)

    def save(self, folder: str | Path) -> None:
        self.hf.save_pretrained(str(folder))


TokenizerLike = str | Path | Tokenizer | Any


def load_tokenizer(source: TokenizerLike = "bytes") -> Tokenizer:
    """A `Tokenizer` from "bytes", a hub id, a folder, a transformers tokenizer or a `Tokenizer`.

    Raises:
        ValueError: if `source` is neither a folder with a tokenizer nor a name that the hub knows, or has no end token.
    """
    if isinstance(source, Tokenizer):
        return source
    if isinstance(source, str | Path):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            return _load_named(str(source), 0)
        changed = max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0)
        return _load_named(str(folder.resolve()), changed)
    if hasattr(source, "apply_chat_template"):
        return ChatTokenizer(source)
    raise ValueError(f'a tokenizer is "bytes", a hub id, a folder or a tokenizer object, not {type(source).__name__}')


# The environments of a vector share one tokenizer: it is immutable, and loading one takes a second. A folder is read
# again when a file in it has changed.
@lru_cache(maxsize=16)
def _load_named(name: str, changed: int) -> Tokenizer:
    if name == "bytes" or Path(name, ByteTokenizer.FILE).is_file():
        return ByteTokenizer()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no tokenizer {name!r}: neither a folder that has one nor reachable on the hub ({reason})"
        ) from error
    return ChatTokenizer(tokenizer)


class StopStrings:
    """Whether a turn has just produced one of some stop strings, without decoding the whole turn at every token."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or not all(isinstance(s, str) and s for s in strings):
            raise ValueError(f"stop strings are a sequence of non-empty strings, not {strings!r}")
        self.strings = tuple(strings)
        self._tokenizer = tokenizer
        # Four bytes more than the longest string complete a character of several bytes at the window's left edge.
        self._window = max((len(s.encode()) for s in self.strings), default=0) + 4

    def hit(self, turn: Sequence[int]) -> bool:
        """Whether the last token of `turn` completed a stop string, if none was complete before it."""
        if not self.strings:
            return False
        # A token has at least one byte, unless it is a special one, which has none.
        window = self._window
        tail = self._tokenizer.decode(turn[-window:])
        while window < len(turn) and len(tail.encode()) < self._window:
            window *= 2
            tail = self._tokenizer.decode(turn[-window:])
        return any(s in tail for s in self.strings)
