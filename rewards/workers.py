"""Worker processes that can be killed: for functions that may hang or eat all memory, on trusted code with untrusted
input.

A parser of mathematics can be sent into minutes of big-number arithmetic, in C, where no signal handler and no thread
can stop it (math-verify #65). So it runs in another process, which is killed at its limit; and because starting Python
and importing SymPy takes about a second, workers are forked, in milliseconds, from a *zygote* that has the module
loaded (see `zygote.py`).

This is not a sandbox: it bounds time, memory and the size of a result, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from .zygote import LENGTH, ORDER

MAX_RESULT = 1 << 20
"""Bytes of JSON that a result may take. A larger one is an error of its job."""

_START_LIMIT = 300.0  # seconds to import the task's module: generous, for cold network file systems
_CROWDED = 0.05  # seconds between two looks for a worker that another thread has given back


class Outcome(StrEnum):
    """How a job ended."""

    DONE = "done"  # the function returned
    TIMEOUT = "timeout"  # it ran past its limit, and its worker was killed
    ERROR = "error"  # it raised (a MemoryError at the memory limit, too), or its result is too large or not JSON
    CRASH = "crash"  # its worker died: a fault in C code, or a kill from outside


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job: `value` where it is done, `detail` (a sentence for people) where it is not."""

    outcome: Outcome
    value: Any = None
    detail: str = ""


_CRASHED = Result(Outcome.CRASH, detail="the worker process died")


class WorkerPool:
    """Up to `size` persistent workers that run one function, each job under a wall-clock limit.

    Processes start at the first `map`, live until `close`, the collection of the pool or the end of the interpreter,
    and end also where this process is killed. The pool may be used from any thread; it may be pickled (without its
    processes), and after a fork the child's copy starts processes of its own.

    Args:
        task: the function, as "package.module:function", "/path/to/file.py:function" or
            "/path/to/package/__init__.py:module.function". The zygote imports the module (with this process's
            `sys.path`), so what the module does when imported is done once, for all workers.
        size: the most workers that run at a time.
        memory: bytes of address space that a worker may take. It is set on Linux; macOS does not support it.
    """

    def __init__(self, task: str, size: int, memory: int = 4 << 30) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        if not hasattr(os, "fork"):
            raise OSError("worker processes need fork(), which this system lacks: use Linux, macOS or WSL")
        self._task, self._size, self._memory = task, size, memory
        self._start_afresh()
        _POOLS.add(self)

    def map(self, jobs: Sequence[Sequence[Any]], timeout: float) -> list[Result]:
        """Run the function on every job, several at a time, and return the results in the order of the jobs.

        Args:
            jobs: the positional arguments of each call, as JSON can carry them.
            timeout: seconds that one job may take, from the moment a worker gets it. Starting processes does not count.

        Raises:
            RuntimeError: the task's module or function cannot be imported. Whatever goes wrong in a job is a `Result`
            instead.
        """
        results = [_CRASHED] * len(jobs)
        waiting = deque(range(len(jobs)))
        running: dict[_Worker, tuple[int, float]] = {}
        may_restart = True
        try:
            while waiting or running:
                try:
                    while waiting and (worker := self._take(block=not running)):
                        running[worker] = waiting[0], time.monotonic() + timeout
                        # A worker that died while idle is replaced: this job is not to blame. If a fresh one takes
                        # nothing, that is a crash, which _collect will see.
                        if worker.send(jobs[waiting[0]], timeout) or worker.fresh:
                            waiting.popleft()
                        else:
                            del running[worker]
                            self._drop(worker)
                except _ZygoteDied:
                    if not may_restart:
                        waiting.clear()
                    may_restart = False
                self._collect(running, results, crowded=bool(waiting))
        finally:
            # Only where an exception (Ctrl-C) came through: a late answer must not be taken for the next job's.
            for worker in running:
                self._drop(worker)
        return results

    def close(self) -> None:
        """End all processes, once calls of `map` in other threads are through. The next `map` starts new ones."""
        with self._changed:
            self._changed.wait_for(lambda: self._zygote is None or len(self._idle) == len(self._zygote.workers))
            self._end_zygote()

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self._task, self._size, self._memory)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()  # guards what follows, and tells waiting threads of a worker set free
        self._zygote: _Zygote | None = None
        self._idle: list[_Worker] = []
        self._at_end: weakref.finalize[..., WorkerPool] | None = None

    def _collect(self, running: dict[_Worker, tuple[int, float]], results: list[Result], crowded: bool) -> None:
        """Wait for the next thing to happen to a running job, and take every job that ended out of `running`."""
        if not running:
            return
        patience = min(deadline for _, deadline in running.values()) - time.monotonic()
        if crowded and len(running) < self._size:
            patience = min(patience, _CROWDED)
        ready = set(wait([worker.channel for worker in running], max(patience, 0.0)))
        now = time.monotonic()
        for worker, (index, deadline) in list(running.items()):
            result = worker.receive() if worker.channel in ready else None
            if result is None:
                if now < deadline:
                    continue
                result = Result(Outcome.TIMEOUT, detail="no result within the time limit")
            results[index] = result
            del running[worker]
            if result.outcome in (Outcome.TIMEOUT, Outcome.CRASH):
                self._drop(worker)
            else:
                self._give_back(worker)

    def _take(self, block: bool) -> _Worker | None:
        """An idle worker or a new one. Where all are busy: None, or with `block` the first that is given back."""
        with self._changed:
            while True:
                if self._idle:
                    return self._idle.pop()
                if self._zygote is None:
                    self._zygote = _Zygote(self._task, self._memory)
                    self._at_end = weakref.finalize(self, self._zygote.close)
                if len(self._zygote.workers) < self._size:
                    try:
                        return self._zygote.fork()
                    except _ZygoteDied:
                        # Busy workers belong to the calls that wait for them, which see their end and close them.
                        self._zygote.workers.intersection_update(self._idle)
                        self._end_zygote()
                        raise
                if not block:
                    return None
                self._changed.wait()

    def _give_back(self, worker: _Worker) -> None:
        worker.fresh = False
        with self._changed:
            if worker.zygote is self._zygote:
                self._idle.append(worker)
            else:
                worker.zygote.kill(worker)
            self._changed.notify_all()

    def _drop(self, worker: _Worker) -> None:
        with self._changed:
            worker.zygote.kill(worker)
            self._changed.notify_all()

    def _end_zygote(self) -> None:
        """To be called with the lock held."""
        if self._at_end is not None:
            self._at_end()
        self._zygote, self._idle, self._at_end = None, [], None
        self._changed.notify_all()

    def _forget_parent(self) -> None:
        """In a forked child: let go of the parent's processes, and leave them to it."""
        if self._at_end is not None:
            self._at_end.detach()
        if self._zygote is not None:
            self._zygote.forget()
        self._start_afresh()  # the lock, too: a thread of the parent may have held it


class _ZygoteDied(Exception):
    pass


class _Zygote:
    """The process that forks workers, and this side's end of its socket. Its user sees to it that one thread at a time
    calls it."""

    def __init__(self, task: str, memory: int) -> None:
        settings = {"path": sys.path, "task": task, "memory": memory, "max_result": MAX_RESULT}
        self.workers: set[_Worker] = set()
        self._forked = 0
        self._control, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: the script's folder is this package, whose modules must not hide the standard library's.
                    [
                        sys.executable,
                        "-P",
                        str(Path(__file__).with_name("zygote.py")),
                        str(theirs.fileno()),
                        json.dumps(settings),
                    ],
                    pass_fds=[theirs.fileno()],
                    # A result that depends on the order of a set (SymPy's may) is the same in every process.
                    env={**os.environ, "PYTHONHASHSEED": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except BaseException:
            self._control.close()
            raise
        try:
            self._wait_until_ready(task)
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self, task: str) -> None:
        self._control.settimeout(_START_LIMIT)
        said = b""
        while not said.endswith(b"\n"):
            try:
                part = self._control.recv(4096)
            except TimeoutError:
                raise RuntimeError(f"the worker process did not import {task} within {_START_LIMIT:.0f} s") from None
            if not part:
                reason = said.decode(errors="replace") or "it ended without a word"
                raise RuntimeError(f"the worker process could not import {task}: {reason}")
            said += part

    def fork(self) -> _Worker:
        self._forked += 1
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [ORDER.pack(b"F", self._forked)], [theirs.fileno()])
        except OSError as e:
            ours.close()
            raise _ZygoteDied from e
        worker = _Worker(self, self._forked, ours)
        self.workers.add(worker)
        return worker

    def kill(self, worker: _Worker) -> None:
        worker.channel.close()
        self.workers.discard(worker)
        with contextlib.suppress(OSError):  # a zygote that died took its workers along
            self._control.send(ORDER.pack(b"K", worker.name))

    def close(self) -> None:
        """End the zygote and its workers, which it kills when its socket closes."""
        self._close_sockets()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Close this process's copies of the sockets; the zygote is another process's child."""
        self._close_sockets()
        self._process.returncode = 0  # it cannot be waited for here: keeps Popen from trying, and from warning

    def _close_sockets(self) -> None:
        self._control.close()
        for worker in self.workers:
            worker.channel.close()


class _Worker:
    """This side's end of a worker's socket. At most one job is in it at a time."""

    def __init__(self, zygote: _Zygote, name: int, channel: socket.socket) -> None:
        self.zygote, self.name, self.channel = zygote, name, channel
        self.fresh = True  # has not finished a job yet
        self._received = bytearray()

    def send(self, job: Sequence[Any], timeout: float) -> bool:
        """Hand the job over. False if the worker is gone or does not take it in time."""
        message = json.dumps(list(job)).encode()
        self.channel.settimeout(timeout)
        try:
            self.channel.sendall(LENGTH.pack(len(message)) + message)
        except OSError:
            return False
        return True

    def receive(self) -> Result | None:
        """The result, or None if it has not wholly arrived. To be called when the channel is readable."""
        try:
            part = self.channel.recv(1 << 16)
        except OSError:
            return _CRASHED
        if not part:
            return _CRASHED
        self._received += part
        if len(self._received) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._received)
        if length > MAX_RESULT:  # the zygote's code never sends that: something else has written to the socket
            return _CRASHED
        if len(self._received) < LENGTH.size + length:
            return None
        reply = json.loads(self._received[LENGTH.size :])
        self._received.clear()
        if "error" in reply:
            return Result(Outcome.ERROR, detail=reply["error"])
        return Result(Outcome.DONE, reply["value"])


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
