"""TokenGym: Gymnasium environments for text generation, with pluggable rewards, and the agents that learn in them.

`import tokengym` registers the environments with Gymnasium. `tokengym.agents` needs torch and is imported when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokengym import envs, rewards
from tokengym.rewards import Episode, Message, Score, Stop

if TYPE_CHECKING:
    from tokengym import agents

__version__ = "0.1.0"
__all__ = ["Episode", "Message", "Score", "Stop", "__version__", "agents", "envs", "rewards"]

envs.register_environments()


def __getattr__(name: str) -> Any:
    if name == "agents":
        return import_module(".agents", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
