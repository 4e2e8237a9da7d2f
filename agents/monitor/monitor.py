"""The monitor: one call per step, every sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from .console import ConsoleView
from .files import RunFiles, naming
from .rollouts import forget_rollouts
from .sample import Sample
from .tensorboard import TensorBoard


class Monitor:
    """Sends a run's numbers and samples to `metrics.jsonl`, `samples.jsonl`, TensorBoard and the console.

    Args:
        run_dir: the folder of the run; made if it is missing.
        title: what the progress bar is called.
        config: the run's hyper-parameters, nested mappings allowed.
        total_steps: the step at which the run ends, counted from the start of the run, also when it is resumed.
        first_step: steps already done. Records of later steps are removed: they will be made again. With 0 the
            records of an earlier run in the folder are replaced.
        console: whether to show anything. On a terminal that is a live bar with tables of samples; elsewhere a line
            every 5 % of the steps and one table at the end.
        rich_console: where to show it; the default is rich's own console, on standard output.

    Raises:
        OSError: the folder or a file in it cannot be written. Raised at construction, before any work, and by `log`
            and `close` when for instance the disk is full: a run whose numbers are lost is not worth finishing.
        ValueError: an existing record to resume from is damaged; names file and line.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        title: str,
        config: Mapping[str, Any],
        total_steps: int,
        first_step: int = 0,
        console: bool = True,
        rich_console: Console | None = None,
    ) -> None:
        with naming(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        forget_rollouts(run_dir, first_step)
        self._console: ConsoleView | None = None
        with ExitStack() as stack:
            files = stack.enter_context(closing(RunFiles(run_dir, first_step)))
            self._tensorboard = stack.enter_context(closing(TensorBoard(run_dir, config, first_step)))
            self._sinks: list[RunFiles | TensorBoard | ConsoleView] = [files, self._tensorboard]
            if console:
                view = ConsoleView(title, total_steps, first_step, rich_console)
                self._console = stack.enter_context(closing(view))
                self._sinks.append(view)
            self._stack = stack.pop_all()

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample] = ()) -> None:
        """Record step number `step` (from 1): its metrics, and trajectories worth looking at."""
        values = {name: float(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.log(step, values, samples)

    def expect(self, total_steps: int) -> None:
        """Take back what was said of the step at which the run ends."""
        if self._console:
            self._console.expect(total_steps)

    def message(self, text: str) -> None:
        """Show `text` above the progress bar."""
        if self._console:
            self._console.message(text)

    def hparams(self, results: Mapping[str, float]) -> None:
        """Put the hyper-parameters and the run's final results into TensorBoard's HParams tab. Call it once."""
        self._tensorboard.hparams(results)

    def close(self) -> None:
        """Give the terminal back and close the files. Closing twice does no harm."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
