"""What every agent has: a policy, an environment, a run folder, checkpoints, evaluation."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import gymnasium as gym
from rich.console import Console
from torch import Tensor

from ..envs import ENVIRONMENTS, Rows, TextEnv, Tokenizer, as_text_env
from ..envs.core import text_of
from .config import AgentConfig
from .engines import Engine, EngineError, Sampling, TorchEngine, VLLMEngine, VLLMServer
from .engines.vllm_engine import require_vllm
from .evaluation import Evaluation, summarize
from .interrupts import Interrupts
from .learner import Learner, checkpoints, load_checkpoint, save_checkpoint
from .monitor import Advance, Monitor, Sample, progress
from .policy import Policy, check_precision, pick_device
from .rollout import ChainRollout, Chains, PromptCursor, episode_seeds
from .run_folder import is_json, new_run, read_description, writable, write_description
from .warm_start import warm_started

C = TypeVar("C", bound=AgentConfig)


class BaseAgent(ABC, Generic[C]):
    """A policy that learns in an environment. Subclasses define `train_step`.

    Args:
        model: "tiny" (the built-in policy, warm-started on the environment's demonstrations), a hub id or a folder.
        env: an environment id, or an environment made with `gym.make`.
        env_options: arguments of the environment, if `env` is an id: `dict(dataset="gsm8k/train.jsonl")`.
        eval_env: where `evaluate` takes its problems; by default the test split of `env` if that is an id of TokenGym's,
            else `env` itself.
        run_dir: where metrics and checkpoints go; by default a new folder below `runs`.
        console: show progress.
        options: the fields of `Config`, by name.

    Raises:
        ValueError, TypeError: for options, models, environments, rewards or datasets that cannot work, before any work
        is done.
        OSError: if `run_dir` cannot be written.
    """

    Config: type[C]
    summary: ClassVar[str]
    paper: ClassVar[str]

    def __init__(
        self,
        model: str | Path = "tiny",
        env: str | gym.Env = "MathVerify-v0",
        *,
        env_options: Mapping[str, Any] | None = None,
        eval_env: str | gym.Env | None = None,
        run_dir: str | Path | None = None,
        console: bool = True,
        **options: Any,
    ) -> None:
        self.model_name = str(model)
        self.config: C = self.Config.make(**options).resolved(self.model_name)
        self.env_is_id = isinstance(env, str)
        self.env_id = env if isinstance(env, str) else getattr(env.spec, "id", type(env.unwrapped).__name__)
        self.env_options = {n: str(v) if isinstance(v, Path) else v for n, v in (env_options or {}).items()}
        if self.env_options and not self.env_is_id:
            raise ValueError(f"env_options are for an environment's id; {self.env_id} is made already")
        self.run_dir = None if run_dir is None else new_run(Path(run_dir))
        self.console = console
        self.step = 0
        self.total_steps = self.config.steps
        self._by_tokens = self.token_budget is not None
        self.sampled_tokens = 0

        # All that can be refused cheaply is refused before the policy is loaded, or even warm-started.
        if self.config.engine == "vllm" and self.config.engine_url is None:
            require_vllm()
        check_precision(self.config.dtype, pick_device(self.config.device))
        tokenizer = Policy.load_tokenizer(self.model_name)
        self.asked_env = self._make_env(env, tokenizer)
        self.env = self.framed(self.asked_env)
        self._eval_env = eval_env
        self._check_prompts(tokenizer)
        self.policy = self.load_policy(self.model_name)
        if self.config.lora_rank:
            self.policy = self.policy.with_lora(self.config.lora_rank, self.config.lora_alpha, self.config.seed)
        self.engine = self.make_engine()
        self.prompts = PromptCursor(len(self.env.rows), self.config.seed)
        self.learner = self.make_learner()
        self.prepare()

    # What an algorithm defines.

    @abstractmethod
    def train_step(self) -> tuple[dict[str, float], Sequence[Sample]]:
        """One step of learning: its metrics, and a few samples to look at."""

    def framed(self, env: TextEnv) -> TextEnv:
        """The environment to learn in, made of the one that was asked for. Held-out problems are asked without the frame."""
        return env

    def prepare(self) -> None:
        """Whatever the algorithm needs besides, made of the policy as it is before any step."""

    def state(self) -> dict[str, Any]:
        """What the algorithm has to remember between steps, as JSON holds it."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the algorithm has to remember, beside the policy and its optimiser."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""

    def notes(self) -> Sequence[str]:
        """Lines to show beside the numbers of an evaluation."""
        return ()

    def load_policy(self, model: str) -> Policy:
        """The policy that learning starts from."""
        c = self.config
        if model == "tiny":
            return warm_started(self.env, c.seed, c.max_tokens, progress=self._progress).to(c.dtype, c.device)
        return Policy.load(model, dtype=c.dtype, device=c.device)

    def make_engine(self) -> Engine:
        """What samples from the policy."""
        c, model, tokenizer = self.config, self.policy.model, self.policy.tokenizer
        if c.engine == "torch":
            return TorchEngine(model, tokenizer)
        if c.engine_url is not None:
            return VLLMServer(c.engine_url, model, tokenizer, max_tokens=c.max_tokens)
        return VLLMEngine(model, tokenizer, max_tokens=c.max_tokens, sleeps=c.engine_sleeps)

    def make_learner(self) -> Learner:
        c = self.config
        return Learner(
            self.policy,
            micro_batch_tokens=c.micro_batch_tokens,
            max_grad_norm=c.max_grad_norm,
            weight_decay=c.weight_decay,
            gradient_checkpointing=c.gradient_checkpointing,
            compile=c.compile,
        )

    # What a user calls.

    def learn(self, steps: int | None = None, callback: Callable[[Self], object] | None = None) -> Self:
        """Make `steps` more steps; by default as many as are left of those asked for before, of `config.steps`, or of
        `token_budget`. After each step `callback` is called with the agent, for instance to evaluate it.

        Progress is shown and logged to `run_dir`, where checkpoints are written every `checkpoint_every` steps and at
        the end. SIGINT and SIGTERM finish the step, leave a checkpoint and end the program; `load(run_dir).learn()`
        goes on from there. So it does after an engine's failure.

        Raises:
            EngineError: if the engine has failed. The step under way is learned from as far as it was sampled, and a
                checkpoint is left.
        """
        if steps is not None:
            self.total_steps = self.step + steps
        self._by_tokens = steps is None and self.token_budget is not None
        if self._done >= 1.0:
            return self
        folder = self._open_run()
        monitor = Monitor(
            folder,
            title=f"{type(self).__name__} on {self.env_id}",
            config=self._description(),
            total_steps=self.total_steps,
            first_step=self.step,
            console=self.console,
        )
        with monitor, Interrupts() as interrupts:
            while self._done < 1.0:
                started = time.perf_counter()
                metrics, samples = self.train_step()
                lost = self._hand_over()
                metrics |= {"learning_rate": self.learning_rate, "time/step_s": time.perf_counter() - started}
                metrics |= {"sampled_tokens": float(self.sampled_tokens)}
                self.step += 1
                if self._by_tokens:  # as many steps as there will be, if they go on like those so far
                    self.total_steps = max(self.step, round(self.step / max(self._done, 1e-6)))
                    monitor.expect(self.total_steps)
                monitor.log(self.step, metrics, samples)
                if lost is not None:
                    self._checkpoint(folder)
                    raise EngineError(f"{lost}; stopped after step {self.step}; checkpoint in {folder}") from lost
                if callback is not None:
                    callback(self)
                over = self._done >= 1.0 or interrupts.received is not None
                if over or self.step % self.config.checkpoint_every == 0:
                    self._checkpoint(folder)
                if interrupts.received is not None:
                    monitor.message(
                        f"{interrupts.received.name}: stopped after step {self.step}; checkpoint in {folder}"
                    )
                    interrupts.exit()
        return self

    def evaluate(self, episodes: int = 200, samples: int = 1, temperature: float = 1.0) -> Evaluation:
        """Ask the policy held-out problems: the first `episodes` different ones of the test split in a fixed shuffled order
        (fewer if there are no more), `samples` times each.

        Args:
            temperature: of sampling: 1 asks the policy as it is, 0 takes the likeliest tokens.
        """
        if episodes < 1 or samples < 1:
            raise ValueError(f"episodes and samples are at least 1, not {episodes} and {samples}")
        env = self._held_out()
        different: dict[str, int] = {}
        for row in PromptCursor(len(env.rows), seed=0).draw(len(env.rows)):
            different.setdefault(text_of(env.opening(env.rows[row])), row)
            if len(different) == episodes:
                break
        rows = list(different.values())
        rollout = self.make_rollout(env)
        seeds = episode_seeds(0, 0, len(rows), samples)
        groups = []
        learned = env.reward.state()
        self.engine.forget()  # neither is evaluation changed by what came before nor what comes after by evaluation
        with self._progress(f"Evaluating {self.env_id}", len(rows)) as advance:
            for start in range(0, len(rows), 128):
                part = slice(start, start + 128)
                groups += rollout.run(rows[part], seeds[part], Sampling(temperature=temperature))
                self.engine.check()
                advance(len(rows[part]))
        self.engine.forget()
        env.reward.load_state(learned)  # a reward with statistics of its own has not been trained on these episodes
        return summarize(groups)

    def save(self, folder: str | Path) -> None:
        """Write the agent to `folder`: its configuration, a checkpoint, and the policy in the form that transformers reads."""
        folder = writable(Path(folder))
        write_description(folder, self._description())
        self._checkpoint(folder)
        self.policy.save(folder / "policy")

    @classmethod
    def load(cls, folder: str | Path, *, env: str | gym.Env | None = None, **overrides: Any) -> Self:
        """The agent that `save` wrote to `folder`, or the run that was logged there, at its last checkpoint.

        `env` is needed if the agent was made with an environment object. `overrides` are `console`, `env_options` or
        fields of `Config` to change.

        Raises:
            ValueError: if there is no agent of this class, or no complete checkpoint.
        """
        folder = Path(folder)
        described = read_description(folder)
        if described["agent"] != cls.__name__:
            raise ValueError(f"{folder} holds a {described['agent']} agent, not {cls.__name__}")
        saved = checkpoints(folder / "checkpoints")
        if not saved:
            raise ValueError(f"{folder} has no complete checkpoint: the run was stopped before its first")
        if env is None and not described["env_is_id"]:
            raise ValueError(f"{folder} was made with an environment object, {described['env']}: pass env=")
        if described["env_options_left_out"] and env is None and "env_options" not in overrides:
            names = ", ".join(described["env_options_left_out"])
            raise ValueError(f"{folder} was made with env_options that a file cannot hold ({names}): pass env_options=")
        known = {"env_options": described["env_options"]} | described["config"]
        agent = cls(described["model"], described["env"] if env is None else env, **(known | overrides))
        agent.run_dir = folder
        state = load_checkpoint(saved[-1], agent.policy, agent.learner, agent.load_tensors)
        agent.step, agent.total_steps = state["step"], state["total_steps"]
        agent.engine.sync(agent.policy.named_parameters())
        agent.engine.version = agent.step
        agent.sampled_tokens = state["sampled_tokens"]
        agent.prompts.load_state(state["prompts"])
        agent.load_state(state["algorithm"])
        agent.env.reward.load_state(state["reward"])
        return agent

    # Helpers.

    def _hand_over(self) -> EngineError | None:
        """Give the engine the weights that were learned. Returns why it did not take them."""
        try:
            self.engine.sync(self.policy.named_parameters())
        except EngineError as error:
            return error
        return None

    @property
    def learning_rate(self) -> float:
        """Of the step under way."""
        return self.scheduled(self.config.learning_rate)

    def scheduled(self, learning_rate: float | None) -> float:
        """A learning rate at the step under way: after the warm-up, as the schedule has it."""
        c = self.config
        assert learning_rate is not None
        warm_up = min(1.0, (self.step + 1) / c.warmup_steps) if c.warmup_steps else 1.0
        done = min(self._done, 1.0)
        decay = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[c.schedule]
        return learning_rate * warm_up * decay

    @property
    def token_budget(self) -> int | None:
        """Sampled tokens after which `learn()` ends, where that does not go by steps."""
        return None

    @property
    def prompt_limit(self) -> int:
        """Tokens that no prompt may have."""
        return self.config.max_tokens

    @property
    def _done(self) -> float:
        """How much of what was asked for has been done, as a share."""
        if self._by_tokens:
            assert self.token_budget is not None
            return self.sampled_tokens / self.token_budget
        return self.step / self.total_steps if self.total_steps else 1.0

    def make_rollout(self, env: TextEnv, chains: Callable[..., Chains] = Chains) -> ChainRollout:
        c = self.config
        assert c.max_new_tokens is not None
        return ChainRollout(
            env,
            self.engine,
            self.policy.tokenizer,
            max_tokens=c.max_tokens,
            max_new_tokens=c.max_new_tokens,
            max_seconds=c.max_seconds,
            chains=chains,
        )

    def _held_out(self) -> TextEnv:
        if self._eval_env is not None:
            return as_text_env(self._eval_env)
        if self.env_id in ENVIRONMENTS and self.env_is_id:
            return self._make_env(self.env_id, self.policy.tokenizer, split="test")
        return self.asked_env

    def _make_env(self, env: str | gym.Env, tokenizer: Tokenizer, **options: Any) -> TextEnv:
        if not isinstance(env, str):
            return as_text_env(env)
        # The environments of others are made as they are: they may know neither splits nor tokenizers.
        own = {"tokenizer": tokenizer, **options} if env in ENVIRONMENTS else {}
        return as_text_env(env, **(self.env_options | own))

    def _progress(self, title: str, total: int) -> AbstractContextManager[Advance]:
        return progress(title, total, rich_console=None if self.console else Console(quiet=True))

    def _check_prompts(self, tokenizer: Tokenizer) -> None:
        """Refuse rows whose prompt is too long before any work, without tokenising the short ones."""
        rows, limit = self.env.rows, self.prompt_limit
        # A generator of problems makes prompts alike; the rows of a file may be anything.
        count = len(rows) if isinstance(rows, Rows) else min(len(rows), 100)
        frame = len(tokenizer.encode_prompt(self.env.opening(rows[0]), self.env.tool_schemas))
        for i in range(count):
            messages = self.env.opening(rows[i])
            # Hardly a tokenizer makes more tokens than bytes, so that only what comes near the limit has to be counted.
            if frame + sum(len(m["content"].encode()) for m in messages) >= limit:
                length = len(tokenizer.encode_prompt(messages, self.env.tool_schemas))
                if length >= limit:
                    where = f" ({rows.where(i)})" if isinstance(rows, Rows) else ""
                    raise ValueError(
                        f"the prompt of row {i} has {length} tokens, which leaves no room for an answer in the {limit} that "
                        f"there are by max_tokens={self.config.max_tokens}; raise max_tokens or leave such rows out{where}"
                    )

    def _open_run(self) -> Path:
        if self.run_dir is None:
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            self.run_dir = writable(Path("runs", f"{type(self).__name__.lower()}-{self.env_id}-{stamp}-{os.getpid()}"))
        write_description(self.run_dir, self._description())
        return self.run_dir

    def _description(self) -> dict[str, Any]:
        packages = ("tokengym", "torch", "transformers", "gymnasium")
        return {
            "agent": type(self).__name__,
            "model": self.model_name,
            "env": self.env_id,
            "env_is_id": self.env_is_id,
            "env_options": {name: value for name, value in self.env_options.items() if is_json(value)},
            "env_options_left_out": [name for name, value in self.env_options.items() if not is_json(value)],
            "config": dataclasses.asdict(self.config),
            "versions": {name: version(name) for name in packages},
        }

    def _checkpoint(self, folder: Path) -> None:
        state = {
            "total_steps": self.total_steps,
            "sampled_tokens": self.sampled_tokens,
            "prompts": self.prompts.state(),
            "algorithm": self.state(),
            "reward": self.env.reward.state(),
        }
        save_checkpoint(
            folder / "checkpoints",
            self.step,
            self.policy,
            self.learner,
            state,
            self.config.keep_checkpoints,
            tensors=self.tensors(),
        )


def parts_of(env: TextEnv) -> list[str] | None:
    """The parts that scores of episodes of `env` have, as an empty answer to its first row shows them; None if it does not."""
    try:
        [score] = env.reward.score([env._sample_episode(env.rows[0])])
    except Exception:  # an empty answer proves nothing
        return None
    return None if score.abstained else [*score.parts, *env.metrics()]
