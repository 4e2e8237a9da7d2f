"""What a run leaves behind and what it shows: metric and sample files, TensorBoard events, a live console."""

from __future__ import annotations

from .console import Advance, progress
from .monitor import Monitor
from .rollouts import StepRecording
from .sample import Sample

__all__ = ["Advance", "Monitor", "Sample", "StepRecording", "progress"]
