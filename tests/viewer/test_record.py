"""Reading a record and packing it into a page, and the command line. No browser is needed here."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengym import viewer
from tokengym.cli import main
from tokengym.viewer import record
from tokengym.viewer.segments import segments, tool_calls

from .records import HOSTILE, make_run, plain, row, tree, with_tools, write_step

ROOT = Path(__file__).parents[2]


def unpacked(page: str) -> dict[str, Any]:
    """The data in a page, by the names of their elements."""
    found = re.findall(r'<script type="application/octet-stream" id="([\w-]+)">([^<]*)</script>', page)
    return {name: json.loads(gzip.decompress(base64.b64decode(data))) for name, data in found}


def rows(run: Path, step: int) -> list[dict[str, Any]]:
    with gzip.open(run / "rollouts" / f"step-{step:08d}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


# The page's data.


def test_the_page_has_the_whole_record(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    data = unpacked(viewer.build(viewer.read(run)))
    index = data.pop("index")
    columns = index["columns"]
    expected = [{**r, "step": step} for step in (1, 10, 20) for r in rows(run, step)]
    for name in ("step", "group", "index", "parent", "fork", "reward"):
        assert columns[name] == [r[name] for r in expected]
    assert columns["length"] == [r["num_tokens"] for r in expected]
    assert [index["stops"][stop] for stop in columns["stop"]] == [r["stop"] for r in expected]
    assert sum(index["chunks"]) == len(expected)
    packed = [(chunk, r) for chunk in data.values() for r in chunk["rows"]]
    for (chunk, found), r in zip(packed, expected, strict=True):
        assert [chunk["texts"][token] for token in found["tokens"]] == r["tokens"]
        assert found["parts"] == r["parts"]
        assert found["error"] == r["error"]
        for name in ("advantages", "entropies", "log_ratios", "logprobs"):
            assert (found[name] is None) == (r[name] is None)
            if r[name] is not None:
                assert found[name] == pytest.approx(r[name], abs=6e-4)


def test_chunks_have_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokengym.viewer.page.CHUNK_TOKENS", 500)
    run = make_run(tmp_path)
    data = unpacked(viewer.build(viewer.read(run)))
    columns = data["index"]["columns"]
    ends = [sum(data["index"]["chunks"][: i + 1]) for i in range(len(data["index"]["chunks"]))]
    assert len(ends) > 20
    for end in ends[:-1]:
        assert (columns["step"][end - 1], columns["group"][end - 1]) != (columns["step"][end], columns["group"][end])


def test_one_value_for_all_tokens_is_kept_once(tmp_path: Path) -> None:
    one = row([("user", "?"), ("assistant", "a b c")], random.Random(0))
    count = one["num_tokens"]
    write_step(tmp_path, 1, [[one | {"advantages": [0.5] * count, "entropies": [None, *[0.25] * (count - 1)]}]])
    [found] = unpacked(viewer.build(viewer.read(tmp_path)))["chunk-0"]["rows"]
    assert found["advantages"] == 0.5
    assert found["entropies"] == [None, *[0.25] * (count - 1)]


def test_nothing_of_a_model_stands_in_the_page_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "<img src=x onerror=alert(1)>"
    run.mkdir()
    page = viewer.build(viewer.read(make_run(run)))
    for text in (HOSTILE[:20], "onerror", "window.harmed", "gnp.exe", "<img"):
        assert text not in page
    assert page.count("<script") == page.count("</script>")
    assert "http-equiv" in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page), "nothing to fetch"
    assert not re.search(r"unsafe|\beval\b|innerHTML|insertAdjacent|document\.write", page)


# Segments and calls.


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=6), st.integers(0, 3))
def test_every_token_is_in_one_segment(runs: list[tuple[int, int]], rest: int) -> None:
    actions, at = [], 0
    for gap, length in runs:
        at += gap + 1
        actions.append([at, at + length])
        at += length
    fields = {"completion": [], "stop": "length", "tokens": ["x"] * (at + rest), "actions": actions}
    found = segments(fields)
    assert [i for start, end, _, _ in found for i in range(start, end)] == list(range(at + rest))
    assert [[start, end] for start, end, kind, _ in found if kind == "policy"] == actions


def test_segments_say_who_wrote_them() -> None:
    json_call, tags, over_limit, asked = with_tools(random.Random(0))
    assert [(kind, title) for _, _, kind, title in segments(json_call)] == [
        ("prompt", "prompt"),
        ("policy", "turn 1"),
        ("tool", "result of calculator"),
        ("policy", "turn 2"),
    ]
    assert [kind for _, _, kind, _ in segments(tags)] == ["prompt", "policy", "tool", "policy"]
    assert [title for _, _, _, title in segments(asked)] == ["prompt", "turn 1", "user", "turn 2"]
    assert len(tool_calls(over_limit, segments(over_limit))) == 1
    assert tool_calls(asked, segments(asked)) == []


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ("a <tool_call>1</tool_call> b <tool_call>2</tool_call>", ["<tool_call>1</tool_call>", "<tool_call>2</tool_call>"]),
        ("a <tool_call>{1}", ["<tool_call>{1}<end>"]),
        ('[TOOL_CALLS][{"name": "f"}]', ['[TOOL_CALLS][{"name": "f"}]<end>']),
        ("<calculator>1+1</calculator>", ["<calculator>1+1</calculator>"]),
        ('{"name": "calculator", "parameters": {}}', ['{"name": "calculator", "parameters": {}}<end>']),
    ],
)  # fmt: skip
def test_calls_are_found_where_protocols_write_them(said: str, calls: list[str]) -> None:
    found = row([("user", "?"), ("assistant", said), ("tool", "2")], random.Random(0))
    spans = tool_calls(found, segments(found))
    assert ["".join(found["tokens"][start:end]) for start, end in spans] == calls


# What cannot be read.


def test_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run"):
        viewer.read(tmp_path / "none")
    with pytest.raises(ValueError, match="record_rollouts_every above 0"):
        viewer.read(tmp_path)


def test_steps_that_were_not_recorded(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert list(viewer.read(tmp_path, [20, 1]).files) == [1, 20]
    with pytest.raises(ValueError, match="no record of step 7; recorded are 1, 10, 20"):
        viewer.read(tmp_path, [1, 7])


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    lines = gzip.decompress(content).splitlines(keepends=True)
    wrong = json.loads(lines[0]) | {"parent": 0, "fork": 1}
    without = {name: value for name, value in json.loads(lines[0]).items() if name != "tokens"}
    path.write_bytes(
        {
            "empty": b"",
            "no gzip": b"hello",
            "cut": content[: len(content) // 2],
            "flipped": content[:200] + bytes(b ^ 255 for b in content[200:220]) + content[220:],
            "no JSON": gzip.compress(b"hello\n"),
            "no object": gzip.compress(b"[1]\n"),
            "no tokens": gzip.compress(json.dumps(without).encode()),
            "no tree": gzip.compress(json.dumps(wrong).encode()),
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "no gzip", "cut", "flipped", "no JSON", "no object", "no tokens", "no tree"])
def test_a_damaged_record_is_named(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_step(tmp_path, 3, [plain(random.Random(0))])
    damaged(path, how)
    with pytest.raises(SystemExit) as caught:
        main(["view", str(tmp_path)])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert not (tmp_path / "view.html").exists()


def test_a_long_run_is_thinned_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(10, 210, 10):
        write_step(tmp_path, step, [tree(random.Random(step))])
    sizes = [path.stat().st_size for path in (tmp_path / "rollouts").iterdir()]
    monkeypatch.setattr(record, "MOST_BYTES", 5 * max(sizes))
    found = viewer.read(tmp_path)
    assert sum(path.stat().st_size for path in found.files.values()) <= 5 * max(sizes)
    assert sorted([*found.files, *found.left_out]) == list(range(10, 210, 10))
    shown = list(found.files)
    assert (shown[0], shown[-1]) == (10, 200)
    gaps = [later - earlier for earlier, later in pairwise(shown)]
    assert len(shown) >= 5
    assert max(gaps) - min(gaps) <= 10
    assert unpacked(viewer.build(found))["index"]["left_out"] == found.left_out
    monkeypatch.setattr(record, "MOST_BYTES", 0)
    assert list(viewer.read(tmp_path).files) == [200]


# Writing, and the command line.


def test_where_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    main(["view", str(run)])
    assert capsys.readouterr().out == f"{run / 'view.html'}\n"
    main(["view", str(run), "--out", str(tmp_path / "pages" / "a.html"), "--steps", "10", "20"])
    page = (tmp_path / "pages" / "a.html").read_text()
    assert set(unpacked(page)["index"]["columns"]["step"]) == {10, 20}
    assert os.listdir(tmp_path / "pages") == ["a.html"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no run|required|RUN"),
        (["--port", "80"], "--port is for --serve"),
        (["--serve", "--port", "65536"], "from 0 to 65535"),
        (["--steps", "2"], "no record of step 2"),
        (["--color", "red"], "unknown option --color"),
        (["--out", "/dev/null/page.html"], "/dev/null"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    run = make_run(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["view", *([str(run)] if args else []), *args])
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_serving_ends_with_an_interrupt(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    command = [sys.executable, "-m", "tokengym.cli", "view", str(run), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            page = answer.read().decode()
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert len(set(unpacked(page)["index"]["columns"]["step"])) == 3
        write_step(run, 30, [plain(random.Random(0))])  # the run goes on
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            page = answer.read().decode()
        assert 30 in unpacked(page)["index"]["columns"]["step"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_no_torch_is_needed_to_look() -> None:
    program = "import sys; import tokengym.viewer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_page_s_files_are_in_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "tokengym" / "viewer"
    packed = {path.name for pattern in patterns["tokengym.viewer"] for path in folder.glob(pattern)}
    assert packed == {path.name for path in folder.iterdir() if path.suffix not in (".py", "") and path.is_file()}
