"""A trajectory as people look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One trajectory to look at.

    Attributes:
        prompt: the task as the policy saw it, as text.
        completion: everything after the prompt, as text.
        answer: the reference answer; empty for tasks without one.
        reward: the score's value; None when the verifier abstained.
        parts: every component of the score.
        stop: why the trajectory ended (the value of a `Stop`).
        num_tokens: length of the completion in tokens.
        error: what went wrong while scoring; empty when nothing did.
    """

    prompt: str
    completion: str
    answer: str
    reward: float | None
    parts: Mapping[str, float]
    stop: str
    num_tokens: int
    error: str = ""


def visible(text: str, newline: str = "\n") -> str:
    """`text` with line ends written as `newline`, tabs as spaces, and what cannot be printed as its escape.

    Model output may hold terminal escapes, bidirectional overrides or lone surrogates: they would colour the
    terminal, reorder the line, or fail to encode. `str.isprintable` draws the line where `repr` does.
    """
    return "".join(
        newline if char == "\n" else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text.expandtabs(4)
    )
