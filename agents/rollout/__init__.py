"""Rollouts: from dataset rows to groups of scored trajectories."""

from .chain import ChainRollout, Chains
from .filters import FILTERS, DynamicSampling, GroupFilter, Reject
from .prompts import PromptCursor, episode_seeds
from .trajectory import Group, Trajectory

__all__ = [
    "FILTERS",
    "ChainRollout",
    "Chains",
    "DynamicSampling",
    "Group",
    "GroupFilter",
    "PromptCursor",
    "Reject",
    "Trajectory",
    "episode_seeds",
]
