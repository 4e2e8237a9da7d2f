"""Lessons that a model writes down for itself: how they stand in prompts, and how it is asked for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from ...envs.wrappers import PromptWrapper
from ...rewards import Message

HEADING = "Read these lessons first; they come from earlier problems of this kind:"

SUMMARIZE = """\
Here is a problem and an attempt to solve it, which is {verdict}.

Problem:
{problem}

Attempt:
{attempt}

Say in a few sentences what the attempt did, step by step, and where it went {verdict}."""

COMPARE = """\
Here is a problem, and what several attempts to solve it did.

Problem:
{problem}

{attempts}

Lessons that were known:
{lessons}

What did the right attempts do that the wrong ones did not? Write in one or two sentences what helps with all problems of \
this kind, beyond the lessons that were known."""

REVISE = """\
You keep a short list of lessons for solving problems of one kind.

Lessons:
{lessons}

New remarks:
{remarks}

Bring the list up to date. Write one change a line, and nothing else, in one of these forms:
ADD: a new lesson
CHANGE 2: better words for lesson 2
DELETE 3
KEEP"""

_ADD = re.compile(r"\W*ADD\b[\s:*]*(.*\w.*)", re.IGNORECASE)
_CHANGE = re.compile(r"\W*CHANGE\W*([0-9]{1,4})\b[\s:.*]*(.*\w.*)", re.IGNORECASE)
_DELETE = re.compile(r"\W*DELETE\W*([0-9]{1,4})\W*", re.IGNORECASE)
_KEEP = re.compile(r"\W*KEEP\b.*", re.IGNORECASE)


class Lessons(PromptWrapper, RecordConstructorArgs):
    """A task whose prompts end with lessons.

    Args:
        env: the task.
        lessons: a list, which may change between episodes; forks have it in common.
    """

    shared = (*PromptWrapper.shared, "_lessons")

    def __init__(self, env: gym.Env[str, str], lessons: list[str]) -> None:
        RecordConstructorArgs.__init__(self, lessons=lessons, _disable_deepcopy=True)
        super().__init__(env)
        self._lessons = lessons

    def prompt(self, messages: list[Message]) -> list[Message]:
        if not self._lessons:
            return messages
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        text = f"{HEADING}\n{numbered(self._lessons)}"
        if last is None:
            return [*messages, {"role": "user", "content": text}]
        told: Message = {**messages[last], "content": f"{messages[last]['content']}\n\n{text}"}
        return [*messages[:last], told, *messages[last + 1 :]]


def numbered(lines: Iterable[str]) -> str:
    """Lines with numbers from 1 on, or a word that there are none."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1)) or "(none)"


def asked(template: str, **values: Any) -> list[Message]:
    """A conversation in which `template` is asked, with `values` in it; braces in these mean nothing."""
    names = "|".join(values)
    text = re.sub(rf"\{{({names})\}}", lambda match: str(values[match[1]]), template)
    return [{"role": "user", "content": text}]


def revised(lessons: Sequence[str], reply: str) -> tuple[list[str], Mapping[str, int]]:
    """The list after the changes that `reply` asks for, and how many there were of each kind.

    A line that is no change, or of a lesson that there is not, counts as "unread". Numbers are those of the list before any
    change; a lesson that is there already is not added again.
    """
    after: dict[int, str] = dict(enumerate(lessons, start=1))
    new: list[str] = []
    counts = {"added": 0, "changed": 0, "deleted": 0, "unread": 0}
    for line in filter(None, (" ".join(line.split()) for line in reply.splitlines())):
        if match := _ADD.fullmatch(line):
            if match[1] not in (*after.values(), *new):
                new.append(match[1])
                counts["added"] += 1
        elif (match := _CHANGE.fullmatch(line)) and int(match[1]) in after:
            after[int(match[1])] = match[2]
            counts["changed"] += 1
        elif (match := _DELETE.fullmatch(line)) and int(match[1]) in after:
            del after[int(match[1])]
            counts["deleted"] += 1
        elif not _KEEP.fullmatch(line):
            counts["unread"] += 1
    return [*after.values(), *new], counts
