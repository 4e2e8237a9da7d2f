"""`report.html`: the results as one self-contained page that asks no network for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from .run import score
from .tables import Table, facts, number, tables, title

BELOW = re.compile(r"(.+) (\[-?[\d.]+, -?[\d.]+\]|\(\d+ of \d+\))")
"""A cell of a table with an interval, or with a count of runs."""


def report(results: Mapping[str, Any], folder: Path) -> str:
    """The page, which links to the rollouts of those runs in `folder` that have a page of them."""
    files = resources.files("tokengym.compare")
    page = Template((files / "report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(title(results)),
        style=(files / "report.css").read_text(encoding="utf-8"),
        script=(files / "chart.js").read_text(encoding="utf-8"),
        # Within an element of script only "<" could end it or begin another.
        data=json.dumps(_chart(results)).replace("<", "\\u003c"),
        about=escape(_about(results)),
        tables="\n".join(map(_table, tables(results))),
        runs=_runs(results, folder),
        papers=_definitions(list(results["papers"].items())),
        facts=_definitions(facts(results)),
        configuration=escape(json.dumps(results["configuration"], indent=1)),
    )


def _about(results: Mapping[str, Any]) -> str:
    terms, agents = results["terms"], len(results["terms"]["agents"])
    seeds = f"{terms['seeds']} seed{'s' * (terms['seeds'] > 1)}"
    of_each = f"{agents} agents with {seeds} each" if agents > 1 else f"1 agent with {seeds}"
    return (
        f"{of_each}, {terms['budget']:,} sampled tokens a run. The runs of a seed have "
        f"the same start and the same problems in the same order. {results['date'][:10]}."
    )


def _chart(results: Mapping[str, Any]) -> dict[str, Any]:
    order = list(results["terms"]["agents"])
    curves = {name: each["curve"] for name, each in results["summary"].items() if each["runs"]}
    return {
        "metric": results["metric"],
        "points": results["points"],
        "threshold": results["threshold"],
        "agents": [{"name": name, "number": order.index(name), "curve": curve} for name, curve in curves.items()],
    }


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "\n".join(_row([_cell(cell) for cell in row]) for row in table.rows)
    kind = ' class="prose"' if table.prose else ""
    return (
        f'<section><h2>{escape(table.title)}</h2>\n<div class="wide" tabindex="0"><table{kind}>\n<thead><tr>{head}</tr></thead>\n'
        f'<tbody>\n{rows}\n</tbody></table></div>\n<p class="note">{escape(table.note)}</p></section>'
    )


def _cell(text: str) -> str:
    """Escaped; an interval, or of how many runs a number is, stands below its estimate, which takes less width."""
    found = BELOW.fullmatch(text)
    return f"{escape(found[1])}<small>{found[2]}</small>" if found else escape(text)


def _row(cells: list[str]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"


def _runs(results: Mapping[str, Any], folder: Path) -> str:
    rows = []
    for run in results["runs"]:
        name = f"{run['agent']}-{run['seed']}"
        if run["status"] == "failed":
            cells = [escape(f"{run['agent']}, seed {run['seed']}"), "failed", *["–"] * 5]
        else:
            first, last = (number(score(run["evaluations"][i])) for i in (0, -1))
            costs = [f"{run['steps']:,}", f"{run['sampled_tokens']:,}", f"{run['learning_seconds']:,.0f}"]
            cells = [escape(f"{run['agent']}, seed {run['seed']}"), first, last, *costs, "–"]
        if (folder / "runs" / name / "view.html").is_file():
            # An address relative to the page, which goes wherever the folder goes.
            cells[-1] = f'<a href="runs/{escape(quote(name))}/view.html">rollouts</a>'
        rows.append(_row(cells))
    return "\n".join(rows)


def _definitions(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
