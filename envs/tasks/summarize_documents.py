"""The built-in documents of `Summarize-v0`, and worse summaries of them, from which its reward model learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .generated import Draw, Problem

NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karin", "Leo", "Mira", "Nils",
    "Olga", "Paul", "Rosa", "Simon", "Tina", "Victor",
)  # fmt: skip
VERBS = ("found", "lost", "bought", "sold", "painted", "broke", "repaired", "borrowed", "hid", "washed")
THINGS = (
    "bike", "boat", "book", "camera", "chair", "clock", "coat", "drum", "flute", "kite", "lamp", "map", "mirror", "piano",
    "radio", "ring", "tent", "umbrella", "vase", "watch",
)  # fmt: skip
PLACES = (
    "airport", "bakery", "beach", "bridge", "castle", "forest", "garden", "harbour", "library", "market", "museum", "park",
    "school", "station", "theatre", "zoo",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FOODS = ("bread", "cake", "cheese", "fish", "fruit", "pizza", "rice", "salad", "soup")
WEATHER = ("cold", "dry", "foggy", "hot", "rainy", "sunny", "warm", "windy")
_NEWS = "{} {} a {} at the {}."
_FACTS = (NAMES, VERBS, THINGS, PLACES)


def draw_document(draw: Draw) -> Problem:
    """A document of which one sentence is the news: `document`, `answer` (the news), and `facts`."""
    facts = [draw.choice(options) for options in _FACTS]
    asides = [
        f"The weather was {draw.choice(WEATHER)}.",
        f"There was {draw.choice(FOODS)} for lunch.",
        f"{draw.choice(NAMES)} stayed at home.",
        f"The way back led past the {draw.choice(PLACES)}.",
    ]
    news = _NEWS.format(*facts)
    sentences = [f"On {draw.choice(DAYS)} {news}", *draw.sample(asides, draw.integer(1, 3))]
    document = " ".join(draw.sample(sentences, len(sentences)))
    return Problem(facts, {"document": document, "answer": news, "facts": facts})


def worse_summary(draw: Draw, row: Mapping[str, Any], kinds: int = 14) -> str:
    """A summary of the document of a row that is worse than its `answer`, in one of the ways that policies find: of the first
    `kinds`, seven of which have a wrong fact."""
    document, news, facts = row["document"], row["answer"], row["facts"]
    words = news.removesuffix(".").split()
    sentences = [f"{sentence}." for sentence in document.removesuffix(".").split(". ")]
    kind = draw.integer(1, kinds)
    if kind <= 7:  # a fact is wrong
        i = draw.integer(0, len(facts) - 1)
        facts = [*facts[:i], draw.choice([fact for fact in _FACTS[i] if fact != facts[i]]), *facts[i + 1 :]]
        return _NEWS.format(*facts)
    if kind == 8:  # it goes on
        return f"{news} {draw.choice(sentences)}"
    if kind == 9:  # it breaks off, or lacks a word
        i = draw.integer(0, len(words) - 1)
        return " ".join(words[:i] if draw.integer(0, 1) else words[:i] + words[i + 1 :])
    if kind == 10:  # another sentence, or all of them
        return draw.choice([document, *(s for s in sentences if news not in s)])
    if kind == 11:  # the same again
        return " ".join([news] * draw.integer(2, 6))
    if kind == 12:  # its words in another order, or twice
        return " ".join(draw.choice([draw.sample(words, len(words)), [word for word in words for _ in range(2)]]))
    if kind == 13:  # no words at all, or with others around it
        length = draw.integer(1, 20) * (10 if draw.integer(1, 20) == 1 else 1)
        noise = ["".join(draw.choice("abcdeiloprstu<>{}0123 ") for _ in range(6)) for _ in range(length)]
        around = [*noise, *([news] if draw.integer(0, 1) else [])]
        return " ".join(draw.sample(around, len(around)))
    return " ".join(draw.choice([*words, *document.split()]) for _ in range(draw.integer(0, 20)))
