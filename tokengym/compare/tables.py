"""The results as tables of text, for Markdown and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text below a header; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    prose: bool = False
    """Whether the last column is sentences."""


def ranked(results: Mapping[str, Any]) -> list[str]:
    """The agents, the best final mean first; those without a run that ended well last."""
    finals = {name: each.get("final", {}).get("value") for name, each in results["summary"].items()}
    return sorted(finals, key=lambda name: -math.inf if finals[name] is None else finals[name], reverse=True)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """All that there are: the agents, who is better than whom, and what failed."""
    found = [agents_table(results)]
    if sum(each["runs"] > 0 for each in results["summary"].values()) > 1:
        found.append(improvement_table(results))
    if any(run["status"] == "failed" for run in results["runs"]):
        found.append(failed_table(results))
    return found


def agents_table(results: Mapping[str, Any]) -> Table:
    metric, summary, terms = results["metric"], results["summary"], results["terms"]
    wanted = terms["seeds"]
    done = [each for each in summary.values() if each["runs"]]
    ks = list(done[0]["pass_at"]) if done else []
    tools = any("tool_use" in each for each in done)
    threshold = results["threshold"]
    header = ["agent", "runs", "start", f"final {metric}", "interquartile mean", "gain"]
    header += [f"pass@{k}" for k in ks]
    header += [f"tokens to {threshold:g}"] if threshold is not None else []
    header += ["sampled tokens", "learning time (s)"] + ["tool calls", "share with a call"] * tools
    rows = []
    for name in ranked(results):
        s = summary[name]
        if not s["runs"]:
            rows.append([name, f"0 of {wanted}", "failed", *[""] * (len(header) - 3)])
            continue
        row = [name, f"{s['runs']} of {wanted}", number(s["start"]["value"])]
        row += [interval(s[key]) for key in ("final", "interquartile_mean", "gain")]
        row += [interval(s["pass_at"][k]) for k in ks]
        if threshold is not None:
            row.append(_reached(s))
        row += [f"{s['sampled_tokens']:,.0f}", f"{s['learning_seconds']:,.0f}"]
        if tools:
            row += [f"{s['tool_calls']:,.0f}", _used(s)]
        rows.append(row)
    problems = min(
        (e["problems"] for r in results["runs"] for e in r.get("evaluations", ())), default=terms["problems"]
    )
    note = (
        f"{problems} held-out problems, {terms['samples']} completions of each at temperature 1; mean over "
        "seeds [95 % bootstrap interval over seeds]."
    )
    if wanted < 5:
        note += f" Intervals over {wanted} seed{'s' * (wanted > 1)} are rough."
    if wanted < 4:
        note += " Of fewer than four runs the interquartile mean cuts off none."
    if tools:
        note += (
            " Share with a call: of the held-out completions, at the start and at the end, those that called a tool."
        )
    if threshold is not None:
        note += f" Tokens to {threshold:g}: median over runs, and how many reached it."
    return Table("Agents", header, rows, note)


def improvement_table(results: Mapping[str, Any]) -> Table:
    names = [name for name in ranked(results) if results["summary"][name]["runs"]]
    rows = [
        [ours, *("–" if ours == theirs else interval(results["improvement"][ours][theirs], 2) for theirs in names)]
        for ours in names
    ]
    note = (
        "Probability that a run of the row's agent ends higher than one of the column's (ties count half) [95 % bootstrap "
        "interval]."
    )
    seeds = results["terms"]["seeds"]
    if seeds < 5:
        note += (
            f" With {seeds} seed{'s' * (seeds > 1)} each, chance alone sets all runs of one agent above all of an equal "
            f"one's in one pair of {comb(2 * seeds, seeds) // 2}."
        )
    return Table("Probability of improvement", ["", *names], rows, note)


def failed_table(results: Mapping[str, Any]) -> Table:
    rows = [[r["agent"], str(r["seed"]), r["error"]] for r in results["runs"] if r["status"] == "failed"]
    return Table("Failed runs", ["agent", "seed", "error"], rows, "The others are not affected.", prose=True)


def interval(estimate: Mapping[str, float | None], digits: int = 3) -> str:
    low, high = estimate["low"], estimate["high"]
    value = number(estimate["value"], digits)
    return value if low is None or high is None else f"{value} [{number(low, digits)}, {number(high, digits)}]"


def number(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def markdown(results: Mapping[str, Any]) -> str:
    """`table.md`: the tables, and below them on what terms and machine."""
    lines = [f"# {title(results)}", ""]
    for table in tables(results):
        lines += [f"## {table.title}", "", _line(table.header), _line(["---"] * len(table.header))]
        lines += [_line(row) for row in table.rows]
        lines += ["", table.note, ""]
    lines += [f"* {name}: {text}" for name, text in facts(results)]
    return "\n".join(lines) + "\n"


def title(results: Mapping[str, Any]) -> str:
    return f"{', '.join(results['terms']['agents'])} on {results['terms']['env']}"


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """On what terms the results were made, and with what."""
    terms, made = results["terms"], results["made"]
    hardware = made["hardware"]
    machine = [hardware["cpu"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB", *hardware["gpus"]]
    # A prompt may have lines, and a fact is one.
    options = ", ".join(f"{key}={' '.join(str(value).split())}" for key, value in terms["env_options"].items())
    return [
        ("budget", f"{terms['budget']:,} sampled tokens a run; a run ends with the step that reaches it"),
        ("model", terms["model"]),
        ("environment", terms["env"] + (f" ({options})" if options else "")),
        ("date", results["date"]),
        ("machine", ", ".join(machine)),
        ("versions", ", ".join(f"{name} {text}" for name, text in made["versions"].items())),
        ("commit", ", ".join(results["commits"])),
    ]


def _reached(summary: Mapping[str, Any]) -> str:
    reached, median = summary["reached"]["runs"], summary["reached"]["median_tokens"]
    return f"{'not reached' if median is None else f'{median:,.0f}'} ({reached} of {summary['runs']})"


def _used(summary: Mapping[str, Any]) -> str:
    start, final = summary["tool_use"]["start"], summary["tool_use"]["final"]
    return f"{number(start['value'])} → {interval(final)}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
