"""The attacks of `benchmarks/attacks.py`, for real, on every tier that isolates."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMES = [
    "network",
    "host files",
    "environment variables",
    "other processes",
    "fork bomb",
    "memory bomb",
    "disk filling",
    "infinite loop",
    "output flood",
    "signals to the parent",
    "ptrace",
    "nested namespaces",
    "leftovers between runs",
]


@pytest.fixture(scope="module")
def attacks():
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.attacks").ATTACKS
    finally:
        sys.path.remove(str(ROOT))


def test_all_attacks_are_listed(attacks):
    assert list(attacks) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_blocked(isolated, attacks, name):
    assert attacks[name](isolated) == "blocked"


def test_the_attacks_work_where_nothing_isolates(attacks):
    """Otherwise "blocked" would say nothing."""
    from tokengym.rewards.sandbox import Limits, Sandbox

    with Sandbox(Limits(wall_seconds=2), workers=1, tier="rlimits", unsafe=True) as sandbox:
        for name in ("network", "host files", "other processes"):
            assert "LEAK" in attacks[name](sandbox)
