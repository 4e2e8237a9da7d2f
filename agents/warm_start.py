"""The built-in policy's start: a few hundred supervised steps on the environment's own demonstrations, cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import platformdirs
import torch
import transformers

from ..envs import TextEnv
from .learner import Learner, demonstration_batch, negative_log_likelihood
from .monitor import Advance, progress
from .policy import Policy


@dataclass(frozen=True)
class WarmStart:
    """How long the built-in policy imitates before it learns by itself.

    Until it would sample a demonstration with probability `until` (on fresh ones, averaged over some 10 steps), or for
    `max_steps` where it cannot learn the task; then for `cooldown_steps` more, while the learning rate falls to 0, unless that
    probability reaches `at_most` before. By then it knows the form of an answer and is right now and then. The cool-down
    leaves it unsure where it does not know, instead of sure of something wrong, which reinforcement could hardly change: it
    never samples anything else.
    """

    until: float = 0.1
    at_most: float = 0.38
    max_steps: int = 600
    cooldown_steps: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 20


def warm_started(
    env: TextEnv,
    seed: int,
    max_tokens: int,
    plan: WarmStart = WarmStart(),
    progress: Callable[[str, int], AbstractContextManager[Advance]] = progress,
) -> Policy:
    """The tiny policy after `plan` on `env`, from the cache if it was made before.

    Environments are told apart by what they demonstrate. The folder of the cache is `TOKENGYM_CACHE`, or the user's cache
    directory.

    Raises:
        ValueError: if the environment has no demonstrations.
    """
    shown = [(d.prompt, d.completion) for d in islice(env.demonstrations(np.random.default_rng(seed)), 100)]
    versions = (torch.__version__, transformers.__version__)
    key = json.dumps([shown, seed, max_tokens, asdict(plan), versions], sort_keys=True)
    name = f"tiny-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    folder = Path(os.environ.get("TOKENGYM_CACHE") or platformdirs.user_cache_dir("tokengym")) / name
    if folder.is_dir():
        return Policy.load(folder, device="cpu")
    policy = Policy.tiny(seed, device="cpu")
    with progress("Imitating demonstrations", plan.max_steps + plan.cooldown_steps) as advance:
        imitate(policy, env, seed, max_tokens, plan, advance)
    # Written under another name and renamed: two programs that warm-start at once do not see each other's halves.
    temporary = folder.with_name(f"{name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    policy.save(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another program was faster, with the same result
        shutil.rmtree(temporary)
    return policy


def imitate(policy: Policy, env: TextEnv, seed: int, max_tokens: int, plan: WarmStart, advance: Advance) -> None:
    """Supervised steps of `policy` on demonstrations of `env`; `advance` is told of each."""
    demonstrations = env.demonstrations(np.random.default_rng(seed))
    learner = Learner(policy, weight_decay=0.01)
    likelihood = 0.0
    cooling = None  # steps of the cool-down that are left, once it has begun
    for step in range(plan.max_steps + plan.cooldown_steps):
        if cooling is None and (likelihood >= plan.until or step == plan.max_steps):
            cooling = plan.cooldown_steps
        warm_up = min(1.0, (step + 1) / plan.warmup_steps)
        rate = plan.learning_rate * (warm_up if cooling is None else cooling / plan.cooldown_steps)
        batch = demonstration_batch(list(islice(demonstrations, plan.batch_size)), policy.tokenizer, max_tokens, env)
        stats = learner.update(batch, negative_log_likelihood, learning_rate=rate)
        likelihood += 0.1 * (stats["likelihood"] - likelihood)
        advance(text=f"likelihood of a demonstration {likelihood:.3f}")
        cooling = cooling and cooling - 1
        if cooling == 0 or likelihood >= plan.at_most:
            advance(plan.max_steps + plan.cooldown_steps - step - 1)  # the bar counted on the most that there could be
            return
