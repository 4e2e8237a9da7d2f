"""The monitor writes real files, real TensorBoard events and real console output; all are read back here."""

from __future__ import annotations

import io
import json
import math
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tokengym.agents.monitor import Monitor, Sample, progress
from tokengym.agents.monitor.files import RunFiles
from tokengym.agents.monitor.sample import visible
from tokengym.agents.monitor.tensorboard import _code

HOSTILE = (
    "[bold]x[/bold] <script>alert(1)</script> \x1b[31mred\x07\r\u202e\ud800\n```\n</code></pre><img src=x>\n\n# end"
)

METRICS = {
    "reward/mean": 0.5,
    "reward/std": 0.31,
    "accuracy": 0.25,
    "groups/no_signal": 0.25,
    "kl/reference": 0.0021,
    "entropy": 0.83,
    "length/mean": 212.0,
    "speed/sample_tokens_per_s": 3123.0,
    "loss": 0.0123,
    "time/step_s": 0.15,
}


def sample(completion: str = "So it is 42.", **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "prompt": "What is 12 + 30?",
        "completion": completion,
        "answer": "42",
        "reward": 1.0,
        "parts": {"correct": 1.0},
        "stop": "answered",
        "num_tokens": 7,
    }
    return Sample(**fields | changes)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    """Opens silent monitors on one folder, and closes what a test leaves open."""
    opened: list[Monitor] = []

    def open_monitor(**options: Any) -> Monitor:
        settings = {"title": "test", "config": {}, "total_steps": 100, "console": False} | options
        opened.append(Monitor(settings.pop("run_dir", tmp_path), **settings))
        return opened[-1]

    yield open_monitor
    for each in opened:
        each.close()


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="ascii").splitlines()]


def events(folder: Path) -> event_accumulator.EventAccumulator:
    return event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=width, color_system=None)


def pipe(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=width)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def without_controls(text: str) -> str:
    """The text without the sequences by which rich moves the cursor; what is drawn over a line is a line of its own."""
    return re.sub(r"\x1b\[\??[0-9;]*[A-Za-z]", "", text.replace("\r", "\n"))


# files


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    folder = tmp_path_factory.mktemp("run")
    files = RunFiles(folder, 0)
    files.log(1, {"x": value}, ())
    files.close()
    (row,) = rows(folder / "metrics.jsonl")
    assert row["x"].hex() == value.hex()


def test_files_and_tensorboard_get_the_same_numbers(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    with monitor() as run:
        for step in (1, 2, 3):
            run.log(step, {name: value * step for name, value in METRICS.items()})
    record = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in record] == [1, 2, 3]
    shown = events(tmp_path)
    assert set(shown.Tags()["scalars"]) == set(METRICS)
    for name in METRICS:
        points = shown.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx([row[name] for row in record], rel=1e-6)


def test_rows_are_on_disk_when_log_returns(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    run = monitor()
    run.log(1, METRICS, [sample()])
    assert len(rows(tmp_path / "metrics.jsonl")) == len(rows(tmp_path / "samples.jsonl")) == 1
    assert len(events(tmp_path).Scalars("loss")) == 1


def test_nan_and_infinity_are_null_in_json_and_themselves_in_tensorboard(
    monitor: Callable[..., Monitor], tmp_path: Path
) -> None:
    with monitor() as run:
        run.log(1, {"a": math.nan, "b": -math.inf}, [sample(reward=math.nan, parts={"p": math.inf})])
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "a": None, "b": None}]
    (row,) = rows(tmp_path / "samples.jsonl")
    assert (row["reward"], row["parts"]) == (None, {"p": None})
    assert math.isnan(events(tmp_path).Scalars("a")[0].value)
    assert events(tmp_path).Scalars("b")[0].value == -math.inf


def test_samples_come_back_as_they_were(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    samples = [sample(HOSTILE), sample("x" * 10_000, reward=None, error="verifier timed out")]
    with monitor() as run:
        run.log(7, {}, samples)
    record = rows(tmp_path / "samples.jsonl")
    assert [row.pop("step") for row in record] == [7, 7]
    assert [Sample(**row) for row in record] == samples


def test_resuming_removes_later_steps_and_the_torn_row(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    with monitor() as run:
        for step in range(1, 16):
            run.log(step, {"x": step / 3}, [sample(str(step))])
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"step": 1')  # killed here; as far as it goes it could pass for a row to keep
    time.sleep(1.1)  # TensorBoard reads event files in the order of the second they were made in

    with monitor(first_step=10) as run:
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before[:10])
        for step in range(11, 21):
            run.log(step, {"x": -float(step)}, [sample(str(-step))])

    expected = [step / 3 for step in range(1, 11)] + [-float(step) for step in range(11, 21)]
    assert [row["x"] for row in rows(tmp_path / "metrics.jsonl")] == expected
    assert [row["step"] for row in rows(tmp_path / "samples.jsonl")] == list(range(1, 21))
    points = events(tmp_path).Scalars("x")
    assert [point.step for point in points] == list(range(1, 21))
    assert [point.value for point in points] == pytest.approx(expected)
    # The loader behind `tensorboard --load_fast=false` has rules of its own for restarts.
    loader = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in loader.Tensors("x")] == list(range(1, 21))
    assert not list(tmp_path.glob("*.tmp"))


def test_resuming_without_a_record_starts_one(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    with monitor(first_step=5) as run:
        run.log(6, {"x": 1.0})
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 6, "x": 1.0}]


def test_a_damaged_row_is_named(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: expected a JSON object with a step, got b'hello"):
        monitor(first_step=2)
    assert path.read_text() == '{"step": 1}\nhello\n{"step": 2}\n'


def test_a_new_run_replaces_the_records_of_the_old(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    for lr in (1.0, 2.0):
        with monitor(config={"lr": lr}) as run:
            run.log(1, {"x": lr}, [sample()])
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "x": 2.0}]
    assert len(rows(tmp_path / "samples.jsonl")) == 1
    assert [point.value for point in events(tmp_path).Scalars("x")] == [2.0]
    assert hparams(tmp_path, "session_start_info").session_start_info.hparams["lr"].number_value == 2.0


def test_an_impossible_folder_is_an_error_before_any_work(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"cannot write the run's log: Not a directory: .*file/run"):
        monitor(run_dir=tmp_path / "file" / "run")
    with pytest.raises(FileExistsError, match=r"cannot write the run's log: File exists: .*file"):
        monitor(run_dir=tmp_path / "file")
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"metrics\.jsonl"):
        monitor(run_dir=tmp_path / "run")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond `size` bytes of any file fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def log_many(run: Monitor) -> None:
    for step in range(1, 1000):
        run.log(step, METRICS)


def test_a_full_disk_is_an_error_that_names_the_file(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' * 800)  # now the longest file
    run = monitor(first_step=1)
    with largest_file(10_000), pytest.raises(OSError, match=r"File too large: .*metrics\.jsonl"):
        log_many(run)


def test_a_full_disk_under_tensorboard_is_an_error_too(
    monitor: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorBoard's thread hands its error to the next call and dies of it, with a traceback that belongs to no test.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    run = monitor(config={"text": "x" * 4_000})  # the event file is now the longest
    with largest_file(10_000), pytest.raises(OSError, match=r"File too large: .*events\.out\.tfevents"):
        log_many(run)
    with pytest.raises(OSError, match=r"File too large: .*events\.out\.tfevents"):
        run.close()
    for thread in threading.enumerate():
        if type(thread).__name__ == "_AsyncWriterThread":
            thread.join(timeout=60)


# tensorboard


def hparams(folder: Path, kind: str) -> HParamsPluginData:
    """The data that TensorBoard's HParams tab finds in the run."""
    return HParamsPluginData.FromString(events(folder).PluginTagToContent("hparams")[f"_hparams_/{kind}"])


def texts(folder: Path, tag: str) -> dict[int, str]:
    return {
        point.step: point.tensor_proto.string_val[0].decode() for point in events(folder).Tensors(f"{tag}/text_summary")
    }


def test_sample_texts_cannot_inject_html(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    with monitor() as run:
        run.log(1, {}, [sample(HOSTILE, prompt=HOSTILE, answer=HOSTILE, error=HOSTILE)])
    html = markdown_to_safe_html(texts(tmp_path, "samples")[1])
    assert set(re.findall(r"</?(\w+)", html)) == {"p", "strong", "pre", "code"}
    assert html.count("<pre>") == 6  # prompt, completion, answer, score, stop, error: none fell apart
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    assert "\\x1b[31mred\\x07\\r\\u202e\\ud800" in html


@given(text=st.text(st.characters(), max_size=200))
def test_nothing_in_a_text_ends_its_code_block(text: str) -> None:
    html = markdown_to_safe_html("**before**\n\n" + _code("|" + text + "|") + "\n\n**after**")
    assert html.count("<pre>") == 1
    assert set(re.findall(r"</?(\w+)", html)) == {"p", "strong", "pre", "code"}


def test_sample_texts_are_written_every_ten_steps(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    with monitor() as run:
        for step in range(1, 32):
            run.log(step, {}, [sample(f"this is {step}")])
    shown = texts(tmp_path, "samples")
    assert list(shown) == [1, 11, 21, 31]
    assert "this is 21" in shown[21]


def test_hyper_parameters_and_results_are_in_the_runs_own_event_file(
    monitor: Callable[..., Monitor], tmp_path: Path
) -> None:
    config = {"lr": 1e-6, "shuffle": True, "seed": None, "clip": math.inf, "env": {"name": "<b>", "sizes": [1, 2]}}
    with monitor(config=config) as run:
        started = hparams(tmp_path, "session_start_info").session_start_info.hparams
        run.log(3, {"x": 1.0})
        run.hparams({"pass@1": 0.5})
    values = {name: value.string_value or value.number_value for name, value in started.items()}
    assert values == {"lr": 1e-6, "shuffle": True, "clip": "inf", "env.name": "<b>", "env.sizes": "[1, 2]"}
    metrics = hparams(tmp_path, "experiment").experiment.metric_infos
    assert [info.name.tag for info in metrics] == ["final/pass@1"]
    (point,) = events(tmp_path).Scalars("final/pass@1")
    assert (point.step, point.value) == (3, 0.5)
    assert hparams(tmp_path, "session_end_info").HasField("session_end_info")
    assert len(list(tmp_path.rglob("events.out.*"))) == 1
    assert "&lt;b&gt;" in markdown_to_safe_html(texts(tmp_path, "config")[0])


# console


def test_a_terminal_shows_bar_metrics_and_samples(monitor: Callable[..., Monitor]) -> None:
    console = terminal()
    with monitor(title="GRPO", total_steps=4, console=True, rich_console=console) as run:
        for step in range(1, 5):
            run.log(step, METRICS, [sample(reward=None)])
    lines = without_controls(output(console)).splitlines()
    final = max(index for index, line in enumerate(lines) if "4/4 100%" in line)
    assert lines[final].startswith("GRPO ━")
    assert lines[final + 1].strip() == "reward 0.500  accuracy 0.250  kl 0.00210  entropy 0.830  len 212  tok/s 3.12k"
    table = "\n".join(lines)
    assert re.search(r"What is 12 \+ 30\?\s+So it is 42\.\s+42\s+none\s+answered", table)
    assert "samples of step 1" in table
    assert "samples of step 4" in table


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(monitor: Callable[..., Monitor], width: int) -> None:
    console = terminal(width)
    with monitor(title="a long title " * 9, total_steps=2, console=True, rich_console=console) as run:
        run.log(1, METRICS, [sample("word " * 2000), sample("x" * 10_000, prompt="y" * 10_000)])
    assert max(map(len, without_controls(output(console)).splitlines())) <= width


@pytest.mark.parametrize("title", ["GRPO on MathVerify-v0", "Evaluating MathVerify-v0", "Imitating demonstrations"])
def test_the_main_jobs_titles_fit_into_80_columns(monitor: Callable[..., Monitor], title: str) -> None:
    console = terminal(80)
    with monitor(title=title, total_steps=1000, console=True, rich_console=console) as run:
        run.log(1000, METRICS, [])
    [*_, final] = [line for line in without_controls(output(console)).splitlines() if "1000/1000 100%" in line]
    assert final.startswith(f"{title} ━")
    assert final.endswith("0:00:00")


@pytest.mark.parametrize("make_console", [terminal, pipe])
def test_hostile_texts_are_shown_as_text(
    monitor: Callable[..., Monitor], make_console: Callable[[int], Console]
) -> None:
    console = make_console(200)
    with monitor(title="[red]t\x1b[2J", total_steps=1, console=True, rich_console=console) as run:
        run.message("[blink]m\x1b[3J")
        run.log(1, METRICS, [sample(HOSTILE, stop="[i]", error="[u]\x1b]0;title\x07")])
    shown = output(console)
    for text in (
        "[red]t\\x1b[2J",
        "[blink]m\\x1b[3J",
        "[bold]x[/bold]",
        "\\x1b[31mred\\x07\\r\\u202e\\ud800↵```",
        "[i]",
    ):
        assert text in shown
    for sequence in ("\x1b[2J", "\x1b[3J", "\x1b[31m", "\x1b]0;", "\x07", "\u202e", "\ud800"):
        assert sequence not in shown


def test_long_texts_lose_their_middle(monitor: Callable[..., Monitor]) -> None:
    console = pipe()
    with monitor(total_steps=1, console=True, rich_console=console) as run:
        run.log(1, {}, [sample("START" + "x" * 10_000 + "END")])
    shown = output(console)
    assert "START" in shown
    assert "END" in shown
    assert " … " in shown or " …\n" in re.sub(" +\n", "\n", shown)
    assert len(shown.splitlines()) < 20


def test_a_log_has_a_line_for_every_twentieth_and_one_table(monitor: Callable[..., Monitor]) -> None:
    console = pipe()
    with monitor(title="GRPO", total_steps=200, console=True, rich_console=console) as run:
        for step in range(1, 201):
            run.log(step, METRICS, [sample()] if step % 30 == 0 else ())
    shown = output(console)
    assert "\x1b" not in shown
    steps = [int(step) for step in re.findall(r"^GRPO +(\d+)/200 ", shown, flags=re.MULTILINE)]
    assert steps == [1, *range(10, 201, 10)]
    assert re.findall(r"samples of step (\d+)", shown) == ["180"]


def test_a_log_ends_with_the_last_step_of_a_run_that_stops_early(monitor: Callable[..., Monitor]) -> None:
    console = pipe()
    with monitor(title="GRPO", total_steps=200, first_step=50, console=True, rich_console=console) as run:
        for step in range(51, 58):
            run.log(step, METRICS)
    assert re.findall(r"GRPO +(\d+)/200 +(\d+)%", output(console)) == [("51", "26"), ("57", "28")]


def test_metrics_of_supervised_runs_and_unknown_ones_are_shown(monitor: Callable[..., Monitor]) -> None:
    console = pipe()
    with monitor(total_steps=1, console=True, rich_console=console) as run:
        run.log(1, {"mine/own": 1e12, "learning_rate": 1e-6, "loss": math.nan, "speed/learn_tokens_per_s": 999_600})
    assert "loss nan  lr 1.00e-06  learn tok/s 1.00M  mine/own 1.00e+12" in output(console)


def test_texts_the_console_cannot_encode_are_escaped(monitor: Callable[..., Monitor]) -> None:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding="ascii")
    console = Console(file=file, width=80)
    with monitor(title="título", total_steps=1, console=True, rich_console=console) as run:
        run.log(1, METRICS, [sample("三加四\nis 7" + "x" * 10_000)])
    file.flush()
    shown = buffer.getvalue().decode("ascii")
    assert "t\\xedtulo" in shown
    assert "\\u4e09\\u52a0\\u56db" in shown


def test_no_console_is_silent(monitor: Callable[..., Monitor], capfd: pytest.CaptureFixture[str]) -> None:
    with monitor(config={"lr": 1.0}) as run:
        run.message("hello")
        run.log(1, METRICS, [sample()])
        run.hparams({"pass@1": 1.0})
    assert capfd.readouterr() == ("", "")


def test_the_default_console_is_standard_output(
    monitor: Callable[..., Monitor], capsys: pytest.CaptureFixture[str]
) -> None:
    with monitor(title="GRPO", total_steps=1, console=True) as run:
        run.log(1, METRICS)
    assert "GRPO  1/1 100%" in capsys.readouterr().out


def test_an_error_in_training_gives_the_terminal_back(monitor: Callable[..., Monitor], tmp_path: Path) -> None:
    console = terminal()
    run = monitor(total_steps=3, console=True, rich_console=console)
    run.log(1, METRICS)
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert output(console).rstrip().endswith("\x1b[?25h")  # the cursor is shown again
    run.close()
    assert len(rows(tmp_path / "metrics.jsonl")) == 1


# progress


def test_progress_in_a_log_is_one_line_at_start_and_end() -> None:
    console = pipe()
    with progress("warm start", 3, rich_console=console) as advance:
        advance()
        advance(2, text="loss [b]0.5[/b]")
    first, last = output(console).splitlines()
    assert first.startswith("warm start  0/3   0%")
    assert re.fullmatch(r"warm start  3/3 100%  \S+ left \S+  loss \[b\]0\.5\[/b\]", last)


def test_progress_says_how_far_it_came_before_an_error() -> None:
    console = pipe()
    with pytest.raises(KeyError), progress("evaluate", 4, rich_console=console) as advance:
        advance({}["missing"])
    assert "evaluate  0/4   0%" in output(console).splitlines()[-1]


def test_progress_within_a_monitor_shares_its_display(monitor: Callable[..., Monitor]) -> None:
    console = terminal()
    with monitor(title="GRPO", total_steps=2, console=True, rich_console=console) as run:
        run.log(1, METRICS)
        with progress("evaluate", 2, rich_console=console) as advance:
            advance(2, text="pass@1 0.5")
            deadline = time.monotonic() + 60
            while "pass@1 0.5" not in output(console) and time.monotonic() < deadline:
                time.sleep(0.02)  # the display redraws itself
            run.message("in between")
        run.log(2, METRICS)
    shown = without_controls(output(console))
    below = [line for line in shown.partition("in between")[2].splitlines() if line.strip()]
    assert [line.split()[0] for line in below[:4]] == ["GRPO", "reward", "evaluate", "pass@1"]
    assert "2/2 100%" in shown[shown.rindex("GRPO ━") :]


@given(text=st.text(st.characters()))
def test_visible_text_is_printable_and_leaves_printable_text_alone(text: str) -> None:
    assert visible(text, " ").isprintable()
    visible(text).encode()
    if text.isprintable():
        assert visible(text) == text
