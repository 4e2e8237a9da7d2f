"""The speed and size of the environments over MathVerify, and of other libraries' nearest ones, in one run.

    python -m benchmarks.env_speed --json env_speed.json
    python -m benchmarks.env_speed --peer-python peers/bin/python      # see env_speed_peers.py

Everything in one process and one thread, but for the memory and the peers, which have processes of their own. Rates are
the best of five runs: other work on a machine only ever slows.

* `token_steps_per_second`: `TokenEnv`, episodes up to the limit of 1 024 tokens; `late_over_early`: the median time of a
  step near token 1 000 over that of one near token 10 of the policy.
* `vector_tokens_per_second`: 256 episodes in a `TokenVectorEnv` with `copy=False`, limit 1 024, answers of 256 tokens in
  the mean, each scored and followed by the next episode; `…_copied`: with observations that are copies, 1.3 MB a step;
  `…_full_length`: answers up to the limit.
* `turn_episodes_per_second`: `reset` and `step` with a right answer; `…_vector`: 256 in a `TextVectorEnv`.
* `megabytes_10000_envs`: resident memory of 10 000 environments of `gym.make`, reset, more than of one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from json import dumps, loads
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tokengym.envs import TextVectorEnv, TokenEnv, TokenVectorEnv
from tokengym.envs.tasks.math_verify import MathVerifyEnv

from .machine import machine

MAX_TOKENS = 1024
NUM_ENVS = 256
END = 257  # of the byte tokenizer
SECONDS = 1.5  # of one run
PEERS = Path(__file__).with_name("env_speed_peers.py")


def main(json: Path | None = None, peer_python: Path | None = None) -> None:
    """Measure, and print the results.

    Args:
        json: where the results go as JSON.
        peer_python: the Python of an environment with gem-llm and skyrl-gym; by default this one.
    """
    results: dict[str, Any] = {
        "token_steps_per_second": token_steps(),
        "late_over_early": late_over_early(),
        "vector_tokens_per_second": vector_tokens(256),
        "vector_tokens_per_second_copied": vector_tokens(256, copy=True),
        "vector_tokens_per_second_full_length": vector_tokens(None),
        "turn_episodes_per_second": turn_episodes(),
        "turn_episodes_per_second_vector": turn_episodes_vector(),
        "megabytes_10000_envs": megabytes("token"),
        "megabytes_10000_envs_turn": megabytes("turn"),
        "peers": peers(peer_python or Path(sys.executable)),
    }
    for name, value in results.items():
        print(f"{name}: {value if isinstance(value, dict) else f'{value:,.2f}'}")
    results |= {
        "command": "python -m benchmarks.env_speed",
        "date": date.today().isoformat(),
        "machine": machine(),
    }
    if json is not None:
        json.write_text(dumps(results, indent=2) + "\n")


def best(run: Callable[[], int]) -> float:
    """Units per second of `run`, which returns how many it did: the best of five times `SECONDS`."""
    run()
    found = 0.0
    for _ in range(5):
        done, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < SECONDS:
            done += run()
        found = max(found, done / passed)
    return found


def token_steps() -> float:
    env = TokenEnv(MathVerifyEnv(), max_tokens=MAX_TOKENS)
    env.reset(seed=0)

    def episode() -> int:
        observation, _ = env.reset()
        room = MAX_TOKENS - int(observation["length"])
        for _ in range(room - 1):
            env.step(65)
        assert env.step(65)[3]
        return room

    return best(episode)


def late_over_early() -> float:
    env = TokenEnv(MathVerifyEnv(), max_tokens=MAX_TOKENS + 64)
    early: list[float] = []
    late: list[float] = []
    for seed in range(400):
        env.reset(seed=seed)
        for times, steps in ((None, 5), (early, 10), (None, 980), (late, 10)):
            began = time.perf_counter_ns()
            for _ in range(steps):
                env.step(65)
            if times is not None:
                times.append((time.perf_counter_ns() - began) / steps)
    return statistics.median(late) / statistics.median(early)


def vector_tokens(mean: int | None, copy: bool = False) -> float:
    envs = TokenVectorEnv(MathVerifyEnv(), NUM_ENVS, max_tokens=MAX_TOKENS, copy=copy)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.integers(32, 127, (4096, NUM_ENVS))
    if mean is not None:
        actions[rng.random(actions.shape) < 1 / mean] = END
    at = 0

    def steps() -> int:
        nonlocal at
        for _ in range(64):
            envs.step(actions[at % len(actions)])
            at += 1
        return 64 * NUM_ENVS

    return best(steps)


def turn_episodes() -> float:
    env = MathVerifyEnv()
    env.reset(seed=0)

    def episode() -> int:
        env.reset()
        assert env.step(f"So it is \\boxed{{{env.episode.answer}}}")[1] == 1.0
        return 1

    return best(episode)


def turn_episodes_vector() -> float:
    envs = TextVectorEnv(MathVerifyEnv(), NUM_ENVS, autoreset_mode="SameStep")
    envs.reset(seed=0)

    def step() -> int:
        answers = [f"So it is \\boxed{{{env.episode.answer}}}" for env in envs.envs]
        assert envs.step(answers)[1].all()
        return NUM_ENVS

    return best(step)


def megabytes(level: str) -> float:
    """Measured in a process of its own, whose memory nothing else has used before."""
    command = [sys.executable, "-m", "benchmarks.env_speed", "memory", level]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(level: str) -> float:
    """Megabytes that 9 999 further environments add to one."""

    def made() -> gym.Env[Any, Any]:
        env = gym.make("MathVerify-v0", level=level)
        env.reset()
        return env

    envs = [made()]
    before = resident()
    envs += [made() for _ in range(9_999)]
    return (resident() - before) / 2**20


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def peers(python: Path) -> dict[str, Any]:
    done = subprocess.run([str(python), str(PEERS)], check=True, stdout=subprocess.PIPE, text=True)
    return loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        import tokengym  # noqa: F401 (registers the environments)

        print(memory(sys.argv[2]))
    else:
        tyro.cli(main)
