"""What the tasks' prompts and players' answers share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...rewards import Message
from ...rewards.extraction import find_answer
from ..core import TextEnv
from ..tokenizers import ByteTokenizer, Tokenizer

_FIELD = re.compile(r"\{(\w+)\}")


def is_told(tokenizer: Tokenizer) -> bool:
    """Whether a policy with this tokenizer is told in the prompt what to do. The built-in one, which reads bytes, learns
    it from demonstrations: it cannot follow what it is told, and pays for every byte of it."""
    return not isinstance(tokenizer, ByteTokenizer)


def untold(env: TextEnv, row: Mapping[str, Any]) -> list[Message]:
    """The opening of an episode without what the system prompt would tell of tools."""
    system: list[Message] = [{"role": "system", "content": env.system_prompt}] if env.system_prompt else []
    return [*system, *env.messages(row)]


def template(given: str | None, tokenizer: Tokenizer, *, brief: str, full: str) -> str:
    """The text of a task's prompt, with {fields} in it: `given`, or else `full`, or `brief` for the built-in policy.

    Raises:
        ValueError: `given` lacks a field that `brief` has.
    """
    if given is None:
        return full if is_told(tokenizer) else brief
    missing = [f"{{{name}}}" for name in _FIELD.findall(brief) if f"{{{name}}}" not in given]
    if missing:
        raise ValueError(f"prompt is a text with {', '.join(missing)} in it, where that goes, not {given!r}")
    return given


def fill(text: str, **fields: object) -> str:
    """`text` with the values of `fields` in their places; other braces, also those within values, stay."""
    return _FIELD.sub(lambda match: str(fields.get(match[1], match[0])), text)


def said(text: str) -> str:
    r"""What a turn comes to in a game: what is in `\boxed{}` or `<answer>` tags, or else the whole turn."""
    return (find_answer(text) or text).strip()
