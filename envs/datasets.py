"""Dataset rows: loading them, knowing where each came from, and dividing them into train and test."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast, overload

_FORMATS = (".jsonl", ".ndjson", ".json", ".parquet")


class Rows(Sequence[Mapping[str, Any]]):
    """Rows of a dataset, each with where it came from.

    `rows[i]` is a new dict each time; a slice is a `Rows`.

    Args:
        rows: what holds them: any sequence of mappings, or a `datasets.Dataset`. It is not copied.
        name: what to call the dataset in messages: its file or hub id.
        lines: the line of the file `name` that each row stands on, from 1, where it has such lines.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, rows: Any, *, name: str, lines: Sequence[int] | None = None):
        self.name = name
        self._rows = rows
        self._lines = lines
        self._index: Sequence[int] = range(len(rows))
        if not self._index:
            raise ValueError(f"{name} has no rows")

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Rows:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return dict(self._rows[self._index[index]])

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.name}: {', '.join(self.columns)}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the first row's columns."""
        return tuple(self[0])

    def where(self, index: int) -> str:
        """Where `rows[index]` came from: "train.jsonl:17" (lines from 1) or "row 3 of train.parquet" (rows from 0)."""
        row = self._index[index]
        return f"row {row} of {self.name}" if self._lines is None else f"{self.name}:{self._lines[row]}"

    def subset(self, indices: Iterable[int]) -> Rows:
        """The rows at `indices`, in that order, which remember where they came from.

        Raises:
            ValueError: `indices` is empty.
        """
        index = [self._index[i] for i in indices]
        if not index:
            raise ValueError(f"the subset of {self.name} has no rows")
        subset = Rows(self._rows, name=self.name, lines=self._lines)
        subset._index = index
        return subset


def load_rows(source: Any, *, split: str | None = None) -> Rows:
    """The rows of a dataset.

    Args:
        source: a sequence of mappings; the path of a `.jsonl` or `.ndjson` (an object per line; blank lines are
            ignored), `.json` (a list of objects) or `.parquet` file; a `datasets.Dataset`; or the id of a dataset on
            the Hugging Face hub, with its configuration after a colon if it has several: "openai/gsm8k:main".
        split: the split of a hub dataset, as `datasets.load_dataset` takes it; by default its only one, or "train".

    Raises:
        FileNotFoundError: there is no such file; or `source` is neither a file nor a dataset that can be had from the
            hub (no such id, no access, no network).
        ValueError: no rows; a row that is not an object or cannot be read (named by file and line); a folder or a file
            of another kind; a `split` of what is not on the hub; a split or configuration that the hub does not have.
        TypeError: `source` is none of these.
    """
    if isinstance(source, str) and not is_path(source):
        rows, name = hub_rows(source, split)
        return Rows(rows, name=name)
    if split is not None:
        raise ValueError(f"split={split!r} chooses a split of a hub dataset; rows that are held locally have none")
    if isinstance(source, str | os.PathLike):
        return _load_file(Path(source))
    if isinstance(source, Rows):
        return source
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return _checked(source, "the given list")

    import datasets

    if isinstance(source, datasets.Dataset):
        return Rows(source, name="the given dataset")
    keys = (
        f" with the keys {', '.join(map(str, source))}: pass one of its values" if isinstance(source, Mapping) else ""
    )
    raise TypeError(
        "expected a sequence of mappings, the path of a file, a datasets.Dataset or a hub id, "
        f"got a {type(source).__name__}{keys}"
    )


def require_columns(rows: Rows, columns: Iterable[str]) -> None:
    """Check that every row has a value, not None, in each of `columns`.

    Raises:
        ValueError: one does not; names the row, the column and the columns that are there.
    """
    columns = tuple(columns)
    for i, row in enumerate(rows):
        for column in columns:
            if row.get(column) is not None:
                continue
            if column in row:
                raise ValueError(f"{rows.where(i)}: the column {column!r} is empty (None)")
            similar = difflib.get_close_matches(column, map(str, row), n=1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(f"{rows.where(i)}: no column {column!r} among {', '.join(map(repr, row))}{hint}")


def first_column(rows: Rows, names: Sequence[str]) -> str:
    """The first of `names` that is a column of `rows`.

    Raises:
        ValueError: none is.
    """
    for name in names:
        if name in rows.columns:
            return name
    raise ValueError(f"{rows.name} needs a column {' or '.join(map(repr, names))}; it has {', '.join(rows.columns)}")


def split_rows(rows: Rows, split: str, *, key: Callable[[Mapping[str, Any]], str], held_out: float = 0.1) -> Rows:
    """The "train" or "test" part of `rows`, or "all" of them, divided by a hash (BLAKE2b) of `key(row)`.

    Of the n distinct keys, the `held_out * n` with the smallest hashes are "test" (rounded; at least one is on each
    side). So the parts depend neither on the order of the rows nor on the process, and rows with equal keys stay
    together: key by the question, and no question of the test is trained on. The share of the *rows* is `held_out` only
    as far as keys occur equally often. When rows come or go the threshold moves a little, and keys near it change
    sides.

    Args:
        key: a row's key, a string: its question.
        held_out: the share of the keys that is "test", in (0, 1).

    Raises:
        ValueError: an unknown `split`, `held_out` outside (0, 1), or all rows have one key, which cannot be divided.
        TypeError: a key is not a string.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1 (exclusive), got {held_out}")
    if split == "all":
        return rows
    hashes = []
    for i, row in enumerate(rows):
        text = key(row)
        if not isinstance(text, str):
            raise TypeError(f"{rows.where(i)}: the key of a row must be a string, got {text!r}")
        hashes.append(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    ranked = sorted(set(hashes))
    if len(ranked) == 1:
        raise ValueError(
            f"{rows.name} cannot be divided into train and test: all rows have the same key (split='all' works)"
        )
    num_test = min(max(1, round(held_out * len(ranked))), len(ranked) - 1)
    threshold = ranked[num_test - 1]
    return rows.subset(i for i, digest in enumerate(hashes) if (digest <= threshold) == (split == "test"))


def is_path(source: str) -> bool:
    """Whether a string is meant as a path of this machine rather than as a hub id ("openai/gsm8k:main").

    A suffix that begins with a digit is taken for a version: "teknium/OpenHermes-2.5" is on the hub.
    """
    path = Path(source)
    return (
        path.suffix in _FORMATS
        or source.startswith((".", "/", "~", os.sep))
        or (os.sep in source and re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) is not None)
        or os.path.exists(source)
    )


def _load_file(given: Path) -> Rows:
    path = given.expanduser()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in _FORMATS)
        raise ValueError(f"{given} is a folder; expected one file ({', '.join(_FORMATS)}){_listing('it has', files)}")
    if not path.exists():
        names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        similar = difflib.get_close_matches(path.name, names)
        place = "" if path.parent.is_dir() else f", nor the folder {given.parent}"
        raise FileNotFoundError(f"there is no file {given}{place}{_listing('similar names there:', similar)}")
    if path.suffix in (".jsonl", ".ndjson"):
        return _load_json_lines(path, str(given))
    if path.suffix == ".json":
        return _load_json(path, str(given))
    if path.suffix == ".parquet":
        return _load_parquet(path, str(given))
    raise ValueError(f"{given}: cannot read a {path.suffix or 'file without suffix'}; expected {', '.join(_FORMATS)}")


def _load_json_lines(path: Path, name: str) -> Rows:
    rows, lines = [], []
    # Bytes, so that only a newline ends a line and an error in the encoding has one.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{name}:{number}: not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{name}:{number}: expected an object, got a {type(row).__name__}: {_excerpt(row)}")
            rows.append(row)
            lines.append(number)
    return Rows(rows, name=name, lines=lines)


def _load_json(path: Path, name: str) -> Rows:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{name}{line}: not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{name}: expected a list of objects, got a {type(rows).__name__}: {_excerpt(rows)}")
    return _checked(rows, name)


def _load_parquet(path: Path, name: str) -> Rows:
    from pyarrow import ArrowException, parquet

    try:
        # Not `read_table`, which takes a folder's name like "year=2024" for a column.
        with parquet.ParquetFile(path) as file:
            rows = file.read().to_pylist()
    except ArrowException as error:
        raise ValueError(f"{name}: not a readable Parquet file: {error}") from error
    return Rows(rows, name=name)


def hub_rows(source: str, split: str | None, *, streaming: bool = False) -> tuple[Any, str]:
    """The `datasets.Dataset` of a hub id, or the `IterableDataset` if it is to be streamed, and what to call it.

    Raises:
        FileNotFoundError, ValueError: as `load_rows`.
    """
    # A name without an owner must not reach `load_dataset`: "text" or "json" would read the current folder's files.
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::(.+))?", source)
    if match is None:
        raise FileNotFoundError(f"{source!r} is neither an existing file nor a hub id such as 'openai/gsm8k:main'")

    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HFValidationError

    try:
        rows: Any = datasets.load_dataset(*match.groups(), split=cast(Any, split), streaming=cast(Any, streaming))
    except (OSError, DatasetsError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{source!r} is neither an existing file nor a dataset that can be had from the Hugging Face hub: {error}"
        ) from error
    if split is None:
        split = "train" if len(rows) > 1 else next(iter(rows))
        if split not in rows:
            raise ValueError(f"{source} has the splits {', '.join(map(repr, rows))}; choose one by split=")
        rows = rows[split]
    return rows, f"{source} ({split})"


def _checked(rows: Sequence[Any], name: str) -> Rows:
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {i} of {name}: expected a mapping, got a {type(row).__name__}: {_excerpt(row)}")
    return Rows(rows, name=name)


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _listing(title: str, names: Sequence[str]) -> str:
    return f"; {title} {', '.join(names)}" if names else ""
