"""Wordle-v0."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokengym.envs.tasks.wordle import WordleEnv, answer_to, best_guess, marks
from tokengym.envs.tasks.wordle_words import WORDS

from .templates import chat

letters = st.text("abc", min_size=5, max_size=5)


@pytest.mark.parametrize(
    ("guess", "word", "expected"),
    [
        ("crane", "crane", "GGGGG"),
        ("speed", "abide", "XXYXY"),
        ("speed", "erase", "YXYYX"),
        ("speed", "steal", "GXGXX"),
        ("allee", "apple", "GYXXG"),
        ("geese", "eject", "XYGXX"),
        ("eeeee", "abcde", "XXXXG"),
        ("llama", "small", "YYGYX"),
        ("cigar", "rebut", "XXXXY"),
    ],
)
def test_marks_of_the_original_game(guess, word, expected):
    assert marks(guess, word) == expected


@given(letters, letters)
def test_marks(guess, word):
    found = marks(guess, word)
    assert [mark == "G" for mark in found] == [g == w for g, w in zip(guess, word)]
    for letter in "abc":
        # As many of a letter are marked as both have, and the yellow ones come before the grey ones.
        own = [mark for mark, g in zip(found, guess) if g == letter]
        assert sum(mark != "X" for mark in own) == min(guess.count(letter), word.count(letter))
        assert [mark for mark in own if mark != "G"] == sorted((m for m in own if m != "G"), reverse=True)
    # What is known after a guess always fits the word itself, and only words of the same marks are left.
    assert marks(guess, word) == found


def test_a_player_who_knows_the_words_alone_wins():
    """By what it is told, not by the demonstration."""
    env = WordleEnv()
    turns = Counter()
    for row in range(0, len(env.rows), 9):
        env.reset(options={"row": row})
        left = WORDS
        while True:
            guess = best_guess(left)
            said, reward, terminated, truncated, _ = env.step(guess)
            if terminated or truncated:
                break
            told = said.splitlines()[1].replace(" ", "")
            left = tuple(word for word in left if word != guess and marks(guess, word) == told)
        assert (reward, terminated) == (1.0, True)
        turns[env.num_turns] += 1
    assert max(turns) <= 6


def test_what_is_said():
    env = WordleEnv(["apple", "grape"], split="all", tokenizer=chat("qwen3"))
    prompt, _ = env.reset(options={"row": 0})
    assert "word of 5 letters" in prompt
    assert "6 turns" in prompt
    assert env.step("I think of \\boxed{GRAPE}, or apple.")[0] == "g r a p e\nX X Y Y G"
    for unclear in ("", "app", "apples", "a p p l e", "app1e", "apple grape", "\\boxed{}", "x" * 100_000):
        if env.num_turns == 5:
            env.reset(options={"row": 0})
        assert env.step(unclear)[:2] == ("a word of 5 letters, please", 0.0)
    env.reset(options={"row": 0})
    for _ in range(5):
        assert env.step("grape")[2:4] == (False, False)
    assert env.step("grape")[1:4] == (0.0, False, True)
    env.reset(options={"row": 0})
    assert env.step("<answer>Apple</answer>")[1:4] == (1.0, True, False)


def test_words():
    assert len(WORDS) == len(set(WORDS)) == 628
    assert all(len(word) == 5 and word.isalpha() and word.islower() for word in WORDS)
    train, test = (WordleEnv(split=split) for split in ("train", "test"))
    assert len(train.rows) + len(test.rows) == 628
    assert answer_to("ab", "apple") == "a word of 5 letters, please"
    # Words that a player cannot find in time have no demonstration.
    hard = WordleEnv(["aaa", "aab", "aac", "aad"], split="all", max_turns=2)
    shown = [hard.demonstration(row) for row in hard.rows]
    assert sum(each is None for each in shown) == 2
    for words in ([], ["one", "four"], ["a b"], ["12345"]):
        with pytest.raises(ValueError, match="words are some of letters alone and of one length"):
            WordleEnv(words)
    with pytest.raises(ValueError, match=r"\{length\}"):
        WordleEnv(prompt="Guess!")
