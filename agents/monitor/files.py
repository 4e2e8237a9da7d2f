"""`metrics.jsonl` and `samples.jsonl`: the run's record for programs."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from .sample import Sample


class RunFiles:
    """Writes one row per step to `metrics.jsonl` and one row per sample to `samples.jsonl`.

    A metrics row is `{"step": n, name: value, …}`, a samples row `{"step": n}` and the fields of `Sample`. Floats have
    the digits that give back the same bits; NaN and infinities, which JSON cannot hold, are null. Every row is
    flushed as soon as it is written.

    Args:
        run_dir: an existing folder.
        first_step: the number of steps already done. Rows of later steps are removed, because those steps are made
            again, and so is a row torn by a kill. 0 starts new files.

    Raises:
        OSError: a file cannot be written; the error names it. Also raised by `log`.
        ValueError: a row in an existing file is not one of ours; the error names file and line.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        with ExitStack() as stack:
            self._metrics = stack.enter_context(closing(_JsonLines(run_dir / "metrics.jsonl", first_step)))
            self._samples = stack.enter_context(closing(_JsonLines(run_dir / "samples.jsonl", first_step)))
            self._stack = stack.pop_all()

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        self._metrics.append([{"step": step} | {name: _finite(value) for name, value in metrics.items()}])
        self._samples.append({"step": step} | _row(sample) for sample in samples)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make every `OSError` of the block name `path`; its type and number stay."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"cannot write the run's log: {reason}", str(path)) from error


class _JsonLines:
    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        with naming(path):
            # Whoever reads or kills in the meantime finds the old file or the new one, never a half.
            temporary = path.with_name(path.name + ".tmp")
            with temporary.open("wb") as file:
                if first_step > 0 and path.exists():
                    file.writelines(_rows_until(path, first_step))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._file = path.open("a", encoding="ascii")

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with naming(self._path):
            self._file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            self._file.flush()

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


def _rows_until(path: Path, last_step: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # the process was killed while writing it
            try:
                step = json.loads(line)["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}:{number}: expected a JSON object with a step, got {line[:80]!r}") from error
            if step <= last_step:
                yield line


def _row(sample: Sample) -> dict[str, Any]:
    row = {field.name: getattr(sample, field.name) for field in fields(sample)}
    return row | {
        "reward": _finite(sample.reward),
        "parts": {name: _finite(value) for name, value in sample.parts.items()},
    }


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
