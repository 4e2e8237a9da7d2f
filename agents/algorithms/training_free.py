"""Training-free group relative policy optimization."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from ...envs import TextEnv
from ...envs.core import text_of
from ...rewards import Message
from ..base import BaseAgent
from ..config import AgentConfig
from ..engines import EngineChat, Sampling
from ..learner import Learner
from ..metrics import rollout_metrics, samples_to_show
from ..monitor import Sample
from ..policy import Policy
from ..rollout import Group, Reject, episode_seeds
from ..rollout.filters import apply_filters, in_rounds, spelled
from .lessons import COMPARE, HEADING, REVISE, SUMMARIZE, Lessons, asked, numbered, revised

FILE = "lessons.txt"

_OF_GRADIENTS = {
    "learning_rate",
    "warmup_steps",
    "schedule",
    "weight_decay",
    "max_grad_norm",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "compile",
    "engine_sleeps",
    "lora_rank",
    "lora_alpha",
}


@dataclass(frozen=True)
class TrainingFreeConfig(AgentConfig):
    """Options of training-free GRPO. Those that change how weights learn are refused."""

    prompts_per_step: int = 16
    """Dataset rows that a step starts from."""
    group_size: int = 5
    """Completions of each of them."""
    temperature: float = 0.7
    """Of sampling, of completions as of lessons."""
    filter_groups: tuple[str, ...] = ()
    """Which groups are not compared, beside those that are all right or all wrong; as in the other algorithms, with
    dynamic_sampling others are sampled in their place."""
    lesson_tokens: int = 256
    """Tokens of the prompt that all lessons together may take; where they take more, the oldest are forgotten."""
    reply_tokens: int = 256
    """Tokens of a summary, a comparison or a revision of the lessons."""
    lessons: str | None = None
    """Lessons to begin with: a file with one a line, such as the lessons.txt of another run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "prompts_per_step", "lesson_tokens", "reply_tokens")
        self._at_least(2, "group_size")
        self._above(0, "temperature")
        object.__setattr__(self, "filter_groups", spelled(self.filter_groups))
        for field in fields(AgentConfig):
            if field.name in _OF_GRADIENTS and getattr(self, field.name) != field.default:
                raise ValueError(f"training-free GRPO changes no weights: {field.name} has no effect, leave it out")

    def resolved(self, model: str) -> Self:
        return replace(self, max_new_tokens=self.max_new_tokens or 256)


class TrainingFreeGRPO(BaseAgent[TrainingFreeConfig]):
    """Training-free group relative policy optimization (Cai et al. 2025, arXiv 2510.08191, §2): no weight changes. The policy
    compares its own completions in words, and what it learns from that stands in the prompt.

    In a step, completions are sampled with the lessons so far in the prompt. Of a group that is neither all right nor all
    wrong the policy sums up every completion, and says what the right ones did better: the group's advantage, in words. Of
    these it makes changes of the lessons: some are added, some get better words, some are deleted.

    The lessons are in `agent.lessons`, in the checkpoints, and in the run folder's `lessons.txt`. Held-out problems are
    asked with them.
    """

    Config = TrainingFreeConfig
    summary: ClassVar[str] = "Lessons that the model writes into its prompt, and no gradient"
    paper: ClassVar[str] = "arXiv 2510.08191"

    def framed(self, env: TextEnv) -> TextEnv:
        if self.model_name == "tiny":
            raise ValueError(
                "training-free GRPO needs a model that can write lessons, which tiny cannot: pass a model="
            )
        self.lessons = [] if self.config.lessons is None else _read(Path(self.config.lessons))
        return Lessons(env, self.lessons)

    def prepare(self) -> None:
        self.rollout = self.make_rollout(self.env)
        self.policy.model.requires_grad_(False)  # checkpoints hold what learns, and that is not the weights
        length = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        self.chat = EngineChat(self.engine, self.policy.tokenizer, length)
        self._forget_oldest()

    def train_step(self) -> tuple[dict[str, float], Sequence[Sample]]:
        c = self.config
        self.env.reward.begin_step(self.step)

        def sample(count: int, round_: int) -> list[Group]:
            # Round 1 of the numbers is for the questions about the groups (`ask`).
            seeds = episode_seeds(c.seed, self.step, count, c.group_size, round_ + (round_ > 0))
            return self.rollout.run(self.prompts.draw(count), seeds, Sampling(c.temperature))

        groups = in_rounds(c.filter_groups, c.prompts_per_step, sample)
        self.sampled_tokens += sum(t.num_actions for group in groups for t in group)
        kept, dropped = apply_filters(c.filter_groups, groups)
        mixed = Reject()(kept)
        self.unasked = 0
        remarks = self.compare(mixed)
        counts = {"remarks": len(remarks), **self.revise(remarks), "known": len(self.lessons), "unasked": self.unasked}
        metrics = rollout_metrics(groups, len(mixed)) | {f"lessons/{name}": float(n) for name, n in counts.items()}
        metrics |= {f"groups/dropped/{name}": float(count) for name, count in dropped.items()}
        return metrics, samples_to_show(groups)

    def compare(self, groups: Sequence[Group]) -> list[str]:
        """What the policy has to say about each group: its advantage, in words."""
        problems = [text_of(self.asked_env.opening(group[0].episode.row)) for group in groups]
        judged = [[t for t in group if t.solved is not None] for group in groups]
        verdicts = [["right" if t.solved else "wrong" for t in group] for group in judged]
        summaries = iter(
            self.ask(
                0,
                [
                    asked(SUMMARIZE, problem=problem, attempt=text_of(t.episode.completion), verdict=verdict)
                    for problem, group, each in zip(problems, judged, verdicts)
                    for t, verdict in zip(group, each)
                ],
            )
        )
        attempts = [
            "\n\n".join(f"Attempt {i} ({verdict}): {next(summaries)}" for i, verdict in enumerate(each, start=1))
            for each in verdicts
        ]
        known = numbered(self.lessons)
        questions = [asked(COMPARE, problem=p, attempts=a, lessons=known) for p, a in zip(problems, attempts)]
        return [" ".join(remark.split()) for remark in self.ask(1, questions) if remark]

    def revise(self, remarks: Sequence[str]) -> dict[str, int]:
        """Bring the lessons up to date; how many were added, changed, deleted and forgotten."""
        reply = ""
        if remarks:
            listed = "\n".join(f"- {remark}" for remark in remarks)
            [reply] = self.ask(2, [asked(REVISE, lessons=numbered(self.lessons), remarks=listed)])
        self.lessons[:], counts = revised(self.lessons, reply)
        forgotten = self._forget_oldest()
        if self.run_dir is not None:
            _write(self.run_dir / FILE, self.lessons)
        return {**counts, "forgotten": forgotten}

    def ask(self, stage: int, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """The policy's replies; "" where it could not be asked, because there is more to read than it can."""
        c = self.config
        [seeds] = episode_seeds(c.seed, self.step, 1, 3, round_=1)
        replies = self.chat.complete(conversations, 1, c.temperature, c.reply_tokens, seeds[stage])
        self.unasked += sum(not reply for reply in replies)
        return [reply[0].strip() if reply else "" for reply in replies]

    @property
    def learning_rate(self) -> float:
        return 0.0

    def make_learner(self) -> Learner:
        return NoLearner(self.policy)

    def notes(self) -> Sequence[str]:
        return ["lessons in the prompt:", numbered(self.lessons)]

    def state(self) -> dict[str, Any]:
        return {"lessons": self.lessons}

    def load_state(self, state: dict[str, Any]) -> None:
        self.lessons[:] = state["lessons"]

    @classmethod
    def load(cls, folder: str | Path, *, env: Any = None, **overrides: Any) -> Self:
        # The checkpoint has the lessons: the file that they began with may be gone.
        return super().load(folder, env=env, **({"lessons": None} | overrides))

    def _held_out(self) -> TextEnv:
        return Lessons(super()._held_out(), self.lessons)

    @property
    def prompt_limit(self) -> int:
        return self.config.max_tokens - self.config.lesson_tokens

    def _forget_oldest(self) -> int:
        """Make the lessons short enough; how many had to go."""
        before = len(self.lessons)
        while self.lessons and self._length() > self.config.lesson_tokens:
            del self.lessons[0]
        return before - len(self.lessons)

    def _length(self) -> int:
        return len(self.policy.tokenizer.encode(f"\n\n{HEADING}\n{numbered(self.lessons)}"))


class NoLearner(Learner):
    """A learner of weights that stay as they are."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        pass


def _read(path: Path) -> list[str]:
    try:
        return list(filter(None, map(str.strip, path.read_text().splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the lessons cannot be read from {path}: {error}") from error


def _write(path: Path, lessons: Sequence[str]) -> None:
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text("".join(f"{lesson}\n" for lesson in lessons))
    os.replace(temporary, path)
