"""`Reward`, and `as_reward`, which makes one of a function."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .episode import Episode, Score

KNOWN_NAMES = ("completion", "prompt", "messages", "answer", "episode")
"""Names of parameters that a reward function may have beside the columns of the dataset; they go before columns of the
same name."""

_TRL_NAMES = {"completions", "prompts", "completion_ids"}  # by which functions in TRL's form are recognised
_TRL_UNAVAILABLE = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


class RewardWarning(UserWarning):
    """A reward could not judge an episode. Given once per reward; the episodes are counted in the log."""


class Reward(ABC):
    """What is a good answer? Judges finished episodes, many at a time."""

    @property
    def name(self) -> str:
        """What its value is called where nobody names it: the class's name in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    @property
    def runs_beside(self) -> bool:
        """Whether `score` works in any thread and mostly waits for other processes, so that it is worth its while to
        score the first episodes of a batch beside the sampling of the others. Plain functions are called in the main
        thread: what bounds its time by signals works nowhere else."""
        return False

    @abstractmethod
    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        """One score per episode, in order. What cannot be judged gets `Score(None, error=…)`; only a programming error
        is raised."""

    def check_columns(self, columns: Collection[str]) -> None:  # noqa: B027  (most rewards ask for no column)
        """Make sure that a dataset with these columns has all that the reward asks for.

        Raises:
            ValueError: it has not; the message names the parameter and what there is.
        """

    def check(self, episode: Episode) -> None:
        """Score one sample episode, to find a wrong return type before any rollout. An exception in the sample proves
        nothing and is ignored.

        Raises:
            TypeError: the reward returns something that is no score.
        """
        try:
            scores = self.score([episode])
        except Exception:
            return
        if not isinstance(scores, list) or len(scores) != 1 or not isinstance(scores[0], Score):
            name = type(self).__name__
            raise TypeError(f"{name}.score must return a list with one Score per episode, but returned {_show(scores)}")

    def begin_step(self, step: int) -> None:  # noqa: B027  (most rewards are the same at every step)
        """Training step `step` (from 0) begins: what is scored from here on belongs to it. For rewards that change with
        the step, such as `Anneal`; the default ignores it."""

    def state(self) -> dict[str, Any]:
        """What the reward has learned from the episodes that it scored (running statistics, counts), for the
        checkpoint: a dict that JSON can hold. The default has learned nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned.

        Raises:
            ValueError: the state belongs to another reward.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {_show(dict(state))}")

    def close(self) -> None:  # noqa: B027  (most rewards hold nothing)
        """Let go of what the reward holds (processes, models). The default holds nothing."""


def as_reward(obj: Reward | Callable[..., Any], columns: Collection[str] | None = None) -> Reward:
    """Make a reward of a function; a Reward is returned as it is.

    The function's parameters say what it gets, by name:

    * `completion`: str, what the policy wrote (`Episode.text`); `prompt`: str, the contents of the prompt's messages,
      joined by blank lines; `messages`: list of all messages; `answer`: `Episode.answer`; `episode`: the Episode
      itself;
    * any other name: the dataset column of that name; `**kwargs`: all columns. A parameter with a default may lack its
    column.

    It returns a number; a bool, which is a check of correctness and gives the part "correct" (1 or 0); a dict of named
    numbers, whose sum is the value; a Score; or None, NaN or an infinity, with which it abstains.

    A function with a parameter `completions` or `prompts` is in TRL's form: see `TRLReward`.

    Args:
        obj: the function, an object that can be called like one, or a Reward.
        columns: names of the dataset's columns, if they are known: parameters are checked against them.

    Raises:
        TypeError: `obj` cannot be a reward: not callable, asynchronous, with parameters that have no name, or annotated
            to return what no reward returns.
        ValueError: a parameter is neither a known name nor a column.
    """
    if isinstance(obj, Reward):
        reward = obj
    elif isinstance(obj, type) and issubclass(obj, Reward):
        raise TypeError(f"{obj.__name__} is a class: pass an instance, {obj.__name__}()")
    elif not callable(obj):
        hint = ". To combine rewards, pass Sum(first, second, …)" if isinstance(obj, list | tuple | Mapping) else ""
        raise TypeError(f"a reward is a function or a Reward, not {_show(obj)}{hint}")
    elif not _TRL_NAMES.isdisjoint(_Parameters(obj).names):
        reward = TRLReward(obj)
    else:
        reward = FunctionReward(obj)
    if columns is not None:
        reward.check_columns(columns)
    return reward


class _Wrapped(Reward):
    """A reward that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._parameters = _Parameters(function)
        self._name = _name(function)
        self._warned = False

    @property
    def name(self) -> str:
        return self._name

    def _abstain(self, error: Exception, hint: str = "") -> Score:
        """The score of an episode on which the function raised. Warns the first time."""
        what = f"{type(error).__name__}: {error}"
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"reward {self._name}() raised {what}. The episode is left out of training; "
                f"further ones will be without a warning.{hint}",
                RewardWarning,
                stacklevel=3,
            )
        return Score(None, error=what)

    def _scalar_score(self, value: Any) -> Score:
        """The score for a number, a bool or None.

        Raises:
            TypeError: it is something else.
        """
        if value is None:
            return Score(None, error=f"{self._name}() returned None")
        number = _number(value)
        # By name, because numpy's bool is no bool, and this package does without numpy.
        part = "correct" if type(value).__name__ in ("bool", "bool_") else self._name
        return self._unless_infinite(Score(number, {part: number}))

    def _unless_infinite(self, score: Score) -> Score:
        if score.value is None or math.isfinite(score.value):
            return score
        return Score(None, error=f"{self._name}() returned {dict(score.parts) or score.value}")


class FunctionReward(_Wrapped):
    """A function of one episode, as `as_reward` describes it. It can be pickled if the function can."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        wrong = (str, bytes, list, tuple, set, frozenset, type(None))
        _check_annotation(function, self._name, wrong, "float, bool, dict[str, float] or Score")

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        return [self._score(episode) for episode in episodes]

    def _score(self, episode: Episode) -> Score:
        try:
            result = self._call(episode)
        except Exception as e:
            return self._abstain(e)
        return self._as_score(result)

    def check_columns(self, columns: Collection[str]) -> None:
        self._parameters.check_columns(self._name, columns, KNOWN_NAMES)

    def check(self, episode: Episode) -> None:
        try:
            result = self._call(episode)
        except Exception:
            return
        self._as_score(result)

    def _call(self, episode: Episode) -> Any:
        known = {
            "completion": episode.text,
            "prompt": _prompt(episode),
            "messages": episode.messages,
            "answer": episode.answer,
            "episode": episode,
        }
        return self._function(**self._parameters.choose(known, episode.row))

    def _as_score(self, result: Any) -> Score:
        try:
            if isinstance(result, Score):
                return self._unless_infinite(result)
            if not isinstance(result, Mapping):
                return self._scalar_score(result)
            parts = {str(key): _number(value) for key, value in result.items()}
        except TypeError:
            raise TypeError(
                f"reward {self._name}() must return a number, bool, dict of numbers, Score or None, "
                f"but returned {_show(result)}"
            ) from None
        # Not fsum, which raises where infinities meet.
        return self._unless_infinite(Score(float(sum(parts.values())), parts))


class TRLReward(_Wrapped):
    """A reward function in the form of TRL's GRPOTrainer: lists in, a list of numbers (or None: abstained) out.

    It is called with keyword arguments: `prompts`, `completions`, `answer` (`Episode.answer`) and the dataset columns,
    each a list; those that it names, or all where it takes `**kwargs`. What only TRL's trainer has (`completion_ids`,
    `trainer_state`, `log_extra`, `log_metric`, `environments`) is not passed. A batch on which it raises is scored
    again one episode at a time, so that only the culprits abstain. It can be pickled if the function can.

    Args:
        function: the function.
        conversational: whether completions and prompts are passed as lists of messages ({"role": …, "content": …})
            rather than as text. None: as the annotation of `completions` says (`list[list[…]]` means messages), and
            text without one.

    Raises:
        TypeError: the function is asynchronous, requires what only TRL's trainer has, or is annotated to return
            something other than a list.
    """

    def __init__(self, function: Callable[..., Any], conversational: bool | None = None) -> None:
        super().__init__(function)
        for name in self._parameters.required:
            if name in _TRL_UNAVAILABLE:
                raise TypeError(
                    f"reward {self._name}(): parameter {name!r} is given by TRL's trainer and not available here. "
                    f"Give it a default, or write a function of {', '.join(KNOWN_NAMES)} and dataset columns"
                )
        wrong = (str, bytes, int, float, bool, dict, set, frozenset, type(None))
        _check_annotation(function, self._name, wrong, "list[float]")
        self._conversational = _wants_messages(function) if conversational is None else conversational

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        if not episodes:
            return []
        try:
            result = self._call(episodes)
        except Exception as e:
            if len(episodes) == 1:
                return [self._abstain(e, self._hint(e))]
            return [score for episode in episodes for score in self.score([episode])]
        return self._as_scores(result, len(episodes))

    def check_columns(self, columns: Collection[str]) -> None:
        self._parameters.check_columns(self._name, columns, ("completions", "prompts", "answer"))

    def check(self, episode: Episode) -> None:
        try:
            result = self._call([episode])
        except Exception:
            return
        self._as_scores(result, 1)

    def _call(self, episodes: Sequence[Episode]) -> Any:
        if self._conversational:
            prompts, completions = [list(e.prompt) for e in episodes], [list(e.completion) for e in episodes]
        else:
            prompts, completions = [_prompt(e) for e in episodes], [e.text for e in episodes]
        known = {"prompts": prompts, "completions": completions, "answer": [e.answer for e in episodes]}
        columns = {name: [e.row[name] for e in episodes] for name in episodes[0].row}
        return self._function(**self._parameters.choose(known, {**columns, **known}))

    def _as_scores(self, result: Any, count: int) -> list[Score]:
        values = result.tolist() if hasattr(result, "tolist") else result  # arrays and tensors
        try:
            if isinstance(values, list | tuple) and len(values) == count:
                return [self._scalar_score(value) for value in values]
        except TypeError:
            pass
        length = f" of {len(values)}" if isinstance(values, list | tuple) else ""
        raise TypeError(
            f"reward {self._name}() must return a list of {count} numbers, one per completion (None to abstain), "
            f"but returned {_show(result, length)}"
        )

    def _hint(self, error: Exception) -> str:
        if isinstance(error, TypeError | IndexError) and not self._conversational:
            return f" If it expects messages rather than text, pass TRLReward({self._name}, conversational=True)."
        return ""


class _Parameters:
    """What a function wants to be called with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        name = _name(function)
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            raise TypeError(
                f"reward {name}() is asynchronous: make it a plain function (asyncio.run inside it, if need be)"
            )
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            raise TypeError(
                f"reward {name}() does not tell its parameters: wrap it in a function that names them"
            ) from None
        for p in parameters:
            if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
                kind = "positional-only" if p.kind is p.POSITIONAL_ONLY else "*args"
                raise TypeError(
                    f"reward {name}(): parameter {p.name!r} is {kind}, but arguments are passed by name. "
                    f"Name it after what it should get: {', '.join(KNOWN_NAMES)} or a dataset column"
                )
        self.names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        self.required = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.default is p.empty]
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def choose(self, known: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to call the function with: what it names, and all columns where it takes `**kwargs`.

        Raises:
            LookupError: a column is missing.
        """
        available = {**columns, **known}
        for name in self.required:
            if name not in available:
                raise LookupError(f"the row has no column {name!r}, only {_listed(columns)}")
        wanted = [*self.names, *columns] if self.takes_all else self.names
        return {name: available[name] for name in wanted if name in available}

    def check_columns(self, function: str, columns: Collection[str], known: Collection[str]) -> None:
        for name in self.required:
            if name not in known and name not in columns:
                raise ValueError(
                    f"reward {function}(): parameter {name!r} is neither a known name ({_listed(known)}) nor a column "
                    f"of the dataset ({_listed(columns)}).{suggestion(name, [*known, *columns])} "
                    "Rename it or give it a default"
                )


def suggestion(name: str, names: Iterable[str]) -> str:
    """A sentence that asks "Did you mean …?", with a space before it; empty if no name is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _prompt(episode: Episode) -> str:
    return "\n\n".join(message["content"] for message in episode.prompt)


def _name(function: Callable[..., Any]) -> str:
    function = getattr(function, "func", function)  # functools.partial
    name = getattr(function, "__name__", type(function).__name__)
    return "reward" if name == "<lambda>" else name


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The function's annotations, resolved; empty if they cannot be (a name that only the type checker imports)."""
    function = getattr(function, "func", function)
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _check_annotation(function: Callable[..., Any], name: str, wrong: tuple[type, ...], right: str) -> None:
    """Raise TypeError if the return annotation allows nothing but types in `wrong`."""
    annotations = _annotations(function)
    if "return" not in annotations:
        return
    hint = annotations["return"]
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if all((typing.get_origin(choice) or choice) in wrong for choice in choices):
        shown = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else hint
        raise TypeError(
            f"reward {name}() is annotated to return {shown}: a reward returns {right}. "
            "Change what it returns, or the annotation"
        )


def _wants_messages(function: Callable[..., Any]) -> bool:
    """Whether `completions` is annotated as a list of lists."""
    inner = typing.get_args(_annotations(function).get("completions"))
    return bool(inner) and (typing.get_origin(inner[0]) or inner[0]) is list


def _number(value: Any) -> float:
    """A number of any library (numpy's, a tensor of one element) as a float.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors of several elements
        raise TypeError from None
    except OverflowError:
        return math.inf


def _show(value: Any, note: str = "") -> str:
    text = repr(value)
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__name__}{note})"
