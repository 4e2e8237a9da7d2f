"""Do agents learn to use tools, and what does it cost? Agents whose rollouts branch, and those that give credit to single
steps, beside GRPO, from the same warm starts: `python -m benchmarks.agentic --json OUT`.

It is `tokengym compare` twice (the terms are those of benchmarks/configs), and what follows from it. `ToolMath-v0`: ARPO
and TreeGRPO learn to call the calculator, and so do agents that do not branch. `TextGrid-v0`: TreeGRPO and GiGPO learn to find
the goal. All have the same leaves per prompt, the same prompts per step and the same budget of sampled tokens. An agent has
*reached* GRPO at the evaluation at which its accuracy, the mean over the seeds and over this evaluation and the one before,
is what GRPO's is at the end; what it has cost by then is compared with what GRPO has cost in all. Stopped, it goes on where
it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from tokengym.compare import compare

AGENTS = {"ToolMath-v0": ("ppo", "grpo", "dapo", "arpo", "tree_grpo"), "TextGrid-v0": ("grpo", "tree_grpo", "gigpo")}
COSTS = ("tokens", "tool_calls", "seconds")


@dataclass(frozen=True)
class Options:
    """Agents that use tools, on equal terms."""

    tasks: tuple[str, ...] = tuple(AGENTS)
    """Which environments."""
    seeds: int | None = None
    """Runs of each agent. None: as the comparison's settings say."""
    budget: int | None = None
    """Tokens that a run may sample. None: as the settings say."""
    out: Path = Path("runs/agentic")
    """The comparisons' folders are below this one."""
    jobs: int | None = None
    """Runs side by side. None: as many as there are cores."""
    json: Path = Path("benchmarks/results/agentic.json")
    """Where to write the results."""


def main(options: Options) -> None:
    if unknown := [name for name in options.tasks if name not in AGENTS]:
        raise SystemExit(f"unknown tasks {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    found: dict[str, Any] = {"command": "python -m benchmarks.agentic", "tasks": {}}
    for task in options.tasks:
        terms: dict[str, Any] = {"seeds": options.seeds, "budget": options.budget, "jobs": options.jobs}
        results = compare(AGENTS[task], task, out=options.out / task, **terms)
        if failed := [run for run in results["runs"] if run["status"] != "done"]:
            raise SystemExit(f"{failed[0]['agent']} seed {failed[0]['seed']} failed: {failed[0]['error']}")
        agents = summary(results)
        found["tasks"][task] = {
            "agents": agents,
            **{key: results[key] for key in ("terms", "points", "date", "made", "commits")},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        Console().print(table(task, agents))
    print(f"written to {options.json}")


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Of each agent: its curve, which is the mean over the seeds, with what it had cost by each evaluation; what it gained;
    and what it cost to reach GRPO's final accuracy, as a share of what GRPO cost in all."""
    curves = {
        name: mean_curve([curve(run) for run in results["runs"] if run["agent"] == name]) for name in results["summary"]
    }
    whole = curves["grpo"][-1]
    target = sum(point["accuracy"] for point in curves["grpo"][-2:])
    found = {}
    for name, points in curves.items():
        reached = next((b for a, b in pairwise(points) if a["accuracy"] + b["accuracy"] >= target), None)
        found[name] = {
            "gain": {
                key: round(points[-1][key] - points[0][key], 4) for key in ("accuracy", "tool_use") if key in points[0]
            },
            "cost_to_reach_grpo": reached and {key: round(reached[key] / whole[key], 3) for key in COSTS if whole[key]},
            "curve": points,
        }
    return found


def curve(run: Mapping[str, Any]) -> list[dict[str, float]]:
    """At each evaluation of a run: accuracy, the share of completions with a tool call, and what the run had cost by then."""
    training = run["training"]
    found = []
    for evaluation in run["evaluations"]:
        steps = evaluation["step"]
        point = {
            "accuracy": evaluation["pass_at"]["1"]["value"],
            "tokens": evaluation["sampled_tokens"],
            "steps": steps,
        }
        if evaluation["tool_use"] is not None:
            point["tool_use"] = evaluation["tool_use"]["value"]
        point["tool_calls"] = float(sum(training["tool_calls"][:steps]))
        point["seconds"] = float(sum(run["step_seconds"][:steps]))
        found.append(point)
    return found


def mean_curve(curves: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    return [{key: round(float(np.mean([p[key] for p in points])), 4) for key in points[0]} for points in zip(*curves)]


def table(task: str, agents: Mapping[str, Any]) -> Table:
    shown = Table(title=f"{task}, means over the seeds", title_justify="left")
    for column in ("agent", "accuracy", "tool use", "tokens", "tool calls", "seconds", "cost to reach GRPO's accuracy"):
        shown.add_column(column)
    for name, row in agents.items():
        before, after, cost = row["curve"][0], row["curve"][-1], row["cost_to_reach_grpo"]
        shown.add_row(
            name,
            f"{before['accuracy']:.3f} → {after['accuracy']:.3f}",
            f"{before['tool_use']:.3f} → {after['tool_use']:.3f}" if "tool_use" in before else "",
            *(f"{after[key]:,.0f}" for key in COSTS),
            ", ".join(f"{value:.2f} × {key.replace('_', ' ')}" for key, value in cost.items())
            if cost
            else "not reached",
        )
    return shown


if __name__ == "__main__":
    main(tyro.cli(Options))
