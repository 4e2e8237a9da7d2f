"""Running many runs side by side, each in a process of its own."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import wait

import torch

from .plan import Run, write_json
from .run import failure, work


def default_jobs(runs: int) -> int:
    """As many runs at once as there are cores; with a GPU, which they would share, one."""
    return 1 if torch.cuda.is_available() else max(1, min(runs, len(os.sched_getaffinity(0))))


def run_all(runs: Sequence[Run], jobs: int, tell: Callable[[Run | None], None]) -> None:
    """Carry out `runs`, `jobs` at a time; afterwards each has its result.

    A run that fails, or whose process ends without a result, has that as its result and leaves the others. When this is
    interrupted, the runs under way finish their step and leave a checkpoint.

    Args:
        tell: is called with each run that has ended, and now and then with None.
    """
    # Threads of processes that share cores would wait for each other by spinning.
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    # Forked from a process that has imported everything, which takes as long as some steps, and has done nothing else.
    context = get_context("forkserver")
    context.set_forkserver_preload(["tokengym.agents"])
    waiting, active = deque(runs), {}
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.popleft()
                with _environment(OMP_NUM_THREADS=str(threads)):
                    process = context.Process(target=work, args=(run, threads, dict(os.environ)), name=run.name)
                    process.start()
                active[process.sentinel] = process, run
            for sentinel in wait(list(active), timeout=0.5):
                process, run = active.pop(sentinel)  # type: ignore[index]
                process.join()
                if not run.result.is_file():
                    run.folder.mkdir(parents=True, exist_ok=True)
                    write_json(run.result, failure(_ending(process.exitcode)))
                tell(run)
            tell(None)
    finally:
        for process, _ in active.values():
            process.terminate()
        for process, _ in active.values():
            process.join()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ": was there too little memory?" if -code == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-code).name}{hint}"
    hint = ". A script has to call compare() below `if __name__ == '__main__':`" if code == 1 else ""
    return f"the process ended with exit code {code} before its result{hint}"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
