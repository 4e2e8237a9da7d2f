"""A step of GRPO beside a step of TRL's `GRPOTrainer`: seconds, tokens a second, peak memory.

    pip install -e ".[trl]"
    python -m benchmarks.train_speed --peer trl --model smollm2 --json train_speed.json

`--model` is a folder or hub id; `benchmarks.smollm2` makes one without a hub. Every run is a process of its own: one
step to warm up, then the steps that count. The runs follow each other in turns (ours, TRL, ours, TRL, …), so that a
machine whose speed changes slows both; the figures are medians over the steps of all turns. Peak memory is the largest
resident set of the process (`ru_maxrss`), Python, libraries and weights included.

The work is the same on both sides: 4 prompts of `MathVerify-v0` with the model's chat template, 8 completions of each at
temperature 1, all of them 64 tokens long (the end token is forbidden in TRL and means nothing to us), one reward
function, which gives every completion a gradient, advantages normalised in the group, PPO's clipped loss averaged over
each completion's tokens, one optimiser step of AdamW per batch, no reference model, no evaluation, no logging.

Runs:

* `ours`: float32, `micro_batch_tokens=1280`.
* `trl`: float32, the whole batch in one pass and without gradient checkpointing.
* `trl_small_batches`: the same with TRL's default of 8 completions a pass, 4 passes a step.
* `trl_checkpointing`: with its other default besides, gradient checkpointing: less memory and more time.
* `ours_bfloat16`: ours with `dtype="bfloat16"`: bfloat16 weights with float32 masters.

Everything else of TRL's is its default, but for `bf16`, which is off. Where anything else runs on the machine, set
OMP_WAIT_POLICY=PASSIVE for both: threads that spin lose half of their time then.

`ratio.time` and `ratio.memory` are ours over TRL's in float32; `ratio.time_bfloat16` is ours in bfloat16 over TRL's in
float32.
"""

from __future__ import annotations

import json as jsonlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from .machine import machine

PROMPTS, GROUP, NEW_TOKENS = 4, 8, 64
LEARNING_RATE = 1e-6
MICRO_BATCH_TOKENS = 1280
RUNS = ("ours", "trl", "ours_bfloat16", "trl_small_batches", "trl_checkpointing")
MEASURED = ("step_seconds", "sample_seconds", "learn_seconds")


def main(
    model: str,
    peer: Literal["trl", "none"] = "trl",
    json: Path | None = None,
    turns: int = 2,
    steps: int = 3,
    runs: tuple[str, ...] = RUNS,
) -> None:
    """Measure, and print the results.

    Args:
        model: the folder or hub id of a causal language model with a chat template.
        peer: what to compare with.
        json: where the results go as JSON.
        turns: how often every run is made.
        steps: steps that count in each.
        runs: which runs to make; see above.
    """
    if unknown := set(runs) - set(RUNS):
        sys.exit(f"no run {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    runs = tuple(name for name in runs if peer == "trl" or name.startswith("ours"))
    rates = {str(d).removeprefix("torch."): matrix_rate(d) for d in (torch.float32, torch.bfloat16)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for turn in range(turns):
        for name in runs:
            found[name].append(run(name, model, steps))
            print(f"{name}: {summary(found[name][-1:])}", flush=True)
        results: dict[str, Any] = {name: summary(all_turns) for name, all_turns in found.items()}
        results["ratio"] = ratios(results)
        results |= {
            "prompts": PROMPTS,
            "completions": PROMPTS * GROUP,
            "new_tokens": NEW_TOKENS,
            "turns": turn + 1,
            "steps": steps,
            "matrix_product_gflops": rates,
            "command": "python -m benchmarks.train_speed --peer trl --model DIR",
            "date": date.today().isoformat(),
            "machine": machine() | {"threads": torch.get_num_threads()},
        }
        if json is not None:  # after each turn: what was measured is kept if the next is interrupted
            json.write_text(jsonlib.dumps(results, indent=2) + "\n")
        print(f"over TRL's: {results['ratio']}")


def run(name: str, model: str, steps: int) -> dict[str, Any]:
    """One run in a process of its own: what it reports of each step, and its peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.train_speed", "worker", name, model, str(steps)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([*command, folder], stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{name} failed:\n{errors.read()}")
        lines = Path(folder, "steps.jsonl").read_text().splitlines()
    return {"steps": [jsonlib.loads(line) for line in lines[1:]], "peak_mb": usage.ru_maxrss / 1024}


def summary(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the steps of all turns; the most memory of any."""
    steps = [step for turn in turns for step in turn["steps"]]
    middle = {name: statistics.median(step[name] for step in steps) for name in (*MEASURED, "tokens", "prompt_tokens")}
    return {
        **{name: round(middle[name], 3) for name in MEASURED},
        "peak_mb": round(max(turn["peak_mb"] for turn in turns)),
        "tokens": middle["tokens"],
        "prompt_tokens": middle["prompt_tokens"],
        "tokens_per_second": round(middle["tokens"] / middle["step_seconds"], 1),
        "sample_tokens_per_second": round(middle["tokens"] / middle["sample_seconds"], 1),
        "learn_tokens_per_second": round((middle["tokens"] + middle["prompt_tokens"]) / middle["learn_seconds"], 1),
    }


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Ours over TRL's."""
    pairs = {
        "time": ("ours", "trl", "step_seconds"),
        "sample_time": ("ours", "trl", "sample_seconds"),
        "learn_time": ("ours", "trl", "learn_seconds"),
        "memory": ("ours", "trl", "peak_mb"),
        "time_bfloat16": ("ours_bfloat16", "trl", "step_seconds"),
        "memory_bfloat16": ("ours_bfloat16", "trl", "peak_mb"),
        "time_small_batches": ("ours", "trl_small_batches", "step_seconds"),
        "memory_small_batches": ("ours", "trl_small_batches", "peak_mb"),
        "time_checkpointing": ("ours", "trl_checkpointing", "step_seconds"),
        "memory_checkpointing": ("ours", "trl_checkpointing", "peak_mb"),
    }
    return {
        name: round(results[a][key] / results[b][key], 3)
        for name, (a, b, key) in pairs.items()
        if a in results and b in results
    }


def matrix_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Billions of operations a second of a square matrix product: the best of those that fit into two seconds, of two at least
    (a processor without instructions for bfloat16 takes seconds for one)."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < 2:
        began = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - began)
    return round(2 * size**3 / min(seconds) / 1e9, 1)


# In the processes.


def worker(name: str, model: str, steps: int, folder: str) -> None:
    """One step to warm up and `steps` more, each a line of `folder`/steps.jsonl."""
    with Path(folder, "steps.jsonl").open("w") as file:

        def report(**measured: float) -> None:
            file.write(jsonlib.dumps(measured) + "\n")

        if name.startswith("ours"):
            train_ours(model, "bfloat16" if name.endswith("bfloat16") else "float32", steps + 1, report)
        else:
            train_trl(model, name != "trl", name.endswith("checkpointing"), steps + 1, folder, report)


def share_of_vowels(completions: list[str], **_: Any) -> list[float]:
    """A reward in which hardly any two completions are alike."""
    return [sum(map(text.count, "aeiou")) / max(1, len(text)) for text in completions]


def share_of_vowels_in_messages(completions: list[list[dict[str, str]]], **_: Any) -> list[float | None]:
    """The same for TRL, which passes conversations."""
    return [*share_of_vowels([messages[-1]["content"] for messages in completions])]


def train_ours(model: str, dtype: str, steps: int, report: Callable[..., None]) -> None:
    from tokengym.agents import GRPO

    agent = GRPO(
        model,
        env_options={"reward": share_of_vowels},
        dtype=dtype,
        device="cpu",
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        schedule="constant",
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        minibatches=1,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        max_new_tokens=NEW_TOKENS,
        monitor_reference=False,
        record_rollouts_every=0,
        console=False,
    )
    agent.policy.tokenizer.end_ids = frozenset()
    seen = {"prompts": 0}
    pack = agent.pack

    def counting(groups: Any) -> Any:
        batch = pack(groups)
        seen["prompts"] = batch.num_tokens - int(batch.num_actions.sum())
        return batch

    agent.pack = counting
    for _ in range(steps):
        before = agent.sampled_tokens
        began = time.perf_counter()
        metrics, _ = agent.train_step()
        agent.engine.sync(agent.policy.named_parameters())
        seconds = time.perf_counter() - began
        agent.step += 1
        tokens = agent.sampled_tokens - before
        sampling = tokens / metrics["speed/sample_tokens_per_s"]
        report(
            step_seconds=seconds,
            sample_seconds=sampling,
            learn_seconds=seconds - sampling,
            tokens=tokens,
            prompt_tokens=seen["prompts"],
        )


def train_trl(
    model: str, small_batches: bool, checkpointing: bool, steps: int, folder: str, report: Callable[..., None]
) -> None:
    from datasets import Dataset
    from tokengym.envs import as_text_env
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]

    env = as_text_env("MathVerify-v0")
    rows = Dataset.from_list([{"prompt": env.opening(env.rows[i])} for i in range(PROMPTS * steps)])
    passes = 4 if small_batches else 1
    config = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * GROUP // passes,
        gradient_accumulation_steps=passes,
        gradient_checkpointing=checkpointing,
        num_generations=GROUP,
        max_completion_length=NEW_TOKENS,
        generation_kwargs={"min_new_tokens": NEW_TOKENS},
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    measured: dict[str, float] = {}

    class Trainer(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began = time.perf_counter()
            output = super()._generate_and_score_completions(inputs)
            measured["sample_seconds"] = time.perf_counter() - began
            measured["tokens"] = int(output["completion_mask"].sum())
            measured["prompt_tokens"] = int(output["prompt_mask"].sum())
            return output

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.began
            report(step_seconds=seconds, learn_seconds=seconds - measured["sample_seconds"], **measured)

    Trainer(
        model, reward_funcs=share_of_vowels_in_messages, args=config, train_dataset=rows, callbacks=[Clock()]
    ).train()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        tyro.cli(main)
