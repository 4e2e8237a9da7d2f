"""`TextEnv`: a text-generation task as a Gymnasium environment, one whole turn of the policy per step."""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np

from ..rewards import Episode, Message, Reward, Score, Stop, as_reward
from . import forking
from .spaces import TextSpace
from .tokenizers import TokenizerLike, load_tokenizer
from .tools.protocols import Call, ToolResult
from .tools.runner import Job, run_jobs
from .tools.toolset import ToolLimits, ToolProtocol, ToolSet


@dataclass(frozen=True, slots=True)
class Reply:
    """What the environment answers to a turn of the policy.

    Attributes:
        messages: what it says: tool results, feedback, a game's state. Empty only when the episode is over.
        stop: why the episode is over, or None while it goes on.
        reward: a reward of this turn alone, beside the one that scores the whole episode at its end.
        info: entries for the `info` of `step`.
    """

    messages: Sequence[Message] = ()
    stop: Stop | None = None
    reward: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)


_OVER = Reply(stop=Stop.ANSWERED)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation to imitate: the messages before the policy's first turn, and those from it on."""

    prompt: Sequence[Message]
    completion: Sequence[Message]


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that the policy has taken and the environment has not replied to: its text, and its tool calls.

    Attributes:
        text: what the policy said.
        calls: the tool calls in it, in order.
        job: what has to be run for them before the turn can be closed; None if nothing has to be.
        over_limit: it asks for more calls than an episode may make, and none of them is made.
    """

    text: str
    calls: Sequence[Call] = ()
    job: Job[ToolResult] | None = None
    over_limit: bool = False


class TextEnv(gym.Env[str, str], ABC):
    """A task in text: the policy acts by writing a whole turn, and sees what it is told as text.

    A new task is a subclass with `messages` (the conversation that a dataset row opens with) and, if it takes more than
    one turn, `reply`. Data, seeding, limits, tools and rewards are handled here. `tokengym.envs.TokenEnv` makes the
    token-level MDP of it. A constructor of its own sets what `messages` and `answer` read before it calls this one,
    which tries them on the first row. Attributes that never change in an episode and are large or cannot be copied are
    named in `shared`: `shared = (*TextEnv.shared, "index")`.

    A turn with tool calls is answered by their results; one without goes to `reply`.

    `step` is `transition` (the task's own dynamics) followed by scoring if the episode is over. Whoever runs many
    episodes takes `tokengym.envs.transitions` and `outcomes`, which run the tools of all of them at the same time and
    score all that finished as one batch.

    Args:
        rows: the dataset, indexable and with a length; each row is a mapping from column to value.
        reward: what scores an episode at its end: anything that `tokengym.rewards.as_reward` takes.
        max_turns: after this many turns of the policy an unfinished episode is truncated. None: 1, and with tools one
            more than there may be calls.
        system_prompt: a system message before everything else.
        tokenizer: counts the policy's tokens (`Episode.num_tokens`), and is the vocabulary of the token-level MDP:
            "bytes", a hub id, a folder or a tokenizer.
        render_mode: "ansi" makes `render` return the conversation as text.
        tools: what the policy can call: functions with type hints and a docstring, methods of the task itself, or
            `tokengym.envs.tools.Tool`s.
        tool_protocol: "json", in the form that chat templates teach (`<tool_call>{…}</tool_call>`; the template shows
            the policy `tool_schemas`), or "tags" (`<python>…</python>`, answered by `<result>…</result>` within the turn;
            the system prompt tells the policy about them).
        tool_limits: `ToolLimits`, or a mapping with some of its fields.

    Raises:
        ValueError, TypeError: for an empty dataset, a reward with a wrong signature or return type, a limit below 1, or
            what is no tool.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)

    #: Attributes that never change in an episode: forks share them, and states leave them out.
    shared: ClassVar[tuple[str, ...]] = (
        "rows",
        "reward",
        "max_turns",
        "system_prompt",
        "tokenizer",
        "toolset",
        "render_mode",
        "_row",
    )

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        reward: Reward | Callable[..., Any],
        *,
        max_turns: int | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
        tools: Sequence[Any] = (),
        tool_protocol: ToolProtocol = "json",
        tool_limits: ToolLimits | Mapping[str, Any] = ToolLimits(),  # noqa: B008 (frozen)
    ) -> None:
        if len(rows) == 0:
            raise ValueError("the dataset is empty: an environment needs at least one row")
        if not isinstance(rows[0], Mapping):
            raise TypeError(f"a row is a mapping from column to value, not {type(rows[0]).__name__}: {rows[0]!r:.60}")
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns is at least 1, not {max_turns}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is None or one of {self.metadata['render_modes']}, not {render_mode!r}")
        self.toolset = ToolSet(tools, tool_protocol, tool_limits, self) if tools else None
        if max_turns is None:
            max_turns = 1 if self.toolset is None else self.toolset.limits.calls + 1
        self.rows = rows
        self.max_turns = max_turns
        self.system_prompt = system_prompt
        self.tokenizer = load_tokenizer(tokenizer)
        self.render_mode = render_mode
        self.observation_space = TextSpace()
        self.action_space = TextSpace()
        self.reward = as_reward(reward, columns=rows[0].keys())
        self.row_index: int | None = None
        self._row: Mapping[str, Any] | None = None
        self._tool_use = None if self.toolset is None else self.toolset.start(self)
        self._prompt: list[Message] = []
        self._completion: list[Message] = []
        self._num_tokens = 0
        self._num_turns = 0
        self._stop: Stop | None = None
        self.reward.check(self._sample_episode(rows[0]))

    # What a task defines.

    @abstractmethod
    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The conversation that `row` opens with, before the policy's first turn (without the system prompt)."""

    def answer(self, row: Mapping[str, Any]) -> Any:
        """The reference answer of `row`, or None."""
        return row.get("answer")

    def reply(self, text: str) -> Reply:
        """What the task answers to a turn of the policy. A task of one turn is over."""
        return _OVER

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """The completion of a perfect player for `row`, from the policy's first turn on; None if there is none to show."""
        return None

    # The Gymnasium interface.

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode on a row drawn from the environment's own generator, or on `options={"row": index}`.

        Returns the opening conversation as text, and `info["messages"]`, the same as messages.

        Raises:
            IndexError: there is no such row.
        """
        super().reset(seed=seed)
        index = (options or {}).get("row")
        index = int(self.np_random.integers(len(self.rows))) if index is None else operator.index(index)
        if not 0 <= index < len(self.rows):
            raise IndexError(f"there is no row {index}: the dataset has rows 0 to {len(self.rows) - 1}")
        self.row_index, self._row = index, self.rows[index]
        self._tool_use = None if self.toolset is None else self.toolset.start(self)
        self._prompt = self.opening(self._row)
        self._completion = []
        self._num_tokens = self._num_turns = 0
        self._stop = None
        return text_of(self._prompt), {"messages": copied(self._prompt), "row": index}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The policy says `action`; returns the reply as text, reward, terminated, truncated and info.

        `info` has `stop` ("" while the episode goes on) and, at its end, `score_parts`, `abstained` (the reward could
        not tell: the reward of the step is 0, and no verdict) and `score_error`; with tools, also `tool_calls` and
        `tool_errors`: the calls in this turn, and how many of them failed.
        """
        return self.outcome(self.transition(action))

    def render(self) -> str | None:  # type: ignore[override]
        if self.render_mode is None:
            gym.logger.warn("render() was called on an environment made without a render_mode; pass render_mode='ansi'")
            return None
        return "\n".join(f"{m['role']}: {m.get('content', '')}" for m in [*self._prompt, *self._completion])

    def close(self) -> None:
        """Nothing to release: the reward's worker processes are shared, and end with the program or by `env.reward.close()`."""

    # The same in two halves, for rollouts of many episodes.

    def transition(self, text: str, *, num_tokens: int | None = None) -> Reply:
        """The policy's turn and the task's reply to it, without scoring.

        `num_tokens` is the number of tokens that were sampled for `text`; without it, the tokenizer counts them.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset` and after the end of an episode.
            TypeError: `text` is no string.
            ValueError: the task goes on without saying anything.
        """
        turn = self.open_turn(text, num_tokens=num_tokens)
        if turn.job is not None:
            run_jobs([turn.job])
        return self.close_turn(turn)

    def open_turn(self, text: str, *, num_tokens: int | None = None) -> OpenTurn:
        """The first half of `transition`, up to the tool calls, which the caller runs (`run_jobs`)."""
        self._policy_said(text, num_tokens)
        if self._tool_use is None or not (calls := self._tool_use.toolset.protocol.read(text)):
            return OpenTurn(text)
        if self._tool_use.calls + len(calls) > self._tool_use.toolset.limits.calls:
            return OpenTurn(text, calls, over_limit=True)
        return OpenTurn(text, calls, self._tool_use.job(calls))

    def close_turn(self, turn: OpenTurn) -> Reply:
        """The second half of `transition`: what the environment replies, now that the tools have been run."""
        reply = self._tool_reply(turn) if turn.calls else self.reply(turn.text)
        if self._tool_use is not None and not turn.calls:
            reply = replace(reply, info={"tool_calls": 0, "tool_errors": 0, **reply.info})
        if reply.stop is None and self._num_turns >= self.max_turns:
            reply = Reply(stop=Stop.TURNS, reward=reply.reward, info=reply.info)
        if reply.stop is None and not reply.messages:
            raise ValueError(
                f"{type(self).__name__}.reply neither said anything nor ended the episode: a Reply has messages or a stop"
            )
        self._completion.extend(reply.messages)
        self._stop = reply.stop
        return reply

    def truncate(self, text: str | None = None, *, num_tokens: int = 0, stop: Stop = Stop.LENGTH) -> Reply:
        """End the episode from outside, at a limit: `text` is the unfinished turn, to which the task does not reply.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset` and after the end of an episode.
        """
        if text is None:
            self._require_episode()
        else:
            self._policy_said(text, num_tokens)
        self._stop = stop
        return Reply(stop=stop)

    def outcome(self, reply: Reply, score: Score | None = None) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """What `step` returns for `reply`: the episode is scored if it is over, unless `score` is its score already."""
        info: dict[str, Any] = {"stop": "" if reply.stop is None else str(reply.stop), **reply.info}
        value = float(reply.reward)
        if reply.stop is not None:
            if score is None:
                [score] = self.reward.score([self.episode])
                score = self._with_metrics(score)
            value += score.value or 0.0
            info |= {"score_parts": dict(score.parts), "abstained": score.abstained, "score_error": score.error}
        terminated = reply.stop is Stop.ANSWERED
        return text_of(reply.messages), value, terminated, reply.stop is not None and not terminated, info

    def metrics(self) -> dict[str, float]:
        """What is worth a line in the log about the episode, beside its score: with tools, its calls and their errors."""
        if self._tool_use is None:
            return {}
        use = self._tool_use
        counts = {"tool_calls": use.calls, "tool_errors": use.failed, "malformed_calls": use.malformed}
        return {name: float(count) for name, count in counts.items()}

    @property
    def episode(self) -> Episode:
        """The episode so far, as a reward sees it.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        if self._row is None:
            raise gym.error.ResetNeeded("there is no episode: call reset() first")
        return Episode(
            prompt=tuple(self._prompt),
            completion=tuple(self._completion),
            answer=self.answer(self._row),
            row=self._row,
            stop=self._stop or Stop.LENGTH,
            num_tokens=self._num_tokens,
        )

    @property
    def num_turns(self) -> int:
        """Turns that the policy has taken in this episode, the one that is being replied to included."""
        return self._num_turns

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """What the chat template has to show the policy: `apply_chat_template(messages, tools=…)`."""
        return [] if self.toolset is None else self.toolset.protocol.schemas

    @property
    def inline_results(self) -> bool:
        """Whether a tool's result continues the policy's turn, in place of opening a turn of its own."""
        return self.toolset is not None and self.toolset.protocol.inline

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings at which the policy must stop, besides the end of its turn: those that close a tool call."""
        return () if self.toolset is None else self.toolset.protocol.stop_strings

    def fork(self) -> Self:
        """An independent copy in the middle of its episode, random state and tools included; `shared` is shared."""
        return forking.fork_level(self)

    def state(self) -> bytes:
        """The episode as a value that can be stored and sent: see `tokengym.envs.state`."""
        return forking.state(self)

    def restore(self, state: bytes) -> None:
        """Go to where the environment that `state` was taken from was: see `tokengym.envs.restore`."""
        forking.restore(self, state)

    # Helpers.

    def opening(self, row: Mapping[str, Any]) -> list[Message]:
        """All messages before the policy's first turn, the system prompt included."""
        opening = self.messages(row)
        if not self.system_prompt and self.toolset is None:
            return opening
        instruction = "" if self.toolset is None else self.toolset.protocol.instruction
        system = "\n\n".join(part for part in (self.system_prompt, instruction) if part)
        if system and instruction and opening and opening[0]["role"] == "system":
            system, opening = f"{opening[0]['content']}\n\n{system}", opening[1:]
        return [{"role": "system", "content": system}, *opening] if system else opening

    def demonstrations(self, rng: np.random.Generator) -> Iterator[Demonstration]:
        """Demonstrations on rows drawn by `rng`, without end.

        Raises:
            ValueError: if the task has none to show for a row.
        """
        while True:
            index = int(rng.integers(len(self.rows)))
            completion = self.demonstration(self.rows[index])
            if completion is None:
                raise ValueError(
                    f"{type(self).__name__} has no demonstration for row {index}, so it cannot warm-start a policy"
                )
            yield Demonstration(self.opening(self.rows[index]), completion)

    def _with_metrics(self, score: Score) -> Score:
        metrics = self.metrics()
        return replace(score, parts={**score.parts, **metrics}) if metrics else score

    def _require_episode(self) -> None:
        if self._row is None or self._stop is not None:
            raise gym.error.ResetNeeded("the episode is over (or was never begun): call reset() before the next step")

    def _policy_said(self, text: str, num_tokens: int | None) -> None:
        self._require_episode()
        if not isinstance(text, str):
            raise TypeError(f"an action is a text, the policy's whole turn, not {type(text).__name__}: {text!r:.60}")
        self._completion.append({"role": "assistant", "content": text})
        self._num_turns += 1
        self._num_tokens += len(self.tokenizer.encode(text)) + 1 if num_tokens is None else num_tokens

    def _tool_reply(self, turn: OpenTurn) -> Reply:
        assert self._tool_use is not None
        if turn.over_limit:
            return Reply(stop=Stop.TOOL_LIMIT, info={"tool_calls": len(turn.calls), "tool_errors": len(turn.calls)})
        results = self._tool_use.results(turn.calls, turn.job)
        info = {"tool_calls": len(results), "tool_errors": sum(result.failed for result in results)}
        return Reply(self._tool_use.messages(results), info=info)

    def _sample_episode(self, row: Mapping[str, Any]) -> Episode:
        completion: tuple[Message, ...] = ({"role": "assistant", "content": ""},)
        return Episode(prompt=tuple(self.opening(row)), completion=completion, answer=self.answer(row), row=row)


def score_episodes(envs: Sequence[TextEnv]) -> list[Score]:
    """The scores of the episodes of `envs`, with their metrics among the parts: one batch for each reward."""
    batches: dict[int, list[int]] = {}
    for i, env in enumerate(envs):
        batches.setdefault(id(env.reward), []).append(i)
    scores: dict[int, Score] = {}
    for batch in batches.values():
        judged = envs[batch[0]].reward.score([envs[i].episode for i in batch])
        for i, score in zip(batch, judged, strict=True):
            scores[i] = envs[i]._with_metrics(score)
    return [scores[i] for i in range(len(envs))]


def copied(messages: Sequence[Message]) -> list[Message]:
    """Copies of messages that share nothing with them."""
    return [copy.deepcopy(m) if "tool_calls" in m else m.copy() for m in messages]


def text_of(messages: Sequence[Message]) -> str:
    """Messages as one text: their contents, a blank line between."""
    return "\n\n".join([m.get("content", "") for m in messages])
