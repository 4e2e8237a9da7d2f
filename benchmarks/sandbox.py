"""The sandbox: how fast it is, and what becomes of attempts to break out of it.

    python -m benchmarks.sandbox                       # writes benchmarks/results/sandbox.json

Latency is that of one `Sandbox.run` of a program that prints a line, from call to return; runs per second are those of
`run_many` with two workers. The attacks are those of `attacks.py`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import tyro
from tokengym.rewards.sandbox import FunctionTest, Outcome, Sandbox, Tier

from .attacks import ATTACKS, LIMITS
from .machine import cpu_name

OUT = Path(__file__).parent / "results" / "sandbox.json"
HELLO = "print('hello')"


def main(json: Path = OUT, runs: int = 500, tier: Tier | None = None) -> None:
    """Measure the sandbox.

    Args:
        json: where the results go.
        runs: how many runs of each kind are timed.
        tier: the means of isolation; the strongest that there is by default.
    """
    with Sandbox(LIMITS, workers=2, tier=tier) as sandbox:
        print(sandbox.report())
        attacks = {name: function(sandbox) for name, function in ATTACKS.items()}
        plain = measure(sandbox, runs)
        test = FunctionTest("assert f(2) == 4")
        tests = latencies(lambda: sandbox.test("def f(x): return x * x", test), runs)
    with Sandbox(LIMITS, workers=2, preload=("sympy",), tier=tier) as sandbox:
        sympy = measure(sandbox, runs)
        in_force = sandbox.tier
    for name, verdict in attacks.items():
        print(f"{name:24} {verdict}")
    print(
        f"a run:             p50 {plain['p50_ms']:.1f} ms, p99 {plain['p99_ms']:.1f} ms, {plain['runs_per_second']:.0f} runs/s"
    )
    print(
        f"sympy preloaded:   p50 {sympy['p50_ms']:.1f} ms, p99 {sympy['p99_ms']:.1f} ms, {sympy['runs_per_second']:.0f} runs/s"
    )
    print(f"a function's test: p50 {tests['p50_ms']:.1f} ms, p99 {tests['p99_ms']:.1f} ms")
    write(json, in_force, plain, sympy, tests, attacks)


def write(
    out: Path,
    tier: Tier,
    plain: Mapping[str, float],
    sympy: Mapping[str, float],
    tests: Mapping[str, float],
    attacks: Mapping[str, str],
) -> None:
    """Write the results."""
    summary = {
        "command": "python -m benchmarks.sandbox",
        "date": date.today().isoformat(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release()},
        "tier": tier,
        **plain,
        "sympy_preloaded": sympy,
        "function_test": tests,
        "attacks": attacks,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"written to {out}")


def measure(sandbox: Sandbox, runs: int) -> dict[str, float]:
    """Latency of single runs, and runs per second of many."""
    result = latencies(lambda: sandbox.run(HELLO), runs)
    started = time.perf_counter()
    outcomes = {run.outcome for run in sandbox.run_many([HELLO] * runs)}
    result["runs_per_second"] = runs / (time.perf_counter() - started)
    if outcomes != {Outcome.OK}:
        raise RuntimeError(f"runs ended with {outcomes}")
    return result


def latencies(function: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and 99th percentile of a call, in milliseconds. The first five calls are not counted."""
    times: list[float] = []
    for _ in range(runs + 5):
        started = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - started))
    cuts = statistics.quantiles(times[5:], n=100, method="inclusive")
    return {"p50_ms": cuts[49], "p99_ms": cuts[98]}


if __name__ == "__main__":
    tyro.cli(main)
