"""The algorithms, a short file for each family, and the catalogue of them."""

from ..base import BaseAgent
from .actor_critic import A2C
from .arpo import ARPO
from .cispo import CISPO, SAPO
from .cppo import CPPO
from .dapo import DAPO
from .eepo import EEPO
from .ghpo import GHPO
from .gigpo import GiGPO
from .grpo import GRPO, DrGRPO
from .grpo_lambda import GRPOLambda
from .gspo import GMPO, GSPO, GSPOToken
from .gvpo import GVPO
from .ppo import PPO, PPOPenalty
from .ppo_lagrangian import PPOLagrangian
from .raft import RAFT, RAFTPlusPlus, ReinforceRej
from .reinforce import Reinforce, ReinforcePlusPlus, ReinforcePlusPlusBaseline
from .replay_grpo import ReplayGRPO
from .rloo import OPO, RLOO, ReMax
from .sft import SFT
from .training_free import TrainingFreeGRPO
from .tree_grpo import TreeGRPO
from .ufo import UFO

#: Every agent by the name that the command line knows it by.
AGENTS: dict[str, type[BaseAgent]] = {
    "sft": SFT,
    "reinforce": Reinforce,
    "reinforce_plus_plus": ReinforcePlusPlus,
    "reinforce_plus_plus_baseline": ReinforcePlusPlusBaseline,
    "reinforce_rej": ReinforceRej,
    "raft": RAFT,
    "raft_plus_plus": RAFTPlusPlus,
    "rloo": RLOO,
    "remax": ReMax,
    "opo": OPO,
    "a2c": A2C,
    "ppo": PPO,
    "ppo_penalty": PPOPenalty,
    "ppo_lagrangian": PPOLagrangian,
    "grpo": GRPO,
    "dr_grpo": DrGRPO,
    "dapo": DAPO,
    "cppo": CPPO,
    "gspo": GSPO,
    "gspo_token": GSPOToken,
    "gmpo": GMPO,
    "gvpo": GVPO,
    "cispo": CISPO,
    "sapo": SAPO,
    "grpo_lambda": GRPOLambda,
    "replay_grpo": ReplayGRPO,
    "ghpo": GHPO,
    "eepo": EEPO,
    "ufo": UFO,
    "training_free_grpo": TrainingFreeGRPO,
    "arpo": ARPO,
    "tree_grpo": TreeGRPO,
    "gigpo": GiGPO,
}

__all__ = [
    "A2C",
    "AGENTS",
    "ARPO",
    "CISPO",
    "CPPO",
    "DAPO",
    "EEPO",
    "GHPO",
    "GMPO",
    "GRPO",
    "GSPO",
    "GVPO",
    "OPO",
    "PPO",
    "RAFT",
    "RLOO",
    "SAPO",
    "SFT",
    "UFO",
    "DrGRPO",
    "GRPOLambda",
    "GSPOToken",
    "GiGPO",
    "PPOLagrangian",
    "PPOPenalty",
    "RAFTPlusPlus",
    "ReMax",
    "Reinforce",
    "ReinforcePlusPlus",
    "ReinforcePlusPlusBaseline",
    "ReinforceRej",
    "ReplayGRPO",
    "TrainingFreeGRPO",
    "TreeGRPO",
]
