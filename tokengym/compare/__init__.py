"""Comparing algorithms on equal terms: the same warm starts, the same problems in the same order, an equal budget of sampled
tokens, and statistics over seeds.

    results = compare(["grpo", "rloo"], "MathVerify-v0", seeds=3, budget=500_000, out="runs/first")
"""

from __future__ import annotations

from .comparison import compare
from .plan import Plan, Run
from .settings import Settings, read_settings

__all__ = ["Plan", "Run", "Settings", "compare", "read_settings"]
