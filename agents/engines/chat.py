"""An engine as a chat model, for rewards that ask one."""

from __future__ import annotations

from collections.abc import Sequence

from ...envs import Tokenizer
from ...rewards import Message, Replies
from .base import Engine, Request, Sampling


class EngineChat:
    """A `tokengym.rewards.Chat` by an engine: a `GenerativeRewardModel` that is judged by the policy itself, or by
    another model in an engine of its own.

    Args:
        engine: the engine.
        tokenizer: that of the engine's model.
        max_length: the most tokens of a conversation with its reply; None without limit. A longer one has no reply.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length is at least 2, not {max_length}")
        self._engine, self._tokenizer, self._max_length = engine, tokenizer, max_length

    def complete(
        self, conversations: Sequence[Sequence[Message]], n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[Replies]:
        """See `tokengym.rewards.Chat`. The seed of a reply is a function of `seed` and its number alone."""
        prompts = [self._tokenizer.encode_prompt(conversation) for conversation in conversations]
        seeds = range(seed * n, (seed + 1) * n)
        replies = [Replies() for _ in prompts]
        requests: list[Request] = []
        owners: list[Replies] = []
        for prompt, own in zip(prompts, replies, strict=True):
            length = len(prompt) + max_tokens
            if self._max_length is not None and length > self._max_length:
                own.errors += [f"{length} tokens with the reply are more than the {self._max_length} that may be"] * n
            else:
                requests.append(Request(prompt, seeds, max_tokens))
                owners.append(own)
        generations = self._engine.generate(requests, Sampling(temperature=temperature)) if requests else []
        for own, found in zip(owners, generations, strict=True):
            for generation in found:
                if generation.finish == "error":
                    own.errors.append("the engine failed")
                else:
                    own.append(self._tokenizer.decode(generation.ids))
        return replies
