"""Running the tool calls of many episodes at the same time, each turn's under a deadline."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .capture import captured

T = TypeVar("T")

MAX_THREADS = 256
"""Turns whose calls run at the same time; further ones wait."""


@dataclass(eq=False)
class Job(Generic[T]):
    """The calls of one turn, one after the other: functions of the number of seconds that are left."""

    calls: Sequence[Callable[[float], T]]
    seconds: float
    results: list[T] = field(default_factory=list)
    deadline: float = 0.0
    given_up: bool = False

    def run(self, done: queue.SimpleQueue[Job[T]]) -> None:
        with captured():
            for call in self.calls:
                if self.given_up:
                    break
                result = call(max(self.deadline - time.monotonic(), 0.0))
                if not self.given_up:
                    self.results.append(result)
        done.put(self)


class Runner(Generic[T]):
    """Jobs that run at the same time.

    Every job has a thread of its own, in which its `seconds` count. A thread cannot be killed: at the deadline nobody
    waits for it any more. It goes on until the call returns, its result is dropped, its further calls are not made, and
    it does not keep the program from ending.
    """

    def __init__(self) -> None:
        self._waiting: deque[Job[T]] = deque()
        self._running: set[Job[T]] = set()
        self._done: queue.SimpleQueue[Job[T]] = queue.SimpleQueue()

    def __len__(self) -> int:
        """Jobs that are not over."""
        return len(self._waiting) + len(self._running)

    def start(self, job: Job[T]) -> None:
        self._waiting.append(job)
        self._start_threads()

    def finished(self, timeout: float = math.inf) -> list[Job[T]]:
        """The jobs that are over since the last call; waits up to `timeout` seconds for there to be one. They have their
        results with them: fewer than calls if their time ran out."""
        over: list[Job[T]] = []
        limit = time.monotonic() + timeout
        while len(self) and not over:
            first = min([limit, *(job.deadline for job in self._running)])
            over = [job for job in self._returned(first) if job in self._running]
            now = time.monotonic()
            for job in self._running.difference(over):
                if job.deadline <= now:
                    job.given_up = True
                    over.append(job)
            self._running.difference_update(over)
            self._start_threads()
            if now >= limit:
                break
        return over

    def give_up(self) -> None:
        """Wait for none of them any more."""
        for job in self._running:
            job.given_up = True
        self._running.clear()
        self._waiting.clear()

    def _returned(self, until: float) -> list[Job[T]]:
        jobs: list[Job[T]] = []
        try:
            jobs.append(self._done.get(timeout=max(until - time.monotonic(), 0.0)))
            while True:
                jobs.append(self._done.get_nowait())
        except queue.Empty:
            return jobs

    def _start_threads(self) -> None:
        while self._waiting and len(self._running) < MAX_THREADS:
            job = self._waiting[0]
            job.deadline = time.monotonic() + job.seconds
            try:
                threading.Thread(target=job.run, args=(self._done,), name="tokengym-tool", daemon=True).start()
            except RuntimeError:  # the system gives no more threads
                if not self._running:
                    raise
                return
            self._running.add(self._waiting.popleft())


def run_jobs(jobs: Iterable[Job[T]]) -> None:
    """Run the calls of all jobs, as `Runner` does, until all are over."""
    runner: Runner[T] = Runner()
    try:
        for job in jobs:
            runner.start(job)
        while len(runner):
            runner.finished()
    finally:
        runner.give_up()  # only where an exception (Ctrl-C) came through are there any
