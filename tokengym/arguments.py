"""What the command line takes: dataclasses, and how they are read, with one line for what cannot be read."""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro


class UsageError(Exception):
    """What the user asked for cannot be done; its text is the one line to show."""


@dataclass(frozen=True)
class Task:
    """What to learn."""

    env: str = "MathVerify-v0"
    """The environment; `tokengym envs` lists them."""
    dataset: str | None = None
    """Rows for it in place of its own: a .jsonl, .json or .parquet file, or a datasets hub id."""
    env_options: tuple[str, ...] = ()
    """Further arguments of the environment, as NAME=VALUE: difficulty=2, question_column=text, …"""

    def options(self) -> dict[str, Any]:
        """The environment's arguments; see `environment_options`."""
        return environment_options(self.dataset, self.env_options)


@dataclass(frozen=True)
class Run:
    """What to train, and where to keep it."""

    model: str = "tiny"
    """The policy: tiny (built in), a folder, or a hub id."""
    run_dir: str | None = None
    """Folder for metrics and checkpoints; by default a new one below runs/."""
    resume: str | None = None
    """Go on with the run in this folder, from its last checkpoint, with its own options."""
    eval_episodes: int = 200
    """Held-out problems asked before and after; 0 asks none."""
    json: str | None = None
    """Write a summary of the run to this file."""


@dataclass(frozen=True)
class Compare:
    """Train agents on equal terms, each with several seeds, and write results.json, table.md, curves.png, curves.svg and
    report.html. The same command goes on where it was stopped, and repeats the runs that failed. Terms that are not given are
    those of the settings."""

    agents: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Which; `tokengym agents` lists them."""
    task: Annotated[Task, tyro.conf.OmitArgPrefixes]
    """What they learn."""
    model: str = "tiny"
    """What all start from: tiny (built in, with a warm start for each seed), a folder, or a hub id."""
    out: str | None = None
    """Folder for the results; by default runs/compare-ENV. Agents and seeds may be added to those that it holds."""
    seeds: int | None = None
    """Runs of each agent."""
    budget: int | None = None
    """Tokens that a run may sample; it ends with the step that reaches them."""
    config: str | None = None
    """A YAML file of settings. By default benchmarks/configs/ENV.yaml, which comes with TokenGym, for the built-in policy on the
    environment's own problems."""
    options: tuple[str, ...] = ()
    """Options of the agents that come before the file's, as NAME=VALUE for all and AGENT.NAME=VALUE for one: group_size=16
    ppo.epochs=2, …"""
    evaluations: int | None = None
    """How often held-out problems are asked on the way, at even distances in tokens; they are asked once before, too."""
    problems: int | None = None
    """How many."""
    samples: int | None = None
    """Completions of each; pass@k is estimated for k up to this."""
    threshold: float | None = None
    """Report the tokens that it takes to reach this score."""
    jobs: int | None = None
    """Runs side by side: by default one a core, and one on a GPU."""


@dataclass(frozen=True)
class Eval:
    """Evaluate a run or a model on held-out problems."""

    source: Annotated[str, tyro.conf.Positional]
    """The folder of a run, a model's folder, or a hub id."""
    env: str | None = None
    """The environment. By default the one that a run was trained in, and MathVerify-v0 for a model."""
    dataset: str | None = None
    """Rows for it: a .jsonl, .json or .parquet file, or a datasets hub id. By default those that a run was trained on."""
    env_options: tuple[str, ...] = ()
    """Further arguments of the environment, as NAME=VALUE. By default those of a run."""
    episodes: int = 200
    """Held-out problems."""
    samples: int = 1
    """Completions of each; pass@k is estimated for k up to this."""
    temperature: float = 1.0
    """Of sampling: 1 asks the policy as it is, 0 takes the likeliest tokens."""
    max_new_tokens: int | None = None
    """Tokens of a completion. By default the run's own limit; 256 for a model, 32 for tiny."""
    json: str | None = None
    """Write the result to this file."""


@dataclass(frozen=True)
class View:
    """Write a page on which a run's recorded rollouts can be looked at: steps, groups, trajectories, tokens."""

    run: Annotated[str, tyro.conf.Positional]
    """The folder of a run."""
    out: str | None = None
    """Write the page to this file, in place of RUN/view.html."""
    steps: tuple[int, ...] = ()
    """The steps to show. By default all that were recorded, or evenly spaced ones if they are too many for one page."""
    serve: bool = False
    """Serve the page on this machine as well, as the run then is, until Ctrl-C."""
    port: int = 0
    """Where to serve it; 0 takes a port that is free."""


def environment_options(dataset: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """An environment's arguments from a dataset, if one was given, and texts of the form NAME=VALUE.

    Raises:
        UsageError: if one is not of this form.
    """
    options: dict[str, Any] = {} if dataset is None else {"dataset": dataset}
    return options | dict(
        name_and_value(text, "--env-options takes NAME=VALUE, for example difficulty=2") for text in pairs
    )


def name_and_value(text: str, expected: str) -> tuple[str, Any]:
    """A name and its value from NAME=VALUE; a value that is not JSON is text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise UsageError(f"{expected}, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def parse(form: type, program: str, args: list[str]) -> Any:
    """`args` as the dataclass `form`.

    Raises:
        UsageError: for an unknown option, naming the nearest known one, and for a value that is missing or of another kind.
    """
    refusal = io.StringIO()
    try:
        with redirect_stderr(refusal):
            given, unknown = tyro.cli(form, prog=program, args=args, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{_reason(refusal.getvalue())}; {program} --help tells more") from None
    if unknown:
        name = unknown[0].split("=")[0]
        raise UsageError(f"unknown option {name}{near(name, _flags(form))}; {program} --help lists them")
    return given


def _reason(framed: str) -> str:
    """What tyro says between the title and the first rule below it, out of its frame and on one line."""
    lines = [line.strip(" |+│╭╮╰╯") for line in framed.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.search("[-─]{3}$", line)]
    said = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    return " ".join(line for line in said if line).rstrip(".")


def _flags(form: type) -> list[str]:
    names: list[str] = []
    for name, kind in get_type_hints(form).items():
        names += [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else [name]
    return [f"--{name.replace('_', '-')}" for name in names]


def near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""
