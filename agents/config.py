"""The configuration of agents: frozen, documented, and refused when it makes no sense."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from .engines import Sampling
from .functional import Aggregation
from .policy import DType
from .rollout.filters import spelled


@dataclass(frozen=True)
class AgentConfig:
    """What every agent has."""

    learning_rates: ClassVar[dict[str, float]] = {"tiny": 4e-4, "lora": 1e-5, "other": 1e-6}

    steps: int = 120
    """Steps of `learn()`: one batch of data each."""
    seed: int = 0
    """Everything random follows from it."""
    learning_rate: float | None = None
    """Of AdamW. None: `learning_rates` of the built-in policy, of LoRA, or of other models."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from 0: AdamW's first steps are large whatever the gradient."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate goes on after the warm-up; the last two fall to 0 at the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    micro_batch_tokens: int = 4096
    """Tokens, padding counted, that go through the model at once in learning. Less takes less memory; results stay."""
    dtype: DType = "float32"
    """Of the weights. With bfloat16, optimiser steps are made on float32 copies."""
    device: str = "auto"
    """Where to compute: auto (the GPU if there is one), cpu, cuda, cuda:1, …"""
    engine: Literal["torch", "vllm"] = "torch"
    """What samples: the learner's own model (torch), or vLLM (the extra vllm)."""
    engine_url: str | None = None
    """A vLLM server on this machine to sample with, as http://localhost:8000, in place of vLLM in the same process."""
    engine_sleeps: bool = False
    """Let vLLM give the GPU's memory back while the weights learn (its sleep mode, on GPUs), at the price of copying weights
    to the host and back in every step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model for learning (torch.compile): a minute at the start, faster steps after it."""
    lora_rank: int = 0
    """Rank of the low-rank adapters that learn in place of the weights; 0 trains the weights themselves."""
    lora_alpha: int = 32
    """Scale of the adapters: their output is multiplied by lora_alpha / lora_rank."""
    max_tokens: int = 1024
    """Tokens of an episode, its prompt included; a longer one is truncated."""
    max_new_tokens: int | None = None
    """Tokens of a turn; an episode with a longer one is truncated. None: 32 for the built-in policy, else 256."""
    max_seconds: float | None = None
    """Seconds that an episode may take, its tools included; one that goes on after that is truncated. None: as long as it
    takes."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept, the newest."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}")
        self._at_least(0, "steps", "seed", "warmup_steps", "weight_decay", "lora_rank")
        self._at_least(1, "micro_batch_tokens", "max_tokens", "checkpoint_every", "keep_checkpoints", "max_new_tokens")
        self._above(0, "learning_rate", "max_grad_norm", "lora_alpha", "max_seconds")
        if self.engine_url is not None and self.engine != "vllm":
            raise ValueError(f"engine_url is for engine='vllm', not {self.engine!r}")
        if self.engine_sleeps and (self.engine != "vllm" or self.engine_url is not None):
            raise ValueError("engine_sleeps is for vLLM in the same process: engine='vllm' without engine_url")
        if self.engine == "vllm" and self.lora_rank:
            raise ValueError("vLLM samples with whole weights: lora_rank goes with engine='torch'")

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} is at least {least}, not {value}")

    def _above(self, bound: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > bound:
                raise ValueError(f"{name} is above {bound}, not {value}")

    def _between(self, low: float, high: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is from {low} to {high}, not {value}")

    @classmethod
    def make(cls, **options: Any) -> Self:
        """A configuration from options by name.

        Raises:
            TypeError: for an unknown option, naming the nearest known one.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise TypeError(f"unknown option {name!r}{hint} Known are {', '.join(known)}")
        return cls(**options)

    def resolved(self, model: str) -> Self:
        """With the defaults that depend on the model filled in."""
        rate = self.learning_rates["tiny" if model == "tiny" else "lora" if self.lora_rank else "other"]
        new_tokens = 32 if model == "tiny" else 256
        return dataclasses.replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            max_new_tokens=new_tokens if self.max_new_tokens is None else self.max_new_tokens,
        )


@dataclass(frozen=True)
class OnPolicyConfig(AgentConfig):
    """What agents that learn from their own samples have besides."""

    token_budget: int | None = None
    """End `learn()` with the step that brings the sampled tokens to this number, and not after `steps`: how algorithms are
    compared at equal cost."""
    prompts_per_step: int = 64
    """Dataset rows that a step starts from."""
    group_size: int = 8
    """Completions of each of them."""
    temperature: float = 1.0
    """Of sampling, and of the log-probabilities in the loss."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that has this much probability."""
    top_k: int = 0
    """Sample from this many of the likeliest tokens; 0: from all."""
    stop: tuple[str, ...] = ()
    """Strings that end a turn."""
    epochs: int = 1
    """Passes over a step's samples."""
    minibatches: int = 2
    """Optimiser steps per pass, each on its share of the prompts."""
    aggregation: Aggregation = "token-mean"
    """How the losses of tokens become one number."""
    kl_coef: float = 0.0
    """Weight β of the divergence from the reference, in the loss (k3) or in the reward (k1) as the algorithm has it."""
    entropy_coef: float = 0.0
    """Weight of the policy's entropy, which is subtracted from the loss."""
    monitor_reference: bool = True
    """Report the divergence from the reference also where the algorithm does without it: costs a copy of the weights and a
    forward pass."""
    target_kl: float | None = None
    """End a step's passes once the policy is 1.5 times this divergence (k3, mean over tokens) away from the one that
    sampled."""
    correction: Literal["none", "truncate", "mask"] = "none"
    """Between sampler and trainer, whose log-probabilities differ a little: weigh each token's loss by the ratio of its
    probabilities, cut off at correction_cap (truncate), or leave out the sequences whose ratio is beyond (mask)."""
    correction_cap: float = 2.0
    """See correction."""
    filter_groups: tuple[str, ...] = ()
    """Which groups are left out: dynamic_sampling (those that are all alike; others are sampled in their place), reject (those
    that are all right or all wrong), with parameters as in "reject(low=0.1, high=0.9)"; none. See agents/rollout/filters.py."""
    mask_truncated: bool = False
    """Do not learn from completions that were cut at a limit."""
    record_rollouts_every: int = 10
    """Keep the trajectories of the first step and of every so manyth, for `tokengym view`; 0 keeps none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "prompts_per_step", "group_size", "epochs", "minibatches")
        self._at_least(0, "kl_coef", "entropy_coef", "record_rollouts_every")
        self._above(0, "token_budget", "temperature", "target_kl", "correction_cap")
        object.__setattr__(self, "filter_groups", spelled(self.filter_groups))
        if self.filter_groups and self.group_size < 2:
            raise ValueError(
                "filter_groups looks at how completions of a prompt differ: group_size is at least 2, not 1"
            )
        if not isinstance(self.stop, str):
            object.__setattr__(self, "stop", tuple(self.stop))  # JSON gives a list
        Sampling(self.temperature, self.top_p, self.top_k, self.stop)  # refuses what cannot be sampled with


@dataclass(frozen=True)
class GroupConfig(OnPolicyConfig):
    """What agents that compare the completions of a prompt with each other have besides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(
                f"group_size is at least 2, not {self.group_size}: the completions of a prompt are compared with each other"
            )
