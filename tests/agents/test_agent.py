"""Whole agents: what they log, leave behind and refuse. This file is also the program that is interrupted and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokengym.agents import AGENTS, GRPO, SFT, Policy
from tokengym.agents.learner import checkpoints
from tokengym.agents.policy import DType, check_precision
from tokengym.agents.warm_start import WarmStart, warm_started
from tokengym.envs import TextEnv, as_text_env

from tokengym import Message
from tokengym.cli import main

METRICS = {
    "reward/mean",
    "reward/std",
    "accuracy",
    "groups/no_signal",
    "advantage/mean",
    "advantage/std",
    "advantage/skewness",
    "kl/reference",
    "kl/sampler",
    "entropy",
    "clip_fraction",
    "grad_norm",
    "length/mean",
    "length/truncated",
    "speed/sample_tokens_per_s",
    "speed/learn_tokens_per_s",
    "abstained",
}


def low_bytes(completion: str) -> dict[str, float]:
    """A reward that random weights get something of: the share of ASCII characters, and whether it is half."""
    share = sum(c.isascii() for c in completion) / max(len(completion), 1)
    return {"correct": float(share >= 0.5), "share": share}


class Letters(TextEnv):
    """Write ASCII."""

    def __init__(self, reward: Any = low_bytes) -> None:
        super().__init__([{"text": "abc"[: 1 + i % 3] * (1 + i % 2), "number": i} for i in range(7)], reward)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]


class FastGRPO(GRPO):
    """GRPO from random weights, without the warm start."""

    def load_policy(self, model: str) -> Policy:
        c = self.config
        return Policy.tiny(c.seed, dtype=c.dtype, device=c.device) if model == "tiny" else super().load_policy(model)


class FastBigSteps(FastGRPO):
    """The same under another name."""


OPTIONS: dict[str, Any] = {
    "prompts_per_step": 3,
    "group_size": 4,
    "max_new_tokens": 8,
    "checkpoint_every": 2,
    "steps": 6,
    "device": "cpu",
    "kl_coef": 0.05,
    "minibatches": 2,
    "schedule": "constant",  # learn(2) and learn(4) shall be learn(6)
}


def make_agent(run_dir: Path | None = None, env: Any = None, **options: Any) -> FastGRPO:
    return FastGRPO(env=env or Letters(), run_dir=run_dir, console=False, **OPTIONS | options)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def repeatable(run_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows(run_dir)]


# Metrics.


def test_every_metric_is_reported_at_every_step_and_everywhere_the_same(tmp_path: Path) -> None:
    make_agent(tmp_path, steps=3).learn()
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [1, 2, 3]
    for row in found:
        assert set(row) >= METRICS
        assert all(isinstance(row[name], float) for name in METRICS)
    assert {"reward/part/correct", "reward/part/share", "learning_rate"} <= set(found[0])

    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    for name in METRICS | {"learning_rate"}:
        assert name in tags["scalars"] + tags["tensors"]
        if name in tags["scalars"]:
            logged = [(e.step, e.value) for e in events.Scalars(name)]
        else:
            logged = [(e.step, float(torch.tensor(e.tensor_proto.float_val))) for e in events.Tensors(name)]
        expected = torch.tensor([row[name] for row in found], dtype=torch.float32)
        assert logged == list(enumerate(expected.tolist(), start=1))


def test_the_metrics_are_right(tmp_path: Path) -> None:
    make_agent(tmp_path, steps=1, group_size=8, minibatches=1).learn()
    [row] = rows(tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3
    assert all(s["reward"] == pytest.approx(sum(s["parts"].values())) for s in samples)
    assert row["reward/mean"] == pytest.approx(row["reward/part/correct"] + row["reward/part/share"], abs=1e-6)
    assert row["accuracy"] == pytest.approx(row["reward/part/correct"])
    assert row["abstained"] == 0
    assert abs(row["advantage/mean"]) < 1e-5
    assert 0.5 < row["advantage/std"] < 1.1
    assert 1 <= row["length/mean"] <= 8
    assert 0 <= row["length/truncated"] <= 1
    assert 0 < row["entropy"] < 5.6
    assert row["clip_fraction"] == 0
    assert abs(row["kl/sampler"]) < 1e-6
    assert abs(row["kl/reference"]) < 1e-6


def test_it_learns(tmp_path: Path) -> None:
    make_agent(tmp_path, prompts_per_step=8, group_size=8, steps=12, learning_rate=2e-3, minibatches=1).learn()
    rewards = [row["reward/mean"] for row in rows(tmp_path)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_a_reward_that_raises_now_and_then(tmp_path: Path) -> None:
    calls = iter(range(10_000))

    def fragile(completion: str) -> float:
        if next(calls) % 7 == 3:
            raise RuntimeError("the verifier has crashed")
        return len(completion) / 8 + 0.01 * (len(completion.encode()) % 5)

    with pytest.warns(UserWarning, match="the verifier has crashed"):
        make_agent(tmp_path, Letters(fragile), steps=2).learn()
    for row in rows(tmp_path):
        assert row["abstained"] in (1.0, 2.0)
        assert row["grad_norm"] > 0
        assert "accuracy" not in row


def test_a_step_on_which_every_reward_abstains_changes_nothing(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, Letters(lambda completion: None), steps=1, kl_coef=0.0)
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    agent.learn()
    [row] = rows(tmp_path)
    assert row["abstained"] == 12
    assert all(value is not None for value in row.values())
    assert all(torch.equal(p, before[name]) for name, p in agent.policy.named_parameters())


# Repeating and resuming.


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_agent(folder).learn()
    return repeatable(folder)


def test_a_run_is_repeatable(tmp_path: Path, uninterrupted: list[dict[str, Any]]) -> None:
    torch.manual_seed(123)  # nothing depends on global generators
    random.seed(5)
    agent = make_agent(tmp_path)
    agent.learn(2)
    agent.evaluate(3, samples=2)  # and an evaluation in between changes nothing
    agent.learn(4)
    assert repeatable(tmp_path) == uninterrupted
    assert len({json.dumps(row["entropy"]) for row in uninterrupted}) == 6
    other = make_agent(tmp_path / "other", seed=1, steps=1).learn()
    assert repeatable(tmp_path / "other")[0] != uninterrupted[0]
    assert other.step == 1


def test_resuming_in_the_process(tmp_path: Path, uninterrupted: list[dict[str, Any]]) -> None:
    make_agent(tmp_path).learn(3)
    agent = FastGRPO.load(tmp_path, env=Letters(), console=False)
    assert (agent.step, agent.total_steps) == (3, 3)
    agent.learn(3)
    assert repeatable(tmp_path) == uninterrupted
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000005", "step-00000006"] or [
        p.name for p in checkpoints(tmp_path / "checkpoints")
    ] == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules(tmp_path: Path, schedule: str) -> None:
    make_agent(tmp_path, steps=4, warmup_steps=2, schedule=schedule, learning_rate=1e-3, group_size=2).learn()
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates[0] < rates[1] > rates[2] > rates[3] > 0
    assert max(rates) <= 1e-3


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"lora_rank": 4}], ids=str)
def test_resuming_in_other_forms(tmp_path: Path, change: dict[str, Any]) -> None:
    if "lora_rank" in change:
        pytest.importorskip("peft")
    make_agent(tmp_path / "whole", steps=4, **change).learn()
    make_agent(tmp_path / "parts", steps=2, **change).learn()
    FastGRPO.load(tmp_path / "parts", env=Letters(), console=False).learn(2)
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")


# Saving and loading.


def test_save_load_and_evaluate(tmp_path: Path) -> None:
    agent = make_agent(tmp_path / "run", steps=2).learn()
    agent.save(tmp_path / "saved")
    loaded = FastGRPO.load(tmp_path / "saved", env=Letters(), console=False)
    for samples in (1, 4):
        assert loaded.evaluate(5, samples=samples) == agent.evaluate(5, samples=samples)
    assert loaded.config == agent.config
    assert loaded.step == 2
    policy = Policy.load(tmp_path / "saved" / "policy", device="cpu")
    assert all(torch.equal(p, dict(agent.policy.named_parameters())[name]) for name, p in policy.named_parameters())
    assert policy.tokenizer.vocab_size == 262


def test_an_agent_saved_before_training_can_be_loaded_and_trained(tmp_path: Path) -> None:
    make_agent(tmp_path / "run", steps=1).save(tmp_path / "saved")
    agent = FastGRPO.load(tmp_path / "saved", env=Letters(), console=False)
    agent.learn()
    assert [row["step"] for row in rows(tmp_path / "saved")] == [1]


def test_saving_over_an_agent_with_more_steps(tmp_path: Path) -> None:
    make_agent(tmp_path / "a", steps=3, seed=1).learn().save(tmp_path / "saved")
    agent = make_agent(tmp_path / "b", steps=1).learn()
    agent.save(tmp_path / "saved")
    loaded = FastGRPO.load(tmp_path / "saved", env=Letters(), console=False)
    assert loaded.step == 1
    assert all(torch.equal(p, loaded.policy.trainable()[name]) for name, p in agent.policy.trainable().items())


def test_loading_in_another_precision(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, steps=2).learn()
    dtype: DType = "bfloat16"
    loaded = FastGRPO.load(tmp_path, env=Letters(), console=False, dtype=dtype, learning_rate=1e-9)
    loaded.learn(1)
    for name, p in agent.policy.trainable().items():
        torch.testing.assert_close(loaded.policy.trainable()[name].float(), p.detach(), atol=1e-4, rtol=1e-2)


def test_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no agent: there is no agent.json"):
        FastGRPO.load(tmp_path)
    agent = make_agent(tmp_path / "run", steps=1)
    agent.learn()
    with pytest.raises(ValueError, match="holds a FastGRPO agent, not FastBigSteps"):
        FastBigSteps.load(tmp_path / "run", env=Letters())
    with pytest.raises(ValueError, match="environment object, Letters: pass env="):
        FastGRPO.load(tmp_path / "run")
    with pytest.raises(TypeError, match="unknown option 'grup_size'; did you mean group_size"):
        FastGRPO.load(tmp_path / "run", env=Letters(), grup_size=3)
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        path.rename(path.with_name(f".writing-{path.name[-8:]}"))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        FastGRPO.load(tmp_path / "run", env=Letters())


FAST = {k: v for k, v in OPTIONS.items() if k != "steps"} | {"console": False, "max_tokens": 200}


@pytest.mark.parametrize("form", [str, Path])
def test_a_saved_agent_finds_its_dataset(tmp_path: Path, form: Callable[[Path], Any]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}+1", "answer": i + 1}) + "\n" for i in range(40)))
    FastGRPO(env_options={"dataset": form(data)}, **FAST).save(tmp_path / "saved")
    assert len(FastGRPO.load(tmp_path / "saved").env.rows) == 36


def test_a_reward_cannot_be_saved_and_is_asked_for(tmp_path: Path) -> None:
    def short(completion: str) -> float:
        return -float(len(completion))

    FastGRPO(env_options={"reward": short}, **FAST).save(tmp_path)
    with pytest.raises(ValueError, match="env_options"):
        FastGRPO.load(tmp_path)
    assert FastGRPO.load(tmp_path, env_options={"reward": short}).step == 0


def test_evaluation_of_the_held_out_problems(tmp_path: Path) -> None:
    agent = FastGRPO(console=False, run_dir=tmp_path, **OPTIONS)
    result = agent.evaluate(20, samples=2)
    assert (result.problems, result.samples) == (20, 2)
    assert result.accuracy == 0
    assert result == agent.evaluate(20, samples=2)
    assert make_agent(tmp_path / "b").evaluate(100).problems == 6  # of seven rows, two ask the same
    with pytest.raises(ValueError, match="at least 1"):
        agent.evaluate(0)


def test_without_a_console_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    agent = make_agent(tmp_path, steps=1)
    agent.learn()
    agent.evaluate(2)
    assert capfd.readouterr().out == ""


# Environments.


def make_letters(level: str = "token", split: str = "train", tokenizer: Any = "bytes") -> TextEnv:
    return Letters()


@pytest.fixture
def registered() -> Iterator[Callable[[Any], str]]:
    """Registers an environment under a name for the time of a test."""
    names = []

    def register(entry_point: Any) -> str:
        names.append(f"OfATest{len(names)}-v0")
        gym.register(id=names[-1], entry_point=entry_point)
        return names[-1]

    yield register
    for name in names:
        del gym.registry[name]


def test_a_registered_environment_of_the_users(tmp_path: Path, registered: Callable[[Any], str]) -> None:
    """A subclass of TextEnv, registered as Gymnasium has it, knows neither levels nor splits."""
    agent = make_agent(tmp_path, registered(Letters), steps=1)
    agent.learn()
    assert agent.evaluate(3).problems == 3


def test_environment_objects(tmp_path: Path) -> None:
    assert isinstance(make_agent(env=gym.make("MathVerify-v0")).env, TextEnv)
    assert isinstance(make_agent(env=gym.make("MathVerify-v0", level="turn")).env, TextEnv)
    wrapped = gym.wrappers.RecordEpisodeStatistics(gym.make("MathVerify-v0", level="turn"))
    with pytest.raises(ValueError, match=r"bypass the wrapper RecordEpisodeStatistics; pass env.unwrapped"):
        make_agent(env=wrapped)
    with pytest.raises(ValueError, match="TextEnv or a TokenEnv"):
        make_agent(env=gym.make("FrozenLake-v1"))


def test_options_for_an_environment_object_are_refused_or_used() -> None:
    with pytest.raises((ValueError, TypeError), match="env_options"):
        make_agent(env=Letters(), env_options={"difficulty": 3})


# The warm start.


def test_the_warm_start_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path))
    env, plan = as_text_env("MathVerify-v0"), WarmStart(max_steps=2, batch_size=4)
    first = warm_started(env, 0, 64, plan)
    [folder] = tmp_path.iterdir()
    changed = folder.stat().st_mtime_ns
    again = warm_started(env, 0, 64, plan)
    assert folder.stat().st_mtime_ns == changed
    assert all(torch.equal(p, dict(first.named_parameters())[name]) for name, p in again.named_parameters())
    warm_started(env, 1, 64, plan)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="no demonstration"):
        warm_started(Letters(), 0, 64, plan)


class Says(TextEnv):
    """Say a word."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__([{"text": "?"}], lambda completion: completion == word)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "user", "content": row["text"]}]

    def demonstration(self, row: Mapping[str, Any]) -> list[Message]:
        return [{"role": "assistant", "content": self.word}]


def test_loaded_weights_lie_where_made_ones_do(tmp_path: Path) -> None:
    """Products of the same weights differ in the last bit where these begin elsewhere: a run that made its warm start, and
    was stopped, would go on with other numbers from the cache."""
    Policy.tiny(0, device="cpu").save(tmp_path)
    for policy in (Policy.tiny(0, device="cpu"), Policy.load(tmp_path, device="cpu")):
        assert {p.data_ptr() % 64 for p in policy.model.parameters()} == {0}
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight


def test_the_warm_start_is_on_the_environments_own_demonstrations() -> None:
    """Also if a warm start on an environment of the same class is in the cache."""
    for word in ("ab", "xy"):
        agent = GRPO(env=Says(word), device="cpu", console=False)
        assert agent.evaluate(1, temperature=0.0).accuracy == 1.0


# What is refused before training.


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path_factory.mktemp("cache")))


def dataset(folder: Path, *problems: dict[str, Any]) -> str:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in problems))
    return str(path)


PLAIN = [{"question": f"{i}+{i}", "answer": str(2 * i)} for i in range(30)]


def refused(match: str, error: type[Exception] = ValueError, agent: type[GRPO] = GRPO, **arguments: Any) -> None:
    with pytest.raises(error, match=match):
        agent(**{"console": False, "device": "cpu"} | arguments)


def test_bad_datasets(tmp_path: Path) -> None:
    refused("no rows", env_options={"dataset": []})
    refused(r"problems.jsonl has no rows", env_options={"dataset": dataset(tmp_path)})
    path = dataset(tmp_path, *PLAIN[:3], {"qestion": "1+1", "answer": "2"})
    refused(r"problems.jsonl:4: no column 'question'.*did you mean 'qestion'", env_options={"dataset": path})
    refused("there is no file", FileNotFoundError, env_options={"dataset": str(tmp_path / "missing.jsonl")})


def test_prompts_beyond_the_limit(tmp_path: Path) -> None:
    path = dataset(tmp_path, *PLAIN, {"question": "1+" * 300, "answer": "2"})
    options = {"dataset": path, "split": "all"}
    message = r"row 30 has \d+ tokens.*max_tokens=200; raise max_tokens.*problems.jsonl:31"
    refused(message, agent=FastGRPO, env_options=options, max_tokens=200)
    refused(message, agent=SFT, env_options=options, max_tokens=200)  # type: ignore[arg-type]


def test_prompts_beyond_the_limit_with_a_warm_start(tmp_path: Path) -> None:
    path = dataset(tmp_path, *({"question": "1+" * 300 + str(i), "answer": "2"} for i in range(30)))
    refused(r"row 0 has \d+ tokens.*problems.jsonl:1", env_options={"dataset": path, "split": "all"}, max_tokens=200)
    refused(r"row 0 has \d+ tokens.*max_tokens=6", max_tokens=6)


def test_bad_rewards() -> None:
    refused("'nonsense'", env_options={"reward": lambda completion, nonsense: 1.0})
    refused("must return a number", TypeError, env_options={"reward": lambda completion: "good"})
    refused("a reward is a function", TypeError, env_options={"reward": 3})


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("group_size is at least 2, not 1", {"group_size": 1}),
        ("learning_rate is above 0", {"learning_rate": 0.0}),
        ("learning_rate", {"learning_rate": float("nan")}),
        ("temperature is above 0", {"temperature": 0.0}),
        ("steps is at least 0", {"steps": -1}),
        ("max_new_tokens is at least 1", {"max_new_tokens": 0}),
        ("minibatches is at least 1", {"minibatches": 0}),
        ("top_p", {"top_p": 1.5}),
        ("top_k", {"top_k": -1}),
        ("stop", {"stop": ("",)}),
        ("stop", {"stop": "ab"}),
        ("aggregation", {"aggregation": "mean"}),
        ("schedule", {"schedule": "exponential"}),
        ("dtype", {"dtype": "float16"}),
        ("cannot be used here", {"device": "cuda:77"}),
        ("cannot be used here", {"device": "nonsense"}),
    ],
    ids=str,
)
def test_bad_options(message: str, options: dict[str, Any]) -> None:
    refused(message, agent=FastGRPO, env=Letters(), **options)


def test_an_unusable_device_is_refused_before_the_warm_start() -> None:
    refused("cannot be used here", env=Letters(), device="cuda:77")  # a warm start would miss demonstrations


def test_bfloat16_where_the_processor_has_no_instructions_for_it() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for dtype in ("float32", "bfloat16"):
            check_precision(dtype, torch.device("cpu"))
        check_precision("bfloat16", torch.device("meta"))
    slow = not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert [str(w.message)[:43] for w in told] == ["this processor has no instructions for bflo"] * slow


def test_unknown_options() -> None:
    refused("unknown option 'grup_size'; did you mean group_size", TypeError, grup_size=4)
    refused("unknown option 'zzz'", TypeError, zzz=4)


def test_bad_run_folders(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refused("cannot be written", OSError, run_dir=file / "run")
    refused("cannot be written", OSError, run_dir=file)
    make_agent(tmp_path / "run", steps=1).learn()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="holds another run: go on with it by load"):
        make_agent(tmp_path / "run", steps=1).learn()
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_bad_environments_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(r"no environment 'MathVerfy-v0' is registered; did you mean 'MathVerify-v0'", env="MathVerfy-v0")
    refused("missing", model=tmp_path / "missing")
    refused("missing", model=str(tmp_path / "missing"), env=Letters())
    (tmp_path / "empty").mkdir()
    refused("empty", model=tmp_path / "empty", env=Letters())


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=3, **sizes)).save_pretrained(tmp_path)
    refused("has no end token.*set tokenizer.eos_token", model=tmp_path)
    refused("has no end token.*set tokenizer.eos_token", model=tmp_path, env=Letters())


# Signals. A server forks the programs, so that the imports are paid once.


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, *words: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def returncode(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def wait_for_steps(run_dir: Path, n: int) -> None:
    end = time.monotonic() + 60
    while not (run_dir / "metrics.jsonl").exists() or len((run_dir / "metrics.jsonl").read_bytes().splitlines()) < n:
        assert time.monotonic() < end, "the program makes no steps"
        time.sleep(0.002)


def test_resuming_in_another_process(tmp_path: Path, server: Server, uninterrupted: list[dict[str, Any]]) -> None:
    server.start("script", str(tmp_path), "3")
    assert server.returncode() == 0
    server.start("resume", str(tmp_path), "3")
    assert server.returncode() == 0
    assert repeatable(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    ("number", "program", "codes"),
    [
        # 1: where tabulate is installed, torch imports it at exit, and Python forgets that an interrupt ended the program.
        (signal.SIGINT, "script", (130, -signal.SIGINT, 1)),
        (signal.SIGTERM, "script", (143,)),
        (signal.SIGINT, "cli", (130,)),
        (signal.SIGTERM, "cli", (143,)),
    ],
)
def test_a_signal_leaves_a_checkpoint(
    tmp_path: Path,
    server: Server,
    uninterrupted: list[dict[str, Any]],
    number: signal.Signals,
    program: str,
    codes: tuple[int, ...],
) -> None:
    pid = server.start(program, str(tmp_path), "500")
    wait_for_steps(tmp_path, 1)
    os.kill(pid, number)
    assert server.returncode() in codes
    done = len(rows(tmp_path))
    assert 1 <= done < 100
    assert checkpoints(tmp_path / "checkpoints")[-1].name == f"step-{done:08d}"
    if done < 6 and (program, number) != ("cli", signal.SIGTERM):
        server.start("resume" if program == "script" else "cli-resume", str(tmp_path), str(6 - done))
        if program == "cli":  # the run has its own number of steps: stop it again
            wait_for_steps(tmp_path, 6)
            os.kill(server_child(server), signal.SIGTERM)
            assert server.returncode() == 143
        else:
            assert server.returncode() == 0
        assert repeatable(tmp_path)[:6] == uninterrupted


def server_child(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    return int(children.read_text().split()[0])


@pytest.mark.parametrize("round_", range(3))
def test_a_kill_at_any_moment(tmp_path: Path, server: Server, uninterrupted: list[dict[str, Any]], round_: int) -> None:
    draw = random.Random(round_)
    pid = server.start("script", str(tmp_path), "6")
    wait_for_steps(tmp_path, 2)
    while not checkpoints(tmp_path / "checkpoints"):
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 0.25))
    os.kill(pid, signal.SIGKILL)
    code = server.returncode()
    if code == 0:
        pytest.skip("it was faster")
    server.start("resume", str(tmp_path), "")
    assert server.returncode() == 0
    assert repeatable(tmp_path) == uninterrupted


def serve() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            run_program(*json.loads(line))
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run_program(program: str, run_dir: str, steps: str) -> None:
    if program == "script":
        make_agent(Path(run_dir), steps=int(steps)).learn()
    elif program == "resume":
        FastGRPO.load(run_dir, env=Letters(), console=False).learn(int(steps) if steps else None)
    else:
        AGENTS["fast"] = FastGRPO
        gym.register(id="Letters-v0", entry_point=make_letters)
        arguments = ["--resume", run_dir]
        if program == "cli":
            options = {**OPTIONS, "steps": steps, "run_dir": run_dir, "env": "Letters-v0"}
            arguments = [
                word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
            ]
        main(["train", "fast", *arguments, "--eval-episodes", "0"])


if __name__ == "__main__":
    serve()
