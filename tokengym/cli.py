"""The command line: `tokengym train`, `compare`, `eval`, `view`, `envs`, `agents`. Options come from dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tokengym.agents import BaseAgent

COMMANDS = {
    "train": "train an agent: tokengym train AGENT [OPTIONS]",
    "compare": "compare agents on equal terms: tokengym compare AGENT… --env ID [OPTIONS]",
    "eval": "evaluate a run or a model on held-out problems: tokengym eval RUN [OPTIONS]",
    "view": "look at a run's rollouts: tokengym view RUN [OPTIONS]",
    "envs": "list the environments",
    "agents": "list the agents",
}


class UsageError(Exception):
    """What the user asked for cannot be done; its text is the one line to show."""


@dataclass(frozen=True)
class Task:
    """What to learn or to be asked."""

    env: str = "MathVerify-v0"
    """The environment; `tokengym envs` lists them."""
    dataset: str | None = None
    """Rows for it in place of its own: a .jsonl, .json or .parquet file, or a datasets hub id."""
    env_options: tuple[str, ...] = ()
    """Further arguments of the environment, as NAME=VALUE: difficulty=2, question_column=text, …"""

    def options(self) -> dict[str, Any]:
        """The environment's arguments.

        Raises:
            UsageError: if one is not of the form NAME=VALUE.
        """
        options: dict[str, Any] = {} if self.dataset is None else {"dataset": self.dataset}
        for pair in self.env_options:
            name, value = _pair(pair, "--env-options takes NAME=VALUE, for example difficulty=2")
            options[name] = value
        return options


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
    task: Annotated[Task, tyro.conf.OmitArgPrefixes]
    """For a run, by default what it was trained on."""
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


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of the command `tokengym`. Exits with 2 and one line for what cannot be done."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        _run(args)
    except UsageError as error:
        raise SystemExit(_complain(str(error))) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of a pipe has seen enough: `tokengym agents | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print("usage: tokengym COMMAND …   (tokengym COMMAND --help tells more)\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<8} {text}")
        return
    if args[0] == "--version":
        from tokengym import __version__

        print(f"tokengym {__version__}")
        return
    command, rest = args[0], args[1:]
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}{_near(command, COMMANDS)}; commands are {', '.join(COMMANDS)}")
    {"train": _train, "compare": _compare, "eval": _eval, "view": _view, "envs": _envs, "agents": _agents}[command](
        rest
    )


def _train(args: list[str]) -> None:
    from tokengym.agents import AGENTS

    if not args or args[0] in ("-h", "--help"):
        print("usage: tokengym train AGENT [OPTIONS]   (tokengym train AGENT --help lists its options)\n")
        _agents([])
        if not args:
            raise UsageError("which agent?")
        return
    if args[0] not in AGENTS:
        raise UsageError(f"unknown agent {args[0]!r}{_near(args[0], AGENTS)}; agents are {', '.join(AGENTS)}")
    agent_class = AGENTS[args[0]]
    config_type: Any = getattr(agent_class, "Config")  # noqa: B009 (a class attribute that pyright takes for an instance's)
    # Values are judged by the agent, whose refusals become one line; tyro would frame them.
    config_type = type(
        config_type.__name__, (config_type,), {"__post_init__": lambda self: None, "__doc__": config_type.__doc__}
    )
    flat = tyro.conf.OmitArgPrefixes
    form = dataclasses.make_dataclass(
        "Train",
        [("run", Annotated[Run, flat]), ("task", Annotated[Task, flat]), ("agent", Annotated[config_type, flat])],
        frozen=True,
    )
    form.__doc__ = f"{agent_class.summary} ({agent_class.paper})."
    given: Any = _parse(form, f"tokengym train {args[0]}", args[1:])
    run: Run = given.run
    if run.resume is not None:
        others = [
            a
            for a in args[1:]
            if a.startswith("--") and a.split("=")[0] not in ("--resume", "--json", "--eval-episodes")
        ]
        if others:
            raise UsageError(f"--resume goes on with the run's own options; leave {others[0]} out")
        agent = _refused(lambda: agent_class.load(run.resume))  # type: ignore[arg-type]
    else:
        if run.model != "tiny" and run.model.startswith((".", "/", "~")) and not Path(run.model).expanduser().is_dir():
            raise UsageError(f"no model folder {run.model!r}")
        config = {f.name: getattr(given.agent, f.name) for f in dataclasses.fields(given.agent)}
        options = given.task.options()
        agent = _refused(
            lambda: agent_class(run.model, given.task.env, env_options=options, run_dir=run.run_dir, **config)
        )
    _train_and_report(agent, run)


def _train_and_report(agent: BaseAgent, run: Run) -> None:
    started = time.perf_counter()
    first_step, first_tokens = agent.step, agent.sampled_tokens
    before = agent.evaluate(run.eval_episodes) if run.eval_episodes else None
    if before is not None:
        print(
            f"before training: {_accuracy(before.accuracy, before.reward.value)} on {before.problems} held-out problems"
        )
    learning = time.perf_counter()
    _refused(agent.learn)
    learned = time.perf_counter() - learning
    after = agent.evaluate(run.eval_episodes) if run.eval_episodes else None
    if after is not None:
        print(f"after training:  {_accuracy(after.accuracy, after.reward.value)} on {after.problems} held-out problems")
    seconds = time.perf_counter() - started
    tokens = agent.sampled_tokens - first_tokens
    print(
        f"{agent.step - first_step} steps and {tokens:,} sampled tokens in {seconds:.0f} s; run folder {agent.run_dir}"
    )
    _write_json(
        run.json,
        {
            "accuracy_before": before.accuracy if before else None,
            "accuracy_after": after.accuracy if after else None,
            "steps": agent.step - first_step,
            "seconds": seconds,
            "sampled_tokens": tokens,
            "tokens_per_second": tokens / learned if learned else 0.0,
            "run_dir": str(agent.run_dir),
        },
    )


def _compare(args: list[str]) -> None:
    if not args:
        raise UsageError("which agents? tokengym compare --help tells more")
    given = _parse(Compare, "tokengym compare", args)
    if (
        given.model != "tiny"
        and given.model.startswith((".", "/", "~"))
        and not Path(given.model).expanduser().is_dir()
    ):
        raise UsageError(f"no model folder {given.model!r}")
    options: dict[str, Any] = {}
    for pair in given.options:
        name, value = _pair(pair, "--options takes NAME=VALUE or AGENT.NAME=VALUE, for example ppo.epochs=2")
        agent, dot, option = name.rpartition(".")
        (options.setdefault(agent, {}) if dot else options)[option] = value

    from tokengym.compare import compare

    terms = ("seeds", "budget", "evaluations", "problems", "samples", "threshold")
    results = _refused(
        lambda: compare(
            given.agents,
            given.task.env,
            model=given.model,
            out=given.out,
            config=given.config,
            options=options,
            jobs=given.jobs,
            env_options=given.task.options(),
            **{name: getattr(given, name) for name in terms},
        )
    )
    folder = given.out or f"runs/compare-{given.task.env}"
    print((Path(folder) / "table.md").read_text(encoding="utf-8"))
    print(f"written to {folder}: open {folder}/report.html")
    if failed := sum(run["status"] == "failed" for run in results["runs"]):
        print(
            f"tokengym: {failed} of {len(results['runs'])} runs failed; the same command repeats them", file=sys.stderr
        )
        raise SystemExit(1)


def _eval(args: list[str]) -> None:
    from tokengym.agents import AGENTS, SFT
    from tokengym.agents.base import read_description

    given = _parse(Eval, "tokengym eval", args)
    folder = Path(given.source)
    options = given.task.options()
    limit = {} if given.max_new_tokens is None else {"max_new_tokens": given.max_new_tokens}
    if (folder / "agent.json").is_file():
        described = _refused(lambda: read_description(folder))
        known = {agent_class.__name__: agent_class for agent_class in AGENTS.values()}
        if options or given.task.env != described["env"]:
            limit |= {"env_options": options}
        env = None if given.task.env == described["env"] else given.task.env
        agent = _refused(lambda: known[described["agent"]].load(folder, env=env, **limit))
    else:
        if given.source != "tiny" and folder.exists() and not (folder / "config.json").is_file():
            raise UsageError(f"{folder} holds neither a run (agent.json) nor a model (config.json)")
        # Any agent evaluates alike; this one keeps no second copy of the model.
        agent = _refused(lambda: SFT(given.source, given.task.env, env_options=options, **limit))
    result = _refused(lambda: agent.evaluate(given.episodes, given.samples, given.temperature))
    print(result)
    for line in agent.notes():
        print(line)
    _write_json(given.json, dataclasses.asdict(result) | {"accuracy": result.accuracy})


def _view(args: list[str]) -> None:
    from tokengym import viewer

    given = _parse(View, "tokengym view", args)
    if given.port and not given.serve:
        raise UsageError("--port is for --serve")
    if not 0 <= given.port < 65536:
        raise UsageError(f"--port is from 0 to 65535, not {given.port}")
    steps = given.steps or None
    with Console(stderr=True).status("making the page …"):  # half a minute for ten million tokens
        path = _refused(lambda: viewer.write(given.run, given.out, steps))
    print(path)
    if not given.serve:
        return
    server = _refused(lambda: viewer.serve(lambda: viewer.build(viewer.read(given.run, steps)), given.port))
    with server:
        print(f"serving it at http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
        server.serve_forever()


def _envs(args: list[str]) -> None:
    from tokengym.envs import ENVIRONMENTS
    from tokengym.envs.registration import environment_class

    _no_options("envs", args)
    table = Table("environment", "task", box=None, pad_edge=False)
    for env_id in ENVIRONMENTS:
        doc = environment_class(env_id).__doc__ or ""
        table.add_row(env_id, doc.strip().splitlines()[0])
    Console().print(table)
    print('\ngym.make(ID) makes the token-level MDP, gym.make(ID, level="turn") the one with a whole turn per step')


def _agents(args: list[str]) -> None:
    from tokengym.agents import AGENTS

    _no_options("agents", args)
    width = max(map(len, AGENTS))
    for name, agent_class in AGENTS.items():
        print(f"{name:<{width}}  {agent_class.summary} ({agent_class.paper})")


# Helpers.


def _pair(text: str, expected: str) -> tuple[str, Any]:
    """A name and its value from NAME=VALUE; a value that is not JSON is text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise UsageError(f"{expected}, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _parse(form: type, program: str, args: list[str]) -> Any:
    """`args` as the dataclass `form`; unknown options become one line with the nearest known one."""
    given, unknown = tyro.cli(form, prog=program, args=args, return_unknown_args=True)
    if unknown:
        name = unknown[0].split("=")[0]
        raise UsageError(f"unknown option {name}{_near(name, _flags(form))}; {program} --help lists them")
    return given


def _flags(form: type) -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(form):
        inner = getattr(field.type, "__origin__", field.type)
        inner = {"Task": Task}.get(str(inner), inner)
        if dataclasses.is_dataclass(inner):
            names += [f.name for f in dataclasses.fields(inner)]
        else:
            names.append(field.name)
    return [f"--{name.replace('_', '-')}" for name in names]


def _refused(call: Any) -> Any:
    """The result of `call`; the errors that describe bad input become one line."""
    try:
        return call()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("TOKENGYM_TRACEBACK"):
            raise
        raise UsageError(" ".join(str(error).split())) from error


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _no_options(command: str, args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(f"usage: tokengym {command}\n\n{COMMANDS[command]}")
        raise SystemExit(0)
    if args:
        raise UsageError(f"tokengym {command} takes no options, but got {args[0]}")


def _accuracy(accuracy: float | None, reward: float) -> str:
    return f"mean reward {reward:.3f}" if accuracy is None else f"accuracy {accuracy:.3f}"


def _write_json(path: str | None, content: dict[str, Any]) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(content, indent=2) + "\n")


def _complain(text: str) -> int:
    print(f"tokengym: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
