"""The policy: a causal language model, its tokenizer and, where one is wanted, its frozen reference."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..envs import ByteTokenizer, Tokenizer, load_tokenizer

DType = Literal["float32", "bfloat16"]


class Policy:
    """A causal language model with its tokenizer.

    Attributes:
        model: a transformers model, or a peft model around one.
        tokenizer: the model's.
        name: where it came from.
        value_head: a linear layer on the model's last hidden states that estimates values; None until an actor-critic
            asks for it.
    """

    value_head: nn.Linear | None = None

    def __init__(self, model: Any, tokenizer: Tokenizer, name: str) -> None:
        rows = model.get_input_embeddings().num_embeddings
        if rows < tokenizer.vocab_size:
            raise ValueError(f"{name}: the tokenizer has {tokenizer.vocab_size} ids, but the model embeds only {rows}")
        # Dropout would make two passes over the same tokens disagree, and with them the ratio of the policy to itself.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                vars(module)["attention_dropout"] = 0.0
        self.model = model
        self.tokenizer = tokenizer
        self.name = name

    @staticmethod
    def load_tokenizer(source: str) -> Tokenizer:
        """The tokenizer of the model `source`, without loading the model.

        Raises:
            ValueError: if there is no model of that name, or its tokenizer has no end token.
        """
        if source == "tiny":
            return ByteTokenizer()
        from transformers import AutoConfig

        if not Path(source, "adapter_config.json").is_file():
            with _naming_model(source):
                AutoConfig.from_pretrained(source)
        return load_tokenizer(source)

    @classmethod
    def load(cls, source: str | Path, *, dtype: DType = "float32", device: str = "auto") -> Policy:
        """A policy from a hub id or a folder, which may hold a peft adapter.

        Raises:
            ValueError: if there is no model of that name, or its tokenizer has no end token.
        """
        from transformers import AutoModelForCausalLM

        name = str(source)
        adapter = Path(name, "adapter_config.json").is_file()
        with _naming_model(name), _no_bars():
            model: Any = (
                _load_adapter(name, dtype) if adapter else AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
            )
        # The weights of a file begin anywhere, and the last bit of a product depends on where: as torch allocates them, they
        # compute what those of a policy do that was never saved.
        for p in model.parameters():
            p.data = p.data.clone()
        return cls(model.to(pick_device(device)), load_tokenizer(name), name)

    @classmethod
    def tiny(cls, seed: int, *, dtype: DType = "float32", device: str = "auto") -> Policy:
        """The built-in policy with random weights: a Llama of 1.1 M parameters over bytes."""
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = ByteTokenizer()
        [end] = tokenizer.end_ids
        config = LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=4096,
            initializer_range=0.06,  # near 1/sqrt(hidden_size); the customary 0.02 is meant for models ten times as wide
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=None,
            eos_token_id=end,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = LlamaForCausalLM(config)
        return cls(model.to(getattr(torch, dtype)).to(pick_device(device)), tokenizer, "tiny")

    def with_lora(self, rank: int, alpha: int, seed: int) -> Policy:
        """The same with a low-rank adapter on every linear layer (arXiv 2106.09685); only the adapter learns.

        Raises:
            ImportError: without peft; the extra `peft` installs it.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ImportError('LoRA needs peft: pip install "tokengym[peft]"') from error
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = get_peft_model(self.model, config)
        return Policy(model, self.tokenizer, self.name)

    def to(self, dtype: DType, device: str) -> Policy:
        """The same in another precision and on another device."""
        return Policy(self.model.to(getattr(torch, dtype)).to(pick_device(device)), self.tokenizer, self.name)

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "disable_adapter")

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()

    def add_value_head(self, outputs: int = 1) -> None:
        """Give the policy a value head. It starts at 0: before it has learned it says nothing, rather than noise."""
        like = next(self.model.parameters())
        width = self.model.config.get_text_config().hidden_size
        self.value_head = nn.Linear(width, outputs, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What learns, by name: the model's parameters, and those of the value head."""
        head = {} if self.value_head is None else self.value_head.named_parameters(prefix="value_head")
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad} | dict(head)

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration and tokenizer, as `Policy.load` and transformers read them."""
        with _no_bars():
            self.model.save_pretrained(str(folder))
        self.tokenizer.save(folder)


class Reference:
    """The policy as it was when this was made: its adapter switched off if it has one, a frozen copy if not."""

    def __init__(self, policy: Policy) -> None:
        self._adapted = policy.model if policy.has_adapter else None
        self._copy = None if policy.has_adapter else copy.deepcopy(policy.model).eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The model to call, within the context."""
        model = self._copy if self._adapted is None else self._adapted
        assert model is not None
        with nullcontext() if self._adapted is None else self._adapted.disable_adapter():
            yield model


def pick_device(device: str) -> torch.device:
    """ "auto" is the GPU if there is one.

    Raises:
        ValueError: for a device that torch does not know or does not see here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def check_precision(dtype: DType, device: torch.device) -> None:
    """Warn of bfloat16 on a processor that has no instructions for it."""
    if dtype == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(
            "this processor has no instructions for bfloat16, which takes many times as long as float32 on it",
            stacklevel=2,
        )


@contextmanager
def _naming_model(name: str) -> Iterator[None]:
    """Errors of loading as one sentence that names the model, without the hub's own notes of each attempt before it."""
    from huggingface_hub.utils import logging

    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no model {name!r}: no folder that has one, nor reachable on the hub ({reason})") from error
    finally:
        logging.set_verbosity(told)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which tear those of a monitor."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_adapter(folder: str, dtype: DType) -> Any:
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError as error:
        raise ImportError(f'{folder} holds a LoRA adapter, which needs peft: pip install "tokengym[peft]"') from error
    return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=dtype, is_trainable=True)
