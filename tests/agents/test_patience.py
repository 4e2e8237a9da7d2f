"""Waiting for tools: quick ones are waited for, slow ones once, and nobody for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tokengym.agents.rollout import patience
from tokengym.agents.rollout.patience import Patience
from tokengym.envs.tools.runner import Job


def sleeping(seconds: float, limit: float = 30.0) -> Job[str]:
    def call(left: float) -> str:
        time.sleep(seconds)
        return "slept"

    return Job([call], limit)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Patience[str]]:
    monkeypatch.setattr(patience, "LEAST", 0.4)

    def start(**seconds: float) -> Patience[str]:
        tools: Patience[str] = Patience()
        for name, value in seconds.items():
            tools.start(sleeping(value), name)
        return tools

    return start


def test_nobody_waits_where_nobody_waits() -> None:
    began = time.monotonic()
    assert Patience().answered(True) == []
    assert Patience().answered(False) == []
    assert time.monotonic() - began < 0.2


def test_quick_tools_are_waited_for_and_slow_ones_only_once(
    started: Callable[..., Patience[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = started(quick=0.05, slow=2.0, instant=0.0)
    began = time.monotonic()
    assert sorted(tools.answered(True)) == ["instant", "quick"]
    assert time.monotonic() - began >= 0.4
    monkeypatch.setattr(patience, "LEAST", 60.0)
    assert tools.answered(True) == [], "it has been waited for already"
    tools.start(sleeping(0.05), "later")
    assert tools.answered(True) == ["later"]
    assert tools.answered(False) == ["slow"]
    assert tools.answered(False) == []


def test_a_batch_waits_as_long_as_the_last_one_took(started: Callable[..., Patience[str]]) -> None:
    tools = started(middling=0.8)
    tools.batch_seconds = 5.0
    assert tools.answered(True) == ["middling"]


def test_where_nothing_else_is_ready_somebody_is_waited_for(started: Callable[..., Patience[str]]) -> None:
    tools = started(first=0.6, second=0.7, third=3.0)
    # Once the first is there, those that are about to answer may join it.
    assert tools.answered(False) == ["first", "second"]


def test_a_tool_that_hangs_is_over_at_its_limit() -> None:
    tools: Patience[str] = Patience()
    job = sleeping(60.0, limit=0.2)
    tools.start(job, "hung")
    assert tools.answered(False) == ["hung"]
    assert job.given_up
    assert job.results == []


def test_giving_up() -> None:
    tools: Patience[str] = Patience()
    job = sleeping(60.0)
    tools.start(job, "left")
    tools.give_up()
    assert job.given_up
