"""Who wrote what in a trajectory: the prompt, the policy's turns with the tool calls in them, and the replies."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

Segment = tuple[int, int, str, str]
"""Tokens [start, end), kind ("prompt", "policy", "tool" or "reply") and title."""


def segments(row: Mapping[str, Any]) -> list[Segment]:
    """The segments of a recorded trajectory, in order, each token in one."""
    replies = _replies(row["completion"])
    found: list[Segment] = []
    at = 0
    for turn, (start, end) in enumerate(row["actions"]):
        if at < start:
            found.append((at, start, *_written(replies, turn)))
        found.append((start, end, "policy", f"turn {turn + 1}"))
        at = end
    if at < len(row["tokens"]):
        found.append((at, len(row["tokens"]), *_written(replies, len(row["actions"]))))
    return found


def tool_calls(row: Mapping[str, Any], parts: Sequence[Segment]) -> list[tuple[int, int]]:
    """Tokens [start, end) of the tool calls in the policy's turns.

    A turn has calls if a tool replies to it, or if it asked for more than there may be. They are found where the
    protocols write them: in `<tool_call>`, behind `[TOOL_CALLS]`, in a tag with the tool's name; else the whole turn
    is the call.
    """
    turns = [part for part in parts if part[2] == "policy"]
    replies = _replies(row["completion"])
    names = {message.get("name") or "" for reply in replies for message in reply if message["role"] == "tool"} - {""}
    calls: list[tuple[int, int]] = []
    for number, (start, end, _, _) in enumerate(turns):
        answered = number < len(replies) and any(m["role"] == "tool" for m in replies[number])
        if answered or (row["stop"] == "tool_limit" and number == len(turns) - 1):
            texts = row["tokens"][start:end]
            starts = [0, *accumulate(map(len, texts))]
            for first, last in _spans("".join(texts), names):
                tokens = bisect_right(starts, first) - 1, bisect_right(starts, last - 1)
                calls.append((start + tokens[0], start + min(tokens[1], end - start)))
    return calls


def _replies(completion: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """For each of the policy's turns, the messages that follow it."""
    replies: list[list[Mapping[str, Any]]] = []
    for message in completion:
        if message["role"] == "assistant":
            replies.append([])
        elif replies:
            replies[-1].append(message)
    return replies


def _written(replies: Sequence[Sequence[Mapping[str, Any]]], turns: int) -> tuple[str, str]:
    """Kind and title of what stands behind the policy's first `turns` turns."""
    if not turns:
        return "prompt", "prompt"
    messages = replies[turns - 1] if turns <= len(replies) else ()
    if messages and all(message["role"] == "tool" for message in messages):
        names = [message.get("name") or "?" for message in messages]
        return "tool", f"result of {', '.join(names)}"
    roles = dict.fromkeys(message["role"] for message in messages)
    return "reply", ", ".join(roles) or "environment"


def _spans(text: str, names: set[str]) -> Iterator[tuple[int, int]]:
    tags = "|".join(map(re.escape, ["tool_call", *sorted(names)]))
    found = [match.span() for match in re.finditer(rf"<({tags})>.*?(?:</\1>|$)", text, re.DOTALL)]
    if not found and "[TOOL_CALLS]" in text:
        found = [(text.index("[TOOL_CALLS]"), len(text))]
    return iter(found or [(0, len(text))] if text else [])
