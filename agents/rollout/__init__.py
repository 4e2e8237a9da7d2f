"""Rollouts: from dataset rows to groups of scored trajectories."""

from .chain import ChainRollout
from .filters import FILTERS, DynamicSampling, GroupFilter, Reject
from .prompts import PromptCursor, episode_seeds
from .trajectory import Group, Trajectory

__all__ = [
    "FILTERS",
    "ChainRollout",
    "DynamicSampling",
    "Group",
    "GroupFilter",
    "PromptCursor",
    "Reject",
    "Trajectory",
    "episode_seeds",
]
