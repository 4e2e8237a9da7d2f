"""One run of a comparison, in a process of its own: training, with evaluations at fixed token counts."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tokengym import viewer
from tokengym.agents import BaseAgent
from tokengym.agents.learner import checkpoints
from tokengym.agents.monitor import rollouts
from tokengym.agents.monitor.tensorboard import TensorBoard
from tokengym.agents.run_folder import read_description

from .plan import Run, write_json
from .provenance import provenance

#: What is kept of every step's metrics: what repeats with the seed.
SERIES = (
    "sampled_tokens",
    "tool_calls",
    "reward/mean",
    "accuracy",
    "length/mean",
    "kl/reference",
    "entropy",
)


def work(run: Run, threads: int, environment: Mapping[str, str]) -> None:
    """What the process of a run does: it leaves `result.json`, and in `log.txt` what it had to say."""
    os.environ.clear()  # what it is forked from has the environment that the first comparison of the program had
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if run.result.is_file():  # of a run that failed
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(run.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        result = {"status": "done", **train(run), "made": provenance() | {"threads": threads}}
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        traceback.print_exc()
        result = failure(f"{type(error).__name__}: {' '.join(str(error).split())}")
    sys.stdout.flush()
    write_json(run.result, result)


def failure(error: str) -> dict[str, Any]:
    """The result of a run that failed."""
    return {"status": "failed", "error": error}


def train(run: Run) -> dict[str, Any]:
    """Train the agent of a run, or go on with it from its last checkpoint, and evaluate it at the points of the run."""
    agent = _agent(run)
    done = json.loads(run.evaluations.read_text(encoding="utf-8")) if run.evaluations.is_file() else []
    done = [evaluation for evaluation in done if evaluation["step"] <= agent.step]

    def evaluate(agent: BaseAgent) -> None:
        due = [point for point in run.points[len(done) :] if point <= agent.sampled_tokens]
        if due:
            started = time.perf_counter()
            found = dataclasses.asdict(agent.evaluate(run.problems, run.samples))
            reached = {"step": agent.step, "sampled_tokens": agent.sampled_tokens}
            seconds = {"seconds": time.perf_counter() - started}
            done.extend({"tokens": point, **reached, **found, **seconds} for point in due)
            write_json(run.evaluations, done)

    evaluate(agent)
    agent.learn(callback=evaluate)
    with (run.folder / "metrics.jsonl").open(encoding="ascii") as file:
        rows = [json.loads(line) for line in file]
    if any((run.folder / rollouts.FOLDER).glob("*")):
        viewer.write(run.folder)
    result = {
        "steps": agent.step,
        "sampled_tokens": agent.sampled_tokens,
        "tool_calls": round(sum(row.get("tool_calls", 0.0) for row in rows)),
        "learning_seconds": sum(row["time/step_s"] for row in rows),
        "step_seconds": [row["time/step_s"] for row in rows],
        "evaluation_seconds": sum({e["step"]: e["seconds"] for e in done}.values()),
        "evaluations": json.loads(run.evaluations.read_text(encoding="utf-8")),
        "training": {
            name: [row.get(name) for row in rows] for name in SERIES if any(row.get(name) is not None for row in rows)
        },
    }
    _to_tensorboard(run.folder, agent.step, result)
    return result


def score(evaluation: dict[str, Any]) -> float | None:
    """What an evaluation is ranked by: pass@1, or the mean reward where the reward does not say what is correct."""
    found = evaluation["pass_at"].get("1") or evaluation["reward"]
    return found["value"]


def _agent(run: Run) -> BaseAgent:
    saved = (run.folder / "agent.json").is_file() and checkpoints(run.folder / "checkpoints")
    if saved:
        return run.agent_class.load(run.folder, console=False, env_options=run.env_options)
    # One checkpoint is enough to go on from, and at the end to look at.
    options: dict[str, Any] = (
        {"keep_checkpoints": 1} | dict(run.options) | {"seed": run.seed, "token_budget": run.budget}
    )
    return run.agent_class(
        run.model, run.env, env_options=run.env_options, run_dir=run.folder, console=False, **options
    )


def _to_tensorboard(folder: Path, step: int, result: dict[str, Any]) -> None:
    """Put the evaluations and, with the hyper-parameters, the final numbers into the run's TensorBoard events."""
    board = TensorBoard(folder, read_description(folder), step)
    for evaluation in {e["step"]: e for e in result["evaluations"]}.values():
        board.log(evaluation["step"], _scalars(evaluation), ())
    costs = {name: result[name] for name in ("sampled_tokens", "tool_calls", "learning_seconds")}
    board.hparams(_scalars(result["evaluations"][-1], "") | costs)
    board.close()


def _scalars(evaluation: dict[str, Any], prefix: str = "eval/") -> dict[str, float]:
    found = {f"{prefix}pass@{k}": e["value"] for k, e in evaluation["pass_at"].items()}
    found |= {
        f"{prefix}{name}": evaluation[name]["value"]
        for name in ("reward", "mean_length", "tool_use")
        if evaluation[name] is not None
    }
    return {name: value for name, value in found.items() if value is not None}


def _end_with_parent() -> None:
    """A run that nobody waits for would write where the next one does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
