"""Whole comparisons. This file is also the program that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokengym.agents import AGENTS, Policy
from tokengym.rewards import Episode, Regex, Reward, Score, Sum

from tokengym.cli import main
from tokengym.compare import Run, compare
from tokengym.compare.run import train

torch.set_num_threads(1)

AGENTS_COMPARED = ("grpo", "dapo", "ppo_lagrangian")  # the last wants a reward with costs, and fails
OPTIONS: dict[str, Any] = {
    "prompts_per_step": 3,
    "group_size": 4,
    "max_new_tokens": 12,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "dapo": {"clip_high": 0.3},
}
BUDGET, SEEDS = 900, 2


class OfTheEnvironment(Reward):
    """What an environment variable says."""

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        return [Score(float(os.environ.get("TOKENGYM_TEST", "0"))) for _ in episodes]


def run_comparison(model: Path, out: Path, *agents: str, **changes: Any) -> dict[str, Any]:
    """Of a policy with random weights, which write a digit now and then."""
    terms: dict[str, Any] = {
        "env_options": {"reward": Sum(correct=Regex("[0-9a-f]"))},
        "seeds": SEEDS,
        "budget": BUDGET,
        "evaluations": 3,
        "problems": 10,
        "samples": 2,
        "threshold": 0.2,
        "options": OPTIONS,
        "console": False,
    }
    return compare(agents or AGENTS_COMPARED, model=model, out=out, **terms | changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Policy.tiny(0).save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    run_comparison(model, folder)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def done(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if run["status"] == "done"]


# What a comparison is.


def test_every_run_has_the_same_budget_and_is_evaluated_at_the_same_tokens(results: dict[str, Any]) -> None:
    assert [(run["agent"], run["seed"]) for run in done(results)] == [
        ("grpo", 0),
        ("grpo", 1),
        ("dapo", 0),
        ("dapo", 1),
    ]
    for run in done(results):
        assert [e["tokens"] for e in run["evaluations"]] == results["points"] == [0, 300, 600, 900]
        assert run["sampled_tokens"] == run["evaluations"][-1]["sampled_tokens"] >= BUDGET
        assert all(e["sampled_tokens"] >= e["tokens"] for e in run["evaluations"])
        assert len(run["training"]["sampled_tokens"]) == run["steps"]
        assert run["training"]["sampled_tokens"][-1] == run["sampled_tokens"]
        # The budget ends with the step that reaches it.
        assert run["training"]["sampled_tokens"][-2] < BUDGET
        assert run["learning_seconds"] > 0
        assert run["evaluations"][0]["problems"] == 10
        assert set(run["evaluations"][0]["pass_at"]) == {"1", "2"}


def test_all_start_from_the_same_policy_and_are_asked_the_same(results: dict[str, Any]) -> None:
    starts = [{**run["evaluations"][0], "seconds": 0} for run in done(results)]
    assert all(start == starts[0] for start in starts)
    ends = [run["training"]["entropy"] for run in done(results)]
    assert all(a != b for i, a in enumerate(ends) for b in ends[:i])


def test_a_run_that_fails_is_reported_and_leaves_the_others(results: dict[str, Any], folder: Path) -> None:
    failed = [run for run in results["runs"] if run["status"] == "failed"]
    assert [(run["agent"], run["seed"]) for run in failed] == [("ppo_lagrangian", 0), ("ppo_lagrangian", 1)]
    assert all("cost" in run["error"] for run in failed)
    table = (folder / "table.md").read_text()
    assert "ppo_lagrangian | 0 of 2 | failed" in table
    assert failed[0]["error"].split(":")[0] in table
    log = folder / "runs" / "ppo_lagrangian-0" / "log.txt"
    assert "Traceback" in log.read_text()
    assert not log.stat().st_mode & 0o111, "a log is no program"
    assert results["summary"]["ppo_lagrangian"] == {"runs": 0}


def test_the_summary_is_of_the_runs(results: dict[str, Any]) -> None:
    for name in ("grpo", "dapo"):
        finals = [r["evaluations"][-1]["pass_at"]["1"]["value"] for r in done(results) if r["agent"] == name]
        starts = [r["evaluations"][0]["pass_at"]["1"]["value"] for r in done(results) if r["agent"] == name]
        summary = results["summary"][name]
        assert summary["final"]["value"] == pytest.approx(sum(finals) / 2)
        assert min(finals) == pytest.approx(summary["final"]["low"])
        assert max(finals) == pytest.approx(summary["final"]["high"])
        assert summary["gain"]["value"] == pytest.approx(sum(finals) / 2 - sum(starts) / 2)
        assert summary["curve"][-1] == summary["final"]
    ours, theirs = (results["improvement"][a][b]["value"] for a, b in (("grpo", "dapo"), ("dapo", "grpo")))
    assert ours + theirs == pytest.approx(1.0)
    assert results["metric"] == "pass@1"
    assert results["configuration"]["dapo"]["clip_high"] == 0.3
    assert {"versions", "hardware", "commit"} <= set(results["made"])


def test_hyper_parameters_and_evaluations_are_in_tensorboard(folder: Path, results: dict[str, Any]) -> None:
    events = EventAccumulator(str(folder / "runs" / "grpo-0"), size_guidance={"tensors": 0})
    events.Reload()
    written = {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert set(events.PluginTagToContent("hparams")) == written
    logged = [event.value for event in events.Scalars("eval/pass@1")]
    run = done(results)[0]
    by_step = {e["step"]: e["pass_at"]["1"]["value"] for e in run["evaluations"]}
    assert logged == pytest.approx(list(by_step.values()))
    assert events.Scalars("final/pass@1")[0].value == pytest.approx(logged[-1])


def test_pictures_and_page_are_there(folder: Path) -> None:
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "curves.svg").read_text()
    links = _Links()
    links.feed((folder / "report.html").read_text())
    assert links.found == [f"runs/{name}/view.html" for name in ("grpo-0", "grpo-1", "dapo-0", "dapo-1")]
    assert all((folder / link).is_file() for link in links.found)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", (folder / "report.html").read_text())


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href"]


# Fairness.


@pytest.mark.parametrize("other", ["dapo", "ppo", "arpo", "remax"])
def test_agents_of_a_seed_draw_the_same_problems_in_the_same_order(other: str, model: Path) -> None:
    def drawn(name: str, prompts: int) -> list[int]:
        options = {"prompts_per_step": prompts, "max_new_tokens": 8, "monitor_reference": False}
        if name != "remax":
            options["group_size"] = 2
        if name == "arpo":
            options["initial_chains"] = 1
        agent = AGENTS[name](model, "MathVerify-v0", seed=3, token_budget=10_000, console=False, **options)
        rows: list[int] = []
        draw = agent.prompts.draw

        def noting(count: int) -> list[int]:
            rows.extend(draw(count))
            return rows[-count:]

        agent.prompts.draw = noting  # type: ignore[method-assign]
        for _ in range(2):
            agent.train_step()
            agent.step += 1
        return rows

    ours, theirs = drawn("grpo", 4), drawn(other, 3)
    common = min(len(ours), len(theirs))
    assert common >= 6
    assert ours[:common] == theirs[:common]


def test_evaluations_do_not_change_what_is_learned(model: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if not isinstance(value, dict)}
    env_options = {"reward": Sum(correct=Regex("[0-9a-f]"))}

    def training(name: str, points: list[int]) -> dict[str, Any]:
        run = Run(
            agent="grpo",
            agent_class=AGENTS["grpo"],
            seed=5,
            model=str(model),
            env="MathVerify-v0",
            env_options=env_options,
            options=options,
            budget=500,
            points=points,
            problems=7,
            samples=1,
            folder=tmp_path / name,
        )
        return train(run)["training"]

    assert training("often", [0, 100, 200, 300, 400, 500]) == training("seldom", [0, 500])


def test_runs_have_the_environment_variables_of_now(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forkserver.ensure_running()  # with those of before
    monkeypatch.setenv("TOKENGYM_TEST", "0.25")
    terms = {
        "env_options": {"reward": OfTheEnvironment()},
        "seeds": 1,
        "budget": 144,
        "evaluations": 1,
        "threshold": None,
    }
    options = {name: value for name, value in OPTIONS.items() if name != "dapo"}
    [run] = run_comparison(model, tmp_path, "grpo", options=options, **terms)["runs"]
    assert run["evaluations"][-1]["reward"]["value"] == 0.25


# Stopping, going on.


def test_a_killed_comparison_goes_on_and_ends_as_if_it_had_not_been(
    model: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "killed"

    def some_are_done_and_others_under_way() -> bool:
        under_way = {path.parents[1] for path in out.glob("runs/*/checkpoints/step-*")}
        done = {path.parent for path in out.glob("runs/*/result.json")}
        return bool(done) and bool(under_way - done)

    program = subprocess.Popen([sys.executable, __file__, str(model), str(out)], start_new_session=True)
    until = time.monotonic() + 240
    while not some_are_done_and_others_under_way() and program.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    assert program.poll() is None, "it ended before it could be killed"
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    assert not (out / "results.json").exists()
    kept = {path: path.stat().st_mtime for path in out.glob("runs/*/result.json")}
    resumed = run_comparison(model, out, "grpo", "dapo")
    assert all(result.stat().st_mtime == written for result, written in kept.items())
    assert repeatable(resumed["runs"]) == repeatable(done(results))
    assert all(
        repeatable(resumed["summary"][name]) == repeatable(results["summary"][name]) for name in ("grpo", "dapo")
    )


def repeatable(results: Any) -> Any:
    """Without what depends on the time that things take."""
    if isinstance(results, dict):
        left_out = {"seconds", "learning_seconds", "evaluation_seconds", "step_seconds", "made", "date", "commits"}
        return {name: repeatable(value) for name, value in results.items() if name not in left_out}
    return [repeatable(each) for each in results] if isinstance(results, list) else results


def test_a_folder_holds_one_comparison(model: Path, folder: Path) -> None:
    before = (folder / "results.json").read_text()
    with pytest.raises(ValueError, match="of ppo_lagrangian too"):
        run_comparison(model, folder, "grpo", "dapo")
    with pytest.raises(ValueError, match="with 2 seeds"):
        run_comparison(model, folder, seeds=1)
    with pytest.raises(ValueError, match="its budget is 900, not 901"):
        run_comparison(model, folder, budget=901)
    with pytest.raises(ValueError, match="the options of grpo are"):
        run_comparison(model, folder, options=OPTIONS | {"epochs": 2})
    assert (folder / "results.json").read_text() == before


# The command line.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "which agents?"),
        (["dappo"], "unknown agent 'dappo' (did you mean dapo?)"),
        (["sft"], "sft samples no tokens"),
        (["grpo", "--env", "MathVerfy-v0", "--budget", "100000"], "did you mean 'MathVerify-v0'?"),
        (["grpo", "--sedes", "3"], "unknown option --sedes (did you mean --seeds?)"),
        (["grpo", "--options", "epochs"], "--options takes NAME=VALUE"),
        (["grpo", "--options", "epohcs=2"], "did you mean epochs?"),
        (["grpo", "--options", "ppo.epochs=2"], "there are options of ppo, which is not compared"),
        (["grpo", "--budget", "100"], "too small for a step of grpo"),
        (["grpo", "--budget", "0"], "too few"),
        (["grpo", "--seeds", "0"], "seeds is at least 1"),
        (["grpo", "--jobs", "0"], "jobs is at least 1"),
        (["grpo", "--env", "TextGrid-v0", "--model", "MODEL"], "how many tokens the budget is"),
        (["grpo", "--model", "./nowhere"], "no model folder './nowhere'"),
        (["grpo", "--config", "./nowhere.yaml"], "nowhere.yaml"),
        (["grpo", "--out", "OTHER"], "holds something else"),
        (["grpo", "--out", "FILE"], "the output folder cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], told: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    places = {"MODEL": model, "OTHER": tmp_path / "other", "FILE": tmp_path / "other" / "notes.txt"}
    if "--out" not in arguments and arguments:
        arguments = [*arguments, "--out", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *(str(places.get(argument, argument)) for argument in arguments)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "new" / "runs").exists()


def test_two_programs_do_not_share_a_folder(model: Path, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another program is at work"):
            run_comparison(model, tmp_path)


def test_the_command_writes_what_it_says(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"{name}={value}" for name, value in OPTIONS.items() if not isinstance(value, dict)]
    config = tmp_path / "settings.yaml"
    places = ["--model", str(model), "--config", str(config), "--out", str(tmp_path / "out")]
    command = ["compare", "rloo", *places, "--seeds", "1", "--options", *options]
    config.write_text("budget: 300\nseeds: 2\nproblems: 5\nsamples: 1\nevaluations: 2\nagents: {rloo: {epochs: 2}}\n")
    main(command)
    out = capsys.readouterr().out
    assert "| rloo | 1 of 1 |" in out
    assert "rloo seed 0: 0.000 → 0.000" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["configuration"]["rloo"]["epochs"] == 2
    assert results["terms"]["seeds"] == 1
    assert results["summary"]["rloo"]["final"]["low"] is None
    # Again: nothing is trained, the same is written.
    [made] = (tmp_path / "out" / "runs").glob("*/result.json")
    before = made.stat().st_mtime
    main(command)
    assert made.stat().st_mtime == before
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert repeatable(again) == repeatable(results)


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


if __name__ == "__main__":
    run_comparison(Path(sys.argv[1]), Path(sys.argv[2]), "grpo", "dapo")
