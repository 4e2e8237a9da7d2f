"""Records of runs to look at, in the format that `tokengym.agents.monitor.rollouts` tells."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTILE = (
    "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"
    "<svg onload='window.harmed = 3'> <!-- {{data}} \u202egnp.exe\u202c \x1b[31mred\x07 zero\u200bwidth\ud800 \u2028 é→日本 &amp;"
)

THOUGHTS = [
    "There are {a} baskets with {b} apples each, so we multiply {a} by {b}.",
    "Each of the {a} rows holds {b} seats.",
    "First we add the two: {a} + {b}.",
    "Let me think again.\n\nSo the total is {a} times {b}.",
]


def pieces(text: str) -> list[str]:
    """Text as a tokenizer might cut it."""
    return re.findall(r"<\w+>| ?\w{1,6}|\s|.", text, re.DOTALL)


def row(said: Sequence[tuple[str, str]], rng: random.Random, **changes: Any) -> dict[str, Any]:
    """A trajectory of `said`: (role, text) in order; the policy's turns have the role "assistant"."""
    tokens: list[str] = []
    actions: list[list[int]] = []
    messages: list[dict[str, str]] = []
    for role, text in said:
        own = role == "assistant"
        cut = [*pieces(text), "<end>"] if own else [f"<{role}>", *pieces(text), "<end>", "<assistant>"]
        if own:
            actions.append([len(tokens), len(tokens) + len(cut)])
        tokens += cut
        messages.append({"role": role, "content": text} | ({"name": "calculator"} if role == "tool" else {}))
    first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    count = sum(end - start for start, end in actions)
    reward = changes.get("reward", 1.0)
    entropies = [round(rng.expovariate(2.0), 5) for _ in range(count)]
    return {
        "group": 0,
        "index": 0,
        "parent": None,
        "fork": None,
        "sampled": True,
        "learned": True,
        "prompt": messages[:first],
        "completion": messages[first:],
        "answer": "42",
        "stop": "answered",
        "num_tokens": count,
        "reward": reward,
        "parts": {} if reward is None else {"correct": float(reward > 0), "length": round(-0.001 * count, 5)},
        "error": "",
        "tokens": tokens,
        "actions": actions,
        "logprobs": [round(-rng.expovariate(2.0), 5) for _ in range(count)],
        "entropies": entropies,
        "advantages": None if reward is None else [round(reward - 0.5 + rng.gauss(0, 0.3), 5) for _ in range(count)],
        "log_ratios": [round(rng.gauss(0, 0.02), 5) for _ in range(count)],
        "token_rewards": {},
        "step_rewards": {},
    } | changes


def write_step(run_dir: Path, step: int, groups: Iterable[Sequence[Mapping[str, Any]]]) -> Path:
    """Write the record of a step; its groups and trajectories are numbered in their order."""
    path = run_dir / "rollouts" / f"step-{step:08d}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="ascii", compresslevel=3) as file:
        for number, group in enumerate(groups):
            for index, trajectory in enumerate(group):
                file.write(json.dumps({**trajectory, "group": number, "index": index}) + "\n")
    return path


def plain(rng: random.Random, size: int = 8) -> list[dict[str, Any]]:
    """A group of single-turn answers, some right."""
    a, b = rng.randrange(2, 99), rng.randrange(2, 99)
    group = []
    for _ in range(size):
        right = rng.random() < 0.5
        text = rng.choice(THOUGHTS).format(a=a, b=b) + f" The answer is {a * b if right else a * b + 1}."
        cut = rng.random() < 0.1
        group.append(
            row(
                [("user", f"What is {a} times {b}?"), ("assistant", text * (3 if cut else 1))],
                rng,
                reward=float(right and not cut),
                stop="length" if cut else "answered",
                answer=str(a * b),
            )
        )
    return group


def with_tools(rng: random.Random) -> list[dict[str, Any]]:
    """A group of answers that call a tool: by JSON, by tags, once too often."""
    ask = ("user", "What is 569*382?")
    call = (
        'I will compute it. <tool_call>\n{"name": "calculator", "arguments": {"expression": "569*382"}}\n</tool_call>'
    )
    return [
        row([ask, ("assistant", call), ("tool", "217358"), ("assistant", "It is 217358.")], rng),
        row(
            [
                ask,
                ("assistant", "So <calculator>569*382</calculator>"),
                ("tool", "<result>\n217358\n</result>"),
                ("assistant", "It is 217350."),
            ],
            rng,
            reward=0.0,
            token_rewards={"19": 0.25},
        ),
        row([ask, ("assistant", call)], rng, reward=0.0, stop="tool_limit", parts={"correct": 0.0, "tool_calls": 1.0}),
        row(
            [ask, ("assistant", "Is it large?"), ("user", "Yes, it is."), ("assistant", "217358")],
            rng,
            reward=1.0,
            step_rewards={"13": -0.5},
        ),
    ]


def tree(rng: random.Random) -> list[dict[str, Any]]:
    """A group of two chains, one of which has branches, one of which has a branch of its own."""
    ask = ("user", "Who wrote the tables?")
    texts = [
        "Let me search. The first result says Ada wrote them, so the answer is Ada.",
        "Let me search. The first result says Ada helped, and Charles wrote them.",
        "Let me search. The second result says nobody knows.",
        "Let me search. The second result says nobody knows, but the third says Mary did, in a letter to her sister.",
        "It was Charles.",
    ]
    group = [
        row([ask, ("assistant", text)], rng, reward=value) for text, value in zip(texts, (1.0, 0.0, None, 0.5, 0.0))
    ]
    for index, parent in ((1, 0), (2, 0), (3, 2)):
        own, theirs = group[index]["tokens"], group[parent]["tokens"]
        fork = next(i for i, pair in enumerate(zip(own, theirs)) if pair[0] != pair[1])
        group[index] |= {"parent": parent, "fork": fork}
    group[2] |= {"error": "the verifier was given 5 s and took longer", "learned": False}
    return group


def hostile(rng: random.Random) -> list[dict[str, Any]]:
    """A group of which every text is an attack."""
    bad = row([("user", HOSTILE), ("assistant", HOSTILE)], rng)
    error = bad | {"reward": None, "parts": {}, "error": HOSTILE, "advantages": None, "learned": False}
    return [bad | {"answer": HOSTILE, "parts": {HOSTILE: 1.0}, "stop": "<b>answered</b>"}, error]


def make_run(run_dir: Path) -> Path:
    """A run with something of everything."""
    rng = random.Random(0)
    for step in (1, 10, 20):
        groups = [plain(rng), with_tools(rng), tree(rng), hostile(rng), *(plain(rng) for _ in range(6))]
        dropped = [{**t, "learned": False, "advantages": None, "log_ratios": None} for t in plain(rng)]
        write_step(run_dir, step, [*groups, dropped])
    config = {"agent": "GRPO", "env": "ToolMath-v0", "model": "tiny"}
    (run_dir / "agent.json").write_text(json.dumps(config))
    return run_dir


def make_large_run(run_dir: Path, trajectories: int = 10_000, turns: int = 1) -> Path:
    """A run of many trajectories."""
    rng = random.Random(1)
    for step in range(1, 11):
        write_step(run_dir, step, [plain(rng) for _ in range(trajectories // 80)])
    return run_dir
