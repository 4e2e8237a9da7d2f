"""Rolling out episodes side by side: one chain of turns each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...envs import Reply, TextEnv, Tokenizer
from ...envs.batch import Sampled, begin, take_turns
from ...envs.core import score_episodes
from ...rewards import Score
from ..engines import Engine, Generation, Request, Sampling
from .trajectory import Group, Trajectory


class Chain:
    """An episode under way: an environment, and its transcript."""

    def __init__(
        self, env: TextEnv, tokenizer: Tokenizer, max_tokens: int, options: Mapping[str, Any], seed: int, group: int
    ) -> None:
        self.env = env
        self.seed = seed
        self.group = group
        self.version = 0
        self.done = False
        self.transcript, _ = begin(env, tokenizer, max_tokens, seed=seed, options=dict(options))
        self.prompt_length = len(self.transcript)
        self.token_rewards: dict[int, float] = {}
        self.entropies: list[float] = []

    def sampled(self, generation: Generation) -> Sampled:
        """Take note of a generation; the turn that it is."""
        if not self.transcript.turns:
            self.version = generation.version
        self.entropies += generation.entropies or ()
        return Sampled(generation.ids, generation.logprobs, cut=generation.finish == "length")

    def replied(self, reply: Reply) -> None:
        """Take note of what the environment made of the turn."""
        if reply.reward:
            self.token_rewards[self.transcript.turns[-1].end - 1] = reply.reward
        self.done = reply.stop is not None

    def trajectory(self, score: Score) -> Trajectory:
        return Trajectory(
            ids=self.transcript.ids,
            action_mask=self.transcript.action_mask,
            logprobs=self.transcript.logprobs,
            entropy=sum(self.entropies) / max(len(self.entropies), 1),
            prompt_length=self.prompt_length,
            token_rewards=self.token_rewards,
            step_rewards=self._step_rewards(score),
            episode=self.env.episode,
            score=score,
            group=self.group,
            version=self.version,
            entropies=self.entropies,
        )

    def _step_rewards(self, score: Score) -> dict[int, float]:
        rewards: dict[int, float] = {}
        for step in score.steps:
            turn = self.transcript.turns[step.turn]
            ids = self.transcript.ids[turn.start : turn.end]
            # The first token with which the text reaches the end of the step; decoding only grows with the tokens.
            reached = bisect_left(
                range(1, len(ids) + 1), step.end, key=lambda n: len(self.transcript.tokenizer.decode(ids[:n]))
            )
            token = turn.start + min(reached, len(ids) - 1)
            rewards[token] = rewards.get(token, 0.0) + step.value
        return rewards


class ChainRollout:
    """Runs groups of episodes over a `TextEnv`: every turn of all unfinished episodes is one batch, and so is the
    scoring.

    Args:
        env: the task. It is forked for every episode that runs at the same time, and not touched itself.
        engine: what samples.
        tokenizer: the policy's.
        max_tokens: of an episode, its prompt included.
        max_new_tokens: of a turn. An episode whose turn reaches either limit is truncated.
    """

    def __init__(
        self, env: TextEnv, engine: Engine, tokenizer: Tokenizer, *, max_tokens: int, max_new_tokens: int
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_new_tokens = max_new_tokens
        self._env = env
        self._pool: list[TextEnv] = []

    def run(
        self,
        rows: Sequence[int],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        options: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Group]:
        """One group for each row of the dataset, with one episode for each seed of the row.

        Args:
            options: for each row, further options of the environment's `reset`, such as those of a wrapper.

        Raises:
            ValueError: if a row's prompt leaves no room for an answer in `max_tokens`.
        """
        count = sum(map(len, seeds))
        while len(self._pool) < count:
            self._pool.append(self._env.fork())
        envs = iter(self._pool)
        resets = [{**more, "row": row} for row, more in zip(rows, options or [{}] * len(rows), strict=True)]
        groups = [
            [Chain(next(envs), self.tokenizer, self.max_tokens, reset, seed, group) for seed in row_seeds]
            for group, (reset, row_seeds) in enumerate(zip(resets, seeds, strict=True))
        ]
        chains = [chain for group in groups for chain in group]
        sampling = replace(sampling, stop=(*sampling.stop, *self._env.stop_strings))

        # The first turn of a group continues one prompt; from the second on every chain has a prompt of its own.
        turn = 0
        by_prompt: dict[tuple[int, ...], list[Chain]] = {}
        for chain in chains:
            by_prompt.setdefault((chain.group, *chain.transcript.ids), []).append(chain)
        active = list(by_prompt.values())
        while active:
            requests = [self._request(group, turn) for group in active]
            generated = self.engine.generate(requests, sampling, entropies=True)
            took = [pair for group, each in zip(active, generated) for pair in zip(group, each)]
            replies = take_turns(
                [chain.env for chain, _ in took],
                [chain.transcript for chain, _ in took],
                [chain.sampled(generation) for chain, generation in took],
                self.max_tokens,
            )
            for (chain, _), reply in zip(took, replies):
                chain.replied(reply)
            active = [[chain] for group in active for chain in group if not chain.done]
            turn += 1

        scores = score_episodes([chain.env for chain in chains])
        by_chain = dict(zip(map(id, chains), scores, strict=True))
        return [[chain.trajectory(by_chain[id(chain)]) for chain in group] for group in groups]

    def _request(self, chains: Sequence[Chain], turn: int) -> Request:
        prompt = chains[0].transcript.ids
        return Request(
            prompt=prompt,
            seeds=[chain.seed + turn for chain in chains],
            max_new_tokens=min(self.max_new_tokens, self.max_tokens - len(prompt)),
        )
