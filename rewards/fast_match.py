"""Equality of plain numbers without a parser of mathematics: most answers to most questions, in microseconds."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 1000
"""Characters that a literal may have. Bounds the work; a longer one is left to the full path and its time limit."""

_TOLERANCE = Fraction(1, 10**6)
# Thousands start with 1 to 9: "0,123" may well be a decimal comma.
_INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
_LITERAL = re.compile(
    rf"""(?P<sign>-?)(?:
        \\[dt]?frac\{{(?P<top>-?{_INTEGER})\}}\{{(?P<bottom>{_INTEGER})\}}
        | (?P<numerator>{_INTEGER})/(?P<denominator>{_INTEGER})
        | (?P<integer>{_INTEGER})?(?:\.(?P<decimals>[0-9]+))?
    )""",
    re.VERBOSE,
)


def fast_match(gold: str, pred: str) -> bool | None:
    r"""Whether two number literals are equal, or None where that needs the full path. Never a guess.

    Literals are integers (thousands may be grouped: `1,234`), decimals, `a/b` and `\frac{a}{b}`, with a minus and
    between dollar signs if you like. They are compared exactly. Only a decimal `gold` that is no whole number leaves
    room: a `pred` within a relative 1e-6 of it *and* within half a unit of its last place is equal. Where one of the
    two bounds holds, or `pred` is a decimal that close to an exact `gold` (1/3 and 0.3333333), the answer is None.

    Args:
        gold: the reference answer.
        pred: the answer to judge.
    """
    reference, answer = _read(gold), _read(pred)
    if reference is None or answer is None:
        return None
    (expected, places), (given, given_places) = reference, answer
    if expected == given:
        return True
    difference = abs(expected - given)
    close = difference <= _TOLERANCE * abs(expected)
    if places and expected.denominator != 1:
        rounded = difference <= Fraction(1, 2 * 10**places)
        return True if close and rounded else None if close or rounded else False
    return None if close and given_places else False


def _read(text: str) -> tuple[Fraction, int] | None:
    """The value of a literal and the number of decimal places it is written with, or None if it is none."""
    if len(text) > MAX_LENGTH:
        return None
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    match = _LITERAL.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, numerator, denominator, integer, decimals = match.groups()
    if integer is None and decimals is None and top is None and numerator is None:
        return None  # "" and "-"
    above = (top or numerator or (integer or "") + (decimals or "")).replace(",", "")
    below = int((bottom or denominator or "1").replace(",", ""))
    if below == 0:
        return None
    places = len(decimals or "")
    value = Fraction(int(above), below * 10**places)
    return (-value if sign else value), places
