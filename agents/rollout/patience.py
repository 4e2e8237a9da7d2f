"""Waiting for tools without holding up the episodes that wait for none."""

from __future__ import annotations

import math
import time
from typing import Any, Generic, TypeVar

from ...envs.tools.runner import Job, Runner

T = TypeVar("T")

LEAST = 0.25
"""Seconds that a batch waits for tools in any case: quick ones then answer before it, on a busy machine too, so that
what is in a batch does not depend on their time."""


class Patience(Generic[T]):
    """Who waits for a tool, and for how long others wait for them.

    To go on without somebody whose tool is about to answer costs a batch of their own; to wait costs the time. Nobody
    knows when a tool will answer, so a batch waits for as long as the last one took, which is at most twice as long as
    with foresight. It does so once: a tool that has been waited for is not waited for again.

    Attributes:
        batch_seconds: that the last batch took.
    """

    def __init__(self) -> None:
        self.batch_seconds = 0.0
        self._runner: Runner[Any] = Runner()
        self._waiting: dict[Job[Any], T] = {}
        self._slow: set[Job[Any]] = set()

    def start(self, job: Job[Any], who: T) -> None:
        """`who` waits for `job`, which begins."""
        self._waiting[job] = who
        self._runner.start(job)

    def answered(self, others_ready: bool) -> list[T]:
        """Those whose tools have answered, or run out of time. Without others that are ready at least one, if anybody
        waits."""
        found: list[T] = []
        if not others_ready:
            found += self._finished(math.inf)
        limit = time.monotonic() + max(self.batch_seconds, LEAST)
        while self._waiting.keys() - self._slow and (left := limit - time.monotonic()) > 0:
            found += self._finished(left)
        found += self._finished(0.0)
        self._slow = set(self._waiting)
        return found

    def give_up(self) -> None:
        """Wait for nothing any more."""
        self._runner.give_up()

    def _finished(self, timeout: float) -> list[T]:
        return [self._waiting.pop(job) for job in self._runner.finished(timeout)]
