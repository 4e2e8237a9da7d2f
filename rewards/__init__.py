"""Rewards: what is a good answer?"""

from .base import Reward, RewardWarning, TRLReward, as_reward
from .compose import Sum
from .episode import Episode, Message, Score, StepScore, Stop
from .math_answer import MathAnswer

__all__ = [
    "Episode",
    "MathAnswer",
    "Message",
    "Reward",
    "RewardWarning",
    "Score",
    "StepScore",
    "Stop",
    "Sum",
    "TRLReward",
    "as_reward",
]
