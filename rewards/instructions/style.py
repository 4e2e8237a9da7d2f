"""Instructions on length, case, punctuation, language and the ends of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import regex

from ..languages import LANGUAGES, is_language, require_language
from .draft import LANGUAGES_TO_WRITE
from .instruction import RELATIONS, Instruction, Relation, count_sentences, count_words, holds

if TYPE_CHECKING:
    from .draft import Draft

_ENDINGS = (
    "Is there anything else I can help with?",
    "Any other questions?",
    "That is all you need to know.",
    "Peace!",
)
_TOKEN = regex.compile(r"[^\W_]+(?:[-./&_][^\W_]+)*")  # a hyphenated word is one


@dataclass(frozen=True)
class Words(Instruction, id="length_constraints:number_words"):
    """At least, or less than, a number of words."""

    num_words: int
    relation: Relation

    def describe(self) -> str:
        return f"Answer with {self.relation} {self.num_words} words."

    def check(self, text: str) -> bool:
        return holds(count_words(text), self.relation, self.num_words)

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> Words:
        least = max(words // 2, 10)
        return cls(int(rng.integers(least, max(words, least) + 1)), RELATIONS[int(rng.integers(2))])

    def plan(self, draft: Draft) -> None:
        if self.relation == "at least":
            draft.min_words = max(draft.min_words, self.num_words)


@dataclass(frozen=True)
class Sentences(Instruction, id="length_constraints:number_sentences"):
    """At least, or less than, a number of sentences (see `count_sentences`)."""

    num_sentences: int
    relation: Relation

    def describe(self) -> str:
        return f"Your response should contain {self.relation} {self.num_sentences} sentences."

    def check(self, text: str) -> bool:
        return holds(count_sentences(text), self.relation, self.num_sentences)

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> Sentences:
        return cls(int(rng.integers(2, 4 + words // 10)), RELATIONS[int(rng.integers(2))])

    def plan(self, draft: Draft) -> None:
        if self.relation == "at least":
            draft.min_sentences = max(draft.min_sentences, self.num_sentences)


@dataclass(frozen=True)
class ResponseLanguage(Instruction, id="language:response_language"):
    """The whole text is in a language, by ISO 639-1 code. IFEval takes langdetect; see `tokengym.rewards.languages`."""

    language: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require_language(self.language)

    def describe(self) -> str:
        return f"Your entire response should be in {LANGUAGES[self.language].name}; no other language is allowed."

    def check(self, text: str) -> bool:
        return is_language(text, self.language)

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> ResponseLanguage:
        return cls(str(rng.choice(LANGUAGES_TO_WRITE)))

    def plan(self, draft: Draft) -> None:
        draft.language = self.language


@dataclass(frozen=True)
class Capital(Instruction, id="change_case:english_capital"):
    """English, and all capital letters."""

    def describe(self) -> str:
        return "Your entire response should be in English, and in all capital letters."

    def check(self, text: str) -> bool:
        return text.isupper() and is_language(text, "en")

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> Capital:
        return cls()

    def plan(self, draft: Draft) -> None:
        draft.transform = "upper"


@dataclass(frozen=True)
class Lowercase(Instruction, id="change_case:english_lowercase"):
    """English, and all lowercase letters."""

    def describe(self) -> str:
        return (
            "Your entire response should be in English, and in all lowercase letters. No capital letters are allowed."
        )

    def check(self, text: str) -> bool:
        return text.islower() and is_language(text, "en")

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> Lowercase:
        return cls()

    def plan(self, draft: Draft) -> None:
        draft.transform = "lower"


@dataclass(frozen=True)
class CapitalWords(Instruction, id="change_case:capital_word_frequency"):
    """At least, or less than, a number of words in capital letters ("I" and "A" are such words)."""

    capital_frequency: int
    capital_relation: Relation

    def describe(self) -> str:
        return (
            f"In your response, words with all capital letters should appear {self.capital_relation} "
            f"{self.capital_frequency} times."
        )

    def check(self, text: str) -> bool:
        capitals = sum(word.isupper() for word in _TOKEN.findall(text))
        return holds(capitals, self.capital_relation, self.capital_frequency)

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> CapitalWords:
        return cls(int(rng.integers(2, 3 + min(words // 10, 5))), RELATIONS[int(rng.integers(2))])

    def plan(self, draft: Draft) -> None:
        if self.capital_relation == "at least":
            draft.capitals = self.capital_frequency


@dataclass(frozen=True)
class NoComma(Instruction, id="punctuation:no_comma"):
    """No comma."""

    def describe(self) -> str:
        return "In your entire response, refrain from the use of any commas."

    def check(self, text: str) -> bool:
        return "," not in text

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> NoComma:
        return cls()

    def plan(self, draft: Draft) -> None:
        """Nothing: a draft has none of its own."""


@dataclass(frozen=True)
class NoDot(Instruction, id="punctuation:punctuation_dot"):
    """No full stop or other dot (IFBench's training kinds, arXiv 2507.02833)."""

    def describe(self) -> str:
        return "In your entire response, refrain from the use of dots."

    def check(self, text: str) -> bool:
        return "." not in text

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> NoDot:
        return cls()

    def plan(self, draft: Draft) -> None:
        draft.marks = draft.marks.replace(".", "")


@dataclass(frozen=True)
class NoExclamation(Instruction, id="punctuation:punctuation_exclamation"):
    """No exclamation mark (IFBench's training kinds, arXiv 2507.02833)."""

    def describe(self) -> str:
        return "In your entire response, refrain from the use of exclamation marks."

    def check(self, text: str) -> bool:
        return "!" not in text

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> NoExclamation:
        return cls()

    def plan(self, draft: Draft) -> None:
        draft.marks = draft.marks.replace("!", "")


@dataclass(frozen=True)
class Quotation(Instruction, id="startend:quotation"):
    """The whole text is in double quotation marks."""

    def describe(self) -> str:
        return "Wrap your entire response with double quotation marks."

    def check(self, text: str) -> bool:
        text = text.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> Quotation:
        return cls()

    def plan(self, draft: Draft) -> None:
        draft.quoted = True


@dataclass(frozen=True)
class EndPhrase(Instruction, id="startend:end_checker"):
    """The text ends with a phrase, in any case; a quotation mark may follow."""

    end_phrase: str

    def describe(self) -> str:
        return (
            f"Finish your response with this exact phrase: {self.end_phrase} No other words should follow this phrase."
        )

    def check(self, text: str) -> bool:
        return text.strip().strip('"').strip().lower().endswith(self.end_phrase.lower())

    @classmethod
    def draw(cls, rng: np.random.Generator, words: int, prompt: str) -> EndPhrase:
        return cls(str(rng.choice(_ENDINGS)))

    def plan(self, draft: Draft) -> None:
        draft.ending = self.end_phrase
