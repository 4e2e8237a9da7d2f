"""TensorBoard: the run's record for the browser."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from .files import naming
from .sample import Sample, visible

TEXT_EVERY = 10
"""Steps between two texts: a browser loads all of them, and the samples of one step are like those of the next."""


class TensorBoard:
    """Writes scalars, sample texts and hyper-parameters to an event file in `run_dir`.

    Scalars carry the names of the metrics; TensorBoard keeps them in single precision. The hyper-parameters are
    written at the start, so that a run that is going on or was interrupted is listed with them.

    Args:
        run_dir: an existing folder.
        config: the run's configuration, nested mappings allowed.
        first_step: the number of steps already done. Later steps in earlier event files are hidden, because they are
            made again. 0 removes those files: their hyper-parameters could not be hidden.

    Raises:
        OSError: the event file cannot be written; the error names it. Also raised by `log`, `hparams` and `close`.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], first_step: int) -> None:
        self._path = run_dir / "events.out.tfevents.*"
        self._config = _flat(config)
        self._step = first_step
        self._next_text = 0
        with naming(self._path):
            if first_step == 0:
                for earlier in run_dir.glob(self._path.name):
                    earlier.unlink()
            # A new run needs a purge step as well: TensorBoard's Python loader purges from a run's second one on.
            self._writer = SummaryWriter(str(run_dir), purge_step=first_step + 1)
            _, start, _ = hparams(self._config, {})
            self._add_summaries(start)
            self._writer.add_text("config", _code(json.dumps(config, indent=2, default=str)), first_step)
            self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        self._step = step
        with naming(self._path):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            if samples and step >= self._next_text:
                self._next_text = step + TEXT_EVERY
                self._writer.add_text("samples", "\n\n---\n\n".join(map(_markdown, samples)), step)
            self._writer.flush()

    def hparams(self, results: Mapping[str, float]) -> None:
        """Close the run in the HParams tab, with `results` as scalars `final/<name>` at the last step logged.

        They are written into the run's own event file: `SummaryWriter.add_hparams` would make a second run of them.
        """
        final = {f"final/{name}": float(value) for name, value in results.items()}
        experiment, _, end = hparams(self._config, final)
        with naming(self._path):
            self._add_summaries(experiment, end)
            for name, value in final.items():
                self._writer.add_scalar(name, value, self._step)
            self._writer.flush()

    def close(self) -> None:
        with naming(self._path):
            self._writer.close()

    def _add_summaries(self, *summaries: Any) -> None:
        assert self._writer.file_writer is not None  # only `close` makes it None
        for summary in summaries:
            self._writer.file_writer.add_summary(summary)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested names joined by dots; values that the HParams plugin can hold, which are neither infinite nor None."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            flat[prefix + name] = value
        elif value is not None:
            flat[prefix + name] = visible(str(value))
    return flat


def _markdown(sample: Sample) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in sample.parts.items())
    reward = "none" if sample.reward is None else f"{sample.reward:g}"
    texts = {
        "prompt": sample.prompt,
        "completion": sample.completion,
        "answer": sample.answer,
        "score": f"{reward}  ({parts})" if parts else reward,
        "stop": f"{sample.stop} after {sample.num_tokens} tokens",
        "error": sample.error,
    }
    return "\n\n".join(f"**{name}**\n\n{_code(text)}" for name, text in texts.items() if text)


def _code(text: str) -> str:
    """An indented code block: unlike a fenced one, nothing in the text can end it."""
    return "\n".join("    " + line for line in visible(text).split("\n"))
