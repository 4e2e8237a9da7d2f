"""The record of a step's trajectories, of real agents: what it says is what was sampled and learned from."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokengym.agents import GRPO, Policy
from tokengym.agents.monitor import Monitor
from tokengym.agents.monitor.rollouts import StepRecording, TokenTexts, _with_others
from tokengym.envs import ByteTokenizer, ChatTokenizer, Reply, TextEnv
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tokengym import Message, Stop

from ..envs.templates import chat


class Talk(TextEnv):
    """Two turns, with a tool's result between them; the reward cannot tell of prompts with a c."""

    def __init__(self) -> None:
        super().__init__([{"text": "abcdef"[i] * (1 + i)} for i in range(6)], self.share, max_turns=2)

    @staticmethod
    def share(completion: str, text: str) -> float | None:
        return None if "c" in text else sum(map(ord, completion)) % 97 / 97

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def reply(self, text: str) -> Reply:
        if self.num_turns == 2:
            return Reply(stop=Stop.ANSWERED, reward=0.5)
        return Reply([{"role": "tool", "name": "count", "content": f"{len(text)}!"}], reward=0.25)


class FastGRPO(GRPO):
    """GRPO from random weights, without the warm start; remembers what it sampled and learned from."""

    def load_policy(self, model: str) -> Policy:
        return Policy.tiny(self.config.seed)

    def advantages(self, batch):  # type: ignore[no-untyped-def]
        self.batch = batch.with_advantages(super().advantages(batch))
        return self.batch.advantages

    def sample(self):  # type: ignore[no-untyped-def]
        self.sampled = super().sample()
        return self.sampled


def make_agent(run_dir: Path | None, **options: Any) -> FastGRPO:
    small = {"prompts_per_step": 6, "group_size": 3, "max_new_tokens": 6, "steps": 4, "checkpoint_every": 2}
    return FastGRPO("tiny", Talk(), run_dir=run_dir, console=False, **(small | {"schedule": "constant"} | options))


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="ascii") as file:
        return [json.loads(line) for line in file]


def _merged(text: str) -> str:
    """Bytes that are no text are decoded to one sign each, or to one for several."""
    return re.sub("\ufffd+", "\ufffd", text)


def files(run_dir: Path) -> list[str]:
    folder = run_dir / "rollouts"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_record_is_what_happened(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, steps=1, minibatches=1)
    agent.learn()
    rows = read(tmp_path / "rollouts" / "step-00000001.jsonl.gz")
    tokenizer = agent.policy.tokenizer
    sampled = [(g, i, t) for g, group in enumerate(agent.sampled) for i, t in enumerate(group)]
    assert [(row["group"], row["index"]) for row in rows] == [(g, i) for g, i, _ in sampled]
    for n, (row, (_, _, t)) in enumerate(zip(rows, sampled)):
        assert _merged("".join(row["tokens"])) == _merged(tokenizer.decode_all(t.ids))
        mask = np.zeros(len(t.ids), dtype=int)
        for start, end in row["actions"]:
            mask[start:end] = 1
        assert mask.tolist() == list(t.action_mask)
        actions = np.flatnonzero(mask)
        assert row["num_tokens"] == len(actions)
        assert row["logprobs"] == pytest.approx(np.asarray(t.logprobs)[actions], abs=1e-5)
        assert np.mean(row["entropies"]) == pytest.approx(t.entropy, abs=1e-4)
        assert row["completion"] == [dict(m) for m in t.episode.completion]
        assert {int(i): value for i, value in row["token_rewards"].items()} == t.token_rewards
        assert row["stop"] == str(t.episode.stop)
        assert row["sampled"]
        if t.score.abstained:
            assert row["reward"] is None
            assert not row["learned"]
            assert row["advantages"] is row["log_ratios"] is None
        else:
            assert row["reward"] == pytest.approx(t.reward, abs=1e-5)
            assert row["learned"]
            assert row["advantages"] == pytest.approx(agent.batch.advantages[n, actions].tolist(), abs=1e-5)
            if any(row["advantages"]):
                # The learner has made no step yet, so that it and the sampler are the same.
                assert row["log_ratios"] == pytest.approx(np.zeros(len(actions)), abs=2e-5)
    assert any(row["reward"] is None for row in rows)
    assert any(row["log_ratios"] for row in rows)
    assert any(len(row["actions"]) == 2 for row in rows)


def test_later_minibatches_come_to_a_policy_that_has_moved(tmp_path: Path) -> None:
    make_agent(tmp_path, steps=1, minibatches=3, learning_rate=0.01, warmup_steps=0).learn()
    rows = read(tmp_path / "rollouts" / "step-00000001.jsonl.gz")
    moved = {row["group"]: max(map(abs, row["log_ratios"])) for row in rows if row["log_ratios"]}
    assert min(moved.values()) < 2e-5
    assert max(moved.values()) > 1e-3


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4]), (2, [1, 2, 4]), (10, [1])])
def test_which_steps_are_recorded(tmp_path: Path, every: int, steps: list[int]) -> None:
    make_agent(tmp_path, record_rollouts_every=every).learn()
    assert files(tmp_path) == [f"step-{step:08d}.jsonl.gz" for step in steps]


def test_the_option_is_not_below_zero() -> None:
    with pytest.raises(ValueError, match="record_rollouts_every is at least 0"):
        make_agent(None, record_rollouts_every=-1)


def test_a_run_is_the_same_whether_it_is_recorded_or_not(tmp_path: Path) -> None:
    lines = []
    for every in (0, 1):
        make_agent(tmp_path / str(every), record_rollouts_every=every).learn()
        rows = map(json.loads, (tmp_path / str(every) / "metrics.jsonl").read_text().splitlines())
        lines.append([{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows])
    assert lines[0] == lines[1]


def test_a_resumed_run_makes_its_record_again(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    make_agent(whole, record_rollouts_every=1).learn()
    make_agent(torn, record_rollouts_every=1).learn(3)
    # As if it had been killed in the middle of step 4, with its last checkpoint from step 2.
    shutil.rmtree(torn / "checkpoints" / "step-00000003")
    (torn / "rollouts" / "step-00000003.jsonl.gz").write_bytes(b"of a step that is made again")
    (torn / "rollouts" / "step-00000004.jsonl.gz.tmp").write_bytes(b"half")
    (torn / "rollouts" / "notes.txt").write_text("somebody's own")
    agent = FastGRPO.load(torn, env=Talk(), console=False)
    assert agent.step == 2
    agent.learn(2)
    assert files(torn) == ["notes.txt", *files(whole)]
    for name in files(whole):
        assert (torn / "rollouts" / name).read_bytes() == (whole / "rollouts" / name).read_bytes()


def test_a_new_run_forgets_an_earlier_one(tmp_path: Path) -> None:
    make_agent(tmp_path, steps=1).learn()
    Monitor(tmp_path, title="", config={}, total_steps=1, console=False).close()
    assert files(tmp_path) == []


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollouts").write_text("a file in the way")
    with pytest.raises(OSError, match="cannot write the run's log") as caught:
        make_agent(tmp_path, steps=1).learn()
    assert "rollouts" in str(caught.value.filename)


def test_trajectories_that_stand_in_for_others_are_recorded_with_their_group(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, steps=1, record_rollouts_every=0)
    agent.learn()
    sampled = agent.sampled
    foreign = sampled[2]
    assert len(foreign) == 3
    learned = [sampled[0], [*sampled[1][:2], foreign[0]], foreign[1:]]
    groups = _with_others(sampled[:2], learned)
    assert groups == [sampled[0], [*sampled[1], foreign[0]], foreign[1:]]
    recording = StepRecording(sampled[:2], learned, agent.pack(learned))
    rows = read(recording.write(tmp_path, 7, agent.policy.tokenizer))
    assert [row["sampled"] for row in rows] == [True] * 6 + [False] * 3
    assert [row["learned"] for row in rows[:5]] == [t.reward is not None for t in [*sampled[0], *sampled[1][:2]]]
    assert not rows[5]["learned"], "another stands in its place"


# The texts of tokens.


@given(st.text(max_size=30))
def test_bytes_become_characters_again(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode_prompt([{"role": "user", "content": text}])
    texts = TokenTexts(tokenizer).of(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode_all(ids)


@given(st.lists(st.integers(0, 261), max_size=40))
def test_bytes_that_are_no_text(ids: Sequence[int]) -> None:
    texts = TokenTexts(ByteTokenizer()).of(ids)
    assert len(texts) == len(ids)
    assert all(len(text) <= 12 for text in texts)
    for token, text in zip(ids, texts):
        if token < 128:
            assert text == chr(token)
        if token >= 256:
            assert text == ByteTokenizer.SPECIAL[token - 256]


@pytest.mark.parametrize(
    "template", ["smollm2", "qwen", "qwen3", "llama2", "llama3", "gemma3", "mistral-nemo", "plain"]
)
def test_templates_of_models(template: str) -> None:
    tokenizer = chat(template)
    messages: list[Message] = [{"role": "user", "content": "What is 3 · 4?  é→日本 👍"}]
    ids = tokenizer.encode_prompt(messages) + tokenizer.encode("It is twelve, 十二.")
    texts = TokenTexts(tokenizer).of(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode_all(ids)
    assert "\ufffd" not in "".join(texts)


def test_sentencepiece_keeps_its_spaces() -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁Hello", "▁wor", "ld", "▁", "▁is"]
    backend = Backend(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace = decoders.Replace("▁", " ")
    backend.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"))
    ids = [pieces.index(piece) for piece in ("▁Hello", "▁wor", "ld", "▁is", "▁", "</s>", "▁Hello")]
    texts = TokenTexts(tokenizer)
    assert texts.of(ids) == [" Hello", " wor", "ld", " is", " ", "</s>", " Hello"]
    sign = [3 + byte for byte in "→é".encode()]
    assert texts.of([*ids[:1], *sign, *ids[1:2]]) == [" Hello", "→", "", "", "é", "", " wor"]
    assert texts.of(sign[:2]) == ["\ufffd", "\ufffd"]


torch.set_num_threads(1)
