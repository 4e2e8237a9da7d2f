"""Many episodes at a time: tools run at the same time, and all that finished are scored as one batch.

By texts, `transitions` and `outcomes` are `TextEnv.transition` and `outcome` of many environments. By tokens, `begin` and
`take_turns` keep a transcript beside each environment: the one place that says what a turn of sampled tokens does to an
episode. `TokenEnv`, the vector environments and rollouts are built on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..rewards import Stop
from .core import OpenTurn, Reply, TextEnv, score_episodes
from .tokenizers import Tokenizer
from .tools.runner import run_jobs
from .transcript import Transcript


def transitions(
    envs: Sequence[TextEnv], texts: Sequence[str], num_tokens: Sequence[int | None] | None = None
) -> list[Reply]:
    """`env.transition(text)` for each environment, with the tools of all of them running at the same time.

    A tool that hangs costs all of them its limit once, and no more. `num_tokens` are the numbers of tokens that were
    sampled for the texts.

    Raises:
        gymnasium.error.ResetNeeded, TypeError, ValueError: as `TextEnv.transition`.
    """
    counts = [None] * len(envs) if num_tokens is None else num_tokens
    turns = [env.open_turn(text, num_tokens=count) for env, text, count in zip(envs, texts, counts, strict=True)]
    run_jobs([turn.job for turn in turns if turn.job is not None])
    return [env.close_turn(turn) for env, turn in zip(envs, turns)]


def outcomes(envs: Sequence[TextEnv], replies: Sequence[Reply]) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    """`env.outcome(reply)` for each environment, with one batch of finished episodes for each reward."""
    over = [env for env, reply in zip(envs, replies, strict=True) if reply.stop is not None]
    scores = iter(score_episodes(over))
    return [env.outcome(reply, None if reply.stop is None else next(scores)) for env, reply in zip(envs, replies)]


class Sampled(NamedTuple):
    """A turn as the policy sampled it.

    Attributes:
        ids: its tokens, the end token included if one was sampled.
        logprobs: of each; None counts as 0.
        cut: a limit ended the turn and not the policy: the episode is over.
    """

    ids: Sequence[int]
    logprobs: Sequence[float] | None = None
    cut: bool = False


def begin(
    env: TextEnv,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[Transcript, dict[str, Any]]:
    """Reset `env`, and open the transcript of its episode, in the policy's tokens. Returns it and the `info` of `reset`.

    Raises:
        ValueError: the opening conversation leaves no room for an action in `max_tokens`.
    """
    _, info = env.reset(seed=seed, options=options)
    transcript = Transcript(tokenizer, info["messages"], env.tool_schemas, inline_results=env.inline_results)
    if len(transcript) >= max_tokens:
        raise ValueError(
            f"the prompt of row {info['row']} has {len(transcript)} tokens, which leaves no room for an answer in "
            f"max_tokens={max_tokens}; raise max_tokens or leave such rows out"
        )
    return transcript, info


def take_turns(
    envs: Sequence[TextEnv], transcripts: Sequence[Transcript], turns: Sequence[Sampled], max_tokens: int
) -> list[Reply]:
    """Append each turn to its transcript, let the environment reply, and append that; the tools of all run at the same
    time. Nothing is scored: for that, `outcomes`."""
    opened = [open_sampled(*each) for each in zip(envs, transcripts, turns, strict=True)]
    run_jobs([turn.job for turn in opened if turn is not None and turn.job is not None])
    return [close_sampled(*each, max_tokens) for each in zip(envs, transcripts, opened)]


def open_sampled(env: TextEnv, transcript: Transcript, turn: Sampled) -> OpenTurn | None:
    """The first half of `take_turns`, up to the tool calls, which the caller runs (`run_jobs`); None if a limit cut the
    turn, so that the episode is over."""
    text = transcript.append_turn(turn.ids, turn.logprobs)
    if turn.cut:
        env.truncate(text, num_tokens=len(turn.ids))
        return None
    return env.open_turn(text, num_tokens=len(turn.ids))


def close_sampled(
    env: TextEnv, transcript: Transcript, turn: OpenTurn | None, max_tokens: int, stop: Stop | None = None
) -> Reply:
    """The second half of `take_turns`: what the environment replies, now that the tools have been run.

    A reply that leaves no room for another action in `max_tokens` is not shown, as the policy would never get to read it:
    the episode is truncated in its place, and keeps the turn's own reward. The same with `stop`, a reason of the caller's
    why the episode may not go on.
    """
    if turn is None:
        return Reply(stop=Stop.LENGTH)
    reply = env.close_turn(turn)
    if reply.stop is not None:
        return reply
    if stop is None:
        ids = transcript.reply_ids(reply.messages)
        if len(transcript) + len(ids) < max_tokens:
            transcript.append_reply(reply.messages, ids)
            return reply
    return replace(env.truncate(stop=stop or Stop.LENGTH), reward=reply.reward, info=reply.info)
