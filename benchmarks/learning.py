"""Does every algorithm learn? All of them on `MathVerify-v0` with the built-in policy, from the same warm starts, on an equal
budget of sampled tokens: `python -m benchmarks.learning --agents all --json OUT`.

It is `tokengym compare` with all agents (see there for the terms, which are those of benchmarks/configs/MathVerify-v0.yaml),
summed up: what each gained over its warm start, and the learning curves beside OUT as a picture. Stopped, it goes on where it
was; `--out` may be the folder of a comparison that has some of the runs already.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from tokengym.agents import AGENTS, Agent
from tokengym.rewards import Episode, MathAnswer, Sum

from tokengym.compare import compare

ENV = "MathVerify-v0"
GAIN = 0.2  # what every algorithm should gain


def too_long(episode: Episode) -> float:
    """The cost that PPO-Lagrangian keeps below its limit: completions of the warm start have about 24 tokens."""
    return float(episode.num_tokens > 26)


@dataclass(frozen=True)
class Options:
    """All algorithms on equal budgets."""

    agents: tuple[str, ...] = ("all",)
    """Names of agents (tokengym agents lists them), or all."""
    seeds: int | None = None
    """Runs of each, with warm starts of their own. None: as the comparison's settings say."""
    budget: int | None = None
    """Tokens that a run may sample. None: as the settings say."""
    out: Path = Path("runs/learning")
    """The folder of the comparison."""
    jobs: int | None = None
    """Runs side by side. None: as many as there are cores."""
    json: Path = Path("benchmarks/results/learning.json")
    """Where to write the summary."""


def main(options: Options) -> None:
    names = [n for n, a in AGENTS.items() if issubclass(a, Agent)] if options.agents == ("all",) else options.agents
    terms: dict[str, Any] = {"seeds": options.seeds, "budget": options.budget, "jobs": options.jobs}
    found = []
    # The one agent that needs a cost is given one, with a folder of its own: the terms of a comparison hold for all in it.
    if free := [name for name in names if name != "ppo_lagrangian"]:
        found.append(compare(free, ENV, out=options.out, **terms))
    if "ppo_lagrangian" in names:
        reward = Sum(MathAnswer(computed=True), cost=too_long, weights={"cost": 0.0})
        folder = options.out.with_name(f"{options.out.name}-constrained")
        found.append(compare(["ppo_lagrangian"], ENV, out=folder, env_options={"reward": reward}, **terms))
    agents = {name: of_agent(results, name) for results in found for name in results["summary"]}
    agents = dict(sorted(agents.items(), key=lambda item: -item[1]["gain"]))
    summary = {
        "command": "python -m benchmarks.learning --agents all",
        "accuracy": f"pass@1 at temperature 1 on {found[0]['terms']['problems']} held-out problems",
        "points": found[0]["points"],
        "agents": agents,
        **{key: found[0][key] for key in ("terms", "date", "made", "commits")},
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    Console().print(table(agents))
    plot(summary, options.json.with_suffix(".png"))
    print(f"written to {options.json} and {options.json.with_suffix('.png')}")


def of_agent(results: dict[str, Any], name: str) -> dict[str, Any]:
    """What came out of an agent's runs: means over the seeds, and every run's curve.

    Raises:
        SystemExit: if a run of it failed.
    """
    runs = [run for run in results["runs"] if run["agent"] == name]
    if failed := [run for run in runs if run["status"] != "done"]:
        raise SystemExit(f"{name} seed {failed[0]['seed']} failed: {failed[0]['error']}; the same command tries again")
    curves = [[e["pass_at"]["1"]["value"] for e in run["evaluations"]] for run in runs]
    gains = [curve[-1] - curve[0] for curve in curves]
    summary = results["summary"][name]
    return {
        "before": round(summary["start"]["value"], 4),
        "after": round(summary["final"]["value"], 4),
        "gain": round(summary["gain"]["value"], 4),
        "least_gain": round(min(gains), 4),
        "learning_seconds": round(summary["learning_seconds"], 1),
        "curves": [[round(value, 4) for value in curve] for curve in curves],
    }


def table(agents: dict[str, Any]) -> Table:
    out = Table("agent", "before", "after", "gain", "least gain", "learning time (s)", box=None, pad_edge=False)
    for name, a in agents.items():
        cells = (f"{a[k]:.3f}" for k in ("before", "after", "gain", "least_gain"))
        out.add_row(name, *cells, f"{a['learning_seconds']:.0f}", style="" if a["gain"] >= GAIN else "red")
    return out


def plot(summary: dict[str, Any], path: Path) -> None:
    """Accuracy over sampled tokens: every algorithm in a panel, its seeds in colour, the means of all others in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    agents, tokens = summary["agents"], [point / 1000 for point in summary["points"]]
    columns = min(6, len(agents))
    lines = -(-len(agents) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.0 * lines + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    means = {name: [sum(values) / len(values) for values in zip(*a["curves"])] for name, a in agents.items()}
    for axis in axes[len(agents) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(agents) - columns) : len(agents)]:
        axis.tick_params(labelbottom=True)  # whatever is below has no axis
    for axis, (name, agent) in zip(axes, agents.items()):
        for other, mean in means.items():
            if other != name:
                axis.plot(tokens, mean, color="0.88", linewidth=0.6)
        for curve in agent["curves"]:
            axis.plot(tokens, curve, color="#0072b2", linewidth=1.3)
        axis.set_title(name, fontsize=8)
        axis.grid(alpha=0.25)
    figure.supxlabel("sampled tokens (thousands)", fontsize=9)
    figure.supylabel("accuracy on held-out problems", fontsize=9)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
