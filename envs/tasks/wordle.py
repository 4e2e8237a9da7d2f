"""`Wordle-v0`: find a word by its letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import gymnasium as gym

from ...rewards import Episode, Message, Reward, Stop
from ..core import Reply, TextEnv
from ..datasets import Rows, split_rows
from ..registration import Level, at_level, vectorized
from ..tokenizers import TokenizerLike, load_tokenizer
from .prompts import fill, said, template
from .wordle_words import WORDS

BRIEF = "{length} letters?"
FULL = (
    "Guess a word of {length} letters. In each turn say one word, and I mark its letters: G if the letter is right where "
    "it is, Y if it belongs elsewhere, X if it does not occur (any more). You may think first, and then put the word in "
    "\\boxed{}. You have {turns} turns."
)


class WordleEnv(TextEnv):
    r"""Find a word: every guess is answered by which of its letters are right.

    ## Description
    Each turn is a guess, and is answered by its letters with a mark under each:

        c r a n e
        X Y G X X

    G (green): the letter is right where it is. Y (yellow): the word has it elsewhere. X (grey): the word does not have it,
    or not as often as the guess. Of a letter that the guess has several times, those in their right place are marked first,
    and then others from the left, as many as the word has. The guess need not be a known word. What is no guess is answered
    by "a word of 5 letters, please". Without `words` these are some 600 common English ones.

    ## Action Space
    At level "turn" a `TextSpace`: a whole turn. At level "token" `Discrete(vocabulary)`: its next token. A turn is a guess
    if it is one word of the right length, or if that is in `\boxed{}` (or `<answer>`); case does not matter.

    ## Observation Space
    At level "turn" a `TextSpace`: the length of the word, and then the marks of the guess. At level "token" the tokens so
    far, their number and the action mask (`TokenEnv`).

    ## Rewards
    1 at the end if the last guess is the word, 0 if not; `reward` puts any other in its place.

    ## Starting State
    A word drawn uniformly from the split, or `reset(options={"row": index})`.

    ## Episode End
    Terminated when the word is found, truncated after `max_turns` turns, and at level "token" at `max_tokens`.

    ## Arguments
    ```python
    gym.make("Wordle-v0", level="turn", words=["apple", "grape", "lemon", "melon", "peach"])
    ```
    * `level`: "token" (default) or "turn"; `max_tokens` (512) and `stop`: limits of the token level.
    * `words`: those that may have to be found, all of one length.
    * `split`: "train", "test" or "all". The share `held_out` (0.1) of the words is "test", chosen by a hash.
    * `max_turns`: 6 by default.
    * `prompt`: a text with `{length}` in it, and `{turns}` if you like; by default "{length} letters?" for the built-in
      policy, and instructions for all others.
    * `reward`, `system_prompt`, `tokenizer`, `render_mode`: as in `TextEnv`.

    ## Version History
    * v0: initial version.
    """

    shared = (*TextEnv.shared, "_words")

    def __init__(
        self,
        words: Sequence[str] = WORDS,
        *,
        split: str = "train",
        held_out: float = 0.1,
        max_turns: int = 6,
        prompt: str | None = None,
        reward: Reward | Callable[..., Any] | None = None,
        system_prompt: str | None = None,
        tokenizer: TokenizerLike = "bytes",
        render_mode: str | None = None,
    ) -> None:
        self._words = tuple(dict.fromkeys(str(word).lower() for word in words))
        wrong = [word for word in self._words if not word.isalpha() or len(word) != len(self._words[0])]
        if wrong or not self._words:
            raise ValueError(f"words are some of letters alone and of one length, not {wrong or words}")
        rows = Rows([{"answer": word} for word in self._words], name="the words")
        tokenizer = load_tokenizer(tokenizer)
        self._template = template(prompt, tokenizer, brief=BRIEF, full=FULL)
        super().__init__(
            split_rows(rows, split, key=lambda row: row["answer"], held_out=held_out),
            is_found if reward is None else reward,
            max_turns=max_turns,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            render_mode=render_mode,
        )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        content = fill(self._template, length=len(row["answer"]), turns=self.max_turns)
        return [{"role": "user", "content": content}]

    def reply(self, text: str) -> Reply:
        assert self._row is not None
        word, guess = self._row["answer"], said(text).lower()
        if guess == word:
            return Reply(stop=Stop.ANSWERED)
        return Reply([{"role": "user", "content": answer_to(guess, word)}])

    def demonstration(self, row: Mapping[str, Any]) -> Sequence[Message] | None:
        """The guesses of a player who knows the words, but not which it is; None if that takes more than `max_turns`."""
        turns: list[Message] = []
        left = self._words
        while True:
            guess = best_guess(left)
            turns.append({"role": "assistant", "content": guess})
            if guess == row["answer"]:
                return turns if len(turns) <= 2 * self.max_turns - 1 else None
            turns.append({"role": "user", "content": answer_to(guess, row["answer"])})
            seen = marks(guess, row["answer"])
            left = tuple(word for word in left if word != guess and marks(guess, word) == seen)


def answer_to(guess: str, word: str) -> str:
    """What is said to a wrong guess."""
    if len(guess) != len(word) or not guess.isalpha():
        return f"a word of {len(word)} letters, please"
    return f"{' '.join(guess)}\n{' '.join(marks(guess, word))}"


def marks(guess: str, word: str) -> str:
    """G, Y or X for each letter of a guess."""
    left = Counter(w for g, w in zip(guess, word) if g != w)
    result = ""
    for g, w in zip(guess, word):
        if g == w:
            result += "G"
        elif left[g]:
            result += "Y"
            left[g] -= 1
        else:
            result += "X"
    return result


@cache
def best_guess(words: tuple[str, ...]) -> str:
    """The one of `words` that leaves the fewest of them on average, whichever it is."""

    def left(guess: str) -> int:
        return sum(count**2 for count in Counter(marks(guess, word) for word in words).values())

    # Of many words, some are as good to choose from as all.
    return min(words[:: len(words) // 100 + 1], key=left)


def is_found(episode: Episode) -> bool:
    """Whether the last guess is the word."""
    return said(episode.completion[-1]["content"]).lower() == episode.answer


def make(level: Level = "token", max_tokens: int | None = None, stop: Sequence[str] = (), **task: Any) -> gym.Env:
    """The entry point of `gym.make("Wordle-v0", ...)`."""
    if level == "token" and max_tokens is None:
        max_tokens = 512
    return at_level(WordleEnv(**task), level, max_tokens, stop)


make_vec = vectorized(make)
