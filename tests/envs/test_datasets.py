"""Loading rows from real files, and dividing them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tokengym.envs.datasets import Rows, load_rows, require_columns, split_rows

ROWS = [{"question": f"{i} + {i} = ?", "answer": str(2 * i)} for i in range(20)]


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_json_lines_remember_their_lines(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "a\xe2\x80\xa8b", "n": 1}\r\n\n  \n{"question": "\xf0\x9f\x99\x82", "n": 2}'
    )
    rows = load_rows(path)
    assert list(rows) == [{"question": "a\u2028b", "n": 1}, {"question": "🙂", "n": 2}]
    assert [rows.where(0), rows.where(1), rows.where(-1)] == [f"{path}:1", f"{path}:4", f"{path}:4"]
    assert rows.columns == ("question", "n")
    assert rows.name == str(path)
    assert repr(rows) == f"<2 rows of {path}: question, n>"


def test_names_are_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_lines(tmp_path / "train.ndjson", map(json.dumps, ROWS))
    assert load_rows("train.ndjson").where(16) == "train.ndjson:17"
    assert load_rows("~/train.ndjson").where(16) == "~/train.ndjson:17"
    assert load_rows(Path("train.ndjson"))[3] == ROWS[3]


@pytest.mark.parametrize("kind", ["list", "tuple", "json", "parquet", "datasets parquet", "dataset"])
def test_every_source_gives_the_same_rows(kind, tmp_path):
    path = tmp_path / "train.parquet"
    name = str(path)
    if kind == "list":
        source, name = ROWS, "the given list"
    elif kind == "tuple":
        source, name = tuple(ROWS), "the given list"
    elif kind == "json":
        source = tmp_path / "train.json"
        source.write_text(json.dumps(ROWS))
        name = str(source)
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        source = path
    elif kind == "datasets parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
        source = str(path)
    else:
        source, name = datasets.Dataset.from_list(ROWS), "the given dataset"
    rows = load_rows(source)
    assert len(rows) == 20
    assert [rows[i] for i in range(20)] == list(rows) == ROWS
    assert rows[-1] == ROWS[-1]
    with pytest.raises(IndexError):
        rows[20]
    assert rows.where(3) == f"row 3 of {name}"
    assert rows.columns == ("question", "answer")
    assert load_rows(rows) is rows
    assert list(pickle.loads(pickle.dumps(rows))) == ROWS


def test_rows_are_copies():
    rows = load_rows(ROWS)
    row = rows[0]
    row["question"] = "changed"
    assert rows[0] == ROWS[0]


@given(st.lists(st.integers(-20, 19), min_size=1, max_size=10))
def test_subsets_keep_their_origins(indices):
    rows = load_rows(ROWS)
    subset = rows.subset(indices)
    assert list(subset) == [ROWS[i] for i in indices]
    assert [subset.where(k) for k in range(len(subset))] == [rows.where(i) for i in indices]
    again = subset[::-1]
    assert [again.where(k) for k in range(len(again))] == [rows.where(i) for i in reversed(indices)]


def test_a_subset_is_not_empty():
    with pytest.raises(ValueError, match="the subset of the given list has no rows"):
        load_rows(ROWS).subset([])
    with pytest.raises(IndexError):
        load_rows(ROWS).subset([20])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl has no rows"),
        ("a.jsonl", b"\n \n", r"a\.jsonl has no rows"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": }\n', r"a\.jsonl:3: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: not valid JSON"),
        ("a.ndjson", b'{"a": 1}\n[1, 2]\n', r"a\.ndjson:2: expected an object, got a list: \[1, 2\]"),
        ("a.json", b'[{"a": 1},\n{"a": }]', r"a\.json:2: not valid JSON"),
        ("a.json", b'{"rows": []}', r"a\.json: expected a list of objects, got a dict"),
        ("a.json", b'[{"a": 1}, 3]', r"row 1 of .*a\.json: expected a mapping, got a int: 3"),
        ("a.json", b"[]", r"a\.json has no rows"),
        ("a.parquet", b"not parquet", r"a\.parquet: not a readable Parquet file"),
        ("a.csv", b"question,answer\n", r"a\.csv: cannot read a \.csv; expected \.jsonl"),
        ("a", b"{}", r"cannot read a file without suffix"),
    ],
)
def test_bad_files_are_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path / name)


def test_an_empty_parquet_file_and_empty_lists(tmp_path):
    parquet.write_table(pyarrow.table({"question": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", [], datasets.Dataset.from_dict({"question": []})):
        with pytest.raises(ValueError, match="has no rows"):
            load_rows(source)


def test_a_missing_file_is_named_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "train.jsonl", map(json.dumps, ROWS))
    with pytest.raises(FileNotFoundError, match=r"no file data/trian\.jsonl; similar names there: train\.jsonl"):
        load_rows("data/trian.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no file dta/train\.jsonl, nor the folder dta$"):
        load_rows("dta/train.jsonl")
    for source in ("./gsm8k", "~/gsm8k", "/gsm8k", "train.json", "data/train.txt", Path("gsm8k")):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            load_rows(source)


def test_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "train.jsonl", map(json.dumps, ROWS))
    for source in ("data", tmp_path / "data"):
        with pytest.raises(ValueError, match=r"data is a folder; expected one file .*; it has train\.jsonl"):
            load_rows(source)


@pytest.mark.parametrize("source", [3, None, b"train.jsonl", {"train": ROWS}, iter(ROWS)])
def test_other_sources_are_refused(source):
    with pytest.raises(TypeError, match=f"got a {type(source).__name__}"):
        load_rows(source)


def test_a_split_belongs_to_the_hub(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", map(json.dumps, ROWS))
    for source in (path, str(path), ROWS, datasets.Dataset.from_list(ROWS)):
        with pytest.raises(ValueError, match="split='test' chooses a split of a hub dataset"):
            load_rows(source, split="test")


@pytest.mark.parametrize("name", ["gsm8k", "text", "json", "a question?", "a/b/c", ""])
def test_a_string_that_is_nothing(name):
    with pytest.raises(FileNotFoundError, match="neither an existing file nor a hub id"):
        load_rows(name)


HUB_CACHE = """
import sys
from pathlib import Path
import datasets
folder = Path(sys.argv[1]) / "someone___sums-2.5" / "main" / "0.0.0" / "abc"
folder.mkdir(parents=True)
info = datasets.DatasetInfo(builder_name="parquet", dataset_name="sums-2.5", config_name="main", version="0.0.0")
info.features = datasets.Features(question=datasets.Value("string"))
info.splits = datasets.SplitDict()
for split, count in (("train", 5), ("test", 2)):
    path = str(folder / f"sums-2.5-{split}.arrow")
    with datasets.arrow_writer.ArrowWriter(path=path, features=info.features) as writer:
        for i in range(count):
            writer.write({"question": f"{split} {i}"})
        writer.finalize()
    info.splits.add(datasets.SplitInfo(name=split, num_examples=count, dataset_name="sums-2.5"))
info.write_to_directory(str(folder))
"""

HUB_CHECKS = """
from tokengym.envs.datasets import load_rows

def error(*args, **kwargs):
    try:
        load_rows(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

rows = load_rows("someone/sums-2.5:main")
assert [row["question"] for row in rows] == [f"train {i}" for i in range(5)], list(rows)
assert rows.where(3) == "row 3 of someone/sums-2.5:main (train)", rows.where(3)
assert [row["question"] for row in load_rows("someone/sums-2.5", split="test")] == ["test 0", "test 1"]
assert [row["question"] for row in load_rows("someone/sums-2.5", split="train[3:]")] == ["train 3", "train 4"]
message = error("someone/sums-2.5", split="valid")
assert message.startswith("ValueError: Unknown split"), message
message = error("someone/absent")
assert message.startswith("FileNotFoundError: 'someone/absent' is neither an existing file nor"), message
"""


def test_hub_datasets(tmp_path):
    # The hub library in its offline mode, over a cache as a download leaves it.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path)}
    for program in (HUB_CACHE, HUB_CHECKS):
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_required_columns(tmp_path):
    lines = [
        '{"question": "a", "answer": 0}',
        "",
        '{"Question": "b", "answer": ""}',
        '{"question": "c", "answer": null}',
    ]
    rows = load_rows(write_lines(tmp_path / "train.jsonl", lines))
    require_columns(rows, [])
    require_columns(rows.subset([0]), ["question", "answer"])
    require_columns(rows.subset([0, 1]), ["answer"])
    message = r"train\.jsonl:3: no column 'question' among 'Question', 'answer'; did you mean 'Question'\?"
    with pytest.raises(ValueError, match=message):
        require_columns(rows, ["question", "answer"])
    with pytest.raises(ValueError, match=r"train\.jsonl:4: the column 'answer' is empty"):
        require_columns(rows.subset([0, 2]), iter(["question", "answer"]))
    with pytest.raises(ValueError, match=r"no column 'zzz' among 'question', 'answer'$"):
        require_columns(rows, ["zzz"])


def question(row):
    return row["question"]


questions = st.lists(st.text(st.characters(codec=None), max_size=3), min_size=2, max_size=30).filter(
    lambda q: len(set(q)) > 1
)
shares = st.floats(0.001, 0.999)


@given(questions, shares, st.randoms())
def test_train_and_test_never_meet(texts, held_out, random):
    rows = Rows([{"question": text} for text in texts], name="given")
    parts = {split: split_rows(rows, split, key=question, held_out=held_out) for split in ("train", "test")}
    keys = {split: {question(row) for row in part} for split, part in parts.items()}
    assert not keys["train"] & keys["test"]
    origins = [part.where(i) for part in parts.values() for i in range(len(part))]
    assert sorted(origins) == sorted(rows.where(i) for i in range(len(rows))), "each row is on exactly one side"
    distinct = len(set(texts))
    assert 1 <= len(keys["test"]) <= distinct - 1
    assert abs(len(keys["test"]) - held_out * distinct) <= 1

    shuffled = random.sample(texts, len(texts))
    part = split_rows(
        Rows([{"question": text} for text in shuffled], name="given"), "test", key=question, held_out=held_out
    )
    assert {question(row) for row in part} == keys["test"], "the order of the rows made a difference"
    assert split_rows(rows, "all", key=question) is rows


def test_a_larger_test_split_contains_the_smaller():
    rows = load_rows(ROWS)
    sizes = (0.1, 0.3, 0.5)
    small, middle, large = ({question(r) for r in split_rows(rows, "test", key=question, held_out=h)} for h in sizes)
    assert small < middle < large
    assert [len(small), len(middle), len(large)] == [2, 6, 10]


def test_the_split_is_the_same_in_every_process():
    program = (
        "from tokengym.envs.datasets import Rows, split_rows\n"
        "rows = Rows([{'question': f'{i} + {i} = ?'} for i in range(20)], name='x')\n"
        "print([r['question'] for r in split_rows(rows, 'test', key=lambda r: r['question'])])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([question(r) for r in split_rows(load_rows(ROWS), "test", key=question)])


def test_impossible_splits():
    rows = load_rows(ROWS)
    with pytest.raises(ValueError, match="'train', 'test' or 'all', got 'valid'"):
        split_rows(rows, "valid", key=question)
    for held_out in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="held_out must be between 0 and 1"):
            split_rows(rows, "train", key=question, held_out=held_out)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="all rows have the same key"):
            split_rows(rows, split, key=lambda row: "same")
    assert split_rows(rows, "all", key=lambda row: "same") is rows
    with pytest.raises(TypeError, match="row 0 of the given list: the key of a row must be a string, got 3"):
        split_rows(rows, "test", key=lambda row: 3)  # type: ignore[arg-type,return-value]
