"""The only place where text becomes tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..rewards import Message
from .tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the policy: `transcript.ids[start:end]`, its end token included if it sampled one."""

    start: int
    end: int


class Transcript:
    """A conversation as the policy sees it, token by token.

    Sampled ids are kept exactly as they were sampled: decoding and encoding them again may give others, whose
    log-probabilities nobody has. What the environment says is appended as the ids that the chat template puts after the
    policy's turn.

    A template may render what was said before otherwise than it was said (Qwen 3 drops the thoughts of earlier turns): the
    transcript keeps what was sampled, and a `TemplateWarning` says so once.

    Args:
        tokenizer: the policy's.
        messages: the conversation before the policy's first turn.
        tools: schemas for the chat template to show (`TextEnv.tool_schemas`).
        inline_results: a turn that the policy has not ended goes on after a tool's result, which stands in it as plain
            text (`TextEnv.inline_results`).

    Attributes:
        ids: all tokens.
        action_mask: 1 where the policy sampled the token, 0 where the prompt or the environment wrote it.
        logprobs: the sampler's log-probability of each token; 0 where action_mask is 0.
        turns: where the policy's turns are.
        messages: the conversation so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        inline_results: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.tools = tools
        self.inline_results = inline_results
        self.messages = list(messages)
        self.ids = tokenizer.encode_prompt(messages, tools)
        self.action_mask = [0] * len(self.ids)
        self.logprobs = [0.0] * len(self.ids)
        self.turns: list[Turn] = []
        self._replied = True  # whose turn it is
        self._unfinished = False  # the policy's last message goes on after an inline result

    def __len__(self) -> int:
        return len(self.ids)

    def copy(self) -> Transcript:
        """The same conversation, to go on with in another way."""
        other = copy.copy(self)
        for name in ("messages", "ids", "action_mask", "logprobs", "turns"):
            setattr(other, name, getattr(self, name).copy())
        return other

    @property
    def num_actions(self) -> int:
        """Tokens that the policy sampled."""
        return sum(turn.end - turn.start for turn in self.turns)

    def append_turn(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> str:
        """Append a turn as it was sampled and return its text. Without `logprobs` they count as 0.

        Raises:
            ValueError: if `ids` and `logprobs` differ in length.
        """
        logprobs = [0.0] * len(ids) if logprobs is None else logprobs
        if len(ids) != len(logprobs):
            raise ValueError(f"a turn of {len(ids)} tokens came with {len(logprobs)} log-probabilities")
        self.turns.append(Turn(len(self.ids), len(self.ids) + len(ids)))
        self.ids.extend(ids)
        self.action_mask.extend([1] * len(ids))
        self.logprobs.extend(logprobs)
        text = self.tokenizer.decode(ids)
        if self._unfinished:
            self._extend_message(text)
        else:
            self.messages.append({"role": "assistant", "content": text})
        self._replied = self._unfinished = False
        return text

    def reply_ids(self, reply: Sequence[Message]) -> list[int]:
        """The ids that follow the policy's last turn when the environment says `reply`, up to the opening of the next
        turn.

        Raises:
            ValueError: if the last message is not the policy's.
        """
        if self._replied:
            raise ValueError(
                "the environment replies to a turn of the policy, but the last message is not the policy's"
            )
        if self._is_inline(reply):
            return self.tokenizer.encode_more(_inline(reply))
        ids = self.tokenizer.encode_reply(self.messages[:-1], reply, self.tools)
        if not self._ended:
            return ids
        # The policy sampled the end of its turn: it stands in the transcript already, with mask 1. A template may put
        # white space between the text and the end (Llama 2 does).
        end = next((i for i, token in enumerate(ids) if token in self.tokenizer.end_ids), len(ids))
        closes = end < len(ids) and not self.tokenizer.decode(ids[:end]).strip()
        return ids[end + 1 :] if closes else ids

    def append_reply(self, reply: Sequence[Message], ids: Sequence[int] | None = None) -> None:
        """Append what the environment says; `ids` are its `reply_ids` if the caller has them already."""
        ids = self.reply_ids(reply) if ids is None else ids
        if self._is_inline(reply):
            self._extend_message(_inline(reply))
            self._unfinished = True
        else:
            self.messages.extend(reply)
            if reply:
                self.tokenizer.check_kept(self.messages, self.tools)
        self._replied = True
        self.ids.extend(ids)
        self.action_mask.extend([0] * len(ids))
        self.logprobs.extend([0.0] * len(ids))

    @property
    def _ended(self) -> bool:
        """Whether the policy has sampled the end of its last turn."""
        last = self.turns[-1]
        return last.end > last.start and self.ids[-1] in self.tokenizer.end_ids

    def _is_inline(self, reply: Sequence[Message]) -> bool:
        tools_only = bool(reply) and all(message["role"] == "tool" for message in reply)
        return self.inline_results and tools_only and not self._ended

    def _extend_message(self, text: str) -> None:
        self.messages[-1] = {"role": "assistant", "content": self.messages[-1]["content"] + text}


def _inline(reply: Sequence[Message]) -> str:
    return "\n" + "".join(f"{message['content']}\n" for message in reply)
