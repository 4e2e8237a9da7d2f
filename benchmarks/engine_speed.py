"""How many tokens a second `TorchEngine` samples, against transformers' `generate` and vLLM.

    python -m benchmarks.engine_speed --model smollm2      # writes benchmarks/results/engine_speed.json

Same model, precision and sampling (temperature 1 over the whole vocabulary, no end token); `batch16` and `batch32` are as
many prompts of 16 tokens, `group16_prompt512` is 16 samples of one prompt of 512 tokens; 64 new tokens each, the time of
the prompt included. The prompts are new in every repeat, so that nothing of them is there from the last one. `floor` is the
bare products of a decoding step with all weight matrices, and nothing else; `floor_packed` the same as `TorchEngine` makes
them: those with the same inputs in one, with packed weights in huge pages. `seconds_after_sync` is how much longer the
first sampling with new weights takes, which packs them; `seconds_into_huge_pages` is what it takes to move them there,
which happens once they have been in use for some time, here before the first measurement. vLLM runs in a process of its
own, where it may tie threads to cores.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from tokengym.agents.engines import Request, Sampling, TorchEngine
from tokengym.agents.engines.layers import PASSES, Product
from tokengym.envs import load_tokenizer
from transformers import AutoModelForCausalLM

from .machine import machine

OUT = Path(__file__).parent / "results" / "engine_speed.json"
NEW_TOKENS = 64
CASES = {"batch16": (16, 16, 1), "batch32": (32, 16, 1), "group16_prompt512": (1, 512, 16)}
"""Prompts, their tokens, samples of each."""


def main(
    model: Path,
    json: Path = OUT,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    threads: int = 2,
    repeats: int = 3,
) -> None:
    """Measure.

    Args:
        model: a folder with a model and its tokenizer.
        json: where the results go.
        dtypes: precisions.
        threads: of torch.
        repeats: of each measurement, of which the best counts.
    """
    torch.set_num_threads(threads)
    results: dict[str, Any] = {
        "command": "python -m benchmarks.engine_speed",
        "date": date.today().isoformat(),
        "machine": {**machine(), "threads": threads},
        "unit": "new tokens a second",
    }
    if find_spec("vllm") is None:
        results["vllm"] = "left out: it is not installed"
        print("vllm is not installed and is left out")
    for dtype in dtypes:
        results[dtype] = measure(model, dtype, repeats)
        write(results, json)
    print(f"written to {json}")


def write(results: dict[str, Any], out: Path) -> None:
    """Write the results so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


def measure(folder: Path, dtype: str, repeats: int) -> dict[str, Any]:
    """The figures of one precision."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = load_tokenizer(str(folder))
    tokenizer.end_ids = frozenset()  # every sample has all its tokens, so that all do the same work
    engine = TorchEngine(model, tokenizer)
    engine.generate([Request([1], [0], PASSES)], Sampling())
    linears, packed = matrices(model)
    found: dict[str, Any] = {"ours": {}, "transformers": {}, "floor": {}, "floor_packed": {}}
    found["seconds_into_huge_pages"] = seconds_into_huge_pages(packed, model.dtype)
    for case, (prompts, length, samples) in CASES.items():

        def ours(repeat: int, prompts: int = prompts, length: int = length, samples: int = samples) -> None:
            ids = prompt_ids(repeat, prompts, length).tolist()
            engine.generate([Request(p, range(samples), NEW_TOKENS) for p in ids], Sampling())

        def transformers(repeat: int, prompts: int = prompts, length: int = length, samples: int = samples) -> None:
            ids = prompt_ids(repeat, prompts, length)
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=samples,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                eos_token_id=None,
                pad_token_id=0,
            )

        tokens = prompts * samples * NEW_TOKENS
        found["ours"][case], found["transformers"][case] = (tokens / t for t in best([ours, transformers], repeats))
        rows = prompts * samples
        bare = [products(linears, rows, model.dtype), products(packed, rows, model.dtype)]
        found["floor"][case], found["floor_packed"][case] = (rows / t for t in best(bare, 5))
        rates = {name: round(figures[case], 1) for name, figures in found.items() if isinstance(figures, dict)}
        print(dtype, case, rates, flush=True)
    if find_spec("vllm") is not None:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found["vllm"] = process.submit(vllm, folder, dtype, repeats).result()
        print(dtype, "vllm", {case: round(rate, 1) for case, rate in found["vllm"].items()}, flush=True)
    found["ratio"] = {case: found["ours"][case] / found["transformers"][case] for case in CASES}
    found["milliseconds_of_a_step_at_16"] = parts(engine)
    found["seconds_after_sync"] = seconds_after_sync(engine)
    return found


def prompt_ids(repeat: int, prompts: int, length: int) -> torch.Tensor:
    """Prompts of any tokens, [prompts, length], others for every repeat."""
    return torch.randint(100, 10_000, (prompts, length), generator=torch.Generator().manual_seed(repeat))


def best(runs: Sequence[Callable[[int], None]], repeats: int) -> list[float]:
    """The least seconds of each of `runs`, which take turns: a machine that others use is faster in some minutes."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats):
        for run, taken in zip(runs, seconds):
            began = time.perf_counter()
            run(repeat)
            taken.append(time.perf_counter() - began)
    return [min(taken) for taken in seconds]


Matrices = Sequence[tuple[Callable[[torch.Tensor], torch.Tensor], int]]
"""Products with weight matrices, and the lengths of the vectors that they take."""


def matrices(model: Any) -> tuple[Matrices, Sequence[tuple[Product, int]]]:
    """All of a model, the output layer's among them: each alone, and those with the same inputs together and packed."""
    groups = [(model.lm_head,)]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        groups += [(attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)]
        groups += [(mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)]
    alone = [(linear, linear.in_features) for group in groups for linear in group]
    return alone, [(Product(*group), group[0].in_features) for group in groups]


@torch.inference_mode()
def products(matrices: Matrices, rows: int, dtype: torch.dtype) -> Callable[[int], None]:
    """The products of `rows` vectors with `matrices`."""
    inputs = {size: torch.randn(rows, size, dtype=dtype) for _, size in matrices}

    @torch.inference_mode()
    def run(_: int) -> None:
        for call, size in matrices:
            call(inputs[size])

    return run


@torch.inference_mode()
def seconds_into_huge_pages(packed: Sequence[tuple[Product, int]], dtype: torch.dtype) -> float:
    """What it takes to move all packed weights."""
    products(packed, 1, dtype)(0)  # which packs them
    began = time.perf_counter()
    for product, _ in packed:
        product.into_huge_pages()
    return time.perf_counter() - began


def parts(engine: TorchEngine) -> dict[str, float]:
    """What a decoding step of 16 samples is spent on, in milliseconds, by torch's profiler and with its cost: the difference
    of a sampling of 20 tokens and one of 4, over 16."""
    from torch.profiler import ProfilerActivity, profile

    def spent(tokens: int) -> dict[str, float]:
        requests = [Request(p, [0], tokens) for p in prompt_ids(tokens, 16, 16).tolist()]
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            engine.generate(requests, Sampling())
        whole = (time.perf_counter() - began) * 1e3
        events = {event.key: event.self_cpu_time_total / 1e3 for event in profiler.key_averages()}
        products = ("mkl::_mkl_linear", "mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::linear")
        linear = sum(events.get(name, 0.0) for name in products)
        attention = events.get("aten::_scaled_dot_product_flash_attention_for_cpu", 0.0)
        others = sum(events.values()) - linear - attention
        return {
            "linear_layers": linear,
            "attention": attention,
            "other_operations": others,
            "python_and_profiler": whole - sum(events.values()),
        }

    spent(2)
    few, many = spent(4), spent(20)
    return {name: (many[name] - few[name]) / 16 for name in many}


def seconds_after_sync(engine: TorchEngine) -> float:
    """How much longer sampling takes that follows a `sync`."""
    seconds: list[list[float]] = [[], []]
    for repeat in range(3):
        for synced, taken in enumerate(seconds):
            if synced:
                engine.sync(engine.model.named_parameters())
            requests = [Request(p, [0], 1) for p in prompt_ids(repeat, 4, 4).tolist()]
            began = time.perf_counter()
            engine.generate(requests, Sampling())
            taken.append(time.perf_counter() - began)
    return min(seconds[1]) - min(seconds[0])


def vllm(folder: Path, dtype: str, repeats: int) -> dict[str, float]:
    """vLLM's figures, measured in this process."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    llm = LLM(str(folder), dtype=dtype, max_model_len=1024, enforce_eager=True)
    found = {}
    for case, (prompts, length, samples) in CASES.items():
        how = SamplingParams(n=samples, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0)

        def run(repeat: int, prompts: int = prompts, length: int = length, how: Any = how) -> None:
            requests = [{"prompt_token_ids": p} for p in prompt_ids(repeat, prompts, length).tolist()]
            llm.generate(requests, how, use_tqdm=False)

        run(-1)
        found[case] = prompts * samples * NEW_TOKENS / best([run], repeats)[0]
    return found


if __name__ == "__main__":
    tyro.cli(main)
