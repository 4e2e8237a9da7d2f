"""The rollout viewer: a run's recorded trajectories as one self-contained page."""

from __future__ import annotations

from .page import build, write
from .record import Record, read
from .server import serve

__all__ = ["Record", "build", "read", "serve", "write"]
