"""From an agent to the page: the branches of a real rollout are where the page draws them."""

from __future__ import annotations

import gzip
import json
import string
from collections.abc import Mapping
from pathlib import Path

import torch
from tokengym.agents import ARPO, Policy
from tokengym.envs import Reply, TextEnv

from tokengym import Message, viewer
from tokengym.viewer.segments import segments

torch.set_num_threads(1)


class Talk(TextEnv):
    """Says something about every turn, and ends after four."""

    def __init__(self) -> None:
        rows = [{"text": "a"}, {"text": "bc"}]
        super().__init__(rows, lambda completion: sum(map(ord, completion)) % 97 / 97, max_turns=4)

    def messages(self, row: Mapping[str, str]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def reply(self, text: str) -> Reply:
        return Reply([{"role": "user", "content": f"{len(text) % 2}"}])


class FastARPO(ARPO):
    """ARPO from random weights, without the warm start."""

    def load_policy(self, model: str) -> Policy:
        return Policy.tiny(self.config.seed)


def test_trees_of_a_run(tmp_path: Path) -> None:
    stop = tuple(string.ascii_letters + string.digits)  # so that there are several turns
    sizes = {"prompts_per_step": 2, "group_size": 10, "initial_chains": 3, "max_new_tokens": 8, "max_tokens": 120}
    FastARPO(env=Talk(), run_dir=tmp_path, console=False, steps=1, minibatches=1, stop=stop, **sizes).learn()
    with gzip.open(tmp_path / "rollouts" / "step-00000001.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    groups = [[row for row in rows if row["group"] == number] for number in (0, 1)]
    branches = [(group, row) for group in groups for row in group if row["parent"] is not None]
    assert len(branches) > 5
    for group, row in branches:
        parent, fork = group[row["parent"]], row["fork"]
        assert row["tokens"][:fork] == parent["tokens"][:fork]
        shared = sum(min(end, fork) - start for start, end in row["actions"] if start < fork)
        for name in ("logprobs", "entropies"):
            assert row[name][:shared] == parent[name][:shared]
    for row in rows:
        assert row["learned"]
        for name in ("logprobs", "entropies", "advantages", "log_ratios"):
            assert len(row[name]) == row["num_tokens"] == sum(end - start for start, end in row["actions"])
        assert max(map(abs, row["log_ratios"])) < 2e-5, "the learner has made no step yet"
        kinds = [kind for _, _, kind, _ in segments(row)]
        assert kinds[:2] == ["prompt", "policy"]
        assert set(kinds[2::2]) <= {"reply"}
    assert viewer.write(tmp_path).stat().st_size > 50_000
