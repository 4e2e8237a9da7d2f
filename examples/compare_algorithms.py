"""Compares two algorithms on equal terms, from Python: `python examples/compare_algorithms.py` takes some minutes.

`tokengym compare grpo rloo` does the same with the settings that come with the environment.
"""

from __future__ import annotations

import tyro

from tokengym.compare import compare


def main(model: str = "tiny", budget: int = 200_000, seeds: int = 2, out: str = "runs/compare_algorithms") -> None:
    results = compare(
        ["grpo", "rloo"],
        env="MathVerify-v0",
        model=model,
        seeds=seeds,
        budget=budget,
        out=out,
        problems=100,
        options={"prompts_per_step": 16, "max_new_tokens": 32, "rloo": {"group_size": 4}},
    )
    for name, summary in results["summary"].items():
        print(f"{name}: {summary['start']['value']:.3f} → {summary['final']['value']:.3f}")
    print(f"curves and rollouts: {out}/report.html")


if __name__ == "__main__":  # the runs are processes of their own, which import this file
    tyro.cli(main)
