"""Does every algorithm learn? All of them on `MathVerify-v0` with the built-in policy, from the same warm starts, on an equal
budget of sampled tokens: `python -m benchmarks.learning --agents all --json OUT`.

Writes the results to OUT after every run (and starts from those that it has already), and the learning curves beside it as a
picture.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tokengym.agents import AGENTS, GRPO, Agent
from tokengym.rewards import Episode, MathAnswer, Sum

from .machine import machine


def too_long(episode: Episode) -> float:
    return float(episode.num_tokens > 26)


GAIN = 0.2  # what every algorithm should gain
# A cost to keep below its limit: that a completion is longer than 26 tokens, where those of the warm start have about 24.
ENV_OPTIONS: dict[str, dict[str, Any]] = {
    "ppo_lagrangian": {"reward": Sum(MathAnswer(), cost=too_long, weights={"cost": 0.0})}
}


@dataclass(frozen=True)
class Options:
    """All algorithms on equal budgets."""

    agents: tuple[str, ...] = ("all",)
    """Names of agents (tokengym agents lists them), or all."""
    seeds: int = 3
    """Runs of each, with warm starts of their own."""
    token_budget: int = 800_000
    """Tokens that a run may sample."""
    prompts_per_step: int = 32
    """Prompts of a step; ReMax, which samples each once and once greedily, has four times as many."""
    jobs: int = 2
    """Runs side by side, each on a core of its own."""
    json: Path = Path("benchmarks/results/learning.json")
    """Where to write the results; runs that it holds already are not repeated."""


def main(options: Options) -> None:
    names = [n for n, a in AGENTS.items() if issubclass(a, Agent)] if options.agents == ("all",) else options.agents
    if unknown := [name for name in names if name not in AGENTS]:
        raise SystemExit(f"unknown agents {', '.join(unknown)}; tokengym agents lists them")
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    budget = {"token_budget": options.token_budget, "prompts_per_step": options.prompts_per_step}
    if found and any(found[name] != value for name, value in budget.items()):
        raise SystemExit(f"{options.json} has runs on another budget: choose another file")
    found |= {
        "command": "python -m benchmarks.learning --agents all",
        "date": date.today().isoformat(),
        "machine": machine(),
        "accuracy": "pass@1 at temperature 1 on 200 held-out problems",
        **budget,
    }
    runs: dict[str, dict[str, Any]] = found.setdefault("runs", {})
    todo = [(n, s) for s in range(options.seeds) for n in names if str(s) not in runs.get(n, {})]
    console = Console()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        console.print("warm starts")
        list(pool.map(warm_up, sorted({seed for _, seed in todo})))
        futures = {pool.submit(run, name, seed, **budget): (name, seed) for name, seed in todo}
        for future in as_completed(futures):
            name, seed = futures[future]
            result = future.result()
            runs.setdefault(name, {})[str(seed)] = result
            console.print(
                f"{name} seed {seed}: {result['accuracy_before']:.3f} → {result['accuracy_after']:.3f}, "
                f"{result['steps']} steps, {result['seconds']:.0f} s",
                highlight=False,
            )
            found["summary"] = summary(runs)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    console.print(table(summary(runs)))
    plot(runs, options.json.with_suffix(".png"))
    print(f"written to {options.json} and {options.json.with_suffix('.png')}")


def warm_up(seed: int) -> None:
    """Put the warm start of a seed into the cache, so that runs side by side find it there."""
    torch.set_num_threads(1)
    GRPO(seed=seed, console=False)


def run(name: str, seed: int, token_budget: int, prompts_per_step: int) -> dict[str, Any]:
    """Train one agent: accuracy before and after, seconds of its one core (whatever else the machine does), and its learning
    curve as [tokens, accuracy] pairs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        agent = AGENTS[name](
            env_options=ENV_OPTIONS.get(name),
            seed=seed,
            token_budget=token_budget,
            prompts_per_step=4 * prompts_per_step if name == "remax" else prompts_per_step,
            run_dir=folder,
            console=False,
        )
        before = agent.evaluate(200).accuracy
        agent.learn()
        after = agent.evaluate(200).accuracy
        metrics = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        return {
            "accuracy_before": before,
            "accuracy_after": after,
            "steps": agent.step,
            "seconds": round(time.process_time() - started, 1),
            "sampled_tokens": agent.sampled_tokens,
            "curve": [[round(agent.sampled_tokens * m["step"] / agent.step), round(m["accuracy"], 4)] for m in metrics],
        }


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    out = {}
    for name, seeds in runs.items():
        before, after = (np.array([r[f"accuracy_{when}"] for r in seeds.values()]) for when in ("before", "after"))
        out[name] = {
            "before": round(float(before.mean()), 4),
            "after": round(float(after.mean()), 4),
            "gain": round(float((after - before).mean()), 4),
            "least_gain": round(float((after - before).min()), 4),
            "seconds": round(float(np.mean([r["seconds"] for r in seeds.values()])), 1),
            "seeds": len(seeds),
        }
    return out


def table(summary: dict[str, Any]) -> Table:
    out = Table("agent", "before", "after", "gain", "least gain", "seconds", box=None, pad_edge=False)
    for name, s in sorted(summary.items(), key=lambda item: -item[1]["gain"]):
        style = "" if s["gain"] >= GAIN else "red"
        cells = (f"{s[k]:.3f}" for k in ("before", "after", "gain", "least_gain"))
        out.add_row(name, *cells, f"{s['seconds']:.0f}", style=style)
    return out


def plot(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Training accuracy over sampled tokens: every algorithm in a panel, its seeds in colour, all others in grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 6
    lines = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.6 * columns, 2.0 * lines + 0.4), sharex=True, sharey=True, squeeze=False
    )
    curves = {n: [smooth(np.array(r["curve"])) for r in seeds.values()] for n, seeds in runs.items()}
    for axis in axes.flat[len(runs) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, runs):
        for other, theirs in curves.items():
            for curve in theirs if other != name else ():
                axis.plot(curve[:, 0] / 1000, curve[:, 1], color="0.88", linewidth=0.6)
        for curve in curves[name]:
            axis.plot(curve[:, 0] / 1000, curve[:, 1], color="#0b6fa4", linewidth=1.3)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.25)
    figure.supxlabel("sampled tokens (thousands)", fontsize=9)
    figure.supylabel("accuracy of the step's samples", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def smooth(curve: np.ndarray, width: int = 5) -> np.ndarray:
    """The running mean of the last `width` steps."""
    values = [curve[max(0, i + 1 - width) : i + 1, 1].mean() for i in range(len(curve))]
    return np.column_stack([curve[:, 0], values])


if __name__ == "__main__":
    main(tyro.cli(Options))
