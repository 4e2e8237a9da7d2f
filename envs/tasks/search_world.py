"""The built-in knowledge of `SearchQA-v0`: a world that is made up, so that nobody knows it by heart, and questions on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from .generated import Draw, Problem, stable_hash

# Kind: how many there are, and the facts on one: the relation, the kind of its value, and the sentence that says it.
_KINDS: Mapping[str, tuple[int, Sequence[tuple[str, str, str]]]] = {
    "person": (
        400,
        [("birthplace", "city", "{0} was born in {1}."), ("employer", "company", "{0} works for {1}.")],
    ),
    "company": (80, [("seat", "city", "{0} is a company in {1}."), ("founder", "person", "{1} founded {0}.")]),
    "city": (60, [("country", "country", "{0} is a city in {1}."), ("mayor", "person", "The mayor of {0} is {1}.")]),
    "country": (20, [("capital", "city", "The capital of {0} is {1}."), ("language", "", "In {0} they speak {1}.")]),
}
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class World(NamedTuple):
    """What there is to know.

    Attributes:
        facts: for every name, the value of each relation.
        titles, texts: the documents, one on each name that has facts.
    """

    facts: Mapping[str, Mapping[str, str]]
    titles: Sequence[str]
    texts: Sequence[str]


@cache
def world() -> World:
    """The built-in world. Always the same."""
    draw = Draw((stable_hash("SearchQA world", 8), 0), 0)
    taken: set[str] = set()
    names = {kind: [_name(draw, taken) for _ in range(count)] for kind, (count, _) in _KINDS.items()}
    facts: dict[str, dict[str, str]] = {}
    texts = []
    for kind, (_, relations) in _KINDS.items():
        for name in names[kind]:
            values = [draw.choice(names[of]) if of else _name(draw, taken) for _, of, _ in relations]
            facts[name] = {relation: value for (relation, _, _), value in zip(relations, values)}
            said = [sentence.format(name, value) for (_, _, sentence), value in zip(relations, values)]
            texts.append(" ".join(said))
    return World(facts, list(facts), texts)


def _name(draw: Draw, taken: set[str]) -> str:
    """A name of two syllables that nothing has yet."""
    while True:
        pairs = [draw.choice(_CONSONANTS) + draw.choice(_VOWELS) for _ in range(2)]
        name = "".join([*pairs, draw.choice(_CONSONANTS)]).capitalize()
        if name not in taken:
            taken.add(name)
            return name


def draw_question(hops: Sequence[int], draw: Draw) -> Problem | None:
    """A question that takes as many documents as one of `hops`, with `answer`, and `path`: the names on the way to it."""
    facts, titles, _ = world()
    count = draw.choice(hops)
    path = [draw.choice(titles)]
    asked = path[0]
    for _ in range(count):
        if path[-1] not in facts:
            return None  # nothing more is known of it
        relation = draw.choice(list(facts[path[-1]]))
        path.append(facts[path[-1]][relation])
        asked = f"the {relation} of {asked}"
    if len(set(path)) < len(path) or any(path[-1] in facts[name].values() for name in path[:-2]):
        return None  # it would take fewer documents
    question = f"What is {asked}?"
    return Problem(question, {"question": question, "answer": path[-1], "hops": count, "path": path[:-1]})
