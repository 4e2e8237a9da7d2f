"""Agents: how a policy learns in the environments."""

from .agent import Agent
from .algorithms import AGENTS, GRPO, SFT
from .base import BaseAgent
from .config import AgentConfig, OnPolicyConfig
from .evaluation import Estimate, Evaluation
from .policy import Policy

__all__ = [
    "AGENTS",
    "GRPO",
    "SFT",
    "Agent",
    "AgentConfig",
    "BaseAgent",
    "Estimate",
    "Evaluation",
    "OnPolicyConfig",
    "Policy",
]
