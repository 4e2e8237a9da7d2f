"""Texts that follow instructions: for demonstrations, and to prove that a set of instructions can be followed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..languages import is_language
from .instruction import count_sentences, count_words, words_of

_ADJECTIVES = words_of(
    "old small quiet bright warm green long deep calm young kind blue soft early large simple round cold"
)
_NOUNS = words_of(
    "garden river child bird forest house road lamp teacher window ship mountain table letter horse village song cloud "
    "farmer bridge stone apple boat market friend field queen zebra jacket box valley kettle fox quilt pump juice"
)
_VERBS = words_of("stands waits sleeps rests walks sings moves works plays stays shines turns grows hides looks")
_PLACES = words_of("near behind beside under in by above beyond")
_ARTICLES = words_of("the a this our my that some")

_FOREIGN = {
    "de": (
        "Der alte Garten liegt ruhig hinter dem Haus",
        "Am Morgen gehen die Kinder gemeinsam zur Schule",
        "Das Wetter ist heute schön und die Sonne scheint",
        "Wir trinken am Nachmittag gerne eine Tasse Tee",
    ),
    "es": (
        "El viejo jardín está detrás de la casa",
        "Los niños caminan juntos a la escuela por la mañana",
        "Hoy hace buen tiempo y brilla el sol",
        "Nos gusta tomar una taza de té por la tarde",
    ),
    "fi": (
        "Vanha puutarha on hiljaa talon takana",
        "Aamulla lapset kävelevät yhdessä kouluun",
        "Tänään on kaunis ilma ja aurinko paistaa",
        "Juomme iltapäivällä mielellämme kupin teetä",
    ),
    "fr": (
        "Le vieux jardin se trouve derrière la maison",
        "Le matin les enfants vont ensemble à l'école",
        "Il fait beau aujourd'hui et le soleil brille",
        "Nous aimons boire une tasse de thé dans l'après-midi",
    ),
    "it": (
        "Il vecchio giardino si trova dietro la casa",
        "La mattina i bambini vanno insieme a scuola",
        "Oggi fa bel tempo e splende il sole",
        "Ci piace bere una tazza di tè nel pomeriggio",
    ),
    "pt": (
        "O velho jardim fica atrás da casa",
        "De manhã as crianças vão juntas para a escola",
        "Hoje o tempo está bom e o sol brilha",
        "Gostamos de tomar uma chávena de chá à tarde",
    ),
    "ru": (
        "Старый сад находится за домом",
        "Утром дети вместе идут в школу",
        "Сегодня хорошая погода и светит солнце",
        "Днём мы любим пить чай с друзьями",
    ),
}

LANGUAGES_TO_WRITE = ("en", *_FOREIGN)


class NoWay(Exception):
    """The draft cannot become what is asked of it."""


@dataclass
class Draft:
    """A text under construction: what instructions ask of it, and what to avoid.

    Attributes:
        rng: where its words are drawn from.
        language: ISO 639-1 code, one of `LANGUAGES_TO_WRITE`.
        start: what stands before everything else, on a line of its own.
        first_word, last_word: of the whole text.
        title: whether it has one.
        paragraphs: how many there are.
        divider: what stands between them.
        openings: the first word of a paragraph, by its number from 1.
        section: the word that opens each paragraph with its number; empty for none.
        bullets, highlights, placeholders: how many it has.
        required: words that it has, and how often.
        sentences: sentences that it has as they are.
        capitals: words in capital letters.
        letters: how often it has a letter at least.
        avoided: pieces of words that it does not have.
        marks: the marks that may end a sentence.
        min_words, min_sentences, min_letters: how long it is at least.
        postscript: what its postscript begins with; empty for none.
        ending: a phrase at the end.
        transform: the case, "lower" or "upper"; empty for neither.
        quoted, as_json: how the whole is wrapped.
    """

    rng: np.random.Generator
    language: str = "en"
    start: str = ""
    first_word: str = ""
    last_word: str = ""
    title: bool = False
    paragraphs: int = 1
    divider: str = "\n\n"
    openings: dict[int, str] = field(default_factory=dict)
    section: str = ""
    bullets: int = 0
    highlights: int = 0
    placeholders: int = 0
    required: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)
    capitals: int = 0
    letters: Counter[str] = field(default_factory=Counter)
    avoided: set[str] = field(default_factory=set)
    marks: str = ".!?"
    min_words: int = 0
    min_sentences: int = 0
    min_letters: int = 0
    postscript: str = ""
    ending: str = ""
    transform: str = ""
    quoted: bool = False
    as_json: bool = False

    def write(self) -> str:
        """The text.

        Raises:
            NoWay: there are no words for it, or it would be endless.
        """
        body = [self._paragraph(number) for number in range(1, self.paragraphs + 1)]
        text = self._render(body)
        for _ in range(1000):
            if not self._too_short(text):
                return text
            where = int(self.rng.integers(len(body)))
            body[where] += self._gap() + self._sentence()
            text = self._render(body)
        raise NoWay

    def _too_short(self, text: str) -> bool:
        letters = Counter(text.lower())
        return (
            count_words(text) < self.min_words
            or count_sentences(text) < self.min_sentences
            or sum(map(str.isalpha, text)) < self.min_letters
            or any(letters[letter] < count for letter, count in self.letters.items())
            or (bool(self.transform) and not is_language(text, self.language))
        )

    def _paragraph(self, number: int) -> str:
        """A first sentence with what the whole needs in the first paragraph."""
        opening = self.openings.get(number, "")
        if number == 1:
            opening = self.first_word or opening
            extra = list(self.required.elements())
            extra += [self._noun().upper() for _ in range(self.capitals)]
            extra += [f"*{self._noun()}*" for _ in range(self.highlights)]
            extra += [f"[{self._noun()}]" for _ in range(self.placeholders)]
        else:
            extra = []
        text = self._sentence(opening, extra)
        if number == 1:
            text = " ".join([text, *self.sentences])
        return f"{self.section} {number}\n{text}" if self.section else text

    def _render(self, body: list[str]) -> str:
        lines = [self.divider.join(body)]
        title = f"<<{self._title()}>>"
        if self.title and (1 in self.openings or self.first_word):
            lines.append(title)
        elif self.title:
            lines.insert(0, title)
        lines += [f"* {self._bullet(i)}" for i in range(self.bullets)]
        if self.postscript:
            lines.append(f"{self.postscript} {self._bullet(0)}")
        if self.ending or self.last_word:
            lines.append(self.ending or self.last_word)
        text = "\n".join([self.start, *lines] if self.start else lines)
        if self.transform:
            text = text.lower() if self.transform == "lower" else text.upper()
        if self.as_json:
            return json.dumps(text if self.quoted else {"answer": text}, ensure_ascii=False)
        return f'"{text}"' if self.quoted else text

    def _sentence(self, opening: str = "", extra: list[str] | None = None) -> str:
        if self.language != "en":
            text = " ".join(filter(None, [opening, self._foreign()]))
        elif opening:
            text = f"{opening} {self._pick(_VERBS)} {self._place()}"
        else:
            text = (
                f"{self._pick(_ARTICLES)} {self._pick(_ADJECTIVES)} {self._noun()} {self._pick(_VERBS)} {self._place()}"
            )
        text = " ".join([text, *self._most_wanted(), *(extra or [])])
        return text[0].upper() + text[1:] + self._mark()

    def _place(self) -> str:
        return f"{self._pick(_PLACES)} {self._pick(_ARTICLES)} {self._noun()}"

    def _most_wanted(self) -> list[str]:
        """A word with a letter that there have to be many of."""
        if not self.letters:
            return []
        wanted = max(self.letters, key=lambda letter: self.letters[letter])
        words = [word for word in (*_NOUNS, *_ADJECTIVES) if wanted in word and self._allowed(word)]
        if not words:
            raise NoWay
        return [str(self.rng.choice(words))]

    def _foreign(self) -> str:
        return self._pick(_FOREIGN[self.language])

    def _noun(self) -> str:
        return self._pick(_NOUNS) if self.language == "en" else self._foreign().split()[-1]

    def _title(self) -> str:
        return self._first(_NOUNS).capitalize() if self.language == "en" else _FOREIGN[self.language][0]

    def _bullet(self, number: int) -> str:
        """A phrase without a full stop, always the same for the same number: it is written anew with each version."""
        if self.language != "en":
            return _FOREIGN[self.language][number % 4]
        words = [word for word in _NOUNS if self._allowed(word)]
        if not words:
            raise NoWay
        return f"{self._first(_ADJECTIVES)} {words[number % len(words)]}"

    def _first(self, words: list[str]) -> str:
        for word in words:
            if self._allowed(word):
                return word
        raise NoWay

    def _pick(self, words: list[str] | tuple[str, ...]) -> str:
        allowed = [word for word in words if self._allowed(word)] if self.avoided else words
        if not allowed:
            raise NoWay
        return allowed[int(self.rng.integers(len(allowed)))]

    def _allowed(self, word: str) -> bool:
        return not any(piece in word.lower() for piece in self.avoided)

    def _mark(self) -> str:
        return self.marks[0] if self.marks else ""

    def _gap(self) -> str:
        return " " if self.marks else "\n"
