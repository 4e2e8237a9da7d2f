"""The comparison as a whole: plan, runs, results, pictures, report."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from tokengym.agents import BaseAgent
from tokengym.agents.monitor import progress

from .curves import plot, require_matplotlib
from .plan import Plan, Run, agent_classes, claim, write_json
from .processes import default_jobs, run_all
from .report import report
from .results import results_of
from .run import score
from .settings import Settings, read_settings, settings_of
from .tables import markdown


def compare(
    agents: Sequence[str | type[BaseAgent]],
    env: str = "MathVerify-v0",
    *,
    model: str | Path = "tiny",
    out: str | Path | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    console: bool = True,
    **terms: Any,
) -> dict[str, Any]:
    """Train every agent with every seed on the same terms, and write what came out to `out`.

    Runs are processes of their own, so that a script calls this below `if __name__ == "__main__":`. Called again with the
    same arguments it goes on where it was stopped, and repeats the runs that failed; agents and seeds may be added.

    Args:
        agents: names, or agents' classes of your own.
        env: an environment's id.
        model: what all start from: "tiny" (the built-in policy, with a warm start for each seed), a folder or a hub id.
        out: the folder for results, by default runs/compare-ENV. It gets `results.json`, `table.md`, `curves.png`,
            `curves.svg`, `report.html`, and `runs/AGENT-SEED` with metrics, checkpoint, rollouts and TensorBoard's events.
        config: a YAML file of `Settings`. By default those that come with the project for `env`, if the model is the built-in
            one and works on the environment's own problems.
        options: options of the agents: `{"group_size": 8, "ppo": {"epochs": 2}}` are of all agents and of one. They come
            before the file's.
        jobs: runs side by side; by default as many as cores, and one on a GPU. They share the cores' threads.
        console: show progress.
        terms: fields of `Settings` in place of the file's: seeds, budget, evaluations, problems, samples, threshold,
            env_options (which are added to the file's).

    Returns:
        what `results.json` holds.

    Raises:
        ValueError, TypeError, OSError: for what cannot work, before any work is done.
        ImportError: without matplotlib; the extra `compare` installs it.
    """
    require_matplotlib()
    terms = {name: value for name, value in terms.items() if value is not None}
    settings = _settings(agents, env, str(model), config, options or {}, terms)
    plan = Plan(agent_classes(agents), str(model), env, settings)
    folder = Path(f"runs/compare-{env}") if out is None else Path(out)
    runs = plan.runs(folder)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is at least 1, not {jobs}")
    with _locked(folder):
        claim(plan, folder)
        _carry_out(runs, default_jobs(len(runs)) if jobs is None else jobs, f"Comparing on {env}", console)
        results = results_of(plan, runs)
        write_json(folder / "results.json", results)
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        (folder / "table.md").write_text(markdown(results), encoding="utf-8")
        plot(results, folder / "curves.png", folder / "curves.svg")
        (folder / "report.html").write_text(report(results, folder), encoding="utf-8")
    return results


def _settings(
    agents: Sequence[str | type[BaseAgent]],
    env: str,
    model: str,
    config: str | Path | None,
    options: Mapping[str, Any],
    terms: dict[str, Any],
) -> Settings:
    if config is not None:
        settings = read_settings(config)
    elif model == "tiny" and "dataset" not in terms.get("env_options", {}):
        settings = settings_of(env) or Settings()
    else:
        settings = Settings()
    known = {f.name for f in dataclasses.fields(Settings)} - {"all", "agents"}
    if unknown := sorted(set(terms) - known):
        raise TypeError(f"unknown argument {unknown[0]!r}; the terms of a comparison are {', '.join(sorted(known))}")
    names = {agent if isinstance(agent, str) else agent.__name__ for agent in agents}
    of_all = {name: value for name, value in options.items() if not isinstance(value, Mapping)}
    of_one = {name: dict(value) for name, value in options.items() if isinstance(value, Mapping)}
    if strange := sorted(set(of_one) - names):
        raise ValueError(f"there are options of {strange[0]}, which is not compared")
    return dataclasses.replace(
        settings,
        **terms | {"env_options": settings.env_options | terms.get("env_options", {})},
        all=settings.all | of_all,
        # What is said of all agents here comes before what the file says of one.
        agents={n: {**settings.agents.get(n, {}), **of_all, **of_one.get(n, {})} for n in sorted(names)},
    )


def _carry_out(runs: Sequence[Run], jobs: int, title: str, console: bool) -> None:
    shown = Console(quiet=not console)
    total = sum(len(run.points) for run in runs)
    with progress(title, total, rich_console=shown) as advance:
        counted = 0

        def tell(run: Run | None) -> None:
            nonlocal counted
            if run is not None:
                shown.print(_told(run), highlight=False, markup=False, soft_wrap=True)
            now = sum(map(_progress, runs))
            if now != counted:
                advance(now - counted)
                counted = now

        waiting = [run for run in runs if not _is_done(run)]
        tell(None)
        try:
            run_all(waiting, jobs, tell)
        except KeyboardInterrupt:
            shown.print("stopped; the same call goes on from here", soft_wrap=True)
            raise


def _is_done(run: Run) -> bool:
    return run.result.is_file() and json.loads(run.result.read_text(encoding="utf-8"))["status"] == "done"


def _progress(run: Run) -> int:
    try:
        return len(json.loads(run.evaluations.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return 0


def _told(run: Run) -> str:
    result = json.loads(run.result.read_text(encoding="utf-8"))
    if result["status"] == "failed":
        return f"{run.agent} seed {run.seed}: failed, {result['error']} (see {run.folder / 'log.txt'})"
    first, last = (score(result["evaluations"][i]) for i in (0, -1))
    told = " → ".join("none" if each is None else f"{each:.3f}" for each in (first, last))
    return (
        f"{run.agent} seed {run.seed}: {told}, {result['steps']} steps, {result['sampled_tokens']:,} tokens, "
        f"{result['learning_seconds']:.0f} s of learning"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two programs at once would write the same runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise OSError(error.errno, f"the output folder cannot be written ({error.strerror})", str(folder)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another program is at work on the comparison in {folder}") from error
        yield
