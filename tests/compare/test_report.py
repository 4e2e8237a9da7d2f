"""The report in a real browser: values on hover, hidden curves, nothing that runs or is cut off. The results are made up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokengym.compare.curves import plot
from tokengym.compare.report import report
from tokengym.compare.tables import markdown

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright (the extra dev)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on this machine (Debian's package chromium)"
)

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> | a very long "
NAMES = ["reinforce", "ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce_plus_plus_baseline", "gmpo"]
POINTS = [0, 75_000, 150_000, 225_000, 300_000, 375_000, 450_000, 525_000, 600_000]


def made_up() -> dict[str, Any]:
    def estimate(value: float, width: float = 0.03) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width}

    curves = {name: [estimate(0.5 + i * n * 0.005) for i in range(9)] for n, name in enumerate(NAMES, start=1)}
    summary = {
        name: {
            "runs": 3,
            "start": curve[0],
            "final": curve[-1],
            "interquartile_mean": curve[-1],
            "gain": estimate(curve[-1]["value"] - 0.5),
            "pass_at": {"2": curve[-1], "4": curve[-1]},
            "curve": curve,
            "sampled_tokens": 603_123,
            "learning_seconds": 143.0,
            "tool_calls": 12_345,
            "tool_use": {"start": estimate(0.4), "final": curve[-1]},
            "reached": {"runs": 2, "median_tokens": 300_000},
        }
        for name, curve in curves.items()
    }
    evaluations = [{"problems": 200, "pass_at": {"1": estimate(0.5)}, "reward": estimate(0.5)}] * 2
    costs = {"steps": 100, "sampled_tokens": 603_123, "learning_seconds": 143.0, "evaluations": evaluations}
    return {
        "metric": "pass@1",
        "threshold": 0.7,
        "points": POINTS,
        "terms": {
            "agents": {name: {} for name in NAMES},
            "seeds": 3,
            "budget": 600_000,
            "problems": 200,
            "samples": 4,
            "model": ATTACK,
            "env": "MathVerify-v0",
            "env_options": {"prompt": ATTACK},
        },
        "summary": summary,
        "improvement": {a: {b: estimate(0.5, 0.2) for b in NAMES} for a in NAMES},
        "runs": [
            {"agent": "grpo", "seed": 0, "status": "done", **costs},
            {"agent": "gspo", "seed": 1, "status": "failed", "error": ATTACK * 3},
        ],
        "configuration": {"grpo": {"stop": [ATTACK]}},
        "papers": {"grpo": ATTACK},
        "date": "2026-01-01T00:00:00+00:00",
        "made": {"versions": {"torch": "2"}, "hardware": {"cpu": "a", "cores": 2, "memory_gib": 24, "gpus": []}},
        "commits": ["0" * 40],
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("kind", "width"), [("wide", 1200), ("phone", 390)])
def test_the_page(kind: str, width: int, scheme: str, browser: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "grpo-0"
    run.mkdir(parents=True)
    (run / "view.html").write_text("rollouts")
    (tmp_path / "report.html").write_text(report(made_up(), tmp_path))
    size = {"width": width, "height": 844}
    context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=kind == "phone")
    page = context.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.title() == ", ".join(NAMES) + " on MathVerify-v0"
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")

    box = page.locator("#chart svg").bounding_box()
    at = box["x"] + box["width"] * 0.62, box["y"] + 90
    page.touchscreen.tap(*at) if kind == "phone" else page.mouse.move(*at)
    tip = page.locator("#tip")
    assert tip.is_visible()
    lines = tip.inner_text().split("\n")
    assert lines[0] == "375,000 tokens"
    assert lines[1:4] == ["gmpo", "0.725", "0.695 – 0.755"]  # the highest first
    inside = page.evaluate(
        "[...document.querySelectorAll('#chart svg text, #tip')].every(e => { const r = e.getBoundingClientRect(); "
        "return r.left >= 0 && r.right <= innerWidth; })"
    )
    assert inside, "a label is cut off"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{kind}-{scheme}.png", full_page=True)

    page.get_by_role("button", name="gmpo").click()
    page.locator("#chart svg").focus()
    page.keyboard.press("ArrowRight")
    assert "gmpo" not in tip.inner_text()
    page.get_by_role("link", name="rollouts").click()
    assert page.url == (run / "view.html").as_uri()
    assert told == []
    assert all(url.startswith("file:") for url in asked)
    context.close()


@pytest.mark.parametrize(("start", "step"), [(0.5, 0.01), (-12.5, 3.0), (0.4, 0.001)])
def test_scores_stand_beside_the_name_of_their_axis(start: float, step: float, browser: Any, tmp_path: Path) -> None:
    results = made_up() | {"threshold": None, "metric": "mean reward"}
    for summary in results["summary"].values():
        values = [start + i * step for i in range(9)]
        summary["curve"] = [{"value": value, "low": value, "high": value} for value in values]
    (tmp_path / "report.html").write_text(report(results, tmp_path))
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((tmp_path / "report.html").as_uri())
    name = page.locator("#chart .name").bounding_box()
    scores = [score.bounding_box() for score in page.locator("#chart .score").all()]
    page.close()
    assert len(scores) >= 3
    assert name["x"] + name["width"] <= min(score["x"] for score in scores)


def test_where_no_run_came_to_its_end_the_page_says_so(browser: Any, tmp_path: Path) -> None:
    results = made_up()
    results["summary"] = {name: {"runs": 0} for name in NAMES}
    results["runs"] = [{"agent": name, "seed": 0, "status": "failed", "error": "ValueError"} for name in NAMES]
    (tmp_path / "report.html").write_text(report(results, tmp_path))
    page = browser.new_page()
    told: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#chart svg text", has_text="No run has come to its end.").is_visible()
    assert page.locator("td", has_text="ValueError").count() == len(NAMES)
    page.close()
    assert told == []
    plot(results, tmp_path / "curves.svg")


def test_what_is_said_of_a_number_stands_below_it(tmp_path: Path) -> None:
    page = report(made_up(), tmp_path)
    assert "<td>0.540<small>[0.510, 0.570]</small></td>" in page
    assert "<td>300,000<small>(2 of 3)</small></td>" in page


def test_the_other_forms_take_any_text(tmp_path: Path) -> None:
    results = made_up()
    plot(results, tmp_path / "curves.png", tmp_path / "curves.svg")
    rows = [line for line in markdown(results).splitlines() if line.startswith("| gspo | 1 ")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 4


def test_one_agent_is_told_as_one(tmp_path: Path) -> None:
    results = made_up()
    assert f"{len(NAMES)} agents with 3 seeds each, 600,000 sampled tokens" in report(results, tmp_path)
    results["terms"]["agents"] = {"grpo": {}}
    results["summary"] = {"grpo": results["summary"]["grpo"]}
    assert "1 agent with 3 seeds, 600,000 sampled tokens" in report(results, tmp_path)
