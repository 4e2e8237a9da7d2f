"""The README's Python runs as it stands there, with small models and few steps in place of the hub's and of long training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from tokengym.agents import Policy
from transformers import LlamaConfig, LlamaForCausalLM

from .envs.templates import chat

README = Path(__file__).parents[1] / "README.md"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_snippets_run(tmp_path):
    tokenizer = chat("smollm2")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=2048, **sizes)
    Policy(LlamaForCausalLM(config), tokenizer, "small").save(tmp_path / "small")
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": f"What is {i} + 2?", "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"} for i in range(20)]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    program = "\n".join(blocks)
    for long, short in [
        (f'"{HUB_ID}"', '"small"'),
        ("group_size=8)", "group_size=2, prompts_per_step=2, max_new_tokens=4, learning_rate=1e-5, console=False)"),
        ("steps=200", "steps=2"),
        ("episodes=200", "episodes=4"),
    ]:
        assert long in program, f"the README no longer has {long}; adapt this test"
        program = program.replace(long, short)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "runs" / "first" / "policy" / "model.safetensors").is_file()
