"""What a reward sees (`Episode`) and what it answers (`Score`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Required, TypedDict


class Message(TypedDict, total=False):
    """One message of a conversation, in the form that chat templates take.

    `role` ("system", "user", "assistant" or "tool") and `content` are always there; `tool_calls` and `name` where tools
    are used.
    """

    role: Required[str]
    content: Required[str]
    tool_calls: list[dict[str, Any]]
    name: str


class Stop(StrEnum):
    """Why an episode ended, and what that means for training."""

    ANSWERED = "answered"  # the policy ended its last turn itself: the outcome is its own
    LENGTH = "length"  # cut at the token limit: the answer may be missing through no fault but its length
    TURNS = "turns"  # the turn limit was reached before the task was over
    TOOL_LIMIT = "tool_limit"  # the policy asked for more tool calls than it may make
    TIME = "time"  # the episode took longer than it may, through a slow tool or an endless conversation
    ERROR = "error"  # the environment or a tool failed: the outcome says nothing about the policy


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished (or cut) episode, as a reward sees it.

    Attributes:
        prompt: the messages before the policy's first word.
        completion: everything after: assistant turns and the environment's replies (tool results, feedback), in order.
        answer: the reference answer of the task, or None where it has none.
        row: all columns of the dataset row that the episode was made from.
        stop: why the episode ended.
        num_tokens: tokens that the policy wrote, over all turns, its end-of-turn tokens included.
    """

    prompt: Sequence[Message]
    completion: Sequence[Message]
    answer: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    stop: Stop = Stop.ANSWERED
    num_tokens: int = 0

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self.prompt, *self.completion]

    @property
    def text(self) -> str:
        """What the policy wrote: the assistant turns, joined by a newline."""
        return "\n".join([m["content"] for m in self.completion if m["role"] == "assistant"])


@dataclass(frozen=True, slots=True)
class StepScore:
    """A process reward: `value` for characters [start, end) of a completion's `turn`-th assistant message (from 0)."""

    turn: int
    start: int
    end: int
    value: float


@dataclass(frozen=True, slots=True)
class Score:
    """A reward's verdict on one episode.

    Attributes:
        value: the reward, or None if the reward abstained: it could not tell (a verifier that timed out, a function
            that raised). An abstained episode is left out of training and counted; it is never a silent 0.
        parts: every component by name, for the log. A part named "correct" (1 or 0) is what accuracies are computed
            from.
        steps: process rewards, if the reward gives any.
        error: why the reward abstained; empty otherwise.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[StepScore] = ()
    error: str = ""

    @property
    def abstained(self) -> bool:
        return self.value is None

    @property
    def correct(self) -> bool | None:
        """Whether the task was solved, or None where the reward has no part named "correct" (or abstained)."""
        return None if self.abstained or "correct" not in self.parts else self.parts["correct"] > 0.5
