"""Do agents learn to use tools, and what does it cost? Agents whose rollouts branch, and those that give credit to single
steps, beside GRPO, with the built-in policy from the same warm starts: `python -m benchmarks.agentic --json OUT`.

`ToolMath-v0`: GRPO, ARPO and TreeGRPO learn to call the calculator. `TextGrid-v0`: GRPO, TreeGRPO and GiGPO learn to find
the goal. All have the same leaves per prompt, the same prompts per step and the same steps. Every so many steps the
policy is asked held-out problems. An agent has *reached* GRPO at the evaluation at which its accuracy, the mean over the
seeds and over this evaluation and the one before, is what GRPO's is at the end; what it has cost by then is compared with
what GRPO has cost in all.

Writes the results to OUT after every run (and starts from those that it has already).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tokengym.agents import AGENTS, Agent, Evaluation
from tokengym.agents.engines import Sampling
from tokengym.agents.evaluation import summarize
from tokengym.agents.rollout import Group, PromptCursor, episode_seeds

from .machine import machine


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        env_options: so that a warm start leaves room.
        agents: options of each agent.
        options: of all agents.
    """

    env_options: Mapping[str, Any]
    agents: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


TASKS = {
    "ToolMath-v0": Task(
        {"tool_share": 0.4},
        {
            "grpo": {},
            "arpo": {"initial_chains": 4, "branches": 6},
            "tree_grpo": {"trees": 4, "nodes": 3},
        },
        {"group_size": 16, "prompts_per_step": 16, "max_tokens": 256, "steps": 40},
    ),
    "TextGrid-v0": Task(
        {"max_turns": 8},
        {"grpo": {}, "tree_grpo": {"trees": 2, "nodes": 2}, "gigpo": {}},
        {"group_size": 8, "prompts_per_step": 12, "max_tokens": 512, "steps": 40},
    ),
}


@dataclass(frozen=True)
class Options:
    """Agents that use tools, on equal terms."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which environments."""
    agents: tuple[str, ...] = ("all",)
    """Which of the agents of a task, or all."""
    seeds: int = 3
    """Runs of each, with warm starts of their own."""
    evaluations: int = 8
    """How often the policy is asked held-out problems on the way."""
    problems: int = 200
    """How many."""
    jobs: int = 2
    """Runs side by side, each on a core of its own."""
    json: Path = Path("benchmarks/results/agentic.json")
    """Where to write the results; runs that it holds already are not repeated."""


def main(options: Options) -> None:
    if unknown := [name for name in options.tasks if name not in TASKS]:
        raise SystemExit(f"unknown tasks {', '.join(unknown)}; there are {', '.join(TASKS)}")
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    terms = {"evaluations": options.evaluations, "problems": options.problems}
    terms["tasks"] = json.loads(json.dumps({name: vars(task) for name, task in TASKS.items()}))
    if found and any(found[name] != value for name, value in terms.items()):
        raise SystemExit(f"{options.json} has runs on other terms: choose another file")
    found |= {
        "command": "python -m benchmarks.agentic",
        "date": date.today().isoformat(),
        "machine": machine(),
        **terms,
    }
    runs: dict[str, dict[str, dict[str, Any]]] = found.setdefault("runs", {})
    todo = [
        (task, agent, seed)
        for seed in range(options.seeds)
        for task in options.tasks
        for agent in TASKS[task].agents
        if (agent in options.agents or options.agents == ("all",))
        and str(seed) not in runs.get(task, {}).get(agent, {})
    ]
    console = Console()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        console.print("warm starts")
        list(pool.map(warm_up, *zip(*sorted({(task, seed) for task, _, seed in todo}))) if todo else ())
        futures = {pool.submit(run, *each, options.evaluations, options.problems): each for each in todo}
        for future in as_completed(futures):
            task, agent, seed = futures[future]
            result = future.result()
            runs.setdefault(task, {}).setdefault(agent, {})[str(seed)] = result
            first, last = result["curve"][0], result["curve"][-1]
            console.print(
                f"{task} {agent} seed {seed}: {first['accuracy']:.3f} → {last['accuracy']:.3f}, "
                f"{last['tokens']} tokens, {result['seconds']:.0f} s",
                highlight=False,
            )
            found["summary"] = summary(runs)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            temporary = options.json.with_name(options.json.name + ".tmp")
            temporary.write_text(json.dumps(found, indent=1) + "\n")
            temporary.replace(options.json)
    for task, agents in summary(runs).items():
        console.print(table(task, agents))
    print(f"written to {options.json}")


def make(task: str, agent: str, seed: int, folder: str | None = None) -> Agent:
    t = TASKS[task]
    made = AGENTS[agent](
        env=task,
        env_options=t.env_options,
        seed=seed,
        run_dir=folder,
        console=False,
        monitor_reference=False,
        schedule="constant",
        record_rollouts_every=0,
        **{**t.options, **t.agents[agent]},
    )
    assert isinstance(made, Agent)
    return made


def warm_up(task: str, seed: int) -> None:
    """Put the warm start of a seed into the cache, so that runs side by side find it there."""
    torch.set_num_threads(1)
    make(task, "grpo", seed)


def run(task: str, name: str, seed: int, evaluations: int, problems: int) -> dict[str, Any]:
    """Train one agent. Its curve has, at each evaluation, what it had cost by then: steps, tokens, tool calls and seconds
    of training; and the accuracy and, with tools, the share of the problems for which one was called."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        agent = make(task, name, seed, folder)
        cost = {"steps": 0, "tokens": 0, "tool_calls": 0, "seconds": 0.0}
        sample = agent.sample

        def counting() -> list[Group]:
            groups = sample()
            cost["tool_calls"] += sum(t.tool_calls for group in groups for t in group)
            return groups

        agent.sample = counting
        curve = [cost | held_out(agent, problems)]
        for part in range(evaluations):
            steps = agent.config.steps * (part + 1) // evaluations - agent.step
            started = time.perf_counter()
            agent.learn(steps)
            cost["seconds"] = round(cost["seconds"] + time.perf_counter() - started, 1)
            cost |= {"steps": agent.step, "tokens": agent.sampled_tokens}
            curve.append(cost | held_out(agent, problems))
        metrics = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        branching = [name for name in metrics[0] if name.startswith("tree/")]
        return {
            "curve": curve,
            "seconds": cost["seconds"],
            "train_accuracy": [round(m["accuracy"], 4) for m in metrics],
            "tree": {name: round(float(np.mean([m[name] for m in metrics])), 4) for name in branching},
        }


def held_out(agent: Agent, problems: int) -> dict[str, float]:
    """Accuracy at temperature 1 on held-out problems, and the share for which a tool was called."""
    env = agent._held_out()
    rows = PromptCursor(len(env.rows), seed=0).draw(problems)
    groups = agent.make_rollout(env).run(rows, episode_seeds(0, 0, problems, 1), Sampling())
    found: Evaluation = summarize(groups)
    assert found.accuracy is not None
    used = {} if env.toolset is None else {"tool_use": float(np.mean([t.tool_calls > 0 for [t] in groups]))}
    return {"accuracy": round(found.accuracy, 4), "turns": float(np.mean([len(t.turns) for [t] in groups])), **used}


def summary(runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds that all agents of a task have."""
    out: dict[str, Any] = {}
    for task, agents in runs.items():
        seeds = sorted(set.intersection(*(set(each) for each in agents.values())))
        if not seeds or "grpo" not in agents:
            continue
        curves = {name: mean_curve([each[s]["curve"] for s in seeds]) for name, each in agents.items()}
        whole = curves["grpo"][-1]
        target = sum(point["accuracy"] for point in curves["grpo"][-2:])
        out[task] = {}
        for name, curve in curves.items():
            pairs = pairwise(curve)
            reached = next((b for a, b in pairs if a["accuracy"] + b["accuracy"] >= target), None)
            out[task][name] = {
                "seeds": len(seeds),
                "before": curve[0],
                "after": curve[-1],
                "gain": {
                    key: round(curve[-1][key] - curve[0][key], 4) for key in ("accuracy", "tool_use") if key in curve[0]
                },
                "reached_grpo": reached is not None,
                "cost_to_reach_grpo": reached
                and {
                    key: round(reached[key] / whole[key], 3)
                    for key in ("steps", "tokens", "tool_calls", "seconds")
                    if whole[key]
                },
            }
    return out


def mean_curve(curves: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    return [{key: round(float(np.mean([p[key] for p in points])), 4) for key in points[0]} for points in zip(*curves)]


def table(task: str, agents: dict[str, Any]) -> Table:
    shown = Table(title=f"{task}, means over {next(iter(agents.values()))['seeds']} seeds")
    for column in ("agent", "accuracy", "tool use", "tokens", "tool calls", "seconds", "cost to reach GRPO's accuracy"):
        shown.add_column(column)
    for name, row in agents.items():
        before, after, cost = row["before"], row["after"], row["cost_to_reach_grpo"]
        shown.add_row(
            name,
            f"{before['accuracy']:.3f} → {after['accuracy']:.3f}",
            f"{before['tool_use']:.3f} → {after['tool_use']:.3f}" if "tool_use" in before else "",
            f"{after['tokens']:.0f}",
            f"{after['tool_calls']:.0f}",
            f"{after['seconds']:.0f}",
            ", ".join(f"{value:.2f} × {key.replace('_', ' ')}" for key, value in cost.items())
            if cost
            else "not reached",
        )
    return shown


if __name__ == "__main__":
    main(tyro.cli(Options))
