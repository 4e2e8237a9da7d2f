"""From the runs' results to those of the comparison."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics as simple
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from . import statistics
from .plan import Plan, Run
from .provenance import provenance
from .run import score


def results_of(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """What `results.json` holds: the terms, all runs, their summary, and what they were made with."""
    found = [
        {"agent": run.agent, "seed": run.seed, **json.loads(run.result.read_text(encoding="utf-8"))} for run in runs
    ]
    done = {name: [r for r in found if r["agent"] == name and r["status"] == "done"] for name in plan.agents}
    finals = {name: [each for each in _scores(rs, -1) if not math.isnan(each)] for name, rs in done.items()}
    return {
        "metric": _metric(found),
        "terms": plan.terms(),
        "threshold": plan.settings.threshold,
        "points": plan.points,
        "configuration": plan.configs,
        "papers": {name: f"{c.summary} ({c.paper})" for name, c in plan.agents.items()},
        "summary": {name: summary(rs, plan.settings.threshold) for name, rs in done.items()},
        "improvement": {
            ours: {
                theirs: dataclasses.asdict(statistics.improvement([finals[ours]], [finals[theirs]]))
                for theirs in finals
                if theirs != ours
            }
            for ours in finals
        },
        "runs": found,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "made": provenance(),
        "commits": sorted({r["made"]["commit"] or "unknown" for r in found if "made" in r}),
    }


def summary(runs: Sequence[Mapping[str, Any]], threshold: float | None) -> dict[str, Any]:
    """The estimates of one agent over its runs, each with its 95 % interval over seeds.

    `curve` has the mean at each evaluation, `gain` is of the differences within a seed, `tool_use` is there for tasks with
    tools, and `reached` says how many runs reached the threshold, and the median of the tokens that it took; None if half of
    them or more did not.
    """
    if not runs:
        return {"runs": 0}
    first, final = _scores(runs, 0), _scores(runs, -1)
    ks = [k for k in runs[0]["evaluations"][-1]["pass_at"] if k != "1"]
    last = [run["evaluations"][-1] for run in runs]
    found: dict[str, Any] = {
        "runs": len(runs),
        "start": statistics.mean(first),
        "final": statistics.mean(final),
        "interquartile_mean": statistics.mean(final) if len(final) < 4 else statistics.interquartile_mean(final),
        "gain": statistics.mean([after - before for before, after in zip(first, final)]),
        "pass_at": {k: statistics.mean([e["pass_at"][k]["value"] for e in last if k in e["pass_at"]]) for k in ks},
        "reward": statistics.mean([e["reward"]["value"] for e in last]),
        "mean_length": statistics.mean([e["mean_length"]["value"] for e in last]),
        "curve": [statistics.mean(_scores(runs, i)) for i in range(len(runs[0]["evaluations"]))],
        "sampled_tokens": simple.mean(run["sampled_tokens"] for run in runs),
        "learning_seconds": simple.mean(run["learning_seconds"] for run in runs),
        "tool_calls": simple.mean(run["tool_calls"] for run in runs),
        "abstained": sum(e["abstained"] for e in last),
    }
    if last[0].get("tool_use") is not None:
        found["tool_use"] = {
            when: statistics.mean([run["evaluations"][i]["tool_use"]["value"] for run in runs])
            for when, i in (("start", 0), ("final", -1))
        }
    if threshold is not None:
        tokens = [
            statistics.tokens_to_reach([(e["sampled_tokens"], score(e)) for e in run["evaluations"]], threshold)
            for run in runs
        ]
        found["reached"] = {"runs": sum(map(math.isfinite, tokens)), "median_tokens": simple.median(tokens)}
    return json.loads(json.dumps(found, default=dataclasses.asdict))


def _scores(runs: Sequence[Mapping[str, Any]], evaluation: int) -> list[float]:
    """Of the runs' evaluations of that number; a run in which every verdict was abstained from has none."""
    found = [score(run["evaluations"][evaluation]) for run in runs]
    return [math.nan if each is None else each for each in found]


def _metric(runs: Sequence[Mapping[str, Any]]) -> str:
    done = [run for run in runs if run["status"] == "done"]
    return "pass@1" if not done or done[0]["evaluations"][-1]["pass_at"] else "mean reward"
