"""`rollouts/step-XXXXXXXX.jsonl.gz`: the trajectories of a step, token by token, for people to look at.

A file has one JSON object per line, one for each trajectory of the step, group by group:

    group, index    the group's number in the step and the trajectory's in its group
    parent, fork    index of the trajectory that it branched off, and of the token where it left it, or null
    sampled         whether this step sampled it, rather than putting it in the place of another
    learned         whether the loss had any of its tokens: neither filtered out nor masked
    prompt, completion, answer, stop, num_tokens    the episode; stop is the value of a `Stop`
    reward, parts, error    the return, every component of the score, and why the reward abstained (reward null)
    tokens          texts of all tokens, special ones spelled out
    actions         [start, end) runs of the tokens that the policy sampled, the action mask
    logprobs, entropies, advantages, log_ratios     a number for each of these in turn, or null where nobody computed it
    token_rewards, step_rewards     index of a token → what was given there

Log-probabilities and entropies are the sampler's, the advantage is what the loss was given, and the log-ratio is the
learner's log-probability, when it first came to the token, less the sampler's. Numbers have five decimals.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...envs import Tokenizer
from ..learner import Batch, TokenTerms
from ..rollout import Group, Trajectory
from .files import naming

FOLDER = "rollouts"
_NAME = re.compile(r"step-(\d{8})\.jsonl\.gz(\.tmp)?")
_DECIMALS = 5
_LONGEST = 8  # tokens that a character may be cut into, at most


class StepRecording:
    """The trajectories of a step, and what the learner finds out about them.

    Args:
        sampled: all groups that were sampled.
        learned: the groups that the rows of `batch` are, in order; they may have others in the place of some.
        batch: with advantages.
    """

    def __init__(self, sampled: Sequence[Group], learned: Sequence[Group], batch: Batch) -> None:
        self._sampled = {id(t) for group in sampled for t in group}
        self._groups = _with_others(sampled, learned)
        self._rows = {id(t): row for row, t in enumerate(t for group in learned for t in group)}
        self._advantages = batch.advantages.cpu().numpy()
        self._in_loss = batch.action_mask.any(dim=1).tolist()
        self._log_ratios: dict[int, np.ndarray] = {}

    def note(self, terms: TokenTerms) -> None:
        """Take the log-ratios from `terms` of the rows that come for the first time; their column "row" tells which."""
        if "row" not in terms.columns:  # not of the batch that is recorded
            return
        sampler = terms.columns.get("sampler_logprobs", terms.old_logprobs)
        ratios = (terms.logprobs.detach().float() - sampler.float()).cpu().numpy()
        for row, ratio in zip(terms.columns["row"].tolist(), ratios, strict=True):
            self._log_ratios.setdefault(row, ratio)

    def write(self, run_dir: Path, step: int, tokenizer: Tokenizer) -> Path:
        """Write the file of step number `step`, whole or not at all.

        Raises:
            OSError: it cannot be written; the error names it.
        """
        path = run_dir / FOLDER / f"step-{step:08d}.jsonl.gz"
        texts = TokenTexts(tokenizer)
        lines = (json.dumps(row, separators=(",", ":"), default=str) for row in self._records(texts))
        content = gzip.compress("".join(f"{line}\n" for line in lines).encode("ascii"), 3, mtime=0)
        temporary = path.with_name(path.name + ".tmp")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        return path

    def _records(self, texts: TokenTexts) -> Iterator[dict[str, Any]]:
        for number, group in enumerate(self._groups):
            for index, t in enumerate(group):
                yield {"group": number, "index": index} | self._record(t, texts)

    def _record(self, t: Trajectory, texts: TokenTexts) -> dict[str, Any]:
        actions = np.flatnonzero(t.action_mask)
        row = self._rows.get(id(t))
        learned = row is not None and self._in_loss[row]
        advantages = self._advantages[row][actions] if learned else None
        ratios = self._log_ratios[row][actions] if learned and row in self._log_ratios else None
        episode, own = t.episode, id(t) in self._sampled
        return {
            "parent": t.parent if own else None,
            "fork": t.fork if own else None,
            "sampled": own,
            "learned": learned,
            "prompt": list(episode.prompt),
            "completion": list(episode.completion),
            "answer": None if episode.answer is None else str(episode.answer),
            "stop": str(episode.stop),
            "num_tokens": episode.num_tokens,
            "reward": _number(t.reward),
            "parts": {name: _number(value) for name, value in t.score.parts.items()},
            "error": t.score.error,
            "tokens": texts.of(t.ids),
            "actions": _runs(actions),
            "logprobs": _numbers(np.asarray(t.logprobs, dtype=float)[actions]),
            "entropies": _numbers(t.entropies) if len(t.entropies) == len(actions) else None,
            "advantages": None if advantages is None else _numbers(advantages),
            "log_ratios": None if ratios is None else _numbers(ratios),
            "token_rewards": {str(i): _number(value) for i, value in t.token_rewards.items()},
            "step_rewards": {str(i): _number(value) for i, value in t.step_rewards.items()},
        }


class TokenTexts:
    """The text of each token, so that together they are the text of all.

    A character that is cut into several tokens belongs to the first of them; the others have "".
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Alone or at the start of a text a token may lose the space before it, behind a special one it does not.
        self._anchor = [tokenizer.end_id]
        self._prefix = tokenizer.decode_all(self._anchor)
        self._known: dict[int, str] = {}

    def of(self, ids: Sequence[int]) -> list[str]:
        texts: list[str] = []
        while len(texts) < len(ids):
            i = len(texts)
            text = self._alone(ids[i])
            if "\ufffd" not in text:
                texts.append(text)
                continue
            for end in range(i + 2, min(i + _LONGEST, len(ids)) + 1):
                together = self._decode(ids[i:end])
                if "\ufffd" not in together:
                    texts += [together, *[""] * (end - i - 1)]
                    break
            else:
                texts.append(text)  # no character at all
        return texts

    def _alone(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._decode([token])
        return self._known[token]

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode_all([*self._anchor, *ids])
        return text.removeprefix(self._prefix) if text.startswith(self._prefix) else self._tokenizer.decode_all(ids)


def forget_rollouts(run_dir: Path, last_step: int) -> None:
    """Remove what was recorded of the steps after `last_step`, because they are made again, and what a kill left."""
    folder = run_dir / FOLDER
    with naming(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            name = _NAME.fullmatch(path.name)
            if name and (name[2] or int(name[1]) > last_step):
                path.unlink()


def _with_others(sampled: Sequence[Group], learned: Sequence[Group]) -> list[Group]:
    """The sampled groups, with the trajectories that are learned from in the place of others behind their own."""
    groups = [list(group) for group in sampled]
    home = {id(t): group for group in groups for t in group}
    for group in learned:
        others = [t for t in group if id(t) not in home]
        whose = next((home[id(t)] for t in group if id(t) in home), None)
        if whose is None:
            groups.append(others)
        else:
            whose += others
    return groups


def _runs(indices: np.ndarray) -> list[list[int]]:
    """[start, end) of the runs of consecutive numbers in `indices`, which rise."""
    if not len(indices):
        return []
    cuts = np.flatnonzero(np.diff(indices) > 1) + 1
    return [[int(run[0]), int(run[-1]) + 1] for run in np.split(indices, cuts)]


def _numbers(values: Any) -> list[float | None]:
    rounded = np.round(np.asarray(values, dtype=float), _DECIMALS) + 0.0  # no -0.0
    if np.isfinite(rounded).all():
        return rounded.tolist()
    return [_number(value) for value in rounded.tolist()]


def _number(value: float | None) -> float | None:
    return round(float(value), _DECIMALS) if value is not None and np.isfinite(value) else None
