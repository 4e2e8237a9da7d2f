"""The console: a live bar, the key metrics, and samples to read while the run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich import box, get_console
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .sample import Sample, visible

LABELS = {
    "reward/mean": "reward",
    "accuracy": "accuracy",
    "kl/reference": "kl",
    "entropy": "entropy",
    "length/mean": "len",
    "speed/sample_tokens_per_s": "tok/s",
    "loss": "loss",
    "grad_norm": "grad",
    "learning_rate": "lr",
    "reward/std": "reward std",
    "clip_fraction": "clipped",
    "groups/no_signal": "no signal",
    "groups/kept": "groups kept",
    "groups/sampled": "of",
    "length/truncated": "truncated",
    "abstained": "abstained",
    "kl/sampler": "kl sampler",
    "value/explained_variance": "explained",
    "advantage/mean": "adv",
    "advantage/std": "adv std",
    "advantage/skewness": "adv skew",
    "speed/learn_tokens_per_s": "learn tok/s",
    "time/step_s": "s/step",
}
"""Metric name to its label on the console, most telling first: a narrow line ends where its width does."""

PLAIN_WIDTH = 80  # characters of metrics on a line in a log
BAR_WIDTH = 52  # characters, at least, of all that stands behind a title
TABLE_STEPS, TABLE_SECONDS = 20, 5.0  # least distance between two tables
TABLE_ROWS, CELL_LINES = 4, 4


class ConsoleView:
    """Shows a run on a console.

    On a terminal: a live bar with a line of metrics below it, and above it a table of samples every `TABLE_STEPS`
    steps, but not more often than every `TABLE_SECONDS`. Elsewhere (a pipe, a CI log): one line for the first step,
    for every 5 % and for the last, and one table at the end.

    Args:
        title: the name of the bar.
        total_steps: the step at which the run ends.
        first_step: steps already done.
        console: rich's own console by default. Bars on one console share its live display; two consoles on one
            terminal would overwrite each other.
    """

    def __init__(self, title: str, total_steps: int, first_step: int, console: Console | None = None) -> None:
        self._bar = _Bar(title, total_steps, first_step, console or get_console())
        self._total = max(total_steps, 1)
        self._twentieth = -1
        self._unprinted = False
        self._metrics: Mapping[str, float] = {}
        self._step = first_step
        self._samples: Sequence[Sample] = ()
        self._samples_step = 0
        self._table_step, self._table_time = 0, 0.0  # not before them comes the next table
        self._bar.start()

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        self._step, self._metrics = step, metrics
        self._bar.advance_to(step, _MetricLine(metrics))
        if samples:
            self._samples, self._samples_step = samples, step
        if self._bar.is_live:
            if self._samples and step >= self._table_step and time.monotonic() >= self._table_time:
                self._print_samples()
        else:
            twentieth = 20 * step // self._total
            self._unprinted = twentieth == self._twentieth
            if not self._unprinted:
                self._twentieth = twentieth
                self._print_line()

    def expect(self, total_steps: int) -> None:
        self._total = max(total_steps, 1)
        self._bar.expect(total_steps)

    def message(self, text: str) -> None:
        self._bar.console.print(_text(self._bar.console, text, newline="\n"), soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()
        if self._unprinted:
            self._print_line()
        if self._samples:
            self._print_samples()

    def _print_line(self) -> None:
        line = self._bar.as_text() + "  " + _metric_lines(self._metrics, PLAIN_WIDTH)[0]
        self._bar.console.print(line, soft_wrap=True)

    def _print_samples(self) -> None:
        table = _sample_table(self._bar.console, self._samples_step, self._samples, self._metrics)
        self._bar.console.print(table)
        self._samples = ()
        self._table_step = self._step + TABLE_STEPS
        self._table_time = time.monotonic() + TABLE_SECONDS


class Advance(Protocol):
    """Moves a bar on by `n`, with a short `text` below it that stays until it is replaced."""

    def __call__(self, n: int = 1, text: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, *, rich_console: Console | None = None) -> Iterator[Advance]:
    """A bar for work outside the training loop: a warm start, an evaluation.

    Within a `Monitor` on the same console the bar appears below the monitor's. Where there is no terminal, one line
    is printed at the start and one at the end.

    Args:
        title: the name of the bar.
        total: how often `advance` will be called with n = 1.
        rich_console: where to show it; the default is rich's own console, on standard output.
    """
    console = rich_console or get_console()
    bar = _Bar(title, total, 0, console)
    done, below = 0, Text()

    def advance(n: int = 1, text: str = "") -> None:
        nonlocal done, below
        done += n
        if text:
            below = _text(console, text, console.width)
        bar.advance_to(done, below)

    if not bar.is_live:
        console.print(bar.as_text(), soft_wrap=True)
    bar.start()
    try:
        yield advance
    finally:
        bar.stop()
        if not bar.is_live:
            console.print(Text("  ").join([bar.as_text(), below] if below else [bar.as_text()]), soft_wrap=True)


class _Bar(Progress):
    """The bar of one task, with something below it."""

    def __init__(self, title: str, total: int, completed: int, console: Console) -> None:
        self._below: RenderableType = Text()  # rich renders once in its constructor
        self.is_live = console.is_interactive
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(10, min(40, console.width - 60))),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.is_live,
            # With rich's 30 s, steps that take longer than that would never have an estimate.
            speed_estimate_period=math.inf,
        )
        room = max(20, console.width - BAR_WIDTH) if self.is_live else None
        self._id = self.add_task(_text(console, title, room).plain, total=total, completed=completed)

    def advance_to(self, completed: int, below: RenderableType) -> None:
        self._below = below
        self.update(self._id, completed=completed)

    def expect(self, total: int) -> None:
        self.update(self._id, total=total)

    def stop(self) -> None:
        if self.is_live:  # before rich 15, a disabled bar ends with an empty line
            super().stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._below:
            yield self._below

    def as_text(self) -> Text:
        """The bar's facts on one line, without the bar."""
        task = self.tasks[0]
        done, total = int(task.completed), int(task.total or 0)
        elapsed, left = (
            "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
            for seconds in (task.elapsed, task.time_remaining)
        )
        count = f"{done:>{len(str(total))}}/{total} {task.percentage:3.0f}%"
        return Text(f"{task.description}  {count}  {elapsed} left {left}")


class _MetricLine:
    """As many metrics as fit into one line, whatever the width of the terminal is by now."""

    def __init__(self, metrics: Mapping[str, float]) -> None:
        self._metrics = metrics

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _metric_lines(self._metrics, options.max_width)[0]


def _metric_lines(metrics: Mapping[str, float], width: int) -> list[Text]:
    """The metrics in the order of `LABELS`, then those without a label, on lines of `width` characters."""
    lines = [Text()]
    for name in [*(name for name in LABELS if name in metrics), *(name for name in metrics if name not in LABELS)]:
        item = Text.assemble((LABELS.get(name, name) + " ", "dim"), _number(metrics[name]))
        if lines[-1] and len(lines[-1]) + 2 + len(item) > width:
            lines.append(Text())
        elif lines[-1]:
            lines[-1].append("  ")
        lines[-1].append_text(item)
    return lines


def _number(value: float) -> str:
    """`value` with three significant digits: 0.512, 212, 3.12k, 1.00e-06, nan."""
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6)):
        if abs(value) < 999.5 * size:
            return f"{value / size:#.3g}".rstrip(".") + unit
    return f"{value:.2e}"


def _sample_table(console: Console, step: int, samples: Sequence[Sample], metrics: Mapping[str, float]) -> Table:
    """The first `TABLE_ROWS` samples, their texts cut to about `CELL_LINES` lines, and all metrics of the last step."""
    table = Table(
        title=f"\nsamples of step {step}",
        title_justify="left",
        caption=Text("\n").join(_metric_lines(metrics, console.width)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_lines=True,
        expand=True,
    )
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("completion", ratio=3, overflow="fold")
    table.add_column("answer", max_width=12, overflow="fold")
    table.add_column("reward", justify="right")
    table.add_column("stop")
    text_width = max(20, console.width - 40)
    for sample in samples[:TABLE_ROWS]:
        completion = _text(console, sample.completion, CELL_LINES * text_width * 3 // 5)
        if sample.error:
            completion.append_text(_text(console, f" [{sample.error}]", 2 * text_width, style="red"))
        table.add_row(
            _text(console, sample.prompt, CELL_LINES * text_width * 2 // 5),
            completion,
            _text(console, sample.answer, 36),
            "none" if sample.reward is None else _number(sample.reward),
            _text(console, sample.stop),
        )
    return table


def _text(console: Console, text: str, limit: int | None = None, newline: str = "↵", style: str = "") -> Text:
    """Foreign text, never interpreted: about `limit` characters, the middle left out, in the console's encoding."""
    text = visible(text, newline)
    if limit is not None and len(text) > limit:
        tail = limit // 3
        text = f"{text[: limit - tail]} … {text[-tail:]}"
    return Text(text.encode(console.encoding, "backslashreplace").decode(console.encoding), style)
