"""Tiny real models. Their weights are large, so that a wrong position, mask or cache shows in the third digit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokengym.agents import Policy
from tokengym.envs import ByteTokenizer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 256,
    "bos_token_id": None,
    "eos_token_id": 257,
    "initializer_range": 0.3,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=False),
    "mistral": lambda: MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6),
    "gpt2": lambda: GPT2Config(
        vocab_size=262,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=257,
    ),
}


def build_policy(kind: str = "llama", seed: int = 0, **changes: object) -> Policy:
    config = CONFIGS[kind]()
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith("bias"):  # they start at 0, where an omitted bias would not show
                    p.normal_(0.0, 0.3)
    return Policy(model.float().eval(), ByteTokenizer(), kind)


def narrow_policy(seed: int) -> Policy:
    """The built-in policy, half as wide and deep: what whole runs are tested with."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    return build_policy("llama", seed, **sizes, initializer_range=0.125)


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """`make_policy(kind="llama", seed=0, **config)`: a random float32 policy over bytes."""
    return build_policy
