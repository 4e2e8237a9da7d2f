"""Reading what a run has recorded. The format is told in `tokengym.agents.monitor.rollouts`; torch is not needed here."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 128 << 20
"""Of recorded files on one page: some ten million tokens, which a browser opens in less than two seconds."""

FIELDS = (
    "group",
    "index",
    "parent",
    "fork",
    "sampled",
    "learned",
    "prompt",
    "completion",
    "answer",
    "stop",
    "num_tokens",
)
FIELDS += ("reward", "parts", "error", "tokens", "actions", "logprobs", "entropies", "advantages", "log_ratios")
FIELDS += ("token_rewards", "step_rewards")
"""What a row has."""


@dataclass(frozen=True)
class Record:
    """The recorded steps of a run.

    Attributes:
        run_dir: the run's folder.
        description: what its `agent.json` says; empty if there is none.
        files: step → file, of the steps to show.
        left_out: the recorded steps that are not shown.
    """

    run_dir: Path
    description: dict[str, Any]
    files: dict[int, Path]
    left_out: Sequence[int]

    def trajectories(self, step: int) -> Iterator[dict[str, Any]]:
        """The trajectories of a step, in order.

        Raises:
            ValueError: the file is damaged; the error names it.
        """
        path = self.files[step]
        row = None
        try:
            with gzip.open(path, "rt", encoding="ascii") as file:
                for line in file:
                    row = json.loads(line)
                    if missing := [name for name in FIELDS if not isinstance(row, dict) or name not in row]:
                        raise ValueError(f"a row without {missing[0]!r}")
                    yield row
            if row is None:
                raise ValueError("it is empty")
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is no record of rollouts ({error}); delete it to see the others") from error


def read(run_dir: str | Path, steps: Sequence[int] | None = None) -> Record:
    """The record of the run in `run_dir`: of `steps`, or of as many evenly spaced ones as one page can hold.

    Raises:
        ValueError: if there is no such run, if it has recorded nothing, or nothing of one of `steps`.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"there is no run {str(run_dir)!r}")
    found = {int(path.name[5:13]): path for path in sorted(run_dir.glob("rollouts/step-????????.jsonl.gz"))}
    if not found:
        raise ValueError(
            f"{run_dir} has no recorded rollouts (rollouts/step-*.jsonl.gz); agents record them with "
            "record_rollouts_every above 0"
        )
    if steps is None:
        chosen = _evenly(found)
    elif missing := [step for step in steps if step not in found]:
        raise ValueError(f"{run_dir} has no record of step {missing[0]}; recorded are {', '.join(map(str, found))}")
    else:
        chosen = sorted(set(steps))
    description = run_dir / "agent.json"
    return Record(
        run_dir,
        json.loads(description.read_text()) if description.is_file() else {},
        {step: found[step] for step in chosen},
        [step for step in found if step not in chosen],
    )


def _evenly(files: dict[int, Path]) -> list[int]:
    """As many of the steps as have `MOST_BYTES`, the last one among them."""
    steps, sizes = list(files), {step: path.stat().st_size for step, path in files.items()}
    for count in range(len(steps), 1, -1):
        chosen = {steps[-1 - round(i * (len(steps) - 1) / (count - 1))] for i in range(count)}
        if sum(sizes[step] for step in chosen) <= MOST_BYTES:
            return sorted(chosen)
    return steps[-1:]
