"""Inference engines: from prompts in ids to sampled ids with their log-probabilities."""

from .base import Engine, Generation, Request, Sampling
from .torch_engine import TorchEngine

__all__ = ["Engine", "Generation", "Request", "Sampling", "TorchEngine"]
