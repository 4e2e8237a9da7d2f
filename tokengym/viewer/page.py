"""Building the page: data that is unpacked when it is looked at, in HTML that needs and reaches no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .record import Record, read
from .segments import segments, tool_calls

SCRIPTS = ("data.js", "text.js", "colours.js", "filters.js", "list.js", "tree.js", "tokens.js", "app.js")
CHUNK_TOKENS = 100_000
SNIPPET = 120  # characters of prompts and completions in the list
QUANTITIES = {"advantages": 3, "entropies": 3, "log_ratios": 5, "logprobs": 3}
"""What tokens are coloured by, with its decimals on the page."""


def write(run_dir: str | Path, out: str | Path | None = None, steps: Sequence[int] | None = None) -> Path:
    """Write the page of the run in `run_dir` to `out`, by default `run_dir/view.html`, and return its path.

    Args:
        steps: those to show. By default all that were recorded, or evenly spaced ones of a run that is too long for
            one page.

    Raises:
        ValueError: if nothing is recorded there, or the record is damaged.
        OSError: if the page cannot be written.
    """
    out = Path(run_dir, "view.html") if out is None else Path(out)
    page = build(read(run_dir, steps))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.writing")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, out)
    return out


def build(record: Record) -> str:
    """The page as text."""
    index, chunks = _pack(record)
    blocks = {"index": index} | {f"chunk-{number}": chunk for number, chunk in enumerate(chunks)}
    # Base64 has no "<": whatever a model has written, it cannot end the element that it is in.
    data = "\n".join(
        f'<script type="application/octet-stream" id="{name}">{_packed(value)}</script>'
        for name, value in blocks.items()
    )
    style = _file("page.css")
    scripts = [_file(name) for name in SCRIPTS]
    # Nothing runs but these very scripts, and nothing is fetched from anywhere.
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _file("page.html")
        .replace("{{policy}}", policy)
        .replace("{{style}}", f"<style>{style}</style>")
        .replace("{{scripts}}", "\n".join(f"<script>{script}</script>" for script in scripts))
        .replace("{{data}}", data)
    )


# Data.


def _pack(record: Record) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index of all trajectories, and chunks of whole groups with the rest."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "step",
            "group",
            "index",
            "parent",
            "fork",
            "reward",
            "length",
            "stop",
            "learned",
            "prompt",
            "snippet",
        )
    }
    stops, prompts, chunks = _Numbered(), _Numbered(), []
    seen: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    chunk, chunk_tokens = _Chunk(), 0
    for step, group in _groups(record):
        tokens = sum(len(row["tokens"]) for row in group)
        if chunk.rows and chunk_tokens + tokens > CHUNK_TOKENS:
            chunks.append(chunk.packed())
            chunk, chunk_tokens = _Chunk(), 0
        chunk_tokens += tokens
        for row in group:
            chunk.add(row)
            for name, values in seen.items():
                if row[name]:
                    values.append(np.asarray(row[name], dtype=float))
            columns["step"].append(step)
            for name in ("group", "index", "parent", "fork", "reward"):
                columns[name].append(row[name])
            columns["length"].append(row["num_tokens"])
            columns["stop"].append(stops.of(row["stop"]))
            columns["learned"].append(int(row["learned"]))
            columns["prompt"].append(prompts.of(_snippet(m["content"] for m in row["prompt"])))
            columns["snippet"].append(_snippet(m["content"] for m in row["completion"]))
    chunks.append(chunk.packed())
    description = record.description
    index = {
        "run": {"name": record.run_dir.resolve().name}
        | {name: str(description[name]) for name in ("agent", "env", "model") if name in description},
        "left_out": record.left_out,
        "chunks": [len(chunk["rows"]) for chunk in chunks],
        "stops": stops.values,
        "prompts": prompts.values,
        "scales": {name: _scale(values) for name, values in seen.items()},
        "columns": columns,
    }
    return index, chunks


class _Chunk:
    """Trajectories with their tokens, whose texts are numbered."""

    def __init__(self) -> None:
        self.texts = _Numbered()
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        parts = segments(row)
        packed = {
            "tokens": [self.texts.of(text) for text in row["tokens"]],
            "segments": parts,
            "calls": tool_calls(row, parts),
        }
        packed |= {name: _rounded(row[name], decimals) for name, decimals in QUANTITIES.items()}
        for name in ("actions", "answer", "error", "parts", "sampled", "token_rewards", "step_rewards"):
            packed[name] = row[name]
        self.rows.append(packed)

    def packed(self) -> dict[str, Any]:
        return {"texts": self.texts.values, "rows": self.rows}


class _Numbered:
    """Values by number, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, value: str) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[str]:
        return list(self._numbers)


def _groups(record: Record) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for step in record.files:
        for number, rows in groupby(record.trajectories(step), key=lambda row: row["group"]):
            group = list(rows)
            for row in group:
                if row["parent"] is not None and not _has_root(group, row):
                    raise ValueError(
                        f"{record.files[step]}: trajectory {row['index']} of group {number} branches off no trajectory"
                    )
            yield step, group


def _has_root(group: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> bool:
    """Whether the branches of `row` go back to one that ran from the prompt."""
    for _ in group:
        if row["parent"] is None:
            return True
        if not 0 <= row["parent"] < len(group):
            return False
        row = group[row["parent"]]
    return row["parent"] is None


def _rounded(values: Sequence[float | None] | None, decimals: int) -> Any:
    """The values, or the one value that all of them have."""
    if not values:
        return values
    if values.count(values[0]) == len(values):
        return values[0]
    if None in values:
        return [None if value is None else round(value, decimals) for value in values]
    return np.round(np.asarray(values, dtype=float), decimals).tolist()


def _scale(values: Sequence[np.ndarray]) -> float:
    """The magnitude that gets the full colour: one token in a hundred is beyond it."""
    magnitudes = np.abs(np.concatenate(values)) if values else np.zeros(0)
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    scale = float(np.quantile(magnitudes, 0.99)) if len(magnitudes) else 0.0
    return float(f"{scale:.2g}") or 1.0


def _snippet(texts: Iterable[str]) -> str:
    return "\n".join(texts).strip()[:SNIPPET]


# HTML.


def _packed(value: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(value, separators=(",", ":")).encode("ascii"), 4)).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _file(name: str) -> str:
    return resources.files("tokengym.viewer").joinpath(name).read_text(encoding="utf-8")
