"""The algorithms, one file each, and the catalogue of them."""

from ..base import BaseAgent
from .grpo import GRPO
from .sft import SFT

#: Every agent by the name that the command line knows it by.
AGENTS: dict[str, type[BaseAgent]] = {"grpo": GRPO, "sft": SFT}

__all__ = ["AGENTS", "GRPO", "SFT"]
