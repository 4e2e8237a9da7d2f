"""Inference engines: from prompts in ids to sampled ids with their log-probabilities."""

from .base import Engine, EngineError, Generation, Request, Sampling
from .chat import EngineChat
from .torch_engine import TorchEngine
from .vllm_engine import VLLMEngine
from .vllm_server import VLLMServer

__all__ = [
    "Engine",
    "EngineChat",
    "EngineError",
    "Generation",
    "Request",
    "Sampling",
    "TorchEngine",
    "VLLMEngine",
    "VLLMServer",
]
