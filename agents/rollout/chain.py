"""Rolling out episodes side by side, each a chain of turns."""

from __future__ import annotations

import copy
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

from ...envs import TextEnv, Tokenizer
from ...envs.batch import Sampled, begin, close_sampled, open_sampled
from ...envs.core import OpenTurn, score_episodes
from ...envs.tools.runner import Job
from ...rewards import Score, Stop
from ..engines import Engine, Generation, Request, Sampling
from .patience import Patience
from .trajectory import Group, Trajectory


class Chain:
    """An episode under way: an environment, and its transcript.

    It is ready for a turn, or waits for the tools of one that it has taken, or its episode is over.
    """

    def __init__(
        self,
        env: TextEnv,
        tokenizer: Tokenizer,
        max_tokens: int,
        options: Mapping[str, Any],
        seed: int,
        group: int,
        seconds: float = math.inf,
    ) -> None:
        self.env = env
        self.seed = seed
        self.group = group
        self.version = 0
        self.ready = True
        self.done = False
        self.failed = False
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.max_tokens = max_tokens
        self.transcript, _ = begin(env, tokenizer, max_tokens, seed=seed, options=dict(options))
        self.prompt_length = len(self.transcript)
        self.token_rewards: dict[int, float] = {}
        self.entropies: list[float] = []
        self.tool_calls = 0
        self.parent: Chain | None = None
        self.fork: int | None = None
        self._opened: OpenTurn | None = None

    def take(self, generation: Generation) -> Job[Any] | None:
        """Take a turn. Returns what has to be run before it is closed, if anything has to be."""
        if not self.transcript.turns:
            self.version = generation.version
        self.entropies += generation.entropies or ()
        self.ready = False
        sampled = Sampled(generation.ids, generation.logprobs, cut=generation.finish == "length")
        self._opened = open_sampled(self.env, self.transcript, sampled)
        job = None if self._opened is None else self._opened.job
        if job is not None:
            job.seconds = min(job.seconds, max(self.deadline - time.monotonic(), 0.0))
        return job

    def fail(self) -> None:
        """The engine could not go on: the episode says nothing about the policy."""
        self.env.truncate(stop=Stop.ERROR)
        self.ready, self.done, self.failed = False, True, True

    def close(self) -> None:
        """Let the environment reply to the turn, now that its tools have been run."""
        last = self.transcript.turns[-1].end - 1
        late = Stop.TIME if time.monotonic() >= self.deadline else None
        reply = close_sampled(self.env, self.transcript, self._opened, self.max_tokens, late)
        if reply.reward:
            self.token_rewards[last] = reply.reward
        if self._opened is not None and not self._opened.over_limit:
            self.tool_calls += len(self._opened.calls)
        self.done = reply.stop is not None
        self.ready = not self.done

    def branch(self, seed: int) -> Chain:
        """A chain of its own that shares everything so far with this one, which has to be ready for a turn."""
        other = copy.copy(self)
        other.env = self.env.fork()
        other.transcript = self.transcript.copy()
        other.token_rewards = dict(self.token_rewards)
        other.entropies = list(self.entropies)
        other.tool_calls = 0
        other.seed = seed
        other.deadline = time.monotonic() + self.seconds
        other.parent, other.fork = self, len(self.transcript)
        return other

    @property
    def num_sampled(self) -> int:
        """Tokens that it sampled itself, those of its parent not counted."""
        return sum(turn.end - turn.start for turn in self.transcript.turns if turn.start >= (self.fork or 0))

    def trajectory(self, score: Score, siblings: Sequence[Chain]) -> Trajectory:
        """The trajectory, in a group of those of `siblings`."""
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
            turns=[(turn.start, turn.end) for turn in self.transcript.turns],
            tool_calls=self.tool_calls,
            parent=None if self.parent is None else siblings.index(self.parent),
            fork=self.fork,
            row=self.env.row_index,
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


class Chains:
    """The episodes of a prompt: which there are, and when each goes on. These: one for each seed, from the prompt to its
    end, each as soon as it can.

    Args:
        start: makes a chain at the prompt, of a seed.
        seeds: of the episodes that there may be.

    Attributes:
        chains: in the order of the group. None is ever removed.
    """

    def __init__(self, start: Callable[[int], Chain], seeds: Sequence[int]) -> None:
        self.chains = [start(seed) for seed in seeds]

    def ready(self) -> list[Chain]:
        """The chains that go on now."""
        return [chain for chain in self.chains if chain.ready]

    def sampled(self, chain: Chain, generation: Generation) -> None:
        """`generation` is the turn that `chain` is about to take."""

    @property
    def waiting(self) -> bool:
        """Whether a chain waits for a tool."""
        return any(not chain.ready and not chain.done for chain in self.chains)

    @property
    def over(self) -> bool:
        """Whether all is done."""
        return not self.waiting and not self.ready()


class ChainRollout:
    """Runs groups of episodes over a `TextEnv`. The next turns of all episodes that are ready for one are one batch.

    Tools run beside the sampling of others. The batch waits for them for as long as it costs about as much as a further
    batch (`Patience`); an episode whose tool takes longer joins a later one. Finished groups are scored beside further
    turns if the reward allows it (`Reward.runs_beside`), and as one batch at the end if not; a group is never divided.

    What is sampled depends on the seeds of the episodes and not on the time that anything takes: the n-th turn of an
    episode (from 0) is drawn with its seed + n.

    The limits here are those of tokens and time. How many turns and tool calls an episode may have is the environment's to
    say (`TextEnv`).

    Args:
        env: the task. It is forked for every episode that runs at the same time, and not touched itself.
        engine: what samples.
        tokenizer: the policy's.
        max_tokens: of an episode, its prompt included.
        max_new_tokens: of a turn. An episode whose turn reaches either limit is truncated (`Stop.LENGTH`).
        max_seconds: of an episode. One that goes on after that is truncated at the end of its turn (`Stop.TIME`), for
            which its tools are not waited for any longer.
        chains: which episodes a prompt has: `Chains`, or one of the trees.
    """

    def __init__(
        self,
        env: TextEnv,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        max_new_tokens: int,
        max_seconds: float | None = None,
        chains: Callable[[Callable[[int], Chain], Sequence[int]], Chains] = Chains,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_new_tokens = max_new_tokens
        self.max_seconds = math.inf if max_seconds is None else max_seconds
        self._chains = chains
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
        envs = self._envs()
        resets = [{**more, "row": row} for row, more in zip(rows, options or [{}] * len(rows), strict=True)]

        def prompt(group: int, seeds: Sequence[int]) -> Chains:
            def start(seed: int) -> Chain:
                return Chain(next(envs), self.tokenizer, self.max_tokens, resets[group], seed, group, self.max_seconds)

            return self._chains(start, seeds)

        prompts = [prompt(group, each) for (group, _), each in zip(enumerate(resets), seeds, strict=True)]
        scores = self._run(prompts, replace(sampling, stop=(*sampling.stop, *self._env.stop_strings)))
        return [[chain.trajectory(scores[id(chain)], p.chains) for chain in p.chains] for p in prompts]

    def _run(self, prompts: Sequence[Chains], sampling: Sampling) -> dict[int, Score]:
        """Run all episodes to their ends; their scores by the identity of the chain."""
        reward = self._env.reward
        # A reward that remembers what it has scored sees it in an order that does not depend on time.
        beside = reward.runs_beside and not reward.state()
        tools: Patience[Chain] = Patience()
        active = list(prompts)
        scored: list[tuple[list[Chain], Future[list[Score]]]] = []
        over: list[Chain] = []
        with ThreadPoolExecutor(1, "tokengym-scoring") as executor:
            try:
                while active:
                    for chain in tools.answered(any(prompt.ready() for prompt in active)):
                        chain.close()
                    turns = [(prompt, chain) for prompt in active for chain in prompt.ready()]
                    self._take_turns(turns, sampling, tools)
                    over += [chain for prompt in active if prompt.over for chain in prompt.chains]
                    active = [prompt for prompt in active if not prompt.over]
                    if beside and over and active:
                        scored.append((over, executor.submit(_score, over)))
                        over = []
            finally:
                tools.give_up()  # only where an exception came through does anybody wait
            scores = dict(zip(map(id, over), _score(over), strict=True))
            for chains, future in scored:
                scores |= zip(map(id, chains), future.result(), strict=True)
        return scores

    def _take_turns(self, turns: Sequence[tuple[Chains, Chain]], sampling: Sampling, tools: Patience[Chain]) -> None:
        """Sample a turn of each chain; those whose turns have tool calls wait for them, the others are answered."""
        if not turns:
            return
        by_prompt: dict[tuple[int, ...], list[tuple[Chains, Chain]]] = {}
        for prompt, chain in turns:
            by_prompt.setdefault(tuple(chain.transcript.ids), []).append((prompt, chain))
        requests = [
            Request(
                prompt=ids,
                seeds=[chain.seed + len(chain.transcript.turns) for _, chain in each],
                max_new_tokens=min(self.max_new_tokens, self.max_tokens - len(ids)),
            )
            for ids, each in by_prompt.items()
        ]
        began = time.monotonic()
        generated = self.engine.generate(requests, sampling, entropies=True)
        tools.batch_seconds = time.monotonic() - began
        for each, generations in zip(by_prompt.values(), generated, strict=True):
            for (prompt, chain), generation in zip(each, generations, strict=True):
                if generation.finish == "error":
                    chain.fail()
                    continue
                prompt.sampled(chain, generation)
                job = chain.take(generation)
                if job is None:
                    chain.close()
                else:
                    tools.start(job, chain)

    def _envs(self) -> Iterator[TextEnv]:
        """Environments to run episodes in, which are kept for the next time."""
        for index in count():
            if index == len(self._pool):
                self._pool.append(self._env.fork())
            yield self._pool[index]


def _score(chains: Sequence[Chain]) -> list[Score]:
    """The scores of finished episodes; those that the engine failed in abstain."""
    judged = iter(score_episodes([chain.env for chain in chains if not chain.failed]))
    return [Score(None, error="the engine failed") if chain.failed else next(judged) for chain in chains]
