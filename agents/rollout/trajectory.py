"""What a rollout leaves: trajectories, and groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...rewards import Episode, Score, Stop


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode, token by token.

    Attributes:
        ids: all tokens, the prompt first.
        action_mask: 1 where the policy sampled the token.
        logprobs: the sampler's log-probability of each token at the sampling temperature; 0 where action_mask is 0.
        entropy: mean over the action tokens of the entropy of the distribution that they were drawn from, in nats.
        prompt_length: tokens before the policy's first.
        token_rewards: index of a token → a reward that the environment gave there, beside the score of the whole.
        step_rewards: index of the last token of a step → its process reward (`Score.steps`).
        episode: the same in text.
        score: the reward's verdict on the episode.
        group: the number of its group in the step; trajectories of one group share their prompt.
        version: the engine's weights that sampled it (its first turn).
        baseline: what an algorithm compares the return with, if it has that from elsewhere (ReMax).
        entropies: of each action token, in order, what `entropy` is the mean of.
        turns: [start, end) of the policy's turns in `ids`.
        tool_calls: that it made itself: those of its parent before the fork are not repeated, and not counted.
        parent: index in its group of the trajectory that it branched off; None if it ran from the prompt alone.
        fork: how many tokens it has from its parent: it left it at `ids[fork]`. None without a parent.
        row: index of the dataset row that it is about, if the environment says.
    """

    ids: Sequence[int]
    action_mask: Sequence[int]
    logprobs: Sequence[float]
    entropy: float
    prompt_length: int
    token_rewards: dict[int, float]
    step_rewards: dict[int, float]
    episode: Episode
    score: Score
    group: int
    version: int
    baseline: float | None = None
    entropies: Sequence[float] = ()
    turns: Sequence[tuple[int, int]] = ()
    tool_calls: int = 0
    parent: int | None = None
    fork: int | None = None
    row: int | None = None

    @property
    def num_actions(self) -> int:
        return self.episode.num_tokens

    @property
    def num_sampled(self) -> int:
        """Tokens that it sampled itself, those of its parent before the fork not counted."""
        return sum(self.action_mask[self.fork or 0 :])

    @property
    def truncated(self) -> bool:
        """Whether a limit on tokens cut it."""
        return self.episode.stop == Stop.LENGTH

    @property
    def reward(self) -> float | None:
        """The return: the score and the rewards on the way; None if the reward abstained."""
        return None if self.score.value is None else self.score.value + sum(self.token_rewards.values())

    @property
    def solved(self) -> bool | None:
        """Whether it is a success: what the reward calls "correct" or, where it has no such part, a return above 0; None if
        the reward abstained."""
        if self.reward is None or self.score.correct is not None:
            return self.score.correct
        return self.reward > 0


Group = list[Trajectory]


def all_failed(group: Group) -> bool:
    """Whether no completion of a group solves its task, and one at least is known not to."""
    return not any(t.solved for t in group) and any(t.solved is False for t in group)
