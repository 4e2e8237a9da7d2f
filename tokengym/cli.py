"""The command line: `tokengym train`, `compare`, `eval`, `view`, `envs`, `agents`. Options come from dataclasses."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from .arguments import Compare, Eval, Run, Task, UsageError, View, environment_options, name_and_value, near, parse

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
        raise UsageError(f"unknown command {command!r}{near(command, COMMANDS)}; commands are {', '.join(COMMANDS)}")
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
        raise UsageError(f"unknown agent {args[0]!r}{near(args[0], AGENTS)}; agents are {', '.join(AGENTS)}")
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
    given: Any = parse(form, f"tokengym train {args[0]}", args[1:])
    run: Run = given.run
    if run.eval_episodes < 0:
        raise UsageError(f"--eval-episodes is at least 0, not {run.eval_episodes}")
    _check_json(run.json)
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
        _check_model(run.model)
        config = {f.name: getattr(given.agent, f.name) for f in dataclasses.fields(given.agent)}
        options = given.task.options()
        agent = _refused(
            lambda: agent_class(run.model, given.task.env, env_options=options, run_dir=run.run_dir, **config)
        )
    _train_and_report(agent, run)


def _train_and_report(agent: BaseAgent, run: Run) -> None:
    started = time.perf_counter()
    first_step, first_tokens = agent.step, agent.sampled_tokens
    before = _refused(lambda: agent.evaluate(run.eval_episodes)) if run.eval_episodes else None
    if before is not None:
        print(
            f"before training: {_accuracy(before.accuracy, before.reward.value)} on {before.problems} held-out problems"
        )
    learning = time.perf_counter()
    _refused(agent.learn)
    learned = time.perf_counter() - learning
    after = _refused(lambda: agent.evaluate(run.eval_episodes)) if run.eval_episodes else None
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
    given = parse(Compare, "tokengym compare", args)
    _check_model(given.model)
    options: dict[str, Any] = {}
    for text in given.options:
        name, value = name_and_value(text, "--options takes NAME=VALUE or AGENT.NAME=VALUE, for example ppo.epochs=2")
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
    from tokengym.agents.run_folder import read_description

    given = parse(Eval, "tokengym eval", args)
    _check_json(given.json)
    folder = Path(given.source)
    options = environment_options(given.dataset, given.env_options)
    limit = {} if given.max_new_tokens is None else {"max_new_tokens": given.max_new_tokens}
    if (folder / "agent.json").is_file():
        described = _refused(lambda: read_description(folder))
        known = {agent_class.__name__: agent_class for agent_class in AGENTS.values()}
        name = described["agent"]
        if name not in known:
            raise UsageError(f"{folder} holds a {name} agent, which is not one of TokenGym's: evaluate it from Python")
        if options or given.env not in (None, described["env"]):
            limit |= {"env_options": options}
        agent = _refused(lambda: known[name].load(folder, env=given.env, **limit))
    else:
        if given.source != "tiny" and folder.exists() and not (folder / "config.json").is_file():
            raise UsageError(f"{folder} holds neither a run (agent.json) nor a model (config.json)")
        _check_model(given.source)
        runs = {str(path.parent) for path in folder.parent.glob("*/agent.json")}
        if runs and len(folder.parts) > 1 and not folder.exists():
            raise UsageError(f"there is no run {given.source}{near(given.source, runs)}")
        # Any agent evaluates alike; this one keeps no second copy of the model.
        agent = _refused(lambda: SFT(given.source, given.env or Task.env, env_options=options, **limit))
    result = _refused(lambda: agent.evaluate(given.episodes, given.samples, given.temperature))
    print(result)
    for line in agent.notes():
        print(line)
    _write_json(given.json, dataclasses.asdict(result) | {"accuracy": result.accuracy})


def _view(args: list[str]) -> None:
    from tokengym import viewer

    given = parse(View, "tokengym view", args)
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


def _refused(call: Any) -> Any:
    """The result of `call`; the errors that describe bad input become one line."""
    try:
        return call()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("TOKENGYM_TRACEBACK"):
            raise
        raise UsageError(" ".join(str(error).split())) from error


def _check_model(name: str) -> None:
    """Refuse a folder that is not there. What is not meant as one may be on the hub."""
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise UsageError(f"no model folder {name!r}")


def _check_json(path: str | None) -> None:
    """Refuse a file that cannot be written before the work that it is to tell of."""
    if path is not None and not os.access(path if os.path.exists(path) else Path(path).parent, os.W_OK):
        raise UsageError(f"the file {path!r} cannot be written")
    if path is not None and os.path.isdir(path):
        raise UsageError(f"--json takes a file, and {path!r} is a folder")


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
