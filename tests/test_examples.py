"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tokengym.agents import Policy

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_custom_reward():
    out = run("custom_reward.py")
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if line.count("│") == 5}
    composed = {policy: float(cells[-1]) for policy, cells in rows.items()}
    assert max(composed, key=lambda policy: composed[policy]) == "perfect"
    assert composed["no form"] == -1.0
    assert "Tripwire: 2 of 10" in out


def test_custom_env():
    out = run("custom_env.py")
    assert "'correct': 1.0" in out
    assert out.count("tokens are the policy's") == 2
    assert float(out.split("mean score")[1].split()[0]) > 0.8
    source = (EXAMPLES / "custom_env.py").read_text()
    environment = source[source.index("class Safe") : source.index("def burglar")]
    assert len([line for line in environment.splitlines() if line]) <= 25


def test_compare_algorithms(tmp_path: Path):
    # A policy with random weights: the warm start of the built-in one would take longer than all the rest.
    Policy.tiny(0).save(tmp_path / "model")
    out = run(
        "compare_algorithms.py",
        "--model",
        tmp_path / "model",
        "--budget",
        5000,
        "--seeds",
        1,
        "--out",
        tmp_path / "runs",
    )
    assert "grpo: 0.000 → 0.000" in out
    assert "<h2>Agents</h2>" in (tmp_path / "runs" / "report.html").read_text()
    source = (EXAMPLES / "compare_algorithms.py").read_text()
    assert len([line for line in source[source.index("def main") :].splitlines() if line]) <= 20
