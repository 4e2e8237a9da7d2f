"""Rollouts: from dataset rows to groups of scored trajectories."""

from .chain import ChainRollout
from .prompts import PromptCursor, episode_seeds
from .trajectory import Group, Trajectory

__all__ = ["ChainRollout", "Group", "PromptCursor", "Trajectory", "episode_seeds"]
